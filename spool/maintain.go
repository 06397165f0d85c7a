package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// Maintenance is the spool of a daemon that does not run, opened by its
// operator to deal with dead letters and with sinks that are gone.
type Maintenance struct{ s *Spool }

// Maintain opens the spool in o.Dir for writing, under its lock; of o it takes
// Log and Probe besides. The sinks that the spool knows stay as they are: none
// is registered, none is forgotten, and nothing is evicted, whatever bound the
// daemon has. It fails with *InUseError where a daemon holds the directory, and
// leaves alone what is no spool or needs the daemon's recovery first.
func Maintain(ctx context.Context, o Options) (*Maintenance, error) {
	largest, err := largestSegment(o.Dir)
	if err != nil {
		return nil, err
	}
	lock, err := takeLock(o.Dir, false)
	if err != nil {
		return nil, err
	}
	s := newSpool(Options{
		Dir: o.Dir, MaxBytes: math.MaxInt64 / 2, SegmentBytes: max(DefaultSegmentBytes, largest), Log: o.Log, Probe: o.Probe, Clock: wallClock{},
	}, lock, hooks{})
	s.maintained = true
	if _, err := s.recover(ctx); err != nil {
		if !s.touched {
			return nil, errors.Join(err, s.letGo(nil))
		}
		return nil, errors.Join(err, s.closeFiles())
	}
	s.startProber()
	return &Maintenance{s: s}, nil
}

// largestSegment looks, without touching anything, whether dir holds a spool.
func largestSegment(dir string) (size int64, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	found := false
	for _, e := range list {
		if _, ok := segmentID(e.Name()); !ok {
			continue
		}
		n, err := fileSize(filepath.Join(dir, e.Name()))
		if err != nil {
			return 0, fmt.Errorf("spool %s: %w", dir, err)
		}
		size, found = max(size, n), true
	}
	if !found {
		return 0, fmt.Errorf("%s holds no spool: name the directory that spool.dir names in the configuration", dir)
	}
	return size, nil
}

// maintainable refuses what only the daemon may mend.
func (s *Spool) maintainable(op *opening) error {
	switch {
	case op.fresh:
		return fmt.Errorf("spool %s: its newest segment does not read: start millrace, which recovers what it can, and try again then", s.o.Dir)
	case len(op.tail.acks) == 0:
		return fmt.Errorf("spool %s knows no sink: start millrace with its configuration first", s.o.Dir)
	}
	return nil
}

// Stats is Spool.Stats; the bound is not known.
func (m *Maintenance) Stats() Stats { return m.s.Stats() }

// Dead is Spool.Dead.
func (m *Maintenance) Dead() ([]DeadLetter, error) { return m.s.Dead() }

// PeekDead is Spool.PeekDead.
func (m *Maintenance) PeekDead(id uint64) (Block, error) { return m.s.PeekDead(id) }

// RetryDead is Spool.RetryDead.
func (m *Maintenance) RetryDead(id uint64) error { return m.s.RetryDead(id) }

// DropDead is Spool.DropDead.
func (m *Maintenance) DropDead(id uint64) error { return m.s.DropDead(id) }

// Forget is Spool.Forget. Which sinks are configured is not known here: the
// caller asks the configuration. The last one cannot be forgotten, since all
// that waits would leave with it.
func (m *Maintenance) Forget(sinkName string) error {
	m.s.mu.Lock()
	_, known := m.s.sinks[sinkName]
	last := len(m.s.sinks) == 1
	m.s.mu.Unlock()
	if known && last {
		return fmt.Errorf("sink %q is the only one that the spool knows, and everything that waits would be deleted with it: start millrace with the new sink first, then forget the old one", sinkName)
	}
	return m.s.Forget(sinkName)
}

// Close makes everything durable and lets go of the files. Those that were made
// by root belong to the directory's owner again, who runs the daemon.
func (m *Maintenance) Close() error {
	return errors.Join(m.s.Close(), giveBack(m.s.o.Dir))
}

func giveBack(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		path := filepath.Join(dir, e.Name())
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && (st.Uid != owner.Uid || st.Gid != owner.Gid) {
			errs = append(errs, os.Lchown(path, int(owner.Uid), int(owner.Gid)))
		}
	}
	return errors.Join(errs...)
}
