package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/protocols"
	"millrace/sample"
)

// crashCase is a stretch of work that may be cut off anywhere.
type crashCase struct {
	name   string
	target func(*Target)
	device func(*plc)
	work   func(r *rig)
	// settle is what changes in the plant after the restart.
	settle func(*plc)
}

func crashCases() []crashCase {
	failed := func(o protocols.WriteOutcome) error { return &protocols.WriteError{Outcome: o, Err: errors.New("no")} }
	two := func(r *rig) {
		r.send(r.result(1, 1))
		r.send(r.result(2, 2))
	}
	return []crashCase{
		{name: "written", work: two},
		{name: "written, by version", work: two, device: func(p *plc) {
			p.keeps, p.round = true, func(v sample.Value) sample.Value { return sample.FloatValue(v.Float() * 1.001) }
		}},
		{name: "ignored", work: two, device: func(p *plc) { p.ignores = true }},
		{name: "no clear answer, done", work: two, device: func(p *plc) { p.write, p.carries = failed(protocols.Unknown), true }},
		{name: "no clear answer, not done", work: two, device: func(p *plc) { p.write = failed(protocols.Unknown) }},
		{name: "rejected", work: two, device: func(p *plc) { p.write = failed(protocols.Rejected) }},
		{name: "unsuited", work: two, device: func(p *plc) { p.prepare = failed(protocols.Unsuited) }},
		{name: "away", work: two, device: func(p *plc) { p.write = failed(protocols.Unsent) }, settle: func(p *plc) { p.write = nil }},
		{name: "dry run", work: two, target: func(t *Target) { t.Mode = guard.DryRun }},
		{name: "refused", work: func(r *rig) { r.send(r.result(1, 501), r.result(2, -1)) }},
		{name: "malformed", work: func(r *rig) {
			r.feed.put(feeds.Message{Key: "m-1", Body: []byte("{}")})
			synctest.Wait()
		}},
		{name: "superseded", target: func(t *Target) { t.MinInterval = time.Minute }, work: func(r *rig) {
			r.send(r.result(1, 1), r.result(3, 3), r.result(2, 2))
			r.send(r.result(5, 5))
			r.send(r.result(4, 4))
		}},
		{name: "fallback", target: func(t *Target) {
			t.WhenStale, t.Fallback, t.StaleAfter = WriteFallback, ptr(sample.FloatValue(7)), 5*time.Second
		}, work: func(r *rig) {
			r.send(r.result(1, 1))
			r.pass(6 * time.Second)
			r.send(r.result(2, 2))
		}},
	}
}

// Each stretch is cut off when it reaches each step for the first, the second
// and the third time, and goes on after the restart.
func TestACrashBetweenAnyTwoSteps(t *testing.T) {
	reached := map[string]int{}
	for _, c := range crashCases() {
		for _, at := range Steps() {
			for nth := 1; nth <= 3; nth++ {
				name := fmt.Sprintf("%s, at %s, time %d", c.name, at, nth)
				synctest.Test(t, func(t *testing.T) {
					if crash(t, name, c, at, nth) {
						reached[at]++
					}
				})
			}
		}
	}
	for _, at := range Steps() {
		if reached[at] < 5 {
			t.Errorf("only %d crashes at %s", reached[at], at)
		}
	}
}

func crash(t *testing.T, name string, c crashCase, at string, nth int) (crashed bool) {
	target := sp1()
	target.VerifyWithin = 100 * time.Millisecond
	if c.target != nil {
		c.target(&target)
	}
	r := newRig(t, []Target{target})
	p := r.devices["sp1"]
	if c.device != nil {
		c.device(p)
	}
	var once sync.Mutex
	n := 0
	r.step = func(step string) {
		once.Lock()
		defer once.Unlock()
		if step != at {
			return
		}
		if n++; n == nth {
			r.lock(func() { r.dead, crashed = true, true })
		}
	}
	r.start()
	c.work(r)
	r.pass(time.Second)
	r.lock(func() { r.step = nil })
	r.stop() // where it was not cut off, a stop like any other
	r.start()
	r.pass(2 * time.Second)
	if c.settle != nil {
		r.lock(func() { c.settle(p) })
	}
	r.pass(3 * time.Minute)
	r.stop()

	var last uint64
	for _, w := range p.wrote() {
		if w.Version != 0 && w.Version <= last {
			t.Errorf("%s: version %d is written after version %d", name, w.Version, last)
		}
		last = max(last, w.Version)
	}
	if target.Mode != guard.Armed && len(p.wrote()) > 0 {
		t.Errorf("%s: written though not armed", name)
	}
	if left := r.undone(); left != 0 {
		t.Errorf("%s: %d messages are not done", name, left)
	}
	audited(t, name, r)
	return crashed
}

// audited checks that each message has an outcome that ends it, that each intent
// has one, and that each write had its intent before.
func audited(t *testing.T, name string, r *rig) {
	t.Helper()
	ended := map[string]int{}
	open, intents := 0, map[uint64]int{}
	sure := map[uint64]int{} // attempts of which it is known that nothing was sent
	for _, e := range r.log {
		switch {
		case e.kind == kindIntent:
			open++
			if intents[e.version]++; e.version > 0 && intents[e.version] > sure[e.version]+1 {
				t.Errorf("%s: version %d is attempted again, though it may have been written", name, e.version)
			}
		case (e.kind == kindOutcome || e.kind == kindFallback) && e.change.Close:
			open--
			if e.change.Unuse {
				sure[e.version]++
			}
		}
		if open < 0 || open > 1 {
			t.Errorf("%s: %d intents are open at record %d", name, open, e.n)
		}
		if e.kind == kindOutcome && e.outcome != Unsent {
			ended[e.message]++
		}
	}
	if open != 0 {
		t.Errorf("%s: an intent has no outcome", name)
	}
	for i := 1; i <= r.n; i++ {
		if ended[fmt.Sprintf("m-%d", i)] == 0 {
			t.Errorf("%s: nothing says what became of message %d:\n  %s", name, i, strings.Join(r.story(), "\n  "))
		}
	}
	writes := map[uint64]int{}
	for _, w := range r.devices["sp1"].wrote() {
		if writes[w.Version]++; writes[w.Version] > intents[w.Version] {
			t.Errorf("%s: version %d was written without an intent", name, w.Version)
		}
	}
}

// What was written before the crash is found there, and not written again; what
// was not is unverified, and its version is used up.
func TestAnIntentWithoutOutcome(t *testing.T) {
	for _, c := range []struct {
		at     string
		writes int
		want   string
	}{
		{StepIntended, 0, "outcome sp1 1 unverified"},
		{StepWritten, 1, "outcome sp1 1 written"},
		{StepVerified, 1, "outcome sp1 1 written"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, []Target{sp1()})
			r.step = func(step string) {
				if step == c.at {
					r.lock(func() { r.dead = true })
				}
			}
			r.start()
			r.send(r.result(1, 5))
			r.pass(time.Second)
			r.stop()
			r.step = nil
			r.start()
			r.pass(3 * time.Second)
			r.tells("held sp1 1", "intent sp1 1", c.want)
			if n := len(r.devices["sp1"].wrote()); n != c.writes {
				t.Errorf("%s: %d writes, want %d", c.at, n, c.writes)
			}
			r.send(r.result(1, 6))
			r.tells("outcome sp1 1 refused not_newer")
			r.stop()
		})
	}
}

// A device that is away after the restart is waited for, but not for ever.
func TestRecoveryWaitsForTheDevice(t *testing.T) {
	for _, away := range []time.Duration{30 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, []Target{sp1()})
			p := r.devices["sp1"]
			r.step = func(step string) {
				if step == StepWritten {
					r.lock(func() { r.dead = true })
				}
			}
			r.start()
			r.send(r.result(1, 5))
			r.pass(time.Second)
			r.stop()
			r.step, p.read = nil, errors.New("plc: no route to host")
			r.start()
			r.pass(away)
			r.lock(func() { p.read = nil })
			r.pass(time.Minute)
			want := "outcome sp1 1 written"
			if away > recoverWithin {
				want = "outcome sp1 1 unverified"
			}
			if got := r.story(); !slices.Contains(got, want) {
				t.Errorf("away for %s: %q, want %q", away, got, want)
			}
			r.stop()
		})
	}
}
