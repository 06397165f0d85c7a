package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// fill commits blocks until the spool has evicted so many segments.
func (w *world) fill(segments uint64, size int) {
	w.t.Helper()
	for i := 0; w.s.Stats().Evicted < segments; i++ {
		if i > 20000 {
			w.t.Fatal("nothing is evicted")
		}
		c := &Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(uint32(i%5), size), w.block(uint32(i%3), size/2)}}
		w.commit(c)
		st := w.s.Stats()
		if st.DiskBytes > st.MaxBytes {
			w.t.Fatalf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
		}
	}
}

func TestEvictionIsExact(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.o.MaxBytes = 2 << 20
	w.open()
	w.fill(1, 3000)
	// From here on a has more than b.
	for range 5 {
		w.drainSome("a", 40)
		w.drainSome("b", 7)
		w.fill(w.s.Stats().Evicted+1, 3000)
		if len(w.declared) < 20 {
			w.settle()
		}
	}
	var both, one int
	for _, l := range append(slices.Clone(w.declared), w.s.Losses()...) {
		if l.Cause != CauseEvicted || l.FromSeq == 0 || l.ToSeq < l.FromSeq || l.First >= l.Last || l.At.IsZero() {
			t.Errorf("loss %+v", l)
		}
		if len(l.Sinks) == 0 {
			both++
		} else {
			equal(t, "sinks", l.Sinks, []string{"b"})
			one++
		}
	}
	if both == 0 || one == 0 {
		t.Errorf("%d losses to both sinks and %d to one: want some of each", both, one)
	}
	w.reopen()
	for _, sink := range []string{"a", "b"} {
		w.drain(sink)
		w.balance(sink)
	}
}

// Segments that every sink has go before data is lost.
func TestDrainedSegmentsGoFirst(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 2 << 20
	w.open()
	for range 700 {
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 12000)}})
		w.drainSome("cloud", 10)
	}
	st := w.s.Stats()
	equal(t, "evicted", st.Evicted, 0)
	equal(t, "losses", len(w.s.Losses()), 0)
	if st.DiskBytes > st.MaxBytes {
		t.Errorf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
	}
}

// A caller that ignores NeedsRotation does not get the spool over its bound.
func TestRotationIsForced(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 1 << 20
	w.open()
	for i := range 400 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Parts: []Part{part(2, 1+i)}})
		if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
			t.Fatalf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
		}
	}
	if !w.s.NeedsRotation() && len(w.segments()) == 1 {
		t.Error("rotation was not asked for")
	}
	w.reopen()
	equal(t, "open parts", len(w.st.Parts), 400)
	w.drain("cloud")
	w.balance("cloud")
}

// A bound that is lowered holds from the first commit on.
func TestBoundIsLowered(t *testing.T) {
	w := newWorld(t)
	w.o.SegmentBytes = 4 << 20
	w.open()
	w.commit(&Commit{Parts: []Part{part(7, 70)}})
	for range 200 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 10000)}})
	}
	equal(t, "segments", len(w.segments()), 1)
	w.o.MaxBytes, w.o.SegmentBytes = 1<<20, MinSegmentBytes
	w.reopen()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: w.s.NeedsRotation()})
	if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
		t.Errorf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
	}
	w.reopen()
	equal(t, "open parts", len(w.st.Parts), 1)
	equal(t, "blocks", w.drain("cloud"), 1)
	w.balance("cloud")
}

func TestCommitThatIsTooLarge(t *testing.T) {
	w := newWorld(t).open()
	err := w.try(&Commit{Blocks: []Block{w.block(1, 7<<20)}})
	if err == nil {
		t.Fatal("a commit larger than the bound allows was taken")
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}})
}

// failures makes the next so many transactions fail.
func failures(w *world, n int, err error) {
	w.s.hooks.step = func(label string) error {
		if label == "commit" && n > 0 {
			n--
			return err
		}
		return nil
	}
}

func TestNoSpace(t *testing.T) {
	noSpace := &fs.PathError{Op: "write", Path: "x.seg", Err: syscall.ENOSPC}
	w := newWorld(t).open()
	for i := range 8 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: i%4 == 3})
	}
	failures(w, 1, noSpace)
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	if w.s.Stats().Evicted == 0 {
		t.Error("nothing was given up")
	}
	failures(w, 2, noSpace)
	full := as[*FullError](t, w.try(&Commit{Blocks: []Block{{Stream: 9, Seq: 1, Data: payload(9, 1, 10)}}}))
	if !errors.Is(full, syscall.ENOSPC) {
		t.Errorf("cause: %v", full)
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	w.reopen()
	if w.st.LastSeq[9] != 0 {
		t.Error("what was refused is there")
	}
	w.drain("cloud")
	w.balance("cloud")
}

// On a file system that is really full, the spool gives up the oldest data,
// goes on, and every sample is accounted for.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("no file system to fill: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	w := newWorld(t)
	w.o.Dir = filepath.Join(dir, "spool")
	w.open()
	for i := range 900 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: w.s.NeedsRotation()})
		if i%50 == 0 {
			if err := w.s.Sync(); err != nil {
				as[*FullError](t, err)
			}
		}
	}
	if w.s.Stats().Evicted == 0 {
		t.Error("nothing was given up")
	}
	w.drain("cloud")
	w.balance("cloud")
	w.reopen()
	w.close()
	checkFiles(t, w.o.Dir)
	w.o.Dir = filepath.Join(t.TempDir(), "none")
	w.open()
}

// A disk that fails again soon ends the run.
func TestBrokenDisk(t *testing.T) {
	for name, failure := range map[string]error{
		"write": &fs.PathError{Op: "write", Path: "x.seg", Err: syscall.EIO},
		"sync":  syscall.ENOSPC, // fdatasync's error comes bare
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).open()
			w.commit(&Commit{Blocks: []Block{w.block(1, 100)}})
			failures(w, 2, failure)
			as[*BrokenError](t, w.try(&Commit{Blocks: []Block{w.block(1, 100)}}))
			err := as[*BrokenError](t, w.try(&Commit{Parts: []Part{part(1, 1)}}))
			if !errors.Is(err, failure) && !errors.Is(failure, err.Err) {
				t.Errorf("cause: %v", err)
			}
			as[*BrokenError](t, w.s.Sync())
			as[*BrokenError](t, w.s.Bury("cloud", 1, "x"))
			w.s.Ack("cloud", 1)
			if _, err := w.s.Read("cloud", 0, 1, 1); err == nil {
				t.Error("a broken spool reads")
			}
			if w.s.Stats().Broken == "" {
				t.Error("stats do not tell")
			}
			w.closeBroken()
			w.open()
			equal(t, "blocks", w.drain("cloud"), 1)
		})
	}
}

// A file put aside counts, and goes before good data does.
func TestFilesPutAsideMakeRoom(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 2 << 20
	w.open()
	w.close()
	aside := filepath.Join(w.o.Dir, "0000000000.seg"+corruptMark+"x")
	if err := os.WriteFile(aside, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if w.s.Stats().CorruptFiles != 1 || w.s.Stats().DiskBytes < 1<<20 {
		t.Errorf("stats: %+v", w.s.Stats())
	}
	for exists(aside) {
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 3000)}})
	}
	equal(t, "evicted", w.s.Stats().Evicted, 0)
	w.drain("cloud")
	w.balance("cloud")
}
