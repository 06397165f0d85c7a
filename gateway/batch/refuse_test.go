package batch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/spool"
)

func (s *store) room(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noRoom = err
}

// two opens a source that refuses and one that drops, and notes what the first
// is told of the spool.
func two(t *testing.T, b *Batcher) (refuses, drops *Port, told *[]bool) {
	t.Helper()
	told = new([]bool)
	info := source("s/r/a")
	info.Name, info.Class.Policy = "r", spool.Refuse
	info.Full = func(why error) { *told = append(*told, why != nil) }
	refuses, err := b.Open(info)
	must(t, err)
	info = source("s/d/a")
	info.Name = "d"
	drops, err = b.Open(info)
	must(t, err)
	return refuses, drops, told
}

func emits(p *Port, tag string, i int) error {
	return p.Emit(context.Background(), []sample.Sample{at(tag, i, time.Now())}, func(error) {})
}

// While there is no room, nothing is taken of a source that refuses, and the
// other goes on; what was taken before is committed.
func TestRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		b := open(t, s, &spool.State{Epoch: 7})
		r, d, told := two(t, b)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		must(t, emits(r, "s/r/a", 1))
		s.room(&spool.FullError{Err: errors.New("no room")})
		time.Sleep(2 * time.Second)
		var refused *protocols.RefusedError
		if err := emits(r, "s/r/a", 2); !errors.As(err, &refused) || refused.RetryAfter <= 0 {
			t.Errorf("told %v", err)
		}
		must(t, emits(d, "s/d/a", 1))
		// A polled one waits, however often commits come and go.
		waited := make(chan time.Time, 1)
		began := time.Now()
		go func() {
			if err := r.Emit(ctx, []sample.Sample{at("s/r/a", 3, began)}, nil); err != nil {
				t.Error(err)
			}
			waited <- time.Now()
		}()
		for i := range 20 {
			must(t, emits(d, "s/d/a", 2+i))
			time.Sleep(time.Second)
		}
		select {
		case <-waited:
			t.Error("a polled source was taken while there is no room")
		default:
		}
		s.room(nil)
		end := <-waited
		must(t, emits(r, "s/r/a", 4))
		if len(*told) != 2 || !(*told)[0] || (*told)[1] || b.Refusals() != 1 {
			t.Errorf("told %v, %d refusals", *told, b.Refusals())
		}
		stop()
		must(t, <-ended)
		gaps, _ := s.records(t)
		if len(gaps) != 1 || gaps[0].Cause != ledger.Refused || gaps[0].Source != "r" || gaps[0].Count != nil ||
			gaps[0].From.Sub(began).Abs() > 10*time.Millisecond || gaps[0].To.Sub(end).Abs() > 10*time.Millisecond {
			t.Errorf("gaps %+v, want one from %s to %s", gaps, began, end)
		}
		got := map[string]int{}
		_, samples := s.blocks(t)
		for _, v := range samples {
			got[v.Tag]++
		}
		if got["s/r/a"] != 3 || got["s/d/a"] != 21 {
			t.Errorf("got %v", got)
		}
		for _, kv := range s.state(7).Meta {
			if kv.Key == keyRefused+"r" && kv.Value != nil {
				t.Error("the spool believes that the source still waits")
			}
		}
	})
}

// A crash while a polled source waits does not hide what it did not read.
func TestCrashWhileASourceWaits(t *testing.T) {
	s := &store{noRoom: &spool.FullError{Err: errors.New("no room")}}
	h := &hand{t: noon}
	b := openAt(t, s, &spool.State{Epoch: 7}, h)
	r, _, _ := two(t, b)
	b.admit()
	turn(t, b, false)
	ctx, stop := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() { waits <- r.Emit(ctx, []sample.Sample{at("s/r/a", 1, noon)}, nil) }()
	for stored := false; !stored; {
		b.mu.Lock()
		stored = r.stored
		b.mu.Unlock()
	}
	h.t = h.t.Add(2 * time.Minute)
	turn(t, b, false)
	st := s.state(7)
	stop()
	if err := <-waits; err == nil {
		t.Error("taken without room")
	}
	h.t = h.t.Add(time.Minute)
	b = openAt(t, s, st, h)
	two(t, b)
	turn(t, b, true)
	gaps, _ := s.records(t)
	found := 0
	for _, g := range gaps {
		if g.Cause == ledger.Refused {
			found++
			if g.Source != "r" || !g.From.Equal(noon) || !g.To.Equal(noon.Add(2*time.Minute)) {
				t.Errorf("%+v", g)
			}
		}
	}
	if found != 1 {
		t.Errorf("%d gap records, want 1 of %+v", found, gaps)
	}
}

// While there is no room for ordinary data, alarms and the gateway's records
// are stored all the same, in order, and the rest follows once.
func TestAlarmsGoInBesideAFullSpool(t *testing.T) {
	for _, large := range []bool{false, true} { // commits of one transaction, and of several
		synctest.Test(t, func(t *testing.T) {
			s := &store{}
			b := open(t, s, &spool.State{Epoch: 7})
			if large {
				b.o.MaxCommitBytes = 1
			}
			info := source("s/d/a", "s/d/alarm")
			info.Tags[1].Urgent = true
			p, err := b.Open(info)
			must(t, err)
			other := source("s/e/a")
			other.Name, other.Class.MaxBytes = "e", 1 // sealed with each commit
			q, err := b.Open(other)
			must(t, err)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- b.Run(ctx) }()
			time.Sleep(3 * time.Second)
			b.mu.Lock()
			reserved := map[uint32]bool{systemStream: true, b.slots["s/d/alarm"].stream: true}
			b.mu.Unlock()
			s.mu.Lock()
			s.accepts = func(stream uint32) bool { return reserved[stream] }
			s.mu.Unlock()
			alarms := func() (n int) {
				s.mu.Lock()
				defer s.mu.Unlock()
				st := &store{commits: s.commits}
				_, samples := st.blocks(t)
				for _, v := range samples {
					if v.Tag == "s/d/alarm" {
						n++
					}
				}
				return n
			}
			for i := range 40 {
				must(t, p.Emit(ctx, []sample.Sample{at("s/d/a", i, time.Now()), at("s/d/alarm", i, time.Now())}, nil))
				must(t, q.Emit(ctx, []sample.Sample{at("s/e/a", i, time.Now())}, nil))
				time.Sleep(time.Second)
			}
			time.Sleep(12 * time.Second)
			if n := alarms(); n < 38 {
				t.Errorf("%d of 40 alarms are stored while the spool is full", n)
			}
			s.mu.Lock()
			s.accepts = nil
			s.mu.Unlock()
			time.Sleep(15 * time.Second)
			stop()
			must(t, <-ended)
			got := map[string][]int64{}
			headers, samples := s.blocks(t)
			for _, v := range samples {
				if v.Value.Kind() != sample.String {
					got[v.Tag] = append(got[v.Tag], v.Value.Int())
				}
			}
			for tag, list := range got {
				seen := map[int64]bool{}
				for _, i := range list {
					seen[i] = true
				}
				if len(list) != 40 || len(seen) != 40 {
					t.Errorf("%s: %v", tag, list)
				}
			}
			if len(got) != 3 {
				t.Errorf("tags %v", got)
			}
			seqs, produced := map[string]uint64{}, map[string]uint64{}
			for _, h := range headers {
				seqs[h.Stream]++
				produced[h.Stream] += uint64(h.Count)
				if h.Seq != seqs[h.Stream] || h.Produced != produced[h.Stream] {
					t.Errorf("stream %s: block %d says %d produced, it is number %d and %d", h.Stream, h.Seq, h.Produced, seqs[h.Stream], produced[h.Stream])
				}
			}
		})
	}
}
