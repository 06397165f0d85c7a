package clouddemo

import (
	"context"
	"fmt"
	"time"

	"millrace/sample"
	"millrace/sample/ledger/audit"
)

// Report is the account of a demo. Its JSON keys are a contract.
type Report struct {
	Stages   []Stage  `json:"stages"`
	Findings []string `json:"findings"` // what does not balance
	Seconds  float64  `json:"seconds"`
}

// Stage is what one stage of the flow holds.
type Stage struct {
	Name  string `json:"stage"`
	Count int    `json:"count"`
	// Plant is how many of Count are samples of the plant's devices; -1 where
	// Count is not in samples.
	Plant int    `json:"plant"`
	Note  string `json:"note,omitempty"`
}

// Balanced reports whether every stage does.
func (r *Report) Balanced() bool { return len(r.Findings) == 0 && len(r.Stages) > 0 }

// maxFindings bounds what one stage has to say.
const maxFindings = 5

func (r *Report) find(stage string, what ...string) {
	for i, text := range what {
		if i == maxFindings {
			r.Findings = append(r.Findings, fmt.Sprintf("%s: and %d more", stage, len(what)-i))
			return
		}
		r.Findings = append(r.Findings, stage+": "+text)
	}
}

// stage adds a stage that holds samples.
func (r *Report) samples(name string, all, plant int, note string) {
	r.Stages = append(r.Stages, Stage{Name: name, Count: all, Plant: plant, Note: note})
}

// against holds a stage's samples of the plant against what its devices put on
// the wire, and returns how many there are of these.
func (w *world) against(stage string, list []sample.Sample) int {
	own := ofPlant(list)
	got := w.truth.Compare(own)
	if n := got.Missing + got.Wrong + got.Duplicates; n > 0 {
		w.report.find(stage, fmt.Sprintf("%d values of the devices are missing, %d are wrong, %d are there twice", got.Missing, got.Wrong, got.Duplicates))
		w.report.find(stage, got.Findings...)
	}
	return len(own)
}

// tablesAccount holds queue and tables against the plant and each other.
func (w *world) tablesAccount(ctx context.Context) error {
	tables, err := w.readTables(ctx)
	if err != nil {
		return err
	}
	r := w.report
	r.Stages = append(r.Stages, Stage{Name: "put on the wire by the devices", Count: w.truth.Produced(), Plant: w.truth.Produced()})
	account := tables.audit.Report(audit.Options{Now: time.Now(), Local: true})
	produced := uint64(0)
	for i := range account.Streams {
		s := &account.Streams[i]
		produced += s.Produced
		if s.Verdict != audit.Balanced {
			r.find("week tables", s.Line())
		}
	}
	// No stream at all would balance, and prove nothing.
	if !account.Complete() || len(account.Streams) < 2 {
		r.find("week tables", "the audit says: "+account.Summary.Line())
	}
	r.samples("produced by the gateway", int(produced), -1, "by the counts in its blocks' headers")
	queued := w.accepted.samples()
	r.samples("accepted by the queue", len(queued), w.against("queue", queued), fmt.Sprintf("%d messages", len(w.accepted.seen)))
	r.find("queue", w.accepted.faults...)
	again := w.crew.received() - len(w.accepted.seen)
	stored := tables.samples()
	r.samples("in the week tables", len(stored), w.against("week tables", stored),
		fmt.Sprintf("%d items; %d messages came again from the killed worker", len(tables.seen), again))
	r.find("week tables", tables.faults...)
	if again < 1 {
		r.find("workers", "no message came again, though a worker was killed")
	}
	r.find("week tables", differing(w.accepted.seen, tables.seen)...)
	if int(produced) != len(stored) {
		r.find("week tables", fmt.Sprintf("the gateway produced %d samples, and %d are here", produced, len(stored)))
	}
	return nil
}

// differing compares blocks by identity and bytes.
func differing(sent, stored map[string]string) (out []string) {
	for id, data := range sent {
		if there, ok := stored[id]; !ok {
			out = append(out, "block "+id+" is missing")
		} else if there != data {
			out = append(out, "block "+id+" has other bytes than were sent")
		}
	}
	for id := range stored {
		if _, ok := sent[id]; !ok {
			out = append(out, "block "+id+" was never sent")
		}
	}
	return out
}
