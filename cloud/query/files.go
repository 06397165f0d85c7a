package query

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"

	"millrace/cloud/catalogue"
	"millrace/cloud/format"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/uploader/file"
)

// maxLines bounds the samples of JSON Lines files that are in memory at once:
// they have no index and come in any order.
const maxLines = 2 << 20

// files reads the directory of a gateway's file sink (docs/file-sink.md). A first
// pass over the files notes where each block is, of which only the header is
// looked at, and reads the gateways' own records.
type files struct {
	*run
	list    []file.Stored
	index   []place // by first
	records records
	strays  strays
	lines   []format.Row // of JSON Lines files, in the order of less
}

// place is where a block is.
type place struct {
	first, last int64
	at          int64
	file, size  int32
}

func newFiles(ctx context.Context, r *run) (*files, error) {
	list, err := file.List(r.store.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("--files: there is no directory %s: name the one that `dir` of the gateway's file sink names", r.store.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("--files: %w", err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("--files: there is no file of a file sink in %s: name the directory that `dir` of the gateway's file sink names", r.store.Dir)
	}
	f := &files{run: r, list: list}
	r.interest.any = true
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	seen := map[[16]byte]bool{}
	boots := map[int][16]byte{}
	for i := range list {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if list[i].Format == file.FormatJSONL {
			err = f.readLines(ctx, i)
		} else {
			err = f.readBlocks(ctx, i, dec, seen, boots)
		}
		if err != nil {
			return nil, err
		}
	}
	if r.Raw {
		f.records.corrections = nil
	}
	if err := f.collectStrays(boots, dec); err != nil {
		return nil, err
	}
	sort.SliceStable(f.index, func(i, j int) bool { return f.index[i].first < f.index[j].first })
	f.sortLines()
	return f, nil
}

func (*files) close() {}

// broken tells what ended the reading of a file, unless it is being written.
func (f *files) broken(i int, err error) error {
	var torn *file.TornError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &torn) && f.list[i].Unfinished:
		return nil // the rest of it is being written
	case errors.As(err, &torn):
		f.tell("files", fmt.Sprintf("%s ends at byte %d: %s; what stands before is read", torn.Path, torn.At, torn.Reason))
		return nil
	case errors.Is(err, os.ErrNotExist):
		return nil // finished under another name, or removed, meanwhile
	case errors.Is(err, context.Canceled):
		return err
	}
	f.tell("files", err.Error())
	return nil
}

func (f *files) readBlocks(ctx context.Context, i int, dec *block.Decoder, seen map[[16]byte]bool, boots map[int][16]byte) error {
	at := int64(magicBytes)
	err := file.ReadFile(f.list[i].Path, func(data []byte) error {
		where := at
		at += recordBytes + int64(len(data))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f.Read != nil {
			f.Read(int64(len(data)))
		}
		h, err := block.ReadHeader(data)
		if err != nil {
			f.tell("unreadable blocks", unreadable(fmt.Sprintf("%s: the block at byte %d", f.list[i].Path, where), err))
			return nil
		}
		id := sha256.Sum256([]byte(h.Identity()))
		key := [16]byte(id[:16])
		if seen[key] {
			return nil // delivered twice
		}
		seen[key] = true
		if h.Stream == ledger.SystemStream {
			b, err := dec.Decode(data)
			if err != nil {
				f.tell("unreadable blocks", unreadable(fmt.Sprintf("%s: the block at byte %d", f.list[i].Path, where), err))
				return nil
			}
			f.records.take(b, func(line string) { f.tell("unreadable records", line) })
		}
		if !slices.ContainsFunc(f.Tags, func(p string) bool { return mayBeOf(p, h.Site) }) {
			return nil
		}
		boots[len(f.index)] = h.Boot
		f.index = append(f.index, place{first: h.First, last: h.Last, at: where, file: int32(i), size: int32(len(data))})
		return nil
	})
	return f.broken(i, err)
}

// The layout of a block file: docs/file-sink.md, "Block files, byte by byte".
const (
	magicBytes  = 8
	recordBytes = 8
)

func (f *files) readLines(ctx context.Context, i int) error {
	w := window{f.From.UnixNano(), f.To.UnixNano()}
	full := errors.New("full")
	err := file.ReadLines(f.list[i].Path, func(s *sample.Sample) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		parts := strings.Split(s.Tag, "/")
		if len(parts) == 3 && parts[2] == ledger.GapName {
			if g, err := ledger.ParseGap(s); err == nil && len(f.records.gaps) < maxGaps {
				f.records.gaps = append(f.records.gaps, format.Gap{Site: parts[0], Gateway: parts[1], Gap: *g})
			}
		}
		if at := s.PrimaryTime(); at < w.from || at >= w.to || !f.fits(s.Tag) {
			return nil
		}
		if len(f.lines) >= maxLines {
			return full
		}
		f.lines = append(f.lines, format.Row{Sample: *s})
		return nil
	})
	if errors.Is(err, full) {
		return fmt.Errorf("--files: the JSON Lines files hold more than %d samples of this range, which must be sorted in memory: ask for a shorter one", maxLines)
	}
	return f.broken(i, err)
}

// sortLines brings the lines in order, each once: a line that was written twice is
// the same in all that it says.
func (f *files) sortLines() {
	sort.SliceStable(f.lines, func(i, j int) bool { return less(&f.lines[i], &f.lines[j]) })
	n := len(f.lines)
	kept := f.lines[:0]
	from := 0 // where those of the same time begin
	for _, row := range f.lines {
		if from < len(kept) && kept[from].PrimaryTime() != row.PrimaryTime() {
			from = len(kept)
		}
		if !slices.Contains(kept[from:], row) {
			kept = append(kept, row)
		}
	}
	f.lines = kept
	f.report.Duplicates += int64(n - len(kept))
}

// collectStrays gathers the samples whose times correction records move.
func (f *files) collectStrays(boots map[int][16]byte, dec *block.Decoder) error {
	if f.records.corrections == nil {
		return nil
	}
	all := window{f.From.UnixNano(), f.To.UnixNano()}
	var reader blockReader
	defer reader.close()
	for i := range f.index {
		if len(f.records.corrections.byBoot[boots[i]]) == 0 {
			continue
		}
		b, err := reader.read(f.list, &f.index[i], dec)
		if err != nil {
			f.tell("files", err.Error())
			continue
		}
		f.strays.take(b, all, f.fits, f.records.corrections)
	}
	if f.strays.full {
		f.tell("strays", fmt.Sprintf("more than %d samples have corrected times in this range, and the rest of them is left out: ask for a shorter one", maxStrays))
	}
	f.strays.sort()
	f.report.Corrected = int64(len(f.strays.rows))
	return nil
}

// blockReader reads blocks from files, the last of which stays open.
type blockReader struct {
	open *os.File
	path string
	buf  []byte
}

func (r *blockReader) close() {
	if r.open != nil {
		_ = r.open.Close() // it was read from
	}
}

func (r *blockReader) read(list []file.Stored, p *place, dec *block.Decoder) (*block.Block, error) {
	path := list[p.file].Path
	if r.path != path {
		r.close()
		var err error
		r.path = ""
		if r.open, err = os.Open(path); err != nil {
			return nil, err
		}
		r.path = path
	}
	r.buf = slices.Grow(r.buf[:0], recordBytes+int(p.size))[:recordBytes+int(p.size)]
	if _, err := r.open.ReadAt(r.buf, p.at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n := binary.LittleEndian.Uint32(r.buf); int64(n) != int64(p.size) {
		return nil, fmt.Errorf("%s: the block at byte %d is not there any more", path, p.at)
	}
	b, err := dec.Decode(r.buf[recordBytes:])
	if err != nil {
		return nil, errors.New(unreadable(fmt.Sprintf("%s: the block at byte %d", path, p.at), err))
	}
	return b, nil
}

// tags implements source, by the catalogue records in the files.
func (f *files) tags(context.Context) ([]Tag, error) {
	known := map[string]Tag{}
	for i := range f.records.entries {
		e := &f.records.entries[i]
		if f.fits(e.Tag) {
			known[e.Tag] = Tag{Name: e.Tag, Unit: e.Unit, Description: e.Description}
			f.interest.add(e)
		}
	}
	for _, pattern := range f.Tags {
		if _, there := known[pattern]; !there && !strings.Contains(pattern, "*") {
			known[pattern] = Tag{Name: pattern}
		}
	}
	if f.ByTag {
		for i := range f.lines {
			if _, there := known[f.lines[i].Tag]; !there {
				known[f.lines[i].Tag] = Tag{Name: f.lines[i].Tag}
			}
		}
	}
	f.interest.any = len(f.interest.tags) == 0
	return sorted(known), nil
}

// windows implements source.
func (f *files) windows(context.Context) []window {
	w := window{f.From.UnixNano(), f.To.UnixNano()}
	if f.Last > 0 {
		return days(w)
	}
	return []window{w}
}

// cursors implements source.
func (f *files) cursors(ctx context.Context, w window, want func(string) bool) ([]cursor, error) {
	take := func(tag string) bool { return f.fits(tag) && want(tag) }
	blocks := f.newChannel(ctx, func(emit func(*format.Row) error) error { return f.read(ctx, w, take, emit) })
	moved := f.strays.within(w, want)
	lines := strays{rows: f.lines}
	return []cursor{blocks, moved, lines.within(w, want)}, nil
}

// read hands over the blocks' rows of a window in the order of time: once a block
// starts at a time, all rows before are complete.
func (f *files) read(ctx context.Context, w window, take func(string) bool, emit func(*format.Row) error) error {
	dec, err := block.NewDecoder()
	if err != nil {
		return err
	}
	var reader blockReader
	defer reader.close()
	var waiting pile
	flush := func(before int64, all bool) error {
		for len(waiting.rows) > 0 && (all || waiting.rows[0].row.PrimaryTime() < before) {
			row := waiting.pop()
			if err := emit(&row); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	for i := range f.index {
		p := &f.index[i]
		if p.first >= w.to {
			break
		}
		if p.last < w.from {
			continue
		}
		if err := flush(p.first, false); err != nil {
			return err
		}
		b, err := reader.read(f.list, p, dec)
		if err != nil {
			f.tell("files", err.Error())
			continue
		}
		f.count(int(p.size))
		f.rows(b, w, take, f.records.corrections, waiting.push)
	}
	return flush(0, true)
}

// gaps implements source.
func (f *files) gaps(_ context.Context, fn func(*format.Gap) error) error {
	for i := range f.records.gaps {
		if err := fn(&f.records.gaps[i]); err != nil {
			return err
		}
	}
	return nil
}

// entryList is a catalogue of what was read.
type entryList []catalogue.Entry

// Entries implements Catalogue.
func (l entryList) Entries(_ context.Context, site string, fn func(*catalogue.Entry) error) error {
	for i := range l {
		if site == "" || l[i].Site == site {
			if err := fn(&l[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
