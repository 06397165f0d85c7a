package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

const dayLength = int64(24 * time.Hour)

// What a file of samples notes of itself, so that a run after one that did not
// come to its manifest finds the days that are whole.
const (
	noteTable      = "millrace.table"
	noteBlocks     = "millrace.blocks" // the day's hash
	notePart       = "millrace.part"   // from 0
	noteLast       = "millrace.last"   // true on the last part
	noteDuplicates = "millrace.duplicates"
)

// layout is part of each day's hash: what is written in another way another
// time is written anew.
const layout = "millrace samples 1\n"

// partsOf is how many numbers of parts each week's table has in a day: the
// blocks of several weeks may have samples of one day, and each table's files
// are its own.
const partsOf = 1000

// firstPart is the number of the first part that a table has in a day: 0 in the
// days of its own week, 2000 in those of the next, which a block may reach into,
// 1000 in those of the week before, and so on.
func firstPart(start time.Time, day int64) int {
	const week = 7 * 24 * time.Hour
	away := time.Unix(0, day).Sub(start) / week
	if day < start.UnixNano() {
		away = -((start.Sub(time.Unix(0, day)) + week - 1) / week)
	}
	if away < 0 {
		return int(-2*away-1) * partsOf
	}
	return int(2*away) * partsOf
}

// plan adds up what is in the store, and the hashes of its days.
func (r *run) plan(ctx context.Context) (*manifest.Sum, []*day, error) {
	sum := manifest.NewSum()
	days := r.store.sorted()
	for _, d := range days {
		var digests [][sha256.Size]byte
		err := r.store.each(d, func(e *entry) error {
			digests = append(digests, e.digest)
			h, err := block.ReadHeader(e.data)
			if err != nil {
				return err
			}
			d.blocks++
			d.samples += int64(h.Count)
			// A block is in the files of all its days, and is counted in one.
			if !e.late && d.day == firstDay(&h) {
				crc := weektable.Checksum(e.data)
				pk, sk := weektable.Keys(&h, crc)
				sum.Add(pk, sk, crc, h.Count)
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, nil, err
		}
		d.hash = hashOf(layout, digests)
	}
	return sum, days, nil
}

func firstDay(h *block.Header) int64 { return lake.Day(h.First).UnixNano() }

// hashOf is over a text and digests in ascending order.
func hashOf(text string, digests [][sha256.Size]byte) string {
	slices.SortFunc(digests, func(a, b [sha256.Size]byte) int { return slices.Compare(a[:], b[:]) })
	h := sha256.New()
	h.Write([]byte(text))
	for i := range digests {
		h.Write(digests[i][:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// build brings the files of all days into place, and names them in m.
func (r *run) build(ctx context.Context, m *manifest.Manifest, days []*day) error {
	total := int64(0)
	for _, d := range days {
		total += d.samples
	}
	r.o.Progress.Phase("archived", "samples", total)
	var mu sync.Mutex
	bad := &bad{}
	queue := make(chan *day, len(days))
	for _, d := range days {
		queue <- d
	}
	close(queue)
	err := parallel(ctx, min(workers(), max(1, len(days))), func(ctx context.Context, _ int) error {
		for d := range queue {
			if ctx.Err() != nil {
				return nil
			}
			md, files, err := r.day(ctx, d, bad)
			if err != nil {
				return fmt.Errorf("site %s, %s: %w", d.site, d.date(), err)
			}
			mu.Lock()
			m.Days, m.Files = append(m.Days, md), append(m.Files, files...)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := bad.err(); err != nil {
		return errors.Join(err, r.store.remove())
	}
	sortManifest(m)
	return nil
}

func sortManifest(m *manifest.Manifest) {
	slices.SortFunc(m.Days, func(a, b manifest.Day) int { return slices.Compare([]string{a.Site, a.Date}, []string{b.Site, b.Date}) })
	slices.SortFunc(m.Files, func(a, b manifest.File) int { return slices.Compare([]string{a.Key}, []string{b.Key}) })
}

// day brings the files of one day into place: those that are there, if they are
// of the same blocks and whole, else new ones.
func (r *run) day(ctx context.Context, d *day, bad *bad) (manifest.Day, []manifest.File, error) {
	md := manifest.Day{Site: d.site, Date: d.date(), Blocks: d.blocks, Hash: d.hash}
	present, err := r.present(ctx, d)
	if err != nil {
		return md, nil, err
	}
	files, found, err := r.kept(ctx, d, present, &md)
	if err != nil {
		return md, nil, err
	}
	if found {
		r.mark(func() { r.report.Kept++ })
		r.o.Progress.Add(d.samples)
		return md, files, nil
	}
	p := &parts{run: r, day: d, first: firstPart(r.start, d.day)}
	if err := r.sortDay(ctx, d, p, bad, &duplicates{limit: r.limits.seen}); err != nil {
		return md, nil, errors.Join(err, p.remove())
	}
	if bad.seen() {
		return md, nil, p.remove()
	}
	md.Rows, md.Duplicates = p.rows, p.duplicates
	if files, err = p.upload(ctx); err != nil {
		return md, nil, err
	}
	// Parts that the day had more of before are of no use now.
	for _, key := range present {
		if !slices.ContainsFunc(files, func(f manifest.File) bool { return f.Key == key }) {
			if err := r.o.Place.Delete(ctx, key); err != nil {
				return md, nil, fmt.Errorf("delete %s, which is replaced: %w", key, err)
			}
		}
	}
	r.mark(func() { r.report.Days++ })
	r.o.Log.Info("day archived", "table", r.table, "site", d.site, "date", d.date(), "rows", md.Rows, "duplicates", md.Duplicates, "files", len(files), "bytes", sizeOf(files))
	return md, files, nil
}

// mark changes the report, of which days that are done at once are a part.
func (r *run) mark(change func()) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	change()
}

// present lists the keys of the table's files of a day, in order of their parts.
func (r *run) present(ctx context.Context, d *day) (keys []string, err error) {
	first := firstPart(r.start, d.day)
	err = r.o.Place.List(ctx, lake.SamplesPrefix(d.site, d.at()), func(key string, _ int64) error {
		if k, ok := lake.ParseKey(key); ok && k.Part >= first && k.Part < first+partsOf {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", lake.SamplesPrefix(d.site, d.at()), err)
	}
	return keys, nil
}

// kept returns the files of a day that may stay, and says in md what they hold.
func (r *run) kept(ctx context.Context, d *day, present []string, md *manifest.Day) ([]manifest.File, bool, error) {
	if files, ok := r.ofOld(d, md); ok {
		check := manifest.Manifest{Files: files}
		err := check.CheckFiles(ctx, r.o.Place, nil)
		if err == nil {
			return files, true, nil
		}
		if ctx.Err() != nil {
			return nil, false, err
		}
		r.o.Log.Warn("a day's files are not those of the manifest; they are written anew", "table", r.table, "site", d.site, "date", d.date(), "error", oneLine(err))
		return nil, false, nil
	}
	// A run that did not come to its manifest may have written the day.
	var files []manifest.File
	last := false
	for i, key := range present {
		f, info, err := r.inspect(ctx, key)
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		if err != nil || info.Notes[noteTable] != r.table || info.Notes[noteBlocks] != d.hash || info.Notes[notePart] != strconv.Itoa(i) || last {
			return nil, false, nil //nolint:nilerr // what is no whole file of the day is written anew
		}
		last = info.Notes[noteLast] == "true"
		n, _ := strconv.ParseInt(info.Notes[noteDuplicates], 10, 64)
		md.Rows, md.Duplicates = md.Rows+info.Rows, md.Duplicates+n
		files = append(files, f)
	}
	if !last {
		md.Rows, md.Duplicates = 0, 0
		return nil, false, nil
	}
	return files, true, nil
}

// ofOld returns the files that the manifest has of a day of the same blocks.
func (r *run) ofOld(d *day, md *manifest.Day) (files []manifest.File, ok bool) {
	if r.old == nil {
		return nil, false
	}
	i := slices.IndexFunc(r.old.Days, func(o manifest.Day) bool { return o.Site == d.site && o.Date == d.date() })
	if i < 0 || r.old.Days[i].Hash != d.hash {
		return nil, false
	}
	*md = r.old.Days[i]
	return filesOf(r.old, d), true
}

// filesOf are the files of a day's samples in a manifest.
func filesOf(m *manifest.Manifest, d *day) (files []manifest.File) {
	for _, f := range m.Files {
		if k, ok := lake.ParseKey(f.Key); ok && k.Kind == lake.Samples && k.Site == d.site && k.Day.Equal(d.at()) {
			files = append(files, f)
		}
	}
	return files
}

// inspect reads a file of the archive whole, and what it notes of itself.
func (r *run) inspect(ctx context.Context, key string) (manifest.File, lake.Info, error) {
	name, f, err := r.download(ctx, key)
	if err != nil {
		return f, lake.Info{}, err
	}
	var info lake.Info
	err = withFile(name, func(in *os.File, size int64) error {
		info, err = lake.ReadInfo(in, size)
		return err
	})
	f.Rows = info.Rows
	return f, info, errors.Join(err, os.Remove(name))
}

// sortDay writes the samples of a day's blocks in order, each once.
func (r *run) sortDay(ctx context.Context, d *day, p *parts, bad *bad, twice *duplicates) (err error) {
	dir, err := os.MkdirTemp(r.store.work(), "sort-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newSorter(r.limits, dir, d.day, d.day+dayLength)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.codec.close()) }()
	dec, err := block.NewDecoder()
	if err != nil {
		return err
	}
	err = r.store.each(d, func(e *entry) error {
		b, err := dec.Decode(e.data)
		if err == nil {
			err = s.add(b)
		}
		if unreadable := b == nil || errors.Is(err, errOutside); err != nil && unreadable {
			bad.add(r, "block "+hex.EncodeToString(e.digest[:8])+" of "+d.String(), err)
			return nil
		}
		if err != nil {
			return err
		}
		return ctx.Err()
	})
	if err != nil || bad.seen() {
		return err
	}
	return r.drain(ctx, s, p, twice)
}

// drain writes what is sorted.
func (r *run) drain(ctx context.Context, s *sorter, p *parts, twice *duplicates) (err error) {
	from, err := s.merged()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	r.writing.Lock()
	defer r.writing.Unlock()
	n := int64(0)
	for {
		row, err := from.next()
		if isEnd(err) {
			r.o.Progress.Add(n)
			p.duplicates = twice.count
			return p.end()
		}
		if err != nil {
			return err
		}
		if n++; n == 1<<16 {
			r.o.Progress.Add(n)
			n = 0
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if twice.is(row) {
			continue
		}
		if err := p.write(row); err != nil {
			return err
		}
	}
}

// seen reports whether anything could not be read.
func (b *bad) seen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count > 0
}

// withFile opens a file to be read at any place.
func withFile(name string, fn func(f *os.File, size int64) error) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return fn(f, info.Size())
}

// temp makes a file for what is on its way.
func (r *run) temp(pattern string) (*os.File, error) {
	return os.CreateTemp(filepath.Clean(r.store.work()), pattern)
}
