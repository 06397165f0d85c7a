package audit

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// page is what a disk writes as a whole.
const page = 512

// cutFS keeps, beside the real files, what a power cut would leave of them: of
// each file what was synced, and of each name what the folder was synced with.
type cutFS struct {
	FS
	mu    sync.Mutex
	files map[string]*cutFile // by name, as the programs see it
	names map[string]*cutFile // as the disk has it
}

type cutFile struct {
	File
	fs     *cutFS
	now    []byte
	synced []byte
}

// newCutFS starts with what a folder holds, all of it durable.
func newCutFS(dir string) (*cutFS, error) {
	c := &cutFS{FS: disk{}, files: map[string]*cutFile{}, names: map[string]*cutFile{}}
	paths, err := filepath.Glob(filepath.Join(dir, filePrefix+"*"))
	for _, path := range paths {
		text, rerr := os.ReadFile(path)
		if rerr != nil {
			return nil, rerr
		}
		f := &cutFile{fs: c, now: text, synced: text}
		c.files[path], c.names[path] = f, f
	}
	return c, err
}

func (c *cutFS) Create(path string) (File, error) {
	f, err := c.FS.Create(path)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[path] = &cutFile{File: f, fs: c}
	return c.files[path], nil
}

func (c *cutFS) Append(path string) (File, error) {
	f, err := c.FS.Append(path)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[path].File = f
	return c.files[path], nil
}

func (c *cutFS) Rename(from, to string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[to] = c.files[from]
	delete(c.files, from)
	return c.FS.Rename(from, to)
}

func (c *cutFS) Remove(path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.files, path)
	return c.FS.Remove(path)
}

func (c *cutFS) SyncDir(string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.names)
	for name, f := range c.files {
		c.names[name] = f
	}
	return nil
}

func (f *cutFile) Write(b []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.now = append(f.now[:len(f.now):len(f.now)], b...)
	return f.File.Write(b)
}

func (f *cutFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.synced = f.now
	return nil // the real disk need not be waited for
}

func (f *cutFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.now = f.now[:size:size]
	return f.File.Truncate(size)
}

// remains is what a power cut leaves of a file: what was synced, and of what
// was written since any of the pages, zeros where one is missing, up to any size.
func (f *cutFile) remains(r *rand.Rand) []byte {
	if len(f.now) <= len(f.synced) || r.IntN(3) == 0 {
		return f.synced
	}
	out := append([]byte(nil), f.now...)
	for at := len(f.synced); at < len(out); at = (at/page + 1) * page {
		if r.IntN(2) == 0 {
			clear(out[at:min(len(out), (at/page+1)*page)])
		}
	}
	return out[:len(f.synced)+r.IntN(len(out)-len(f.synced)+1)]
}

// cut writes what a power cut leaves into an empty folder. A name that was
// changed and not synced is there or not.
func (c *cutFS) cut(r *rand.Rand, dir string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := map[string]*cutFile{}
	for name, f := range c.names {
		if c.files[name] != nil || r.IntN(2) == 0 {
			left[name] = f
		}
	}
	for name, f := range c.files {
		if c.names[name] == nil && r.IntN(2) == 0 {
			left[name] = f
		}
	}
	for name, f := range left {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), f.remains(r), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// TestPowerCuts cuts the power at a random call of the file system. What was
// acknowledged is there afterwards, in its order; of what was not, each append
// as a whole or not at all; and nothing else. AUDIT_POWER_CUTS says how many
// seeds are tried.
func TestPowerCuts(t *testing.T) {
	trials := 150
	if testing.Short() {
		trials = 50
	}
	if n, err := strconv.Atoi(os.Getenv("AUDIT_POWER_CUTS")); err == nil {
		trials = n
	}
	for seed := range trials {
		if err := powerCut(t, uint64(seed)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// settled decides of what was tried and never acknowledged whether it was on
// the disk, by what is there.
func settled(got, acked, tried []string) ([]string, error) {
	all := slices.Concat(acked, tried)
	switch fmt.Sprint(got) {
	case fmt.Sprint(all):
		return all, nil
	case fmt.Sprint(acked):
		return acked, nil
	}
	return nil, fmt.Errorf("it has %v, want %v and then %v or none of them", got, acked, tried)
}

func powerCut(t *testing.T, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	var acked, tried []string
	id := 0
	for round := range 5 {
		fs, err := newCutFS(dir)
		if err != nil {
			return err
		}
		calls, stop := 0, 1+r.IntN(30)
		dead := func(string) error {
			if calls++; calls >= stop {
				return fmt.Errorf("the power is off")
			}
			return nil
		}
		o := options(dir)
		o.FS, o.MaxFileBytes = &faulty{FS: fs, fail: dead}, 3000
		// The log may lie there as the cut before has left it, and the power may go
		// again while it is mended.
		if l, err := Open(o); err == nil {
			got, err := shown(dir)
			if err == nil {
				acked, err = settled(got, acked, tried)
			}
			if err != nil {
				return fmt.Errorf("round %d, opened: %w", round, err)
			}
			l.Checkpoint(func() (json.RawMessage, error) { return json.Marshal(acked) })
			for {
				var batch []*Record
				tried = nil
				for range 1 + r.IntN(4) {
					id++
					rec := outcome(id)
					batch, tried = append(batch, rec), append(tried, rec.ID)
				}
				if err := l.Append(batch...); err != nil {
					break
				}
				acked = append(acked, tried...)
			}
			_ = l.Close() // the power is off
		}
		next := t.TempDir()
		if err := fs.cut(r, next); err != nil {
			return err
		}
		dir = next
		if r.IntN(2) == 0 {
			continue
		}
		got, err := identities(dir)
		if err == nil {
			acked, err = settled(got, acked, tried)
			tried = nil
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

// identities opens the log anew and returns the results' ids in all of it.
func identities(dir string) ([]string, error) {
	fs, err := newCutFS(dir)
	if err != nil {
		return nil, err
	}
	o := options(dir)
	o.FS = fs
	l, err := Open(o)
	if err != nil {
		return nil, err
	}
	if err := l.Close(); err != nil {
		return nil, err
	}
	rep, err := Verify(dir, nil, nil)
	if err != nil {
		return nil, err
	}
	if !rep.Whole() || rep.Unfinished > 0 {
		return nil, fmt.Errorf("%+v", rep)
	}
	return shown(dir)
}

// shown returns the results' ids in all of the log.
func shown(dir string) (ids []string, err error) {
	err = Show(dir, Filter{}, func(r *Record) error {
		if r.ID != "" {
			ids = append(ids, r.ID)
		}
		return nil
	})
	return ids, err
}
