package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"millrace/internal/failpoint"
)

const lockName = "lock"

// dirLock is a directory's lock while it is held. A nil one holds nothing.
type dirLock struct {
	f      *os.File
	shared bool
	made   bool   // there was no file
	before []byte // what the file held, to the end of an opening that fails
	signed bool   // it holds this process's number
}

// takeLock locks the directory for this process, or shared for reading only.
// It fails at once with *InUseError where another holds it. The kernel lets go
// of the lock when the process ends, however it ends. Where a directory that
// is only read has no lock file, the result is nil.
func takeLock(dir string, shared bool) (*dirLock, error) {
	for {
		l, err := tryLock(dir, shared)
		if err != nil || l != nil || shared {
			return l, err
		}
	}
}

// tryLock returns nil where the file was removed before it was locked.
func tryLock(dir string, shared bool) (*dirLock, error) {
	path := filepath.Join(dir, lockName)
	flag, how := os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	if shared {
		flag, how = os.O_RDONLY, syscall.LOCK_SH
	}
	l := &dirLock{shared: shared, made: !exists(path)}
	f, err := os.OpenFile(path, flag, 0o600)
	if shared && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unusable(dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = &InUseError{Dir: dir, PID: holder(f)}
		} else {
			err = fmt.Errorf("spool %s: lock: %w", dir, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	// An opening that fails removes the file that it made.
	mine, err := f.Stat()
	if there, serr := os.Stat(path); err != nil || serr != nil || !os.SameFile(mine, there) {
		return nil, errors.Join(err, f.Close())
	}
	l.f = f
	return l, nil
}

// sign writes this process's number, which others show. A disk that is full
// leaves it out.
func (l *dirLock) sign() error {
	before, err := io.ReadAll(io.NewSectionReader(l.f, 0, 1<<10))
	if err != nil {
		return err
	}
	l.before = before
	err = l.write([]byte(strconv.Itoa(os.Getpid()) + "\n"))
	l.signed = err == nil
	if outOfSpace(err) {
		return nil
	}
	return err
}

// write replaces the file's bytes in place, which needs no space where there
// were some.
func (l *dirLock) write(b []byte) error {
	if _, err := l.f.WriteAt(b, 0); err != nil {
		return err
	}
	return l.f.Truncate(int64(len(b)))
}

// release erases the holder's number, then lets go.
func (l *dirLock) release() error {
	if l == nil {
		return nil
	}
	var err error
	if l.signed {
		err = l.f.Truncate(0)
	}
	return errors.Join(err, l.f.Close())
}

// undo lets go and leaves the file as it was found.
func (l *dirLock) undo() error {
	var err error
	switch {
	case l.made:
		err = os.Remove(l.f.Name())
	case l.signed:
		err = l.write(l.before)
	}
	return errors.Join(err, l.f.Close())
}

func holder(f *os.File) int {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// syncDir makes the creation, renaming and removal of dir's files durable.
func syncDir(dir string) error {
	if failpoint.On(failpoint.NoSync) {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
