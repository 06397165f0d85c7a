package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"millrace/internal/clock"
)

// maxFileBytes is the size at which a new file is begun.
const maxFileBytes = 16 << 20

// Options are those of a log.
type Options struct {
	Dir string
	// MaxFileBytes is the size at which a new file is begun; 16 MiB where 0.
	MaxFileBytes int64
	// Keep is how many files stay; 0 is all. The oldest go first.
	Keep  int
	Log   *slog.Logger
	Clock clock.Clock
	// FS is the disk where nil.
	FS FS
}

// Log is an open log. It is safe for concurrent use.
type Log struct {
	o    Options
	lock *os.File

	mu       sync.Mutex
	file     File
	number   int   // of the file
	size     int64 // of what is durable in it
	rotateAt int64
	n        uint64 // of the last record
	hash     string // of the last record
	failed   error  // why nothing is appended any more
	state    func() (json.RawMessage, error)
	told     bool // that a new file cannot be begun
}

// ErrClosed is what Append returns after Close.
var ErrClosed = errors.New("the audit log is closed")

// Open opens the log in a folder, which it makes where there is none. An end
// that a crash left incomplete was never acknowledged: it is cut off, and a
// record says so. Anything else that is wrong in the newest file is an error,
// and nothing is changed then.
func Open(o Options) (*Log, error) {
	if o.FS == nil {
		o.FS = disk{}
	}
	if o.MaxFileBytes == 0 {
		o.MaxFileBytes = maxFileBytes
	}
	l := &Log{o: o}
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("audit log: %w", err), l.Close())
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.makeDir(); err != nil {
		return err
	}
	var err error
	if l.lock, err = lock(l.o.Dir); err != nil {
		return err
	}
	if err := l.removeUnfinished(); err != nil {
		return err
	}
	numbers, err := list(l.o.Dir)
	var missing *missingError
	if errors.As(err, &missing) {
		return damage(l.o.Dir, err)
	}
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return l.begin(1, nil)
	}
	l.number = numbers[len(numbers)-1]
	t, err := readTail(l.o.Dir, l.number)
	if err != nil {
		return err
	}
	if len(numbers) > 1 {
		if err := followsFile(l.o.Dir, l.number-1, t.before); err != nil {
			return err
		}
	}
	return l.resume(t)
}

// makeDir makes the folder, durably with those above it that are missing.
func (l *Log) makeDir() error {
	var made []string
	for dir := filepath.Clean(l.o.Dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		made = append(made, dir)
	}
	if err := os.MkdirAll(l.o.Dir, 0o750); err != nil {
		return err
	}
	for _, dir := range made {
		if err := l.o.FS.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// removeUnfinished removes a file that a crash kept from being begun.
func (l *Log) removeUnfinished() error {
	left, err := filepath.Glob(filepath.Join(l.o.Dir, filePrefix+"*"+newSuffix))
	for _, path := range left {
		err = errors.Join(err, l.o.FS.Remove(path))
	}
	return err
}

// resume goes on with the newest file behind what is whole of it.
func (l *Log) resume(t *tail) error {
	f, err := l.o.FS.Append(filepath.Join(l.o.Dir, fileName(l.number)))
	if err != nil {
		return err
	}
	l.file, l.size, l.n, l.hash, l.rotateAt = f, t.size, t.n, t.hash, l.o.MaxFileBytes
	// A crash of the process alone may have left whole records that are not on
	// the disk yet. The mirror goes by them now, so they have to be.
	if t.cut > 0 {
		if err := f.Truncate(t.size); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// Likewise its name, where the crash came just after it was renamed: what is
	// added to it from now on would be lost with the name in a power cut.
	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
		return err
	}
	if t.cut == 0 {
		return nil
	}
	l.o.Log.Warn("the end of the mirror's audit log was incomplete, as a crash leaves it; it was never acknowledged and is cut off",
		"file", fileName(l.number), "bytes", t.cut)
	return l.append([]*Record{{Kind: KindRecovered, Detail: fmt.Sprintf("%d bytes at the end of %s, which were never acknowledged, were cut off", t.cut, fileName(l.number))}})
}

// begin makes the file with a number, which starts with the state. It is there
// as a whole or not at all.
func (l *Log) begin(number int, state json.RawMessage) (err error) {
	r := &Record{N: l.n + 1, At: l.o.Clock.Now().UTC(), Kind: KindCheckpoint, State: state, Prev: l.hash}
	line, err := r.line()
	if err != nil {
		return err
	}
	path := filepath.Join(l.o.Dir, fileName(number))
	f, err := l.o.FS.Create(path + newSuffix)
	if err != nil {
		return err
	}
	if err = write(f, line); noRoom(err) {
		return errors.Join(err, f.Close(), l.o.FS.Remove(path+newSuffix))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.o.FS.Rename(path+newSuffix, path)
	}
	if err == nil {
		err = l.o.FS.SyncDir(l.o.Dir)
	}
	if err != nil {
		// Whether the file is there, now or after a power cut, is not known. Nothing
		// may be added to it, and nothing to the one before, which it follows on.
		l.failed = err
		return errors.Join(err, f.Close())
	}
	old := l.file
	l.file, l.number, l.size, l.rotateAt, l.n, l.hash = f, number, int64(len(line)), l.o.MaxFileBytes, r.N, r.Hash
	if old != nil {
		if err := old.Close(); err != nil {
			l.o.Log.Warn("a file of the mirror's audit log does not close; what is in it is durable", "file", fileName(number-1), "error", err)
		}
	}
	return nil
}

// write writes all of b.
func write(f File, b []byte) error {
	n, err := f.Write(b)
	if err == nil && n < len(b) {
		return fmt.Errorf("only %d of %d bytes were written", n, len(b))
	}
	return err
}

// Checkpoint registers what gives the whole state, with which each new file
// starts. It is called within Append, before what that appends; without it the
// log stays in one file.
func (l *Log) Checkpoint(state func() (json.RawMessage, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = state
}

// Head returns the number and the hash of the last record.
func (l *Log) Head() (n uint64, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n, l.hash
}

// Append makes the records durable, all or none of them, and sets their
// numbers and hashes. Where there is no room, none is taken, and a later call
// may succeed. After an error of the disk itself what is on it is not known:
// nothing is taken any more then, until the log is opened anew.
func (l *Log) Append(records ...*Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil && l.failed == nil {
		return ErrClosed
	}
	if l.failed != nil {
		return fmt.Errorf("audit log: nothing is taken since an error of the disk, restart the gateway once it is mended: %w", l.failed)
	}
	if len(records) == 0 {
		return nil
	}
	if l.size >= l.rotateAt && l.state != nil {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
	}
	if err := l.append(records); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

func (l *Log) append(records []*Record) error {
	var text []byte
	n, hash := l.n, l.hash
	for i, r := range records {
		r.First, r.Last = 0, 0
		if len(records) > 1 {
			r.First, r.Last = l.n+1, l.n+uint64(len(records))
		}
		r.N, r.Prev = l.n+1+uint64(i), hash
		if r.At.IsZero() {
			r.At = l.o.Clock.Now()
		}
		r.At = r.At.UTC()
		line, err := r.line()
		if err != nil {
			return err
		}
		text = append(text, line...)
		n, hash = r.N, r.Hash
	}
	if err := write(l.file, text); err != nil {
		return l.undo(err)
	}
	if err := l.file.Sync(); err != nil {
		l.failed = err
		return err
	}
	l.size += int64(len(text))
	l.n, l.hash = n, hash
	return nil
}

// undo takes back what a failed write left. Only where it failed for want of
// room is the rest of the file known to be well.
func (l *Log) undo(err error) error {
	if terr := l.file.Truncate(l.size); terr != nil || !noRoom(err) {
		l.failed = err
	}
	return err
}

// noRoom reports whether a write failed for want of room alone.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// rotate begins a new file. Where that fails for want of room the present one
// goes on.
func (l *Log) rotate() error {
	state, err := l.state()
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := l.begin(l.number+1, state); err != nil {
		if l.failed != nil {
			return err
		}
		l.rotateAt = l.size + l.o.MaxFileBytes/16
		if !l.told {
			l.told = true
			l.o.Log.Warn("no new file of the mirror's audit log can be begun; the present one grows on", "file", fileName(l.number), "error", err)
		}
		return nil
	}
	l.told = false
	return l.retire()
}

// retire removes the oldest files beyond those that are to stay.
func (l *Log) retire() error {
	if l.o.Keep <= 0 {
		return nil
	}
	numbers, err := list(l.o.Dir)
	if err != nil {
		return err
	}
	for len(numbers) > max(l.o.Keep, 1) {
		if err := l.o.FS.Remove(filepath.Join(l.o.Dir, fileName(numbers[0]))); err != nil {
			l.o.Log.Warn("an old file of the mirror's audit log cannot be removed", "file", fileName(numbers[0]), "error", err)
			return nil
		}
		l.o.Log.Info("an old file of the mirror's audit log is removed, as mirror.audit_keep says", "file", fileName(numbers[0]))
		numbers = numbers[1:]
	}
	return nil
}

// Replay hands over the newest checkpoint and each record behind it. It is
// called after Open and before Append; a record is valid during the call.
func (l *Log) Replay(fn func(*Record) error) error {
	l.mu.Lock()
	number, size := l.number, l.size
	l.mu.Unlock()
	return readFile(l.o.Dir, number, func(p place, r *Record, problem error) error {
		switch {
		case p.offset >= size:
			return errStop
		case problem != nil:
			return fmt.Errorf("audit log: %s: %w", p, problem)
		}
		return fn(r)
	})
}

// Close releases the folder. What was appended is durable already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if l.file != nil {
		errs = append(errs, l.file.Close())
		l.file = nil
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
		l.lock = nil
	}
	return errors.Join(errs...)
}
