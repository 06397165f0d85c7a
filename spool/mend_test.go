//go:build linux && !386 && !mips && !mipsle

package spool

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// onDisk skips where files have no disk under them, so that nothing can be
// dropped from memory.
func onDisk(t *testing.T) {
	t.Helper()
	const tmpfs = 0x01021994
	var st syscall.Statfs_t
	if err := syscall.Statfs(t.TempDir(), &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == tmpfs {
		t.Skip("the folder for temporary files is in memory: set TMPDIR")
	}
}

// A write that the disk fails once is made again where it is not on the disk,
// and taken as done where it is: each block is there once, and so are the acks.
func TestMend(t *testing.T) {
	onDisk(t)
	eio := &fs.PathError{Op: "write", Path: "x.seg", Err: syscall.EIO}
	for _, c := range []struct {
		name   string
		stored bool
		err    error
	}{
		{"a write, out", false, eio}, {"a sync, out", false, syscall.EIO}, {"a sync for want of space, out", false, syscall.ENOSPC},
		{"a sync, in", true, syscall.EIO}, {"a sync for want of space, in", true, syscall.ENOSPC},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t).open()
			w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Parts: []Part{part(2, 2)}})
			w.ack("cloud", 1)
			epoch, failed := w.st.Epoch, 0
			fail := func(label string) error {
				if label == "commit" && failed == 0 {
					failed++
					return c.err
				}
				return nil
			}
			if c.stored {
				w.s.hooks.after = fail
			} else {
				w.s.hooks.step = fail
			}
			w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Parts: []Part{part(3, 3)}, Meta: []KV{{"k", []byte("v")}}})
			equal(t, "failures", failed, 1)
			st := w.s.Stats()
			equal(t, "mended", st.Mended, 1)
			equal(t, "next number", st.NextNumber, 3)
			if st.Broken != "" {
				t.Error(st.Broken)
			}
			if n := strings.Count(w.logs.String(), "the disk failed a write"); n != 1 {
				t.Errorf("told %d times", n)
			}
			w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
			w.reopen()
			equal(t, "epoch", w.st.Epoch, epoch)
			equal(t, "parts", len(w.st.Parts), 2)
			equal(t, "meta", w.st.Meta, []KV{{"k", []byte("v")}})
			equal(t, "blocks", numbers(w.read("cloud", 0, 99)), []uint64{2, 3})
			w.drain("cloud")
			w.balance("cloud")
		})
	}
}

// The disk fails acknowledgements, declarations, dead letters and the mark of a
// rotation, each once.
func TestMendElsewhere(t *testing.T) {
	onDisk(t)
	for _, label := range []string{"sync", "declare", "dead", "rotate"} {
		for _, stored := range []bool{false, true} {
			w := newWorld(t).open()
			w.commit(&Commit{Blocks: []Block{w.block(1, 3000), w.block(1, 3000)}, Rotate: true})
			w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
			failed := 0
			fail := func(at string) error {
				if at == label && failed == 0 {
					failed++
					return syscall.EIO
				}
				return nil
			}
			if stored {
				w.s.hooks.after = fail
			} else if label == "rotate" {
				continue // the mark has no step of its own before it
			} else {
				w.s.hooks.step = fail
			}
			var err error
			switch label {
			case "sync":
				w.ack("cloud", 1)
				err = w.s.Sync()
			case "declare":
				w.s.commitMu.Lock()
				err = w.s.evict(w.s.segs[0])
				w.s.commitMu.Unlock()
			case "dead":
				err = w.s.Bury("cloud", 1, "x")
				equal(t, "dead letters", len(first(w.s.Dead())), 1)
				w.ack("cloud", 1)
			case "rotate":
				w.commit(&Commit{Rotate: true})
			}
			if err != nil {
				t.Errorf("%s: %v", label, err)
			}
			equal(t, label+": failures", failed, 1)
			equal(t, label+": mended", w.s.Stats().Mended, 1)
			w.reopen()
			w.drain("cloud")
			w.balance("cloud")
		}
	}
}

// A disk that has something else than what was written ends the run, and the
// next one recovers.
func TestMendGivesUp(t *testing.T) {
	onDisk(t)
	for name, meanwhile := range map[string]func(w *world) error{
		"an older commit": func(w *world) error {
			db, err := bolt.Open(w.path(1), 0o600, &bolt.Options{Timeout: time.Second})
			if err != nil {
				return err
			}
			err = db.Update(func(tx *bolt.Tx) error {
				c := w.s.counters
				c.commit--
				return put(tx.Bucket(bucketState), keyCounters, c.append(nil))
			})
			return errors.Join(err, db.Close())
		},
		"damage": func(w *world) error {
			data, err := os.ReadFile(w.path(1))
			if err != nil {
				return err
			}
			i := bytes.Index(data, payload(1, 1, 3000))
			data[i+100] ^= 1
			return os.WriteFile(w.path(1), data, 0o600)
		},
	} {
		w := newWorld(t).open()
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}})
		failures(w, 1, syscall.EIO)
		w.s.hooks.probe = func(*probeJob) {
			if err := meanwhile(w); err != nil {
				t.Error(err)
			}
		}
		err := as[*BrokenError](t, w.try(&Commit{Blocks: []Block{w.block(1, 3000)}}))
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: cause %v", name, err)
		}
		w.closeBroken()
		w.open()
		delete(w.committed, 2)
		w.drain("cloud")
		w.balance("cloud")
	}
}

// While the tail is mended its readers wait, and read on.
func TestMendWhileReading(t *testing.T) {
	onDisk(t)
	w := newWorld(t)
	w.o.Clock = wallClock{}
	w.open()
	for range 20 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}})
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				blocks, err := w.s.Read("cloud", 0, 20, 1<<20)
				if err != nil || len(blocks) < 20 {
					t.Errorf("%d blocks, %v", len(blocks), err)
					return
				}
			}
		})
	}
	failures(w, 1, syscall.EIO)
	w.commit(&Commit{Blocks: []Block{w.block(1, 2000)}})
	equal(t, "mended", w.s.Stats().Mended, 1)
	close(stop)
	readers.Wait()
}

// What is dropped from memory is read from the disk, and a file that somebody
// maps is not dropped.
func TestDropCache(t *testing.T) {
	onDisk(t)
	path := filepath.Join(t.TempDir(), "f")
	if err := writeDurably(path, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, err := resident(f)
	if err != nil || before == 0 {
		t.Fatalf("%d pages are in memory after writing: %v", before, err)
	}
	if err := dropCache(path); err != nil {
		t.Fatal(err)
	}
	if after, err := resident(f); err != nil || after != 0 {
		t.Errorf("%d pages are in memory: %v", after, err)
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, 1<<20, syscall.PROT_READ, syscall.MAP_SHARED|syscall.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(m)
	if err := dropCache(path); err == nil {
		t.Error("a mapped file is said to be dropped")
	}
}
