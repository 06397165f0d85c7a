package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millrace/gateway/config"
	"millrace/gateway/health"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/uploader/file"
)

// statusRig is a gateway that does not run, whose mirror has one target, off.
func statusRig(t *testing.T, c clock.Clock) (*Gateway, *statusSamples) {
	t.Helper()
	return rigWith(t, c, "ignore")
}

// rigWith is statusRig with a word of clock.sync.
func rigWith(t *testing.T, c clock.Clock, sync string) (*Gateway, *statusSamples) {
	t.Helper()
	dir := t.TempDir()
	files := file.Kind{}.NewConfig().(*file.Config)
	files.Dir = filepath.Join(dir, "out")
	g, err := New(t.Context(), Options{
		Log: slog.New(slog.DiscardHandler), Clock: c,
		Config: &config.Config{
			Gateway: config.Gateway{Site: "north", ID: "gw1"},
			Clock:   config.Clock{Sync: sync},
			Spool:   config.Spool{Dir: filepath.Join(dir, "spool"), MaxSize: 16 * bytesize.MiB, SegmentSize: 4 * bytesize.MiB, CommitInterval: 10 * time.Millisecond},
			Sinks:   []config.Sink{{Name: "files", Type: "file", Config: files, BacklogShare: 0.5}},
			Mirror:  config.Mirror{Enabled: true, Dir: filepath.Join(dir, "mirror"), Targets: []config.Target{{Name: "sp1", Mode: config.ModeOff, Type: sample.Float64, Class: config.MirrorTag}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.closeAll(); err != nil {
			t.Error(err)
		}
	})
	return g, g.mirror.status
}

// TestStatusSamplesNeverBlockTheEngine: what does not fit is counted, and the
// rest goes into the spool under the target's own tag.
func TestStatusSamplesNeverBlockTheEngine(t *testing.T) {
	g, s := statusRig(t, clock.System{})
	const more = 100
	for i := range statusWaiting + more { // nobody takes them
		s.put("sp1", sample.Sample{Tag: "odd", Value: sample.StringValue(fmt.Sprint(i)), Time: g.batch.Now().UnixNano()})
	}
	if n := s.lost.Load(); n != more {
		t.Errorf("%d are counted as lost, want %d", n, more)
	}
	s.put("sp9", sample.Sample{Value: sample.StringValue("x")})
	s.put("sp1", sample.Sample{Value: sample.StringValue(string(make([]byte, maxStatusBytes+1)))})
	if n := s.lost.Load(); n != more+2 {
		t.Errorf("%d are counted as lost, want %d", n, more+2)
	}
	var running sync.WaitGroup
	running.Go(func() { s.run(t.Context()) })
	s.drain()
	if c := g.batch.Counters()[statusSource]; c.In != statusWaiting || c.Refused != 0 || c.Tags != 1 {
		t.Errorf("%+v", c)
	}
	if s.holds != 0 {
		t.Errorf("%d are held after the drain", s.holds)
	}
}

// TestStatusSamplesKeepTheirTime: the engine stamps by the right time, samples
// are stamped on the timeline, and what goes up is the right time again.
func TestStatusSamplesKeepTheirTime(t *testing.T) {
	f := clock.NewFake(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC))
	g, s := statusRig(t, f)
	f.Step(time.Hour)
	f.Advance(time.Minute)
	at := g.batch.Now().Add(-3 * time.Second)
	s.put("sp1", sample.Sample{Value: sample.StringValue("x"), Time: at.UnixNano()})
	v := <-s.queue
	if v.Tag != "north/mirror/sp1/status" {
		t.Errorf("tag %s", v.Tag)
	}
	if ago := g.times.Now().UnixNano() - v.Time; ago != int64(3*time.Second) {
		t.Errorf("the outcome is %s old on the timeline, want 3s", time.Duration(ago))
	}
	s.put("sp1", sample.Sample{Value: sample.StringValue("x"), Time: g.batch.Now().Add(time.Hour).UnixNano()})
	if v := <-s.queue; v.Time > g.times.Now().UnixNano() {
		t.Error("an outcome of the future")
	}
}

// TestTheMirrorTrustsASynchronisedClockOnly, unless the configuration says that
// there is no time server. A clock that was synchronised once is not enough: the
// kernel says so only after hours without one.
func TestTheMirrorTrustsASynchronisedClockOnly(t *testing.T) {
	for _, mode := range []string{"ignore", "require", "auto"} {
		f := clock.NewRunningFake(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC))
		f.SetSync(clock.Unsynchronised)
		g, _ := rigWith(t, f, mode)
		if g.synchronised() != (mode == "ignore") {
			t.Errorf("%s: %v before the clock was read", mode, g.synchronised())
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := g.batch.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for _, is := range []clock.Sync{clock.Unsynchronised, clock.Synchronised, clock.Unsynchronised} {
			f.SetSync(is)
			deadline := time.Now().Add(5 * time.Second)
			for g.batch.Clock().Kernel != is.String() && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			if want := mode == "ignore" || is == clock.Synchronised; g.synchronised() != want {
				t.Errorf("%s, the kernel says %s: %v", mode, is, g.synchronised())
			}
		}
		cancel()
		running.Wait()
	}
}

// TestATagOfASourceThatIsRefusedIsBad: while nothing is taken of its source,
// nobody knows what the device says.
func TestATagOfASourceThatIsRefusedIsBad(t *testing.T) {
	g, s := statusRig(t, clock.System{})
	h := &sourceHealth{Component: g.health.Add(health.Source, "web", time.Minute)}
	tag := &liveTag{value: g.batch.Watch("north/mirror/sp1/status"), health: h}
	if _, ok := tag.newest(0); ok {
		t.Error("a reading before the first sample")
	}
	if err := s.port.Emit(t.Context(), []sample.Sample{{Tag: "north/mirror/sp1/status", Value: sample.StringValue("x"), Time: g.times.Now().UnixNano()}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, full := range []error{nil, errors.New("the spool is full"), nil} {
		h.Full(full)
		if r, ok := tag.newest(0); !ok || r.Quality.IsGood() != (full == nil) || r.Value.Str() != "x" {
			t.Errorf("full %v: %+v", full, r)
		}
	}
}

func TestTheStatusLineNamesTheMirror(t *testing.T) {
	var none *MirrorStatus
	if none.line() != "" {
		t.Errorf("without a mirror: %q", none.line())
	}
	st := &MirrorStatus{Status: mirror.Status{Targets: []mirror.TargetStatus{
		{Name: "a", Mode: guard.Armed, Stale: true}, {Name: "b", Mode: guard.Armed, Outcome: &mirror.LastOutcome{Outcome: mirror.Refused}, Unverified: true},
		{Name: "c", Mode: guard.DryRun, Outcome: &mirror.LastOutcome{Outcome: mirror.Written}}, {Name: "d", Mode: guard.Off, Stale: true},
	}}}
	if got, want := st.line(), ", mirror: 2 armed, 1 in dry run, 1 stale, 1 unverified"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	st = &MirrorStatus{Status: mirror.Status{Audit: mirror.AuditStatus{Error: "no space"}}}
	if got, want := st.line(), ", mirror: 0 armed, 0 in dry run, audit log broken: nothing is written"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
