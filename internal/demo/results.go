package demo

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/gateway/mirror/audit"
	"millrace/internal/sim/plant"
	"millrace/sample"
	"millrace/sample/result"
)

// The mirror's target, and what it is computed from.
const (
	resultsQueue = "demo-results"
	targetName   = "sp1"
	powerTag     = Site + "/meter01/reg01" // about 820 kW, and rising
	keyName      = "cloud"
	setpointMin  = 700
	setpointMax  = 900
	tooMuch      = 2000 // kW
	meanOf       = 5 * time.Second
	sendEvery    = 500 * time.Millisecond
	// handledWithin bounds the wait for the last results after the plant stands
	// still.
	handledWithin = 20 * time.Second
)

// optimiser stands in for the cloud half: it looks at delivered samples of the
// plant's power, computes a setpoint, and sends it by the results queue, signed.
type optimiser struct {
	client   *sqs.Client
	queueURL string
	private  ed25519.PrivateKey
	now      func() time.Time

	mu   sync.Mutex
	seen []sample.Sample // of powerTag, some seconds of it
	news bool
	sent []*result.Result
}

func newOptimiser(client *sqs.Client, queueURL string, now func() time.Time) (*optimiser, error) {
	_, private, err := ed25519.GenerateKey(nil)
	return &optimiser{client: client, queueURL: queueURL, private: private, now: now}, err
}

func (o *optimiser) public() ed25519.PublicKey { return o.private.Public().(ed25519.PublicKey) }

// look takes what was delivered.
func (o *optimiser) look(samples []sample.Sample) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range samples {
		if s.Tag == powerTag && s.Quality.IsGood() {
			o.seen, o.news = append(o.seen, s), true
		}
	}
	if len(o.seen) > 0 {
		newest := o.seen[len(o.seen)-1].Time
		o.seen = slices.DeleteFunc(o.seen, func(s sample.Sample) bool { return s.Time < newest-int64(meanOf) })
	}
}

// run sends a setpoint whenever there is something new, until ctx is done. The
// second one is more than the plant allows.
func (o *optimiser) run(ctx context.Context) {
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if mean, ok := o.mean(); ok {
			o.send(ctx, mean)
			if len(o.results()) == 1 {
				o.send(ctx, tooMuch)
			}
		}
	}
}

// mean is that of the last seconds of power, in kW, if anything new came.
func (o *optimiser) mean() (float64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.news {
		return 0, false
	}
	o.news = false
	sum := 0.0
	for _, s := range o.seen {
		sum += s.Value.Float()
	}
	return sum / float64(len(o.seen)), true
}

// send signs a setpoint and puts it into the queue. One that the queue does not
// take is sent again; a second copy of it does no harm.
func (o *optimiser) send(ctx context.Context, value float64) {
	version := uint64(len(o.results())) + 1
	now := o.now().UTC()
	r := &result.Result{
		ID: fmt.Sprintf("demo-%06d", version), Site: Site, Target: targetName, Version: version, Value: sample.FloatValue(value), Unit: "kW",
		ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(time.Minute), Run: "demo-optimiser",
	}
	r.Sign(keyName, o.private)
	body, err := r.Encode()
	if err != nil {
		panic("BUG: a result of the demo does not encode: " + err.Error())
	}
	for {
		_, err := o.client.SendMessage(context.WithoutCancel(ctx), &sqs.SendMessageInput{QueueUrl: aws.String(o.queueURL), MessageBody: aws.String(string(body))})
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return // it counts as never sent, as it does for who sends it
		case <-time.After(sendEvery):
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = append(o.sent, r)
}

// results lists what was sent.
func (o *optimiser) results() []*result.Result {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.sent)
}

// outcome is what a status sample of the mirror says.
type outcome struct {
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	ID      string `json:"id"`
	Version uint64 `json:"version"`
	Hash    string `json:"hash"`
	N       uint64 `json:"n"`
}

// isStatus reports whether a sample is an outcome of the mirror.
func isStatus(s *sample.Sample) bool {
	return strings.HasPrefix(s.Tag, Site+"/mirror/") && strings.HasSuffix(s.Tag, "/status")
}

func parseOutcome(s *sample.Sample) (o outcome, err error) {
	if err := json.Unmarshal([]byte(s.Value.Str()), &o); err != nil {
		return o, fmt.Errorf("%s does not read: %w", s.Tag, err)
	}
	return o, nil
}

// mirrorYAML is the mirror's part of the configuration.
func (w *world) mirrorYAML(keys string) string {
	return fmt.Sprintf(`mirror:
  enabled: true
  dir: %q
  keys: [{name: %s, ed25519: %q}]
  feeds:
    - name: results
      type: sqs
      queue_url: %q
      region: %s
      endpoint: %q
      %s
  targets:
    - name: %s
      mode: armed
      feeds: [results]
      type: float64
      unit: kW
      min: %d
      max: %d
      max_step: 100
      min_interval: 500ms
      max_age: 1m
      stale_after: 1m
      write: %s
`, w.auditDir(), keyName, base64Of(w.optimiser.public()), w.aws.QueueURL(resultsQueue), region, w.sqsURL(), keys,
		targetName, setpointMin, setpointMax, w.plant.SetpointWrite())
}

// handled waits until each result that was sent has come to an end.
func (w *world) handled(ctx context.Context) {
	sent := w.optimiser.results()
	last := uint64(0) // that the mirror does not refuse
	for _, r := range sent {
		if r.Value.Float() <= setpointMax {
			last = r.Version
		}
	}
	end := time.Now().Add(handledWithin)
	for time.Now().Before(end) && ctx.Err() == nil {
		st := w.gateway.Status().Mirror
		if st != nil && len(st.Feeds) == 1 && st.Feeds[0].Received >= uint64(len(sent)) && len(st.Targets) == 1 &&
			st.Targets[0].Pending == nil && st.Targets[0].Version >= last {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// mirrored holds what was sent, what the delivered outcomes and the audit log
// say of it, and what the PLC was told, against each other.
func (r *Result) mirrored(sent []*result.Result, outcomes []outcome, stands plant.Written, all []plant.Written) {
	find := func(format string, args ...any) {
		r.MirrorBalanced = false
		r.Findings = append(r.Findings, "mirror: "+fmt.Sprintf(format, args...))
	}
	r.Sent, r.MirrorBalanced = len(sent), true
	ends := map[uint64]outcome{}
	for _, o := range outcomes {
		if o.Outcome == "unsent" {
			continue // the PLC was away, and it was tried again
		}
		if before, twice := ends[o.Version]; twice && before.N != o.N {
			find("version %d was %s, and %s", o.Version, before.Outcome, o.Outcome)
		}
		ends[o.Version] = o
	}
	told := map[uint64]float32{}
	last := uint32(0)
	for _, t := range all {
		if t.Version <= last {
			find("the PLC was told version %d after version %d", t.Version, last)
		}
		last = t.Version
		told[uint64(t.Version)] = t.Value
	}
	for _, s := range sent {
		value, wrote := told[s.Version]
		switch o := ends[s.Version]; o.Outcome {
		case "written":
			r.Mirrored++
			if !wrote || value != float32(s.Value.Float()) {
				find("version %d, %s, counts as written, and the PLC was told %g", s.Version, s.Value, value)
			}
		case "refused":
			r.Refused++
			if wrote {
				find("version %d was refused, and the PLC was told %g", s.Version, value)
			}
		case "superseded", "expired_held":
			r.Superseded++
			if wrote {
				find("version %d was %s, and the PLC was told %g", s.Version, o.Outcome, value)
			}
		case "unverified": // the meters were stopped in that moment
			r.Unverified++
			if wrote && value != float32(s.Value.Float()) {
				find("version %d, %s, could not be read back, and the PLC was told %g", s.Version, s.Value, value)
			}
		case "":
			find("nobody says what became of version %d", s.Version)
		default:
			find("version %d was %s", s.Version, o.Outcome)
		}
		delete(told, s.Version)
		delete(ends, s.Version)
	}
	if len(told) > 0 || len(ends) > 0 {
		find("%d versions in the PLC and %d outcomes are of results that nobody sent", len(told), len(ends))
	}
	if len(all) > 0 && stands != all[len(all)-1] {
		find("version %d, %g, stands in the PLC, and it was told version %d last", stands.Version, stands.Value, last)
	}
	if r.Mirrored == 0 || r.Refused == 0 {
		find("%d results were mirrored and %d refused, and there should be some of both", r.Mirrored, r.Refused)
	}
}

// checkAudit verifies the mirror's audit log, and that it has the heads that
// the outcomes name.
func (r *Result) checkAudit(dir string, outcomes []outcome) error {
	var heads []audit.Head
	for _, o := range outcomes {
		heads = append(heads, audit.Head{N: o.N, Hash: o.Hash})
	}
	report, err := audit.Verify(dir, heads, nil)
	if err != nil {
		return err
	}
	if !report.Whole() {
		r.MirrorBalanced = false
		r.Findings = append(r.Findings, report.Faults...)
	}
	return nil
}
