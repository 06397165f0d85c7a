package spool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNewSpoolIsEmpty(t *testing.T) {
	w := newWorld(t).open()
	if !w.st.Created || w.st.Epoch == 0 || len(w.st.Parts)+len(w.st.Meta)+len(w.st.Losses)+len(w.st.LastSeq) != 0 {
		t.Errorf("state of a new spool: %+v", w.st)
	}
	epoch := w.st.Epoch
	if w.reopen(); w.st.Created || w.st.Epoch != epoch {
		t.Errorf("opened again: created %v, epoch %x, want %x", w.st.Created, w.st.Epoch, epoch)
	}
	equal(t, "read", len(w.read("cloud", 0, 10)), 0)
}

func TestCommitSurvives(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{
		Parts: []Part{part(1, 10), part(2, 20)},
		Meta:  []KV{{"a", []byte("1")}, {"b", []byte{}}, {"c", []byte("3")}},
	})
	w.commit(&Commit{Blocks: []Block{w.block(1, 5000), w.block(3, 0)}, Parts: []Part{part(1, 11)}, Meta: []KV{{"a", []byte("2")}, {"c", nil}}})
	w.reopen()
	var parts []string
	for _, p := range w.st.Parts {
		parts = append(parts, fmt.Sprint(p.Stream, "/", p.Count))
		if want := part(p.Stream, int(p.Count)); string(p.Data) != string(want.Data) || p.First != want.First || p.Last != want.Last {
			t.Errorf("part %d/%d has changed", p.Stream, p.Count)
		}
	}
	equal(t, "parts that no block supersedes", parts, []string{"2/20", "1/11"})
	equal(t, "meta", w.st.Meta, []KV{{"a", []byte("2")}, {"b", nil}})
	equal(t, "last sequences", w.st.LastSeq, map[uint32]uint64{1: 1, 3: 1})
	equal(t, "numbers", numbers(w.read("cloud", 0, 10)), []uint64{1, 2})
	st := w.s.Stats()
	equal(t, "open", [2]any{st.OpenParts, st.OpenSamples}, [2]any{2, 31})
	equal(t, "pending", st.Sinks["cloud"].PendingSamples, 22)

	// The last block of the streams takes the records away.
	w.commit(&Commit{Blocks: []Block{w.block(1, 10), w.block(2, 10)}})
	w.commit(&Commit{Meta: []KV{{"d", []byte("4")}}})
	if w.reopen(); len(w.st.Parts) != 0 || w.s.Stats().OpenParts != 0 || len(w.s.records)+len(w.s.garbage) != 0 {
		t.Errorf("open tier after all streams were sealed: %v, %d records, %d to delete", w.st.Parts, len(w.s.records), len(w.s.garbage))
	}
	w.drain("cloud")
	w.balance("cloud")
}

func TestEmptyCommitWritesNothing(t *testing.T) {
	w := newWorld(t).open()
	before := w.s.Stats().Commits
	w.commit(&Commit{})
	equal(t, "commits", w.s.Stats().Commits, before)
}

func TestReadLimits(t *testing.T) {
	w := newWorld(t).open()
	for range 6 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 1000)}})
	}
	read := func(after uint64, most, size int) string {
		blocks, err := w.s.Read("cloud", after, most, size)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(numbers(blocks))
	}
	equal(t, "two blocks", read(0, 2, 1<<20), "[1 2]")
	equal(t, "after", read(3, 10, 1<<20), "[4 5 6]")
	equal(t, "bytes", read(0, 10, 2999), "[1 2]")
	equal(t, "one at least", read(2, 10, 1), "[3]")
	equal(t, "none", read(0, 0, 1<<20), "[]")
	w.ack("cloud", 2)
	w.ack("cloud", 4)
	equal(t, "out of order", read(0, 3, 1<<20), "[1 3 5]")
	if _, err := w.s.Read("nobody", 0, 1, 1); err == nil {
		t.Error("an unknown sink reads")
	}
}

func TestReadAcrossSegments(t *testing.T) {
	w := newWorld(t).open()
	for i := range 30 {
		w.commit(&Commit{Blocks: []Block{w.block(uint32(i%3), 3000)}, Rotate: i%4 == 3})
	}
	equal(t, "segments", len(w.segments()), 8)
	equal(t, "one read", len(w.read("cloud", 0, 100)), 30)
	equal(t, "bytes over segments", len(first(w.s.Read("cloud", 0, 100, 3000*9))), 9)
	w.reopen()
	equal(t, "after opening", len(w.read("cloud", 5, 100)), 25)
	w.drain("cloud")
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "segments that are left", w.segments(), []string{"0000000008"})
	w.balance("cloud")
}

func first[T any](v T, _ error) T { return v }

func TestAcks(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	for i := range 12 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: i == 5})
	}
	for _, n := range []uint64{9, 2, 1, 5, 2, 0, 99} {
		w.s.Ack("a", n)
	}
	w.s.Ack("nobody", 1)
	equal(t, "a", numbers(w.read("a", 0, 99)), []uint64{3, 4, 6, 7, 8, 10, 11, 12})
	equal(t, "b", len(w.read("b", 0, 99)), 12)
	st := w.s.Stats()
	equal(t, "acked to", [2]uint64{st.Sinks["a"].AckedTo, st.Sinks["b"].AckedTo}, [2]uint64{2, 0})
	equal(t, "pending", [2]int{st.Sinks["a"].PendingBlocks, st.Sinks["b"].PendingBlocks}, [2]int{8, 12})
	w.reopen()
	equal(t, "a, opened again", numbers(w.read("a", 0, 99)), []uint64{3, 4, 6, 7, 8, 10, 11, 12})
	w.drain("a")
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "b keeps the segment", len(w.segments()), 2)
	w.drain("b")
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "segments", len(w.segments()), 1)
	equal(t, "pending", w.s.Stats().Sinks["a"].PendingBlocks+w.s.Stats().Sinks["b"].PendingBlocks, 0)
}

// Acks that were not synced before a crash are given again: the same bytes.
func TestCrashBeforeSync(t *testing.T) {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 100), w.block(1, 100)}})
	w.s.Ack("cloud", 1)
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	w.s.Ack("cloud", 2)
	crashed := *w
	crashed.o.Dir = filepath.Join(t.TempDir(), "copy")
	copyDir(t, w.o.Dir, crashed.o.Dir)
	crashed.open()
	defer crashed.close()
	equal(t, "given again", numbers(crashed.read("cloud", 0, 9)), []uint64{2})
}

func TestSinksComeAndGo(t *testing.T) {
	w := newWorld(t, "a").open()
	for i := range 8 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 100)}, Rotate: i == 3})
	}
	w.s.Ack("a", 1, 2, 5)
	w.o.Sinks = []string{"a", "new"}
	w.reopen()
	equal(t, "a new sink starts at the oldest pending block", numbers(w.read("new", 0, 99)), []uint64{3, 4, 5, 6, 7, 8})

	w.o.Sinks = []string{"new"}
	w.reopen()
	equal(t, "new", w.drain("new"), 6)
	if err := w.s.Sync(); err != nil {
		t.Fatal(err)
	}
	equal(t, "what a removed sink lacks stays", w.s.Stats().Sinks["a"].PendingBlocks, 5)
	equal(t, "segments", len(w.segments()), 2)
	if !strings.Contains(w.logs.String(), "no longer") {
		t.Error("nothing was said of the removed sink")
	}
	if err := w.s.Forget("new"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("forgetting a sink in use: %v", err)
	}
	if err := w.s.Forget("nobody"); err == nil {
		t.Error("forgetting an unknown sink works")
	}
	if err := w.s.Forget("a"); err != nil {
		t.Fatal(err)
	}
	equal(t, "segments after forgetting", len(w.segments()), 1)
	w.reopen()
	if _, ok := w.s.Stats().Sinks["a"]; ok {
		t.Error("the forgotten sink is back")
	}
	equal(t, "losses", len(w.s.Losses()), 0)
}

func TestReady(t *testing.T) {
	w := newWorld(t).open()
	ready := w.s.Ready()
	w.commit(&Commit{Parts: []Part{part(1, 1)}})
	select {
	case <-ready:
		t.Fatal("ready without a block")
	default:
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 10)}})
	select {
	case <-ready:
	default:
		t.Fatal("not ready with a block")
	}
}

func TestInUse(t *testing.T) {
	w := newWorld(t).open()
	_, _, err := Open(context.Background(), w.o)
	e := as[*InUseError](t, err)
	equal(t, "holder", e.PID, os.Getpid())
	want := fmt.Sprintf("spool %s is in use by process %d: stop it first, or give this gateway a spool directory of its own", w.o.Dir, os.Getpid())
	equal(t, "message", err.Error(), want)
	_, err = OpenReadOnly(w.o.Dir)
	as[*InUseError](t, err)
	w.close()
	r, err := OpenReadOnly(w.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Open(context.Background(), w.o)
	equal(t, "holder that reads", as[*InUseError](t, err).PID, 0)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
}

func TestReadOnlyChangesNothing(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	for i := range 6 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}, Parts: []Part{part(2, 5)}, Rotate: i == 2})
	}
	w.s.Ack("a", 1, 2, 3, 4)
	if err := w.s.Bury("b", 2, "too old"); err != nil {
		t.Fatal(err)
	}
	want := w.s.Stats()
	w.close()
	if err := os.WriteFile(filepath.Join(w.o.Dir, "0000000099.seg.tmp"), []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(t, w.o.Dir)
	r, err := OpenReadOnly(w.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := r.List(100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, fmt.Sprintf("%d%v", i.Number, i.Waiting))
	}
	equal(t, "list", got, []string{"1[b]", "3[b]", "4[b]", "5[a b]", "6[a b]"})
	b, err := r.Peek(2)
	if err != nil || string(b.Data) != string(payload(1, 2, 2000)) {
		t.Errorf("peek: %v", err)
	}
	_, err = r.Peek(77)
	as[*NotFoundError](t, err)
	dead, err := r.Dead()
	if err != nil || len(dead) != 1 || dead[0].Reason != "too old" {
		t.Errorf("dead letters: %v, %v", dead, err)
	}
	st := r.Stats()
	equal(t, "open samples", st.OpenSamples, want.OpenSamples)
	equal(t, "pending", st.Sinks["b"].PendingSamples, want.Sinks["b"].PendingSamples)
	equal(t, "disk", st.DiskBytes, want.DiskBytes)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	equal(t, "files", fingerprint(t, w.o.Dir), before)
	if _, err := OpenReadOnly(t.TempDir()); err == nil || !strings.Contains(err.Error(), "holds no spool") {
		t.Errorf("a directory without a spool: %v", err)
	}
}

func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := ""
	for _, e := range list {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%s %d %08x\n", e.Name(), len(data), checksum(data))
	}
	return out
}

func TestClosed(t *testing.T) {
	w := newWorld(t).open()
	s := w.s
	w.close()
	if s.Commit(&Commit{}) == nil || s.Sync() == nil {
		t.Error("a closed spool stores")
	}
	if _, err := s.Read("cloud", 0, 1, 1); err == nil {
		t.Error("a closed spool reads")
	}
	if err := s.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*Options){
		"no directory": func(o *Options) { o.Dir = "" },
		"no sink":      func(o *Options) { o.Sinks = nil },
		"bound":        func(o *Options) { o.MaxBytes = 1000 },
		"segment":      func(o *Options) { o.SegmentBytes = 1000 },
		"no logger":    func(o *Options) { o.Log = nil },
	} {
		o := w.o
		change(&o)
		if _, _, err := Open(context.Background(), o); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.open()
}
