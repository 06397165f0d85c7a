package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"
)

// InUseError says that another process holds the spool.
type InUseError struct {
	Dir string
	PID int // 0 where not known
}

func (e *InUseError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("spool %s is in use by %s: stop it first, or give this gateway a spool directory of its own", e.Dir, who)
}

// FullError says that a commit did not fit. Nothing of it was stored, and the
// spool goes on: the same commit may be tried again later.
type FullError struct {
	Dir  string
	Need int64 // bytes, estimated
	Err  error
}

func (e *FullError) Error() string {
	return fmt.Sprintf("spool %s: no room for %d bytes more: %v; free space on the disk or raise spool.max_size", e.Dir, e.Need, e.Err)
}

func (e *FullError) Unwrap() error { return e.Err }

// BrokenError says that the disk failed the spool. What was acknowledged
// before is safe as far as the disk is; nothing more is stored.
type BrokenError struct {
	Dir string
	Op  string
	Err error
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("spool %s: %s: %v; nothing more is stored or acknowledged: check the disk (journalctl -k), then restart millrace", e.Dir, e.Op, e.Err)
}

func (e *BrokenError) Unwrap() error { return e.Err }

// NewerError says that a later version of millrace wrote the spool. Nothing of
// it was changed.
type NewerError struct {
	Dir    string
	File   string
	Format string
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("spool %s: %s has format %s, and this millrace reads up to format %d: start the version that wrote it, let it deliver, and change versions then",
		e.Dir, e.File, e.Format, format)
}

// NotFoundError says that the spool does not hold what was asked for.
type NotFoundError struct {
	What   string // "block" or "dead letter"
	Number uint64
}

func (e *NotFoundError) Error() string {
	list := "millrace spool ls"
	if e.What != "block" {
		list = "millrace spool dead list"
	}
	return fmt.Sprintf("the spool holds no %s %d: `%s` shows what it holds", e.What, e.Number, list)
}

// corruptError says that a file does not read.
type corruptError struct {
	path string
	why  string
	// successor is set where the file reads, and the one after it is missing.
	successor bool
	// full is set where the disk has no space for what could be rescued.
	full bool
}

func (e *corruptError) Error() string { return fmt.Sprintf("%s is corrupt: %s", e.path, e.why) }

var (
	errClosed = errors.New("the spool is closed")
	// errGone says that a segment was removed while it was being looked for.
	errGone  = errors.New("the segment is gone")
	errBound = errors.New("the size bound is reached")
)

// outOfSpace reports whether err is a write that found no space, as opposed to
// a failed sync, after which the page cache cannot be trusted: bbolt returns
// that one bare.
func outOfSpace(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && path.Op != "sync" &&
		(errors.Is(path.Err, syscall.ENOSPC) || errors.Is(path.Err, syscall.EDQUOT))
}

func tooLargeForFile(err error) bool { return errors.Is(err, berrors.ErrMaxSizeReached) }
