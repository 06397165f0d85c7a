// Package gateway builds a gateway from a configuration, supervises it and
// stops it: spool first, then sinks, the mirror and the sources; and in reverse.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/config"
	"millrace/gateway/control"
	"millrace/gateway/forecast"
	"millrace/gateway/health"
	"millrace/gateway/metrics"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample/ledger"
	"millrace/spool"
	"millrace/uploader"
)

// syncInterval is how often delivered data may leave the spool.
const syncInterval = time.Second

// Options come from code.
type Options struct {
	Config  *config.Config
	Version string
	Log     *slog.Logger
	Clock   clock.Clock
	// ExpectSync says that a time service runs on this machine, so that waiting
	// for it to synchronise the clock is worth while.
	ExpectSync bool
	Notify     Notifier
	// StateDir is where relative paths of sinks start.
	StateDir string
	// DeliveryGrace overrides shutdown.grace of the configuration, where not 0.
	DeliveryGrace time.Duration
	// Hurry, once closed, ends the flush of a stop at once: the operator asked
	// twice. May be nil.
	Hurry <-chan struct{}
	// SyncInterval overrides how often the spool is tended when
	// nothing is committed; 1 s where 0.
	SyncInterval time.Duration
	// SendTimeout and Backoff override how long a sink's request may take and how
	// failed ones are spaced; zero is uploader's default.
	SendTimeout time.Duration
	Backoff     backoff.Policy
	// Dial, where set, connects the sinks and the mirror's feeds to their endpoints.
	Dial uploader.Dial
	// Probe makes the process that looks at the spool's files before they are
	// mapped; where nil, the gateway does that itself.
	Probe func(ctx context.Context, args ...string) *exec.Cmd
	// WrapEmit, where set, stands between each source and its pipeline. Tests
	// break the data flow with it to see that the accounting notices.
	WrapEmit func(source string, emit protocols.Emit) protocols.Emit
}

// Notifier tells the service manager how the daemon fares.
type Notifier interface {
	Ready(status string)
	Status(line string)
	Watchdog()
	Stopping(status string)
	WatchdogInterval() time.Duration
}

// Gateway is one running gateway.
type Gateway struct {
	o       Options
	cfg     *config.Config
	log     *slog.Logger
	health  *health.Registry
	spool   *spool.Spool
	batch   *batch.Batcher
	times   *clock.Timeline // by which sources stamp samples
	sinks   []*sink
	links   map[string]protocols.Connection
	sources []*source
	mirror  *mirrored // nil where the mirror is not enabled
	started time.Time

	began    time.Time // by the monotonic clock
	store    timedStore
	metrics  *metrics.Set
	foretold atomic.Pointer[forecast.Forecast]

	telling  sync.Mutex // held while a status line is sent
	stopping bool
}

// New opens the spool and builds every part, without starting any. A device or
// an endpoint that is away is no error; a spool that is unusable is.
func New(ctx context.Context, o Options) (*Gateway, error) {
	if o.SyncInterval == 0 {
		o.SyncInterval = syncInterval
	}
	g := &Gateway{
		o: o, cfg: o.Config, log: o.Log, health: health.New(o.Log, o.Clock), links: map[string]protocols.Connection{},
		started: o.Clock.Now(), began: time.Now(),
	}
	if err := g.open(ctx); err != nil {
		return nil, errors.Join(err, g.closeAll())
	}
	return g, nil
}

func (g *Gateway) open(ctx context.Context) error {
	if err := g.openSpool(ctx); err != nil {
		return err
	}
	for i := range g.cfg.Sinks {
		s, err := g.openSink(&g.cfg.Sinks[i])
		if err != nil {
			return err
		}
		g.sinks = append(g.sinks, s)
	}
	for i := range g.cfg.Sources {
		s, err := g.openSource(&g.cfg.Sources[i])
		if err != nil {
			return err
		}
		g.sources = append(g.sources, s)
	}
	if g.cfg.Mirror.Enabled {
		return g.openMirror()
	}
	return nil
}

func (g *Gateway) openSpool(ctx context.Context) error {
	var sinks []string
	for i := range g.cfg.Sinks {
		sinks = append(sinks, g.cfg.Sinks[i].Name)
	}
	sp, state, err := spool.Open(ctx, spool.Options{
		Dir: g.cfg.Spool.Dir, MaxBytes: int64(g.cfg.Spool.MaxSize), SegmentBytes: int64(g.cfg.Spool.SegmentSize),
		Sinks: sinks, Log: g.log.With("part", "spool"), Clock: g.o.Clock, Probe: g.o.Probe,
	})
	if err != nil {
		return err
	}
	g.spool, g.store = sp, newTimedStore(sp)
	g.times = clock.NewTimeline(clock.SourceOf(g.o.Clock))
	// A commit must be small beside a segment.
	segment := int(min(g.cfg.Spool.SegmentSize, g.cfg.Spool.MaxSize/4))
	g.batch, err = batch.New(batch.Options{
		MaxOpenBytes: min(24<<20, segment), MaxCommitBytes: segment / 8,
		// The spool takes a commit of three eighths of its bound: with what waits
		// already, a stream's share of such a batch is never more.
		MaxEmitBytes: int(min(g.cfg.Spool.MaxSize/8, math.MaxInt32)),
		Site:         g.cfg.Gateway.Site, Gateway: g.cfg.Gateway.ID, CommitInterval: g.cfg.Spool.CommitInterval,
		Log: g.log, Clock: g.o.Clock, Health: g.health.Add(health.Spool, "disk", 90*time.Second),
		Timeline: g.times, ClockMode: clockMode(g.cfg.Clock.Sync), ClockHold: g.cfg.Clock.Hold, ExpectSync: g.o.ExpectSync,
		Version: g.o.Version, Backlog: func() ledger.Backlog { return backlogOf(sp.Stats()) },
	}, g.store, state)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// clockMode is the configuration's word for it. Only a checked configuration
// comes here, and one that was made in code says nothing.
func clockMode(word string) batch.ClockMode {
	switch word {
	case "auto":
		return batch.ClockAuto
	case "require":
		return batch.ClockRequire
	}
	return batch.ClockIgnore
}

// Run starts the gateway and returns after it has stopped: nil where ctx ended
// it, an error where the spool became unusable.
func (g *Gateway) Run(ctx context.Context) error {
	g.metrics = metrics.New(g.measure)
	run, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	var committing, syncing, delivering, mirroring, reading, watching sync.WaitGroup
	stage := func(wg *sync.WaitGroup) (context.Context, context.CancelFunc, func(func(context.Context))) {
		// Stages end one after the other, so none hears ctx itself.
		c, cancel := context.WithCancel(context.WithoutCancel(ctx))
		return c, cancel, func(f func(context.Context)) { wg.Go(func() { f(c) }) }
	}

	_, stopCommit, goCommit := stage(&committing)
	goCommit(func(c context.Context) {
		if err := g.batch.Run(c); err != nil {
			fail(err)
		}
	})
	_, stopSync, goSync := stage(&syncing)
	goSync(func(c context.Context) { g.tendLoop(c, fail) })
	_, stopDelivery, goDeliver := stage(&delivering)
	for _, s := range g.sinks {
		goDeliver(s.run)
	}
	_, stopWatch, goWatch := stage(&watching)
	server, err := control.Serve(g.cfg.Control.Socket, g.cfg.Control.Group, g.handlers(), g.log)
	if err != nil {
		g.log.Error("the local socket cannot be served, so `millrace status` will not work: "+err.Error(), "socket", g.cfg.Control.Socket)
	}
	scraped := g.serveMetrics()
	_, stopMirror, goMirror := stage(&mirroring)
	if g.mirror != nil {
		goMirror(g.mirror.run)
	}
	_, stopReading, goRead := stage(&reading)
	for _, s := range g.sources {
		goRead(s.run)
	}
	g.o.Notify.Ready(g.statusLine())
	g.log.Info("the gateway runs", "version", g.o.Version, "site", g.cfg.Gateway.Site, "gateway", g.cfg.Gateway.ID,
		"sources", len(g.sources), "sinks", len(g.sinks), "spool", g.cfg.Spool.Dir)
	goWatch(func(c context.Context) { g.watch(c) })
	goWatch(g.forecastLoop)

	<-run.Done()
	g.telling.Lock() // no status line follows what is said of the stop
	g.stopping = true
	g.telling.Unlock()
	g.o.Notify.Stopping("stopping: sources")
	g.log.Info("stopping", "why", context.Cause(run).Error())
	began := time.Now()
	stopReading()
	read := waitFor(&reading, sourceGrace-mirrorGrace, g.o.Hurry)
	stopMirror()
	if !read && !waitFor(&reading, mirrorGrace, g.o.Hurry) && !g.o.hurried() {
		g.log.Warn("sources did not stop in time; their connections are closed", "waited", sourceGrace)
	}
	closing := g.endMirror(&mirroring, sourceGrace-time.Since(began))
	closing = errors.Join(closing, g.closeLinks())
	stopCommit()
	committing.Wait()
	g.o.Notify.Stopping("stopping: delivering what is queued")
	g.flush(&delivering, stopDelivery, ctx.Err() == nil)
	stopSync()
	syncing.Wait()
	if scraped != nil {
		closing = errors.Join(closing, scraped.Close())
	}
	if server != nil {
		closing = errors.Join(closing, server.Close())
	}
	stopWatch()
	watching.Wait()
	closing = errors.Join(closing, g.closeAll())
	if cause := context.Cause(run); ctx.Err() == nil {
		return errors.Join(cause, closing)
	}
	return closing
}

// tendLoop lets delivered data leave the spool.
func (g *Gateway) tendLoop(ctx context.Context, fail context.CancelCauseFunc) {
	tick := time.NewTicker(g.o.SyncInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := g.spool.Tend(); err != nil {
			var full *spool.FullError
			if !errors.As(err, &full) {
				fail(fmt.Errorf("spool: %w", err))
				return
			}
		}
	}
}

// watch feeds the watchdog while every loop turns, and keeps the status line
// until the gateway is stopping.
func (g *Gateway) watch(ctx context.Context) {
	interval := 5 * time.Second
	if w := g.o.Notify.WatchdogInterval(); w > 0 {
		interval = min(interval, w/4)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	told := false
	for {
		if stuck := g.health.Stuck(); len(stuck) == 0 {
			g.o.Notify.Watchdog()
			told = false
		} else if !told {
			told = true
			g.log.Error("a loop is stuck; the watchdog is not fed, so that the service manager restarts the gateway", "stuck", stuck)
		}
		g.telling.Lock()
		if !g.stopping {
			g.o.Notify.Status(g.statusLine())
		}
		g.telling.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *Gateway) closeLinks() error {
	var errs []error
	for key, c := range g.links {
		if err := c.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", key, err))
		}
		delete(g.links, key)
	}
	return errors.Join(errs...)
}

// closeAll closes what is open still; the spool last.
func (g *Gateway) closeAll() error {
	var errs []error
	if g.mirror != nil {
		errs = append(errs, g.mirror.close())
	}
	errs = append(errs, g.closeLinks())
	for _, s := range g.sinks {
		if err := s.sink.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close sink %s: %w", s.name, err))
		}
	}
	g.sinks = nil
	if g.spool != nil {
		errs = append(errs, g.spool.Close())
		g.spool = nil
	}
	return errors.Join(errs...)
}

// waitFor reports whether wg was done within d, and before hurry was closed.
func waitFor(wg *sync.WaitGroup, d time.Duration, hurry <-chan struct{}) bool {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
	case <-hurry:
	}
	return false
}
