package mirror

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
)

func dryRun() []Target {
	sp := sp1()
	sp.Mode = guard.DryRun
	return []Target{sp}
}

func (r *rig) mode(want guard.Mode) {
	r.t.Helper()
	if got := r.m.Status().Targets[0].Mode; got != want {
		r.t.Errorf("the mode is %s, want %s", got, want)
	}
}

func (r *rig) arm(d time.Duration) {
	r.t.Helper()
	if err := r.m.Arm("sp1", d, "anna"); err != nil {
		r.t.Error(err)
	}
	synctest.Wait()
}

func (r *rig) disarm() {
	r.t.Helper()
	if err := r.m.Disarm("sp1", "ben"); err != nil {
		r.t.Error(err)
	}
	synctest.Wait()
}

func TestArmingEndsByItself(t *testing.T) {
	within(t, dryRun(), func(r *rig) {
		r.arm(time.Hour)
		r.mode(guard.Armed)
		if s := r.m.Status().Targets[0]; s.By != "anna" || s.ArmedUntil == nil || !s.ArmedUntil.Equal(r.clock.Now().Add(time.Hour).UTC()) {
			t.Errorf("status %+v", s)
		}
		r.send(r.result(1, 1))
		r.pass(time.Hour - time.Second)
		r.send(r.result(2, 2))
		r.pass(time.Second)
		r.mode(guard.DryRun)
		r.send(r.result(3, 3))
		r.written(1, 2)
		r.tells("armed_end sp1 0", "held sp1 3", "outcome sp1 3 dry_run")
		if text := r.logged(); !strings.Contains(text, "is armed for 1h0m0s") || !strings.Contains(text, "not armed any more") {
			t.Errorf("the log says\n%s", text)
		}
	})
}

func TestArmingSurvivesARestartAndNoClockStepProlongsIt(t *testing.T) {
	within(t, dryRun(), func(r *rig) {
		r.arm(time.Hour)
		r.clock.Step(-24 * time.Hour)
		r.stop()
		r.pass(30 * time.Minute)
		r.start()
		r.mode(guard.Armed)
		r.send(r.result(1, 1))
		r.clock.Step(-24 * time.Hour)
		r.pass(30*time.Minute + time.Second)
		r.mode(guard.DryRun)
		r.send(r.result(2, 2))
		r.written(1)
	})
}

func TestArmingAfterAReboot(t *testing.T) {
	for _, c := range []struct {
		name   string
		step   time.Duration
		armed  bool // once the clock is synchronised
		passes time.Duration
	}{
		{"goes on", 0, true, 10 * time.Minute},
		{"is over", 0, false, 2 * time.Hour},
		{"a clock before the arming", -2 * time.Hour, false, time.Minute},
		{"a clock that shows more is left than there was", -9 * time.Minute, true, 10 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, dryRun(), func(r *rig) {
				r.arm(time.Hour)
				r.stop()
				r.pass(c.passes)
				r.clock.Reboot()
				r.clock.SetSync(clock.Unsynchronised)
				r.start()
				r.pass(time.Minute)
				r.mode(guard.DryRun)
				r.clock.Step(c.step)
				r.clock.SetSync(clock.Synchronised)
				r.pass(2 * time.Second)
				if c.armed {
					r.mode(guard.Armed)
				} else {
					r.mode(guard.DryRun)
				}
				r.clock.Step(-24 * time.Hour)
				r.pass(time.Hour)
				r.mode(guard.DryRun)
			})
		})
	}
}

func TestDisarmHoldsUntilArm(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.send(r.result(1, 1))
		r.disarm()
		r.mode(guard.DryRun)
		r.restart()
		r.mode(guard.DryRun)
		r.send(r.result(2, 2))
		r.arm(time.Hour)
		r.send(r.result(3, 3))
		r.pass(time.Hour)
		r.mode(guard.DryRun) // as before the hour
		r.send(r.result(4, 4))
		r.arm(Configured)
		r.send(r.result(5, 5))
		r.restart()
		r.mode(guard.Armed)
		r.written(1, 3, 5)
	})
}

func TestWhatCannotBeArmed(t *testing.T) {
	within(t, dryRun(), func(r *rig) {
		for want, err := range map[string]error{
			"no mirror target":    r.m.Arm("sp9", time.Hour, "anna"),
			"no mirror target ":   r.m.Disarm("sp9", "anna"),
			"at most 24h":         r.m.Arm("sp1", 24*time.Hour+1, "anna"),
			"at most 24h0m0s;":    r.m.Arm("sp1", -1, "anna"),
			"say for how long to": r.m.Arm("sp1", Configured, "anna"),
		} {
			if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		r.mode(guard.DryRun)
	})
	within(t, []Target{sp1()}, func(r *rig) {
		if err := r.m.Arm("sp1", time.Hour, "anna"); err == nil {
			t.Error("what the configuration arms was armed for an hour, after which it would be what?")
		}
	})
}

// Disarm returns when the write that is under way has ended, and none begins
// after it.
func TestDisarmWaitsForAWrite(t *testing.T) {
	sp := sp1()
	sp.Heartbeat = time.Second
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		r.pass(time.Second)
		hang := make(chan struct{})
		r.lock(func() { p.hang = hang })
		r.send(r.result(1, 1))
		r.send(r.result(2, 2))
		ended := make(chan error)
		go func() { ended <- r.m.Disarm("sp1", "ben") }()
		r.pass(5 * time.Second)
		r.mode(guard.DryRun)
		select {
		case err := <-ended:
			t.Fatalf("Disarm returns during a write: %v", err)
		default:
		}
		r.lock(func() { p.hang = nil })
		close(hang)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		beats := len(p.told())
		r.pass(time.Minute)
		r.written(1)
		if got := r.story(); !slices.Contains(got, "outcome sp1 1 written") || !slices.Contains(got, "outcome sp1 2 dry_run") {
			t.Errorf("the log says %q", got)
		}
		if len(p.told()) != beats {
			t.Error("the heartbeat goes on")
		}
	})
}

// Disarmed between the intent and the write, nothing is written.
func TestDisarmedBeforeTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		r.step = func(step string) {
			if step == StepIntended {
				if err := r.m.Disarm("sp1", "ben"); err != nil {
					t.Error(err)
				}
			}
		}
		r.start()
		r.send(r.result(1, 1))
		r.tells("intent sp1 1", "disarm sp1 0", "outcome sp1 1 dry_run")
		r.written()
		r.stop()
	})
}

func TestHeartbeatWhileArmedOnly(t *testing.T) {
	sp := sp1()
	sp.Mode, sp.Heartbeat = guard.DryRun, time.Second
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		r.send(r.result(1, 1))
		r.pass(time.Minute)
		if len(p.told()) != 0 {
			t.Fatalf("told %v in a dry run", p.told())
		}
		r.arm(time.Minute)
		r.pass(30 * time.Second)
		r.send(r.result(2, 2))
		r.pass(30*time.Second - time.Millisecond)
		for i, s := range p.told() {
			if (i > 31 && int(s.Heartbeat) != i) || s.Valid != (i > 30) {
				t.Errorf("told %+v at %d", s, i)
			}
		}
		n := len(p.told())
		if n < 60 || n > 62 {
			t.Errorf("%d heartbeats in a minute", n)
		}
		r.pass(time.Minute)
		if len(p.told()) > n+1 {
			t.Errorf("%d heartbeats after the minute", len(p.told())-n)
		}
	})
}

// The heartbeat goes on while a write is read back.
func TestHeartbeatWhileReadingBack(t *testing.T) {
	sp := sp1()
	sp.Heartbeat, sp.VerifyWithin = 100*time.Millisecond, 10*time.Second
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		r.lock(func() { p.ignores = true })
		r.send(r.result(1, 1))
		r.pass(9 * time.Second)
		if len(p.told()) < 30 {
			t.Errorf("%d heartbeats in 9 s of reading back", len(p.told()))
		}
	})
}
