package batch

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

func TestSamplesAreHeldUntilTheClockIsSynchronised(t *testing.T) {
	f := clock.NewFake(unset)
	f.SetSync(clock.Unsynchronised)
	m := boot(t, f, ClockRequire)
	m.run(5 * time.Minute)
	if out, _ := m.sealed(); slices.ContainsFunc(out, func(s *seen) bool { return s != nil }) {
		t.Fatal("sealed before the clock is synchronised")
	}
	if s := m.b.Clock(); !s.Holding || s.State != "free" || s.HoldLeft > 5*time.Minute+time.Second {
		t.Errorf("clock %+v", s)
	}
	f.Set(noon)
	f.SetSync(clock.Synchronised)
	m.run(2 * time.Minute)
	out, records := m.end()
	first := noon.Add(-5*time.Minute + time.Second)
	for i, s := range out {
		if want := first.Add(time.Duration(i/2) * time.Second); s.v.Time != want.UnixNano() || s.v.Quality != sample.Good {
			t.Fatalf("sample %d is of %s, %s; want %s", i, time.Unix(0, s.v.Time).UTC(), s.v.Quality, want)
		}
		if s.h.Clock != block.ClockSynced || s.h.Boot != f.Boot() {
			t.Fatalf("header %+v", s.h)
		}
	}
	if len(records) > 0 {
		t.Errorf("a record corrects what was never wrong: %+v", records[0])
	}
	for _, line := range []string{"samples are held until it is, at most 10m0s", "the clock is synchronised; samples that were held get their time"} {
		if m.logged(line) != 1 {
			t.Errorf("%q is logged %d times in\n%s", line, m.logged(line), m.log.String())
		}
	}
}

func TestAfterTenMinutesSamplesGoUpAsUncertain(t *testing.T) {
	f := clock.NewFake(unset)
	f.SetSync(clock.Unsynchronised)
	m := boot(t, f, ClockRequire)
	m.run(9*time.Minute + 58*time.Second)
	if out, _ := m.sealed(); out[0] != nil {
		t.Fatal("sealed within ten minutes")
	}
	m.take("s/d/a", sample.Sample{Quality: sample.BadTimeout})
	m.take("s/d/b", sample.Sample{Quality: sample.UncertainEngineeringUnits, SourceTime: noon.UnixNano()})
	m.run(5 * time.Second)
	if out, _ := m.sealed(); out[0] == nil {
		t.Fatal("still held after ten minutes")
	}
	m.run(5 * time.Minute)
	f.Set(noon)
	f.SetSync(clock.Synchronised)
	m.run(2 * time.Minute)
	out, records := m.end()
	if len(records) != 1 || records[0].Cause != ledger.ClockSynchronised || records[0].Boot != f.Boot() {
		t.Fatalf("records %+v", records)
	}
	free := 0
	for i, s := range out {
		right := noon.Add(m.mono[i] - (f.SinceBoot() - 2*time.Minute))
		want := sample.Good
		if s.h.Clock == block.ClockFree {
			free++
			want = sample.Uncertain
		}
		switch i {
		case 2 * (9*60 + 58):
			want = sample.BadTimeout
		case 2*(9*60+58) + 1:
			want = sample.UncertainEngineeringUnits
			if s.v.SourceTime != noon.UnixNano() {
				t.Errorf("the device's time became %d", s.v.SourceTime)
			}
		}
		if s.v.Quality != want {
			t.Errorf("sample %d is %s, want %s", i, s.v.Quality, want)
		}
		got := s.v.Time
		if s.h.Clock == block.ClockFree {
			var ok bool
			if got, ok = records[0].Correct(s.h.Boot, s.h.Mono, got); !ok {
				t.Fatalf("the record is not for sample %d", i)
			}
		}
		if got != right.UnixNano() {
			t.Fatalf("sample %d is of %s after the correction, want %s", i, time.Unix(0, got).UTC(), right)
		}
	}
	if free < 2*14*60 {
		t.Errorf("%d samples went up with a free clock", free)
	}
	for _, line := range []string{"samples are held until", "samples go up as Uncertain", "the clock is synchronised;"} {
		if m.logged(line) != 1 {
			t.Errorf("%q is logged %d times in\n%s", line, m.logged(line), m.log.String())
		}
	}
	if s := m.b.Clock(); s.Uncorrected || s.State != "synchronised" {
		t.Errorf("clock %+v", s)
	}
}

func TestAlarmsAreNotHeld(t *testing.T) {
	f := clock.NewFake(unset)
	f.SetSync(clock.Unsynchronised)
	m := boot(t, f, ClockRequire)
	m.take("s/d/alarm", sample.Sample{})
	f.Advance(time.Second)
	m.commit()
	if out, _ := m.sealed(); out[0] == nil || out[0].v.Quality != sample.Uncertain {
		t.Errorf("the alarm came as %+v", out[0])
	}
}

func TestACrashWhileSamplesAreHeld(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		t.Run(fmt.Sprintf("reboot=%v", reboot), func(t *testing.T) {
			f := clock.NewFake(unset)
			f.SetSync(clock.Unsynchronised)
			m := boot(t, f, ClockRequire)
			m.run(time.Minute)
			old, base := f.Boot(), m.b.o.Timeline.Base()
			if reboot {
				f.Reboot()
			}
			f.Advance(30 * time.Second)
			m.start()
			if out, _ := m.sealed(); (out[0] != nil) != reboot {
				t.Fatalf("sealed at the start: %v", out[0] != nil)
			}
			n := len(m.mono)
			m.run(time.Minute)
			f.Set(noon)
			f.SetSync(clock.Synchronised)
			m.run(time.Minute)
			out, records := m.end()
			for i, s := range out {
				switch {
				case reboot && i < n:
					if s.h.Boot != old || s.h.Mono != base || s.h.Clock != block.ClockFree || s.v.Quality != sample.Uncertain {
						t.Fatalf("sample %d of the boot before: %s, %+v", i, s.v.Quality, s.h)
					}
				default:
					right := noon.Add(m.mono[i] - (f.SinceBoot() - time.Minute))
					if s.v.Quality != sample.Good || s.v.Time != right.UnixNano() || s.h.Boot != f.Boot() {
						t.Fatalf("sample %d is %s of %s, want %s", i, s.v.Quality, time.Unix(0, s.v.Time).UTC(), right)
					}
				}
			}
			if len(records) != 0 {
				t.Errorf("records %+v", records)
			}
		})
	}
}

// A record follows once, also where the gateway crashes between the
// synchronisation and the commit, or before the former.
func TestTheRecordSurvivesACrash(t *testing.T) {
	for _, crash := range []string{"before", "between", "after"} {
		t.Run(crash, func(t *testing.T) {
			f := clock.NewFake(unset)
			f.SetSync(clock.Unsynchronised)
			m := boot(t, f, ClockRequire)
			m.run(12 * time.Minute)
			if crash == "before" {
				m.start()
			}
			f.Set(noon)
			f.SetSync(clock.Synchronised)
			if crash == "between" {
				m.b.mu.Lock()
				m.b.keepTime() // in memory, and never stored
				m.b.mu.Unlock()
				m.start()
			}
			m.commit()
			m.start()
			m.run(time.Minute)
			f.Advance(time.Minute)
			m.start()
			m.run(time.Minute)
			out, records := m.end()
			if len(records) != 1 {
				t.Fatalf("%d records", len(records))
			}
			if got, ok := records[0].Correct(out[0].h.Boot, out[0].h.Mono, out[0].v.Time); !ok || got != noon.Add(-12*time.Minute+time.Second).UnixNano() {
				t.Errorf("the first sample is put to %s, %v", time.Unix(0, got).UTC(), ok)
			}
		})
	}
}

// How long the gateway was down is told once it is known what time it is: the
// gap ends at the first commit, and not in 1970.
func TestTheTimeDownIsToldOnceTheTimeIsKnown(t *testing.T) {
	for _, crash := range []bool{false, true} {
		f := clock.NewFake(noon)
		m := boot(t, f, ClockRequire)
		turn(t, m.b, false)
		m.run(time.Minute)
		turn(t, m.b, true)
		last := f.Now()
		f.Reboot()
		f.Set(unset)
		f.SetSync(clock.Unsynchronised)
		m.start()
		turn(t, m.b, false)
		m.run(time.Minute)
		turn(t, m.b, false)
		if gaps, _ := m.store.records(t); len(gaps) > 0 {
			t.Fatalf("told before: %+v", gaps[0])
		}
		if crash {
			m.start()
			turn(t, m.b, false)
		}
		f.Set(noon.Add(time.Hour))
		f.SetSync(clock.Synchronised)
		m.commit()
		turn(t, m.b, false)
		f.Advance(time.Minute)
		turn(t, m.b, true)
		gaps, _ := m.store.records(t)
		to := noon.Add(time.Hour)
		if !crash {
			to = to.Add(-time.Minute)
		}
		if len(gaps) == 0 {
			t.Fatal("no gap")
		}
		if len(gaps) != 1 || gaps[0].Cause != ledger.GatewayDown || !gaps[0].From.Equal(last) || !gaps[0].To.Equal(to) {
			t.Errorf("crash %v: %d gaps, the first %+v; want one from %s to %s", crash, len(gaps), *gaps[0], last, to)
		}
	}
}

const decade = 10 * 365 * 24 * time.Hour

// A wall clock that is set while nobody disciplines it says nothing: samples
// keep the time of the last synchronisation.
func TestASteppedClockThatIsNotSynchronised(t *testing.T) {
	f := clock.NewFake(noon)
	m := boot(t, f, ClockRequire)
	m.run(90 * time.Second)
	f.SetSync(clock.Unsynchronised)
	for _, step := range []time.Duration{-decade, 2 * decade, -decade + time.Hour} {
		f.Step(step)
		m.run(90 * time.Second)
		m.start()
	}
	f.Step(-time.Hour + 5*time.Minute)
	m.commit()
	if want := noon.Add(f.SinceBoot() - time.Hour); !m.b.Now().Equal(want) {
		t.Errorf("a sample that is taken now is of %s, want %s", m.b.Now().UTC(), want)
	}
	f.Step(-5 * time.Minute)
	f.SetSync(clock.Synchronised)
	m.run(90 * time.Second)
	out, records := m.end()
	for i, s := range out {
		if want := noon.Add(m.mono[i] - time.Hour); s.v.Time != want.UnixNano() || s.v.Quality != sample.Good || s.h.Clock == block.ClockFree {
			t.Fatalf("sample %d is %s of %s, want %s", i, s.v.Quality, time.Unix(0, s.v.Time).UTC(), want)
		}
	}
	if len(records) != 0 {
		t.Errorf("records %+v", records)
	}
}

// A disciplined clock is followed wherever it goes.
func TestASteppedClockThatIsSynchronised(t *testing.T) {
	f := clock.NewFake(noon)
	m := boot(t, f, ClockRequire)
	m.run(90 * time.Second)
	f.Step(decade)
	m.run(90 * time.Second)
	f.Step(-decade)
	m.run(90 * time.Second)
	out, records := m.end()
	if got := out[170].v.Time; got != noon.Add(decade+86*time.Second).UnixNano() {
		t.Errorf("a sample that was open at the step is of %s", time.Unix(0, got).UTC())
	}
	if got := out[len(out)-1].v.Time; got != noon.Add(270*time.Second).UnixNano() {
		t.Errorf("the last is of %s", time.Unix(0, got).UTC())
	}
	if len(records) != 2 || records[0].Step != int64(decade) || records[1].Step != -int64(decade) || records[0].Cause != ledger.ClockStepped {
		t.Errorf("records %+v", records)
	}
	if n := m.logged("the wall clock was stepped"); n != 2 {
		t.Errorf("logged %d times", n)
	}
}

func TestAPlantWithoutATimeServer(t *testing.T) {
	for _, mode := range []ClockMode{ClockIgnore, ClockAuto} {
		f := clock.NewFake(noon)
		f.SetSync(clock.Unsynchronised)
		m := boot(t, f, mode)
		m.run(90 * time.Second)
		f.Step(time.Hour) // somebody sets the clock
		m.run(90 * time.Second)
		out, _ := m.end()
		for i, s := range out {
			if s.v.Quality != sample.Good || s.h.Clock != block.ClockFree {
				t.Fatalf("mode %d: sample %d is %s, clock %s", mode, i, s.v.Quality, s.h.Clock)
			}
		}
		if got := out[len(out)-1].v.Time; got != noon.Add(time.Hour+180*time.Second).UnixNano() {
			t.Errorf("mode %d: the last is of %s", mode, time.Unix(0, got).UTC())
		}
	}
}

// With the mode auto, samples are held where a synchronisation can be expected.
func TestAutoExpects(t *testing.T) {
	for name, c := range map[string]struct {
		wall    time.Time
		service bool
		seen    bool
		hold    bool
	}{
		"nothing":       {wall: noon},
		"never set":     {wall: unset, hold: true},
		"a service":     {wall: noon, service: true, hold: true},
		"seen before":   {wall: noon, seen: true, hold: true},
		"year of birth": {wall: time.Unix(0, beforeMillrace)},
	} {
		f := clock.NewFake(c.wall)
		m := &machine{t: t, clock: f, store: &store{}}
		m.opts = Options{Site: "s", Gateway: "g", ClockMode: ClockAuto, ExpectSync: c.service, Clock: f, Health: noHealth{}, Log: slog.New(slog.DiscardHandler)}
		if c.seen {
			m.start()
			m.run(time.Minute)
			f.Reboot()
		}
		f.SetSync(clock.Unsynchronised)
		m.start()
		if got := m.b.Clock().Holding; got != c.hold {
			t.Errorf("%s: holding %v, want %v", name, got, c.hold)
		}
	}
}

func TestABatchThatIsHeldIsBounded(t *testing.T) {
	f := clock.NewFake(unset)
	f.SetSync(clock.Unsynchronised)
	m := boot(t, f, ClockRequire)
	m.b.o.MaxOpenBytes = 64 << 10
	for m.b.openBytes <= m.b.o.MaxOpenBytes/2 {
		f.Advance(time.Millisecond)
		m.take("s/d/a", sample.Sample{})
	}
	m.commit()
	if m.b.openBytes != 0 {
		t.Errorf("%d bytes are still held", m.b.openBytes)
	}
	if out, _ := m.sealed(); out[0] == nil || out[0].v.Quality != sample.Uncertain {
		t.Errorf("came as %+v", out[0])
	}
	// So does a rotation of the spool's files.
	m.take("s/d/a", sample.Sample{})
	m.store.rotate = true
	m.commit()
	if out, _ := m.sealed(); out[len(out)-1] == nil {
		t.Error("held beyond a rotation")
	}
}

// A wall clock outside of what a sample's time can be is not followed.
func TestAWallClockBeyondNumbers(t *testing.T) {
	for _, wall := range []time.Time{time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)} {
		f := clock.NewFake(noon)
		m := boot(t, f, ClockRequire)
		m.run(10 * time.Second)
		f.Set(wall)
		m.run(90 * time.Second)
		out, _ := m.end()
		if got := out[len(out)-1].v.Time; got != noon.Add(100*time.Second).UnixNano() {
			t.Errorf("%s: the last is of %s", wall, time.Unix(0, got).UTC())
		}
	}
}

// The loop as the gateway runs it, on the timers of a bubble: what waits for the
// clock is acknowledged as soon as it is durable, goes up after ten minutes, and
// is corrected once.
func TestRunHoldsWithoutDelayingAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := clock.NewRunningFake(unset)
		f.SetSync(clock.Unsynchronised)
		m := boot(t, f, ClockRequire)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- m.b.Run(ctx) }()
		acked := 0
		for i := range 15 * 60 {
			time.Sleep(time.Second)
			v := sample.Sample{Tag: "s/d/a", Value: sample.IntValue(int64(i)), Time: m.b.o.Timeline.Now().UnixNano()}
			m.mono, m.tags = append(m.mono, f.SinceBoot()), append(m.tags, v.Tag)
			must(t, m.port.Emit(ctx, []sample.Sample{v}, func(err error) {
				must(t, err)
				acked++
			}))
			synctest.Wait()
			if acked != i+1 {
				t.Fatalf("%d of %d samples are acknowledged", acked, i+1)
			}
			if held := m.b.Clock().Holding; held != (i < 599) {
				t.Fatalf("holding %v after %d seconds", held, i+1)
			}
		}
		f.Set(noon)
		f.SetSync(clock.Synchronised)
		time.Sleep(time.Minute)
		cancel()
		must(t, <-ran)
		out, records := m.sealed()
		if len(records) != 1 {
			t.Fatalf("%d records", len(records))
		}
		for i, s := range out {
			want := noon.Add(time.Duration(i+1-15*60) * time.Second)
			got := s.v.Time
			if at, ok := records[0].Correct(s.h.Boot, s.h.Mono, got); ok {
				got = at
			}
			if got != want.UnixNano() {
				t.Fatalf("sample %d is of %s, want %s", i, time.Unix(0, got).UTC(), want)
			}
		}
	})
}

// That the clock was synchronised is stored with the first transaction there is:
// a gateway that crashes before its first sample still knows the time.
func TestTheFirstStartKnowsTheTime(t *testing.T) {
	f := clock.NewFake(noon)
	m := boot(t, f, ClockRequire)
	f.SetSync(clock.Unsynchronised)
	f.Step(-decade)
	m.start()
	m.run(2 * time.Second)
	out, _ := m.end()
	if want := noon.Add(time.Second).UnixNano(); out[0].v.Time != want || out[0].v.Quality != sample.Good {
		t.Errorf("the first sample is %s of %s", out[0].v.Quality, time.Unix(0, out[0].v.Time).UTC())
	}
}

// A clock that is taken as it is, and loses its synchronisation now and then,
// needs no correction where it was not set meanwhile.
func TestALostSynchronisationNeedsNoRecord(t *testing.T) {
	for _, step := range []time.Duration{0, time.Hour} {
		f := clock.NewFake(noon)
		m := boot(t, f, ClockIgnore)
		for range 3 {
			m.run(2 * time.Minute)
			f.SetSync(clock.Unsynchronised)
			m.commit()
			m.run(2 * time.Minute)
			f.SetSync(clock.Synchronised)
			m.commit()
		}
		if _, records := m.sealed(); len(records) != 0 {
			t.Errorf("records %+v", records)
		}
		f.SetSync(clock.Unsynchronised)
		f.Step(step)
		m.run(2 * time.Minute)
		f.Step(-step)
		f.SetSync(clock.Synchronised)
		m.commit()
		_, records := m.end()
		want := 0
		if step != 0 {
			want = 2 // the step, and that it was wrong
		}
		if len(records) != want {
			t.Errorf("step %s: records %+v, want %d", step, records, want)
		}
	}
}
