package spool

import (
	"errors"
	"slices"
	"testing"
)

// backlog fills a spool of a stream that may be thinned until room is short.
func (w *world) backlog() {
	w.t.Helper()
	for i := 0; ; i++ {
		w.s.mu.Lock()
		short := w.s.short()
		w.s.mu.Unlock()
		if short {
			return
		}
		if i > 2000 {
			w.t.Fatal("room is never short")
		}
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(thinning, 3000), w.block(dropping, 300)}})
	}
}

func (w *world) thinnable(after uint64, most int) []Block {
	w.t.Helper()
	run, err := w.s.Thinnable(after, most)
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

// replace replaces a run by a block of two samples.
func (w *world) replace(run []Block) (*Replacement, error) {
	w.t.Helper()
	b := w.block(thinning, 500)
	b.Count = 2
	r := &Replacement{Block: b, Numbers: numbers(run), Meta: []KV{{"thinned", []byte{1}}}}
	err := w.s.Replace(r)
	if err != nil {
		w.seqs[thinning]--
		return r, err
	}
	w.committed[r.Block.Number] = r.Block
	for _, n := range r.Numbers {
		delete(w.committed, n)
	}
	return r, nil
}

func (w *world) thinWorld(sinks ...string) *world {
	w.o.MaxBytes = 1 << 20
	return w.open().policies()
}

func TestThinnableRunsAreOfSequencesInARow(t *testing.T) {
	w := newWorld(t).thinWorld()
	w.commit(&Commit{Blocks: []Block{w.block(thinning, 3000)}})
	if run := w.thinnable(0, 1<<20); len(run) > 0 {
		t.Errorf("room is not short, and %d blocks are to be thinned", len(run))
	}
	w.backlog()
	tail := w.s.tail().first
	seen := 0
	for after := uint64(0); ; {
		run := w.thinnable(after, 10000)
		if len(run) == 0 {
			break
		}
		equal(t, "run's length", len(run) <= 3, true)
		for i, b := range run {
			if b.Stream != thinning || b.Number <= after || b.Number >= tail || b.Seq != run[0].Seq+uint64(i) || string(b.Data) != string(w.committed[b.Number].Data) {
				t.Fatalf("block %d of stream %d, sequence %d is in the run", b.Number, b.Stream, b.Seq)
			}
			after = b.Number
			seen++
		}
	}
	if seen < 30 {
		t.Errorf("only %d blocks may be thinned", seen)
	}
}

// What was handed to any sink, by this run or one before, is never thinned.
func TestAttemptedBlocksAreNotThinned(t *testing.T) {
	w := newWorld(t, "a", "b").thinWorld()
	w.backlog()
	attempted := map[uint64]bool{}
	note := func(blocks []Block) {
		for _, b := range blocks {
			attempted[b.Number] = true
		}
	}
	check := func(when string) (left int) {
		t.Helper()
		for after := uint64(0); ; {
			run := w.thinnable(after, 1<<20)
			if len(run) == 0 {
				return left
			}
			for _, b := range run {
				if attempted[b.Number] {
					t.Fatalf("%s: block %d was handed out, and may be thinned", when, b.Number)
				}
				after = b.Number
				left++
			}
		}
	}
	all := check("before")
	listed := w.thinnable(0, 1<<20)
	note(w.read("a", 0, 3)) // the backlog's lane
	if _, err := w.replace(listed); as[*AttemptedError](t, err).Number != 1 && !attempted[as[*AttemptedError](t, err).Number] {
		t.Error("a block that was handed out was replaced")
	}
	note(w.read("b", 60, 4)) // the live lane of another sink
	left := check("two lanes")
	if left == 0 || left >= all {
		t.Errorf("%d of %d blocks may be thinned after 7 were handed out", left, all)
	}
	w.reopen()
	equal(t, "opened again", check("opened again"), left)
	// A sink that keeps up is handed each block as it comes.
	w.drain("a")
	w.commit(&Commit{Blocks: []Block{w.block(thinning, 3000)}})
	before := w.s.Stats().Commits
	note(w.read("a", 0, 10))
	equal(t, "transactions of a reading that keeps up", w.s.Stats().Commits-before, 0)
	w.commit(&Commit{Rotate: true})
	equal(t, "one sink has all", check("drained"), 0)
	w.drain("b")
}

// A stream's blocks from before it had the policy may have been handed out.
func TestBlocksFromBeforeThePolicyAreNotThinned(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 1 << 20
	w.open()
	for range 30 {
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(thinning, 3000)}})
	}
	w.policies().backlog()
	run := w.thinnable(0, 1<<20)
	if len(run) == 0 || run[0].Seq != 31 {
		t.Fatalf("the first that may be thinned are %v", numbers(run))
	}
	w.drain("cloud")
}

// A crash at any step leaves the run or the block that replaces it, and never
// both or none.
func TestCrashInReplace(t *testing.T) {
	w := newWorld(t).thinWorld()
	w.commit(&Commit{Parts: []Part{part(thinning, 5)}})
	w.backlog()
	w.commit(&Commit{Parts: []Part{part(thinning, 7)}})
	run := w.thinnable(0, 100<<10)
	if len(run) < 10 {
		t.Fatalf("a run of %d", len(run))
	}
	n := &snapshots{w: w}
	w.s.hooks.step = n.take
	r, err := w.replace(run)
	if err != nil {
		t.Fatal(err)
	}
	w.s.hooks.step = nil
	equal(t, "steps", n.labels, []string{"thin", "thin done"})
	for i := range n.dirs {
		c := n.openCopy(i)
		pending, _ := c.s.List(1 << 20)
		old, replaced := 0, 0
		for _, p := range pending {
			if slices.Contains(r.Numbers, p.Number) {
				old++
			}
			if p.Number == r.Block.Number {
				replaced++
			}
		}
		want := []int{len(run), 0}
		if i > 0 {
			want = []int{0, 1}
		}
		equal(t, n.labels[i]+": old and new", []int{old, replaced}, want)
		equal(t, n.labels[i]+": losses", len(c.s.Losses()), 0)
		equal(t, n.labels[i]+": the open batch", len(c.st.Parts), 1)
		c.close()
	}
	if _, err := w.replace(run); as[*AttemptedError](t, err).Number != run[0].Number {
		t.Error("a run was replaced twice")
	}
	w.drain("cloud")
	w.balance("cloud")
}

// With thinning the spool takes more of a backlog before anything is lost, and
// stays within its bound.
func TestThinningMakesRoom(t *testing.T) {
	w := newWorld(t).thinWorld()
	for range 2000 {
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(thinning, 3000)}})
		for range 2 {
			run := w.thinnable(0, 60<<10)
			if len(run) < 10 {
				break
			}
			if _, err := w.replace(run); err != nil {
				var full *FullError
				if errors.As(err, &full) {
					break
				}
				t.Fatal(err)
			}
		}
		if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
			t.Fatalf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
		}
	}
	st := w.s.Stats()
	if st.Evicted > 0 || len(w.s.Losses()) > 0 || st.Replaced == 0 || st.Rewritten == 0 && st.Segments > 5 {
		t.Errorf("%d segments were evicted, %d blocks replaced, %d segments written anew", st.Evicted, st.Replaced, st.Rewritten)
	}
	w.reopen()
	w.drain("cloud")
	w.balance("cloud")
}
