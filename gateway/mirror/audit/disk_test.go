package audit

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// faulty fails chosen calls.
type faulty struct {
	FS
	mu   sync.Mutex
	fail func(call string) error
}

func (f *faulty) ask(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return nil
	}
	return f.fail(call)
}

func (f *faulty) set(fail func(string) error) { f.mu.Lock(); f.fail = fail; f.mu.Unlock() }

type faultyFile struct {
	File
	fs *faulty
}

func (f *faulty) wrap(file File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f}, nil
}

func (f *faulty) Create(path string) (File, error) {
	if err := f.ask("create"); err != nil {
		return nil, err
	}
	return f.wrap(f.FS.Create(path))
}

func (f *faulty) Append(path string) (File, error) { return f.wrap(f.FS.Append(path)) }

func (f *faulty) Rename(from, to string) error {
	if err := f.ask("rename"); err != nil {
		return err
	}
	if err := f.FS.Rename(from, to); err != nil {
		return err
	}
	return f.ask("renamed")
}

func (f *faulty) SyncDir(dir string) error {
	if err := f.ask("syncdir"); err != nil {
		return err
	}
	return f.FS.SyncDir(dir)
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.fs.ask("write"); err != nil {
		n, _ := f.File.Write(b[:len(b)/2]) // part of it is there
		return n, err
	}
	return f.File.Write(b)
}

func (f *faultyFile) Sync() error {
	if err := f.fs.ask("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

func always(call string, err error) func(string) error {
	return func(c string) error {
		if c == call {
			return err
		}
		return nil
	}
}

func TestAFullDiskTakesNothingAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	disk := &faulty{FS: disk{}}
	o := options(dir)
	o.FS, o.MaxFileBytes = disk, 2000
	l := mustOpen(t, o)
	l.Checkpoint(func() (json.RawMessage, error) { return json.RawMessage("1"), nil })
	add(t, l, 2)
	n, hash := l.Head()
	for _, call := range []string{"write", "create"} {
		disk.set(always(call, syscall.ENOSPC))
		for range 12 { // beyond the file's size
			if err := l.Append(outcome(7), outcome(8)); call == "write" && !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%s: %v", call, err)
			} else if call == "create" && err != nil {
				t.Fatalf("%s: %v", call, err)
			}
		}
		if n2, h2 := l.Head(); call == "write" && (n2 != n || h2 != hash) {
			t.Errorf("the head moved from %d to %d", n, n2)
		}
		whole(t, dir)
		disk.set(nil)
	}
	add(t, l, 20)
	if numbers, err := list(dir); err != nil || len(numbers) < 2 {
		t.Errorf("files %v, %v", numbers, err)
	}
	whole(t, dir)
}

func TestAnErrorOfTheDiskEndsIt(t *testing.T) {
	for _, call := range []string{"write", "sync", "syncdir"} {
		dir := t.TempDir()
		disk := &faulty{FS: disk{}}
		o := options(dir)
		o.FS, o.MaxFileBytes = disk, 2000
		l := mustOpen(t, o)
		l.Checkpoint(func() (json.RawMessage, error) { return json.RawMessage("1"), nil })
		for l.size < l.rotateAt { // the next begins another file
			add(t, l, 1)
		}
		disk.set(always(call, syscall.EIO))
		if err := l.Append(outcome(3)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", call, err)
		}
		disk.set(nil)
		if err := l.Append(outcome(4)); err == nil || !strings.Contains(err.Error(), "restart") {
			t.Errorf("%s: afterwards: %v", call, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, o)
		add(t, l, 1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		whole(t, dir)
	}
}

// TestAFileThatCannotBeBegunForCertain: after an error of the disk in the
// middle of a rotation the file before must not grow on, since the new one,
// which follows on its end, may be there.
func TestAFileThatCannotBeBegunForCertain(t *testing.T) {
	for what, f := range map[string]func(string) error{
		"write": always("write", syscall.EIO), "sync": always("sync", syscall.ENOSPC),
		"rename": always("rename", syscall.EIO), "rename that took effect": always("renamed", syscall.EIO),
	} {
		dir := t.TempDir()
		disk := &faulty{FS: disk{}}
		o := options(dir)
		o.FS, o.MaxFileBytes = disk, 2000
		l := mustOpen(t, o)
		l.Checkpoint(func() (json.RawMessage, error) { return json.RawMessage("1"), nil })
		for l.size < l.rotateAt {
			add(t, l, 1)
		}
		n, hash := l.Head()
		once := true
		disk.set(func(call string) error { // the first such call, which is the new file's
			if err := f(call); err != nil && once {
				once = false
				return err
			}
			return nil
		})
		if err := l.Append(outcome(3)); err == nil {
			t.Errorf("%s: it is appended", what)
		}
		if err := l.Append(outcome(4)); err == nil || !strings.Contains(err.Error(), "restart") {
			t.Errorf("%s: afterwards: %v", what, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		disk.set(nil)
		l = mustOpen(t, o)
		if err := l.Append(outcome(5)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		whole(t, dir, Head{n, hash})
	}
}
