package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/clock"
	protocols "millrace/protocols/all"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/spool"
	"millrace/uploader"
)

// slowKind is a kind of sink whose requests wait for the test.
type slowKind struct{ sink *slowSink }

func (slowKind) Type() string                 { return "slow" }
func (k slowKind) NewConfig() uploader.Config { return &slowConfig{sink: k.sink} }

type slowConfig struct{ sink *slowSink }

func (*slowConfig) Validate() []uploader.Fault                      { return nil }
func (c *slowConfig) Open(uploader.Settings) (uploader.Sink, error) { return c.sink, nil }

// slowSink takes one block at a time.
type slowSink struct {
	started chan struct{} // gets a value as each request starts
	release chan struct{} // lets one request through

	mu       sync.Mutex
	cut      int // requests whose context was cancelled
	accepted int
}

func (s *slowSink) Limits() uploader.Limits {
	return uploader.Limits{MaxBlocks: 1, MaxBytes: 1 << 20, Concurrency: 1, Size: func(b *uploader.Block) int { return len(b.Data) }}
}

func (s *slowSink) Send(ctx context.Context, blocks []uploader.Block) []error {
	s.started <- struct{}{}
	select {
	case <-s.release:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.accepted += len(blocks)
		return make([]error, len(blocks))
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cut++
		return []error{ctx.Err()}
	}
}

func (s *slowSink) Check(context.Context) error { return nil }
func (s *slowSink) Close() error                { return nil }

// quiet is a service manager that hears of the stages of a stop.
type quiet struct{ stopping chan string }

func (quiet) Ready(string)                    {}
func (quiet) Status(string)                   {}
func (quiet) Watchdog()                       {}
func (quiet) WatchdogInterval() time.Duration { return 0 }
func (q quiet) Stopping(status string)        { q.stopping <- status }

// stopping is a gateway with blocks in its spool that is told to stop while the
// first is on its way.
type stopping struct {
	sink  *slowSink
	hurry chan struct{}
	log   *bytes.Buffer
	dir   string
	ended chan error
}

// waiting is how many blocks the spool holds at first.
const waiting = 5

func fillSpool(t *testing.T, dir string) {
	t.Helper()
	s, state, err := spool.Open(t.Context(), spool.Options{Dir: dir, Sinks: []string{"cloud"}, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	c := &spool.Commit{}
	for n := range waiting {
		at := time.Now().UnixNano()
		enc.Reset([]string{"plant/m/v"})
		enc.Add(0, &sample.Sample{Tag: "plant/m/v", Value: sample.FloatValue(float64(n)), Time: at})
		h := block.Header{Site: "plant", Gateway: "gw1", Stream: "s0001", Epoch: state.Epoch, Seq: uint64(n + 1), Count: 1, First: at, Last: at, Produced: uint64(n + 1)}
		data, err := enc.Encode(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		c.Blocks = append(c.Blocks, spool.Block{Stream: 1, Seq: h.Seq, Count: 1, First: at, Last: at, Data: data})
	}
	if err := s.Commit(c); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// stopWhileDelivering starts the gateway, tells it to stop while its first
// request is under way, and returns once it flushes.
func stopWhileDelivering(t *testing.T, times config.Shutdown) *stopping {
	t.Helper()
	dir := t.TempDir()
	s := &stopping{
		sink:  &slowSink{started: make(chan struct{}, 100), release: make(chan struct{}, 100)},
		hurry: make(chan struct{}), log: &bytes.Buffer{}, dir: filepath.Join(dir, "spool"), ended: make(chan error, 1),
	}
	fillSpool(t, s.dir)
	cfg, err := config.Parse("millrace.yaml", fmt.Appendf(nil, `
gateway: {site: plant, id: gw1}
spool: {dir: %s}
control: {socket: %s}
sources: [{name: web, type: http, connection: {listen: "127.0.0.1:0"}}]
sinks: [{name: cloud, type: slow}]
`, s.dir, filepath.Join(dir, "c.sock")), config.Registry{Protocols: protocols.List(), Sinks: []uploader.Kind{slowKind{s.sink}}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Shutdown = times
	stages := make(chan string, 10)
	g, err := gateway.New(t.Context(), gateway.Options{
		Config: cfg, Log: slog.New(slog.NewTextHandler(s.log, nil)), Clock: clock.System{}, Notify: quiet{stages}, StateDir: dir, Hurry: s.hurry,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { s.ended <- g.Run(ctx) }()
	<-s.sink.started
	cancel()
	for stage := range stages {
		if strings.Contains(stage, "delivering") {
			return s
		}
	}
	return nil
}

// end waits for the stop and checks what is left: each block is either
// accepted or in the spool.
func (s *stopping) end(t *testing.T) (accepted, cut, left int) {
	t.Helper()
	if err := <-s.ended; err != nil {
		t.Errorf("the gateway stopped with %v", err)
	}
	r, err := spool.OpenReadOnly(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	st := r.Stats()
	left = st.Sinks["cloud"].PendingBlocks
	total := int(st.NextNumber - 1) // with those that the gateway sealed itself
	if len(r.Losses()) > 0 || s.sink.accepted+left != total || total < waiting {
		t.Errorf("of %d blocks %d are accepted and %d left; losses %v", total, s.sink.accepted, left, r.Losses())
	}
	told := strings.Contains(s.log.String(), fmt.Sprintf("what is not delivered stays in the spool and goes up after the next start\" sink=cloud blocks=%d samples=", left))
	if told != (left > 0) {
		t.Errorf("%d blocks are left, and the log says\n%s", left, s.log)
	}
	return s.sink.accepted, s.sink.cut, left
}

func TestAStopDeliversWithinTheGrace(t *testing.T) {
	s := stopWhileDelivering(t, config.Shutdown{Grace: time.Hour, Deadline: time.Hour})
	close(s.sink.release)
	if accepted, cut, left := s.end(t); left != 0 || cut != 0 || accepted < waiting {
		t.Errorf("accepted %d, cut %d, left %d", accepted, cut, left)
	}
}

func TestAfterTheGraceTheRequestUnderWayIsAwaited(t *testing.T) {
	s := stopWhileDelivering(t, config.Shutdown{Grace: time.Millisecond, Deadline: time.Hour})
	time.Sleep(100 * time.Millisecond) // the grace is over, whatever the machine does
	s.sink.release <- struct{}{}
	if accepted, cut, left := s.end(t); accepted != 1 || cut != 0 || left < waiting-1 {
		t.Errorf("accepted %d, cut %d, left %d", accepted, cut, left)
	}
}

func TestAtTheDeadlineTheRequestUnderWayIsCutOff(t *testing.T) {
	s := stopWhileDelivering(t, config.Shutdown{Grace: time.Millisecond, Deadline: 2 * time.Millisecond})
	if accepted, cut, left := s.end(t); accepted != 0 || cut != 1 || left < waiting {
		t.Errorf("accepted %d, cut %d, left %d", accepted, cut, left)
	}
}

func TestASecondSignalEndsTheFlush(t *testing.T) {
	s := stopWhileDelivering(t, config.Shutdown{Grace: time.Hour, Deadline: 2 * time.Hour})
	close(s.hurry)
	if accepted, cut, left := s.end(t); accepted != 0 || cut != 1 || left < waiting {
		t.Errorf("accepted %d, cut %d, left %d", accepted, cut, left)
	}
	if !strings.Contains(s.log.String(), "a second signal ends the flush") {
		t.Errorf("the log says %s", s.log)
	}
}
