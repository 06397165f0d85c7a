package spool

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// span of bytes of a file.
type bytesOf struct{ from, to int64 }

func (b bytesOf) meets(o bytesOf) bool { return b.from < o.to && o.from < b.to }

// homes tells for each block on which pages it lies: those of its header, and
// those of its bytes.
func homes(t *testing.T, path string) (header, data map[uint64]bytesOf) {
	t.Helper()
	p, err := openPages(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	header, data = map[uint64]bytesOf{}, map[uint64]bytesOf{}
	whole := func(at int64) bytesOf { // the page that a byte lies on, with what overflows it
		for id := uint64(at / p.page); ; id-- {
			if r, err := p.read(id); err == nil && int64(id+r.pages)*p.page > at {
				return bytesOf{int64(id) * p.page, int64(id+r.pages) * p.page}
			}
		}
	}
	v := newInventory(p)
	newest, _ := p.newest()
	err = p.walk(newest.root, func(e element) {
		if string(e.key) != string(bucketBlocks) {
			return
		}
		err := p.inside(e, func(e element) {
			h, _ := readBlockKey(e.key)
			_, at, err := v.value(e)
			if err != nil {
				t.Fatal(err)
			}
			header[h.Number], data[h.Number] = whole(e.at), whole(at.at)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if err != nil || len(header) == 0 {
		t.Fatalf("%d blocks, %v", len(header), err)
	}
	return header, data
}

// spoilRandomly changes a file and returns which bytes.
func spoilRandomly(t *testing.T, path string, rnd *rand.Rand) (hit []bytesOf) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	pages := len(data) / page
	for range 1 + rnd.IntN(3) {
		at := rnd.IntN(len(data))
		start := at / page * page
		switch rnd.IntN(6) {
		case 0: // a bit
			data[at] ^= 1 << rnd.IntN(8)
			hit = append(hit, bytesOf{int64(at), int64(at) + 1})
		case 1: // a sector torn
			for i := at; i < min(at+512, len(data)); i++ {
				data[i] = byte(rnd.Uint32())
			}
			hit = append(hit, bytesOf{int64(at), int64(at) + 512})
		case 2: // a page zeroed
			clear(data[start : start+page])
			hit = append(hit, bytesOf{int64(start), int64(start + page)})
		case 3: // a page in the place of another
			other := rnd.IntN(pages) * page
			copy(data[start:start+page], data[other:other+page])
			hit = append(hit, bytesOf{int64(start), int64(start + page)})
		case 4: // garbage over some pages
			end := min(len(data), start+(1+rnd.IntN(8))*page)
			for i := start; i < end; i++ {
				data[i] = byte(rnd.Uint32())
			}
			hit = append(hit, bytesOf{int64(start), int64(end)})
		default: // the end is gone
			if rnd.IntN(4) > 0 {
				continue
			}
			cut := max(2*page, at)
			hit = append(hit, bytesOf{int64(cut), int64(len(data))})
			data = data[:cut]
			pages = max(1, len(data)/page)
		}
		if len(data) < 4*page {
			break
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return hit
}

func intact(b bytesOf, hit []bytesOf) bool {
	return !slices.ContainsFunc(hit, b.meets)
}

// Of a damaged segment every block is rescued whose pages are whole, and every
// other one is declared exactly: by its index, or in the tail by its header.
func TestSalvageRescuesWhatIsWhole(t *testing.T) {
	rounds := 12
	if os.Getenv("MILLRACE_FAULTS") == "full" {
		rounds = 1500
	}
	w := manyBlocks(t)
	w.commit(&Commit{Blocks: []Block{w.block(1, 30000), w.block(7, 9), w.block(8, 9)}, Rotate: true})
	for range 3 {
		c := &Commit{}
		for i := range 20 {
			c.Blocks = append(c.Blocks, w.block(uint32(i%3), 20+i%5*900))
		}
		w.commit(c)
	}
	w.commit(&Commit{Parts: []Part{part(7, 70), part(8, 80)}})
	epoch, seqs := w.st.Epoch, map[uint32]uint64{}
	for id, n := range w.seqs {
		seqs[id] = n
	}
	w.close()
	kept := 0
	for seed := range rounds {
		for id := range uint64(2) {
			id++
			tail := id == 2
			rnd := rand.New(rand.NewPCG(uint64(seed), id))
			n := &snapshots{w: w}
			if err := n.take("whole"); err != nil {
				t.Fatal(err)
			}
			path := segmentPath(n.dirs[0], id)
			header, data := homes(t, path)
			hit := spoilRandomly(t, path, rnd)
			c := n.openCopy(0)
			what := fmt.Sprintf("seed %d, segment %d", seed, id)
			if !c.st.Created {
				kept++
				for stream, seq := range seqs {
					if c.st.LastSeq[stream] != seq {
						t.Errorf("%s: stream %d ends at %d, not %d", what, stream, c.st.LastSeq[stream], seq)
					}
				}
				if c.st.Epoch != epoch {
					t.Errorf("%s: another epoch", what)
				}
			} else if !tail {
				t.Errorf("%s: a new epoch, though the tail is whole", what)
			}
			c.drain("cloud")
			unknown := slices.ContainsFunc(c.s.Losses(), func(l Loss) bool { return l.Unknown })
			for number := range header {
				whole := intact(data[number], hit) && (!tail || intact(header[number], hit))
				if whole && !c.got["cloud"][number] {
					t.Errorf("%s: block %d is not rescued", what, number)
				}
			}
			for _, b := range c.committed {
				if unknown || c.got["cloud"][b.Number] {
					continue
				}
				declared := slices.ContainsFunc(c.s.Losses(), func(l Loss) bool {
					return l.Stream == b.Stream && l.FromSeq <= b.Seq && b.Seq <= l.ToSeq && l.Cause == CauseCorrupt
				})
				if !declared {
					t.Errorf("%s: block %d is neither delivered nor declared", what, b.Number)
				}
			}
			if !tail {
				if unknown {
					t.Errorf("%s: a loss without a count", what)
				}
				c.balance("cloud")
			}
			if len(c.st.Parts) < 2 && len(c.s.Losses()) == 0 {
				t.Errorf("%s: %d open parts, and no loss", what, len(c.st.Parts))
			}
			c.reopen()
			equal(t, what+": salvaged by the next start", c.s.Stats().Salvaged, uint64(0))
			c.close()
			if t.Failed() {
				t.Logf("%s: damage at %v, log:\n%s", what, hit, c.logs.String())
				return
			}
			_ = os.RemoveAll(n.dirs[0])
		}
	}
	if kept < rounds {
		t.Errorf("the state was kept %d times in %d", kept, 2*rounds)
	}
}

// A copy of one meta page in the place of the other has a right checksum, and
// takes the file back by a transaction: what that stored is declared.
func TestMetaPageInTheOthersPlace(t *testing.T) {
	w := newWorld(t).open()
	page := os.Getpagesize()
	for parts := 1; parts <= 4; parts++ { // the newest transaction is in either place
		w.commit(&Commit{Parts: []Part{part(1, 10)}})
		for to := range 2 {
			n := &snapshots{w: w}
			if err := n.take("whole"); err != nil {
				t.Fatal(err)
			}
			path := segmentPath(n.dirs[0], 1)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copy(data[to*page:(to+1)*page], data[(1-to)*page:])
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			c := n.openCopy(0)
			declared := slices.ContainsFunc(c.s.Losses(), func(l Loss) bool { return l.Unknown })
			if len(c.st.Parts) < parts && !declared {
				t.Errorf("%d commits, a copy in the place of page %d: %d parts, and no loss", parts, to, len(c.st.Parts))
			}
			c.close()
		}
	}
	w.close()
}

// A crash at any step of a salvage leaves what can be salvaged.
func TestCrashInSalvage(t *testing.T) {
	for _, tail := range []bool{false, true} {
		w := prepare(t)
		w.drainSome("cloud", 1)
		w.close()
		path, block := w.path(2), uint64(6)
		if tail {
			path, block = w.path(3), 10
		}
		_, data := homes(t, path)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 64), data[block].from); err != nil {
			t.Fatal(err)
		}
		f.Close()
		n := &snapshots{w: w}
		w.h.step = func(label string) error {
			if strings.HasPrefix(label, "salvage") || strings.HasPrefix(label, "loss") {
				return n.take(label)
			}
			return nil
		}
		w.open()
		w.drain("cloud")
		w.s.hooks.step, w.h.step = nil, nil
		equal(t, "steps", n.labels, []string{"salvage written", "salvage kept", "salvage renamed", "loss", "loss done"})
		for i := range n.dirs {
			c := n.openCopy(i)
			c.got["cloud"] = map[uint64]bool{1: true}
			if c.st.Created {
				t.Errorf("%s: a new epoch", n.labels[i])
			}
			c.drain("cloud")
			c.balance("cloud")
			l := c.s.Losses()
			if len(l) != 1 || l[0].Stream != 1 || l[0].FromSeq != block || l[0].ToSeq != block {
				t.Errorf("%s: losses %+v", n.labels[i], l)
			}
			aside, _ := filepath.Glob(filepath.Join(c.o.Dir, "*"+corruptMark+"*"))
			// In a copy of the files the second name is a file of its own.
			if len(aside) != 1 && n.labels[i] != "salvage kept" {
				t.Errorf("%s: %d bad files are kept", n.labels[i], len(aside))
			}
			c.reopen()
			equal(t, n.labels[i]+": losses, opened again", len(c.s.Losses()), 1)
			c.close()
			checkFiles(t, c.o.Dir)
		}
	}
}

// Dead letters are rescued one by one, and those that are not are declared.
func TestSalvageDeadLetters(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	for i := range 6 {
		w.commit(&Commit{Blocks: []Block{w.block(uint32(1+i%2), 5000)}})
		if err := w.s.Bury("a", uint64(i+1), "x"); err != nil {
			t.Fatal(err)
		}
	}
	w.drain("b")
	if err := w.s.DropDead(2); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.close()
	path := filepath.Join(w.o.Dir, deadName)
	spoil(t, path, payload(2, 2, 5000), 2000) // letter 4
	n := &snapshots{w: w}
	w.h.step = n.take
	w.open()
	w.s.hooks.step, w.h.step = nil, nil
	check := func(c *world, what string) {
		t.Helper()
		var ids []uint64
		for _, l := range first(c.s.Dead()) {
			ids = append(ids, l.ID)
			if b, err := c.s.PeekDead(l.ID); err != nil || string(b.Data) != string(c.committed[l.Number].Data) {
				t.Errorf("%s: letter %d: %v", what, l.ID, err)
			}
		}
		equal(t, what+": letters", ids, []uint64{1, 3, 5, 6})
		l := c.s.Losses()
		if len(l) != 1 || l[0].Stream != 2 || l[0].FromSeq != 2 || l[0].Unknown || !slices.Equal(l[0].Sinks, []string{"a"}) || l[0].Cause != CauseCorrupt {
			t.Errorf("%s: losses %+v", what, l)
		}
	}
	check(w, "salvaged")
	for i := range n.dirs {
		c := n.openCopy(i)
		check(c, n.labels[i])
		c.reopen()
		check(c, n.labels[i]+", opened again")
		c.close()
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 5000)}})
	if err := w.s.Bury("a", 7, "x"); err != nil {
		t.Fatal(err)
	}
	letters := first(w.s.Dead())
	equal(t, "the next letter", letters[len(letters)-1].ID, 7)
}

// Whatever the dead letters' file has become, the spool starts and tells of
// what is lost.
func TestDamagedDeadLetters(t *testing.T) {
	rounds := 30
	if os.Getenv("MILLRACE_FAULTS") == "full" {
		rounds = 3000
	}
	w := newWorld(t).open()
	for i := range 12 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 100+i%3*5000)}})
		if err := w.s.Bury("cloud", uint64(i+1), "x"); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 77))
		n := &snapshots{w: w}
		if err := n.take("whole"); err != nil {
			t.Fatal(err)
		}
		spoilRandomly(t, filepath.Join(n.dirs[0], deadName), rnd)
		c := n.openCopy(0)
		var lost, left uint64
		unknown := false
		for _, l := range c.s.Losses() {
			lost += l.Count
			unknown = unknown || l.Unknown
		}
		for _, l := range first(c.s.Dead()) {
			left += uint64(l.Count)
			if _, err := c.s.PeekDead(l.ID); err != nil {
				t.Errorf("seed %d: letter %d: %v", seed, l.ID, err)
			}
		}
		all := uint64(0)
		for _, b := range w.committed {
			all += uint64(b.Count)
		}
		if left+lost > all || !unknown && left+lost != all {
			t.Errorf("seed %d: %d samples, %d left, %d declared, unknown %v", seed, all, left, lost, unknown)
		}
		c.close()
		_ = os.RemoveAll(n.dirs[0])
	}
}

// What a crash left of a transaction that was not completed does not pass for a
// block that was given the same number later, and whose bytes are damaged.
func TestSalvageTellsBlocksOfOneNumberApart(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
	w.close()
	before, err := os.ReadFile(w.path(1))
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	gone := &Commit{}
	for range 60 {
		gone.Blocks = append(gone.Blocks, w.block(1, 3000))
	}
	if err := w.s.Commit(gone); err != nil {
		t.Fatal(err)
	}
	w.close()
	w.seqs[1] = 1
	f, err := os.OpenFile(w.path(1), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The meta pages of before: the transaction was not completed.
	if _, err := f.WriteAt(before[:2*os.Getpagesize()], 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.open()
	c := &Commit{}
	for range 20 {
		c.Blocks = append(c.Blocks, w.block(2, 3000))
	}
	w.commit(c)
	w.close()
	data, err := os.ReadFile(w.path(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Blocks {
		if bytes.Contains(data, gone.Blocks[i].Data) {
			spoil(t, w.path(1), c.Blocks[i].Data, 1000)
			w.open()
			equal(t, "blocks", w.drain("cloud"), 20)
			w.balance("cloud")
			return
		}
	}
	t.Fatal("nothing is left of the transaction that was not completed")
}
