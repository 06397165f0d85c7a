package spool

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func maintain(t *testing.T, dir string) *Maintenance {
	t.Helper()
	m, err := Maintain(t.Context(), Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// settled leaves out of Stats what an opening counts anew, or what only the
// daemon knows.
func settled(s Stats) Stats {
	s.Commits, s.BytesWritten, s.MaxBytes, s.DiskBytes, s.Files, s.StoredDisk, s.RoomBytes = 0, 0, 0, 0, 0, 0, 0
	for name, k := range s.Sinks {
		k.Configured = false
		s.Sinks[name] = k
	}
	return s
}

// Opening for maintenance and closing again changes nothing that a daemon or a
// sink would see.
func TestMaintenanceDisturbsNothing(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	for i := range 40 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 9000), w.block(2, 300)}, Parts: []Part{{Stream: 3, Count: 7, First: int64(i + 1), Last: int64(i + 1), Data: []byte("open")}}})
	}
	w.s.Ack("a", 1, 2, 3, 9)
	w.s.Ack("b", 2)
	if err := w.s.Bury("b", 5, "not a block"); err != nil {
		t.Fatal(err)
	}
	before, epoch := settled(w.s.Stats()), w.st.Epoch
	w.close()
	m := maintain(t, w.o.Dir)
	if got := settled(m.Stats()); !reflect.DeepEqual(got, before) {
		t.Errorf("open for maintenance: %+v\nbefore: %+v", got, before)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got := settled(w.s.Stats()); !reflect.DeepEqual(got, before) || w.st.Epoch != epoch || w.st.Created || len(w.st.Losses) != 0 || len(w.st.Parts) != 40 {
		t.Errorf("after maintenance: %+v\nbefore: %+v; state %+v", got, before, w.st)
	}
	for name, k := range w.s.Stats().Sinks {
		if !k.Configured {
			t.Errorf("sink %s is not configured any more", name)
		}
	}
}

func TestMaintenanceOfDeadLettersAndSinks(t *testing.T) {
	w := newWorld(t, "a", "b").open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 900), w.block(2, 3000), w.block(1, 20)}})
	for n := uint64(1); n <= 2; n++ {
		if err := w.s.Bury("a", n, "not a block"); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	m := maintain(t, w.o.Dir)
	dead, err := m.Dead()
	if err != nil || len(dead) != 2 {
		t.Fatalf("%d dead letters, %v", len(dead), err)
	}
	if err := m.RetryDead(dead[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := m.DropDead(dead[1].ID); err != nil {
		t.Fatal(err)
	}
	as[*NotFoundError](t, m.DropDead(dead[1].ID))
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	again := first(w.s.Read("a", 3, 9, 1<<20))
	if len(again) != 1 || again[0].Number != 4 || again[0].Seq != 1 || !bytes.Equal(again[0].Data, payload(1, 1, 900)) {
		t.Errorf("put back: %v", numbers(again))
	}
	if l := w.s.Losses(); len(l) != 1 || l[0].Cause != CauseRejected || l[0].Stream != 2 || l[0].Sinks[0] != "a" {
		t.Errorf("declared: %+v", l)
	}
	equal(t, "b", len(w.read("b", 0, 9)), 3)
	// A sink that is gone from the configuration.
	w.close()
	w.o.Sinks = []string{"b"}
	w.open().close()
	m = maintain(t, w.o.Dir)
	if err := m.Forget("c"); err == nil || !strings.Contains(err.Error(), "knows no sink") {
		t.Errorf("forget an unknown sink: %v", err)
	}
	if err := m.Forget("a"); err != nil {
		t.Fatal(err)
	}
	if err := m.Forget("b"); err == nil || !strings.Contains(err.Error(), "only one") {
		t.Errorf("forget the last sink: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	if _, there := w.s.Stats().Sinks["a"]; there || len(w.s.Stats().Sinks) != 1 {
		t.Errorf("sinks %+v", w.s.Stats().Sinks)
	}
	equal(t, "b", len(w.read("b", 0, 9)), 3)
}

// What is no spool, or another's, or needs the daemon, is left as it is.
func TestMaintenanceRefuses(t *testing.T) {
	w := newWorld(t, "a").open()
	if _, err := Maintain(t.Context(), Options{Dir: w.o.Dir, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a spool in use was opened")
	} else {
		as[*InUseError](t, err)
	}
	w.commit(&Commit{Blocks: []Block{w.block(1, 900)}})
	w.close()
	empty := t.TempDir()
	for _, dir := range []string{empty, filepath.Join(empty, "none")} {
		if _, err := Maintain(t.Context(), Options{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s was opened", dir)
		}
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("left in a folder that is no spool: %v, %v", left, err)
	}
	files, err := filepath.Glob(filepath.Join(w.o.Dir, "*"+segmentSuffix))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	path := files[len(files)-1]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Maintain(t.Context(), Options{Dir: w.o.Dir, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "start millrace") {
		t.Errorf("a spool that needs recovery: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, make([]byte, 8192)) {
		t.Errorf("the damaged file was touched: %v", err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	equal(t, "a", len(w.read("a", 0, 9)), 1)
}

// Files made by root belong to the daemon's user again.
func TestMaintenanceKeepsTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make files of others")
	}
	w := newWorld(t, "a").open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 900)}})
	if err := w.s.Bury("a", 1, "not a block"); err != nil {
		t.Fatal(err)
	}
	w.close()
	if err := os.Chown(w.o.Dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if err := maintain(t, w.o.Dir).Close(); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(w.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if uid := ownerOf(t, filepath.Join(w.o.Dir, e.Name())); uid != 12345 {
			t.Errorf("%s belongs to %d", e.Name(), uid)
		}
	}
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}
