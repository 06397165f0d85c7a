package spool

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// spoil changes a file in place wherever find occurs: bbolt leaves copies in
// pages that it has freed.
func spoil(t *testing.T, path string, find []byte, offset int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, find) {
		t.Fatalf("%s does not hold what is to be spoilt", path)
	}
	for i := bytes.Index(data, find); i >= 0; i = bytes.Index(data, find) {
		data[i+offset] ^= 0x40
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) path(id uint64) string { return segmentPath(w.o.Dir, id) }

// A block that does not match its checksum is a loss with its exact count; the
// others are delivered.
func TestCorruptBlock(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	for i := range 6 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}, Rotate: i == 3})
	}
	w.ack("a", 2)
	w.close()
	spoil(t, w.path(1), payload(1, 2, 2000), 1000)
	w.open()
	equal(t, "a", w.drain("a"), 5)
	equal(t, "losses, once somebody reads there", len(w.s.Losses()), 1)
	equal(t, "b", w.drain("b"), 5)
	losses := w.s.Losses()
	if len(losses) != 1 {
		t.Fatalf("losses %+v", losses)
	}
	l := losses[0]
	if l.Stream != 1 || l.FromSeq != 2 || l.ToSeq != 2 || l.Count != uint64(w.committed[2].Count) || l.Cause != CauseCorrupt || !slices.Equal(l.Sinks, []string{"b"}) || l.First != w.committed[2].First {
		t.Errorf("loss %+v", l)
	}
	w.balance("a")
	w.balance("b")
	w.reopen()
	equal(t, "losses, opened again", len(w.s.Losses()), 1)
	w.settle()
	equal(t, "losses after they are settled", len(w.reopen().s.Losses()), 0)
}

// A block whose header does not read is missing from its segment.
func TestCorruptHeader(t *testing.T) {
	w := newWorld(t).open()
	for range 3 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}})
	}
	b := w.committed[2]
	w.close()
	spoil(t, w.path(1), appendBlockKey(nil, &b), 14)
	w.open()
	equal(t, "blocks", w.drain("cloud"), 2)
	losses := w.s.Losses()
	if len(losses) != 1 || !losses[0].Unknown || losses[0].Stream != NoStream || losses[0].Cause != CauseCorrupt {
		t.Errorf("losses %+v", losses)
	}
	equal(t, "pending", w.s.Stats().Sinks["cloud"].PendingBlocks, 0)
	w.reopen()
	equal(t, "losses, opened again", len(w.s.Losses()), 1)
}

// The same while the spool is open.
func TestCorruptHeaderMeanwhile(t *testing.T) {
	w := newWorld(t).open()
	for range 3 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}})
	}
	b := w.committed[2]
	key := appendBlockKey(nil, &b)
	f, err := os.OpenFile(w.path(1), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(w.path(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, int64(bytes.LastIndex(data, key)+14)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	equal(t, "blocks", w.drain("cloud"), 2)
	w.balance("cloud")
	equal(t, "losses", len(w.s.Losses()), 1)
	w.reopen()
	equal(t, "losses, opened again", len(w.s.Losses()), 1)
}

func TestCorruptPart(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Parts: []Part{part(1, 11), part(2, 22), part(3, 33)}})
	w.commit(&Commit{Parts: []Part{part(1, 12)}})
	w.close()
	spoil(t, w.path(1), payload(2, 22, 40), 20)
	w.open()
	check := func() {
		t.Helper()
		var counts []uint32
		for _, p := range w.st.Parts {
			counts = append(counts, p.Count)
		}
		equal(t, "parts", counts, []uint32{11, 33, 12})
		l := w.s.Losses()
		if len(l) != 1 || l[0].Stream != 2 || l[0].Count != 22 || l[0].Unknown || l[0].FromSeq != 0 || l[0].Cause != CauseCorrupt {
			t.Errorf("losses %+v", l)
		}
	}
	check()
	w.reopen()
	check() // once

	// A header that does not read takes the rest of its record along.
	w.close()
	p := part(3, 33)
	spoil(t, w.path(1), appendPart(nil, &p)[:partHeaderLen], 5)
	w.open()
	equal(t, "parts", len(w.st.Parts), 2)
	if l := w.s.Losses(); len(l) != 2 || !l[1].Unknown {
		t.Errorf("losses %+v", l)
	}
	w.reopen()
	equal(t, "losses, opened again", len(w.s.Losses()), 2)
	w.commit(&Commit{Blocks: []Block{w.block(1, 10)}})
	w.commit(&Commit{Meta: []KV{{"k", []byte("v")}}})
	equal(t, "parts", len(w.reopen().st.Parts), 0)
}

// prepare makes three segments of four blocks.
func prepare(t *testing.T) *world {
	w := newWorld(t).open()
	w.commit(&Commit{Meta: []KV{{"k", []byte("v")}}})
	for i := range 12 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}, Rotate: i == 3 || i == 7})
	}
	w.commit(&Commit{Parts: []Part{part(7, 70)}})
	return w
}

// A segment that does not open is put aside; what it held is declared once.
func TestCorruptSegment(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"emptied": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zeroed":  func(p string) error { return os.WriteFile(p, make([]byte, 32<<10), 0o600) },
		"cut":     func(p string) error { return os.Truncate(p, 9000) },
		"deleted": os.Remove,
		"garbled": func(p string) error {
			data, err := os.ReadFile(p)
			for i := 2 * 4096; i < len(data); i++ {
				data[i] ^= 0x55
			}
			if err != nil {
				return err
			}
			return os.WriteFile(p, data, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := prepare(t)
			w.ack("cloud", 5)
			epoch := w.st.Epoch
			w.close()
			if err := damage(w.path(2)); err != nil {
				t.Fatal(err)
			}
			w.open()
			if w.st.Created || w.st.Epoch != epoch {
				t.Error("a new epoch, though the tail reads")
			}
			equal(t, "blocks", numbers(w.read("cloud", 0, 99)), []uint64{1, 2, 3, 4, 9, 10, 11, 12})
			equal(t, "parts", len(w.st.Parts), 1)
			l := w.s.Losses()
			switch {
			case len(l) != 1 || l[0].Cause != CauseCorrupt:
				t.Errorf("losses %+v", l)
			case l[0].Unknown || l[0].Stream != 1 || l[0].FromSeq != 6 || l[0].ToSeq != 8: // its index is left
				t.Errorf("losses %+v", l)
			}
			aside, _ := filepath.Glob(w.path(2) + corruptMark + "*")
			if wantAside := name != "deleted"; (len(aside) == 1) != wantAside {
				t.Errorf("put aside: %v", aside)
			}
			w.reopen()
			equal(t, "losses, opened again", len(w.s.Losses()), 1)
			equal(t, "the rest", w.drain("cloud"), 8)
		})
	}
}

// Without its tail the spool starts a new epoch, keeps the other segments, and
// does not take an old state for the newest.
func TestTailIsLost(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"emptied": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"cut":     func(p string) error { return os.Truncate(p, 9000) },
		"deleted": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			w := prepare(t)
			epoch := w.st.Epoch
			w.drainSome("cloud", 1)
			w.close()
			if err := damage(w.path(3)); err != nil {
				t.Fatal(err)
			}
			w.open()
			if !w.st.Created || w.st.Epoch == epoch || len(w.st.Meta)+len(w.st.Parts)+len(w.st.LastSeq) > 0 {
				t.Errorf("state %+v", w.st)
			}
			// The acknowledgement was in the tail: block 1 comes again.
			equal(t, "blocks", numbers(w.read("cloud", 0, 99)), []uint64{1, 2, 3, 4, 5, 6, 7, 8})
			l := w.s.Losses()
			if len(l) == 0 || !l[0].Unknown {
				t.Errorf("losses %+v", l)
			}
			c := &Commit{Blocks: []Block{w.block(1, 10)}}
			w.commit(c)
			if c.Blocks[0].Number < 9 {
				t.Errorf("number %d is used twice", c.Blocks[0].Number)
			}
			created := w.st.Epoch
			w.reopen()
			if w.st.Created || w.st.Epoch != created {
				t.Error("yet another epoch")
			}
			equal(t, "losses, opened again", len(w.s.Losses()), len(l))
			equal(t, "blocks", w.drain("cloud"), 9)
		})
	}
}

// A tail whose state alone does not read keeps its blocks, and its open parts
// are declared with their counts.
func TestTailStateIsLost(t *testing.T) {
	w := prepare(t)
	w.close()
	db, err := bolt.Open(w.path(3), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put([]byte("k"), []byte("spoilt")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if !w.st.Created || len(w.st.Parts) > 0 {
		t.Errorf("state %+v", w.st)
	}
	l := w.s.Losses()
	if len(l) != 1 || l[0].Stream != 7 || l[0].Count != 70 || l[0].Unknown {
		t.Errorf("losses %+v", l)
	}
	w.reopen()
	equal(t, "losses, opened again", len(w.s.Losses()), 1)
	equal(t, "blocks", w.drain("cloud"), 12)
}

// A segment that fails while it is read is put aside; the daemon goes on.
func TestSegmentCutMeanwhile(t *testing.T) {
	w := prepare(t)
	w.drainSome("cloud", 2)
	if err := os.Truncate(w.path(2), 8192); err != nil {
		t.Fatal(err)
	}
	equal(t, "blocks", w.drain("cloud"), 6)
	w.balance("cloud")
	w.reopen()
	if l := w.s.Losses(); len(l) != 1 || l[0].Stream != 1 || l[0].FromSeq != 5 || l[0].ToSeq != 8 || l[0].Unknown || l[0].Cause != CauseCorrupt {
		t.Errorf("losses %+v", l)
	}
}

// An evicted segment that does not read is counted from memory.
func TestEvictUnreadable(t *testing.T) {
	w := prepare(t)
	if err := os.Truncate(w.path(1), 8192); err != nil {
		t.Fatal(err)
	}
	w.s.commitMu.Lock()
	err := w.s.evict(w.s.segs[0])
	w.s.commitMu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	w.drain("cloud")
	w.balance("cloud")
}

// Whatever bytes of whatever file are spoilt, the spool opens, gives nothing
// that was not committed, and says that something is lost where it is.
func TestRandomDamage(t *testing.T) {
	rounds := 40
	if os.Getenv("MILLRACE_FAULTS") == "full" {
		rounds = 3000
	}
	w := prepare(t)
	if err := w.s.Bury("cloud", 1, "x"); err != nil {
		t.Fatal(err)
	}
	w.close()
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 5))
		n := &snapshots{w: w}
		if err := n.take("whole"); err != nil {
			t.Fatal(err)
		}
		files, _ := filepath.Glob(filepath.Join(n.dirs[0], "*.*"))
		for range 1 + rnd.IntN(2) {
			path := files[rnd.IntN(len(files))]
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			used := min(len(data), 1+max(0, bytes.LastIndexFunc(data, func(r rune) bool { return r != 0 })))
			at := rnd.IntN(used)
			switch rnd.IntN(3) {
			case 0:
				data[at] ^= byte(1 + rnd.IntN(255))
			case 1:
				for i := at; i < min(at+512, len(data)); i++ {
					data[i] = byte(rnd.Uint32())
				}
			default:
				page := data[at&^4095:]
				clear(page[:min(4096, len(page))])
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := n.openCopy(0)
		got := c.drain("cloud")
		dead, err := c.s.Dead()
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if lost := len(c.s.Losses()) > 0; !lost && got+len(dead) < 12 {
			t.Errorf("seed %d: %d blocks and %d dead letters of 12, and no loss", seed, got, len(dead))
		}
		if err := c.s.Close(); err != nil {
			as[*BrokenError](t, err)
		}
		_ = os.RemoveAll(n.dirs[0])
	}
}

// A tail that reads, but fails at every transaction, ends one run and not the
// next.
func TestTailFailsInUse(t *testing.T) {
	w := prepare(t)
	w.s.hooks.step = func(label string) error {
		if label == "commit" {
			panic("page 7: not a leaf")
		}
		return nil
	}
	as[*BrokenError](t, w.try(&Commit{Blocks: []Block{{Stream: 1, Seq: 99, Data: payload(1, 99, 10)}}}))
	w.closeBroken()
	r, err := OpenReadOnly(w.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "blocks, read only", len(first(r.List(99))), 12)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if !w.st.Created {
		t.Error("the tail that failed is the tail again")
	}
	if l := w.s.Losses(); len(l) != 1 || l[0].Stream != 7 || l[0].Count != 70 {
		t.Errorf("losses %+v", l)
	}
	epoch := w.st.Epoch
	w.commit(&Commit{Meta: []KV{{"k", []byte("w")}}})
	w.reopen()
	equal(t, "blocks", w.drain("cloud"), 12)
	if w.st.Epoch != epoch || len(w.s.Losses()) != 1 {
		t.Errorf("epoch %x after %x, losses %v", w.st.Epoch, epoch, w.s.Losses())
	}
	if marks, _ := filepath.Glob(filepath.Join(w.o.Dir, "*"+badSuffix)); len(marks) > 0 {
		t.Errorf("left: %v", marks)
	}
}

// One meta page that fails would take the spool a transaction back.
func TestMetaPageIsLost(t *testing.T) {
	for page := range 2 {
		w := prepare(t)
		if err := w.s.Bury("cloud", 1, "x"); err != nil {
			t.Fatal(err)
		}
		w.close()
		for _, path := range []string{w.path(3), filepath.Join(w.o.Dir, deadName)} {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[page*os.Getpagesize()+20] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		w.open()
		unknown := 0
		for _, l := range w.s.Losses() {
			if l.Unknown {
				unknown++
			}
		}
		if !w.st.Created || unknown != 2 {
			t.Errorf("page %d: created %v, losses %+v", page, w.st.Created, w.s.Losses())
		}
		n := len(w.s.Losses())
		w.reopen()
		equal(t, "losses, opened again", len(w.s.Losses()), n)
	}
}
