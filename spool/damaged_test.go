package spool

import (
	"os"
	"testing"
	"time"
)

// Looking at what is held does not give up a damaged segment that waits for
// space.
func TestHeldLeavesWhatWaitsForSpace(t *testing.T) {
	w := prepare(t)
	w.close()
	spoil(t, w.path(1), payload(1, 2, 2000), 1000)
	w.o.Probe, w.h.stall = childThat("full"), 20*time.Second
	w.open()
	for range 3 {
		_, next, err := w.s.Held(0, 9, 1<<20)
		as[*FullError](t, err)
		equal(t, "to go on behind", next, w.s.segs[0].next-1)
	}
	equal(t, "losses", len(w.s.Losses()), 0)
	w.o.Probe = nil
	w.reopen()
	equal(t, "blocks", w.drain("cloud"), 11)
	w.balance("cloud")
}

// Neither does reading there, where the segment was whole when it was looked
// at.
func TestReadLeavesWhatWaitsForSpace(t *testing.T) {
	w := prepare(t)
	w.reopen()
	w.read("cloud", 0, 1)
	w.s.stopProber() // which reads what is set here
	w.s.o.Probe, w.s.hooks.stall = childThat("full"), 20*time.Second
	w.s.startProber()
	if err := os.Truncate(w.path(1), 8*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		as[*FullError](t, second(w.s.Read("cloud", 0, 9, 1<<20)))
	}
	equal(t, "losses", len(w.s.Losses()), 0)
	w.o.Probe = nil
	w.reopen()
	w.drain("cloud")
	w.balance("cloud")
}

// A block that went bad after its segment was looked at does not keep the spool
// from making room: it is declared, and what is whole is kept.
func TestRoomBesideADamagedBlock(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 4 << 20
	w.open()
	w.commit(&Commit{Policies: []StreamPolicy{{2, Refuse}, {3, Reserved}}})
	for range 12 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 12000), w.block(2, 3000)}})
	}
	w.commit(&Commit{Rotate: true})
	w.reopen()
	w.read("cloud", 0, 1)
	spoil(t, w.path(1), payload(2, 5, 3000), 1000)
	w.s.o.MaxBytes = w.s.Stats().DiskBytes - 1
	w.commit(&Commit{Parts: []Part{part(3, 3)}})
	l := w.s.Losses()
	if len(l) != 2 || l[0].Cause != CauseCorrupt || l[0].Stream != 2 || l[0].FromSeq != 5 || l[0].ToSeq != 5 {
		t.Errorf("losses %+v", l)
	}
	equal(t, "blocks kept", w.drain("cloud"), 11)
	w.balance("cloud")
}
