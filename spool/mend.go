package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// mendAgain is how long after a failure of the disk the next one ends the
// process: going on is for what passes.
const mendAgain = time.Minute

// diskFailed reports whether err is a write or a sync that the system refused,
// other than for want of space. What the page cache holds of the file may not
// be on the disk then.
func diskFailed(err error) bool {
	var errno syscall.Errno
	var corrupt *corruptError
	return errors.As(err, &errno) && !errors.As(err, &corrupt) && !outOfSpace(err)
}

// mendError is a failure of the disk that was not overcome. What stood in the
// way says nothing of the failure's kind, and is not unwrapped.
type mendError struct {
	cause error
	why   error
}

func (e *mendError) Error() string {
	return fmt.Sprintf("%v (going on was tried, but %v)", e.cause, e.why)
}

func (e *mendError) Unwrap() error { return e.cause }

// mayMend reports whether the disk has not failed lately, and notes that it
// has.
func (s *Spool) mayMend() bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := now.Sub(s.mended); !s.mended.IsZero() && since < mendAgain {
		return false
	}
	s.mended = now
	return true
}

// mend deals with a change that the disk failed. It closes the tail, makes sure
// that what is read of it from now on comes from the disk, has it looked at,
// opens it again, and sees by the commit's number whether the change is in it.
// Where it is not, it is made once more. It returns nil where the change is
// durable and the tail is open; else the spool is to be given up. Until then
// nobody has been told anything, and readers of the tail wait.
func (s *Spool) mend(op string, c *change, cause error) error {
	if !s.mayMend() {
		return cause
	}
	g := s.tail()
	before := s.counters
	stored, err := s.reopenTail(g, c, &before)
	if err != nil {
		return s.breakDown(op, &mendError{cause, err})
	}
	if !stored {
		if errors.Is(cause, syscall.ENOSPC) || errors.Is(cause, syscall.EDQUOT) {
			// As a write, it is answered by making room.
			s.mendedOnce(g.path, op, cause)
			return &fs.PathError{Op: "write", Path: g.path, Err: syscall.ENOSPC}
		}
		if err := s.update(op, g, c); err != nil {
			return err
		}
	}
	s.mendedOnce(g.path, op, cause)
	return nil
}

// mendedOnce counts and tells a failure that was overcome.
func (s *Spool) mendedOnce(path, op string, cause error) {
	s.mu.Lock()
	s.stats.mended++
	s.mu.Unlock()
	s.log.Error("the disk failed a write; the file was closed, read again from the disk and opened again, and nothing was lost: look at the disk (journalctl -k)",
		"file", path, "while", op, "error", cause)
}

// reopenTail reports whether change c is in the tail, given the counters before
// it.
func (s *Spool) reopenTail(g *segment, c *change, before *counters) (stored bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	db, most := g.db, g.db.MaxSize
	g.db = nil
	if err := guard(g.path, db.Close); err != nil {
		return false, err
	}
	if err := s.readAnew(g.path, roleTail, g.id); err != nil {
		return false, err
	}
	if db, err = openTail(g.path, &s.o); err != nil {
		return false, err
	}
	db.MaxSize = most
	g.db = db
	// A change that is there may be in the disk's own memory yet.
	if err := db.file.Sync(); err != nil {
		return false, err
	}
	var now counters
	err = guard(g.path, func() error {
		return db.View(func(tx *bolt.Tx) error {
			v, ok := unsealed(keyCounters, tx.Bucket(bucketState).Get(keyCounters))
			if ok {
				now, ok = readCounters(v)
			}
			if !ok {
				return &corruptError{path: g.path, why: "its counters do not read"}
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return false, err
	case now == c.counters:
		return true, nil
	case now == *before:
		return false, nil
	}
	return false, fmt.Errorf("the disk has commit %d of epoch %s, where %d or %d of epoch %s was expected",
		now.commit, formatEpoch(now.epoch), before.commit, c.counters.commit, formatEpoch(before.epoch))
}

// readAnew makes sure that a closed file is read from the disk from now on, and
// that it is whole there.
func (s *Spool) readAnew(path string, as role, id uint64) error {
	if err := dropCache(path); err != nil {
		return err
	}
	r, err := s.runProbe(context.Background(), &probeJob{Path: path, Role: as, ID: id})
	if err == nil && r.Verdict != verdictGood {
		err = &corruptError{path: path, why: r.Why}
	}
	return err
}
