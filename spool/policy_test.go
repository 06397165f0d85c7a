package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// The streams of these tests by their policy.
const (
	dropping = 1
	refusing = 2
	thinning = 3
	system   = 0
)

func (w *world) policies() *world {
	w.t.Helper()
	w.commit(&Commit{Policies: []StreamPolicy{{system, Reserved}, {refusing, Refuse}, {thinning, ThinOldest}}})
	return w
}

// losses counts the samples declared lost, by stream.
func (w *world) losses() map[uint32]uint64 {
	out := map[uint32]uint64{}
	for _, l := range append(slices.Clone(w.declared), w.s.Losses()...) {
		out[l.Stream] += l.Count
	}
	return out
}

func TestPoliciesSurvive(t *testing.T) {
	w := newWorld(t).open().policies()
	want := map[uint32]Policy{system: Reserved, refusing: Refuse, thinning: ThinOldest}
	w.reopen()
	equal(t, "policies", w.st.Policies, want)
	w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: true})
	w.commit(&Commit{Policies: []StreamPolicy{{thinning, DropOldest}}, Blocks: []Block{w.block(1, 100)}, Rotate: true})
	w.reopen()
	want[thinning] = DropOldest
	equal(t, "policies after rotations", w.st.Policies, want)
	w.got["cloud"] = map[uint64]bool{}
	w.drain("cloud")
}

// Room is made in the order that README.md gives.
func TestOrderOfMakingRoom(t *testing.T) {
	for _, c := range []struct {
		name    string
		streams []uint32 // of the blocks of each of three older segments, in turn
		acked   []uint64
		aside   bool
		lost    map[uint32]int // blocks lost by one freeOne, by stream
		left    int            // older segments left
		same    bool           // the file aside is still there
	}{
		{name: "a drained segment goes first", streams: []uint32{dropping}, acked: []uint64{1, 2, 3, 4}, aside: true, left: 2, same: true},
		{name: "then a file aside", streams: []uint32{dropping}, aside: true, left: 3},
		{name: "then what every sink has", streams: []uint32{dropping}, acked: []uint64{5, 6, 7}, left: 3},
		{name: "then the oldest", streams: []uint32{dropping}, lost: map[uint32]int{dropping: 4}, left: 2},
		{name: "what may be thinned may be dropped", streams: []uint32{thinning}, lost: map[uint32]int{thinning: 4}, left: 2},
		{name: "but not what is refused", streams: []uint32{refusing, dropping}, lost: map[uint32]int{dropping: 2}, left: 3},
		{name: "nor alarms and gaps", streams: []uint32{system, dropping}, lost: map[uint32]int{dropping: 2}, left: 3},
		{name: "nothing is left", streams: []uint32{refusing, system}, left: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t).open().policies()
			for i := range 12 {
				w.commit(&Commit{Blocks: []Block{w.block(c.streams[i%len(c.streams)], 30000)}, Rotate: i%4 == 3})
			}
			if c.aside {
				path := segmentPath(w.o.Dir, 77) + corruptMark + "x"
				if err := os.WriteFile(path, make([]byte, 5000), 0o600); err != nil {
					t.Fatal(err)
				}
				w.reopen()
			}
			w.s.Ack("cloud", c.acked...)
			w.s.commitMu.Lock()
			freed, err := w.s.freeOne(false, true)
			w.s.commitMu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "something went", freed, c.name != "nothing is left")
			lost := map[uint32]int{}
			for _, l := range w.s.Losses() {
				lost[l.Stream] += int(l.ToSeq - l.FromSeq + 1)
			}
			equal(t, "blocks lost", lost, fmt.Sprint(c.lost))
			st := w.s.Stats()
			equal(t, "older segments", st.Segments-1, c.left)
			equal(t, "files aside", st.CorruptFiles == 1, c.same)
			w.got["cloud"] = map[uint64]bool{}
			for _, n := range c.acked {
				w.got["cloud"][n] = true
			}
			w.drain("cloud")
			w.balance("cloud")
		})
	}
}

// A crash at any step of writing a segment anew keeps what is to be kept and
// declares the rest once.
func TestCrashInRewrite(t *testing.T) {
	w := newWorld(t).open().policies()
	n := &snapshots{w: w}
	streams := []uint32{dropping, refusing, dropping, system}
	for i := range 12 {
		w.commit(&Commit{Blocks: []Block{w.block(streams[i%4], 20000)}, Rotate: i%4 == 3})
	}
	w.s.hooks.step = n.take
	w.s.commitMu.Lock()
	before := w.s.segs[0].size
	if freed, err := w.s.freeOne(false, true); err != nil || !freed {
		t.Fatal(freed, err)
	}
	after := w.s.segs[0].size
	w.s.commitMu.Unlock()
	w.s.hooks.step = nil
	if after >= before {
		t.Errorf("%d bytes became %d", before, after)
	}
	equal(t, "steps", n.labels, []string{"rewrite written", "declare", "declare done", "rewrite declared",
		"rewrite without index", "rewrite renamed", "index written", "rewrite done"})
	for i := range n.dirs {
		c := n.openCopy(i)
		if c.st.Created {
			t.Fatalf("%s: a new epoch", n.labels[i])
		}
		lost, pending := 1, 10 // two sequences with others between are two losses, but of one stream's run
		if i < 2 {
			lost, pending = 0, 12
		}
		equal(t, n.labels[i]+": losses", len(c.s.Losses()), lost)
		c.reopen()
		equal(t, n.labels[i]+": losses, opened again", len(c.s.Losses()), lost)
		equal(t, n.labels[i]+": blocks", c.drain("cloud"), pending)
		c.balance("cloud")
		c.close()
		checkFiles(t, c.o.Dir)
	}
	w.drain("cloud")
	w.balance("cloud")
}

// Streams that refuse keep all that was taken; the others go on.
func TestRefuseKeepsAndOthersGoOn(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 2 << 20
	w.open().policies()
	refused, taken := 0, 0
	for i := range 450 {
		c := &Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(dropping, 4000)}}
		if i%20 == 0 {
			c.Blocks = append(c.Blocks, w.block(system, 200))
		}
		if err := w.s.Admit(6000); err == nil {
			taken++
			c.Blocks = append(c.Blocks, w.block(refusing, 6000))
		} else {
			refused++
			as[*FullError](t, err)
		}
		w.commit(c)
		if st := w.s.Stats(); st.DiskBytes > st.MaxBytes {
			t.Fatalf("%d bytes on disk, bound %d", st.DiskBytes, st.MaxBytes)
		}
		if i%50 == 49 {
			w.settle()
		}
	}
	if taken < 50 || refused < 50 {
		t.Errorf("%d taken, %d refused: want a good part of each", taken, refused)
	}
	lost := w.losses()
	if lost[refusing] != 0 || lost[dropping] == 0 {
		t.Errorf("lost by stream: %v", lost)
	}
	if w.s.Stats().Rewritten == 0 {
		t.Error("no segment was written anew")
	}
	w.reopen()
	// Once something is delivered, more is taken.
	w.drainSome("cloud", 60)
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Admit(6000); err != nil {
		t.Error(err)
	}
	w.drain("cloud")
	w.balance("cloud")
}

// A commit of gap records alone finds room where an ordinary one finds none,
// and their oldest go once they have taken their share.
func TestReservedRoom(t *testing.T) {
	w := newWorld(t)
	w.o.MaxBytes = 2 << 20
	w.open().policies()
	w.commit(&Commit{Policies: []StreamPolicy{{dropping, Refuse}}}) // nothing may be dropped
	var err error
	for i := 0; err == nil; i++ {
		if i > 2000 {
			t.Fatal("never full")
		}
		err = w.try(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(dropping, 3000)}})
	}
	as[*FullError](t, err)
	w.seqs[dropping]--
	for range 10 {
		w.commit(&Commit{Blocks: []Block{w.block(system, 500)}})
	}
	equal(t, "losses", len(w.s.Losses()), 0)
	w.drain("cloud")
	w.balance("cloud")
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		w.commit(&Commit{Rotate: w.s.NeedsRotation(), Blocks: []Block{w.block(system, 9000)}})
		if i%50 == 49 {
			w.settle()
		}
	}
	if lost := w.losses(); lost[system] == 0 {
		t.Error("records beyond their share are kept")
	}
	w.drain("cloud")
	w.balance("cloud")
}

// Random work of all policies, with a copy made at any step: what is delivered,
// pending and lost is what was committed, and nothing of a stream that refuses
// is lost.
func TestPoliciesAnywhere(t *testing.T) {
	rounds := 1
	if os.Getenv("MILLRACE_FAULTS") == "full" {
		rounds = 200
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { policiesAnywhere(t, uint64(seed)) })
	}
}

func policiesAnywhere(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	w := newWorld(t, "fast", "slow")
	w.o.MaxBytes = 2 << 20
	n := &snapshots{w: w}
	w.open().policies()
	w.s.hooks.step = func(label string) error {
		if rnd.IntN(40) == 0 && len(n.dirs) < 3 || len(label) > 6 && label[:7] == "rewrite" && rnd.IntN(6) == 0 && len(n.dirs) < 9 {
			return n.take(label)
		}
		return nil
	}
	for range 200 {
		c := &Commit{Rotate: w.s.NeedsRotation()}
		for stream := range uint32(4) {
			size := 100 + rnd.IntN(15000)
			if stream == system {
				size = 100 + rnd.IntN(200)
			}
			if stream == refusing {
				if err := w.s.Admit(int64(size)); err != nil {
					var full *FullError
					if !errors.As(err, &full) {
						t.Fatal(err)
					}
					continue
				}
			}
			if rnd.IntN(3) > 0 {
				c.Blocks = append(c.Blocks, w.block(stream, size))
			}
		}
		if rnd.IntN(5) == 0 {
			for _, l := range w.s.DueLosses() {
				c.Settle = append(c.Settle, l.ID)
				w.declared = append(w.declared, l)
			}
		}
		w.commit(c)
		for sink, every := range map[string]int{"fast": 1, "slow": 12} {
			if rnd.IntN(every) == 0 {
				for _, b := range w.read(sink, uint64(rnd.IntN(30)), 1+rnd.IntN(4)) {
					w.ack(sink, b.Number)
				}
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
		for _, l := range c.s.Losses() {
			if l.Unknown || l.Cause != CauseEvicted || l.Stream == refusing {
				t.Errorf("%s: loss %+v", n.labels[i], l)
			}
		}
		for _, sink := range []string{"fast", "slow"} {
			pending := c.s.Stats().Sinks[sink].PendingBlocks
			equal(t, n.labels[i]+": delivered of those pending", c.drain(sink), pending)
		}
		c.close()
		checkFiles(t, c.o.Dir)
	}
	if lost := w.losses(); lost[refusing] != 0 {
		t.Errorf("%d samples of a stream that refuses are lost", lost[refusing])
	}
	for _, sink := range []string{"fast", "slow"} {
		w.drain(sink)
		w.balance(sink)
	}
}
