package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/result"
	"millrace/uploader"
)

var errDead = errors.New("the process is dead")

// world is what outlives the gateway: the disk, the plant, the cloud. Once it
// is stopped, nothing that the gateway does has any effect.
type world struct {
	mu      sync.Mutex
	dead    bool
	log     []*entry // durable records, as they come back from the disk
	logFail error
	clock   *clock.Fake
	devices map[string]*plc
	feed    *queue
	status  []sample.Sample
	tags    map[string]protocols.Reading
	lines   strings.Builder
	down    map[string]string // by component
	beats   map[string]time.Time
	changes int // of what is down
	opened  int // feeds and targets
	step    func(name string)
	// armedUntil is until when a write may begin, since boot, where a test keeps it.
	armedUntil time.Duration
}

// disk is the audit log on the world's disk.
type disk struct{ w *world }

func (d disk) Append(entries []*entry) error {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.w.dead {
		return errDead
	}
	if d.w.logFail != nil {
		return d.w.logFail
	}
	for _, e := range entries {
		e.n = uint64(len(d.w.log)) + 1
		e.hash = fmt.Sprintf("hash-%d", e.n)
		kept := *e
		raw, err := json.Marshal(e.change)
		if err != nil {
			return err
		}
		kept.change = change{}
		if err := json.Unmarshal(raw, &kept.change); err != nil {
			return err
		}
		d.w.log = append(d.w.log, &kept)
	}
	return nil
}

func (d disk) Replay(_ func(json.RawMessage) error, record func(*entry) error) error {
	for _, e := range d.w.log {
		raw, err := json.Marshal(e.change)
		if err != nil {
			return err
		}
		again := *e
		again.change = change{}
		if err := json.Unmarshal(raw, &again.change); err != nil {
			return err
		}
		if err := record(&again); err != nil {
			return err
		}
	}
	return nil
}

func (d disk) Checkpoint(func() (json.RawMessage, error)) {}

func (d disk) Head() (uint64, string) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return uint64(len(d.w.log)), fmt.Sprintf("hash-%d", len(d.w.log))
}

func (d disk) Close() error { return nil }

// plc is a simulated device with one place.
type plc struct {
	w *world

	present sample.Value
	quality sample.Quality
	version uint64 // kept where keeps is set
	keeps   bool
	round   func(sample.Value) sample.Value
	prepare error
	write   error // its answer; the write has no effect unless carries is set
	carries bool
	read    error
	tellErr error
	ignores bool // it confirms a write and does not carry it out

	hang      chan struct{} // a write waits for it
	panics    bool          // the next write does
	writes    []protocols.Command
	writtenAt []time.Duration // since boot
	// allowedUntil is what the world knew of the arming at each write.
	allowedUntil []time.Duration
	reads        int
	states       []protocols.State
	restored     []protocols.Command
	closed       bool
}

func (p *plc) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.prepare != nil {
		return v, p.prepare
	}
	if p.round != nil {
		v = p.round(v)
	}
	return v, nil
}

func (p *plc) Write(ctx context.Context, c protocols.Command) error {
	p.w.mu.Lock()
	hang, panics := p.hang, p.panics
	p.panics = false
	p.w.mu.Unlock()
	if panics {
		panic("index out of range")
	}
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.w.dead {
		return errDead
	}
	if p.write != nil && !p.carries {
		return p.write
	}
	p.writes = append(p.writes, c)
	p.writtenAt = append(p.writtenAt, p.w.clock.SinceBoot())
	p.allowedUntil = append(p.allowedUntil, p.w.armedUntil)
	if p.ignores {
		return p.write
	}
	p.present = c.Value
	if p.round != nil {
		p.present = p.round(c.Value)
	}
	if p.keeps {
		p.version = c.Version
	}
	return p.write
}

func (p *plc) Read(context.Context) (protocols.Reading, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.reads++
	if p.read != nil {
		return protocols.Reading{}, p.read
	}
	return protocols.Reading{Value: p.present, Quality: p.quality, Version: p.version}, nil
}

func (p *plc) Tell(_ context.Context, s protocols.State) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.w.dead {
		return errDead
	}
	if p.tellErr != nil {
		return p.tellErr
	}
	p.states = append(p.states, s)
	return nil
}

// told, wrote and shows are what the device has seen so far.
func (p *plc) told() []protocols.State { return seen(p, &p.states) }

func (p *plc) wrote() []protocols.Command { return seen(p, &p.writes) }

func (p *plc) shows() []protocols.Command { return seen(p, &p.restored) }

func seen[T any](p *plc, list *[]T) []T {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return slices.Clone(*list)
}

func (p *plc) Close() error { p.closed = true; return nil }

// shown is a device that lives in the gateway.
type shown struct{ *plc }

func (s shown) Restore(c protocols.Command) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !s.w.dead {
		s.restored = append(s.restored, c)
	}
}

// queue is a feed: what is not done comes again after a restart.
type queue struct {
	w       *world
	waiting []feeds.Message
	flight  []feeds.Message
	wake    chan struct{}
	err     error
	deaf    error // it cannot be told what is done
	done    int
	cursor  string
}

func (q *queue) put(m ...feeds.Message) {
	q.w.mu.Lock()
	q.waiting = append(q.waiting, m...)
	q.w.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) Receive(ctx context.Context) ([]feeds.Message, error) {
	end := time.After(20 * time.Second)
	for {
		q.w.mu.Lock()
		if q.w.dead || q.err != nil {
			defer q.w.mu.Unlock()
			if q.w.dead {
				return nil, errDead
			}
			return nil, q.err
		}
		n := min(10, len(q.waiting))
		got := slices.Clone(q.waiting[:n])
		q.waiting = q.waiting[n:]
		q.flight = append(q.flight, got...)
		q.w.mu.Unlock()
		if n > 0 {
			return got, nil
		}
		select {
		case <-q.wake:
		case <-end:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *queue) Done(_ context.Context, all []feeds.Message) error {
	q.w.mu.Lock()
	defer q.w.mu.Unlock()
	if q.w.dead {
		return errDead
	}
	if q.deaf != nil {
		return q.deaf
	}
	for _, m := range all {
		i := slices.IndexFunc(q.flight, func(f feeds.Message) bool { return f.Key == m.Key })
		q.flight = slices.Delete(q.flight, i, i+1)
		q.done++
	}
	return nil
}

func (q *queue) Check(context.Context) error { return nil }
func (q *queue) Close() error                { return nil }

// Open implements feeds.Config.
func (q *queue) Open(s feeds.Settings) (feeds.Feed, error) {
	q.w.opened++
	q.cursor = s.Cursor
	return q, nil
}

// Validate implements feeds.Config.
func (q *queue) Validate() []uploader.Fault { return nil }

// component is a part's health.
type component struct {
	w    *world
	name string
}

func (c component) Beat() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.beats[c.name] = time.Now()
}

func (c component) Up() { c.set("") }

func (c component) Down(err error) {
	c.set(err.Error())
}
func (c component) set(why string) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if why != c.w.down[c.name] {
		c.w.changes++
	}
	c.w.down[c.name] = why
}

// rig is a gateway's mirror in its world.
type rig struct {
	*world
	t      *testing.T
	cfg    Config
	m      *Mirror
	cancel context.CancelFunc
	ended  chan error
	n      int
}

// sp1 is a target as tests want it.
func sp1() Target {
	return Target{
		Name: "sp1", Class: MirrorTag, Mode: guard.Armed, Feeds: []string{"results"}, Type: sample.Float64, Unit: "kW",
		Min: ptr(0.0), Max: ptr(500.0), WhenStale: Mark, VerifyWithin: 2 * time.Second,
	}
}

func ptr[T any](v T) *T { return &v }

// within runs test in a bubble, with a rig of targets.
func within(t *testing.T, targets []Target, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, targets)
		r.start()
		test(r)
		r.stop()
	})
}

func newRig(t *testing.T, targets []Target) *rig {
	w := &world{
		clock: clock.NewRunningFake(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)), devices: map[string]*plc{},
		tags: map[string]protocols.Reading{}, down: map[string]string{}, beats: map[string]time.Time{},
	}
	w.feed = &queue{w: w, wake: make(chan struct{}, 1)}
	r := &rig{world: w, t: t, cfg: Config{Feeds: []Feed{{Name: "results", Config: w.feed}}, Targets: targets}}
	for i := range r.cfg.Targets {
		target := &r.cfg.Targets[i]
		p := &plc{w: w}
		w.devices[target.Name] = p
		target.Open = func(protocols.Health) (protocols.Target, error) {
			w.opened++
			return shown{p}, nil
		}
	}
	return r
}

func (r *rig) settings() Settings {
	return Settings{
		Site: "north", Gateway: "gw1", Dir: "/var/lib/mirror", Log: slog.New(slog.NewTextHandler(lineWriter{r.world}, nil)),
		Clock: r.clock, Synchronised: func() bool { return r.clock.Sync() == clock.Synchronised }, SinceBoot: r.clock.SinceBoot, Boot: r.clock.Boot(),
		Health: func(name string) protocols.Health { return component{r.world, name} },
		Latest: func(tag string) (protocols.Reading, bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			v, ok := r.tags[tag]
			return v, ok
		},
		Status: func(_ string, s sample.Sample) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.status = append(r.status, s)
		},
		Step: func(name string) {
			r.mu.Lock()
			step := r.step
			r.mu.Unlock()
			if step != nil {
				step(name)
			}
		},
	}
}

type lineWriter struct{ w *world }

func (l lineWriter) Write(p []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.lines.Write(p)
}

var _ io.Writer = lineWriter{}

// start starts the gateway; what the feed had not been told of comes again.
func (r *rig) start() {
	r.t.Helper()
	r.mu.Lock()
	r.dead = false
	r.feed.waiting = append(r.feed.flight, r.feed.waiting...)
	r.feed.flight = nil
	r.mu.Unlock()
	m, err := newMirror(r.cfg, r.settings(), disk{r.world})
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
	r.run()
}

// run runs r.m.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- r.m.Run(ctx) }()
	synctest.Wait()
}

// stop stops it as an operator does.
func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil && !r.isDead() && r.logFail == nil {
		r.t.Errorf("Run ends with %v", err)
	}
	if err := r.m.Close(); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}

func (r *rig) isDead() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

// restart stops and starts.
func (r *rig) restart() { r.stop(); r.start() }

// pass lets time go by.
func (r *rig) pass(d time.Duration) { time.Sleep(d); synctest.Wait() }

// lock runs f while nothing of the world moves.
func (r *rig) lock(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// result is a good result for sp1.
func (r *rig) result(version uint64, v float64) *result.Result {
	now := r.clock.Now()
	return &result.Result{
		ID: fmt.Sprintf("r-%d", version), Site: "north", Target: "sp1", Version: version, Value: sample.FloatValue(v), Unit: "kW",
		ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(10 * time.Minute), Run: "test",
	}
}

// send puts results into the feed, as they are, and waits until all is quiet.
func (r *rig) send(all ...*result.Result) {
	r.t.Helper()
	var messages []feeds.Message
	for _, one := range all {
		body, err := one.Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		r.n++
		messages = append(messages, feeds.Message{Key: fmt.Sprintf("m-%d", r.n), Body: body, Cursor: fmt.Sprintf("%08d", r.n)})
	}
	r.feed.put(messages...)
	synctest.Wait()
}

// story is what the audit log says, in short: "outcome sp1 17 refused expired".
func (r *rig) story() []string {
	var lines []string
	r.lock(func() {
		for _, e := range r.log {
			if e.kind == kindStart || e.kind == kindStop {
				continue
			}
			lines = append(lines, strings.Join(strings.Fields(fmt.Sprintf("%s %s %d %s %s", e.kind, e.target, e.version, e.outcome, e.reason)), " "))
		}
	})
	return lines
}

// tells fails the test unless the audit log ends with these lines.
func (r *rig) tells(want ...string) {
	r.t.Helper()
	got := r.story()
	if len(got) > len(want) {
		got = got[len(got)-len(want):]
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("the audit log ends with\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// written fails the test unless these values were written to sp1, all in all.
func (r *rig) written(want ...float64) {
	r.t.Helper()
	var got []float64
	r.lock(func() {
		for _, c := range r.devices["sp1"].writes {
			got = append(got, c.Value.Float())
		}
	})
	if !slices.Equal(got, want) {
		r.t.Errorf("sp1 was written %v, want %v", got, want)
	}
}

// undone is how many messages the feed still has.
func (r *rig) undone() (n int) {
	r.lock(func() { n = len(r.feed.waiting) + len(r.feed.flight) })
	return n
}

func (r *rig) logged() (text string) {
	r.lock(func() { text = r.lines.String() })
	return text
}

func (r *rig) downOf(name string) (why string) {
	r.lock(func() { why = r.down[name] })
	return why
}
