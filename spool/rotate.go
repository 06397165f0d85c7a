package spool

import (
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// createSegment makes a file that is complete and durable before it has its
// name, so that a crash leaves either all of it or a temporary file.
func (s *Spool) createSegment(g *segment, fill func(*bolt.Tx) error) (err error) {
	temp := g.path + tempSuffix
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	db, err := openTail(temp, &s.o)
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close(), os.RemoveAll(temp))
		}
	}()
	if err := s.hooks.at("segment opened"); err != nil {
		return err
	}
	// What is open may be more than a segment holds: segments were larger before,
	// or a commit was.
	db.MaxSize = maxFile
	err = guard(temp, func() error {
		return db.Update(func(tx *bolt.Tx) error {
			if err := createBuckets(tx); err != nil {
				return err
			}
			return fill(tx)
		})
	})
	if err != nil {
		return err
	}
	size, err := fileSize(temp)
	if err != nil {
		return err
	}
	db.MaxSize = int(min(max(s.o.tailLimit(), size+s.o.SegmentBytes), maxFile))
	if err := s.hooks.at("segment filled"); err != nil {
		return err
	}
	err = os.Rename(temp, g.path)
	if err == nil {
		err = s.hooks.failed("segment renamed")
	}
	if err != nil && exists(g.path) {
		// It has its name all the same. A commit to the old tail would not be in it,
		// and a restart takes it for the tail.
		return s.breakDown("rotate", err)
	}
	if err != nil {
		return err
	}
	if err := s.hooks.at("segment renamed"); err != nil {
		return s.breakDown("rotate", err)
	}
	if err := syncDir(s.o.Dir); err != nil {
		// Which of the two segments a restart finds is open now.
		return s.breakDown("rotate", err)
	}
	g.db = db
	g.probed.Store(true)
	g.size = size
	return nil
}

// rotateTail starts a new tail, and makes room for it first where it can.
func (s *Spool) rotateTail() error {
	open := int64(0) // goes along
	for _, r := range s.records {
		open += pages(r.bytes)
	}
	s.rotating = true
	err := s.makeRoom(open, withReserve)
	s.rotating = false
	var full *FullError
	// Where there is nothing else to give up, rotation is what makes the old
	// tail something that can be given up.
	if err != nil && !errors.As(err, &full) {
		return err
	}
	return s.newTail()
}

// newTail makes a segment with a copy of the tail's state, which is the tail
// from then on. What the open tier holds still goes with it.
func (s *Spool) newTail() error {
	old := s.tail()
	s.mu.Lock()
	g := s.newSegment(old.id + 1)
	g.first, g.next = s.counters.next, s.counters.next
	s.mu.Unlock()
	// The index is there before the segment stops being the tail. The new
	// segment's sync of the directory makes its name durable too.
	indexSize, err := s.writeIndex(old)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	err = s.createSegment(g, func(to *bolt.Tx) error {
		return guard(old.path, func() error {
			return old.db.View(func(from *bolt.Tx) error { return copyState(from, to, s.records) })
		})
	})
	if err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	if err := s.hooks.at("segment durable"); err != nil {
		return s.breakDown("rotate", err)
	}
	// From here on the new segment is the tail. The mark keeps the old one from
	// passing for it should the new file ever be lost.
	err = guard(old.path, func() error {
		err := old.db.Update(func(tx *bolt.Tx) error {
			return put(tx.Bucket(bucketState), keyRetired, key64(g.id))
		})
		if err != nil {
			return err
		}
		return s.hooks.failed("rotate")
	})
	failed := diskFailed(err)
	if failed && !s.mayMend() || err != nil && !failed && !outOfSpace(err) && !tooLargeForFile(err) {
		return s.breakDown("rotate", err)
	}
	size, sizeErr := fileSize(old.path)
	if err := errors.Join(old.close(false), sizeErr); err != nil {
		return s.breakDown("rotate", err)
	}
	if failed { // only the mark is lost, but what is read of it must be the disk's
		if again := s.readAnew(old.path, roleSegment, old.id); again != nil {
			return s.breakDown("rotate", &mendError{err, again})
		}
		s.mendedOnce(old.path, "rotate", err)
	}
	s.garbage = nil // it was not copied
	s.mu.Lock()
	old.size, old.indexSize = size, indexSize
	old.entries.clip()
	s.segs = append(s.segs, g)
	s.mu.Unlock()
	s.measure()
	return s.hooks.at("rotate done")
}
