package mirror_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/gateway/mirror"
	"millrace/gateway/mirror/audit"
	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
)

// The battery is run with these by `make faults ROW=mirror`.
const (
	batteryEnv = "MILLRACE_MIRROR_COMMANDS" // how many
	seedEnv    = "MILLRACE_MIRROR_SEED"
)

// perWorld is how many commands one world sees, from its first start to its end.
const perWorld = 2000

// rules are the targets of every world.
func rules() []*rule {
	fallback := sample.FloatValue(0)
	return []*rule{
		{name: "sp1", unit: "kW", device: "float32", kind: sample.Float64, mode: "armed", limited: true, min: 0, max: 500, maxStep: 50,
			minInterval: 10 * time.Second, maxAge: 15 * time.Minute, staleAfter: time.Hour, enable: true, signed: true, setpoint: true, heartbeat: time.Second},
		{name: "sp2", unit: "°C", device: "float64", kind: sample.Float64, mode: "armed", limited: true, min: -20, max: 80, clamp: true, staleAfter: time.Minute},
		{name: "sp3", device: "uint16", kind: sample.Int64, mode: "armed", limited: true, min: -100, max: 100_000, keepsVersion: true, minInterval: time.Second},
		{name: "sp4", device: "bool", kind: sample.Bool, mode: "armed", minInterval: time.Second, enable: true},
		{name: "sp5", device: "text", kind: sample.String, mode: "armed", maxAge: time.Hour},
		{name: "sp6", unit: "kW", device: "float64", kind: sample.Float64, mode: "dry_run", limited: true, min: 0, max: 100, maxStep: 20},
		{name: "sp7", unit: "kW", device: "float64", kind: sample.Float64, mode: "off", limited: true, min: 0, max: 100},
		{name: "sp8", unit: "m3/h", device: "float64", kind: sample.Float64, mode: "armed", limited: true, min: 0, max: 100, staleAfter: 90 * time.Second, fallback: &fallback, enable: true},
	}
}

// trial is one world with what is done to it.
type trial struct {
	rnd    *rand.Rand
	w      *world
	g      *generator
	rules  []*rule
	strict bool
	oracle *oracle
	logs   bytes.Buffer

	// What is spoilt in tests of the battery itself; nil where nothing is.
	tamper func(*mirror.Config)
	meddle func(*target) protocols.Target
	slow   time.Duration // how late the engine's clock is
	forget bool          // the engine does not compare versions

	fileBytes int64 // of the audit log's files, small so that there are many

	life   *life
	engine *mirror.Mirror
	stop   context.CancelFunc
	ended  chan struct{}
	until  map[string]time.Time // of arming by hand

	kills, cuts, stops int
}

func newTrial(seed uint64, dir string, rules []*rule) *trial {
	rnd := rand.New(rand.NewPCG(seed, 1))
	t := &trial{rnd: rnd, rules: rules, strict: rnd.IntN(2) == 0, until: map[string]time.Time{}, fileBytes: 24 << 10}
	t.w = newWorld(rand.New(rand.NewPCG(seed, 2)), time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), dir, t.rules)
	t.w.duplicate, t.w.table = true, rnd.IntN(3) == 0
	t.g = newGenerator(rnd, t.w.clock.Now, t.rules)
	t.oracle = newOracle(t.w, t.rules, t.strict)
	return t
}

// config is what the engine is told.
func (t *trial) config(l *life) mirror.Config {
	c := mirror.Config{
		Keys:              map[string]ed25519.PublicKey{goodKey: t.g.keys[goodKey].Public().(ed25519.PublicKey)},
		SignatureRequired: t.strict, Feeds: []mirror.Feed{{Name: feedName, Config: &feed{l: l}}},
	}
	for _, r := range t.rules {
		out := mirror.Target{
			Name: r.name, Class: mirror.MirrorTag, Mode: guard.Mode(r.mode), Feeds: []string{feedName}, Type: r.kind, Unit: r.unit, Clamp: r.clamp,
			MinInterval: r.minInterval, MaxAge: r.maxAge, StaleAfter: r.staleAfter, WhenStale: mirror.Mark, Fallback: r.fallback,
			VerifyWithin: 500 * time.Millisecond, Heartbeat: r.heartbeat,
			Open: func(protocols.Health) (protocols.Target, error) {
				d := &target{l, t.w.places[r.name]}
				if t.meddle != nil {
					return t.meddle(d), nil
				}
				return d, nil
			},
		}
		if r.limited {
			out.Min, out.Max = &r.min, &r.max
		}
		if r.maxStep > 0 {
			out.MaxStep = &r.maxStep
		}
		if r.setpoint {
			out.Class = mirror.Setpoint
		}
		if r.enable {
			out.Enable = enableTag
		}
		if r.fallback != nil {
			out.WhenStale = mirror.WriteFallback
		}
		c.Targets = append(c.Targets, out)
	}
	if t.tamper != nil {
		t.tamper(&c)
	}
	return c
}

// lateClock is a clock that is late.
type lateClock struct {
	*clock.Fake
	by time.Duration
}

// Now implements clock.Clock.
func (c lateClock) Now() time.Time { return c.Fake.Now().Add(-c.by) }

// start begins a life on what the last one left.
func (t *trial) start(left int) error {
	l := t.w.born(left)
	log := slog.New(slog.NewTextHandler(&t.logs, nil))
	m, err := mirror.NewWithAudit(t.config(l), mirror.Settings{
		Site: siteName, Gateway: "gw1", Dir: t.w.disk.dir, Log: log, Clock: lateClock{t.w.clock, t.slow}, Synchronised: t.w.synchronised,
		SinceBoot: t.w.clock.SinceBoot, Boot: t.w.clock.Boot(), Health: func(string) protocols.Health { return quiet{} }, Latest: t.w.latest,
		Status: func(string, sample.Sample) {},
	}, audit.Options{Dir: t.w.disk.dir, MaxFileBytes: t.fileBytes, Log: log, Clock: t.w.clock, FS: &diskOf{l, t.w.disk}})
	if err != nil && l.isDead() {
		// Killed while it started. What it has open is of the process that is gone.
		t.life, t.engine, t.stop, t.ended = l, nil, func() {}, make(chan struct{})
		close(t.ended)
		return nil
	}
	if err != nil {
		return fmt.Errorf("start %d: %w", l.no, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.life, t.engine, t.stop, t.ended = l, m, stop, make(chan struct{})
	go func() {
		defer close(t.ended)
		_ = m.Run(ctx) // a stop that cannot be recorded is no fault here
	}()
	return nil
}

// quiet is a health that nobody asks.
type quiet struct{}

func (quiet) Beat()      {}
func (quiet) Up()        {}
func (quiet) Down(error) {}

// end waits until the engine has ended, and takes over what it left.
func (t *trial) end(powerCut bool) error {
	t.stop()
	<-t.ended
	if t.engine != nil {
		_ = t.engine.Close() // it may be one that was killed
	}
	t.life.kill()
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	t.w.disk.broken, t.w.disk.failing = false, false
	t.w.disk.fill(false)
	if powerCut {
		return t.w.disk.powerCut()
	}
	return nil
}

// again starts the engine anew after a kill, a power cut or a stop, now and then
// to be killed while it starts.
func (t *trial) again() error {
	cut := t.rnd.IntN(3) == 0
	if t.life.isDead() {
		t.kills++
	} else if t.stops++; t.rnd.IntN(2) == 0 {
		cut = false
	}
	if err := t.end(cut); err != nil {
		return err
	}
	if cut {
		t.cuts++
	}
	if cut && t.rnd.IntN(2) == 0 {
		t.w.clock.Reboot()
	}
	left := 0
	if t.rnd.IntN(3) == 0 {
		left = 1 + t.rnd.IntN(10)
	}
	if err := t.start(left); err != nil || t.life.isDead() || t.rnd.IntN(20) > 0 {
		return err
	}
	synctest.Wait()
	return t.verify()
}

// verify is `millrace mirror audit verify`.
func (t *trial) verify() error {
	rep, err := audit.Verify(t.w.disk.dir, nil, nil)
	if err != nil {
		return err
	}
	if !rep.Whole() {
		return fmt.Errorf("the audit log does not verify: %q", rep.Faults)
	}
	return nil
}

// run has the cloud send so many commands, and then all come to rest.
func (t *trial) run(commands int) error {
	if err := t.start(0); err != nil {
		return err
	}
	for sent := 0; sent < commands; {
		n := min(1+t.rnd.IntN(12), commands-sent)
		if t.rnd.IntN(15) == 0 {
			n = min(n+40, commands-sent) // flooding
		}
		sent += n
		t.happen()
		t.send(n)
		if err := t.pass(); err != nil {
			return err
		}
	}
	return t.rest()
}

// send puts commands into the queue and remembers under which keys.
func (t *trial) send(n int) {
	maps.Copy(t.oracle.commands, t.w.put(t.g.batch(n)))
}

// pass lets time go on, and starts the engine again where it dies meanwhile.
func (t *trial) pass() error {
	if t.rnd.IntN(3) == 0 {
		t.w.mu.Lock()
		if t.life.left == 0 {
			t.life.left = 1 + t.rnd.IntN(60)
		}
		t.w.mu.Unlock()
	}
	d := time.Duration(t.rnd.Int64N(int64([]time.Duration{20 * time.Millisecond, 2 * time.Second, 15 * time.Second}[t.rnd.IntN(3)])))
	timer := time.NewTimer(d + time.Millisecond)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			synctest.Wait()
			if t.rnd.IntN(25) == 0 || t.w.disk.isBroken() {
				return t.again() // an orderly stop
			}
			return nil
		case <-t.life.over:
			if err := t.again(); err != nil {
				return err
			}
		}
	}
}

// happen changes the plant, the clock and the arming, at a moment when nothing
// else does.
func (t *trial) happen() {
	synctest.Wait()
	if t.forget && t.engine != nil {
		t.engine.ForgetVersions()
	}
	w, now := t.w, t.w.clock.Now()
	w.mu.Lock()
	for name, until := range t.until {
		if !now.Before(until) {
			w.armed.set(until, name, "dry_run")
			delete(t.until, name)
		}
	}
	switch t.rnd.IntN(30) {
	case 0:
		w.disk.fill(true)
	case 1, 2, 3:
		w.disk.fill(false)
	case 4:
		w.disk.failing = t.rnd.IntN(4) == 0
	}
	switch t.rnd.IntN(12) {
	case 0:
		w.enable.set(now, "", []string{"yes", "no", "bad", "unknown"}[t.rnd.IntN(4)])
	case 1, 2:
		w.enable.set(now, "", "yes")
	case 3:
		w.synced.set(now, "", []string{"yes", "no"}[t.rnd.IntN(2)])
	case 4, 5:
		w.synced.set(now, "", "yes")
	}
	for _, p := range w.ordered() {
		switch t.rnd.IntN(40) {
		case 0:
			p.away = true
		case 1, 2, 3:
			p.away = false
		case 4:
			p.slow = !p.slow
		case 5, 6:
			p.next = []mishap{rejects, losesRequest, losesAnswer, alters}[t.rnd.IntN(4)]
		case 7:
			if p.stands != nil { // the plant's own people write there, too
				v, _ := other(*p.stands)
				if p.rule.kind == sample.Float64 {
					v = sample.FloatValue(p.stands.Float() + float64(t.rnd.IntN(100)))
				}
				p.stands, p.version, p.changed = &v, 0, now
			}
		}
	}
	w.mu.Unlock()
	if t.rnd.IntN(10) == 0 {
		t.command()
	}
}

// ordered lists the places in the order of the rules' names.
func (w *world) ordered() (out []*place) {
	for _, name := range slices.Sorted(maps.Keys(w.places)) {
		out = append(out, w.places[name])
	}
	return out
}

// command arms or disarms a target by hand.
func (t *trial) command() {
	r := t.rules[[]int{5, 3}[t.rnd.IntN(2)]]
	now := t.w.clock.Now()
	// A lock that is waited for would stop the fake time, so nothing is under way
	// at the PLC or waits for the disk, and no kill comes meanwhile.
	t.w.mu.Lock()
	disk := t.w.disk
	waits := disk.failing || disk.broken || slices.Contains(disk.fills.within("", now.Add(-nextTry), now), "full")
	busy, left := t.life.dead || t.w.places[r.name].busy > 0 || waits, t.life.left
	t.life.left = 0
	t.w.mu.Unlock()
	if busy {
		return
	}
	defer func() {
		t.w.mu.Lock()
		t.life.left = left
		t.w.mu.Unlock()
	}()
	note := func(is string) {
		t.w.mu.Lock()
		defer t.w.mu.Unlock()
		t.w.armed.set(now, r.name, is)
	}
	arm := t.rnd.IntN(2) == 0
	if arm {
		note("armed") // it may be, from now on
		if r.mode == "armed" {
			_ = t.engine.Arm(r.name, mirror.Configured, "root") // one that was not disarmed says so
			return
		}
		d := time.Duration(1+t.rnd.IntN(300)) * time.Second
		if t.engine.Arm(r.name, d, "root") == nil {
			t.until[r.name] = now.Add(d)
		}
		return
	}
	if err := t.engine.Disarm(r.name, "root"); err == nil {
		note("dry_run")
		delete(t.until, r.name)
	}
}

// rest ends what goes wrong, and waits until all has come to an end.
func (t *trial) rest() error {
	w := t.w
	for well := false; !well; {
		if err := t.again(); err != nil {
			return err
		}
		synctest.Wait()
		w.mu.Lock()
		t.life.left, w.duplicate = 0, false
		well = !t.life.dead
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.enable.set(w.clock.Now(), "", "yes")
	w.synced.set(w.clock.Now(), "", "yes")
	for _, p := range w.places {
		p.away, p.slow, p.next = false, false, none
	}
	w.mu.Unlock()
	for range 100 {
		time.Sleep(time.Minute)
		if w.waiting() == 0 {
			break
		}
	}
	if n := w.waiting(); n > 0 {
		return errors.Join(fmt.Errorf("%d messages are stuck in the queue", n), t.end(false))
	}
	time.Sleep(20 * time.Minute) // until the last validity is over
	t.happenNothing()
	if err := t.end(false); err != nil {
		return err
	}
	return t.verify()
}

// happenNothing notes arming by hand that has ended.
func (t *trial) happenNothing() {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	for name, until := range t.until {
		t.w.armed.set(until, name, "dry_run")
	}
}

// judge has the oracle read all that is there.
func (t *trial) judge() error {
	t.oracle.read(t.w.disk.records)
	if len(t.oracle.faults) > 0 {
		return errors.New(strings.Join(t.oracle.faults, "\n"))
	}
	return nil
}

// battery runs worlds until so many commands were sent, and returns the counts.
func battery(t *testing.T, commands int, seed uint64) map[string]int {
	var mu sync.Mutex
	counts := map[string]int{}
	t.Run("worlds", func(t *testing.T) {
		for ; commands > 0; commands -= perWorld {
			n, seed := min(commands, perWorld), seed+uint64(commands/perWorld)
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				synctest.Test(t, func(t *testing.T) {
					x := newTrial(seed, dir, rules())
					if err := x.run(n); err != nil {
						t.Fatal(err)
					}
					if err := x.judge(); err != nil {
						t.Fatal(err)
					}
					mu.Lock()
					defer mu.Unlock()
					x.count(counts)
				})
			})
		}
	})
	return counts
}

// count adds to what was seen.
func (t *trial) count(counts map[string]int) {
	for what, n := range t.oracle.counts {
		counts[what] += n
	}
	counts["kills"] += t.kills
	counts["power cuts"] += t.cuts
	counts["stops"] += t.stops
	counts["writes at the PLC"] += len(t.w.writes)
	counts["refused where two reasons were right"] += t.oracle.vague
}

// TestBattery is the short form: the long one is `make faults ROW=mirror`. A
// world's seed decides what is done to the engine, but not how its goroutines
// take turns.
func TestBattery(t *testing.T) {
	commands, seed := 20_000, rand.Uint64()>>12
	if testing.Short() {
		commands = 4000
	}
	if n, err := strconv.Atoi(os.Getenv(batteryEnv)); err == nil {
		commands = n
	}
	if n, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64); err == nil {
		seed = n
	}
	counts := battery(t, commands, seed)
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%8d %s", counts[what], what)
	}
	if t.Failed() || commands < 20_000 {
		return
	}
	for _, reason := range guard.Reasons() {
		if reason != guard.NotANumber && counts["refused: "+string(reason)] == 0 { // which Parse is asked before
			t.Errorf("no command was refused for %s", reason)
		}
	}
	for _, outcome := range mirror.Outcomes() {
		if counts[string(outcome)] == 0 {
			t.Errorf("no command was %s", outcome)
		}
	}
}
