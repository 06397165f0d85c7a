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

// The suite is tried on a protocol of its own, which keeps its contract unless
// one flaw is switched on: each flaw must be found by the check that is there
// for it.

const tagName = "plant/toy/count"

type flaw string

// device is what the toy protocol's sources read or listen to.
type device struct {
	mu    sync.Mutex
	away  bool
	value int64
	post  chan posted // an acknowledged device's message, answered on its channel
}

type posted struct {
	value  int64
	answer chan error
}

type toy struct{ mode Mode }

func (toy) Type() string                  { return "toy" }
func (t toy) NewConfig() protocols.Config { return &toyConfig{mode: t.mode} }

type toyConfig struct {
	mode Mode
	flaw flaw
	dev  *device
	bad  bool
}

func (c *toyConfig) LinkKey() string { return "toy" }

func (c *toyConfig) Validate(*protocols.SourceConfig) []protocols.Fault {
	if !c.bad {
		return nil
	}
	faults := []protocols.Fault{{Path: "connection.url", Problem: "missing", Hint: "set it"}, {Path: "tags[0].address", Problem: "empty", Hint: "set it"}}
	if c.flaw == "one fault only" {
		return faults[:1]
	}
	return faults
}

func (c *toyConfig) Open(protocols.Settings) (protocols.Connection, error) { return &toyConn{c}, nil }

type toyConn struct{ *toyConfig }

func (c *toyConn) OpenSource(_ *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	return &toySource{c.toyConfig, h}, nil
}
func (c *toyConn) Close() error { return nil }

type toySource struct {
	*toyConfig
	health protocols.Health
}

func (s *toySource) Run(ctx context.Context, emit protocols.Emit) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	mixed := []int64{5, 3}
	batch := make([]sample.Sample, 1)
	flip := false
	for {
		var message posted
		select {
		case <-ctx.Done():
			if s.flaw == "returns the context's error" {
				return ctx.Err()
			}
			if s.flaw == "does not end" {
				time.Sleep(time.Second)
			}
			return nil
		case message = <-s.dev.post:
		case <-tick.C:
		}
		s.dev.mu.Lock()
		away, value := s.dev.away, s.dev.value
		s.dev.mu.Unlock()
		if !away || s.flaw != "no beat while away" {
			s.health.Beat()
		}
		if s.flaw == "gives up" && away {
			<-ctx.Done()
			return nil
		}
		flip = !flip
		switch {
		case away && s.flaw == "up and down" && flip:
			s.health.Up()
		case away && s.flaw == "two lines":
			s.health.Down(errors.New("away\nand gone"))
		case away && s.flaw == "no down":
		case away:
			s.health.Down(errors.New("the toy is away"))
		default:
			s.health.Up()
		}
		got := sample.Sample{Tag: tagName, Value: sample.IntValue(value), Time: time.Now().UnixNano()}
		switch {
		case away:
			got.Value, got.Quality = sample.Value{}, sample.BadCommunicationError
		case s.flaw == "wrong value":
			got.Value = sample.IntValue(value + 1)
		}
		switch s.flaw {
		case "short tag name":
			got.Tag = "count"
		case "value with Bad":
			if away {
				got.Value = sample.IntValue(0)
			}
		case "no time":
			got.Time = 0
		case "back in time":
			got.Time -= int64(time.Since(begin)) * 2
		case "silence while away":
			if away {
				continue
			}
		case "reorders":
			if value == 8 && len(mixed) > 0 {
				got.Value, mixed = sample.IntValue(mixed[0]), mixed[1:]
			}
		}
		if s.mode == Acknowledged {
			if message.answer == nil {
				continue
			}
			got.Value = sample.IntValue(message.value)
			if s.flaw == "loses while blocked" && message.value == 3 {
				message.answer <- nil
				continue
			}
			batch[0] = got
			s.acknowledge(ctx, emit, batch, message)
			continue
		}
		batch[0] = got
		emitCtx := ctx
		if s.flaw == "emit without the context" {
			emitCtx = context.Background()
		}
		if err := emit(emitCtx, batch, nil); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func (s *toySource) acknowledge(ctx context.Context, emit protocols.Emit, batch []sample.Sample, m posted) {
	done := func(err error) { m.answer <- err }
	switch s.flaw {
	case "acknowledges at once":
		done = func(error) {}
		m.answer <- nil
	case "acknowledges what done refuses":
		done = func(error) { m.answer <- nil }
	}
	if err := emit(ctx, batch, done); err != nil && s.flaw != "acknowledges at once" {
		m.answer <- err
	}
}

func toyHarness(mode Mode, f flaw) Harness {
	return Harness{
		Protocol:   toy{mode},
		Mode:       mode,
		StopWithin: 300 * time.Millisecond,
		Patience:   time.Second,
		Faulty: func() (protocols.Config, *protocols.SourceConfig, []string) {
			return &toyConfig{bad: true, flaw: f}, &protocols.SourceConfig{}, []string{"connection.url", "tags[0].address"}
		},
		Start: func(t *testing.T) *Device {
			d := &device{value: 100, post: make(chan posted)}
			post := func(ctx context.Context, n int64) error {
				m := posted{n, make(chan error, 2)}
				select {
				case d.post <- m:
				case <-ctx.Done():
					return ctx.Err()
				}
				select {
				case err := <-m.answer:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			setAway := func(away bool) func() {
				return func() { d.mu.Lock(); defer d.mu.Unlock(); d.away = away }
			}
			dev := &Device{
				Config: &toyConfig{mode: mode, flaw: f, dev: d}, Source: &protocols.SourceConfig{Name: "toy"},
				Want:    map[string]sample.Value{tagName: sample.IntValue(100)},
				Counter: tagName,
				Stop:    setAway(true), Resume: setAway(false),
			}
			if mode == Acknowledged {
				dev.Publish = func(ctx context.Context) error { return post(ctx, 100) }
				dev.Send = post
			} else {
				dev.Send = func(_ context.Context, n int64) error {
					d.mu.Lock()
					d.value = n
					d.mu.Unlock()
					time.Sleep(10 * time.Millisecond)
					return nil
				}
			}
			return dev
		},
	}
}

func TestSuitePassesWhatIsInOrder(t *testing.T) {
	for _, mode := range []Mode{Polled, Acknowledged} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) { Run(t, toyHarness(mode, "")) })
	}
}

func TestSuiteFindsEachFlaw(t *testing.T) {
	for _, c := range []struct {
		flaw  flaw
		mode  Mode
		check func(*testing.T, Harness) error
		want  string
	}{
		{"one fault only", Polled, checkValidate, "no fault is reported at tags[0].address"},
		{"wrong value", Polled, checkValues, "got 101"},
		{"short tag name", Polled, checkValues, "not site/device/name"},
		{"no time", Polled, checkValues, "outside of the run"},
		{"back in time", Polled, checkAway, "back in time"},
		{"value with Bad", Polled, checkAway, "want null"},
		{"silence while away", Polled, checkAway, "not emitted as Bad"},
		{"silence while away", Polled, checkAwayAtStart, "not emitted as Bad"},
		{"no beat while away", Polled, checkAway, "Beat is not called"},
		{"no down", Polled, checkAway, "Down was not called"},
		{"two lines", Polled, checkAway, "must be one line"},
		{"up and down", Polled, checkAway, "changes of state"},
		{"gives up", Polled, checkAwayAtStart, "Down was not called"},
		{"returns the context's error", Polled, checkEnd, "context canceled"},
		{"does not end", Polled, checkEnd, "had not returned"},
		{"emit without the context", Polled, checkBlockedEnd, "had not returned"},
		{"reorders", Polled, checkOrder, "out of order"},
		{"loses while blocked", Acknowledged, checkOrder, "value 3 was lost"},
		{"acknowledges at once", Acknowledged, checkRefused, "although the samples were refused"},
		{"acknowledges what done refuses", Acknowledged, checkRefused, "although the samples were refused"},
		{"acknowledges at once", Acknowledged, checkLateDone, "before the samples were durable"},
	} {
		t.Run(string(c.flaw), func(t *testing.T) {
			t.Parallel()
			err := c.check(t, toyHarness(c.mode, c.flaw))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestCollectorSeesAChangedBatch changes a batch between the two moments at
// which the collector looks at it.
func TestCollectorSeesAChangedBatch(t *testing.T) {
	var c Collector
	c.Block()
	batch := []sample.Sample{{Tag: tagName, Time: 1}}
	changed := &changing{Context: t.Context(), change: func() {
		batch[0].Time = 2
		c.Release()
	}}
	if err := c.Emit(changed, batch, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.err(); err == nil {
		t.Error("a batch that was changed during Emit is not reported")
	}
}

// changing calls change once Emit waits for its context.
type changing struct {
	context.Context
	change func()
}

func (c *changing) Done() <-chan struct{} {
	c.change()
	return c.Context.Done()
}

// leftBehind is a goroutine that a source forgot.
func leftBehind(stop, ended chan struct{}) {
	defer close(ended)
	<-stop
}

func TestStacksFindsALeftGoroutine(t *testing.T) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go leftBehind(stop, ended)
	found := func(ignore []string) bool {
		return strings.Contains(strings.Join(stacks(ignore), "\n"), "protocolstest.leftBehind(")
	}
	if !eventually(time.Second, func() bool { return found(nil) }) {
		t.Error("a goroutine that runs is not found")
	}
	if found([]string{"protocolstest.leftBehind"}) {
		t.Error("an ignored goroutine is found")
	}
	close(stop)
	<-ended
}
