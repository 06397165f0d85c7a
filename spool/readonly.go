package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Reader looks into the spool of a daemon that does not run. It changes
// nothing.
type Reader struct{ s *Spool }

// OpenReadOnly opens dir for reading. It fails with *InUseError where a daemon
// holds it: ask the daemon then. While it is open no daemon can start there.
func OpenReadOnly(dir string) (*Reader, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	lock, err := takeLock(dir, true)
	if err != nil {
		return nil, err
	}
	o := Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Clock: wallClock{}}
	s := newSpool(o, lock, hooks{})
	s.readOnly = true
	_, err = s.recover(context.Background())
	if err == nil && len(s.segs) == 0 {
		err = fmt.Errorf("%s holds no spool: name the directory that spool.dir names in the configuration", dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	return &Reader{s: s}, nil
}

// wallClock stamps nothing that is kept; it orders the use of files.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

// List is Spool.List.
func (r *Reader) List(most int) ([]Info, error) { return r.s.List(most) }

// Peek is Spool.Peek.
func (r *Reader) Peek(number uint64) (Block, error) { return r.s.Peek(number) }

// Dead is Spool.Dead.
func (r *Reader) Dead() ([]DeadLetter, error) { return r.s.Dead() }

// PeekDead is Spool.PeekDead.
func (r *Reader) PeekDead(id uint64) (Block, error) { return r.s.PeekDead(id) }

// Stats is Spool.Stats; the bound is not known.
func (r *Reader) Stats() Stats { return r.s.Stats() }

// Losses is Spool.Losses.
func (r *Reader) Losses() []Loss { return r.s.Losses() }

// Close lets go of the files.
func (r *Reader) Close() error { return r.s.Close() }
