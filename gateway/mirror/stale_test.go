package mirror

import (
	"errors"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

func TestStaleMark(t *testing.T) {
	sp := sp1()
	sp.StaleAfter = 5 * time.Minute
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		valid := func(want bool) {
			t.Helper()
			var s []protocols.State
			r.lock(func() { s = p.states })
			if len(s) == 0 || s[len(s)-1].Valid != want {
				t.Errorf("told %v, want at last %t", s, want)
			}
		}
		valid(false) // nothing was ever written
		r.send(r.result(1, 1))
		valid(true)
		r.pass(5*time.Minute - time.Second)
		valid(true)
		r.pass(time.Second)
		valid(false)
		r.tells("outcome sp1 1 written", "stale sp1 0")
		r.restart()
		if !r.m.Status().Targets[0].Stale {
			t.Error("it is not stale any more after the restart")
		}
		r.send(r.result(2, 2))
		valid(true)
		r.tells("outcome sp1 2 written", "fresh sp1 0")
		// The validity passes before stale_after does.
		short := r.result(3, 3)
		short.ValidUntil = r.clock.Now().Add(time.Minute)
		r.send(short)
		r.pass(time.Minute - time.Millisecond)
		valid(true)
		r.pass(time.Millisecond)
		valid(false)
		r.tells("outcome sp1 3 written", "stale sp1 0")
		r.written(1, 2, 3)
	})
}

// A write carries the validity of its value. Where it does not count as written,
// a device without a heartbeat is told again what is valid, too.
func TestValidityIsToldAgainAfterAWriteThatDoesNotCount(t *testing.T) {
	for name, fault := range map[string]func(*plc){
		"not read back":   func(p *plc) { p.read = errors.New("gone") },
		"without answer":  func(p *plc) { p.write = &protocols.WriteError{Outcome: protocols.Unknown, Err: errors.New("gone")} },
		"rejected":        func(p *plc) { p.write = &protocols.WriteError{Outcome: protocols.Rejected, Err: errors.New("no")} },
		"reads otherwise": func(p *plc) { p.ignores = true },
	} {
		t.Run(name, func(t *testing.T) {
			sp := sp1()
			sp.Heartbeat = 0
			within(t, []Target{sp}, func(r *rig) {
				p := r.devices["sp1"]
				if s := p.told(); len(s) != 1 || s[0].Valid {
					t.Fatalf("told %v at first", s)
				}
				r.lock(func() { fault(p) })
				r.send(r.result(1, 1))
				r.pass(10 * time.Second)
				if s := p.told(); len(s) != 2 || s[1].Valid {
					t.Errorf("told %v, want not valid once more", s)
				}
			})
		})
	}
}

// A wall clock that is set back does not prolong the validity.
func TestStaleByTheClockThatIsNotStepped(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.send(r.result(1, 1))
		r.clock.Step(-time.Hour)
		r.pass(10 * time.Minute)
		r.tells("outcome sp1 1 written", "stale sp1 0")
	})
}

func TestStaleHold(t *testing.T) {
	sp := sp1()
	sp.WhenStale, sp.StaleAfter = HoldValue, time.Minute
	within(t, []Target{sp}, func(r *rig) {
		r.send(r.result(1, 1))
		r.pass(time.Hour)
		r.written(1)
		if s := r.devices["sp1"].told(); !s[len(s)-1].Valid {
			t.Error("a value that is held is marked")
		}
		r.tells("outcome sp1 1 written", "stale sp1 0")
	})
}

func TestStaleFallback(t *testing.T) {
	sp := sp1()
	sp.WhenStale, sp.StaleAfter, sp.Fallback, sp.Enable = WriteFallback, time.Minute, ptr(sample.FloatValue(300)), "north/plc/ok"
	sp.MaxStep = ptr(5.0)
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		enable := func(on bool) {
			r.lock(func() { r.tags["north/plc/ok"] = protocols.Reading{Value: sample.BoolValue(on)} })
			r.pass(2 * time.Second)
		}
		enable(true)
		r.send(r.result(1, 1))
		enable(false)
		r.pass(time.Hour)
		r.tells("outcome sp1 1 written", "stale sp1 0", "fallback sp1 0 refused not_enabled")
		enable(true)
		r.tells("intent sp1 0", "fallback sp1 0 written")
		r.pass(time.Hour)
		r.restart()
		r.pass(time.Hour)
		r.written(1, 300)
		if c := p.wrote()[1]; c.Version != 0 || !c.ValidUntil.After(r.clock.Now().AddDate(50, 0, 0)) || !c.Quality.IsUncertain() {
			t.Errorf("the fallback's command is %+v", c)
		}
		// The next result is measured from the fallback value.
		r.send(r.result(2, 2))
		r.tells("outcome sp1 2 refused step_from_last")
		r.send(r.result(3, 298))
		r.tells("intent sp1 3", "outcome sp1 3 written", "fresh sp1 0")
		r.disarm()
		r.pass(time.Hour)
		r.tells("disarm sp1 0", "stale sp1 0", "fallback sp1 0 dry_run")
		r.written(1, 300, 298)
	})
}

func TestRestore(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		p := r.devices["sp1"]
		r.send(r.result(1, 41))
		r.restart()
		if len(p.shows()) != 1 || p.shows()[0].Value != sample.FloatValue(41) || p.shows()[0].Version != 1 {
			t.Errorf("restored %+v", p.shows())
		}
		r.disarm()
		r.restart()
		r.pass(time.Minute)
		if len(p.shows()) != 1 {
			t.Error("restored though not armed")
		}
		r.arm(Configured)
		r.pass(time.Second)
		if len(p.shows()) != 2 {
			t.Error("not restored when armed again")
		}
		r.stop()
		r.pass(time.Hour)
		r.start()
		if len(p.shows()) != 2 {
			t.Errorf("restored after its validity: %+v", p.shows())
		}
	})
}
