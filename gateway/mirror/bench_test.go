package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"millrace/feeds"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/result"
)

// endless is a feed that always has ten results for ten targets.
type endless struct {
	*queue
	version uint64
	ended   chan struct{}
	left    int
}

func (e *endless) Receive(ctx context.Context) ([]feeds.Message, error) {
	if e.left <= 0 {
		select {
		case <-e.ended:
		default:
			close(e.ended)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	now := time.Now()
	var all []feeds.Message
	for range 10 {
		e.left--
		e.version++
		one := &result.Result{
			ID: "r", Site: "north", Target: fmt.Sprintf("sp%d", e.version%10), Version: e.version, Value: sample.FloatValue(float64(e.version % 500)), Unit: "kW",
			ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(time.Minute), Run: "bench",
		}
		body, err := one.Encode()
		if err != nil {
			return nil, err
		}
		all = append(all, feeds.Message{Key: fmt.Sprint(e.version), Body: body})
	}
	return all, nil
}

func (e *endless) Done(context.Context, []feeds.Message) error { return nil }

func (e *endless) Open(feeds.Settings) (feeds.Feed, error) { return e, nil }

// BenchmarkFlood measures results for ten targets, of which one in a second is
// written to each, on the real audit log.
func BenchmarkFlood(b *testing.B) {
	w := &world{devices: map[string]*plc{}, down: map[string]string{}, beats: map[string]time.Time{}}
	e := &endless{queue: &queue{w: w}, ended: make(chan struct{}), left: b.N}
	cfg := Config{Feeds: []Feed{{Name: "results", Config: e}}}
	for i := range 10 {
		sp := sp1()
		sp.Name, sp.MinInterval = fmt.Sprintf("sp%d", i), time.Second
		p := &plc{w: w}
		sp.Open = func(protocols.Health) (protocols.Target, error) { return p, nil }
		cfg.Targets = append(cfg.Targets, sp)
	}
	w.clock = clock.NewRunningFake(time.Now())
	r, err := New(cfg, Settings{
		Site: "north", Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler), Clock: w.clock, Synchronised: func() bool { return true },
		SinceBoot: w.clock.SinceBoot, Boot: w.clock.Boot(), Health: func(name string) protocols.Health { return component{w, name} },
		Status: func(string, sample.Sample) {},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- r.Run(ctx) }()
	<-e.ended
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
	if err := r.Close(); err != nil {
		b.Error(err)
	}
}
