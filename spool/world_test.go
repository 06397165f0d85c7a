package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// steppedClock moves a second with every look.
type steppedClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *steppedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

// world is a spool with a record of all that went in and came out.
type world struct {
	t    *testing.T
	o    Options
	s    *Spool
	st   *State
	h    hooks
	logs bytes.Buffer

	seqs      map[uint32]uint64
	committed map[uint64]Block           // by number
	got       map[string]map[uint64]bool // by sink, numbers delivered and acknowledged
	declared  []Loss                     // settled or not
}

func newWorld(t *testing.T, sinks ...string) *world {
	t.Helper()
	if len(sinks) == 0 {
		sinks = []string{"cloud"}
	}
	w := &world{
		t: t, seqs: map[uint32]uint64{}, committed: map[uint64]Block{}, got: map[string]map[uint64]bool{},
		o: Options{
			Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: 16 << 20, SegmentBytes: MinSegmentBytes, Sinks: sinks,
			Clock: &steppedClock{now: time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)},
		},
	}
	w.o.Log = slog.New(slog.NewTextHandler(&w.logs, nil))
	t.Cleanup(w.finish)
	return w
}

func (w *world) open() *world {
	w.t.Helper()
	s, st, err := open(context.Background(), w.o, w.h)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.s, w.st = s, st
	return w
}

func (w *world) close() {
	w.t.Helper()
	if w.s == nil {
		return
	}
	if err := w.s.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
	w.s = nil
}

// closeBroken closes a spool that cannot store what it should.
func (w *world) closeBroken() {
	w.t.Helper()
	as[*BrokenError](w.t, w.s.Close())
	w.s = nil
}

func (w *world) reopen() *world { w.t.Helper(); w.close(); return w.open() }

// finish ends every test with a check of the files.
func (w *world) finish() {
	w.close()
	if !w.t.Failed() {
		checkFiles(w.t, w.o.Dir)
	}
}

// checkFiles lets bbolt check every file, and checks that the spool opens.
func checkFiles(t *testing.T, dir string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	if dead := filepath.Join(dir, deadName); exists(dead) {
		files = append(files, dead)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Size() == 0 {
			continue // a test made it so
		}
		db, err := bolt.Open(f, fileMode, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: time.Second})
		if err != nil {
			t.Errorf("check %s: %v", f, err)
			continue
		}
		_ = db.View(func(tx *bolt.Tx) error {
			for err := range tx.Check() {
				t.Errorf("check %s: %v", f, err)
			}
			return nil
		})
		_ = db.Close()
	}
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Errorf("check %s: %v", dir, err)
		return
	}
	defer r.Close()
	infos, err := r.List(1 << 20)
	if err != nil {
		t.Errorf("check: list: %v", err)
	}
	for _, i := range infos {
		if b, err := r.Peek(i.Number); err != nil || len(b.Data) != i.Bytes {
			t.Errorf("check: block %d: %v", i.Number, err)
		}
	}
}

// payload is bytes that tell where they belong.
func payload(stream uint32, seq uint64, size int) []byte {
	b := make([]byte, max(size, 12))
	binary.BigEndian.PutUint32(b, stream)
	binary.BigEndian.PutUint64(b[4:], seq)
	x := seq*0x9e3779b97f4a7c15 + uint64(stream)
	for i := 12; i < len(b); i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// block makes a stream's next block.
func (w *world) block(stream uint32, size int) Block {
	w.seqs[stream]++
	seq := w.seqs[stream]
	at := int64(seq) * int64(time.Minute)
	return Block{Stream: stream, Seq: seq, Count: uint32(10 + seq%7), First: at, Last: at + int64(time.Second), Data: payload(stream, seq, size)}
}

func part(stream uint32, n int) Part {
	return Part{Stream: stream, Count: uint32(n), First: int64(n), Last: int64(n) + 5, Data: payload(stream, uint64(n), 40)}
}

func (w *world) commit(c *Commit) {
	w.t.Helper()
	if err := w.try(c); err != nil {
		w.t.Fatalf("commit: %v", err)
	}
}

func (w *world) try(c *Commit) error {
	err := w.s.Commit(c)
	if err == nil {
		for _, b := range c.Blocks {
			w.committed[b.Number] = b
		}
	}
	return err
}

// settle takes the losses over, as the batcher does by a gap record.
func (w *world) settle() {
	w.t.Helper()
	c := &Commit{}
	for _, l := range w.s.DueLosses() {
		w.declared = append(w.declared, l)
		c.Settle = append(c.Settle, l.ID)
	}
	if len(c.Settle) > 0 {
		w.commit(c)
	}
}

// read reads and checks blocks without acknowledging them.
func (w *world) read(sink string, after uint64, most int) []Block {
	w.t.Helper()
	blocks, err := w.s.Read(sink, after, most, 1<<30)
	if err != nil {
		w.t.Fatalf("read %s: %v", sink, err)
	}
	for _, b := range blocks {
		want, ok := w.committed[b.Number]
		if !ok || !bytes.Equal(want.Data, b.Data) || want.Stream != b.Stream || want.Seq != b.Seq || want.Count != b.Count || want.First != b.First || want.Last != b.Last {
			w.t.Fatalf("read %s: block %d is not what was committed", sink, b.Number)
		}
	}
	return blocks
}

// drain delivers all that a sink can get.
func (w *world) drain(sink string) (n int) {
	w.t.Helper()
	for after := uint64(0); ; {
		blocks := w.read(sink, after, 7)
		if len(blocks) == 0 {
			return n
		}
		for _, b := range blocks {
			w.ack(sink, b.Number)
			after = b.Number
			n++
		}
	}
}

func (w *world) ack(sink string, number uint64) {
	if w.got[sink] == nil {
		w.got[sink] = map[uint64]bool{}
	}
	w.got[sink][number] = true
	w.s.Ack(sink, number)
}

// balance checks that every sample committed was delivered or declared, for
// one sink.
func (w *world) balance(sink string) {
	w.t.Helper()
	var committed, delivered, lost uint64
	for n, b := range w.committed {
		committed += uint64(b.Count)
		if w.got[sink][n] {
			delivered += uint64(b.Count)
		}
	}
	for _, l := range append(slices.Clone(w.declared), w.s.Losses()...) {
		if l.Unknown {
			w.t.Errorf("a loss without a count: %+v", l)
		}
		if len(l.Sinks) == 0 || slices.Contains(l.Sinks, sink) {
			lost += l.Count
		}
	}
	if committed != delivered+lost {
		w.t.Errorf("%s: %d samples committed, %d delivered, %d declared lost", sink, committed, delivered, lost)
	}
	if st := w.s.Stats().Sinks[sink]; st.PendingBlocks != 0 || st.PendingSamples != 0 || st.PendingBytes != 0 {
		w.t.Errorf("%s: still pending: %+v", sink, st)
	}
}

// copyDir copies the files of a spool as a crash would leave them.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) segments() (names []string) {
	files, _ := filepath.Glob(filepath.Join(w.o.Dir, "*.seg"))
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), segmentSuffix))
	}
	return names
}

func numbers(blocks []Block) (out []uint64) {
	for _, b := range blocks {
		out = append(out, b.Number)
	}
	return out
}

func as[E error](t *testing.T, err error) E {
	t.Helper()
	var e E
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want %T", err, err, e)
	}
	return e
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
