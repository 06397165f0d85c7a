package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

func TestSamplesComeBackAsTheyWere(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{Epoch: 7})
	p, err := b.Open(source("s/d/a", "s/d/b"))
	must(t, err)
	for i := range 10 {
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", i, noon), at("s/d/b", 100+i, noon)}, nil))
		must(t, b.commit(t.Context(), sealDue))
	}
	if _, got := s.blocks(t); len(got) != 0 {
		t.Fatalf("%d samples are sealed before the batch is due", len(got))
	}
	must(t, b.commit(t.Context(), sealAll))
	headers, got := s.blocks(t)
	got = own(got)
	if len(got) != 20 || got[0].Value.Int() != 0 || got[19].Value.Int() != 109 {
		t.Errorf("%d samples, from %v to %v", len(got), got[0], got[len(got)-1])
	}
	for _, h := range headers {
		if h.Seq != 1 || h.Epoch != 7 || h.Produced != uint64(h.Count) || h.Lost != 0 {
			t.Errorf("header %+v", h)
		}
	}
}

func TestDoneFollowsTheCommit(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	p, err := b.Open(source())
	must(t, err)
	acked := false
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/new", 1, noon)}, func(err error) { acked = err == nil }))
	s.onStore = func() {
		if acked {
			t.Error("acknowledged before the commit")
		}
	}
	must(t, b.commit(t.Context(), sealDue))
	if !acked {
		t.Error("not acknowledged after the commit")
	}
}

func TestBrokenSpoolRefuses(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	p, err := b.Open(source())
	must(t, err)
	var got error
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon)}, func(err error) { got = err }))
	s.fail = &spool.BrokenError{Err: errors.New("EIO")}
	if err := b.commit(t.Context(), sealDue); err == nil {
		t.Error("the commit's error is hidden")
	}
	var refused *protocols.RefusedError
	if !errors.As(got, &refused) {
		t.Errorf("the producer was told %v", got)
	}
}

func TestFullSpoolHoldsAndRefuses(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	p, err := b.Open(source())
	must(t, err)
	s.fail = &spool.FullError{}
	ctx, cancel := context.WithCancel(t.Context())
	acked := make(chan error, 1)
	must(t, p.Emit(ctx, []sample.Sample{at("s/d/a", 1, noon)}, func(err error) { acked <- err }))
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	for { // until the failure is known
		err := p.Emit(ctx, []sample.Sample{at("s/d/a", 2, noon)}, func(error) {})
		var refused *protocols.RefusedError
		if errors.As(err, &refused) {
			if refused.RetryAfter == 0 {
				t.Error("refused for good while the spool is only full")
			}
			break
		}
		must(t, err)
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-acked:
		t.Fatalf("told %v while nothing is stored", err)
	default:
	}
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	if err := <-acked; err != nil {
		t.Errorf("told %v after the spool had room again", err)
	}
	cancel()
	must(t, <-ended)
}

func TestEmitIsAllOrNothing(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	info := source("s/d/a")
	info.MaxTags = 2
	p, err := b.Open(info)
	must(t, err)
	other := source("s/other/x")
	other.Name = "other"
	_, err = b.Open(other)
	must(t, err)
	for name, second := range map[string]string{
		"not a name": "nonsense", "another source's": "s/other/x", "control character": "s/d/\x01",
	} {
		err := p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon), at(second, 2, noon)}, func(error) { t.Error("done was called") })
		var refused *protocols.RefusedError
		if !errors.As(err, &refused) || refused.RetryAfter != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/b", 1, noon)}, nil))
	if err := p.Emit(t.Context(), []sample.Sample{at("s/d/c", 1, noon)}, nil); err == nil {
		t.Error("max_tags is not held")
	}
	must(t, b.commit(t.Context(), sealAll))
	if _, got := s.blocks(t); len(own(got)) != 1 {
		t.Errorf("%d samples are stored, want 1", len(own(got)))
	}
	if c := b.Counters()["src"]; c.Refused != 7 || c.Kept != 1 || c.Tags != 2 {
		t.Errorf("counters %+v", c)
	}
}

func TestABlockHoldsOneDay(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	midnight := time.Date(2026, 5, 5, 0, 0, 0, 0, time.UTC)
	for i := range 10 {
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", i, midnight.Add(time.Duration(i-5)*time.Second))}, nil))
	}
	must(t, b.commit(t.Context(), sealAll))
	headers, got := s.blocks(t)
	if len(own(got)) != 10 {
		t.Errorf("%d samples", len(own(got)))
	}
	days := 0
	for _, h := range headers {
		if h.Stream == "sys" {
			continue
		}
		days++
		if dayOf(h.First) != dayOf(h.Last) {
			t.Errorf("block %d is from %s to %s", h.Seq, time.Unix(0, h.First).UTC(), time.Unix(0, h.Last).UTC())
		}
		if h.Seq != uint64(days) || h.Produced != uint64(5*days) {
			t.Errorf("block %d of day %d says %d produced", h.Seq, days, h.Produced)
		}
	}
	if days != 2 {
		t.Errorf("%d blocks, want 2", days)
	}
}

func TestStreamsKeepTheirTags(t *testing.T) {
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("s/d/t%03d", i))
	}
	s := &store{}
	b := open(t, s, &spool.State{})
	_, err := b.Open(source(names...))
	must(t, err)
	before := map[string]slot{}
	for _, n := range names {
		before[n] = b.slots[n]
	}
	if before[names[0]].stream == before[names[299]].stream {
		t.Error("300 tags share a stream")
	}
	must(t, b.commit(t.Context(), sealDue))
	// The next run lists them the other way round.
	for i, j := 0, len(names)-1; i < j; i, j = i+1, j-1 {
		names[i], names[j] = names[j], names[i]
	}
	b = open(t, s, s.state(1))
	_, err = b.Open(source(names...))
	must(t, err)
	for n, at := range before {
		if b.slots[n] != at {
			t.Fatalf("tag %s moved from %v to %v", n, at, b.slots[n])
		}
	}
}

func TestRestartSealsWhatWasOpen(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{Epoch: 3})
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	for i := range 5 {
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", i, noon)}, nil))
		must(t, b.commit(t.Context(), when(i == 2)))
	}
	b = open(t, s, s.state(3)) // as after a kill: two parts are open
	p, err = b.Open(source("s/d/a"))
	must(t, err)
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 5, noon)}, nil))
	must(t, b.commit(t.Context(), sealAll))
	headers, got := s.blocks(t)
	got = own(got)
	for i := range got {
		if got[i].Value.Int() != int64(i) {
			t.Errorf("sample %d is %v", i, got[i])
		}
	}
	var last block.Header
	for _, h := range headers {
		if h.Stream != "sys" {
			if h.Seq != last.Seq+1 {
				t.Errorf("sequence %d follows %d", h.Seq, last.Seq)
			}
			last = h
		}
	}
	if len(got) != 6 || last.Produced != 6 || last.Seq != 3 {
		t.Errorf("%d samples, last header %+v", len(got), last)
	}
}

func TestLossBecomesAGapRecord(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{Epoch: 9})
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon)}, nil))
	must(t, b.commit(t.Context(), sealAll))
	s.losses = []spool.Loss{{ID: 4, Stream: 1, FromSeq: 1, ToSeq: 1, Count: 1, Cause: spool.CauseEvicted}}
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 2, noon)}, nil))
	must(t, b.commit(t.Context(), sealAll))
	must(t, b.commit(t.Context(), sealAll)) // it is declared once
	headers, got := s.blocks(t)
	gaps := 0
	for _, v := range got {
		if v.Tag == ledger.GapTag("s", "g") {
			gaps++
			g, err := ledger.ParseGap(&v)
			must(t, err)
			if g.ID != 4 || g.Stream != "s0001" || *g.Count != 1 || g.Cause != ledger.Evicted {
				t.Errorf("gap %+v", g)
			}
		}
	}
	if gaps != 1 {
		t.Errorf("%d gap records, want 1", gaps)
	}
	for _, h := range headers {
		if h.Stream == "s0001" && h.Seq == 2 && (h.Lost != 1 || h.Produced != 2) {
			t.Errorf("header %+v", h)
		}
	}
	settled := 0
	for _, c := range s.commits {
		settled += len(c.Settle)
	}
	if settled != 1 {
		t.Errorf("settled %d times", settled)
	}
}

func TestBatchesAreSealedAtTheirSize(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	info := source("s/d/a")
	info.Class.MaxBytes = 4 << 10
	p, err := b.Open(info)
	must(t, err)
	n := uint64(1)
	for range 20 {
		var batch []sample.Sample
		for range 200 { // noise, so that it does not pack
			n = n*6364136223846793005 + 1442695040888963407
			batch = append(batch, sample.Sample{Tag: "s/d/a", Value: sample.IntValue(int64(n)), Time: noon.UnixNano() + int64(n%1e9)})
		}
		must(t, p.Emit(t.Context(), batch, nil))
		must(t, b.commit(t.Context(), sealDue))
	}
	headers, _ := s.blocks(t)
	if len(headers) < 3 {
		t.Errorf("%d blocks of 40 KB of noise with a bound of 4 KiB", len(headers))
	}
}

func TestPolledSourceWaitsForRoom(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	b.o.MaxOpenBytes = 100
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	var batch []sample.Sample
	for i := range 50 {
		batch = append(batch, at("s/d/a", i*1e9, noon))
	}
	must(t, p.Emit(t.Context(), batch, nil))
	waits := make(chan error, 1)
	go func() { waits <- p.Emit(t.Context(), batch, nil) }()
	select {
	case err := <-waits:
		t.Fatalf("Emit did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, b.commit(t.Context(), sealDue)) // over half of the bound: seals
	must(t, <-waits)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Emit(gone, batch, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Emit after the stop, without room: %v", err)
	}
}

func TestUntrustedDeviceTime(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	v := at("s/d/a", 1, noon)
	v.SourceTime = 1 // 1970
	must(t, p.Emit(t.Context(), []sample.Sample{v}, nil))
	must(t, b.commit(t.Context(), sealAll))
	_, got := s.blocks(t)
	if got = own(got); got[0].SourceTime != 0 || b.Counters()["src"].BadTime != 1 {
		t.Errorf("sample %+v, counters %+v", got[0], b.Counters()["src"])
	}
}

func BenchmarkEmit(b *testing.B) {
	s := &store{}
	bt, err := New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, Log: slog.New(slog.DiscardHandler),
		Clock: clock.System{}, Health: noHealth{}}, s, &spool.State{})
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("plant1/meter00/reg%02d", i))
	}
	p, err := bt.Open(source(names...))
	if err != nil {
		b.Fatal(err)
	}
	batch := make([]sample.Sample, len(names))
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		for k := range batch {
			batch[k] = sample.Sample{Tag: names[k], Value: sample.FloatValue(float64(i+k) / 10), Time: noon.UnixNano() + int64(i)*1e7}
		}
		if err := p.Emit(b.Context(), batch, nil); err != nil {
			b.Fatal(err)
		}
		if i%100 == 0 {
			if err := bt.commit(b.Context(), sealDue); err != nil {
				b.Fatal(err)
			}
			s.commits = s.commits[:0]
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(names)), "ns/sample")
}

// TestABurstIsSplit packs more rows than one block takes, as after a commit
// that hung.
func TestABurstIsSplit(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{})
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	const n = block.MaxSamples + 5000
	batch := make([]sample.Sample, 1000)
	for i := 0; i < n; i += len(batch) {
		for k := range batch {
			batch[k] = at("s/d/a", i+k, noon.Add(time.Duration(i+k)*time.Millisecond))
		}
		must(t, p.Emit(t.Context(), batch[:min(len(batch), n-i)], nil))
	}
	must(t, b.commit(t.Context(), sealAll))
	headers, got := s.blocks(t)
	got = own(got)
	if len(got) != n {
		t.Fatalf("%d of %d samples came back", len(got), n)
	}
	for i := range got {
		if got[i].Value.Int() != int64(i) {
			t.Fatalf("sample %d is %v", i, got[i].Value)
		}
	}
	last := headers[len(headers)-1]
	if last.Produced != n || last.Seq < 2 {
		t.Errorf("last header %+v", last)
	}
}

// A spool that is full at the start does not keep the gateway from starting:
// only sinks that run make room.
func TestStartOnAFullSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		b := open(t, s, &spool.State{Epoch: 7})
		p, err := b.Open(source("s/d/a", "s/d/b"))
		must(t, err)
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon), at("s/d/b", 1, noon)}, nil))
		must(t, b.commit(t.Context(), sealDue))
		st := s.state(7)
		s.fail, s.rotate = &spool.FullError{}, true
		b, err = New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, MaxCommitBytes: 1, Log: slog.New(slog.DiscardHandler),
			Clock: clock.System{}, Health: noHealth{}}, s, st)
		must(t, err)
		p, err = b.Open(source("s/d/a", "s/d/b"))
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 2, noon)}, nil))
		time.Sleep(time.Minute)
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		time.Sleep(time.Minute)
		stop()
		must(t, <-ended)
		_, samples := s.blocks(t)
		came := map[string]int{}
		for _, v := range samples {
			came[v.Tag]++
		}
		if came["s/d/a"] != 2 || came["s/d/b"] != 1 {
			t.Errorf("samples %v", came)
		}
		last := s.commits[len(s.commits)-1]
		if !last.Rotate {
			t.Error("the rotation is forgotten")
		}
	})
}
