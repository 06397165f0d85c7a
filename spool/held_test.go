package spool

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

func TestHeldIsWhoeverHasIt(t *testing.T) {
	w := newWorld(t).open()
	for i := range 6 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 1000)}, Rotate: i == 2})
	}
	w.ack("cloud", 5)
	held := func(after uint64, most, size int) string {
		blocks, next, err := w.s.Held(after, most, size)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(numbers(blocks), next)
	}
	equal(t, "the first segment", held(0, 10, 1<<20), "[1 2 3] 3")
	equal(t, "the next, one of which has left", held(3, 10, 1<<20), "[4 5 6] 6")
	equal(t, "bytes", held(3, 10, 2999), "[4 5] 5")
	equal(t, "one at least", held(3, 10, 1), "[4] 4")
	equal(t, "no more", held(6, 10, 1<<20), "[] 0")
	w.drain("cloud")
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "a drained segment is gone", held(0, 10, 1<<20), "[4 5 6] 6")
}

// Segments that nobody has looked at yet are looked at first, and one that does
// not read does not hide the others.
func TestHeldLooksBeforeItReads(t *testing.T) {
	w := newWorld(t).open()
	for range 3 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 1000)}, Rotate: true})
	}
	w.reopen()
	all := func(held func(after uint64, most, size int) ([]Block, uint64, error)) (out []uint64, faults int) {
		for after := uint64(0); ; {
			blocks, next, err := held(after, 10, 1<<20)
			if err != nil {
				faults++
			}
			out = append(out, numbers(blocks)...)
			if next == 0 {
				return out, faults
			}
			after = next
		}
	}
	got, faults := all(w.s.Held)
	equal(t, "after a restart", fmt.Sprint(got, faults), "[1 2 3] 0")
	w.close()
	path := segmentPath(w.o.Dir, 2)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, len(data)), fileMode); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReadOnly(w.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	got, faults = all(r.Held)
	if err := errors.Join(r.Close(), os.WriteFile(path, data, fileMode)); err != nil {
		t.Fatal(err)
	}
	equal(t, "with a file that does not read", fmt.Sprint(got, faults), "[1 3] 1")
}
