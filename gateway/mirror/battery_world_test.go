package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"millrace/feeds"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/uploader"
)

const (
	siteName  = "north"
	enableTag = "north/plc/mirror_ok"
	feedName  = "results"
	// visibility is how long a message that was received stays hidden.
	visibility = 30 * time.Second
	// slowest is the longest that the simulated PLC takes for an answer.
	slowest = 50 * time.Millisecond
)

// world is everything around the engine: PLC, queue, disk and clocks. It
// outlives each engine, and what an engine does after its kill comes to nothing.
type world struct {
	clock *clock.Fake

	mu     sync.Mutex
	rnd    *rand.Rand
	lives  int
	places map[string]*place
	queue  []*message
	come   chan struct{} // closed, and made anew, when messages come
	disk   *disk
	faults []string // what must not be, as soon as it was seen

	// What the oracle needs to know of the past.
	enable, synced, armed history
	reads                 map[string][]answer
	writes                []write
	deliveries            map[string][]delivery // by the message's key
	told                  map[string]protocols.State
	duplicate             bool // messages are delivered twice now and then
	hasty                 bool // messages are deleted as they are handed over: the battery must notice
	table                 bool // it is a table with cursors, and not a queue that forgets what is done
}

// answer is what a place said when it was read.
type answer struct {
	at    time.Time
	value *sample.Value // nil where nothing usable came
}

// write is one value that came to stand in the PLC.
type write struct {
	at      time.Time
	life    int
	target  string
	command protocols.Command
	intents int           // of this version, durable before it
	before  *sample.Value // what stood there
	changed time.Time     // since when
}

// delivery is one time that a message was handed to an engine.
type delivery struct {
	at      time.Time
	life    int
	records uint64 // the last record of the audit log that was durable then
}

// life is one engine's time from start to kill.
type life struct {
	w    *world
	no   int
	left int // effects until the kill; 0: none is planned
	dead bool
	// over is closed at the kill.
	over chan struct{}
}

func newWorld(rnd *rand.Rand, at time.Time, dir string, rules []*rule) *world {
	w := &world{
		clock: clock.NewRunningFake(at), rnd: rnd, places: map[string]*place{}, come: make(chan struct{}), reads: map[string][]answer{},
		deliveries: map[string][]delivery{}, told: map[string]protocols.State{},
	}
	w.disk = newDisk(w, dir)
	for _, r := range rules {
		w.places[r.name] = &place{w: w, rule: r}
		w.armed.set(at, r.name, r.mode)
	}
	w.enable.set(at, "", "yes")
	w.synced.set(at, "", "yes")
	return w
}

// born begins a life that is killed after so many effects; 0 is never.
func (w *world) born(left int) *life {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives++
	return &life{w: w, no: w.lives, left: left, over: make(chan struct{})}
}

// effect is called, with the world's lock, before anything that an engine does
// to the world. It reports whether that happens, and whether the engine lives to
// see it: a kill comes just before or just after.
func (l *life) effect() (happens, seen bool) {
	if l.dead {
		return false, false
	}
	if l.left > 0 {
		if l.left--; l.left == 0 {
			l.die()
			return l.w.rnd.IntN(2) == 0, false
		}
	}
	return true, true
}

// die is called with the world's lock.
func (l *life) die() {
	if !l.dead {
		l.dead = true
		close(l.over)
	}
}

// kill ends the life now.
func (l *life) kill() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.die()
}

func (l *life) isDead() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.dead
}

var errKilled = errors.New("the engine was killed")

// fault notes what must not be. It is called with the world's lock.
func (w *world) fault(format string, args ...any) {
	if len(w.faults) < faultsShown {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// rule is one target as the oracle knows it, and as the engine is told.
type rule struct {
	name, unit, device string
	kind               sample.Kind
	mode               string // of the configuration
	min, max, maxStep  float64
	limited, clamp     bool
	minInterval        time.Duration
	maxAge, staleAfter time.Duration
	fallback           *sample.Value
	enable             bool
	signed             bool
	keepsVersion       bool
	setpoint           bool
	heartbeat          time.Duration
}

// mishap is what becomes of the next writes.
type mishap int

const (
	none mishap = iota
	rejects
	losesRequest // it never arrives, and nobody says so
	losesAnswer  // it is carried out, and nobody says so
	alters       // it is carried out, and at once overwritten by another value
)

// place is one place in the simulated PLC.
type place struct {
	w       *world
	rule    *rule
	stands  *sample.Value
	changed time.Time
	version uint64
	away    bool
	slow    bool
	busy    int // calls under way
	next    mishap
}

// target is a place as one engine sees it.
type target struct {
	l *life
	p *place
}

// fits returns a value as the device holds it.
func (r *rule) fits(v sample.Value) (sample.Value, bool) {
	switch r.device {
	case "float32":
		f := float32(v.Float())
		return sample.FloatValue(float64(f)), !math.IsInf(float64(f), 0)
	case "uint16":
		return v, v.Int() >= 0 && v.Int() <= math.MaxUint16
	case "text":
		return v, len(v.Str()) <= 16
	}
	return v, true
}

// Prepare implements protocols.Target.
func (t *target) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	out, ok := t.p.rule.fits(v)
	if !ok {
		return v, protocols.Unsuitedf("%s does not fit into a %s", v, t.p.rule.device)
	}
	return out, nil
}

// wait is how long the device takes.
func (t *target) wait(ctx context.Context) error {
	w := t.l.w
	w.mu.Lock()
	d := time.Duration(0)
	if t.p.slow {
		d = time.Duration(w.rnd.Int64N(int64(slowest)))
	}
	if d == 0 {
		w.mu.Unlock()
		return nil
	}
	t.p.busy++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		t.p.busy--
		w.mu.Unlock()
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Write implements protocols.Target.
func (t *target) Write(ctx context.Context, c protocols.Command) error {
	if err := t.wait(ctx); err != nil {
		return &protocols.WriteError{Outcome: protocols.Unknown, Err: err}
	}
	w, p := t.l.w, t.p
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.away {
		return &protocols.WriteError{Outcome: protocols.Unsent, Err: errors.New("the PLC is away")}
	}
	m := p.next
	if w.rnd.IntN(3) == 0 {
		p.next = none
	}
	happens, seen := t.l.effect()
	if !seen {
		if happens && m != rejects && m != losesRequest {
			t.stand(c)
		}
		return &protocols.WriteError{Outcome: protocols.Unknown, Err: errKilled}
	}
	switch m {
	case rejects:
		return &protocols.WriteError{Outcome: protocols.Rejected, Err: errors.New("the PLC says no")}
	case losesRequest:
		return &protocols.WriteError{Outcome: protocols.Unknown, Err: errors.New("no answer")}
	case losesAnswer:
		t.stand(c)
		return &protocols.WriteError{Outcome: protocols.Unknown, Err: errors.New("no answer")}
	case alters:
		t.stand(c)
		if v, ok := other(*p.stands); ok {
			p.stands, p.version = &v, 0
		}
		return nil
	case none:
	}
	t.stand(c)
	return nil
}

// other is another value of the same kind.
func other(v sample.Value) (sample.Value, bool) {
	switch v.Kind() {
	case sample.Float64:
		return sample.FloatValue(v.Float() + 1), true
	case sample.Int64:
		return sample.IntValue(v.Int() + 1), true
	case sample.Bool:
		return sample.BoolValue(!v.Bool()), true
	}
	return sample.StringValue(v.Str() + "?"), true
}

// stand is the moment that all of this is about: a value comes to stand in the
// PLC. It is called with the world's lock.
func (t *target) stand(c protocols.Command) {
	w := t.l.w
	v, ok := t.p.rule.fits(c.Value)
	if !ok {
		w.fault("%s was written to %s, a %s", c.Value, t.p.rule.name, t.p.rule.device)
	}
	now := w.clock.Now()
	w.writes = append(w.writes, write{
		at: now, life: t.l.no, target: t.p.rule.name, command: c, intents: w.disk.intents[intentKey{t.p.rule.name, c.Version}],
		before: t.p.stands, changed: t.p.changed,
	})
	t.p.stands, t.p.version, t.p.changed = &v, c.Version, now
}

// Read implements protocols.Target.
func (t *target) Read(ctx context.Context) (protocols.Reading, error) {
	if err := t.wait(ctx); err != nil {
		return protocols.Reading{}, err
	}
	w, p := t.l.w, t.p
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.l.dead {
		return protocols.Reading{}, errKilled
	}
	now := w.clock.Now()
	r := protocols.Reading{Time: now, Quality: sample.Bad}
	if p.away {
		w.reads[p.rule.name] = append(w.reads[p.rule.name], answer{at: now})
		return r, errors.New("the PLC is away")
	}
	if p.stands != nil {
		v := *p.stands
		r.Value, r.Quality = v, sample.Good
		w.reads[p.rule.name] = append(w.reads[p.rule.name], answer{now, &v})
	} else {
		w.reads[p.rule.name] = append(w.reads[p.rule.name], answer{at: now})
	}
	if p.rule.keepsVersion {
		r.Version = p.version
	}
	return r, nil
}

// Tell implements protocols.Target.
func (t *target) Tell(_ context.Context, s protocols.State) error {
	w := t.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.l.dead {
		return errKilled
	}
	if t.p.away {
		return errors.New("the PLC is away")
	}
	w.told[t.p.rule.name] = s
	return nil
}

// Close implements protocols.Target.
func (t *target) Close() error { return nil }

// message is one message in the queue, which keeps it until it is deleted.
type message struct {
	key     string
	cursor  string // of a table
	command *command
	visible time.Time
	deleted bool
}

// put puts commands into the queue, and returns them by their messages' keys.
func (w *world) put(commands []*command) map[string]*command {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := map[string]*command{}
	for _, c := range commands {
		m := &message{key: fmt.Sprintf("m%d-%d", c.no, w.disk.unique()), command: c}
		if w.table {
			m.cursor = fmt.Sprintf("%012d", w.disk.unique())
		}
		w.queue = append(w.queue, m)
		keys[m.key] = c
	}
	close(w.come)
	w.come = make(chan struct{})
	return keys
}

// feed is the queue, or the table, as one engine sees it. It is its own
// configuration.
type feed struct {
	l      *life
	cursor string
}

// Validate implements feeds.Config.
func (f *feed) Validate() []uploader.Fault { return nil }

// Open implements feeds.Config. What a table has up to the cursor never comes
// again, so that what became of it must be on the disk.
func (f *feed) Open(s feeds.Settings) (feeds.Feed, error) {
	w := f.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	f.cursor = s.Cursor
	for _, m := range w.queue {
		if w.table && m.cursor <= f.cursor && !w.disk.decided[m.key] {
			w.fault("message %s is skipped after a restart, and what became of it is not on the disk", m.key)
		}
	}
	return f, nil
}

// Receive implements feeds.Feed.
func (f *feed) Receive(ctx context.Context) ([]feeds.Message, error) {
	poll := time.NewTimer(20 * time.Second)
	defer poll.Stop()
	for {
		got, next, come, err := f.take()
		if err != nil || len(got) > 0 {
			return got, err
		}
		again := time.NewTimer(next)
		select {
		case <-ctx.Done():
			again.Stop()
			return nil, ctx.Err()
		case <-poll.C:
			again.Stop()
			return nil, nil
		case <-come:
			again.Stop()
		case <-again.C:
		}
	}
}

// take takes up to ten messages that are visible, or says when the next may be.
func (f *feed) take() (out []feeds.Message, next time.Duration, come chan struct{}, err error) {
	w := f.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.l.dead {
		return nil, time.Hour, nil, errKilled
	}
	now := w.clock.Now()
	next = time.Hour
	if w.table {
		return f.read(now), time.Hour, w.come, nil
	}
	kept := w.queue[:0:len(w.queue)]
	for _, m := range w.queue {
		if m.deleted {
			continue
		}
		kept = append(kept, m)
		if wait := m.visible.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		if len(out) == 10 {
			next = 0
			continue
		}
		m.visible = now.Add(visibility)
		if w.duplicate && w.rnd.IntN(30) == 0 {
			m.visible = now.Add(time.Millisecond) // comes again, though it may be done
		}
		if w.hasty {
			m.deleted = true
			if !w.disk.decided[m.key] {
				w.fault("message %s was deleted, and what became of it is not on the disk", m.key)
			}
		}
		w.deliveries[m.key] = append(w.deliveries[m.key], delivery{now, f.l.no, w.disk.lastN})
		out = append(out, feeds.Message{Key: m.key, Body: m.command.body, Handle: m})
	}
	w.queue = kept
	return out, next, w.come, nil
}

// read reads a table on from the cursor. It is called with the world's lock.
func (f *feed) read(now time.Time) (out []feeds.Message) {
	w := f.l.w
	for _, m := range w.queue {
		if m.cursor > f.cursor && len(out) < 10 {
			w.deliveries[m.key] = append(w.deliveries[m.key], delivery{now, f.l.no, w.disk.lastN})
			out = append(out, feeds.Message{Key: m.key, Body: m.command.body, Cursor: m.cursor, Handle: m})
		}
	}
	if len(out) > 0 {
		f.cursor = out[len(out)-1].Cursor
	}
	return out
}

// Done implements feeds.Feed: what is deleted must be on the disk.
func (f *feed) Done(_ context.Context, messages []feeds.Message) error {
	w := f.l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range messages {
		happens, seen := f.l.effect()
		if happens {
			if !w.disk.decided[m.Key] {
				w.fault("message %s was deleted, and what became of it is not on the disk", m.Key)
			}
			m.Handle.(*message).deleted = true
		}
		if !seen {
			return errKilled
		}
	}
	return nil
}

// Check implements feeds.Feed.
func (f *feed) Check(context.Context) error { return nil }

// Close implements feeds.Feed.
func (f *feed) Close() error { return nil }

// waiting is how many messages the queue still has, or the table has of which
// nobody knows what became.
func (w *world) waiting() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.queue {
		if w.table && !w.disk.decided[m.key] || !w.table && !m.deleted {
			n++
		}
	}
	return n
}

// latest is the newest reading of the enable tag.
func (w *world) latest(tag string) (protocols.Reading, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := protocols.Reading{Time: w.clock.Now(), Value: sample.BoolValue(true)}
	switch is := w.enable.current(); {
	case tag != enableTag || is == "unknown":
		return protocols.Reading{}, false
	case is == "no":
		r.Value = sample.BoolValue(false)
	case is == "bad":
		r.Quality = sample.BadCommunicationError
	}
	return r, true
}

func (w *world) synchronised() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.synced.current() == "yes"
}
