package batch

import (
	"encoding/binary"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

const (
	// aliveEvery is how old the stored time of the last commit may get while
	// there are commits. Commits that seal a batch store it anyway, and of the
	// others the open parts tell.
	aliveEvery = time.Minute

	keyAlive  = "alive"
	keyPolled = "polled/"
)

// begin declares what was not polled while the gateway was down: for each
// source that was polled before and still is configured, from the last commit
// of the run before to the first of this one. The commit that follows also
// stores the new time: both or neither are durable.
func (b *Batcher) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun = true
	if b.lastAlive == 0 {
		return // the spool is new
	}
	from := time.Unix(0, b.lastAlive).UTC()
	now := b.keep.time()
	to := time.Unix(0, floor(int64(b.firstCommit)+b.keep.offset)).UTC()
	if to.Before(from) { // the clock was set back meanwhile
		to = from
	}
	var sources []string
	for _, p := range b.ports {
		if !b.polled[p.info.Name] {
			continue
		}
		b.declare(&ledger.Gap{Source: p.info.Name, From: from, To: to, Cause: ledger.GatewayDown}, now)
		sources = append(sources, p.info.Name)
	}
	b.declareRefused(now)
	if len(sources) > 0 {
		b.o.Log.Warn("the gateway was down, so nothing was polled; a gap record goes up for each source",
			"sources", sources, "cause", ledger.GatewayDown, "from", from, "to", to)
	}
}

// polls notes that a source emits without asking for an acknowledgement: what
// it does not read is not kept for it. Callers hold b.mu.
func (b *Batcher) polls(p *Port) {
	p.polled = true
	if b.polled[p.info.Name] {
		return
	}
	b.polled[p.info.Name] = true
	b.newMeta = append(b.newMeta, spool.KV{Key: keyPolled + p.info.Name, Value: []byte{1}})
}

// stampAlive stores the time of this commit with it, where it is due.
func (b *Batcher) stampAlive(w *work, stop bool) {
	put := func(ns int64) {
		w.rest = append(w.rest, spool.KV{Key: keyAlive, Value: binary.BigEndian.AppendUint64(nil, uint64(ns))})
	}
	if !b.begun {
		// The time before is not declared yet. Sealing what was open takes the
		// parts away that tell when it began.
		if b.lastAlive != 0 && len(w.seals) > 0 {
			put(b.lastAlive)
		}
		return
	}
	now := int64(b.keep.tl.SinceBoot())
	age := now - b.alive
	idle := len(w.own)+len(w.rest)+len(w.parts)+len(w.c.Settle) == 0
	if !stop && len(w.seals) == 0 && (idle || age < int64(aliveEvery)) {
		return
	}
	b.alive = now
	put(now + w.time.offset)
}

// lastSigns finds when the run before committed last: at its last stamp, or at
// the newest sample that it left open.
func (b *Batcher) lastSigns(st *spool.State) error {
	for _, kv := range st.Meta {
		if kv.Key == keyAlive && len(kv.Value) == 8 {
			b.lastAlive = int64(binary.BigEndian.Uint64(kv.Value))
		}
	}
	if b.lastAlive == 0 {
		return nil
	}
	for _, p := range st.Parts {
		by, err := block.ReadPartClock(p.Data)
		if err != nil {
			return err
		}
		if by.Clock == block.ClockFree && by.Boot == b.keep.boot && b.keep.saved.WaitFrom != 0 {
			continue // that run has not told yet how long it was down before
		}
		err = block.ReadPart(p.Data, func(_ int, v *sample.Sample) error {
			b.lastAlive = max(b.lastAlive, v.Time)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
