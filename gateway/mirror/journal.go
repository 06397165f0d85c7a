package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"millrace/internal/backoff"
	"millrace/sample"
)

// journal is what the engine needs of the audit log.
type journal interface {
	// Append makes the entries durable, all or none, and sets their numbers and hashes.
	Append(entries []*entry) error
	// Replay hands over the newest checkpoint's state, and then each record after it.
	Replay(checkpoint func(json.RawMessage) error, record func(*entry) error) error
	// Checkpoint registers what gives the whole state. It is called within
	// Append, and before what that appends.
	Checkpoint(state func() (json.RawMessage, error))
	Head() (n uint64, hash string)
	Close() error
}

// entry is one record of the audit log, and what it changes.
type entry struct {
	kind                              string
	target, feed, message, cursor, id string
	version                           uint64
	outcome                           Outcome
	reason, detail, who               string
	old, new                          *sample.Value
	change                            change
	n                                 uint64 // set by Append
	hash                              string // set by Append
	at                                time.Time
}

// The kinds of records.
const (
	kindStart    = "start"
	kindStop     = "stop"
	kindHeld     = "held"
	kindIntent   = "intent"
	kindOutcome  = "outcome"
	kindFallback = "fallback" // an outcome of the fallback value
	kindArm      = "arm"
	kindDisarm   = "disarm"
	kindArmedEnd = "armed_end"
	kindStale    = "stale"
	kindFresh    = "fresh"
)

// group is entries that are appended together.
type group struct {
	entries []*entry
	done    bool
	err     error
}

// appendRetry spaces the tries while nothing can be recorded.
func appendRetry() backoff.Policy {
	return backoff.Policy{Base: 200 * time.Millisecond, Max: 5 * time.Second}
}

// record appends entries to the audit log and does to the state what they say.
// It returns when they are durable. While the log takes nothing it waits, and
// whoever calls it writes nothing; an error means that ctx is done. No lock but
// intake may be held.
func (m *Mirror) record(ctx context.Context, beat func(), entries ...*entry) error {
	if len(entries) == 0 {
		return nil
	}
	wait := appendRetry()
	for try := 0; ; try++ {
		err := m.appendOnce(entries)
		if err == nil {
			m.auditUp()
			return nil
		}
		m.auditDown(err)
		if ctx.Err() != nil {
			return err
		}
		beat()
		backoff.Sleep(ctx, wait.Wait(try))
	}
}

// appendOnce appends entries together with those of other callers that wait.
func (m *Mirror) appendOnce(entries []*entry) error {
	g := &group{entries: entries}
	m.queueMu.Lock()
	m.queue = append(m.queue, g)
	m.queueMu.Unlock()

	m.journalMu.Lock()
	defer m.journalMu.Unlock()
	if g.done {
		return g.err
	}
	m.queueMu.Lock()
	groups := m.queue
	m.queue = nil
	m.queueMu.Unlock()
	var all []*entry
	for _, g := range groups {
		all = append(all, g.entries...)
	}
	now := m.s.Clock.Now().UTC()
	for _, e := range all {
		e.at = now
	}
	err := m.journal.Append(all)
	if err == nil {
		m.mu.Lock()
		for _, e := range all {
			m.state.apply(e.target, e.feed, e.cursor, &e.change)
		}
		m.mu.Unlock()
	}
	for _, g := range groups {
		g.done, g.err = true, err
	}
	return err
}

// checkpoint is the whole state.
func (m *Mirror) checkpoint() (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return json.Marshal(m.state)
}

func (m *Mirror) auditUp() {
	m.mu.Lock()
	was := m.auditErr
	m.auditErr = nil
	m.mu.Unlock()
	if was != nil || m.auditTold.CompareAndSwap(false, true) {
		m.auditHealth.Up()
	}
}

func (m *Mirror) auditDown(err error) {
	m.mu.Lock()
	m.auditErr = err
	m.mu.Unlock()
	m.auditTold.Store(true)
	m.auditHealth.Down(fmt.Errorf("nothing is written to any target, since the audit log in %s takes no record: %w; "+
		"free or mend the disk, and restart the gateway where it does not go on by itself", m.s.Dir, err))
}

// enter takes the lock under which pending results change hands. Its holder may
// wait for the audit log for long, so beat is called meanwhile.
func (m *Mirror) enter(beat func()) {
	t := time.NewTicker(BeatEvery)
	defer t.Stop()
	for {
		select {
		case m.intake <- struct{}{}:
			return
		case <-t.C:
			beat()
		}
	}
}

func (m *Mirror) leave() { <-m.intake }
