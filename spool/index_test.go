package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// A start with many segments opens the tail alone; a segment without its index
// is read once, and has its index again.
func TestStartOpensTheTailAlone(t *testing.T) {
	w := newWorld(t).open()
	const segments = 20
	for range segments - 1 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000), w.block(2, 700)}, Rotate: true})
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	equal(t, "segments", len(w.segments()), segments)
	w.ack("cloud", 3)
	want := w.s.Stats()
	w.close()
	var opened []string
	w.h.open = func(path string) { opened = append(opened, filepath.Base(path)) }
	w.open()
	equal(t, "opened at the start", opened, []string{filepath.Base(w.path(segments))})
	got := w.s.Stats()
	equal(t, "bytes on disk", got.DiskBytes, want.DiskBytes)
	equal(t, "sinks", got.Sinks, want.Sinks)
	infos := first(w.s.List(99))
	equal(t, "blocks listed", len(infos), 2*segments-2)
	equal(t, "opened to list them", len(opened), 1)
	w.close()

	for name, damage := range map[string]func(path string) error{
		"missing": os.Remove,
		"emptied": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"cut":     func(p string) error { return os.Truncate(p, indexHead+60) },
		"of another segment": func(p string) error {
			data, err := os.ReadFile(indexPath(w.path(6)))
			if err != nil {
				return err
			}
			return os.WriteFile(p, data, 0o600)
		},
		"flipped": func(p string) error {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			data[50] ^= 4
			return os.WriteFile(p, data, 0o600)
		},
	} {
		if err := damage(indexPath(w.path(4))); err != nil {
			t.Fatal(err)
		}
		w.open()
		equal(t, name+": sinks", w.s.Stats().Sinks, want.Sinks)
		equal(t, name+": losses", len(w.s.Losses()), 0)
		w.close()
		opened = nil
		w.open()
		equal(t, name+": opened by the start after", opened, []string{filepath.Base(w.path(segments))})
		w.close()
	}
	w.open()
	equal(t, "blocks", w.drain("cloud"), 2*segments-2)
	w.balance("cloud")
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(w.o.Dir, "*"+indexSuffix))
	equal(t, "indexes left", len(left), 0)
}

// A segment is evicted without being read: its index tells what is lost.
func TestEvictionReadsTheIndex(t *testing.T) {
	w := newWorld(t).open()
	for range 3 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000), w.block(2, 700)}, Rotate: true})
	}
	w.close()
	var opened []string
	w.h.open = func(path string) { opened = append(opened, path) }
	w.open()
	if err := os.Truncate(w.path(1), 4096); err != nil { // whatever it holds
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path(1), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w.s.commitMu.Lock()
	err := w.s.evict(w.s.segs[0])
	w.s.commitMu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(opened, w.path(1)) {
		t.Error("the segment was opened")
	}
	losses := w.s.Losses()
	if len(losses) != 2 || losses[0].Stream != 1 || losses[1].Stream != 2 || losses[0].FromSeq != 1 || losses[0].ToSeq != 1 {
		t.Errorf("losses %+v", losses)
	}
	if exists(indexPath(w.path(1))) {
		t.Error("the index is left")
	}
	w.drain("cloud")
	w.balance("cloud")
}

// What a crash or a failed rotation leaves of indexes is not believed.
func TestStaleIndex(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	w.s.hooks.step = func(label string) error {
		if label == "segment filled" {
			return os.ErrInvalid
		}
		return nil
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: true}) // does not
	w.s.hooks.step = nil
	if !exists(indexPath(w.path(1))) {
		t.Fatal("the rotation failed before the index was written")
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	equal(t, "blocks listed", len(first(w.s.List(99))), 3)
	w.reopen()
	if exists(indexPath(w.path(1))) {
		t.Error("the tail has an index")
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: true})
	w.reopen()
	equal(t, "blocks", w.drain("cloud"), 4)
}

// A rotation that failed leaves an index behind. Where a power cut takes the
// name of the next one, with the tail's kept, it does not pass for that.
func TestIndexOfAFailedRotation(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	w.s.hooks.step = func(label string) error {
		if label == "segment opened" {
			return syscall.ENOSPC
		}
		return nil
	}
	w.commit(&Commit{Rotate: true})
	w.s.hooks.step = nil
	equal(t, "segments", len(w.segments()), 1)
	stale, err := os.ReadFile(indexPath(w.path(1)))
	if err != nil {
		t.Fatal(err)
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000), w.block(1, 3000)}, Rotate: true})
	w.close()
	if err := os.WriteFile(indexPath(w.path(1)), stale, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	equal(t, "losses", len(w.s.Losses()), 0)
	equal(t, "blocks", w.drain("cloud"), 3)
	w.balance("cloud")
}

// The disk fails below an index, or what is left of one: the start goes on
// without it.
func TestIndexThatTheDiskFails(t *testing.T) {
	w := prepare(t)
	w.close()
	// A folder cannot be read like a file either, and needs no bad disk.
	for _, path := range []string{indexPath(w.path(1)), indexPath(w.path(99))} {
		if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSpool(w.o, nil, hooks{})
	x, ok, err := readIndex(s.newSegment(1))
	if ok || err != nil {
		t.Errorf("index %+v, %v, %v", x, ok, err)
	}
	op := &opening{}
	if err := s.findOrphans([]uint64{1, 2, 3}, op); err != nil || len(op.orphanFiles) != 1 {
		t.Errorf("orphans %v, %v", op.orphanFiles, err)
	}
	for _, path := range []string{indexPath(w.path(1)), indexPath(w.path(99))} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
