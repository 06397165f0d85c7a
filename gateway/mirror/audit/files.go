package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	filePrefix = "audit-"
	fileSuffix = ".jsonl"
	// newSuffix is that of a file that is not complete yet.
	newSuffix = ".new"
	lockName  = "lock"
)

// FS is the file system on which the log writes. Tests stand in for it, to
// fail a call or to lose what was not made durable.
type FS interface {
	// Create makes a new file; one that is there is an error.
	Create(path string) (File, error)
	// Append opens a file that is there for writing at its end.
	Append(path string) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names within a folder durable.
	SyncDir(path string) error
}

// File is a file that the log writes.
type File interface {
	io.WriteCloser
	// Sync makes durable what was written.
	Sync() error
	Truncate(size int64) error
}

// disk is the real file system.
type disk struct{}

// diskFile syncs data and size, which is all that a reader needs.
type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return unix.Fdatasync(int(f.Fd())) }

func (disk) Create(path string) (File, error) {
	return open(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND)
}

func (disk) Append(path string) (File, error) { return open(path, os.O_WRONLY|os.O_APPEND) }

func open(path string, flags int) (File, error) {
	f, err := os.OpenFile(path, flags, 0o640)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(path string) error     { return os.Remove(path) }

func (disk) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fileName is the name of the file with a number.
func fileName(number int) string { return fmt.Sprintf("%s%06d%s", filePrefix, number, fileSuffix) }

// list returns the numbers of the log's files, rising. That some are missing
// in between is an error.
func list(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), filePrefix)
		digits, end := strings.CutSuffix(digits, fileSuffix)
		if n, err := strconv.Atoi(digits); ok && end && err == nil && fileName(n) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for i := 1; i < len(numbers); i++ {
		if numbers[i] != numbers[i-1]+1 {
			return numbers, &missingError{fileName(numbers[i-1] + 1)}
		}
	}
	return numbers, nil
}

// missingError says that a file is not there, with others before and behind it.
type missingError struct{ name string }

func (e *missingError) Error() string {
	return fmt.Sprintf("the file %s is missing between others", e.name)
}

// lock makes this process the only one that appends.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%s is in use by another millrace; give each its own mirror.dir", dir)
		} else {
			err = fmt.Errorf("cannot lock %s, put mirror.dir on a local disk whose file system has locks: %w", dir, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lines reads a file line by line, within bounded memory.
type lines struct {
	r      *bufio.Reader
	buf    []byte
	offset int64 // where the line that next returned starts
	end    int64 // behind it
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line without its newline, valid until the next call,
// and whether it had one. At the end it returns io.EOF. Of a line that is too
// long only the beginning is returned.
func (l *lines) next() (line []byte, whole bool, err error) {
	l.offset, l.buf = l.end, l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.end += int64(len(part))
		if len(l.buf) <= maxLine {
			l.buf = append(l.buf, part...)
		}
		switch {
		case err == nil:
			return l.buf[:len(l.buf)-1], len(l.buf) <= maxLine+1, nil
		case errors.Is(err, io.EOF) && len(l.buf) > 0:
			return l.buf, false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, false, err
		}
	}
}
