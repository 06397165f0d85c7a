package spool

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestDeadLetters(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 900), w.block(2, 3000), w.block(1, 20)}})
	for range 2 { // again changes nothing
		if err := w.s.Bury("a", 2, "not a block"); err != nil {
			t.Fatal(err)
		}
	}
	as[*NotFoundError](t, w.s.Bury("a", 9, "no such block"))
	as[*NotFoundError](t, w.s.Bury("nobody", 1, "no such sink"))
	equal(t, "a", numbers(w.read("a", 0, 9)), []uint64{1, 3})
	equal(t, "b", numbers(w.read("b", 0, 9)), []uint64{1, 2, 3})
	w.reopen()
	dead, err := w.s.Dead()
	if err != nil || len(dead) != 1 {
		t.Fatalf("dead letters %v, %v", dead, err)
	}
	d := dead[0]
	if d.Sink != "a" || d.Reason != "not a block" || d.Number != 2 || d.Stream != 2 || d.Seq != 1 || d.Bytes != 3000 || d.At.IsZero() {
		t.Errorf("dead letter %+v", d)
	}
	equal(t, "stats", w.s.Stats().DeadLetters, 1)
	b, err := w.s.PeekDead(d.ID)
	if err != nil || !bytes.Equal(b.Data, payload(2, 1, 3000)) {
		t.Errorf("peek: %v", err)
	}

	// Put back, it goes to the sink that refused it alone, with its bytes.
	if err := w.s.RetryDead(d.ID); err != nil {
		t.Fatal(err)
	}
	as[*NotFoundError](t, w.s.RetryDead(d.ID))
	w.reopen()
	again := first(w.s.Read("a", 3, 9, 1<<20))
	if len(again) != 1 || again[0].Number != 4 || again[0].Seq != 1 || !bytes.Equal(again[0].Data, payload(2, 1, 3000)) {
		t.Errorf("put back: %v", numbers(again))
	}
	equal(t, "b", len(w.read("b", 0, 9)), 3)
	equal(t, "last sequences", w.st.LastSeq, map[uint32]uint64{1: 2, 2: 1})

	// Dropped, it is declared.
	if err := w.s.Bury("a", 4, "still not"); err != nil {
		t.Fatal(err)
	}
	dead, _ = w.s.Dead()
	if err := w.s.DropDead(dead[0].ID); err != nil {
		t.Fatal(err)
	}
	as[*NotFoundError](t, w.s.DropDead(dead[0].ID))
	l := w.s.Losses()
	if len(l) != 1 || l[0].Cause != CauseRejected || l[0].Sinks[0] != "a" || l[0].Stream != 2 || l[0].Count != uint64(d.Count) {
		t.Errorf("losses %+v", l)
	}
}

// A crash between the burial and its acknowledgement buries the block once.
func TestBuryAfterCrash(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 900)}})
	crashed := filepath.Join(t.TempDir(), "copy")
	if err := w.s.Bury("cloud", 1, "x"); err != nil {
		t.Fatal(err)
	}
	copyDir(t, w.o.Dir, crashed)
	w.close()
	w.o.Dir = crashed
	w.open()
	equal(t, "given again", len(w.read("cloud", 0, 9)), 1)
	if err := w.s.Bury("cloud", 1, "x"); err != nil {
		t.Fatal(err)
	}
	equal(t, "dead letters", w.s.Stats().DeadLetters, 1)
	equal(t, "pending", w.s.Stats().Sinks["cloud"].PendingBlocks, 0)
}

// Dead letters have a share of the bound; the oldest are declared beyond it.
func TestDeadLettersAreBounded(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 2 << 20
	w.open()
	for range 60 {
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 10000)}})
		b := w.read("cloud", 0, 1)[0]
		if err := w.s.Bury("cloud", b.Number, "poison"); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if st := w.s.Stats(); st.DiskBytes > st.MaxBytes || st.DeadBytes > st.MaxBytes/deadShare {
			t.Fatalf("%d bytes on disk, %d of dead letters", st.DiskBytes, st.DeadBytes)
		}
	}
	var samples, dead uint64
	for _, b := range w.committed {
		samples += uint64(b.Count)
	}
	letters, err := w.s.Dead()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range letters {
		dead += uint64(d.Count)
	}
	lost := uint64(0)
	for _, l := range w.declared {
		equal(t, "cause", l.Cause, CauseEvicted)
		lost += l.Count
	}
	if len(letters) < 5 || samples != dead+lost {
		t.Errorf("%d samples, %d in %d dead letters, %d lost", samples, dead, len(letters), lost)
	}
}

func TestDeadLettersAreLost(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 900)}})
	if err := w.s.Bury("cloud", 1, "x"); err != nil {
		t.Fatal(err)
	}
	w.close()
	if err := os.Truncate(filepath.Join(w.o.Dir, deadName), 5000); err != nil {
		t.Fatal(err)
	}
	n := &snapshots{w: w}
	w.h.step = n.take
	w.open()
	w.s.hooks.step, w.h.step = nil, nil
	if l := w.s.Losses(); len(l) != 1 || !l[0].Unknown {
		t.Errorf("losses %+v", l)
	}
	equal(t, "dead letters", w.s.Stats().DeadLetters, 0)
	w.reopen()
	equal(t, "losses, opened again", len(w.s.Losses()), 1)
	w.commit(&Commit{Blocks: []Block{w.block(1, 900)}})
	if err := w.s.Bury("cloud", 2, "y"); err != nil {
		t.Fatal(err)
	}
	equal(t, "dead letters", w.s.Stats().DeadLetters, 1)

	equal(t, "steps", n.labels, []string{"open", "open done", "salvage written", "salvage kept", "salvage renamed"})
	for i := range n.dirs {
		c := n.openCopy(i)
		equal(t, n.labels[i]+": losses", len(c.s.Losses()), 1)
		c.close()
	}
}

// A dead letter of an earlier epoch that is put back, and lost then, is lost to
// that epoch: its sequence means another block in this one.
func TestRetryOfAnEarlierEpoch(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	if err := w.s.Bury("cloud", 1, "x"); err != nil {
		t.Fatal(err)
	}
	w.close()
	if err := os.WriteFile(w.path(1)+badSuffix, []byte("by the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if !w.st.Created {
		t.Fatal("the epoch is kept")
	}
	if err := w.s.RetryDead(first(w.s.Dead())[0].ID); err != nil {
		t.Fatal(err)
	}
	w.commit(&Commit{Rotate: true})
	w.reopen()
	again := numbers(first(w.s.Read("cloud", 0, 9, 1<<20)))
	equal(t, "put back", len(again), 1)
	if err := w.s.Bury("cloud", again[0], "x"); err != nil {
		t.Fatal(err)
	}
	if err := w.s.DropDead(first(w.s.Dead())[0].ID); err != nil {
		t.Fatal(err)
	}
	l := w.s.Losses()
	if len(l) != 1 || !l[0].Earlier || l[0].Cause != CauseRejected {
		t.Errorf("losses %+v", l)
	}
}
