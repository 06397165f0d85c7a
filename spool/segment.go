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
)

const (
	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
	corruptMark   = ".corrupt-"
	badSuffix     = ".bad" // marks a tail that failed while it was in use
	fileMode      = 0o600
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

// entry is what memory keeps of a block, 12 bytes. The zero entry is a hole: a
// number whose block is not there.
type entry struct {
	count uint32
	bytes uint32
	first uint32 // s since the Unix epoch, rounded down, clamped; 0 where before
}

const holeFirst = math.MaxUint32

var hole = entry{first: holeFirst}

func entryOf(h *Info) entry {
	return entry{count: h.Count, bytes: uint32(h.Bytes), first: uint32(min(max(h.First/int64(time.Second), 0), holeFirst-1))}
}

// segment is one file. The last is the tail, which alone is written to.
type segment struct {
	id   uint64
	path string

	// Guarded by Spool.mu.
	first, next uint64 // its blocks have the numbers first..next-1
	entries     []entry
	size        int64 // of the file

	mu   sync.RWMutex // guards the handle; held while a transaction reads
	db   *handle
	gone bool
	// touched counts bytes read by the mapping since its pages were given up.
	touched atomic.Int64
	used    atomic.Int64 // time of the last read, ns
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
	most := min(2*o.SegmentBytes, math.MaxInt32/2)
	db, err := openFile(path, &bolt.Options{MaxSize: int(most)})
	if err != nil {
		return nil, err
	}
	db.AllocSize = int(o.growthStep())
	return db, nil
}

// view runs fn in a read transaction, which must not outlast fn.
func (g *segment) view(now time.Time, fn func(tx *bolt.Tx) error) error {
	if err := g.acquire(); err != nil {
		return err
	}
	defer g.mu.RUnlock()
	g.used.Store(now.UnixNano())
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
	db, err := openFile(g.path, &bolt.Options{ReadOnly: true, NoStatistics: true})
	if err != nil {
		return err
	}
	g.db = db
	return nil
}

// checkMetas refuses a file that may have lost its last transaction.
func (g *segment) checkMetas() error {
	ok, err := wholeMetas(g.path, g.db.Info().PageSize)
	if err == nil && !ok {
		err = &corruptError{path: g.path, why: "a meta page does not read, so that its last transaction may be gone", lastLost: true}
	}
	return err
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
		g.first, g.next, g.entries = 0, 0, nil
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
				g.entries = append(g.entries, hole)
				g.next++
			}
			g.entries = append(g.entries, entryOf(&h.Info))
			g.next++
			return true
		})
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
	e := g.entries[n-g.first]
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
	keyRetired  = []byte("retired") // set when the next segment is the tail
	keyData     = []byte("d")
)

// format is the version of the layout.
const format = 1

func formatValue() []byte { return binary.BigEndian.AppendUint32(nil, format) }
