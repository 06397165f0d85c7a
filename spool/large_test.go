package spool

import (
	"syscall"
	"testing"
)

// A commit that is larger than a segment is stored, and the bound holds, as
// long as a segment of the largest size would take it.
func TestACommitLargerThanASegment(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 4 << 20
	w.open()
	for i := range 12 {
		c := &Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 3000)}}
		if i%3 == 2 {
			for range 3 {
				c.Blocks = append(c.Blocks, w.block(2, 400<<10)) // 1.2 MiB: segments have 256 KiB
			}
		}
		w.commit(c)
		if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
			t.Fatalf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
		}
		if i == 6 {
			w.reopen()
		}
	}
	// The same as parts of open batches: the tail takes them, and its successor.
	c := &Commit{Parts: []Part{{Stream: 3, Count: 1, Data: payload(3, 1, 700<<10)}, part(4, 1)}}
	w.commit(c)
	w.reopen()
	equal(t, "open parts", len(w.st.Parts), 2)
	for range 3 {
		w.commit(&Commit{Rotate: true, Blocks: []Block{w.block(1, 3000)}})
	}
	w.commit(&Commit{Rotate: true, Blocks: []Block{w.block(3, 300<<10)}})
	w.reopen()
	equal(t, "open parts", len(w.st.Parts), 1)
	if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
		t.Errorf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
	}
	w.settle()
	w.drain("cloud")
	w.balance("cloud")
	if err := w.try(&Commit{Blocks: []Block{w.block(2, 2<<20)}}); err == nil {
		t.Error("a commit of half the bound is taken")
	}
}

// What was open in a large segment is carried on where segments are small now.
func TestSegmentsAreMadeSmaller(t *testing.T) {
	w := newWorld(t)
	w.o.SegmentBytes = 4 << 20
	w.open()
	for i := range 20 {
		w.commit(&Commit{Parts: []Part{{Stream: uint32(i), Count: 1, Data: payload(uint32(i), 1, 100<<10)}}})
	}
	w.close()
	w.o.SegmentBytes = MinSegmentBytes
	w.open()
	equal(t, "open parts", len(w.st.Parts), 20)
	for i := range 5 {
		w.commit(&Commit{Parts: []Part{{Stream: uint32(i), Count: 1, Data: payload(uint32(i), 2, 100<<10)}}})
		w.commit(&Commit{Blocks: []Block{w.block(50, 100<<10)}, Rotate: i == 3})
	}
	w.reopen()
	equal(t, "open parts", len(w.st.Parts), 25)
	c := &Commit{Rotate: w.s.NeedsRotation()}
	if !c.Rotate {
		t.Error("rotation is not asked for")
	}
	for i := range 20 {
		c.Blocks = append(c.Blocks, w.block(uint32(i), 50<<10))
	}
	w.commit(c)
	w.commit(&Commit{})
	if w.s.NeedsRotation() {
		t.Error("rotation is asked for, and nothing is in the tail")
	}
	w.reopen()
	equal(t, "open parts", len(w.st.Parts), 0)
	w.drain("cloud")
	w.balance("cloud")
}

// A new segment that has its name although that is reported as failed is the
// tail of the next start: nothing may be committed to the old one meanwhile.
func TestARenameThatFailsAfterItsEffect(t *testing.T) {
	w := newWorld(t)
	fail := false
	w.h.after = func(op string) error {
		if fail && op == "segment renamed" {
			return syscall.EIO
		}
		return nil
	}
	w.open()
	fail = true
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: true})
	broken := 0
	for range 3 {
		if err := w.try(&Commit{Blocks: []Block{w.block(1, 3000)}}); err != nil {
			as[*BrokenError](t, err)
			broken++
		}
	}
	w.closeBroken()
	fail = false
	w.open()
	if broken != 3 {
		t.Error("commits were taken to a segment that is the tail no more")
	}
	w.commit(&Commit{Blocks: []Block{w.block(2, 3000)}, Rotate: true})
	w.reopen()
	equal(t, "blocks", w.drain("cloud"), 2)
	w.balance("cloud")
}
