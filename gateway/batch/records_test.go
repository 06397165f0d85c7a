package batch

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/spool"
)

// hand is a machine whose clocks a test sets: t runs on, and the wall clock
// shows it with a step.
type hand struct {
	t    time.Time
	step time.Duration
}

func (h *hand) Now() time.Time           { return h.t.Add(h.step) }
func (h *hand) SinceBoot() time.Duration { return h.t.Sub(noon) + time.Hour }
func (*hand) Boot() [16]byte             { return [16]byte{7} }
func (*hand) Sync() clock.Sync           { return clock.Synchronised }

func openAt(t *testing.T, s *store, st *spool.State, h *hand) *Batcher {
	t.Helper()
	b, err := New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, Log: slog.New(slog.DiscardHandler),
		Clock: h, Health: noHealth{}, Version: "1.2.3",
		Backlog: func() ledger.Backlog { return ledger.Backlog{Sink: "cloud", Blocks: 3} }}, s, st)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// turn does what one turn of Run does.
func turn(t *testing.T, b *Batcher, stop bool) {
	t.Helper()
	b.records(stop)
	must(t, b.commit(t.Context(), when(stop)))
	if stop {
		b.heartbeat(ledger.AtStop)
		must(t, b.commit(t.Context(), sealAll))
	}
}

// gaps and heartbeats of all blocks stored.
func (s *store) records(t *testing.T) (gaps []*ledger.Gap, beats []*ledger.Heartbeat) {
	t.Helper()
	_, samples := s.blocks(t)
	for _, v := range samples {
		switch v.Tag {
		case ledger.GapTag("s", "g"):
			g, err := ledger.ParseGap(&v)
			must(t, err)
			gaps = append(gaps, g)
		case ledger.HeartbeatTag("s", "g"):
			h, err := ledger.ParseHeartbeat(&v)
			must(t, err)
			beats = append(beats, h)
		}
	}
	return gaps, beats
}

func TestDownTimeIsAGapOfWhatWasPolled(t *testing.T) {
	for name, crash := range map[string]bool{"orderly stop": false, "crash": true} {
		t.Run(name, func(t *testing.T) {
			clock := &hand{t: noon}
			s := &store{}
			b := openAt(t, s, &spool.State{Epoch: 5}, clock)
			polled, err := b.Open(source("s/d/a"))
			must(t, err)
			other := source("s/e/a")
			other.Name = "pushed"
			pushed, err := b.Open(other)
			must(t, err)
			turn(t, b, false)
			for i := range 200 {
				clock.t = clock.t.Add(time.Second)
				must(t, polled.Emit(t.Context(), []sample.Sample{at("s/d/a", i, clock.t)}, nil))
				must(t, pushed.Emit(t.Context(), []sample.Sample{at("s/e/a", i, clock.t)}, func(error) {}))
				turn(t, b, false)
			}
			stopped := clock.t
			if !crash {
				turn(t, b, true)
			}
			if gaps, _ := s.records(t); len(gaps) != 0 {
				t.Fatalf("the first run declares %+v", gaps[0])
			}
			clock.t = clock.t.Add(time.Hour)
			// A run that is killed before its first commit tells nobody.
			openAt(t, s, s.state(5), clock)
			clock.t = clock.t.Add(time.Hour)
			b = openAt(t, s, s.state(5), clock)
			_, err = b.Open(source("s/d/a"))
			must(t, err)
			_, err = b.Open(other)
			must(t, err)
			clock.t = clock.t.Add(time.Second)
			turn(t, b, false)
			turn(t, b, true)
			gaps, _ := s.records(t)
			if len(gaps) != 1 {
				t.Fatalf("%d gap records, want 1", len(gaps))
			}
			g := gaps[0]
			if g.Source != "src" || g.Cause != ledger.GatewayDown || g.Count != nil || g.Origin != ledger.FromGateway || g.ID != 1 {
				t.Errorf("gap %+v", g)
			}
			if !g.From.Equal(stopped) || !g.To.Equal(clock.t) {
				t.Errorf("the gap is from %s to %s; the last commit was at %s, the first at %s", g.From, g.To, stopped, clock.t)
			}
		})
	}
}

// The time of the last commit costs no commit of its own.
func TestIdleCommitsStoreNothing(t *testing.T) {
	clock := &hand{t: noon}
	s := &store{}
	b := openAt(t, s, &spool.State{}, clock)
	turn(t, b, false)
	must(t, b.commit(t.Context(), sealAll))
	n := len(s.commits)
	for range 600 {
		clock.t = clock.t.Add(time.Second)
		turn(t, b, false)
	}
	if len(s.commits) != n {
		t.Errorf("ten idle minutes made %d transactions", len(s.commits)-n)
	}
}

// A gap record whose transaction fails comes again as the same one.
func TestAGapRecordIsOneAfterACrash(t *testing.T) {
	clock := &hand{t: noon}
	s := &store{}
	b := openAt(t, s, &spool.State{Epoch: 5}, clock)
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon)}, nil))
	turn(t, b, true)
	ids := map[string]int{}
	for _, fails := range []bool{true, true, false} {
		clock.t = clock.t.Add(time.Minute)
		b = openAt(t, s, s.state(5), clock)
		_, err = b.Open(source("s/d/a"))
		must(t, err)
		if fails {
			s.fail = &spool.BrokenError{Err: errors.New("EIO")}
			b.records(false)
			if b.commit(context.Background(), sealDue) == nil {
				t.Fatal("the commit did not fail")
			}
			s.fail = nil
			continue
		}
		turn(t, b, true)
	}
	_, samples := s.blocks(t)
	for _, v := range samples {
		if v.Tag == ledger.GapTag("s", "g") {
			ids[v.Producer]++
			if v.Seq != 1 || v.Producer != "gateway/0000000000000005" {
				t.Errorf("identity %s, %d", v.Producer, v.Seq)
			}
		}
	}
	if len(ids) != 1 || ids["gateway/0000000000000005"] != 1 {
		t.Errorf("records by producer: %v, want one", ids)
	}
}

// What a tag is goes up once, and again when it changes.
func TestCatalogueRecords(t *testing.T) {
	s := &store{}
	state := &spool.State{Epoch: 7}
	for _, turns := range []float64{0, 65535, 65535, 999999} {
		b := openAt(t, s, state, &hand{t: noon})
		info := source("s/d/a")
		info.Tags[0].Unit, info.Tags[0].Counter, info.Tags[0].CounterMax = "kWh", true, turns
		_, err := b.Open(info)
		must(t, err)
		turn(t, b, true)
		state = s.state(7)
	}
	_, samples := s.blocks(t)
	var got []string
	for _, v := range samples {
		if v.Tag == ledger.CatalogueTag("s", "g") {
			got = append(got, v.Value.Str())
		}
	}
	if want := []string{
		`{"tag":"s/d/a","stream":"s0001","source":"src","unit":"kWh","counter":true}`,
		`{"tag":"s/d/a","stream":"s0001","source":"src","unit":"kWh","counter":true,"counter_max":65535}`,
		`{"tag":"s/d/a","stream":"s0001","source":"src","unit":"kWh","counter":true,"counter_max":999999}`,
	}; !slices.Equal(got, want) {
		t.Errorf("records %q", got)
	}
}

// A tag that is not in the configuration goes up when it first speaks, and not
// again after a restart.
func TestCatalogueOfDynamicTags(t *testing.T) {
	s := &store{}
	state := &spool.State{Epoch: 7}
	for range 2 {
		clock := &hand{t: noon}
		b := openAt(t, s, state, clock)
		p, err := b.Open(source())
		must(t, err)
		for i := range 3 {
			must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/new", i, clock.t)}, nil))
		}
		turn(t, b, true)
		state = s.state(7)
	}
	_, samples := s.blocks(t)
	var got []string
	for _, v := range samples {
		if v.Tag == ledger.CatalogueTag("s", "g") {
			got = append(got, v.Value.Str())
		}
	}
	if want := []string{`{"tag":"s/d/new","stream":"s0001","source":"src"}`}; !slices.Equal(got, want) {
		t.Errorf("records %q, want %q", got, want)
	}
}

func TestHeartbeats(t *testing.T) {
	clock := &hand{t: noon}
	s := &store{}
	b := openAt(t, s, &spool.State{Epoch: 0xabc}, clock)
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	turn(t, b, false)
	for range 150 { // two and a half hours
		clock.t = clock.t.Add(time.Minute)
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, clock.t)}, nil))
		turn(t, b, false)
	}
	clock.step = -10 * 365 * 24 * time.Hour // which is no reason for one
	turn(t, b, false)
	turn(t, b, true)
	_, beats := s.records(t)
	var kinds []ledger.HeartbeatKind
	for _, h := range beats {
		kinds = append(kinds, h.Kind)
		if h.Epoch != "0000000000000abc" || len(h.Boot) != 32 || h.Version != "1.2.3" || h.Backlog.Blocks != 3 {
			t.Errorf("heartbeat %+v", h)
		}
	}
	if want := []ledger.HeartbeatKind{ledger.AtStart, ledger.Hourly, ledger.Hourly, ledger.AtStop}; !slices.Equal(kinds, want) {
		t.Fatalf("heartbeats %v, want %v", kinds, want)
	}
	last := beats[len(beats)-1].Streams
	headers, _ := s.blocks(t)
	for _, c := range last {
		var newest ledger.StreamCounts
		for _, h := range headers {
			if h.Stream == c.Stream {
				newest = ledger.StreamCounts{Stream: h.Stream, Seq: h.Seq, Produced: h.Produced, Lost: h.Lost}
			}
		}
		if c.Stream == ledger.SystemStream {
			newest.Seq-- // the block with the heartbeat itself
			newest.Produced--
		}
		if !reflect.DeepEqual(c, newest) {
			t.Errorf("the last heartbeat says %+v, the last block %+v", c, newest)
		}
	}
	if len(last) != 2 {
		t.Errorf("%d streams in the heartbeat", len(last))
	}
}

func TestAnOverflowIsOneGapPerTagAndBurst(t *testing.T) {
	clock := &hand{t: noon}
	s := &store{}
	b := openAt(t, s, &spool.State{}, clock)
	p, err := b.Open(source("s/d/a", "s/d/b", "s/d/c"))
	must(t, err)
	turn(t, b, false)
	emit := func(tag string, marked bool) {
		v := at(tag, 1, clock.t)
		if marked {
			v.Quality = 0x480
		}
		must(t, p.Emit(t.Context(), []sample.Sample{v}, nil))
	}
	for i := range 120 {
		clock.t = clock.t.Add(time.Second)
		emit("s/d/a", i >= 10 && i < 40 && i%2 == 0) // one burst, from the 10th to the 38th second
		emit("s/d/b", i == 20 || i == 80)            // two
		emit("s/d/c", i == 119)                      // open at the stop
		turn(t, b, false)
	}
	turn(t, b, true)
	gaps, _ := s.records(t)
	type span struct {
		tag      string
		from, to time.Duration
	}
	var got []span
	for _, g := range gaps {
		if g.Cause != ledger.Overflow || g.Source != "src" || g.Count != nil {
			t.Errorf("gap %+v", g)
		}
		got = append(got, span{g.Tag, g.From.Sub(noon), g.To.Sub(noon)})
	}
	want := []span{
		{"s/d/b", 20 * time.Second, 21 * time.Second},
		{"s/d/a", 10 * time.Second, 39 * time.Second},
		{"s/d/b", 80 * time.Second, 81 * time.Second},
		{"s/d/c", 119 * time.Second, 120 * time.Second},
	}
	if !slices.Equal(got, want) {
		t.Errorf("gaps %v, want %v", got, want)
	}
}

// A loss that the spool saw names the source whose samples it took.
func TestALossNamesItsSource(t *testing.T) {
	clock := &hand{t: noon}
	s := &store{}
	b := openAt(t, s, &spool.State{Epoch: 5}, clock)
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon)}, nil))
	turn(t, b, true)
	s.losses = []spool.Loss{{ID: 1, Stream: 1, FromSeq: 1, ToSeq: 1, Count: 1, Cause: spool.CauseEvicted}}
	b = openAt(t, s, s.state(5), clock) // before any source is opened
	turn(t, b, true)
	gaps, _ := s.records(t)
	if len(gaps) != 1 || gaps[0].Source != "src" || gaps[0].Stream != "s0001" {
		t.Errorf("gaps %+v", gaps)
	}
}
