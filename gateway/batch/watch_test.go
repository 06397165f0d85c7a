package batch

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"millrace/gateway/pipeline"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/spool"
)

// newest asks for a reading and fails where there is none.
func newest(t *testing.T, w *Watched, maxAge time.Duration) protocols.Reading {
	t.Helper()
	r, ok := w.Newest(maxAge)
	if !ok {
		t.Fatal("there is no reading")
	}
	return r
}

// TestWatchedTagsShowTheNewestValue: scaled, checked against the range, with
// what a deadband holds back, and dynamic tags too.
func TestWatchedTagsShowTheNewestValue(t *testing.T) {
	b := open(t, &store{}, &spool.State{})
	early, dynamic := b.Watch("s/d/a"), b.Watch("s/d/new")
	info := source("s/d/a", "s/d/b")
	info.Tags[0].Rule = pipeline.Rule{Scale: 0.1, HasMax: true, Max: 5, Deadband: pipeline.Deadband{Kind: pipeline.Absolute, Size: 1}}
	p, err := b.Open(info)
	must(t, err)
	late := b.Watch("s/d/b")
	if b.Watch("s/d/a") != early {
		t.Error("a tag has two holders")
	}
	for _, w := range []*Watched{early, dynamic, late} {
		if _, ok := w.Newest(0); ok {
			t.Error("a reading before the first sample")
		}
	}
	emit := func(v ...sample.Sample) { t.Helper(); must(t, p.Emit(t.Context(), v, nil)) }
	emit(at("s/d/a", 40, noon), at("s/d/b", 1, noon))
	emit(at("s/d/a", 41, noon.Add(time.Second))) // within the deadband
	if b.Counters()["src"].Suppressed != 1 {
		t.Fatal("the deadband held nothing back")
	}
	if r := newest(t, early, 0); r.Value.Float() != 4.1 || r.Quality != sample.Good || !r.Time.Equal(noon.Add(time.Second)) || !r.SourceTime.IsZero() {
		t.Errorf("held back by the deadband: %+v", r)
	}
	emit(at("s/d/a", 60, noon.Add(2*time.Second)))
	if r := newest(t, early, 0); r.Value.Float() != 6 || r.Quality != sample.UncertainEngineeringUnits {
		t.Errorf("out of range: %+v", r)
	}
	emit(sample.Sample{Tag: "s/d/b", Quality: sample.BadTimeout, Time: noon.UnixNano(), SourceTime: noon.Add(time.Minute).UnixNano()})
	if r := newest(t, late, 0); r.Quality != sample.BadTimeout || r.Value.Kind() != sample.Null || !r.SourceTime.Equal(noon.Add(time.Minute)) {
		t.Errorf("a failed read: %+v", r)
	}
	emit(at("s/d/new", 7, noon))
	if r := newest(t, dynamic, 0); r.Value.Int() != 7 {
		t.Errorf("a dynamic tag: %+v", r)
	}
}

// TestAnOldReadingIsBad by the monotonic clock: a wall clock that is set back
// does not make it new, and one that is set forward does not make it old.
func TestAnOldReadingIsBad(t *testing.T) {
	f := clock.NewFake(noon)
	b, err := New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, Log: slog.New(slog.DiscardHandler), Clock: f, Health: noHealth{}}, &store{}, &spool.State{})
	must(t, err)
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	w := b.Watch("s/d/a")
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, b.o.Timeline.Now())}, nil))
	f.Step(24 * time.Hour)
	f.Advance(10 * time.Second)
	if r := newest(t, w, 10*time.Second); r.Quality != sample.Good {
		t.Errorf("at its age: %+v", r)
	}
	f.Step(-48 * time.Hour)
	f.Advance(time.Second)
	if r := newest(t, w, 10*time.Second); r.Quality != sample.BadNoCommunication || r.Value.Int() != 1 {
		t.Errorf("beyond its age: %+v", r)
	}
	if r := newest(t, w, 0); r.Quality != sample.Good {
		t.Errorf("without a bound: %+v", r)
	}
}

func TestWatchingAllocatesNothing(t *testing.T) {
	b := open(t, &store{}, &spool.State{})
	w := b.Watch("s/d/a")
	one := at("s/d/a", 1, noon)
	if n := testing.AllocsPerRun(100, func() { w.set(&one, one.Time) }); n != 0 {
		t.Errorf("%v allocations to note a sample", n)
	}
	if n := testing.AllocsPerRun(100, func() { w.Newest(time.Minute) }); n != 0 {
		t.Errorf("%v allocations to read it", n)
	}
}

func TestWatchedTagsAreReadWhileSamplesCome(t *testing.T) {
	b := open(t, &store{}, &spool.State{})
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	w := b.Watch("s/d/a")
	const most = 500
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := int64(0); last < most; {
				r, ok := w.Newest(0)
				if !ok {
					continue
				}
				if r.Value.Int() < last || r.Time.UnixNano() != noon.Add(time.Duration(r.Value.Int())*time.Second).UnixNano() {
					t.Errorf("%d after %d, at %s", r.Value.Int(), last, r.Time)
					return
				}
				last = r.Value.Int()
			}
		})
	}
	for i := range most + 1 {
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", i, noon.Add(time.Duration(i)*time.Second))}, nil))
	}
	readers.Wait()
}
