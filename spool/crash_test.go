package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// snapshots copies the directory at every step of what is done.
type snapshots struct {
	w      *world
	dirs   []string
	labels []string
}

func (n *snapshots) take(label string) error {
	dir := filepath.Join(n.w.t.TempDir(), "copy")
	copyDir(n.w.t, n.w.o.Dir, dir)
	n.dirs, n.labels = append(n.dirs, dir), append(n.labels, label)
	return nil
}

// openCopy opens a snapshot, and checks it at the end of the test.
func (n *snapshots) openCopy(i int) *world {
	c := &world{t: n.w.t, o: n.w.o, seqs: map[uint32]uint64{}, committed: map[uint64]Block{}, got: map[string]map[uint64]bool{}}
	c.o.Dir = n.dirs[i]
	for k, v := range n.w.committed {
		c.committed[k] = v
	}
	return c.open()
}

// A crash at any step of a rotation finds all that was committed.
func TestCrashInRotation(t *testing.T) {
	w := newWorld(t)
	n := &snapshots{w: w}
	w.open()
	w.commit(&Commit{Parts: []Part{part(1, 1), part(2, 2)}, Meta: []KV{{"k", []byte("v")}}})
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000), w.block(3, 100)}})
	w.s.Ack("cloud", 1)
	w.s.hooks.step = n.take
	// Stream 2 is not sealed: its part moves with the state.
	w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}, Rotate: true})
	w.s.hooks.step = nil
	want := []string{"commit", "commit done", "index written", "segment opened", "segment filled", "segment renamed", "segment durable", "rotate done"}
	equal(t, "steps", n.labels, want)
	for i := range n.dirs {
		c := n.openCopy(i)
		label := n.labels[i]
		// Before the commit's transaction is done, block 3 may be missing.
		least, most := 2, 3
		if i > 0 {
			least = 3
		}
		got := 1 + len(c.read("cloud", 0, 99)) // block 1 is acknowledged, or comes again
		if c.s.Stats().Sinks["cloud"].AckedTo == 0 {
			got--
		}
		if got < least || got > most {
			t.Errorf("%s: %d blocks, want %d to %d", label, got, least, most)
		}
		if c.st.Created || c.st.Epoch != w.st.Epoch || len(c.st.Losses) != 0 {
			t.Errorf("%s: created %v, losses %v", label, c.st.Created, c.st.Losses)
		}
		equal(t, label+": meta", c.st.Meta, []KV{{"k", []byte("v")}})
		if len(c.st.Parts) != 1 || c.st.Parts[0].Stream != 2 {
			t.Errorf("%s: parts %v", label, c.st.Parts)
		}
		if left, _ := filepath.Glob(filepath.Join(c.o.Dir, "*.tmp")); len(left) > 0 {
			t.Errorf("%s: left: %v", label, left)
		}
		// The copy goes on: numbers do not repeat.
		c.seqs = map[uint32]uint64{1: 5}
		b := Commit{Blocks: []Block{c.block(1, 50)}, Rotate: true}
		c.commit(&b)
		if b.Blocks[0].Number != uint64(got)+1 {
			t.Errorf("%s: the next block is %d after %d", label, b.Blocks[0].Number, got)
		}
		c.close()
		checkFiles(t, c.o.Dir)
	}
}

// A crash at any step of an eviction declares each loss once.
func TestCrashInEviction(t *testing.T) {
	w := newWorld(t)
	n := &snapshots{w: w}
	w.open()
	for i := range 12 {
		w.commit(&Commit{Blocks: []Block{w.block(uint32(i%2), 4000)}, Rotate: i%4 == 3})
	}
	w.drainSome("cloud", 2)
	w.s.hooks.step = n.take
	w.s.commitMu.Lock()
	if err := w.s.evict(w.s.segs[0]); err != nil {
		t.Fatal(err)
	}
	w.s.commitMu.Unlock()
	w.s.hooks.step = nil
	equal(t, "steps", n.labels, []string{"declare", "declare done", "evict declared", "unlinked"})
	for i := range n.dirs {
		c := n.openCopy(i)
		c.got["cloud"] = map[uint64]bool{1: true, 2: true}
		if i == 0 { // nothing was declared, nothing is gone; the acks were not stored
			equal(t, "losses", len(c.s.Losses()), 0)
			equal(t, "blocks", len(c.read("cloud", 0, 99)), 12)
		} else {
			equal(t, n.labels[i]+": losses", len(c.s.Losses()), 2) // one of each stream
			if slices.Contains(c.segments(), "0000000001") {
				t.Errorf("%s: the evicted segment is still there", n.labels[i])
			}
			c.reopen()
			equal(t, n.labels[i]+": losses, opened again", len(c.s.Losses()), 2)
		}
		c.drain("cloud")
		c.balance("cloud")
		c.settle()
		c.reopen()
		equal(t, n.labels[i]+": losses after they are settled", len(c.s.Losses()), 0)
		c.close()
		checkFiles(t, c.o.Dir)
	}
	w.drain("cloud")
	w.balance("cloud")
}

// drainSome delivers the first most blocks.
func (w *world) drainSome(sink string, most int) {
	w.t.Helper()
	for _, b := range w.read(sink, 0, most) {
		w.ack(sink, b.Number)
	}
}

// An acknowledgement that comes while the ones before it are stored does not
// remove the file of a block that it alone covers.
func TestCrashAfterLateAck(t *testing.T) {
	w := newWorld(t)
	w.open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000), w.block(1, 3000)}, Rotate: true})
	w.s.Ack("cloud", 1)
	n := &snapshots{w: w}
	w.s.hooks.step = func(label string) error {
		if label == "sync done" {
			w.s.Ack("cloud", 2)
		}
		return nil
	}
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	w.s.hooks.step = nil
	if err := n.take("synced"); err != nil {
		t.Fatal(err)
	}
	c := n.openCopy(0)
	equal(t, "losses", len(c.s.Losses()), 0)
	equal(t, "blocks", len(c.read("cloud", 0, 99)), 1)
	c.close()
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "segments once it is durable", len(w.segments()), 1)
	w.got["cloud"] = map[uint64]bool{1: true, 2: true}
}

// A crash at any step of dropping a dead letter declares its loss once.
func TestCrashInDropDead(t *testing.T) {
	w := newWorld(t)
	n := &snapshots{w: w}
	w.open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 500), w.block(1, 500)}})
	if err := w.s.Bury("cloud", 1, "malformed"); err != nil {
		t.Fatal(err)
	}
	w.s.hooks.step = n.take
	if err := w.s.DropDead(1); err != nil {
		t.Fatal(err)
	}
	w.s.hooks.step = nil
	equal(t, "steps", n.labels, []string{"drop dead letter", "drop dead letter done", "dead"})
	for i := range n.dirs {
		c := n.openCopy(i)
		dead, err := c.s.Dead()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			equal(t, "dead letters", len(dead), 1)
			if err := c.s.DropDead(1); err != nil {
				t.Fatal(err)
			}
		} else {
			equal(t, n.labels[i]+": dead letters", len(dead), 0)
		}
		equal(t, n.labels[i]+": losses", len(c.s.Losses()), 1)
		equal(t, n.labels[i]+": stats", c.s.Stats().DeadLetters, 0)
		c.reopen()
		equal(t, n.labels[i]+": losses, opened again", len(c.s.Losses()), 1)
		c.close()
	}
}

// What is copied at any step of random work opens with all that was committed,
// and delivered plus declared is what was committed.
func TestCrashAnywhere(t *testing.T) {
	rounds := 6
	if os.Getenv("MILLRACE_FAULTS") == "full" {
		rounds = 200
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crashAnywhere(t, uint64(seed)) })
	}
}

func crashAnywhere(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "a", "b")
	w.o.MaxBytes = 2 << 20
	n := &snapshots{w: w}
	type mark struct {
		committed int // blocks durable when the copy was made
		parts     uint64
	}
	var marks []mark
	var durableParts uint64
	w.open()
	w.s.hooks.step = func(label string) error {
		if rnd.IntN(12) == 0 {
			marks = append(marks, mark{len(w.committed), durableParts})
			return n.take(label)
		}
		return nil
	}
	steps := 150
	for range steps {
		switch k := rnd.IntN(20); {
		case k < 12:
			c := &Commit{Rotate: w.s.NeedsRotation()}
			for stream := range uint32(3) {
				if c.Rotate || rnd.IntN(3) == 0 {
					c.Blocks = append(c.Blocks, w.block(stream, rnd.IntN(9000)))
				} else {
					c.Parts = append(c.Parts, part(stream, 1+rnd.IntN(30)))
				}
			}
			if rnd.IntN(3) == 0 {
				for _, l := range w.s.Losses() {
					c.Settle = append(c.Settle, l.ID)
					w.declared = append(w.declared, l)
				}
			}
			w.commit(c)
		case k < 17:
			sink := []string{"a", "b"}[rnd.IntN(2)]
			for _, b := range w.read(sink, uint64(rnd.IntN(30)), 1+rnd.IntN(8)) {
				w.ack(sink, b.Number)
			}
		default:
			if err := w.s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
			t.Fatalf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
		}
	}
	w.s.hooks.step = nil
	for i := range n.dirs {
		c := n.openCopy(i)
		if c.st.Created {
			t.Fatalf("%s: a new epoch", n.labels[i])
		}
		next := c.s.Stats().NextNumber
		if int(next) <= marks[i].committed {
			t.Errorf("%s: %d blocks known, %d were committed", n.labels[i], next-1, marks[i].committed)
		}
		for _, l := range c.s.Losses() {
			if l.Unknown || l.Cause != CauseEvicted {
				t.Errorf("%s: loss %+v", n.labels[i], l)
			}
		}
		for _, sink := range []string{"a", "b"} {
			pending := c.s.Stats().Sinks[sink].PendingBlocks
			equal(t, n.labels[i]+": delivered of those pending", c.drain(sink), pending)
		}
		c.close()
		checkFiles(t, c.o.Dir)
	}
	for _, sink := range []string{"a", "b"} {
		w.drain(sink)
		w.balance(sink)
	}
}

func TestRotationThatFails(t *testing.T) {
	w := newWorld(t).open()
	w.s.hooks.step = func(label string) error {
		if label == "segment filled" {
			return errors.New("no such luck")
		}
		return nil
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: true})
	equal(t, "segments", len(w.segments()), 1)
	if left, _ := filepath.Glob(filepath.Join(w.o.Dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.s.hooks.step = nil
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: true})
	equal(t, "segments", len(w.segments()), 2)
	equal(t, "blocks", w.drain("cloud"), 2)

	w.s.hooks.step = func(label string) error {
		if label == "segment renamed" {
			return errors.New("input/output error")
		}
		return nil
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: true})
	as[*BrokenError](t, w.try(&Commit{Blocks: []Block{w.block(1, 100)}}))
	w.s.hooks.step = nil
	w.closeBroken()
	w.open()
	equal(t, "blocks", w.drain("cloud"), 1) // the acks went with the commit
}
