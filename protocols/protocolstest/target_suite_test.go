package protocolstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// The targets' suite is tried like that of the sources: on a protocol of its
// own, whose device holds float32, with one flaw at a time.

type board struct {
	mu                 sync.Mutex
	away, reject, mute bool
	writes             int
	value              float64
	valid              bool
	heartbeat          uint16
	queued             *float64 // what a flawed target sends when the device is back
}

type panelProtocol struct{ f flaw }

func (panelProtocol) Type() string                  { return "panel" }
func (p panelProtocol) NewConfig() protocols.Config { return &panelConfig{flaw: p.f} }

type panelConfig struct {
	flaw flaw
	dev  *board
}

func (c *panelConfig) LinkKey() string                                    { return "panel" }
func (c *panelConfig) Validate(*protocols.SourceConfig) []protocols.Fault { return nil }
func (c *panelConfig) NewTarget() protocols.TargetConfig {
	if c.flaw == "settings without tags" {
		return new(bareSettings)
	}
	return new(panelSettings)
}
func (c *panelConfig) Open(protocols.Settings) (protocols.Connection, error) {
	return &panelConn{panelConfig: c}, nil
}

type bareSettings struct {
	panelSettings
	Address string
}

type panelSettings struct {
	Address string `yaml:"address"`
	flaw    flaw
	bad     bool
}

func (s *panelSettings) Validate(sample.Kind) []protocols.Fault {
	if !s.bad {
		return nil
	}
	faults := []protocols.Fault{{Path: "address", Problem: "missing", Hint: "set it"}, {Path: "type", Problem: "unknown", Hint: "set it"}}
	if s.flaw == "one fault only" {
		return faults[:1]
	}
	return faults
}

func (s *panelSettings) Places() []string {
	if s.flaw == "no place" {
		return nil
	}
	return []string{s.Address}
}

type panelConn struct {
	*panelConfig
	running sync.WaitGroup
}

func (c *panelConn) OpenSource(_ *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	return &panelSource{c, h}, nil
}
func (c *panelConn) Close() error {
	c.running.Wait()
	return nil
}

func (c *panelConn) OpenTarget(_ protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	return &panel{c: c, health: h}, nil
}

type panelSource struct {
	c      *panelConn
	health protocols.Health
}

func (s *panelSource) Run(ctx context.Context, emit protocols.Emit) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.health.Up()
		s.c.dev.mu.Lock()
		v := s.c.dev.value
		s.c.dev.mu.Unlock()
		if s.c.flaw == "starves the source" {
			v = -1
		}
		if err := emit(ctx, []sample.Sample{{Tag: tagName, Value: sample.FloatValue(v)}}, nil); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

type panel struct {
	c      *panelConn
	health protocols.Health
	closed bool
}

func (p *panel) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	if v.Kind() != sample.Float64 {
		if p.c.flaw == "takes any kind" {
			return v, nil
		}
		return v, protocols.Unsuitedf("a %s is no float", v.Kind())
	}
	if p.c.flaw == "does not round" {
		return v, nil
	}
	if p.c.flaw == "writes to try" {
		p.c.dev.mu.Lock()
		p.c.dev.value++
		p.c.dev.mu.Unlock()
	}
	return sample.FloatValue(float64(float32(v.Float()))), nil
}

func (p *panel) fail(o protocols.WriteOutcome, text string) error {
	if p.c.flaw == "two lines" {
		text += "\nand more"
	}
	err := &protocols.WriteError{Outcome: o, Err: errors.New(text)}
	if o != protocols.Unsuited {
		p.health.Down(err)
	}
	return err
}

func (p *panel) Write(ctx context.Context, c protocols.Command) error {
	if _, err := p.Prepare(ctx, c.Value); err != nil && p.c.flaw != "unprepared" {
		return err
	}
	if ctx.Err() != nil && p.c.flaw != "does not hear the context" {
		return p.fail(protocols.Unsent, "the context is done")
	}
	if p.closed && p.c.flaw != "writes when closed" {
		return p.fail(protocols.Unsent, "the target is closed")
	}
	d := p.c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	f := float64(float32(c.Value.Float()))
	switch {
	case d.away && p.c.flaw == "away is unknown":
		return p.fail(protocols.Unknown, "no answer")
	case d.away && p.c.flaw == "queues":
		d.queued = &f
		return p.fail(protocols.Unsent, "nobody there")
	case d.away && p.c.flaw == "no down":
		return &protocols.WriteError{Outcome: protocols.Unsent, Err: errors.New("nobody there")}
	case d.away:
		return p.fail(protocols.Unsent, "nobody there")
	case d.reject && p.c.flaw != "hides a rejection":
		d.writes++
		return p.fail(protocols.Rejected, "not allowed")
	case p.c.flaw == "writes nothing":
		d.writes++
		return nil
	}
	d.writes++
	d.value = f
	if d.mute {
		switch p.c.flaw {
		case "lost is done":
			return nil
		case "writes again":
			d.writes++
		}
		return p.fail(protocols.Unknown, "no answer")
	}
	p.health.Up()
	return nil
}

func (p *panel) Read(context.Context) (protocols.Reading, error) {
	d := p.c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away {
		return protocols.Reading{}, errors.New("nobody there")
	}
	r := protocols.Reading{Value: sample.FloatValue(d.value), Time: time.Now()}
	switch p.c.flaw {
	case "reads what it wrote first":
		r.Value = sample.FloatValue(1)
	case "wrong version":
		r.Version = 1 << 40
	case "no time":
		r.Time = time.Time{}
	}
	return r, nil
}

func (p *panel) Tell(_ context.Context, s protocols.State) error {
	d := p.c.dev
	d.mu.Lock()
	defer d.mu.Unlock()
	switch p.c.flaw {
	case "zero when stale":
		if !s.Valid {
			d.value = 0
		}
	case "never stale":
		s.Valid = true
	case "no heartbeat":
		s.Heartbeat = 0
	}
	d.valid, d.heartbeat = s.Valid, s.Heartbeat
	return nil
}

func (p *panel) Close() error {
	if p.closed && p.c.flaw == "closes once" {
		return errors.New("closed already")
	}
	p.closed = true
	return nil
}

func panelHarness(f flaw) TargetHarness {
	return TargetHarness{
		Protocol: panelProtocol{f}, Limit: 50 * time.Millisecond, Patience: 300 * time.Millisecond,
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			return &panelSettings{bad: true, flaw: f}, sample.Float64, []string{"address", "type"}
		},
		Start: func(*testing.T) *TargetDevice {
			d := &board{}
			locked := func(do func()) { d.mu.Lock(); defer d.mu.Unlock(); do() }
			return &TargetDevice{
				Config: &panelConfig{flaw: f, dev: d},
				Source: &protocols.SourceConfig{Name: "panel"},
				Writes: func() (n int) { locked(func() { n = d.writes }); return n },
				Stop:   func() { locked(func() { d.away = true }) },
				Resume: func() {
					locked(func() {
						d.away = false
						if d.queued != nil {
							d.value, d.writes = *d.queued, d.writes+1
						}
					})
				},
				LoseAnswers: func(on bool) { locked(func() { d.mute = on }) },
				Reject:      func(on bool) { locked(func() { d.reject = on }) },
				Places: []TargetPlace{{
					Config: &panelSettings{Address: "a", flaw: f}, Kind: sample.Float64,
					Good:      []sample.Value{sample.FloatValue(1), sample.FloatValue(0.1), sample.FloatValue(41.5)},
					Unsuited:  []sample.Value{sample.StringValue("1")},
					Held:      func() (v sample.Value, err error) { locked(func() { v = sample.FloatValue(d.value) }); return v, nil },
					Valid:     func() (v bool, err error) { locked(func() { v = d.valid }); return v, nil },
					Heartbeat: func() (n uint16, err error) { locked(func() { n = d.heartbeat }); return n, nil },
				}},
			}
		},
	}
}

func TestTargetSuitePassesWhatIsInOrder(t *testing.T) { RunTarget(t, panelHarness("")) }

func TestTargetSuiteFindsEachFlaw(t *testing.T) {
	for _, c := range []struct {
		flaw  flaw
		check func(*testing.T, TargetHarness) error
		want  string
	}{
		{"settings without tags", checkTargetDefaults, "whose fields have yaml tags"},
		{"one fault only", checkTargetValidate, "no fault is reported at type"},
		{"no place", checkTargetPlaces, "has no name"},
		{"does not round", checkTargetWrites, "the device holds float64 0.10000000149011612"},
		{"writes to try", checkTargetWrites, "Prepare has written"},
		{"writes nothing", checkTargetWrites, "the device holds float64 0 "},
		{"reads what it wrote first", checkTargetWrites, "Read returns float64 1,"},
		{"wrong version", checkTargetWrites, "Read returns version"},
		{"no time", checkTargetWrites, "Read returns no time"},
		{"takes any kind", checkTargetUnsuited, "Prepare takes string"},
		{"unprepared", checkTargetUnsuited, "Write string"},
		{"away is unknown", checkTargetAwayAtStart, "it is unknown, want unsent"},
		{"no down", checkTargetAwayAtStart, "Down was not called"},
		{"two lines", checkTargetAwayAtStart, "must be one line"},
		{"queues", checkTargetAwayAtStart, "1 writes have reached"},
		{"away is unknown", checkTargetGone, "a write stays unknown"},
		{"queues", checkTargetGone, "writes have reached"},
		{"no down", checkTargetGone, "Down was not called"},
		{"lost is done", checkTargetLost, "it succeeds, want unknown"},
		{"writes again", checkTargetLost, "is repeated"},
		{"hides a rejection", checkTargetRejected, "it succeeds, want rejected"},
		{"zero when stale", checkTargetTell, "the device holds float64 0 "},
		{"never stale", checkTargetTell, "the device shows valid true"},
		{"no heartbeat", checkTargetTell, "the device shows heartbeat 0"},
		{"closes once", checkTargetClose, "the second Close"},
		{"writes when closed", checkTargetClose, "it succeeds, want unsent"},
		{"starves the source", checkTargetTogether, "does not read"},
		{"does not hear the context", checkTargetCancelled, "it succeeds, want unsent"},
	} {
		t.Run(fmt.Sprint(c.flaw), func(t *testing.T) {
			t.Parallel()
			err := c.check(t, panelHarness(c.flaw))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
