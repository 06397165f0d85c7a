package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/spool"
	"millrace/uploader"
)

// childEnv holds a childConfig for a program that is to be the child.
const childEnv = "MILLRACE_FAULTS_CHILD"

// childConfig is how the gateway in the child is set up.
type childConfig struct {
	Dir            string // the spool is in Dir/spool, or in Spool where that is set
	Spool          string
	MaxBytes       int64
	SegmentBytes   int64
	CommitInterval time.Duration
	MaxAge         time.Duration
	SyncInterval   time.Duration
	Sinks          []string
	// ChildProbe has a job look at files in a process of its own, as a gateway
	// does always.
	ChildProbe bool
	// CrashProbe has the process that salvages a file crash.
	CrashProbe bool
	// Job, where set, is done on the spool instead of running a gateway.
	Job  string
	Args []string
}

func (c *childConfig) spool() string {
	if c.Spool != "" {
		return c.Spool
	}
	return filepath.Join(c.Dir, "spool")
}

// probeEnv marks the process that looks at the spool's files for the child.
const probeEnv = "MILLRACE_FAULTS_PROBE"

// probeCrash is its value for one that crashes where it has something to salvage.
const probeCrash = "crash"

// IsChild reports whether this process was started to be a gateway under test,
// or that one's probe.
func IsChild() bool { return os.Getenv(childEnv) != "" || os.Getenv(probeEnv) != "" }

// probe makes the process that looks at the spool's files. A failpoint that it
// meets kills the gateway too.
func (c *childConfig) probe(ctx context.Context, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic("the test program has no path: " + err.Error())
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), probeEnv+"="+map[bool]string{false: "whole", true: probeCrash}[c.CrashProbe], "MILLRACE_FAILPOINT_PARENT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// RunChild runs it and returns the exit code.
func RunChild() int {
	if how := os.Getenv(probeEnv); how != "" {
		if how == probeCrash && slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-salvage") }) {
			panic("the probe crashes, as it was told to")
		}
		return spool.ProbeMain(os.Args[1:], os.Stdout)
	}
	if err := runChild(); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func runChild() error {
	var c childConfig
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &c); err != nil {
		return err
	}
	if c.Job != "" {
		return runJob(&c)
	}
	f := os.NewFile(3, "socket")
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return runGateway(ctx, &c, newLink(conn))
}

// runGateway is what `millrace run` does, with a source and a sink that end at
// the parent.
func runGateway(ctx context.Context, c *childConfig, l *link) error {
	w := &pipe{link: l, produced: make(chan *message, 64), waiting: map[uint64]chan *message{}, acks: make(chan *message, 4096)}
	cfg, err := w.config(c)
	if err != nil {
		return err
	}
	log := stderrLog()
	g, err := gateway.New(ctx, gateway.Options{
		Config: cfg, Version: "faults", Log: log, Clock: clock.System{}, Notify: w, StateDir: c.Dir, SyncInterval: c.SyncInterval,
		Probe: c.probe,
	})
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // told to stop while it started
		}
		return err
	}
	w.gateway = g
	go w.read()
	go w.tellAcks()
	return g.Run(ctx)
}

func (w *pipe) config(c *childConfig) (*config.Config, error) {
	text := fmt.Sprintf("gateway: {site: plant, id: gw1}\nspool: {dir: %q}\ncontrol: {socket: %q}\nsources: [{name: in, type: pipe, batch: {max_age: 1s}}]\nsinks:\n",
		c.spool(), filepath.Join(c.Dir, "control.sock"))
	for _, s := range c.Sinks {
		text += fmt.Sprintf("  - {name: %s, type: pipe}\n", s)
	}
	cfg, err := config.Parse("child", []byte(text), config.Registry{Protocols: []protocols.Protocol{w}, Sinks: []uploader.Kind{sinkKind{w}}})
	if err != nil {
		return nil, err
	}
	// Smaller than a configuration may say, so that a trial of a second sees
	// rotation, eviction and removal.
	cfg.Spool.MaxSize, cfg.Spool.SegmentSize = bytesize.Size(c.MaxBytes), bytesize.Size(c.SegmentBytes)
	cfg.Spool.CommitInterval = c.CommitInterval
	cfg.Sources[0].Batch.MaxAge = c.MaxAge
	return cfg, nil
}

// pipe is the child's source, its sinks' endpoint and its service manager.
type pipe struct {
	link     *link
	produced chan *message
	acks     chan *message
	gateway  *gateway.Gateway

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan *message
}

// read serves the parent until it is gone, and then ends the process: nobody
// watches it any more.
func (w *pipe) read() {
	for {
		m, err := w.link.receive()
		if err != nil {
			os.Exit(3)
		}
		switch m.Kind {
		case msgProduce:
			w.produced <- m
		case msgOutcome:
			w.mu.Lock()
			c := w.waiting[m.ID]
			delete(w.waiting, m.ID)
			w.mu.Unlock()
			if c != nil {
				c <- m
			}
		case msgStatus:
			text, err := json.Marshal(w.gateway.Status())
			if err != nil {
				panic("BUG: the status does not encode: " + err.Error())
			}
			w.acks <- &message{Kind: msgStatus, ID: m.ID, Text: string(text)}
		}
	}
}

// tellAcks sends what must not be waited for.
func (w *pipe) tellAcks() {
	for m := range w.acks {
		if w.link.send(m) != nil {
			os.Exit(3)
		}
	}
}

// Type implements protocols.Protocol.
func (w *pipe) Type() string { return "pipe" }

// NewConfig implements protocols.Protocol.
func (w *pipe) NewConfig() protocols.Config { return &pipeConfig{w} }

type pipeConfig struct{ w *pipe }

func (c *pipeConfig) Validate(*protocols.SourceConfig) []protocols.Fault { return nil }
func (c *pipeConfig) LinkKey() string                                    { return "pipe" }
func (c *pipeConfig) Open(protocols.Settings) (protocols.Connection, error) {
	return &pipeSource{w: c.w}, nil
}

// pipeSource emits what the parent produces.
type pipeSource struct {
	w *pipe
	h protocols.Health
}

func (s *pipeSource) OpenSource(_ *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	s.h = h
	return s, nil
}
func (s *pipeSource) Close() error { return nil }

// Run implements protocols.Source.
func (s *pipeSource) Run(ctx context.Context, emit protocols.Emit) error {
	s.h.Up()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-s.w.produced:
			s.emit(ctx, emit, m)
		}
	}
}

func (s *pipeSource) emit(ctx context.Context, emit protocols.Emit, m *message) {
	answer := func(err error) {
		a := &message{Kind: msgAcked, ID: m.ID}
		if err != nil {
			a.Text = err.Error()
		}
		s.w.acks <- a
	}
	now := time.Now()
	batch := make([]sample.Sample, len(m.Samples))
	for i := range m.Samples {
		batch[i] = m.Samples[i].sample(now)
	}
	done := answer
	if m.Polled {
		done = nil
	}
	if err := emit(ctx, batch, done); err != nil || m.Polled {
		answer(err)
	}
}

// sinkKind is the kind of sink that asks the parent.
type sinkKind struct{ w *pipe }

func (k sinkKind) Type() string               { return "pipe" }
func (k sinkKind) NewConfig() uploader.Config { return &sinkConfig{k.w} }

type sinkConfig struct{ w *pipe }

func (c *sinkConfig) Validate() []uploader.Fault { return nil }
func (c *sinkConfig) Open(s uploader.Settings) (uploader.Sink, error) {
	return &pipeSink{w: c.w, name: s.Name}, nil
}

type pipeSink struct {
	w    *pipe
	name string
}

// Limits implements uploader.Sink.
func (s *pipeSink) Limits() uploader.Limits {
	return uploader.Limits{MaxBlocks: 4, MaxBytes: 1 << 20, Size: func(b *uploader.Block) int { return len(b.Data) }, Concurrency: 2}
}

// Send implements uploader.Sink.
func (s *pipeSink) Send(ctx context.Context, blocks []uploader.Block) []error {
	m := &message{Kind: msgBlocks, Sink: s.name}
	for i := range blocks {
		m.Blocks = append(m.Blocks, blocks[i].Data)
	}
	c := make(chan *message, 1)
	s.w.mu.Lock()
	s.w.last++
	m.ID = s.w.last
	s.w.waiting[m.ID] = c
	s.w.mu.Unlock()
	out := make([]error, len(blocks))
	fill := func(err error) []error {
		for i := range out {
			out[i] = err
		}
		return out
	}
	if err := s.w.link.send(m); err != nil {
		return fill(err)
	}
	select {
	case <-ctx.Done():
		return fill(ctx.Err())
	case a := <-c:
		for i, o := range a.Outcomes {
			out[i] = o.err()
		}
	}
	return out
}

// err is the outcome as a sink reports it.
func (o outcome) err() error {
	class := map[outcome]uploader.Class{failed: uploader.Transient, throttled: uploader.Throttled, held: uploader.Hold, refused: uploader.Permanent}
	if o == accepted {
		return nil
	}
	return &uploader.SendError{Class: class[o], Op: "send to the parent", RetryAfter: time.Millisecond}
}

func (s *pipeSink) Check(context.Context) error { return nil }
func (s *pipeSink) Close() error                { return nil }

// Ready implements gateway.Notifier.
func (w *pipe) Ready(string) { w.acks <- &message{Kind: msgReady} }

// Status implements gateway.Notifier.
func (w *pipe) Status(string) {}

// Watchdog implements gateway.Notifier.
func (w *pipe) Watchdog() {}

// Stopping implements gateway.Notifier.
func (w *pipe) Stopping(string) {}

// WatchdogInterval implements gateway.Notifier.
func (w *pipe) WatchdogInterval() time.Duration { return 0 }
