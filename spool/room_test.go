package spool

import "testing"

// TestRoomForetellsTheEviction: what RoomBytes and the cost of blocks say is
// what the spool takes until the first eviction, within a quarter.
func TestRoomForetellsTheEviction(t *testing.T) {
	for _, size := range []int{300, 3000, 30_000} {
		w := newWorld(t, "a")
		w.o.MaxBytes, w.o.SegmentBytes = 4<<20, 1<<20
		w.open()
		per := max(1, 60_000/size)
		foretold, stored := int64(0), uint64(0)
		for i := 0; ; i++ {
			var blocks []Block
			for range per {
				blocks = append(blocks, w.block(1, size))
			}
			w.commit(&Commit{Blocks: blocks, Rotate: w.s.NeedsRotation()})
			st := w.s.Stats()
			if st.Evicted > 0 {
				break
			}
			if st.DiskBytes > st.MaxBytes/2 && foretold == 0 {
				foretold, stored = st.RoomBytes, st.StoredDisk
			}
			if i > 100_000 {
				t.Fatal("nothing is evicted")
			}
		}
		took := int64(w.s.Stats().StoredDisk - stored)
		t.Logf("blocks of %d bytes: room for %d bytes was foretold, %d were stored", size, foretold, took)
		if took < foretold*3/4 || took > foretold*5/4 {
			t.Errorf("blocks of %d bytes: room for %d bytes was foretold, and %d were stored until the first eviction", size, foretold, took)
		}
	}
}
