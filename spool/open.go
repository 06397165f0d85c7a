package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Spool is an open spool. Its methods may be called from any goroutine.
type Spool struct {
	o        Options
	log      *slog.Logger
	lock     *os.File
	readOnly bool
	hooks    hooks

	// commitMu is held by whoever writes: to the tail, to the list of segments
	// and to files. It comes before mu, and is held while the disk is.
	commitMu sync.Mutex
	streams  map[uint32]streamState
	records  []openRecord // by rising commit
	garbage  []uint64     // open records to delete
	buf      []byte       // the last open record, encoded
	rotating bool         // room is made for a new tail

	mu       sync.Mutex // guards what follows, and is never held while the disk is
	segs     []*segment // by rising id and number; the last is the tail
	aside    []asideFile
	sinks    map[string]*sink
	counters counters
	losses   []storedLoss
	ready    chan struct{}
	broken   *BrokenError
	closed   bool
	rotate   bool  // the tail has used its share
	reserve  int64 // size of the reserve's file, or 0
	// reserveTried is when the reserve was last made or given up.
	reserveTried time.Time
	usage        usage
	open         openTotals
	stats        totals
	dead         deadTotals
}

// asideFile is a file that did not read and was renamed.
type asideFile struct {
	path string
	size int64
}

// hooks lets tests look at the files, or fail, between the steps of a change.
type hooks struct {
	step func(label string) error
}

func (h hooks) at(label string) error {
	if h.step == nil {
		return nil
	}
	return h.step(label)
}

// Open opens a spool, creates it where the directory is empty, and finishes
// what a crash interrupted. It fails with *InUseError where another process
// holds the directory. Files that do not read are renamed and declared as
// losses; they never keep it from opening.
func Open(ctx context.Context, o Options) (*Spool, *State, error) {
	return open(ctx, o, hooks{})
}

func open(ctx context.Context, o Options, h hooks) (*Spool, *State, error) {
	if err := o.complete(); err != nil {
		return nil, nil, err
	}
	if err := makeDir(o.Dir); err != nil {
		return nil, nil, fmt.Errorf("spool %s: %w", o.Dir, err)
	}
	lock, err := takeLock(o.Dir, false)
	if err != nil {
		return nil, nil, err
	}
	s := newSpool(o, lock, h)
	st, err := s.recover(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, s.closeFiles())
	}
	return s, st, nil
}

func newSpool(o Options, lock *os.File, h hooks) *Spool {
	return &Spool{
		o: o, log: o.Log, lock: lock, hooks: h,
		streams: map[uint32]streamState{}, sinks: map[string]*sink{}, ready: make(chan struct{}),
	}
}

// makeDir creates dir durably.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// opening is what recovery collects on its way.
type opening struct {
	tail   *tailState
	meta   []KV
	parts  []Part
	fresh  bool // the epoch is new
	broken *corruptError
	change bool // there is something to store
	lost   []Loss

	deadBroken *corruptError // the dead letters do not read
	loseDead   bool          // and that is not declared yet
	deadStale  bool          // a meta page of theirs does not read
}

// lose notes a loss that the opening declares.
func (op *opening) lose(l Loss) {
	op.lost = append(op.lost, l)
	op.change = true
}

// recover brings the directory to a state that a clean stop could have left.
// README.md lists its steps.
func (s *Spool) recover(ctx context.Context) (*State, error) {
	ids, err := s.listFiles()
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	op := &opening{}
	if err := s.loadTail(ids, op); err != nil {
		return nil, err
	}
	for i, g := range s.segs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if last := i == len(s.segs)-1; !last {
			err = s.scanSegment(g, true)
		} else if op.fresh {
			err = s.scanSegment(g, false)
		}
		if err != nil {
			return nil, err
		}
	}
	s.segs = slices.DeleteFunc(s.segs, func(g *segment) bool { return g.gone })
	if op.fresh {
		if err := s.startEpoch(ids, op); err != nil {
			return nil, err
		}
	}
	t := op.tail
	s.counters, s.streams, s.losses = t.counters, t.streams, t.losses
	s.records, s.garbage = t.records, t.garbage
	if err := s.settleFiles(op); err != nil {
		return nil, err
	}
	s.count()
	s.logRemovedSinks()
	if err := s.openDead(op); err != nil {
		return nil, err
	}
	if !s.readOnly {
		if err := s.finishOpening(op); err != nil {
			return nil, err
		}
	}
	st := &State{
		Epoch: s.counters.epoch, Created: op.fresh, Meta: op.meta, Parts: op.parts,
		LastSeq: map[uint32]uint64{}, Losses: s.Losses(),
	}
	for id, v := range s.streams {
		st.LastSeq[id] = v.seq
	}
	return st, nil
}

// logRemovedSinks tells of data that waits for a sink nobody configures.
func (s *Spool) logRemovedSinks() {
	for name, k := range s.sinks {
		if !k.configured {
			s.log.Warn("a sink is no longer configured; its data stays until it is configured again or forgotten (millrace spool forget)",
				"sink", name, "pending_blocks", k.pendingBlocks, "pending_bytes", k.pendingBytes)
		}
	}
}

// listFiles removes what an interrupted rotation left and lists segments.
func (s *Spool) listFiles() (ids []uint64, err error) {
	list, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		path := filepath.Join(s.o.Dir, e.Name())
		id, isSegment := segmentID(e.Name())
		switch {
		case isSegment:
			ids = append(ids, id)
		case strings.HasSuffix(e.Name(), tempSuffix):
			if s.readOnly {
				continue
			}
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		case e.Name() == reserveName:
			if s.reserve, err = fileSize(path); err != nil {
				return nil, err
			}
		case strings.Contains(e.Name(), corruptMark):
			size, err := fileSize(path)
			if err != nil {
				return nil, err
			}
			s.aside = append(s.aside, asideFile{path, size})
		}
	}
	slices.Sort(ids)
	return ids, s.removeMarks(ids)
}

// removeMarks forgets what failed once and is not the tail any more.
func (s *Spool) removeMarks(ids []uint64) error {
	if s.readOnly || len(ids) == 0 {
		return nil
	}
	marks, err := filepath.Glob(filepath.Join(s.o.Dir, "*"+badSuffix))
	if err != nil {
		return err
	}
	for _, m := range marks {
		if m == segmentPath(s.o.Dir, ids[len(ids)-1])+badSuffix {
			continue
		}
		if err := os.Remove(m); err != nil {
			return err
		}
	}
	return nil
}

// loadTail opens the newest segment and reads the state from it. The others
// are listed, unread.
func (s *Spool) loadTail(ids []uint64, op *opening) error {
	for _, id := range ids {
		s.segs = append(s.segs, &segment{id: id, path: segmentPath(s.o.Dir, id)})
	}
	if len(ids) == 0 {
		op.fresh = true
		return nil
	}
	g := s.segs[len(s.segs)-1]
	err := markedBad(g)
	if err == nil {
		err = s.openForState(g)
	}
	if err == nil {
		err = g.checkMetas()
	}
	if err == nil {
		err = g.view(s.o.Clock.Now(), func(tx *bolt.Tx) error {
			var err error
			op.tail, err = loadState(tx, g.path, func(p Part) {
				p.Data = slices.Clone(p.Data)
				op.parts = append(op.parts, p)
			})
			if err == nil {
				op.meta, err = loadMeta(tx, g.path)
			}
			g.touched.Add(releaseAfter)
			return err
		})
	}
	if err == nil {
		err = g.scan(s.o.Clock.Now())
	}
	var corrupt *corruptError
	if errors.As(err, &corrupt) {
		s.log.Error("the newest segment's state does not read, so the spool starts a new epoch; what blocks it holds are kept where they read",
			"file", g.path, "error", corrupt.why)
		op.fresh, op.broken, op.tail, op.meta, op.parts = true, corrupt, nil, nil, nil
		return g.close(false)
	}
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	if g.next < op.tail.next { // it is empty, or its last blocks do not read
		if g.next == 0 {
			g.first, g.next = op.tail.next, op.tail.next
		}
		for ; g.next < op.tail.next; g.next++ {
			g.entries = append(g.entries, hole)
		}
	}
	return nil
}

// markedBad fails where the last run found that the tail does not work.
func markedBad(g *segment) error {
	why, err := os.ReadFile(g.path + badSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return &corruptError{path: g.path, why: "it failed while it was in use: " + string(why)}
}

func (s *Spool) openForState(g *segment) error {
	if s.readOnly {
		return g.open()
	}
	db, err := openTail(g.path, &s.o)
	if err != nil {
		return err
	}
	g.db = db
	return nil
}

// scanSegment reads a segment's index. A file that does not read is put aside
// where rename is set, else only left out.
func (s *Spool) scanSegment(g *segment, rename bool) error {
	err := g.scan(s.o.Clock.Now())
	var corrupt *corruptError
	switch {
	case err == nil:
		return g.close(false)
	case !errors.As(err, &corrupt):
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	case s.readOnly || !rename:
		return g.close(true)
	}
	return s.putAside(g, corrupt.why)
}

// putAside renames a segment that does not read. Its unacknowledged blocks
// are missing from then on, which the caller, or the next opening, declares.
func (s *Spool) putAside(g *segment, why string) error {
	if err := g.close(true); err != nil {
		s.log.Warn("a corrupt file did not close", "file", g.path, "error", err)
	}
	to := g.path + corruptMark + s.o.Clock.Now().UTC().Format("20060102T150405.000")
	if err := os.Rename(g.path, to); err != nil {
		return fmt.Errorf("spool %s: put a corrupt segment aside: %w", s.o.Dir, err)
	}
	if err := syncDir(s.o.Dir); err != nil {
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	s.log.Error("a file does not read; it is put aside, and what it held that some sink lacks is declared lost",
		"file", g.path, "renamed", filepath.Base(to), "error", why)
	size, err := fileSize(to)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	s.mu.Lock()
	s.aside = append(s.aside, asideFile{to, size})
	s.mu.Unlock()
	return nil
}

// finishOpening stores what recovery found.
func (s *Spool) finishOpening(op *opening) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	s.measure()
	if op.change {
		err := s.store("open", 0, func() *change {
			c := s.newChange()
			c.damaged = op.tail.damaged
			for _, l := range op.lost {
				c.addLoss(l, CauseCorrupt, s.now())
			}
			if op.loseDead {
				c.addLoss(Loss{Stream: NoStream, Unknown: true}, CauseCorrupt, s.now())
				c.losses[len(c.losses)-1].Dead = allDead
			}
			return c
		})
		if err != nil {
			return err
		}
	}
	if op.deadStale {
		if err := s.deadUpdate(func(*bolt.Tx) error { return nil }); err != nil {
			return s.failed("dead letters", 0, err)
		}
	}
	if op.deadBroken != nil {
		if err := s.putAside(&segment{path: s.deadPath()}, op.deadBroken.why); err != nil {
			return err
		}
	}
	if err := s.removeDeclaredDead(); err != nil {
		return err
	}
	// An eviction that was declared and not finished shows as drained.
	if _, err := s.dropDrained(); err != nil {
		return err
	}
	s.restoreReserve()
	return nil
}

// Close stores acknowledgements and lets go of the files. It deletes nothing
// that a sink lacks.
func (s *Spool) Close() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	err := s.usable()
	if errors.Is(err, errClosed) {
		return nil
	}
	if err == nil && !s.readOnly {
		err = s.sync()
	}
	return errors.Join(err, s.closeFiles())
}

func (s *Spool) closeFiles() error {
	s.mu.Lock()
	s.closed = true
	segs, broken := slices.Clone(s.segs), s.broken != nil
	s.mu.Unlock()
	var errs []error
	for i, g := range segs {
		if broken && i == len(segs)-1 && g.db != nil {
			errs = append(errs, g.db.abandon())
			continue
		}
		errs = append(errs, g.close(true))
	}
	return errors.Join(append(errs, releaseLock(s.lock, s.readOnly))...)
}

// now is the time for stamps.
func (s *Spool) now() time.Time { return s.o.Clock.Now() }
