package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// A file is called 20261123T112600.000Z-000000000042.mrb, and has .part behind
// it while it is written. The number rises by one from file to file and goes on
// after a restart, so that names sort even where the clock has jumped.
const (
	stampLayout = "20060102T150405.000Z"
	partSuffix  = ".part"
	lockName    = ".lock"
	extBlock    = ".mrb"
	extJSONL    = ".jsonl"
)

var fileName = regexp.MustCompile(`^([0-9]{8}T[0-9]{6}\.[0-9]{3}Z)-([0-9]{12})(\.mrb|\.jsonl)(\.part)?$`)

// fileSystem is what the sink asks of the operating system, so that a test can
// fail exactly one call.
type fileSystem interface {
	MkdirAll(dir string) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	Open(path string, flag int) (diskFile, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(dir string) error
	Lock(path string) (lockFile, error)
}

type diskFile interface {
	io.ReadWriteSeeker
	io.Closer
	Sync() error
	Truncate(size int64) error
}

type lockFile interface{ io.Closer }

// lockedError says that another process or sink uses the directory.
type lockedError struct{ path string }

func (e *lockedError) Error() string {
	return "another sink or process is writing here (" + e.path + ")"
}

// osFS is the real file system.
type osFS struct{}

func (osFS) MkdirAll(dir string) error                 { return os.MkdirAll(dir, 0o750) }
func (osFS) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }
func (osFS) Rename(from, to string) error              { return os.Rename(from, to) }
func (osFS) Remove(path string) error                  { return os.Remove(path) }

func (osFS) Open(path string, flag int) (diskFile, error) {
	f, err := os.OpenFile(path, flag, 0o640)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFS) Lock(path string) (lockFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = &lockedError{path}
		}
		return nil, errors.Join(fmt.Errorf("lock: %w", err), f.Close())
	}
	return f, nil
}

// part is the file that is being written.
type part struct {
	s      *sink
	f      diskFile
	name   string // final, without .part
	opened time.Time
	size   int64 // known to be on the disk
	ahead  int64 // written behind it since
}

func (s *sink) extension() string {
	if s.conf.Format == FormatJSONL {
		return extJSONL
	}
	return extBlock
}

// prepare makes sure that a file is open to append to: it takes the directory,
// mends what a crash left, and starts a new file where the last is full or old.
func (s *sink) prepare() error {
	if s.closed {
		return errClosed
	}
	if s.lock == nil {
		if err := s.take(); err != nil {
			return err
		}
	}
	if s.cur != nil && s.clock.Now().Sub(s.cur.opened) >= s.conf.RotateAge && s.cur.size > s.cur.empty() {
		s.rotate()
	}
	if s.cur != nil {
		return nil
	}
	return s.start()
}

// take locks the directory and finishes the files that a crash left as parts,
// each cut back to its last whole record.
func (s *sink) take() (err error) {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	lock, err := s.fs.Lock(filepath.Join(s.dir, lockName))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		m := fileName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		n, _ := strconv.ParseUint(m[2], 10, 64) // digits by the pattern
		s.seq = max(s.seq, n)
		if m[4] == partSuffix {
			if err := s.mend(e.Name(), m[3]); err != nil {
				return err
			}
		}
	}
	s.lock = lock
	return nil
}

// mend cuts a part back to its last whole record and gives it its final name;
// one that holds nothing is removed.
func (s *sink) mend(name, ext string) error {
	path := filepath.Join(s.dir, name)
	f, err := s.fs.Open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	var whole, empty int64
	if ext == extJSONL {
		whole, err = wholeLines(f)
	} else {
		empty = int64(len(magic))
		whole, err = readRecords(f, path, func([]byte) error { return nil })
		var torn *TornError
		if errors.As(err, &torn) {
			s.log.Warn("cut a torn record off a file", "file", path, "at", torn.At, "reason", torn.Reason)
			err = nil
		}
	}
	if err == nil && whole > empty {
		err = errors.Join(f.Truncate(whole), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if whole <= empty {
		return s.fs.Remove(path)
	}
	return s.publish(path, path[:len(path)-len(partSuffix)])
}

// publish gives a finished file its final name, for good.
func (s *sink) publish(from, to string) error {
	if err := s.fs.Rename(from, to); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// start creates the next file.
func (s *sink) start() error {
	now := s.clock.Now()
	s.seq++
	p := &part{s: s, opened: now, name: fmt.Sprintf("%s-%012d%s", now.UTC().Format(stampLayout), s.seq, s.extension())}
	path := filepath.Join(s.dir, p.name+partSuffix)
	f, err := s.fs.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	p.f = f
	if s.conf.Format == FormatBlock {
		err = errors.Join(p.write([]byte(magic)), p.commit())
	}
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		if e := errors.Join(f.Close(), s.fs.Remove(path)); e != nil {
			s.letGo("could not remove a file that could not be started; it is mended at the next try", p.name, e)
		}
		return err
	}
	s.cur = p
	return nil
}

// empty is the size of a file without blocks.
func (p *part) empty() int64 {
	if p.s.conf.Format == FormatBlock {
		return int64(len(magic))
	}
	return 0
}

func (p *part) write(b []byte) error {
	n, err := p.f.Write(b)
	p.ahead += int64(n)
	return err
}

// commit makes durable what was written.
func (p *part) commit() error {
	if p.ahead == 0 {
		return nil
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	p.size += p.ahead
	p.ahead = 0
	return nil
}

// abandon ends a file after a failed write or fsync: nothing behind the last
// confirmed byte may stay, and after a failed fsync no later one can be trusted.
func (s *sink) abandon() {
	p := s.cur
	s.cur = nil
	path := filepath.Join(s.dir, p.name+partSuffix)
	err := p.f.Truncate(p.size)
	if err == nil && p.size > p.empty() {
		err = p.f.Sync()
	}
	err = errors.Join(err, p.f.Close())
	if p.size <= p.empty() {
		err = errors.Join(err, s.fs.Remove(path))
	} else if err == nil {
		err = s.publish(path, filepath.Join(s.dir, p.name))
	}
	if err != nil {
		// The part stays as it is. It is mended when the directory is taken
		// again: with the next Send.
		s.letGo("could not finish a file after a failed write; it is mended at the next try", p.name, err)
	}
}

// rotate finishes the current file. Where that fails, the part is mended when
// the directory is taken the next time; its blocks are durable already.
func (s *sink) rotate() {
	err := s.cur.finish()
	if err == nil {
		err = s.prune()
	}
	if err != nil {
		s.letGo("could not finish a file; it is mended at the next try", s.cur.name, err)
	}
	s.cur = nil
}

// letGo gives up the directory, so that the next Send takes it again and mends
// what is there.
func (s *sink) letGo(why, name string, err error) {
	s.log.Warn(why, "file", filepath.Join(s.dir, name), "error", errors.Join(err, s.lock.Close()))
	s.lock = nil
}

// finish closes the file and gives it its final name; one that holds nothing is
// removed.
func (p *part) finish() error {
	path := filepath.Join(p.s.dir, p.name+partSuffix)
	if err := p.f.Close(); err != nil {
		return err
	}
	if p.size <= p.empty() {
		return p.s.fs.Remove(path)
	}
	return p.s.publish(path, filepath.Join(p.s.dir, p.name))
}

// prune deletes the oldest finished files beyond MaxFiles.
func (s *sink) prune() error {
	if s.conf.MaxFiles == 0 {
		return nil
	}
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	bySeq := map[string]string{}
	var seqs []string
	for _, e := range entries {
		if m := fileName.FindStringSubmatch(e.Name()); m != nil && m[4] == "" {
			bySeq[m[2]] = e.Name()
			seqs = append(seqs, m[2])
		}
	}
	slices.Sort(seqs)
	for _, q := range seqs[:max(len(seqs)-s.conf.MaxFiles, 0)] {
		if err := s.fs.Remove(filepath.Join(s.dir, bySeq[q])); err != nil {
			return err
		}
	}
	return nil
}
