package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"millrace/internal/failpoint"
)

const (
	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
	corruptMark   = ".corrupt-"
	badSuffix     = ".bad" // marks a tail that failed while it was in use
	fileMode      = 0o600
	// maxFile bounds every file, in bytes: without a bound bbolt panics near
	// 2 GB where addresses have 32 bits.
	maxFile = math.MaxInt32 / 2
	// lockWait is how long bbolt waits for its own lock on a file. The
	// directory's lock comes first, so that it is free but for a process that
	// ignores it.
	lockWait = 100 * time.Millisecond
	// releaseAfter is how much is read by the mapping before its resident
	// pages are given up, in bytes.
	releaseAfter = 1 << 20
	// maxOpen is how many segments besides the tail stay open.
	maxOpen = 2
)

// segment is one file. The last is the tail, which alone is written to.
type segment struct {
	id   uint64
	path string

	// Guarded by Spool.mu.
	first, next uint64 // its blocks have the numbers first..next-1
	entries     entries
	// left is set once it is durable that every sink has it whole.
	left      bool
	size      int64 // of the file
	indexSize int64 // of the index file; 0 where there is none

	mu   sync.RWMutex // guards the handle; held while a transaction reads
	db   *handle
	gone bool
	// touched counts bytes read by the mapping since its pages were given up.
	touched atomic.Int64
	used    atomic.Pointer[time.Time] // when it was read last, with the monotonic clock
	opened  func(path string)
	// probed is set when the file has been found whole: before, it must not be
	// mapped.
	probed atomic.Bool
	faults atomic.Int32 // how often it failed since it was found whole
	// waits says why a damaged segment could not be salvaged yet, and from when
	// on; the prober's own.
	waits     error
	waitsFrom time.Time
	// lost are blocks that a salvage at the opening did not rescue.
	lost []uint64
}

func (s *Spool) newSegment(id uint64) *segment {
	return &segment{id: id, path: segmentPath(s.o.Dir, id), opened: s.hooks.opened}
}

func segmentPath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", id, segmentSuffix))
}

func segmentID(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) < 10 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, err == nil && id > 0
}

// guard turns a panic or a memory fault of fn into *corruptError: bbolt checks
// little of what it reads, and a file cut short faults where it is mapped.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &corruptError{path: path, why: fmt.Sprint(p)}
		}
	}()
	return fn()
}

// handle is an open bbolt file.
type handle struct {
	*bolt.DB
	file *os.File
}

// abandon lets go of the file and leaves its mapping to the end of the process:
// after a panic within bbolt its own locks may be held. The mapping would keep
// the lock on the file, so that is given up by name.
func (h *handle) abandon() error {
	return errors.Join(syscall.Flock(int(h.file.Fd()), syscall.LOCK_UN), h.file.Close())
}

// openFile opens a bbolt file. Errors that come from its contents are
// *corruptError.
func openFile(path string, o *bolt.Options) (*handle, error) {
	if size, err := fileSize(path); err == nil && size == 0 {
		// bbolt would make a new file of it.
		return nil, &corruptError{path: path, why: "it is empty"}
	}
	h := &handle{}
	o.Timeout = lockWait
	if failpoint.On(failpoint.NoSync) {
		o.NoSync, o.NoGrowSync = true, true
	}
	if o.MaxSize == 0 {
		o.MaxSize = maxFile
	}
	o.FreelistType = bolt.FreelistMapType
	o.OpenFile = func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		h.file, err = os.OpenFile(name, flag, mode)
		return h.file, err
	}
	opened := false
	err := guard(path, func() (err error) {
		h.DB, err = bolt.Open(path, fileMode, o)
		opened = true
		return err
	})
	if !opened && h.file != nil {
		err = errors.Join(err, h.abandon())
	}
	switch {
	case err == nil:
		return h, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, &InUseError{Dir: filepath.Dir(path)}
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, &corruptError{path: path, why: err.Error()}
	}
	var perr *os.PathError
	var corrupt *corruptError
	var errno interface{ Timeout() bool } // syscall.Errno and what wraps it
	if errors.As(err, &perr) || errors.As(err, &corrupt) || errors.As(err, &errno) {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return nil, &corruptError{path: path, why: err.Error()} // "file size too small", which bbolt does not type
}

// openTail opens a file to write to, and creates it where it is not there.
func openTail(path string, o *Options) (*handle, error) {
	db, err := openFile(path, &bolt.Options{MaxSize: int(o.tailLimit())})
	if err != nil {
		return nil, err
	}
	db.AllocSize = int(o.growthStep())
	return db, nil
}

// idle is how long ago the segment was read last, by the monotonic clock.
func (g *segment) idle(now time.Time) time.Duration {
	if last := g.used.Load(); last != nil {
		return now.Sub(*last)
	}
	return math.MaxInt64
}

// view runs fn in a read transaction, which must not outlast fn.
func (g *segment) view(now time.Time, fn func(tx *bolt.Tx) error) error {
	if err := g.acquire(); err != nil {
		return err
	}
	defer g.mu.RUnlock()
	g.used.Store(&now)
	return guard(g.path, func() error {
		return g.db.View(func(tx *bolt.Tx) error {
			if err := g.whole(tx); err != nil {
				return err
			}
			err := fn(tx)
			if g.touched.Load() >= releaseAfter {
				g.touched.Store(0)
				releaseMapped(tx)
			}
			return err
		})
	})
}

// acquire returns with the read lock held and the file open.
func (g *segment) acquire() error {
	for {
		g.mu.RLock()
		if g.db != nil && !g.gone {
			return nil
		}
		gone := g.gone
		g.mu.RUnlock()
		if gone {
			return errGone
		}
		if err := g.open(); err != nil {
			return err
		}
	}
}

func (g *segment) open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.db != nil || g.gone {
		return nil
	}
	if !g.probed.Load() {
		return errUnprobed
	}
	db, err := openFile(g.path, &bolt.Options{ReadOnly: true, NoStatistics: true})
	if err != nil {
		return err
	}
	g.opened(g.path)
	g.db = db
	return nil
}

// whole refuses a file that is shorter than its pages.
func (g *segment) whole(tx *bolt.Tx) error {
	info, err := os.Stat(g.path)
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return &corruptError{path: g.path, why: fmt.Sprintf("%d bytes are left of %d", info.Size(), tx.Size())}
	}
	return nil
}

// release gives up the resident pages of an open file.
func (g *segment) release() {
	if g.touched.Load() == 0 || !g.mu.TryRLock() {
		return
	}
	defer g.mu.RUnlock()
	if g.db == nil {
		return
	}
	g.touched.Store(0)
	// A file that does not read shows at the next read that somebody wants.
	_ = guard(g.path, func() error {
		return g.db.View(func(tx *bolt.Tx) error { releaseMapped(tx); return nil })
	})
}

// close waits for readers and closes the handle. A closed segment opens again
// when it is read, unless gone is set.
func (g *segment) close(gone bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = g.gone || gone
	if g.db == nil {
		return nil
	}
	db := g.db
	g.db = nil
	g.touched.Store(0)
	return guard(g.path, db.Close)
}

// isOpen reports whether a handle is held. It never waits: what is being
// opened or closed is not open.
func (g *segment) isOpen() bool {
	if !g.mu.TryRLock() {
		return false
	}
	defer g.mu.RUnlock()
	return g.db != nil
}

func (g *segment) isGone() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.gone
}

// blocks calls fn for every block whose header reads, from number from on,
// until fn returns false.
func (g *segment) blocks(tx *bolt.Tx, from uint64, fn func(h *blockHeader, key []byte) bool) {
	root := tx.Bucket(bucketBlocks)
	if root == nil {
		return
	}
	c := root.Cursor()
	for k, _ := c.Seek(key64(from)); k != nil; k, _ = c.Next() {
		h, ok := readBlockKey(k)
		g.touched.Add(blockKeyLen)
		if ok && !fn(&h, k) {
			return
		}
	}
}

// data returns the bytes of the block under key, which are the file's own
// memory, or nil where they are not what the header says.
func (g *segment) data(tx *bolt.Tx, h *blockHeader, key []byte) (data []byte) {
	g.touched.Add(int64(h.Bytes))
	// The pages of one block that do not read are that block's loss, not the
	// segment's.
	err := guard(g.path, func() error {
		if b := tx.Bucket(bucketBlocks).Bucket(key); b != nil {
			data = b.Get(keyData)
		}
		if data != nil && !h.matches(data) {
			data = nil
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return data
}

// scan reads the index of a file's blocks.
func (g *segment) scan(now time.Time) error {
	return g.view(now, func(tx *bolt.Tx) error {
		g.first, g.next, g.entries = 0, 0, entries{}
		var err error
		g.blocks(tx, 0, func(h *blockHeader, _ []byte) bool {
			if g.next == 0 {
				g.first, g.next = h.Number, h.Number
			}
			if h.Number-g.next > uint64(tx.Size()) {
				err = &corruptError{path: g.path, why: fmt.Sprintf("block %d follows block %d", h.Number, g.next-1)}
				return false
			}
			for g.next < h.Number {
				g.entries.add(hole)
				g.next++
			}
			g.entries.add(entryOf(&h.Info))
			g.next++
			return true
		})
		g.entries.clip()
		if err == nil {
			g.size, err = fileSize(g.path)
		}
		return err
	})
}

// entry returns what is known of block n, and false where it is not here.
func (g *segment) entry(n uint64) (entry, bool) {
	if n < g.first || n >= g.next {
		return entry{}, false
	}
	e := g.entries.at(int(n - g.first))
	return e, e != hole
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Buckets of a segment, and the key of the one value in a block's or an open
// record's bucket.
var (
	bucketState   = []byte("state")
	bucketMeta    = []byte("meta")
	bucketStreams = []byte("streams")
	bucketAcks    = []byte("acks")
	bucketLosses  = []byte("losses")
	bucketOpen    = []byte("open")
	bucketBlocks  = []byte("blocks")

	keyFormat   = []byte("format")
	keyCounters = []byte("counters")
	// keyEpochFirst is the number of the epoch's first block.
	keyEpochFirst = []byte("epoch-first")
	// keyRetried are the numbers of dead letters of earlier epochs that were put
	// back in this one.
	keyRetried  = []byte("retried")
	keyPolicies = []byte("policies")
	keyOffered  = []byte("offered") // numbers that may have been handed to a sink
	keyRetired  = []byte("retired") // set when the next segment is the tail
	keyData     = []byte("d")
)

// format is the version of the layout.
const format = 1

func formatValue() []byte { return binary.BigEndian.AppendUint32(nil, format) }
