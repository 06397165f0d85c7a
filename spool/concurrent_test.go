package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
)

// Commits, rotations, evictions, two sinks that read and acknowledge out of
// order, looks from outside and burials at once: each block reaches each sink
// once, or is declared to it, or is among the dead letters.
func TestConcurrent(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.o.MaxBytes = 4 << 20
	w.o.Log = slog.New(slog.DiscardHandler)
	w.o.Clock = wallClock{}
	w.open()
	var readers, others sync.WaitGroup
	done := make(chan struct{})
	var mu sync.Mutex // guards the counts
	blocks := 0
	got := map[string]map[uint64]int{"a": {}, "b": {}}
	buried := 0
	for _, sink := range []string{"a", "b"} {
		readers.Go(func() {
			for finished, after := false, uint64(0); ; {
				ready := w.s.Ready()
				list, err := w.s.Read(sink, after, 1+rand.IntN(9), 1<<20)
				if err != nil {
					t.Error(err)
					return
				}
				if len(list) == 0 {
					if after > 0 {
						after = 0
						continue
					}
					if finished {
						return
					}
					select {
					case <-ready:
					case <-done:
						finished = true
					}
					continue
				}
				for _, b := range list {
					after = b.Number
					if string(b.Data) != string(payload(b.Stream, b.Seq, len(b.Data))) {
						t.Errorf("block %d has changed", b.Number)
					}
					switch k := rand.IntN(200); {
					case k < 40: // later
					case k == 40 && sink == "a":
						err := w.s.Bury(sink, b.Number, "x")
						var gone *NotFoundError
						if err != nil && !errors.As(err, &gone) {
							t.Error(err)
						}
						mu.Lock()
						buried++
						got[sink][b.Number]++
						mu.Unlock()
					default:
						mu.Lock()
						got[sink][b.Number]++
						mu.Unlock()
						w.s.Ack(sink, b.Number)
					}
				}
			}
		})
	}
	look := func(f func()) {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					f()
				}
			}
		})
	}
	look(func() { _ = fmt.Sprint(w.s.Stats(), w.s.Losses()) })
	look(func() {
		if _, err := w.s.List(20); err != nil {
			t.Error(err)
		}
		if err := w.s.Sync(); err != nil {
			t.Error(err)
		}
		if _, err := w.s.Dead(); err != nil {
			t.Error(err)
		}
	})
	for range 400 {
		c := &Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 2000+rand.IntN(9000)), w.block(2, 500)}}
		w.commit(c)
		mu.Lock()
		blocks += len(c.Blocks)
		mu.Unlock()
	}
	close(done)
	readers.Wait()
	others.Wait()
	if n := len(w.s.Losses()); n > 0 {
		t.Logf("%d losses: a reader fell behind", n)
	} else {
		equal(t, "a", len(got["a"]), blocks)
		equal(t, "b", len(got["b"]), blocks)
	}
	for sink := range got {
		for n, times := range got[sink] {
			if times > 1 {
				t.Errorf("%s got block %d %d times", sink, n, times)
			}
		}
		if st := w.s.Stats().Sinks[sink]; st.PendingBlocks != 0 || st.PendingBytes != 0 || st.PendingSamples != 0 {
			t.Errorf("%s: pending %+v", sink, st)
		}
	}
	equal(t, "dead letters", w.s.Stats().DeadLetters, buried)
}
