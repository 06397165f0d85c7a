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
)

const lockName = "lock"

// takeLock locks the directory for this process, or shared for reading only.
// It fails at once with *InUseError where another holds it. The kernel lets go
// of the lock when the process ends, however it ends. Where a directory that
// is only read has no lock file, the result is nil.
func takeLock(dir string, shared bool) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	flag, how := os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	if shared {
		flag, how = os.O_RDONLY, syscall.LOCK_SH
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if shared && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = &InUseError{Dir: dir, PID: holder(f)}
		} else {
			err = fmt.Errorf("spool %s: lock: %w", dir, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	if shared {
		return f, nil
	}
	if err := writePID(f); err != nil {
		return nil, errors.Join(fmt.Errorf("spool %s: %w", dir, err), f.Close())
	}
	return f, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// releaseLock erases the holder's number, then lets go.
func releaseLock(f *os.File, shared bool) error {
	if f == nil {
		return nil
	}
	var err error
	if !shared {
		err = f.Truncate(0)
	}
	return errors.Join(err, f.Close())
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
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
