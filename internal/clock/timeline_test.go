package clock

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

const decade = 10 * 365 * 24 * time.Hour

func TestTimelineIsNotStepped(t *testing.T) {
	f := NewFake(noon)
	tl := NewTimeline(f)
	if !tl.Now().Equal(noon) {
		t.Errorf("begins at %s, want the wall clock's %s", tl.Now(), noon)
	}
	want := noon
	for _, step := range []time.Duration{decade, -2 * decade, time.Second, -200 * 365 * 24 * time.Hour} {
		f.Step(step)
		f.Advance(time.Second)
		want = want.Add(time.Second)
		if !tl.Now().Equal(want) {
			t.Errorf("after a step of %s it shows %s, want %s", step, tl.Now(), want)
		}
	}
}

func TestOffsetIsTheWallClocks(t *testing.T) {
	f := NewFake(noon)
	tl := NewTimeline(f)
	f.Step(-decade)
	f.Advance(time.Minute)
	got, ok := tl.Offset()
	if want := tl.Base() - int64(decade); !ok || got != want {
		t.Errorf("offset %d, %v; want %d", got, ok, want)
	}
	for _, wall := range []time.Time{
		time.Unix(-1, 0), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(math.MaxInt32*1000, 0),
	} {
		f.Set(wall)
		if got, ok := tl.Offset(); ok {
			t.Errorf("a wall clock at %s is believed: offset %d", wall.UTC(), got)
		}
		late := NewTimeline(f)
		if up := f.SinceBoot(); late.Now().UnixNano() != int64(up) {
			t.Errorf("with a wall clock at %s a timeline begins at %s", wall.UTC(), late.Now().UTC())
		}
	}
}

func TestFollow(t *testing.T) {
	const at = int64(1_777_777_777_123_456_789)
	for _, c := range []struct{ moved, want time.Duration }{
		{0, 0}, {time.Microsecond, 0}, {-4999 * time.Microsecond, 0}, {5 * time.Millisecond, 5 * time.Millisecond},
		{-7*time.Millisecond - 600*time.Microsecond, -8 * time.Millisecond}, {time.Hour + 400*time.Microsecond, time.Hour},
		{-decade, -decade}, {decade + 1, decade},
	} {
		if got := Follow(at, at+int64(c.moved)); got != at+int64(c.want) {
			t.Errorf("moved by %s: follows by %s, want %s", c.moved, time.Duration(got-at), c.want)
		}
	}
}

func TestMachine(t *testing.T) {
	m := SourceOf(System{})
	if m.Boot() == ([16]byte{}) {
		t.Error("no boot id")
	}
	if SourceOf(m) != m {
		t.Error("a source is wrapped")
	}
	a := m.SinceBoot()
	_ = m.Sync() // whatever this machine says
	if b := m.SinceBoot(); b < a || a < 0 {
		t.Errorf("went from %s to %s", a, b)
	}
	tl := NewTimeline(m)
	if d := time.Since(tl.Now()); d > time.Minute || d < -time.Minute {
		t.Errorf("the timeline is %s off", d)
	}
}

// Within a bubble the machine's monotonic clock is the bubble's, so that the
// hours that a test sleeps are no steps.
func TestMachineInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := NewTimeline(SourceOf(System{}))
		before, _ := tl.Offset()
		time.Sleep(30 * 24 * time.Hour)
		_ = tl.Sync()
		if after, _ := tl.Offset(); after != before {
			t.Errorf("the offset moved by %s", time.Duration(after-before))
		}
		f := NewRunningFake(noon)
		time.Sleep(time.Hour)
		if !f.Now().Equal(noon.Add(time.Hour)) {
			t.Errorf("the running fake shows %s", f.Now())
		}
	})
}

type stopped struct{}

func (stopped) Now() time.Time { return noon }

func TestAnyClockIsASource(t *testing.T) {
	s := SourceOf(stopped{})
	if s.Sync() != SyncUnknown || !s.Now().Equal(noon) || s.Boot() == ([16]byte{}) {
		t.Errorf("sync %s, now %s", s.Sync(), s.Now())
	}
	if !WallOf(NewTimeline(s)).Equal(noon) || !WallOf(stopped{}).Equal(noon) {
		t.Error("not the wall clock")
	}
}

func TestReboot(t *testing.T) {
	f := NewFake(noon)
	f.Step(decade)
	boot := f.Boot()
	f.Reboot()
	if f.Boot() == boot || f.SinceBoot() != 0 || !f.Now().Equal(noon.Add(decade)) {
		t.Errorf("up %s, shows %s", f.SinceBoot(), f.Now())
	}
}
