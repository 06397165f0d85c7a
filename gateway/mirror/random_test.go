package mirror

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
)

// TestWhateverHappens lets everything happen in any order: results old and new,
// good and bad, a device with moods, a full disk, clocks that step, arming and
// disarming, restarts, reboots, and deaths between any two steps.
func TestWhateverHappens(t *testing.T) {
	total := 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			total += newChaos(t, seed).run()
		})
	}
	if total < 400 {
		t.Errorf("only %d writes in all, so this proves little", total)
	}
}

type chaos struct {
	*rig
	rand   *rand.Rand
	randMu sync.Mutex
	seed   uint64
	p      *plc
	// top is the greatest version that was ever sent.
	top uint64
}

func newChaos(t *testing.T, seed uint64) *chaos {
	r := rand.New(rand.NewPCG(seed, 17))
	sp := sp1()
	sp.Mode = guard.DryRun
	sp.VerifyWithin = 200 * time.Millisecond
	sp.Enable = "north/plc/ok"
	if r.IntN(2) == 0 {
		sp.MinInterval = 3 * time.Second
	}
	if r.IntN(2) == 0 {
		sp.MaxStep = ptr(200.0)
	}
	if r.IntN(3) == 0 {
		sp.WhenStale, sp.Fallback, sp.StaleAfter = WriteFallback, ptr(sample.FloatValue(250)), 20*time.Second
	}
	c := &chaos{rig: newRig(t, []Target{sp}), rand: r, seed: seed}
	c.p = c.devices["sp1"]
	c.p.keeps = r.IntN(2) == 0
	c.tags["north/plc/ok"] = protocols.Reading{Value: sample.BoolValue(true)}
	c.step = func(string) {
		if c.n(200) == 0 {
			c.lock(func() { c.dead = true })
		}
	}
	return c
}

func (c *chaos) n(n int) int {
	c.randMu.Lock()
	defer c.randMu.Unlock()
	return c.rand.IntN(n)
}

func (c *chaos) run() int {
	c.start()
	c.setArmed(time.Hour)
	for range 150 {
		c.happen()
		if c.isDead() {
			c.restart()
		}
	}
	// At last all is well, and nothing may be left.
	c.lock(func() { c.step, c.logFail, c.p.write, c.p.read, c.p.ignores = nil, nil, nil, nil, false })
	c.clock.SetSync(clock.Synchronised)
	c.restart()
	c.pass(5 * time.Minute)
	c.stop()
	c.check()
	return len(c.p.writes)
}

func (c *chaos) setArmed(d time.Duration) {
	var now time.Duration
	c.lock(func() { now = c.clock.SinceBoot(); c.armedUntil = max(c.armedUntil, now+d) })
	// An error means that it is armed already, or that the disk is full.
	_ = c.m.Arm("sp1", d, "anna")
}

func (c *chaos) happen() {
	failed := func(o protocols.WriteOutcome) error { return &protocols.WriteError{Outcome: o, Err: errors.New("no")} }
	switch c.n(20) {
	case 0, 1, 2, 3, 4, 16, 17, 18, 19:
		c.sendSome()
	case 5:
		c.pass(time.Duration(c.n(5000)) * time.Millisecond)
	case 6:
		moods := []error{nil, nil, nil, nil, nil, nil, nil, failed(protocols.Unknown), failed(protocols.Unsent), failed(protocols.Rejected), failed(protocols.Unsuited)}
		mood, carries, ignores := moods[c.n(len(moods))], c.n(2) == 0, c.n(6) == 0
		c.lock(func() {
			c.p.write, c.p.ignores = mood, ignores
			c.p.carries = carries && protocols.OutcomeOf(mood) == protocols.Unknown
		})
	case 7:
		away := c.n(4) == 0
		c.lock(func() {
			if c.p.read = nil; away {
				c.p.read = errors.New("away")
			}
		})
	case 8:
		if err := c.m.Disarm("sp1", "ben"); err == nil {
			c.lock(func() { c.armedUntil = 0 })
		}
	case 9, 10:
		c.setArmed(time.Duration(c.n(3600)+1) * time.Second)
	case 11:
		on := c.n(6) > 0
		c.lock(func() { c.tags["north/plc/ok"] = protocols.Reading{Value: sample.BoolValue(on)} })
	case 12:
		c.clock.Step(time.Duration(c.n(2_000_001)-1_000_000) * time.Millisecond)
	case 13:
		sync := []clock.Sync{clock.Synchronised, clock.Synchronised, clock.Synchronised, clock.Synchronised, clock.Unsynchronised}[c.n(5)]
		c.clock.SetSync(sync)
	case 14:
		c.lock(func() { c.logFail = errors.New("no space left on device") })
		c.pass(time.Duration(c.n(10)) * time.Second)
		c.lock(func() { c.logFail = nil })
	case 15:
		c.restart()
	}
	synctest.Wait()
}

func (c *chaos) sendSome() {
	for range c.n(4) + 1 {
		version := c.top + uint64(c.n(4))
		if c.n(5) == 0 {
			version = c.top - min(c.top, uint64(c.n(10)))
		}
		version = max(version, 1)
		c.top = max(c.top, version)
		one := c.result(version, float64(c.n(520)-10))
		one.ValidUntil = one.ValidFrom.Add(time.Duration(c.n(60)+1) * time.Second)
		switch c.n(15) {
		case 0:
			one.Site = "south"
		case 1:
			one.Target = "nobody"
		case 2:
			one.Value = sample.StringValue("x")
		case 3:
			c.rig.n++
			c.feed.put(feeds.Message{Key: fmt.Sprintf("m-%d", c.rig.n), Body: []byte(`{"x":1}`)})
		}
		c.send(one)
	}
}

// check holds what reached the plant, and what the log says, to the promises.
func (c *chaos) check() {
	name := fmt.Sprintf("seed %d", c.seed)
	var last uint64
	for i, w := range c.p.writes {
		if w.Version != 0 && w.Version <= last {
			c.t.Errorf("%s: version %d is written after version %d", name, w.Version, last)
		}
		last = max(last, w.Version)
		if v := w.Value.Float(); v < 0 || v > 500 {
			c.t.Errorf("%s: %g is written", name, v)
		}
		if i > 0 && w.Version != 0 && c.p.writtenAt[i]-c.p.writtenAt[i-1] < c.cfg.Targets[0].MinInterval && c.p.writes[i-1].Version != 0 {
			c.t.Errorf("%s: written after %s", name, c.p.writtenAt[i]-c.p.writtenAt[i-1])
		}
	}
	for i, at := range c.p.allowedUntil {
		if c.p.writtenAt[i] >= at {
			c.t.Errorf("%s: write %d at %s, the target was armed until %s", name, i, c.p.writtenAt[i], at)
		}
	}
	if left := c.undone(); left != 0 {
		c.t.Errorf("%s: %d messages are not done", name, left)
	}
	audited(c.t, name, c.rig)
}
