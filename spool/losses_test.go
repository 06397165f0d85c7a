package spool

import "testing"

// The evictions of an outage are one loss of each stream, which is handed out
// once somebody is there to hear of it, and then does not grow any more.
func TestEvictionsGrowOneLoss(t *testing.T) {
	w := newWorld(t, "cloud", "copy")
	w.o.MaxBytes = 1 << 20
	w.open()
	fill := func(n int) {
		t.Helper()
		for range n {
			w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 9000), w.block(2, 9000)}})
		}
	}
	fill(150)
	evicted := w.s.Stats().Evicted
	l := w.s.Losses()
	if evicted < 5 || len(l) != 2 || l[0].FromSeq != 1 || l[0].ToSeq-l[0].FromSeq < 50 || l[0].Sinks != nil {
		t.Fatalf("%d segments evicted, losses %+v", evicted, l)
	}
	equal(t, "due before anybody is there", len(w.s.DueLosses()), 0)
	w.reopen()
	equal(t, "losses, opened again", w.s.Losses(), l)
	fill(150)
	grown := w.s.Losses()
	if len(grown) != 2 || grown[0].ID != l[0].ID || grown[0].ToSeq <= l[0].ToSeq || grown[0].Count <= l[0].Count {
		t.Fatalf("%+v did not grow to %+v", l, grown)
	}
	w.drainSome("copy", 1)
	due := w.s.DueLosses()
	equal(t, "due once one of those that lack it is there", due, grown)
	fill(100)
	equal(t, "due and not settled yet", w.s.DueLosses(), due)
	if l := w.s.Losses(); len(l) < 4 || l[2].FromSeq != due[0].ToSeq+1 && l[3].FromSeq != due[0].ToSeq+1 {
		t.Errorf("what goes after is a loss of its own: %+v", l)
	}
	c := &Commit{}
	for _, d := range due {
		c.Settle = append(c.Settle, d.ID)
	}
	w.declared = append(w.declared, due...)
	w.commit(c)
	equal(t, "due after they are settled", len(w.s.DueLosses()), 0)
	w.drain("cloud")
	w.drain("copy")
	w.balance("cloud")
	w.balance("copy")
}

// A loss that grows is declared once, whatever step a crash comes at.
func TestCrashWhileALossGrows(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 1 << 20
	w.open()
	n := &snapshots{w: w}
	for i := range 200 {
		if i == 120 {
			w.s.hooks.step = func(label string) error {
				if len(n.dirs) < 12 && len(label) > 4 && (label[:5] == "evict" || label[:4] == "decl" || label[:4] == "unli") {
					return n.take(label)
				}
				return nil
			}
		}
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(1, 9000)}})
	}
	w.s.hooks.step = nil
	if len(n.dirs) < 4 {
		t.Fatalf("steps: %v", n.labels)
	}
	for i := range n.dirs {
		c := n.openCopy(i)
		l := c.s.Losses()
		if len(l) != 1 || l[0].FromSeq != 1 {
			t.Fatalf("%s: losses %+v", n.labels[i], l)
		}
		// What follows is all there.
		left := c.drain("cloud")
		equal(t, n.labels[i]+": blocks lost and left", l[0].ToSeq+uint64(left), c.s.streams[1].seq)
		equal(t, n.labels[i]+": due", len(c.s.DueLosses()), 1)
		c.close()
	}
	w.drain("cloud")
	w.balance("cloud")
}
