package gateway

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/config"
	"millrace/gateway/health"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample"
)

const (
	// mirrorGrace is how long the mirror may at least finish a write that is
	// under way. It is the end of the sources' grace, whose connections it shares.
	mirrorGrace = 5 * time.Second
	// unplugGrace is how long it may take to end once its connections are closed.
	unplugGrace = 2 * time.Second
	// settleWithin bounds how long the mirror waits at the start for the clock's
	// state and for the first reading of its enable tags: a result that has waited
	// in its queue while the gateway was restarted would be refused for nothing.
	settleWithin = 15 * time.Second
	settleEvery  = 50 * time.Millisecond
	// feedPoll is the longest wait of a feed, in which it does not beat.
	feedPoll = 20 * time.Second
)

// mirrored is the mirror with what it needs of the gateway.
type mirrored struct {
	g      *Gateway
	engine *mirror.Mirror
	// closed says that the engine is closed.
	closed  bool
	servers []*server
	status  *statusSamples
	live    map[string]*liveTag
	// enables are the tags that some target must read true.
	enables []string
	parts   []*health.Component
}

// openMirror builds the mirror: the servers of the gateway's own, the engine,
// and through it feeds and targets. Links are those of the sources where they
// are the same. Nothing is dialled, and nothing is opened for targets that are
// off.
func (g *Gateway) openMirror() error {
	cfg := &g.cfg.Mirror
	m := &mirrored{g: g, live: map[string]*liveTag{}}
	g.mirror = m
	var err error
	if m.status, err = g.openStatus(); err != nil {
		return err
	}
	m.watch()
	for i := range cfg.Devices {
		if err := m.openServer(&cfg.Devices[i]); err != nil {
			return err
		}
	}
	ec := mirror.Config{Keys: cfg.Keys, SignatureRequired: cfg.Signature != config.Optional, AuditKeep: cfg.AuditKeep}
	for i := range cfg.Feeds {
		ec.Feeds = append(ec.Feeds, mirror.Feed{Name: cfg.Feeds[i].Name, Config: cfg.Feeds[i].Config})
	}
	for i := range cfg.Targets {
		ec.Targets = append(ec.Targets, m.target(&cfg.Targets[i]))
	}
	m.engine, err = mirror.New(ec, mirror.Settings{
		Site: g.cfg.Gateway.Site, Gateway: g.cfg.Gateway.ID, Dir: cfg.Dir, Log: g.log.With("part", "mirror"),
		Clock: g.batch, Synchronised: g.synchronised, SinceBoot: g.times.SinceBoot, Boot: g.times.Boot(),
		Health: m.health, Latest: m.latest, Status: m.status.put, Dial: g.o.Dial,
	})
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return nil
}

// synchronised reports whether the time of samples can be trusted to tell
// whether a result has expired. Where the configuration says that this machine
// has no time server, the clock is taken as it is here too.
func (g *Gateway) synchronised() bool {
	return clockMode(g.cfg.Clock.Sync) == batch.ClockIgnore || g.batch.Clock().State == "synchronised"
}

// target turns a checked target into the engine's.
func (m *mirrored) target(t *config.Target) mirror.Target {
	limit := func(v *sample.Value) *float64 {
		if v == nil {
			return nil
		}
		f, _ := v.Number() // which is exact, as the configuration has checked
		return &f
	}
	return mirror.Target{
		Name: t.Name, Class: mirror.Class(t.Class), Mode: guard.Mode(t.Mode), Feeds: t.Feeds, Type: t.Type, Unit: t.Unit,
		Min: limit(t.Min), Max: limit(t.Max), MaxStep: limit(t.MaxStep), Clamp: t.Clamp,
		MinInterval: t.MinInterval, MaxAge: t.MaxAge, StaleAfter: t.StaleAfter,
		WhenStale: mirror.WhenStale(t.WhenStale), Fallback: t.Fallback, Enable: t.Enable, VerifyWithin: t.VerifyWithin, Heartbeat: t.Heartbeat,
		Open: func(h protocols.Health) (protocols.Target, error) {
			link, err := m.g.openLink(t.Link, "device", t.To)
			if err != nil {
				return nil, err
			}
			return openTarget(link, t, h)
		},
	}
}

// openTarget opens a target on its link.
func openTarget(link protocols.Connection, t *config.Target, h protocols.Health) (protocols.Target, error) {
	opener, ok := link.(protocols.TargetOpener)
	if !ok {
		panic(fmt.Sprintf("BUG: the configuration of %s is Writable and its connection, a %T, opens no targets", t.To, link))
	}
	return opener.OpenTarget(t.Write, h)
}

// health makes what hears how a part of the engine fares.
func (m *mirrored) health(name string) protocols.Health {
	kind, of, silence := health.Mirror, name, mirror.BeatEvery+stuckAfter
	for prefix, k := range map[string]health.Kind{"feed/": health.Feed, "target/": health.Target} {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			kind, of = k, name[len(prefix):]
		}
	}
	if kind == health.Feed {
		silence = feedPoll + stuckAfter
	}
	c := m.g.health.Add(kind, of, silence)
	m.parts = append(m.parts, c)
	return c
}

// run serves, and mirrors, until ctx is done.
func (m *mirrored) run(ctx context.Context) {
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var servers, status sync.WaitGroup
	for _, s := range m.servers {
		servers.Go(func() { s.run(serving) })
	}
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	status.Go(func() { m.status.run(sending) })

	m.settle(ctx)
	if err := m.engine.Run(ctx); err != nil {
		m.g.log.Error("the mirror ended with an error: "+err.Error(), "part", "mirror")
	}
	for _, c := range m.parts {
		c.Stopped()
	}
	stopServing()
	servers.Wait()
	m.status.drain()
	stopSending()
	status.Wait()
}

// settle waits until the state of the clock and the enable tags are known, or
// for settleWithin.
func (m *mirrored) settle(ctx context.Context) {
	within := time.NewTimer(settleWithin)
	defer within.Stop()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for !m.settled() {
		select {
		case <-ctx.Done():
			return
		case <-within.C:
			return
		case <-tick.C:
		}
	}
}

func (m *mirrored) settled() bool {
	return m.g.synchronised() && !slices.ContainsFunc(m.enables, func(tag string) bool {
		_, known := m.latest(tag)
		return !known
	})
}

// close closes the engine, its feeds, its targets and the audit log.
func (m *mirrored) close() error {
	if m.engine == nil || m.closed {
		return nil
	}
	m.closed = true
	if err := m.engine.Close(); err != nil {
		return fmt.Errorf("close the mirror: %w", err)
	}
	return nil
}

// endMirror waits for the mirror, which was told to stop, and closes it.
func (g *Gateway) endMirror(running *sync.WaitGroup, within time.Duration) error {
	if g.mirror == nil {
		return nil
	}
	if !waitFor(running, max(within, 100*time.Millisecond), g.o.Hurry) {
		// Its links are closed next, which ends what it waits for.
		if !g.o.hurried() {
			g.log.Warn("the mirror did not stop in time; its connections are closed", "waited", sourceGrace)
		}
		closing := g.closeLinks()
		if !waitFor(running, unplugGrace, nil) {
			g.mirror.closed = true // what still runs must not find its log closed
			return errors.Join(closing, errors.New("the mirror does not stop; what was under way is read back after the next start"))
		}
		return errors.Join(closing, g.mirror.close())
	}
	return g.mirror.close()
}

// server is one of the gateway's own servers, with what supervises it.
type server struct {
	g      *Gateway
	name   string
	link   protocols.Server
	health *health.Component
}

// openServer opens a server and tells it which live tags it shows. A server that
// shows nothing is not opened.
func (m *mirrored) openServer(d *config.Device) error {
	used := slices.ContainsFunc(m.g.cfg.Mirror.Targets, func(t config.Target) bool { return t.To == d.Name && t.Mode != config.ModeOff })
	if !d.Server || !used && len(d.Spec.Tags) == 0 {
		return nil
	}
	link, err := m.g.openLink(d.Connection, "server", d.Name)
	if err != nil {
		return err
	}
	srv, err := show(link, d, func(tag string) (protocols.Reading, bool) {
		t := m.live[tag]
		return t.newest(d.MaxAge[tag])
	})
	if err != nil {
		return err
	}
	m.servers = append(m.servers, &server{g: m.g, name: d.Name, link: srv, health: m.g.health.Add(health.Server, d.Name, stuckAfter)})
	return nil
}

// show has a server show the tags that are configured for it.
func show(link protocols.Connection, d *config.Device, latest func(tag string) (protocols.Reading, bool)) (protocols.Server, error) {
	srv, ok := link.(protocols.Server)
	if !ok {
		panic(fmt.Sprintf("BUG: the configuration of %s serves and its connection, a %T, does not", d.Name, link))
	}
	if err := srv.Show(d.Spec.Tags, latest); err != nil {
		return nil, fmt.Errorf("server %s: %w", d.Name, err)
	}
	return srv, nil
}

// run keeps the server going until ctx is done. One that fails is started again
// with a back-off and is reported meanwhile.
func (s *server) run(ctx context.Context) {
	defer s.health.Stopped()
	alive, stop := context.WithCancel(ctx)
	var beating sync.WaitGroup
	defer beating.Wait()
	defer stop()
	beating.Go(func() { s.beat(alive) })
	var wait backoff.Policy
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			attempt = 0
		}
		s.health.Down(fmt.Errorf("%w; it is started again by itself", err))
		backoff.Sleep(ctx, wait.Wait(attempt))
	}
}

// beat says that the server lives: it waits for clients, of which there may be
// none for days.
func (s *server) beat(ctx context.Context) {
	tick := time.NewTicker(mirror.BeatEvery)
	defer tick.Stop()
	for {
		s.health.Beat()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *server) once(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("BUG: panic: %v", p)
			s.g.log.Error("a server panicked; please report this", "server", s.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	if err := s.link.Serve(ctx, s.health); err != nil || ctx.Err() != nil {
		return err
	}
	return errEnded
}
