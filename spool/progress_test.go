package spool

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// slowDisk counts how long a job takes on a disk of 1 MB/s, and how long it says
// nothing meanwhile.
type slowDisk struct {
	now           time.Duration
	said, silence time.Duration
	left          int
	synced        int64
}

func (d *slowDisk) works(bytes int64) {
	d.now += time.Duration(bytes) * time.Second / 1_000_000
	d.silence = max(d.silence, d.now-d.said)
}

func (d *slowDisk) progress(bytes int) {
	d.works(int64(bytes))
	if d.left -= bytes; d.left <= 0 { // as ProbeMain
		d.left, d.said = progressEvery, d.now
	}
}

func (d *slowDisk) sync(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.works(info.Size() - d.synced)
	d.synced = info.Size()
	return nil
}

// A child on a slow disk says now and then that it gets on, whether it reads or
// writes, and is not taken to hang.
func TestASlowDiskIsNoStall(t *testing.T) {
	w := newWorld(t)
	w.o.SegmentBytes, w.o.MaxBytes = 64<<20, 256<<20
	w.open()
	for range 26 {
		c := &Commit{}
		for range 4 {
			c.Blocks = append(c.Blocks, w.block(1, 600<<10))
		}
		w.commit(c)
	}
	w.close()
	path := segmentPath(w.o.Dir, 1)
	for what, limit := range map[string]time.Duration{"": probeStall, filepath.Join(t.TempDir(), "new"): salvageStall} {
		j := probeJob{Path: path, Role: roleTail, ID: 1, Salvage: what}
		d := &slowDisk{left: progressEvery}
		j.sync = d.sync
		if r := j.run(d.progress); r.Verdict != verdictGood || what != "" && r.Blocks != 104 {
			t.Fatalf("report %+v", r)
		}
		if d.silence > limit/2 {
			t.Errorf("%q: it says nothing for %v, and is taken to hang after %v", what, d.silence, limit)
		}
		if d.now < time.Minute {
			t.Errorf("%q: all took %v: the disk is not slow", what, d.now)
		}
		if info, err := os.Stat(what); what != "" && (err != nil || info.Size() != d.synced) {
			t.Errorf("%d bytes are synced of %v, %v", d.synced, info.Size(), err)
		}
	}
}
