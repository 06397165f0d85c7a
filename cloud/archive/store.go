package archive

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The forms of the folder's files.
const (
	stateVersion = 1
	stateName    = "scan.json"
	lockName     = "lock"
	blocksFolder = "blocks"
	workFolder   = "work"

	// maxStateAge is how long an interrupted scan may be gone on with. A scan
	// that is older would miss more and more of what was written since.
	maxStateAge = 24 * time.Hour
	// stateEvery is how many bytes are scanned between two notes of how far.
	stateEvery = 64 << 20
	maxOpen    = 64 // files of days
)

// store keeps blocks on the local disk, a file for each site and day, and how
// far the scan has come. A block with samples of two days is in both files.
//
// An entry of a file is the block's length in 4 bytes, 1 byte that says whether
// it came late, 32 bytes of digest, and the block. A block may be in a file
// twice, since a page that was scanned just before a crash is scanned again.
type store struct {
	dir  string
	lock *os.File

	mu      sync.Mutex
	state   state
	days    map[dayKey]*day
	open    []*day // least lately written first
	unsaved int64
}

// state is how far a scan has come.
type state struct {
	Version  int        `json:"version"`
	Table    string     `json:"table"`
	ID       string     `json:"id"`
	Started  time.Time  `json:"started"`
	Segments []segment  `json:"segments"`
	Days     []dayState `json:"days"`
}

type segment struct {
	// After is the key of the last item that is stored, nil before the first.
	After []string `json:"after,omitempty"`
	Done  bool     `json:"done,omitempty"`
}

type dayState struct {
	Site  string `json:"site"`
	Day   int64  `json:"day"` // ns since the Unix epoch, of its 00:00 UTC
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

type dayKey struct {
	site string
	day  int64
}

// day is one site's day of UTC and its blocks.
type day struct {
	dayKey
	name  string // of the file
	bytes int64
	file  *os.File // while it is open for writing
	dirty bool     // written since it was last synced

	// What plan finds out.
	blocks  int64
	samples int64 // of its blocks, about: some may be another day's
	hash    string
}

func (d *day) String() string { return d.site + " " + d.date() }

func (d *day) date() string { return d.at().Format(time.DateOnly) }

func (d *day) at() time.Time { return time.Unix(0, d.day).UTC() }

// openStore opens the store of a table, and goes on with a scan that was
// interrupted, if there is one.
func openStore(dir, table, id string, segments int, now time.Time) (*store, error) {
	s := &store{dir: filepath.Join(dir, table), days: map[dayKey]*day{}}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another run archives this week in %s (%w): wait until it has ended, or give another --scratch", s.dir, err), s.lock.Close())
	}
	if err := os.RemoveAll(s.work()); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	if s.resume(table, id, now) {
		return s, os.MkdirAll(s.work(), 0o700)
	}
	s.days = map[dayKey]*day{}
	s.state = state{Version: stateVersion, Table: table, ID: id, Started: now.UTC(), Segments: make([]segment, segments)}
	err = errors.Join(os.RemoveAll(filepath.Join(s.dir, stateName)), os.RemoveAll(filepath.Join(s.dir, blocksFolder)),
		os.MkdirAll(filepath.Join(s.dir, blocksFolder), 0o700), os.MkdirAll(s.work(), 0o700))
	if err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// work is a folder for what is sorted and written.
func (s *store) work() string { return filepath.Join(s.dir, workFolder) }

// resume takes up the state of an interrupted scan. Files are cut to what the
// state knows of them.
func (s *store) resume(table, id string, now time.Time) bool {
	text, err := os.ReadFile(filepath.Join(s.dir, stateName))
	if err != nil || json.Unmarshal(text, &s.state) != nil {
		return false
	}
	st := &s.state
	if st.Version != stateVersion || st.Table != table || st.ID != id || id == "" || len(st.Segments) == 0 || now.Sub(st.Started) > maxStateAge || now.Before(st.Started) {
		return false
	}
	for _, d := range st.Days {
		if d.File != filepath.Base(d.File) || os.Truncate(filepath.Join(s.dir, blocksFolder, d.File), d.Bytes) != nil {
			return false
		}
		key := dayKey{d.Site, d.Day}
		s.days[key] = &day{dayKey: key, name: d.File, bytes: d.Bytes}
	}
	return true
}

// resumed reports whether some of the table was scanned before.
func (s *store) resumed() bool {
	return slices.ContainsFunc(s.state.Segments, func(g segment) bool { return g.Done || g.After != nil })
}

// entry is a block on its way to the store.
type entry struct {
	site   string
	days   []int64
	late   bool
	digest [sha256.Size]byte
	data   []byte
}

// entryHead is what an entry has before its block.
const entryHead = 4 + 1 + sha256.Size

// add stores blocks, and that a segment has come as far as after; done says that
// it is at its end. seg is -1 for blocks that no scan has brought.
func (s *store) add(entries []entry, seg int, after []string, done bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range entries {
		for _, at := range entries[i].days {
			if err := s.append(dayKey{entries[i].site, at}, &entries[i]); err != nil {
				return err
			}
		}
	}
	if seg < 0 {
		return nil
	}
	s.state.Segments[seg] = segment{After: after, Done: done}
	if s.unsaved < stateEvery {
		return nil
	}
	return s.save()
}

func (s *store) append(key dayKey, e *entry) error {
	d := s.days[key]
	if d == nil {
		d = &day{dayKey: key, name: fmt.Sprintf("%06d.blocks", len(s.days))}
		s.days[key] = d
	}
	if err := s.opened(d); err != nil {
		return err
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, entryHead+len(e.data)), uint32(len(e.data)))
	late := byte(0)
	if e.late {
		late = 1
	}
	buf = append(append(append(buf, late), e.digest[:]...), e.data...)
	// At the place that is known: a write that failed before may have left something.
	if _, err := d.file.WriteAt(buf, d.bytes); err != nil {
		return err
	}
	d.bytes += int64(len(buf))
	d.dirty = true
	s.unsaved += int64(len(buf))
	return nil
}

// opened opens a day's file for writing, and closes the one that was longest
// not written where too many are open.
func (s *store) opened(d *day) error {
	if i := slices.Index(s.open, d); i >= 0 {
		s.open = append(slices.Delete(s.open, i, i+1), d)
		return nil
	}
	if len(s.open) >= maxOpen {
		if err := s.shut(s.open[0]); err != nil {
			return err
		}
		s.open = s.open[1:]
	}
	var err error
	if d.file, err = os.OpenFile(s.path(d), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	s.open = append(s.open, d)
	return nil
}

func (s *store) path(d *day) string { return filepath.Join(s.dir, blocksFolder, d.name) }

// shut brings a day's file to the disk and closes it.
func (s *store) shut(d *day) error {
	err := error(nil)
	if d.dirty {
		err = d.file.Sync()
	}
	err = errors.Join(err, d.file.Close())
	d.file, d.dirty = nil, false
	return err
}

// save notes how far the scan has come, after all that it has brought is on the
// disk.
func (s *store) save() error {
	s.state.Days = s.state.Days[:0]
	for _, d := range s.days {
		if d.dirty && d.file != nil {
			if err := d.file.Sync(); err != nil {
				return err
			}
			d.dirty = false
		}
		s.state.Days = append(s.state.Days, dayState{Site: d.site, Day: d.day, File: d.name, Bytes: d.bytes})
	}
	text, err := json.Marshal(&s.state)
	if err != nil {
		return err
	}
	name := filepath.Join(s.dir, stateName)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	s.unsaved = 0
	return os.Rename(name+".new", name)
}

// note saves the state, for a run that is interrupted.
func (s *store) note() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save()
}

// sorted are the days by site and date.
func (s *store) sorted() []*day {
	out := make([]*day, 0, len(s.days))
	for _, d := range s.days {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *day) int {
		if c := strings.Compare(a.site, b.site); c != 0 {
			return c
		}
		return int(min(max(a.day-b.day, -1), 1))
	})
	return out
}

// each hands over a day's blocks, each once. data is overwritten by the next.
func (s *store) each(d *day, fn func(e *entry) error) (err error) {
	f, err := os.Open(s.path(d))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := bufio.NewReaderSize(io.LimitReader(f, d.bytes), 256<<10)
	seen := map[[sha256.Size]byte]struct{}{}
	var head [entryHead]byte
	var e entry
	for {
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		e.late = head[4] == 1
		copy(e.digest[:], head[5:])
		e.data = slices.Grow(e.data[:0], n)[:n]
		if _, err := io.ReadFull(in, e.data); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		if _, twice := seen[e.digest]; twice {
			continue
		}
		seen[e.digest] = struct{}{}
		if err := fn(&e); err != nil {
			return err
		}
	}
}

// close closes the files. What is stored stays.
func (s *store) close() error {
	var err error
	for _, d := range s.open {
		err = errors.Join(err, s.shut(d))
	}
	s.open = nil
	return errors.Join(err, s.lock.Close())
}

// remove removes the store. The lock's file stays until the last, so that
// nobody else begins in between.
func (s *store) remove() error {
	err := os.Remove(filepath.Join(s.dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
