package spool

import (
	"path/filepath"
	"testing"
)

func (w *world) tend() {
	w.t.Helper()
	if err := w.s.Tend(); err != nil {
		w.t.Fatal(err)
	}
}

func TestAcksRideOnTheNextCommit(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 100), w.block(1, 100)}, Rotate: true})
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}})
	for range ackPatience { // nothing waits yet
		w.tend()
	}
	w.ack("cloud", 1)
	w.ack("cloud", 2)
	before := w.s.Stats().Commits
	for range ackPatience - 1 {
		w.tend()
	}
	equal(t, "transactions of their own", w.s.Stats().Commits-before, 0)
	equal(t, "a segment stays while the tail does not know that it is drained", len(w.segments()), 2)
	w.commit(&Commit{Parts: []Part{part(1, 3)}})
	w.tend()
	equal(t, "transactions with a commit", w.s.Stats().Commits-before, 1)
	equal(t, "segments once it does", len(w.segments()), 1)

	w.ack("cloud", 3)
	for range ackPatience {
		w.tend()
	}
	equal(t, "without a commit they are stored in the end", w.s.Stats().Commits-before, 2)
	crashed := *w
	crashed.o.Dir = filepath.Join(t.TempDir(), "copy")
	copyDir(t, w.o.Dir, crashed.o.Dir)
	crashed.open()
	defer crashed.close()
	equal(t, "given again", len(crashed.read("cloud", 0, 9)), 0)
}

// An acknowledgement that comes while others are stored must not take its
// segment along: a crash would find its blocks gone and not acknowledged.
func TestAnAckDuringSyncUnlinksNothing(t *testing.T) {
	w := newWorld(t)
	w.h.step = func(label string) error {
		if label == "sync done" && w.s != nil {
			w.s.Ack("cloud", 2)
		}
		return nil
	}
	w.open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: true})
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: true})
	w.s.Ack("cloud", 1)
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "segments", w.segments(), []string{"0000000002", "0000000003"})
	crashed := *w
	crashed.h, crashed.o.Dir = hooks{}, filepath.Join(t.TempDir(), "copy")
	copyDir(t, w.o.Dir, crashed.o.Dir)
	crashed.open()
	defer crashed.close()
	equal(t, "given again", numbers(crashed.read("cloud", 0, 9)), []uint64{2})
	equal(t, "losses", len(crashed.s.Losses()), 0)
}
