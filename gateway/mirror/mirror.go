// Package mirror brings results of the cloud back into the SCADA system: it
// takes them from feeds, asks the guards, writes to targets, reads back, and
// records every decision before the feed may forget the message.
//
// The audit log is also the journal. A feed's loop records what it refuses, and
// what it accepts whole, and only then tells the feed that it is done; so it
// never waits for a device. Each target has one worker and at most one result
// that waits, the newest. The worker records the intent before the first byte
// goes to the device, and the outcome after it has read back. State is nothing
// but what the records add up to.
package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/internal/failpoint"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/result"
)

// Mirror is the engine. Its methods are safe for concurrent use.
type Mirror struct {
	cfg     Config
	s       Settings
	boot    string
	journal journal // nil where every target is off
	feeds   []*feed
	targets []*target
	byName  map[string]*target

	auditHealth protocols.Health
	auditTold   atomic.Bool
	said        *sayer // of what belongs to no target

	// intake is held while a pending result comes, goes, or becomes an intent,
	// until that is durable. It is taken before all other locks.
	intake chan struct{}

	journalMu sync.Mutex // held while records are appended and applied
	queueMu   sync.Mutex
	queue     []*group // waits for journalMu

	mu       sync.Mutex // guards what follows, and what shows of feeds and targets
	state    *state
	auditErr error
}

// New opens the audit log and takes up what it says. It constructs the targets
// whose mode is not off and the feeds that these take results from, and
// connects to nothing. Where every target is off it constructs nothing at all.
func New(cfg Config, s Settings) (*Mirror, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var j journal
	if cfg.active() {
		var err error
		if j, err = openJournal(cfg, s); err != nil {
			return nil, err
		}
	}
	return newMirror(cfg, s, j)
}

// active reports whether there is a target that may do anything.
func (c *Config) active() bool {
	return slices.ContainsFunc(c.Targets, func(t Target) bool { return t.Mode != guard.Off })
}

func newMirror(cfg Config, s Settings, j journal) (_ *Mirror, err error) {
	m := &Mirror{
		cfg: cfg, s: s, boot: bootName(s.Boot), journal: j, byName: map[string]*target{}, said: newSayer(s.Log),
		intake: make(chan struct{}, 1), state: newState(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if j != nil {
		m.auditHealth = s.Health("audit")
		if err := m.replay(); err != nil {
			return nil, err
		}
		j.Checkpoint(m.checkpoint)
	}
	for i := range cfg.Targets {
		if err := m.addTarget(&m.cfg.Targets[i]); err != nil {
			return nil, err
		}
	}
	for _, f := range cfg.Feeds {
		if err := m.addFeed(f); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// replay makes the state of what the audit log says.
func (m *Mirror) replay() error {
	err := m.journal.Replay(func(raw json.RawMessage) error {
		s, err := parseState(raw)
		if err == nil {
			m.state = s
		}
		return err
	}, func(e *entry) error {
		m.state.apply(e.target, e.feed, e.cursor, &e.change)
		return nil
	})
	if err != nil {
		return fmt.Errorf("mirror: taking up the audit log in %s: %w", m.s.Dir, err)
	}
	for _, st := range m.state.Targets {
		m.revive(st.Pending)
		if st.Open != nil {
			m.revive(st.Open.Held)
		}
	}
	return nil
}

// revive reads a result that comes from before the restart.
func (m *Mirror) revive(h *held) {
	if h == nil {
		return
	}
	if r, err := result.Parse([]byte(h.Body)); err == nil {
		h.r, h.sign = r, m.signature(r, h.Local)
	}
}

func (m *Mirror) addTarget(cfg *Target) error {
	t := &target{
		m: m, cfg: cfg, log: m.s.Log.With("target", cfg.Name), wake: make(chan struct{}, 1), gate: newLock(), command: newLock(),
		outcomes: map[string]uint64{}, refused: map[string]uint64{},
		rules: guard.Rules{
			Type: cfg.Type, Unit: cfg.Unit, Min: cfg.Min, Max: cfg.Max, MaxStep: cfg.MaxStep, Clamp: cfg.Clamp,
			MinInterval: cfg.MinInterval, MaxAge: cfg.MaxAge, EnableTag: cfg.Enable,
			NeedSignature: m.cfg.SignatureRequired || cfg.Class == Setpoint, NeedSigner: cfg.Class == Setpoint,
		},
	}
	t.said = newSayer(t.log)
	m.targets = append(m.targets, t)
	m.byName[cfg.Name] = t
	if cfg.Mode == guard.Off {
		return nil
	}
	t.health = &targetHealth{Health: m.s.Health("target/" + cfg.Name)}
	dev, err := cfg.Open(t.health)
	if err != nil {
		return fmt.Errorf("mirror target %s: %w", cfg.Name, err)
	}
	t.dev, t.began = dev, m.moment()
	return nil
}

func (m *Mirror) addFeed(cfg Feed) error {
	used := slices.ContainsFunc(m.cfg.Targets, func(t Target) bool { return t.Mode != guard.Off && slices.Contains(t.Feeds, cfg.Name) })
	if !used {
		return nil
	}
	log := m.s.Log.With("feed", cfg.Name)
	opened, err := cfg.Config.Open(feeds.Settings{
		Name: cfg.Name, Site: m.s.Site, Gateway: m.s.Gateway, Log: log, Clock: m.s.Clock, Dial: m.s.Dial, Cursor: m.state.Cursors[cfg.Name],
	})
	if err != nil {
		return fmt.Errorf("mirror feed %s: %w", cfg.Name, err)
	}
	m.feeds = append(m.feeds, &feed{m: m, name: cfg.Name, Feed: opened, log: log, health: m.s.Health("feed/" + cfg.Name)})
	return nil
}

// Run works until ctx is done, and returns after all that it started has ended.
// A write that is under way is read back and recorded first. No failing feed or
// device ends it.
func (m *Mirror) Run(ctx context.Context) error {
	if m.journal == nil {
		<-ctx.Done()
		return nil
	}
	if err := m.record(ctx, m.beatAll, &entry{kind: kindStart}); err != nil {
		return nil // told to stop before anything could be recorded; the audit log's health says why
	}
	if err := m.tidy(ctx); err != nil {
		return nil
	}
	var wg sync.WaitGroup
	for _, t := range m.targets {
		if t.dev != nil {
			wg.Go(func() { t.run(ctx) })
		}
	}
	for _, f := range m.feeds {
		wg.Go(func() { f.run(ctx) })
	}
	wg.Go(func() { m.beatAudit(ctx) })
	wg.Wait()
	if err := m.record(ctx, m.auditHealth.Beat, &entry{kind: kindStop}); err != nil {
		return fmt.Errorf("mirror: recording the stop: %w", err)
	}
	return nil
}

func (m *Mirror) beatAudit(ctx context.Context) {
	t := time.NewTicker(BeatEvery)
	defer t.Stop()
	for {
		m.auditHealth.Beat()
		m.said.flush()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// tidy settles what waits for targets that are off now or not configured, what
// came from a feed that the target does not take from any more, and what was a
// result to the version that ran before and is none to this one.
func (m *Mirror) tidy(ctx context.Context) error {
	var entries []*entry
	m.mu.Lock()
	for name, st := range m.state.Targets {
		t := m.byName[name]
		if t != nil && t.dev != nil {
			switch p := st.Pending; {
			case p == nil:
			case p.r == nil:
				entries = append(entries, &entry{
					kind: kindOutcome, target: name, message: p.Message, outcome: Malformed, reason: result.UnknownSchema,
					detail: "it was accepted by another version of millrace, and is no result to this one", change: change{Drop: true},
				})
			case !slices.Contains(t.cfg.Feeds, p.Feed):
				e := p.entry(kindOutcome, name)
				e.outcome, e.reason, e.change.Drop = Refused, string(guard.UnknownTarget), true
				e.detail = fmt.Sprintf("it waited for the target, which takes no results from feed %s any more", p.Feed)
				entries = append(entries, e)
			}
			continue
		}
		reason, why := guard.ModeOff, "its mode is off now"
		if t == nil {
			reason, why = guard.UnknownTarget, "it is not configured any more"
		}
		if p := st.Pending; p != nil {
			e := p.entry(kindOutcome, name)
			e.outcome, e.reason, e.detail, e.change.Drop = Refused, string(reason), "it waited for the target, and "+why, true
			entries = append(entries, e)
		}
		if o := st.Open; o != nil {
			e := o.entry(outcomeKind(o), name)
			e.outcome, e.detail, e.change.Close = Unverified, "the gateway stopped while it was written, and the target cannot be read, since "+why, true
			entries = append(entries, e)
		}
		if a := st.Arming; a != nil && a.Armed {
			entries = append(entries, &entry{kind: kindArmedEnd, target: name, who: a.Who, detail: why, change: a.ended()})
		}
	}
	m.mu.Unlock()
	if err := m.record(ctx, m.beatAll, entries...); err != nil {
		return err
	}
	m.settled(entries...)
	return nil
}

// beatAll beats for the parts whose loops do not run yet, since the log takes no
// record: that is down, and not stuck.
func (m *Mirror) beatAll() {
	m.auditHealth.Beat()
	for _, t := range m.targets {
		if t.dev != nil {
			t.health.Beat()
		}
	}
	for _, f := range m.feeds {
		f.health.Beat()
	}
}

// Close closes the targets, the feeds and the audit log. It is called after Run
// has returned.
func (m *Mirror) Close() error {
	var errs []error
	for _, f := range m.feeds {
		errs = append(errs, f.Close())
	}
	for _, t := range m.targets {
		if t.dev != nil {
			errs = append(errs, t.dev.Close())
		}
	}
	if m.journal != nil {
		errs = append(errs, m.journal.Close())
	}
	return errors.Join(errs...)
}

// The steps between which a crash must do no harm, in the order of one result's way.
const (
	StepReceived = "mirror/received" // messages came, nothing is recorded
	StepTaken    = "mirror/taken"    // what became of them is durable
	StepDone     = "mirror/done"     // the feed was told so
	StepPrepared = "mirror/prepared" // the device was asked, the intent is not recorded
	StepIntended = "mirror/intended" // the intent is durable, nothing is written
	StepWritten  = "mirror/written"  // the device has answered the write
	StepVerified = "mirror/verified" // it was read back
	StepSettled  = "mirror/settled"  // the outcome is durable
)

// Steps lists them.
func Steps() []string {
	return []string{StepReceived, StepTaken, StepDone, StepPrepared, StepIntended, StepWritten, StepVerified, StepSettled}
}

func (m *Mirror) step(name string) {
	failpoint.At(name)
	if m.s.Step != nil {
		m.s.Step(name)
	}
}

// entry makes a record about a held result.
func (h *held) entry(kind, target string) *entry {
	e := &entry{kind: kind, target: target, message: h.Message}
	if h.r != nil {
		e.about(h.r, h.sign)
	}
	return e
}

// about names the result in the record, and who signed it, where that is sure.
func (e *entry) about(r *result.Result, sign guard.Signature) {
	e.id, e.version, e.new = r.ID, r.Version, &r.Value
	switch sign {
	case guard.Valid:
		e.who = "key " + r.Signature.Key
	case guard.Local:
		e.who = "this gateway"
	case guard.None, guard.Unknown, guard.Invalid:
	}
}

// entry makes a record about a write.
func (o *intent) entry(kind, target string) *entry {
	e := &entry{kind: kind, target: target, id: o.ID, version: o.Version, new: &o.Value.Value}
	if h := o.Held; h != nil {
		e.message = h.Message
		e.who = h.entry(kind, target).who
	}
	return e
}

// lastValue is what stands at the target as far as is known; nil where nothing
// was written. Callers hold mu.
func (s *targetState) lastValue() *sample.Value {
	if s == nil || s.Last == nil {
		return nil
	}
	return &s.Last.Value.Value
}
