package mirror

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/result"
)

func TestAResultIsWrittenAndReadBack(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.send(r.result(17, 41.5))
		r.written(41.5)
		r.tells("held sp1 17", "intent sp1 17", "outcome sp1 17 written")
		if n := r.undone(); n != 0 {
			t.Errorf("the feed still has %d messages", n)
		}
		s := r.m.Status().Targets[0]
		if s.Version != 17 || s.Last == nil || s.Last.Value.Float() != 41.5 || s.Outcomes["written"] != 1 || s.Pending != nil {
			t.Errorf("status %+v", s)
		}
		c := r.devices["sp1"].wrote()[0]
		if c.Version != 17 || c.Quality != sample.Good || c.ValidUntil.Sub(c.Time) != 10*time.Minute {
			t.Errorf("the command is %+v", c)
		}
	})
}

func TestWhatADeviceAnswers(t *testing.T) {
	failed := func(o protocols.WriteOutcome) error { return &protocols.WriteError{Outcome: o, Err: errors.New("no")} }
	for _, c := range []struct {
		name   string
		device func(p *plc)
		want   Outcome
		writes int
		down   bool
	}{
		{"confirms and does nothing", func(p *plc) { p.ignores = true }, Unverified, 1, true},
		{"does not answer, and has done it", func(p *plc) { p.write, p.carries = failed(protocols.Unknown), true }, Written, 1, false},
		{"does not answer, and has not done it", func(p *plc) { p.write = failed(protocols.Unknown) }, Unverified, 0, true},
		{"an error of no class, and has done it", func(p *plc) { p.write, p.carries = errors.New("?"), true }, Written, 1, false},
		{"cannot be read back", func(p *plc) { p.read = errors.New("gone") }, Unverified, 1, true},
		{"reads Bad", func(p *plc) { p.quality = sample.BadDeviceFailure }, Unverified, 1, true},
		{"says no", func(p *plc) { p.write = failed(protocols.Rejected) }, Rejected, 0, false},
		{"is of another type", func(p *plc) { p.prepare = failed(protocols.Unsuited) }, Unsuited, 0, false},
		{"has no rights", func(p *plc) { p.prepare = failed(protocols.Rejected) }, Rejected, 0, false},
		{"is of another type, said late", func(p *plc) { p.write = failed(protocols.Unsuited) }, Unsuited, 0, false},
		{"rounds", func(p *plc) {
			p.round = func(v sample.Value) sample.Value { return sample.FloatValue(float64(float32(v.Float()))) }
		}, Written, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, []Target{sp1()}, func(r *rig) {
				p := r.devices["sp1"]
				r.lock(func() { c.device(p) })
				r.send(r.result(17, 41.3))
				r.pass(3 * time.Second)
				if got := r.story(); !strings.HasSuffix(got[len(got)-1], "sp1 17 "+string(c.want)) {
					t.Errorf("the outcome is %q, want %s", got, c.want)
				}
				if len(p.wrote()) != c.writes {
					t.Errorf("%d writes, want %d", len(p.wrote()), c.writes)
				}
				if why := r.downOf("target/sp1"); (why != "") != c.down {
					t.Errorf("the target is down: %q", why)
				}
				// Whatever it was, it is not tried again, and a newer one gets its turn.
				r.lock(func() { *p = plc{w: r.world} })
				r.send(r.result(17, 41.3))
				r.send(r.result(18, 42))
				r.pass(time.Minute)
				r.written(func() []float64 {
					if c.want == Unsuited && p.prepare == nil && strings.HasSuffix(c.name, "another type") || c.want == Rejected && strings.HasPrefix(c.name, "has no") {
						return []float64{41.3, 42} // it had never been attempted
					}
					return []float64{42}
				}()...)
				if why := r.downOf("target/sp1"); why != "" {
					t.Errorf("it stays down: %q", why)
				}
			})
		})
	}
}

func TestEachRefusalIsAuditedAndDone(t *testing.T) {
	off := sp1()
	off.Name, off.Mode = "sp2", guard.Off
	elsewhere := sp1()
	elsewhere.Name, elsewhere.Feeds = "sp3", nil
	within(t, []Target{sp1(), off, elsewhere}, func(r *rig) {
		for i, c := range []struct {
			change func(*result.Result)
			want   string
		}{
			{func(one *result.Result) { one.Target = "sp2" }, "mode_off"},
			{func(one *result.Result) { one.Target = "sp3" }, "unknown_target"},
			{func(one *result.Result) { one.Target = "nobody" }, "unknown_target"},
			{func(one *result.Result) { one.Site = "south" }, "wrong_site"},
			{func(one *result.Result) { one.Signature = result.Signature{Key: "x", Sum: make([]byte, 64)} }, "unknown_key"},
			{func(one *result.Result) { one.ValidUntil = one.ValidFrom.Add(time.Nanosecond) }, "expired"},
			{func(one *result.Result) { one.Unit = "A" }, "wrong_unit"},
			{func(one *result.Result) { one.Value = sample.IntValue(3) }, "wrong_type"},
			{func(one *result.Result) { one.Value = sample.FloatValue(501) }, "above_max"},
		} {
			one := r.result(uint64(i)+1, 1)
			c.change(one)
			time.Sleep(time.Millisecond)
			r.send(one)
			r.tells(fmt.Sprintf("outcome %s %d refused %s", one.Target, i+1, c.want))
		}
		r.feed.put(feeds.Message{Key: "x", Body: []byte("{")}, feeds.Message{Key: "y", Body: make([]byte, 1<<20)}, feeds.Message{Key: "z"})
		synctest.Wait()
		r.tells("outcome 0 malformed not_json", "outcome 0 malformed too_large", "outcome 0 malformed not_json")
		if r.undone() != 0 {
			t.Errorf("%d messages are stuck", r.undone())
		}
		r.written()
		f := r.m.Status().Feeds[0]
		if f.Received != 12 || f.Malformed != 3 || f.Strange != 2 {
			t.Errorf("the feed shows %+v", f)
		}
		if got := r.m.Status().Targets[0].Refused["above_max"]; got != 1 {
			t.Errorf("%d were above max", got)
		}
	})
}

func TestSignatures(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	synctest.Test(t, func(t *testing.T) {
		sp := sp1()
		sp.Class, sp.MaxStep, sp.MaxAge = Setpoint, ptr(100.0), time.Hour
		r := newRig(t, []Target{sp})
		r.cfg.Keys = map[string]ed25519.PublicKey{"cloud": public}
		r.start()
		defer r.stop()
		r.send(r.result(1, 10))
		r.tells("outcome sp1 1 refused unsigned")
		forged := r.result(2, 10)
		forged.Sign("cloud", private)
		forged.Value = sample.FloatValue(99)
		r.send(forged)
		r.tells("outcome sp1 2 refused bad_signature")
		good := r.result(3, 10)
		good.Sign("cloud", private)
		r.send(good)
		r.tells("held sp1 3", "intent sp1 3", "outcome sp1 3 written")
		body, _ := r.result(4, 20).Encode()
		r.feed.put(feeds.Message{Key: "local", Body: body, Local: true})
		synctest.Wait()
		r.tells("outcome sp1 4 refused unsigned")
		r.written(10)
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()}) // a mirror tag
		r.cfg.SignatureRequired = true
		r.start()
		defer r.stop()
		r.send(r.result(1, 10))
		r.tells("outcome sp1 1 refused unsigned")
		body, _ := r.result(2, 20).Encode()
		r.feed.put(feeds.Message{Key: "local", Body: body, Local: true})
		synctest.Wait()
		r.written(20)
	})
}

func TestDryRunDoesAllButWrite(t *testing.T) {
	sp := sp1()
	sp.Mode, sp.Heartbeat, sp.MaxStep = guard.DryRun, time.Second, ptr(5.0)
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		r.lock(func() { p.present = sample.FloatValue(40) })
		r.send(r.result(1, 41))
		r.tells("held sp1 1", "outcome sp1 1 dry_run")
		r.send(r.result(2, 46))
		r.tells("held sp1 2", "outcome sp1 2 refused step_from_present")
		r.pass(time.Hour)
		if len(p.wrote())+len(p.told()) != 0 {
			t.Errorf("written %v, told %v", p.wrote(), p.told())
		}
	})
}

// A feed that brings and cannot be told is down all the while, and not up and
// down with each message.
func TestAFeedThatCannotBeTold(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.lock(func() { r.feed.deaf = errors.New("no right to delete") })
		for v := range uint64(20) {
			r.send(r.result(v+1, 1))
		}
		if why := r.downOf("feed/results"); why != "no right to delete" || r.changes != 1 {
			t.Errorf("the feed is down: %q, after %d changes", why, r.changes)
		}
		r.lock(func() { r.feed.deaf = nil })
		r.restart()
		r.pass(time.Minute)
		if r.undone() != 0 || r.downOf("feed/results") != "" || len(r.devices["sp1"].wrote()) != 20 {
			t.Errorf("%d messages are not done, feed down: %q", r.undone(), r.downOf("feed/results"))
		}
	})
}

// Ten messages come at a time; of a flood only the newest valid one waits.
func TestFlood(t *testing.T) {
	sp := sp1()
	sp.MinInterval = 10 * time.Second
	within(t, []Target{sp}, func(r *rig) {
		const n = 1000
		for i := range uint64(n) {
			one := r.result(i+1, float64(i%500))
			body, err := one.Encode()
			if err != nil {
				t.Fatal(err)
			}
			r.feed.put(feeds.Message{Key: fmt.Sprint(i), Body: body})
			if i%20 == 0 {
				r.pass(time.Second)
			}
		}
		r.pass(10 * time.Second)
		p := r.devices["sp1"]
		var last uint64
		for i, c := range p.wrote() {
			if c.Version <= last {
				t.Errorf("version %d after %d", c.Version, last)
			}
			if last = c.Version; i > 0 && p.writtenAt[i]-p.writtenAt[i-1] < 10*time.Second {
				t.Errorf("written after %s", p.writtenAt[i]-p.writtenAt[i-1])
			}
		}
		if last != n || len(p.wrote()) < 6 || len(p.wrote()) > 7 {
			t.Errorf("%d writes, the last of version %d", len(p.wrote()), last)
		}
		outcomes := r.m.Status().Targets[0].Outcomes
		if int(outcomes["superseded"])+len(p.wrote()) != n {
			t.Errorf("%v of %d results", outcomes, n)
		}
		if lines := strings.Count(r.logged(), "mirror target"); lines > 3 {
			t.Errorf("%d lines in the log:\n%s", lines, r.logged())
		}
	})
}

func TestHeldExpires(t *testing.T) {
	sp := sp1()
	sp.MinInterval = time.Hour
	within(t, []Target{sp}, func(r *rig) {
		r.send(r.result(1, 1))
		r.send(r.result(2, 2))
		if p := r.m.Status().Targets[0].Pending; p == nil || p.Version != 2 || p.Why != "interval" {
			t.Errorf("pending %+v", p)
		}
		// An older one and the same one again are known, though nothing was written yet.
		r.send(r.result(2, 3))
		r.tells("outcome sp1 2 refused not_newer")
		r.pass(11 * time.Minute)
		r.tells("outcome sp1 2 expired_held expired", "stale sp1 0")
		r.send(r.result(2, 3)) // it was never attempted
		r.tells("held sp1 2")
	})
}

func TestADeviceThatIsAway(t *testing.T) {
	away := &protocols.WriteError{Outcome: protocols.Unsent, Err: errors.New("plc: connection refused")}
	within(t, []Target{sp1()}, func(r *rig) {
		p := r.devices["sp1"]
		r.lock(func() { p.write, p.read = away, away })
		r.send(r.result(1, 1))
		r.pass(5 * time.Minute)
		r.tells("held sp1 1", "intent sp1 1", "outcome sp1 1 unsent")
		if got := r.m.Status().Targets[0]; got.Pending == nil || got.Pending.Why != "device" || got.Version != 0 {
			t.Errorf("status %+v", got)
		}
		r.send(r.result(2, 2))
		r.pass(time.Minute)
		r.tells("outcome sp1 1 superseded", "held sp1 2", "outcome sp1 2 unsent")
		r.restart()
		r.lock(func() { p.write, p.read = nil, nil })
		r.pass(time.Minute)
		r.written(2)
		r.tells("intent sp1 2", "outcome sp1 2 written")

		// Two hours later it is too late.
		r.lock(func() { p.prepare = away })
		r.send(r.result(3, 3))
		r.pass(2 * time.Hour)
		r.lock(func() { p.prepare = nil })
		r.pass(time.Hour)
		r.written(2)
		r.tells("stale sp1 0", "outcome sp1 3 expired_held expired")
	})
}

func TestNothingIsWrittenWhileTheLogFails(t *testing.T) {
	sp := sp1()
	sp.Heartbeat = time.Second
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		r.send(r.result(1, 1))
		r.lock(func() { r.logFail = errors.New("no space left on device") })
		r.send(r.result(2, 2))
		var beats int
		r.lock(func() { beats = len(p.states) })
		r.pass(time.Minute)
		r.written(1)
		if len(p.told()) != beats {
			t.Error("the heartbeat goes on")
		}
		if why := r.downOf("audit"); !strings.Contains(why, "no space left") || !strings.Contains(why, "free") {
			t.Errorf("the audit log is down: %q", why)
		}
		if r.undone() != 1 || r.m.Status().Audit.Error == "" {
			t.Errorf("%d messages are not done; status %+v", r.undone(), r.m.Status().Audit)
		}
		if err := r.m.Disarm("sp1", "op"); err == nil {
			t.Error("disarmed without a record, and no word of it")
		}
		if got := r.m.Status().Targets[0].Mode; got != guard.DryRun {
			t.Errorf("the mode is %s", got)
		}
		r.lock(func() { r.logFail = nil })
		r.pass(time.Minute)
		r.tells("held sp1 2", "outcome sp1 2 dry_run")
		if err := r.m.Arm("sp1", Configured, "op"); err != nil {
			t.Error(err)
		}
		r.send(r.result(3, 3))
		r.written(1, 3)
		if r.undone() != 0 || r.downOf("audit") != "" {
			t.Errorf("%d messages are not done, audit is down: %s", r.undone(), r.downOf("audit"))
		}
	})
}

func TestEnableTag(t *testing.T) {
	sp := sp1()
	sp.Enable = "north/plc/ok"
	within(t, []Target{sp}, func(r *rig) {
		version := uint64(0)
		for _, c := range []struct {
			v    sample.Value
			q    sample.Quality
			want string
		}{
			{sample.Value{}, sample.Bad, "outcome sp1 %d refused not_enabled"},
			{sample.BoolValue(true), sample.Good, "outcome sp1 %d written"},
			{sample.BoolValue(true), sample.UncertainLastUsableValue, "outcome sp1 %d refused not_enabled"},
			{sample.BoolValue(true), sample.BadTimeout, "outcome sp1 %d refused not_enabled"},
			{sample.BoolValue(false), sample.Good, "outcome sp1 %d refused not_enabled"},
			{sample.IntValue(1), sample.Good, "outcome sp1 %d written"},
			{sample.IntValue(0), sample.Good, "outcome sp1 %d refused not_enabled"},
			{sample.FloatValue(0.5), sample.Good, "outcome sp1 %d written"},
			{sample.StringValue("true"), sample.Good, "outcome sp1 %d refused not_enabled"},
			{sample.Value{}, sample.Good, "outcome sp1 %d refused not_enabled"},
		} {
			version++
			r.lock(func() { r.tags["north/plc/ok"] = protocols.Reading{Value: c.v, Quality: c.q} })
			r.send(r.result(version, 1))
			r.tells(fmt.Sprintf(c.want, version))
		}
		r.lock(func() { delete(r.tags, "north/plc/ok") })
		r.send(r.result(99, 1))
		r.tells("outcome sp1 99 refused not_enabled")
	})
}

func TestClockGuard(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.clock.SetSync(clock.Unsynchronised)
		r.send(r.result(1, 1))
		r.tells("outcome sp1 1 refused clock_unsynchronised")
		r.clock.SetSync(clock.Synchronised)
		r.send(r.result(1, 1))
		r.written(1)
	})
}

func TestStepFromWhatStandsThere(t *testing.T) {
	sp := sp1()
	sp.MaxStep = ptr(0.1)
	within(t, []Target{sp}, func(r *rig) {
		p := r.devices["sp1"]
		float32s := func(v sample.Value) sample.Value { return sample.FloatValue(float64(float32(v.Float()))) }
		r.lock(func() { p.round, p.present = float32s, sample.FloatValue(1) })
		r.send(r.result(1, 1.1))
		// The device holds 1.10000002384…; from 1.1 it is just the step that is allowed.
		r.send(r.result(2, 1.2))
		r.written(1.1, 1.2)
		// Somebody else writes there.
		r.lock(func() { p.present = sample.FloatValue(1) })
		r.send(r.result(3, 1.3))
		r.written(1.1, 1.2)
		r.tells("held sp1 3", "outcome sp1 3 refused step_from_present")
		// Nothing usable stands there: the last value counts.
		r.lock(func() { p.quality, p.ignores = sample.BadNoCommunication, false })
		r.send(r.result(4, 1.4))
		r.tells("outcome sp1 4 refused step_from_last")
	})
}

func TestStatusSamples(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.send(r.result(1<<60, 41.5), r.result(7, 1))
		var got []sample.Sample
		r.lock(func() { got = slices.Clone(r.status) })
		if len(got) != 2 {
			t.Fatalf("%d samples", len(got))
		}
		for i, want := range []string{
			`{"outcome":"refused","reason":"not_newer","id":"r-7","version":7,"value":1,"n":3,"hash":"hash-3"}`,
			`{"outcome":"written","id":"r-1152921504606846976","version":"1152921504606846976","value":41.5,"n":5,"hash":"hash-5"}`,
		} {
			if s := got[i]; s.Tag != "north/mirror/sp1/status" || s.Value.Str() != want || s.Quality != sample.Good || s.Time == 0 {
				t.Errorf("%+v, want %s", s, want)
			}
			if !json.Valid([]byte(got[i].Value.Str())) {
				t.Error("no JSON")
			}
		}
	})
}

func TestOffConstructsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sp := sp1()
		sp.Mode = guard.Off
		r := newRig(t, []Target{sp})
		m, err := New(r.cfg, r.settings())
		if err != nil {
			t.Fatal(err)
		}
		if r.opened != 0 {
			t.Errorf("%d feeds and targets were opened", r.opened)
		}
		if err := m.Arm("sp1", time.Hour, "op"); err == nil || !strings.Contains(err.Error(), "off") {
			t.Errorf("Arm: %v", err)
		}
		if s := m.Status(); s.Targets[0].Mode != guard.Off {
			t.Errorf("status %+v", s)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// What waits is not written if its feed may not write there any more.
func TestAFeedThatIsTakenAway(t *testing.T) {
	sp, other := sp1(), sp1()
	sp.MinInterval = time.Hour
	other.Name = "sp2"
	within(t, []Target{sp, other}, func(r *rig) {
		r.send(r.result(1, 1))
		r.send(r.result(2, 2))
		r.stop()
		r.cfg.Targets[0].Feeds = nil
		r.start()
		r.tells("held sp1 2", "outcome sp1 2 refused unknown_target")
	})
}

// A target that is taken out of the configuration, or is off now, leaves nothing open.
func TestWhatWaitsForATargetThatIsOff(t *testing.T) {
	sp, other := sp1(), sp1()
	sp.MinInterval = time.Hour
	other.Name = "sp2"
	within(t, []Target{sp, other}, func(r *rig) {
		r.send(r.result(1, 1), r.result(2, 2))
		r.send(r.result(3, 3))
		r.stop()
		r.cfg.Targets[0].Mode = guard.Off
		r.start()
		r.tells("outcome sp1 3 refused mode_off")
		r.stop()
		r.cfg.Targets[0].Mode, r.cfg.Targets[0].MinInterval = guard.Armed, 0
		r.start()
		r.send(r.result(2, 2))
		r.tells("outcome sp1 2 refused not_newer")
	})
}

func TestAFeedThatFails(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.lock(func() { r.feed.err = errors.New("access denied") })
		r.pass(time.Minute)
		if r.downOf("feed/results") == "" || r.m.Status().Feeds[0].Error == "" {
			t.Errorf("the feed shows %+v", r.m.Status().Feeds[0])
		}
		r.lock(func() { r.feed.err = nil })
		r.send(r.result(1, 1))
		r.pass(2 * time.Minute)
		r.written(1)
		if r.downOf("feed/results") != "" {
			t.Error("the feed stays down")
		}
		r.restart()
		if r.feed.cursor != "00000001" {
			t.Errorf("the feed goes on after %q", r.feed.cursor)
		}
	})
}

// A newer result that comes while the device is asked about an older one wins.
func TestANewerOneComesBeforeTheIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		prepared := make(chan struct{})
		goOn := make(chan struct{})
		r.step = func(step string) {
			if step == StepPrepared {
				prepared <- struct{}{}
				<-goOn
			}
		}
		r.start()
		r.send(r.result(1, 1))
		<-prepared
		r.send(r.result(2, 2))
		goOn <- struct{}{}
		<-prepared
		goOn <- struct{}{}
		synctest.Wait()
		r.written(2)
		r.tells("held sp1 1", "outcome sp1 1 superseded", "held sp1 2", "intent sp1 2", "outcome sp1 2 written")
		r.stop()
	})
}

// The state is not told to a device that was disarmed just before.
func TestNothingIsToldUnarmed(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		r.disarm()
		n := len(r.devices["sp1"].told())
		if sent, err := r.m.targets[0].sendState(t.Context(), protocols.State{Valid: true}); sent || err != nil || len(r.devices["sp1"].told()) != n {
			t.Errorf("told %t, %v", sent, err)
		}
	})
}
