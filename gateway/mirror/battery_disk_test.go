package mirror_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"millrace/gateway/mirror/audit"
	"millrace/sample"
)

// record is what the oracle reads of one line of the audit log.
type record struct {
	N       uint64        `json:"n"`
	At      time.Time     `json:"at"`
	Kind    string        `json:"kind"`
	Target  string        `json:"target"`
	Feed    string        `json:"feed"`
	Message string        `json:"message"`
	ID      string        `json:"id"`
	Version uint64        `json:"version"`
	Outcome string        `json:"outcome"`
	Reason  string        `json:"reason"`
	New     *audit.Value  `json:"new"`
	Prev    string        `json:"prev"`
	Hash    string        `json:"hash"`
	Value   *sample.Value `json:"-"`
}

// intake reports whether it was made as the message came, and not by the
// target's worker later on.
func (r *record) intake() bool { return r.Feed != "" }

type intentKey struct {
	target  string
	version uint64
}

// disk is the folder of the audit log. What was written and not synced is lost
// in a power cut, in part or as a whole; a kill takes nothing. Its fields are
// guarded by the world's lock.
type disk struct {
	w     *world
	dir   string
	files map[string]*content // by name
	names map[string]bool     // that are there after a power cut, too

	full     bool // no room
	fills    history
	failing  bool // the next sync fails, for good
	broken   bool // one has
	lies     bool // a sync does nothing: the battery must notice
	forgets  bool // a power cut takes what was synced as well: likewise
	noChain  bool // the log is not in order, and nobody asks
	lastN    uint64
	lastHash string

	// What is durable.
	records  []record
	intents  map[intentKey]int // intents, by target and version
	decided  map[string]bool   // messages whose outcome, or whole result, is there
	messages uint64
}

// content is one file's.
type content struct {
	name        string
	now, synced []byte
}

func newDisk(w *world, dir string) *disk {
	return &disk{w: w, dir: dir, files: map[string]*content{}, names: map[string]bool{}, intents: map[intentKey]int{}, decided: map[string]bool{}}
}

func (d *disk) unique() uint64 {
	d.messages++
	return d.messages
}

// fill takes all room, or gives it back.
func (d *disk) fill(full bool) {
	if d.full != full {
		d.full = full
		d.fills.set(d.w.clock.Now(), "", map[bool]string{true: "full", false: ""}[full])
	}
}

// isBroken reports whether a sync has failed, so that the log is closed.
func (d *disk) isBroken() bool {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return d.broken
}

// durable notes lines that are there for good, and holds them to the chain.
func (d *disk) durable(text []byte) {
	for line := range bytes.Lines(text) {
		const tail = 75 // ,"hash":"…"} with 64 digits
		line = bytes.TrimSuffix(line, []byte("\n"))
		var r record
		if err := json.Unmarshal(line, &r); err != nil || len(line) < tail {
			d.w.fault("a line of the audit log does not read: %v: %.100q", err, line)
			return
		}
		sum := sha256.Sum256(line[:len(line)-tail])
		if !d.noChain && (r.N != d.lastN+1 || r.Prev != d.lastHash || r.Hash != hex.EncodeToString(sum[:])) {
			d.w.fault("record %d does not follow on record %d", r.N, d.lastN)
		}
		d.lastN, d.lastHash = r.N, r.Hash
		if r.New != nil {
			r.Value = &r.New.Value
		}
		d.records = append(d.records, r)
		if r.Kind == "intent" {
			d.intents[intentKey{r.Target, r.Version}]++
		}
		if r.Message != "" && (r.Kind == "outcome" || r.Kind == "held") {
			d.decided[r.Message] = true
		}
	}
}

// powerCut is what the disk holds after one: of what was not synced, a part.
func (d *disk) powerCut() error {
	rnd := d.w.rnd
	for name, c := range d.files {
		if d.forgets {
			c.synced = c.synced[:bytes.LastIndexByte(c.synced[:len(c.synced)/2], '\n')+1]
			c.now = c.synced
		}
		rest := c.now[len(c.synced):]
		left := bytes.Clone(rest[:rnd.IntN(len(rest)+1)])
		if len(left) > 512 && rnd.IntN(3) == 0 { // a sector that is not there
			at := rnd.IntN(len(left)/512) * 512
			clear(left[at : at+512])
		}
		c.now = append(bytes.Clone(c.synced), left...)
		if !d.names[name] && rnd.IntN(2) == 0 {
			delete(d.files, name)
			if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
				return err
			}
			continue
		}
		if !d.names[name] && filepath.Ext(name) == ".jsonl" {
			d.durable(c.synced)
		}
		d.names[name] = true
		if err := os.WriteFile(filepath.Join(d.dir, name), c.now, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// diskOf is the disk as one engine sees it: the audit log's file system.
type diskOf struct {
	l *life
	d *disk
}

// do does one thing to the disk, unless the engine was killed.
func (o *diskOf) do(what func() error) error {
	o.d.w.mu.Lock()
	defer o.d.w.mu.Unlock()
	happens, seen := o.l.effect()
	var err error
	if happens {
		err = what()
	}
	if !seen {
		return errKilled
	}
	return err
}

// fileOf is one file as one engine sees it.
type fileOf struct {
	*diskOf
	c    *content
	real *os.File
}

func (o *diskOf) open(path string, flags int) (audit.File, error) {
	f, name := &fileOf{diskOf: o}, filepath.Base(path)
	err := o.do(func() (err error) {
		if o.d.full && flags&os.O_CREATE != 0 {
			return syscall.ENOSPC
		}
		f.real, err = os.OpenFile(path, flags|os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil && o.d.files[name] == nil {
			o.d.files[name] = &content{name: name}
		}
		f.c = o.d.files[name]
		return err
	})
	if err != nil {
		if f.real != nil {
			_ = f.real.Close() // it was killed just after
		}
		return nil, err
	}
	return f, nil
}

// Create implements audit.FS.
func (o *diskOf) Create(path string) (audit.File, error) {
	return o.open(path, os.O_CREATE|os.O_EXCL)
}

// Append implements audit.FS.
func (o *diskOf) Append(path string) (audit.File, error) { return o.open(path, 0) }

// Rename implements audit.FS.
func (o *diskOf) Rename(from, to string) error {
	return o.do(func() error {
		a, b := filepath.Base(from), filepath.Base(to)
		o.d.files[b] = o.d.files[a]
		o.d.files[b].name = b
		delete(o.d.files, a)
		delete(o.d.names, a)
		return os.Rename(from, to)
	})
}

// Remove implements audit.FS.
func (o *diskOf) Remove(path string) error {
	return o.do(func() error {
		delete(o.d.files, filepath.Base(path))
		delete(o.d.names, filepath.Base(path))
		return os.Remove(path)
	})
}

// SyncDir implements audit.FS. What a new file begins with counts from here on.
func (o *diskOf) SyncDir(string) error {
	return o.do(func() error {
		for name, c := range o.d.files {
			if !o.d.names[name] && filepath.Ext(name) == ".jsonl" {
				o.d.durable(c.synced)
			}
			o.d.names[name] = true
		}
		return nil
	})
}

// Write implements audit.File.
func (f *fileOf) Write(b []byte) (n int, err error) {
	err = f.do(func() error {
		if f.d.full {
			n = len(b) / 2
			err := f.add(b[:n])
			return errors.Join(syscall.ENOSPC, err)
		}
		n = len(b)
		return f.add(b)
	})
	return n, err
}

func (f *fileOf) add(b []byte) error {
	f.c.now = append(f.c.now[:len(f.c.now):len(f.c.now)], b...)
	_, err := f.real.Write(b)
	return err
}

// Sync implements audit.File.
func (f *fileOf) Sync() error {
	return f.do(func() error {
		if f.d.failing {
			f.d.failing, f.d.broken = false, true
			return syscall.EIO
		}
		if f.d.lies {
			return nil
		}
		if filepath.Ext(f.c.name) == ".jsonl" && f.d.names[f.c.name] {
			f.d.durable(f.c.now[len(f.c.synced):])
		}
		f.c.synced = f.c.now
		return nil
	})
}

// Truncate implements audit.File.
func (f *fileOf) Truncate(size int64) error {
	return f.do(func() error {
		f.c.now = f.c.now[:size:size]
		if int(size) < len(f.c.synced) {
			if !f.d.forgets {
				f.d.w.fault("%s is cut off at %d, and %d bytes of it were durable", f.c.name, size, len(f.c.synced))
			}
			f.c.synced = f.c.now
		}
		return f.real.Truncate(size)
	})
}

// Close implements audit.File.
func (f *fileOf) Close() error { return f.real.Close() }
