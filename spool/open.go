package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"millrace/internal/failpoint"
)

// Spool is an open spool. Its methods may be called from any goroutine.
type Spool struct {
	o        Options
	log      *slog.Logger
	lock     *dirLock
	readOnly bool
	// maintained says that an operator has it open and no daemon.
	maintained bool
	hooks      hooks
	// touched is set once an opening has changed something.
	touched bool

	// commitMu is held by whoever writes: to the tail, to the list of segments
	// and to files. It comes before mu, and is held while the disk is.
	commitMu sync.Mutex
	streams  map[uint32]streamState
	// epochFirst is the number of the epoch's first block; set when it is opened.
	epochFirst uint64
	// retried are the numbers, of this epoch, of dead letters from before it that
	// were put back; written under mu too.
	retried  intervals
	records  []openRecord      // by rising commit
	garbage  []uint64          // open records to delete
	buf      []byte            // the last open record, encoded
	rotating bool              // room is made for a new tail
	waited   int               // calls of Tend that found acknowledgements to store
	policies map[uint32]Policy // written under mu too
	refuses  bool              // some policy keeps data whatever comes
	thins    bool              // some policy is ThinOldest
	// policyChanges counts changes of policies; written under mu too.
	policyChanges uint64
	offered       intervals // numbers that may have been handed to a sink; written under mu too

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
	keepsUp  bool  // some sink had all, or acknowledged something, since blocks came last
	reserve  int64 // size of the reserve's file, or 0
	// reserveTried is when the reserve was last made or given up.
	reserveTried time.Time
	mended       time.Time // when the disk failed last; zero where it has not
	diskFull     error     // the disk had no space, and has not been seen to have some since
	usage        usage
	open         openTotals
	stats        totals
	dead         deadTotals

	prober *prober // nil where the spool is only read
}

// asideFile is a file that did not read and was renamed.
type asideFile struct {
	path string
	size int64
}

// hooks lets tests look at the files, or fail, between the steps of a change.
type hooks struct {
	step func(label string) error
	// after fails a transaction whose last sync was done.
	after func(op string) error
	open  func(path string) // a segment is mapped
	// probe is called before a file is looked at.
	probe func(*probeJob)
	stall time.Duration // in place of probeStall, where not 0
}

func (h hooks) opened(path string) {
	if h.open != nil {
		h.open(path)
	}
}

func (h hooks) failed(op string) error {
	if h.after == nil {
		return nil
	}
	return h.after(op)
}

func (h hooks) at(label string) error {
	if failpoint.Built {
		failpoint.At("spool: " + label)
	}
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
	if err := checkDir(o.Dir); err != nil {
		return nil, nil, err
	}
	made, err := makeDir(o.Dir)
	if err != nil {
		return nil, nil, errors.Join(unusable(o.Dir, err), removeDirs(made))
	}
	lock, err := takeLock(o.Dir, false)
	if err != nil {
		return nil, nil, errors.Join(err, removeDirs(made))
	}
	failpoint.At("spool: locked")
	s := newSpool(o, lock, h)
	st, err := s.recover(ctx)
	if err != nil && !s.touched {
		return nil, nil, errors.Join(err, s.letGo(made))
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.closeFiles())
	}
	s.startProber()
	return s, st, nil
}

func newSpool(o Options, lock *dirLock, h hooks) *Spool {
	return &Spool{
		o: o, log: o.Log, lock: lock, hooks: h,
		streams: map[uint32]streamState{}, sinks: map[string]*sink{}, policies: map[uint32]Policy{}, ready: make(chan struct{}),
	}
}

// letGo ends an opening that failed before it changed anything.
func (s *Spool) letGo(made []string) error {
	lock := s.lock
	s.lock = nil
	return errors.Join(s.closeFiles(), lock.undo(), removeDirs(made))
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

	// orphans are headers from indexes of segments that are gone.
	orphans     []blockHeader
	orphanFiles []string

	deadBroken  *corruptError // the dead letters do not read
	deadRescued *rescued      // or some of them do
	deadLost    []DeadLetter  // the others, as far as they are known
	loseDead    bool          // more is lost than is known, and not declared yet
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
	if err := s.loadTail(ctx, ids, op); err != nil {
		return nil, err
	}
	if s.maintained {
		if err := s.maintainable(op); err != nil {
			return nil, err
		}
	}
	// Up to here nothing was changed.
	if err := s.sign(op); err != nil {
		return nil, err
	}
	if err := errors.Join(s.tidy(ids), s.findOrphans(ids, op)); err != nil {
		return nil, fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	for i, g := range s.segs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if last := i == len(s.segs)-1; !last {
			err = s.knowSegment(ctx, g, s.behindIndex(i, op))
		} else if op.fresh {
			err = s.scanSegment(g, false)
		}
		if err != nil {
			return nil, err
		}
	}
	s.segs = slices.DeleteFunc(s.segs, func(g *segment) bool { return g.gone })
	if op.fresh {
		if err := s.startEpoch(ctx, ids, op); err != nil {
			return nil, err
		}
		if err := s.sign(op); err != nil {
			return nil, err
		}
	}
	t := op.tail
	s.counters, s.streams, s.losses = t.counters, t.streams, t.losses
	s.epochFirst, s.retried = t.epochFirst, t.retried
	s.records, s.garbage = t.records, t.garbage
	s.setPolicies(t.policies)
	if s.offered = t.offered; s.offered == nil { // nobody has kept account
		s.offered = intervals{}.add(1, s.counters.next-1)
	}
	if err := s.settleFiles(op); err != nil {
		return nil, err
	}
	s.count()
	if !s.maintained {
		s.logRemovedSinks()
	}
	if err := s.openDead(ctx, op); err != nil {
		return nil, err
	}
	if !s.readOnly {
		if err := s.finishOpening(op); err != nil {
			return nil, err
		}
	}
	st := &State{
		Epoch: s.counters.epoch, Created: op.fresh, Meta: op.meta, Parts: op.parts,
		LastSeq: map[uint32]uint64{}, Losses: s.Losses(), Policies: maps.Clone(s.policies),
	}
	for id, v := range s.streams {
		st.LastSeq[id] = v.seq
	}
	return st, nil
}

// sign puts this process's number into the lock, the first change of an opening.
func (s *Spool) sign(op *opening) error {
	if s.readOnly || s.lock.signed || len(s.segs) == 0 && op.fresh { // a new spool comes first
		return nil
	}
	s.touched = true
	if err := s.lock.sign(); err != nil {
		return unusable(s.o.Dir, err)
	}
	return nil
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

// listFiles lists segments and what else takes space. It changes nothing.
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
	return ids, nil
}

// loadTail opens the newest segment and reads the state from it. The others
// are listed, unread.
func (s *Spool) loadTail(ctx context.Context, ids []uint64, op *opening) error {
	for _, id := range ids {
		s.segs = append(s.segs, s.newSegment(id))
	}
	if len(ids) == 0 {
		op.fresh = true
		return nil
	}
	g := s.segs[len(s.segs)-1]
	err := s.examine(ctx, g, roleTail, false)
	mappable := err == nil
	if err == nil {
		err = markedBad(g)
	}
	if err == nil {
		err = s.openForState(g)
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
		return g.close(!mappable)
	}
	if err != nil {
		return err
	}
	if g.next < op.tail.next { // it is empty, or its last blocks do not read
		if g.next == 0 {
			g.first, g.next = op.tail.next, op.tail.next
		}
		for ; g.next < op.tail.next; g.next++ {
			g.entries.add(hole)
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
	g.opened(g.path)
	return nil
}

// behindIndex is the number that the index of segment i goes up to at least. The
// one before the tail may have an index from a rotation that failed: a power cut
// can take the name of the right one, which nobody has synced yet.
func (s *Spool) behindIndex(i int, op *opening) uint64 {
	if op.fresh || i != len(s.segs)-2 {
		return 0
	}
	return s.segs[i+1].first
}

// knowSegment learns which blocks an older segment has: from its index, or
// where that does not read or ends too early from the segment, whose index is
// written then.
func (s *Spool) knowSegment(ctx context.Context, g *segment, least uint64) error {
	x, ok, err := readIndex(g)
	if ok = ok && x.next >= least; err == nil && !ok {
		err = s.examine(ctx, g, roleSegment, true)
		var corrupt *corruptError
		if errors.As(err, &corrupt) {
			if s.readOnly {
				return g.close(true)
			}
			return s.putAside(g, corrupt.why)
		}
		if s.readOnly && err == nil {
			return s.scanSegment(g, false)
		}
		if err == nil {
			x, ok, err = readIndex(g)
		}
		if err == nil && !ok {
			err = errors.New("the index that was just written does not read")
		}
	}
	if err != nil {
		return fmt.Errorf("spool %s: segment %s: %w", s.o.Dir, filepath.Base(g.path), err)
	}
	g.adopt(&x)
	return nil
}

// scanSegment reads a segment's index. A file that does not read is put aside
// where rename is set, else only left out.
func (s *Spool) scanSegment(g *segment, rename bool) error {
	if g.isGone() {
		return nil
	}
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
	to := s.asideName(g.path)
	failpoint.At("spool: put aside")
	if err := os.Rename(g.path, to); err != nil {
		return fmt.Errorf("spool %s: put a corrupt segment aside: %w", s.o.Dir, err)
	}
	failpoint.At("spool: put aside renamed")
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

// Close stores acknowledgements and lets go of the files. It deletes nothing
// that a sink lacks.
func (s *Spool) Close() error {
	s.stopProber()
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
	return errors.Join(append(errs, s.lock.release())...)
}

// now is the time for stamps.
func (s *Spool) now() time.Time { return s.o.Clock.Now() }
