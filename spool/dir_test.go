//go:build linux

package spool

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// tree lists all under a folder, with sizes and contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", path, info.Mode())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %08x", len(data), checksum(data))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// refused opens a spool that cannot be, and checks that the error is one line
// with the given words and that nothing has changed under the folder.
func refused(t *testing.T, w *world, folder string, words ...string) error {
	t.Helper()
	before := tree(t, folder)
	s, _, err := open(context.Background(), w.o, w.h)
	if err == nil {
		_ = s.Close()
		t.Fatal("it opens")
	}
	for _, word := range append(words, w.o.Dir) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q has more than one line", err)
	}
	if after := tree(t, folder); after != before {
		t.Errorf("changed from\n%sto\n%s", before, after)
	}
	return err
}

// used is a spool with two segments, whose process was killed.
func used(t *testing.T) *world {
	w := newWorld(t).open()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: true})
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Parts: []Part{part(2, 3)}})
	w.close()
	if err := os.WriteFile(filepath.Join(w.o.Dir, lockName), []byte("4194000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path(9)+tempSuffix, []byte("left"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestDirIsAFile(t *testing.T) {
	w := used(t)
	dir := w.o.Dir
	for _, path := range []string{filepath.Join(dir, "reserve"), filepath.Join(dir, "reserve", "spool")} {
		w.o.Dir = path
		as[*DirError](t, refused(t, w, dir, "is a file, not a directory", "spool.dir"))
	}
	w.o.Dir = dir
}

func TestDirOfALaterVersion(t *testing.T) {
	w := used(t)
	db, err := bolt.Open(w.path(2), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	set := func(n uint32) {
		err := db.Update(func(tx *bolt.Tx) error {
			return put(tx.Bucket(bucketState), keyFormat, binary.BigEndian.AppendUint32(nil, n))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set(format + 1)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	as[*NewerError](t, refused(t, w, w.o.Dir, "0000000002.seg has format 2", "start the version that wrote it"))
	if db, err = bolt.Open(w.path(2), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	set(format)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	equal(t, "blocks", w.drain("cloud"), 2)
}

func TestDirInUse(t *testing.T) {
	w := used(t).open()
	e := as[*InUseError](t, refused(t, w, w.o.Dir, "is in use by process", "stop it first"))
	equal(t, "process", e.PID, os.Getpid())
}

func TestDirOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	w := used(t)
	if err := os.Chown(w.path(1), 12345, 12345); err != nil {
		t.Fatal(err)
	}
	as[*DirError](t, refused(t, w, w.o.Dir, "its file 0000000001.seg belongs to user 12345", "chown -R root"))
	if err := os.Chown(w.o.Dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	as[*DirError](t, refused(t, w, w.o.Dir, "it belongs to user 12345, and millrace runs as user root", "run millrace as 12345"))
	for _, path := range []string{w.o.Dir, w.path(1)} {
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDirNotWritable(t *testing.T) {
	w := used(t)
	if os.Geteuid() != 0 {
		if err := os.Chmod(w.o.Dir, 0o500); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(w.o.Dir, 0o700)
		as[*DirError](t, refused(t, w, w.o.Dir, "may not write to it", "chown -R"))
		return
	}
	// Root may write everywhere but where nobody may.
	if err := syscall.Mount(w.o.Dir, w.o.Dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	defer syscall.Unmount(w.o.Dir, syscall.MNT_DETACH)
	if err := syscall.Mount("", w.o.Dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	as[*DirError](t, refused(t, w, w.o.Dir, "it is on a read-only file system", "journalctl -k"))
	dir := w.o.Dir
	w.o.Dir = filepath.Join(dir, "a", "b")
	as[*DirError](t, refused(t, w, dir, dir+" is on a read-only file system"))
	w.o.Dir = dir
}

// fill takes all the space that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A new spool on a full disk leaves nothing behind; one that is there opens.
func TestDirOnAFullDisk(t *testing.T) {
	for _, label := range []string{"segment opened", "segment filled"} {
		w := newWorld(t)
		folder := t.TempDir()
		w.o.Dir = filepath.Join(folder, "a", "spool")
		w.h.step = func(at string) error {
			if at == label {
				return &fs.PathError{Op: "write", Path: w.o.Dir, Err: syscall.ENOSPC}
			}
			return nil
		}
		as[*DirError](t, refused(t, w, folder, "the disk is full", "df -h"))
		w.o.Dir = filepath.Join(folder, "spool")
		if err := os.Mkdir(w.o.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		as[*DirError](t, refused(t, w, folder, "the disk is full"))
		w.h.step = nil
		w.open() // so that the test's end has something to check
	}
	if os.Geteuid() != 0 {
		return
	}
	w := used(t)
	mounted := t.TempDir()
	if err := syscall.Mount("tmpfs", mounted, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	defer syscall.Unmount(mounted, syscall.MNT_DETACH)
	from := w.o.Dir
	w.o.Dir = filepath.Join(mounted, "spool")
	copyDir(t, from, w.o.Dir)
	fill(t, filepath.Join(mounted, "fill"))
	w.open()
	equal(t, "blocks", w.drain("cloud"), 2)
	w.close() // which gives space back
	fill(t, filepath.Join(mounted, "fill again"))
	w.o.Dir = filepath.Join(mounted, "another")
	as[*DirError](t, refused(t, w, mounted, "the disk is full"))
	w.o.Dir = from
}
