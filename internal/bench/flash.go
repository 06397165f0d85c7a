package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"millrace/gateway/batch"
	"millrace/spool"
)

const (
	// flashWarm is past the first seal of every stream, at 60 s: from then on
	// the pages of open batches are used again and the file does not grow.
	flashWarm = 70 * time.Second
	// flashTime holds one seal of every stream and its acknowledgement.
	flashTime  = time.Minute
	flashRate  = 200 // samples/s
	volumeSize = 1 << 30
)

// flash measures what 200 samples/s cost the disk, at the defaults: a commit a
// second, blocks of 60 s, acknowledged by a file sink on another disk.
func (b *bench) flash() ([]figure, error) {
	figures, err := b.flashWrites()
	if err != nil {
		return nil, err
	}
	sealed, err := b.sealedTier()
	return append(figures, sealed), err
}

// flashWrites runs the gateway on a volume of its own. Without one, what the
// kernel writes is not measured, and the rest is.
func (b *bench) flashWrites() (_ []figure, err error) {
	disk := figure{name: "200 samples/s, a commit a second, written to disk", unit: "B/sample"}
	fsyncs := figure{name: "  fsync and fdatasync", unit: "a commit"}
	spoolDir := filepath.Join(b.dir, "flash-spool")
	v, missing := newVolume(b.ctx, b.dir, volumeSize)
	var watched *syncs
	if missing == nil {
		defer func() { err = errors.Join(err, v.close()) }()
		spoolDir = filepath.Join(v.dir, "spool")
		if watched, err = watchSyncs(b.ctx, b.dir, v); err == nil {
			defer func() { err = errors.Join(err, watched.close()) }()
		} else {
			fsyncs.missing = err.Error()
		}
	} else {
		v = nil
		disk.missing = missing.Error()
		fsyncs.missing = disk.missing
	}
	servers, err := slaves(2)
	if err != nil {
		return nil, err
	}
	defer closeAll(servers)
	var sources strings.Builder
	for i, s := range servers {
		sources.WriteString(meterConfig(fmt.Sprintf("m%02d", i), s.URL(), "1s", flashRate/len(servers)))
	}
	d, err := b.start(setup{name: "flash", sources: sources.String(), spool: spoolDir})
	if err != nil {
		return nil, err
	}
	defer d.stop()
	pause(b.ctx, flashWarm)
	before, err := b.wear(d, v, watched)
	if err != nil {
		return nil, err
	}
	pause(b.ctx, flashTime)
	w, err := b.wear(d, v, watched)
	if err != nil {
		return nil, err
	}
	w.less(&before)
	if w.samples == 0 || w.commits == 0 || w.delivered == 0 {
		return nil, fmt.Errorf("%.0f samples, %.0f commits and %.0f blocks delivered in %s: %s", w.samples, w.commits, w.delivered, flashTime, tail(d.log))
	}
	if v != nil {
		disk.measured, disk.bar = w.disk/w.samples, 130
		disk.note = fmt.Sprintf("the kernel's count for the device: journal, seals and acknowledgements included; %.0f samples in %s", w.samples, flashTime)
	}
	if watched != nil {
		fsyncs.measured, fsyncs.bar = w.syncs/w.commits, 2
		fsyncs.note = "the kernel's trace point for them, on the same device"
	}
	return []figure{
		disk,
		{name: "  of these, bbolt's pages", measured: w.pages / w.samples, unit: "B/sample", note: "the rest is the journal of ext4"},
		{name: "  commits", measured: w.commits / flashTime.Seconds(), unit: "a second", note: "acknowledgements ride on them"},
		fsyncs,
	}, nil
}

// wear is what a gateway has done to its disk so far.
type wear struct{ samples, commits, pages, delivered, disk, syncs float64 }

func (b *bench) wear(d *daemon, v *volume, s *syncs) (w wear, err error) {
	st, err := d.status(b.ctx)
	if err != nil {
		return w, err
	}
	for _, c := range st.Sources {
		w.samples += float64(c.In)
	}
	w.commits, w.pages = float64(st.Spool.Commits), float64(st.Spool.BytesWritten)
	w.delivered = float64(st.Sinks["out"].Blocks)
	var err1, err2 error
	if v != nil {
		w.disk, err1 = v.written()
	}
	if s != nil {
		w.syncs, err2 = s.count()
	}
	return w, errors.Join(err1, err2)
}

func (w *wear) less(before *wear) {
	w.samples -= before.samples
	w.commits -= before.commits
	w.pages -= before.pages
	w.delivered -= before.delivered
	w.disk -= before.disk
	w.syncs -= before.syncs
}

// sealedBlocks is how many blocks the sealed tier's cost is measured over, after
// some by which the gateway learns how well the values pack.
const (
	sealedSkipped = 3
	sealedBlocks  = 10
)

// sealedTier measures what the sealed blocks of the same plant add: the pages of
// the commits that seal, less those of the commits that do not.
func (b *bench) sealedTier() (figure, error) {
	f := figure{name: "sealed tier, blocks of 60 s", unit: "B/sample", bar: 2}
	var first, open, seals, openPages, sealPages, samples float64
	class := batch.Class{MaxAge: time.Hour, MaxBytes: blockBytes}
	l, err := newLine(b.ctx, filepath.Join(b.dir, "sealed"), 1, time.Hour, class, func(c *spool.Commit, pages uint64) {
		switch {
		case len(c.Blocks) > 0 && c.Blocks[0].Stream != 0 && first < sealedSkipped:
			first++
		case len(c.Blocks) > 0 && c.Blocks[0].Stream != 0:
			seals++
			sealPages += float64(pages)
			samples += float64(c.Blocks[0].Count)
		case len(c.Blocks) == 0:
			open++
			openPages += float64(pages)
		}
	})
	if err != nil {
		return f, err
	}
	for k := 0; seals < sealedBlocks; k++ {
		if err := l.emit(b.ctx, k, true); err != nil {
			return f, errors.Join(err, l.finish())
		}
	}
	f.measured = (sealPages - openPages/open*seals) / samples
	f.note = fmt.Sprintf("bbolt's pages in %.0f seals of %.0f samples on average, over those of a commit without one", seals, samples/seals)
	return f, l.finish()
}

// blockBytes is what a block of a minute of this plant packs to.
const blockBytes = 3400
