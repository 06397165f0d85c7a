package mirror

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/sample"
	"millrace/sample/result"
)

// A device that hangs keeps nobody but itself.
func TestADeviceThatHangs(t *testing.T) {
	other := sp1()
	other.Name = "sp2"
	within(t, []Target{sp1(), other}, func(r *rig) {
		r.lock(func() { r.devices["sp1"].hang = make(chan struct{}) })
		r.send(r.result(1, 1))
		for v := range uint64(100) {
			one := r.result(v+1, 2)
			one.Target = "sp2"
			r.send(one)
		}
		if n := len(r.devices["sp2"].wrote()); n != 100 {
			t.Errorf("%d writes to the other", n)
		}
		r.pass(ioWithin + 3*time.Second)
		if got := r.m.Status().Targets[0].Outcome; got.Outcome != Unverified {
			t.Errorf("the outcome is %+v", got)
		}
	})
}

// Anybody who may send to the queue can name a target in a message that is
// refused. That must not take the alarm of its last write away.
func TestWhatIsRefusedLeavesTheAlarm(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.lock(func() { r.devices["sp1"].ignores = true })
		r.send(r.result(17, 41.5))
		r.pass(3 * time.Second)
		forged := r.result(18, 42)
		forged.Signature = result.Signature{Key: "x", Sum: make([]byte, 64)}
		r.send(forged)
		if s := r.m.Status().Targets[0]; !s.Unverified || s.Outcome.Outcome != Refused {
			t.Errorf("after a result that was refused: %+v", s)
		}
		r.lock(func() { r.devices["sp1"].ignores = false })
		r.send(r.result(19, 42))
		r.pass(time.Minute)
		if s := r.m.Status().Targets[0]; s.Unverified {
			t.Errorf("after one that was written: %+v", s)
		}
	})
}

// Told to stop during a write, the mirror reads it back and records it first.
func TestStopDuringAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		r.start()
		hang := make(chan struct{})
		r.lock(func() { r.devices["sp1"].hang = hang })
		r.send(r.result(1, 1))
		r.cancel()
		r.pass(5 * time.Second)
		close(hang)
		r.stop()
		r.tells("held sp1 1", "intent sp1 1", "outcome sp1 1 written")
	})
}

// A panic in a target's code is this target's fault alone; the write is read back.
func TestATargetThatPanics(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.lock(func() { r.devices["sp1"].panics = true })
		r.send(r.result(1, 1))
		if why := r.downOf("target/sp1"); !strings.Contains(why, "BUG: panic") {
			t.Errorf("the target is down: %q", why)
		}
		r.pass(10 * time.Second)
		r.tells("held sp1 1", "intent sp1 1", "outcome sp1 1 unverified")
		r.send(r.result(2, 2))
		r.written(2)
		if why := r.downOf("target/sp1"); why != "" {
			t.Errorf("the target stays down: %q", why)
		}
	})
}

// Who signed a result is said only where that is sure.
func TestWho(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		r.cfg.Keys = map[string]ed25519.PublicKey{"cloud": public}
		r.start()
		defer r.stop()
		signed, forged := r.result(1, 1), r.result(2, 2)
		signed.Sign("cloud", private)
		forged.Sign("cloud", private)
		forged.ID = "other"
		r.send(signed)
		r.send(forged)
		for _, e := range r.log {
			want := ""
			if e.version == 1 && e.kind != kindStart {
				want = "key cloud"
			}
			if e.who != want {
				t.Errorf("%s of version %d says that %q sent it, want %q", e.kind, e.version, e.who, want)
			}
		}
	})
}

// Where the log takes its time, what was read before is read again.
func TestTheDeviceMovesWhileTheLogWaits(t *testing.T) {
	sp := sp1()
	sp.MaxStep = ptr(5.0)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp})
		full := errors.New("no space left on device")
		r.step = func(step string) {
			if step == StepPrepared {
				r.lock(func() { r.logFail = full })
			}
		}
		r.start()
		defer r.stop()
		p := r.devices["sp1"]
		r.send(r.result(1, 1))
		r.pass(2 * time.Second)
		r.lock(func() { p.present, r.logFail, r.step = sample.FloatValue(100), nil, nil })
		r.pass(time.Minute)
		r.written()
		r.tells("held sp1 1", "intent sp1 1", "outcome sp1 1 refused step_from_present")
	})
}

// The same value as before proves nothing where the device keeps the version.
func TestTheSameValueAgain(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		p := r.devices["sp1"]
		r.lock(func() { p.keeps = true })
		r.send(r.result(1, 5))
		r.lock(func() { p.ignores = true })
		r.send(r.result(2, 5))
		r.pass(3 * time.Second)
		r.tells("held sp1 2", "intent sp1 2", "outcome sp1 2 unverified")
	})
}

// alive fails the test if a part has not beaten for longer than it may.
func (r *rig) alive(when string) {
	r.t.Helper()
	r.lock(func() {
		for _, name := range []string{"audit", "target/sp1", "feed/results"} {
			if silent := time.Since(r.beats[name]); silent > 20*time.Second {
				r.t.Errorf("%s: %s has not beaten for %s", when, name, silent)
			}
		}
	})
}

// Whatever waits, nothing seems stuck.
func TestAllPartsBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left on device")
		r := newRig(t, []Target{sp1()})
		p := r.devices["sp1"]
		r.logFail = full
		r.start()
		r.pass(5 * time.Minute)
		r.alive("the log takes no record at the start")
		r.lock(func() { r.logFail = nil })
		r.pass(5 * time.Minute)
		r.alive("idle")
		r.lock(func() { r.logFail = full })
		r.send(r.result(1, 1))
		r.pass(5 * time.Minute)
		r.alive("the log takes no record")
		r.lock(func() { r.logFail, p.prepare = nil, errors.New("away") })
		r.pass(5 * time.Minute)
		r.alive("the device is away")
		r.lock(func() { r.feed.err = errors.New("away") })
		r.pass(5 * time.Minute)
		r.alive("the feed is away")
		r.stop()
	})
}
