package batch

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

const (
	// thinBytes and thinSamples bound what one thinned block replaces, so that
	// thinning takes little memory beside the open batches.
	thinBytes   = 256 << 10
	thinSamples = 40_000
	// thinRuns bounds the runs of one commit interval, thinPause is how long
	// thinning rests after a pass over the backlog that found nothing.
	thinRuns  = 4
	thinPause = time.Minute
	// thinScans is the first window in scans, which is 10 s at least; it doubles
	// up to thinWindow.
	thinScans  = 10
	thinWindow = time.Hour
	// mostKept of 5 samples are what a window may keep to be of use.
	mostKept = 4
	// maxReplaced bounds the ranges of replaced sequences that a stream states.
	maxReplaced = 16
)

// thinner is what thinning keeps between commits.
type thinner struct {
	dec   *block.Decoder
	after uint64 // blocks up to this number were looked at in this pass
	done  bool   // something was replaced in it
	rest  time.Duration
	rows  []thinRow
	buf   []byte
}

// thinRow is a sample of the run that is thinned.
type thinRow struct {
	tag  int
	keep bool
	s    sample.Sample
}

// thin replaces some of the oldest blocks that no sink was handed by thinned
// ones, where room is short and their streams' policy says so. It runs between
// commits.
func (b *Batcher) thin() error {
	t := &b.thinner
	if b.keep.tl.SinceBoot() < t.rest {
		return nil
	}
	for range thinRuns {
		run, err := b.store.Thinnable(t.after, thinBytes)
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		if len(run) == 0 {
			if t.after > 0 && !t.done {
				t.rest = b.keep.tl.SinceBoot() + thinPause
			}
			t.after, t.done = 0, false
			return nil
		}
		used, err := b.thinRun(run)
		var full *spool.FullError
		var attempted *spool.AttemptedError
		switch {
		case errors.As(err, &full):
			return nil // the next commit makes room
		case err != nil && !errors.As(err, &attempted):
			return fmt.Errorf("spool: %w", err)
		}
		t.done = t.done || err == nil && used.replaced
		t.after = run[used.blocks-1].Number
	}
	return nil
}

// thinned says what became of a run: how many of its blocks were looked at, and
// whether they were replaced.
type thinned struct {
	blocks   int
	replaced bool
}

// thinRun replaces the first blocks of a run, those of one day and one clock, by
// one block, where that saves something.
func (b *Batcher) thinRun(run []spool.Block) (thinned, error) {
	t := &b.thinner
	if int(run[0].Stream) >= len(b.streams) {
		return thinned{blocks: len(run)}, nil
	}
	s := b.streams[run[0].Stream]
	tags, head, n := b.unpack(run)
	if n == 0 {
		return thinned{blocks: 1}, nil // it does not read, which its reader will find
	}
	kept, ok := t.choose(s, b.counters(tags))
	if !ok {
		return thinned{blocks: n}, nil
	}
	before := 0
	numbers := make([]uint64, n)
	for i := range numbers {
		numbers[i] = run[i].Number
		before += len(run[i].Data)
	}
	enc := b.encoder
	enc.Reset(tags)
	for i := range t.rows {
		if r := &t.rows[i]; r.keep {
			enc.Add(r.tag, &r.s)
		}
	}
	replaced := s.replaced.with(run[0].Seq, run[n-1].Seq)
	h := block.Header{
		Site: b.o.Site, Gateway: b.o.Gateway, Stream: s.name, Epoch: b.epoch, Seq: s.seq + 1,
		Produced: s.produced, Lost: s.lost, Thinned: s.thinned + uint64(len(t.rows)-kept),
		Boot: head.Boot, Mono: head.Mono, Clock: head.Clock,
	}
	h.ReplacesFrom, h.ReplacesTo = replaced.around(run[0].Seq)
	packed, err := enc.Encode(t.buf[:0], h)
	if errors.Is(err, block.ErrTooLarge) {
		return thinned{blocks: n}, nil
	}
	if err != nil {
		return thinned{}, fmt.Errorf("BUG: a thinned block of stream %s does not pack: %w", s.name, err)
	}
	t.buf = packed
	if len(packed)*5 > before*mostKept || len(packed) > maxBlockBytes {
		return thinned{blocks: n}, nil
	}
	full, err := block.ReadHeader(packed)
	if err != nil {
		return thinned{}, err
	}
	was := *s
	s.seq, s.thinned, s.replaced = h.Seq, h.Thinned, replaced.newest()
	err = b.store.Replace(&spool.Replacement{
		Block: spool.Block{
			Stream: s.id, Seq: h.Seq, Count: uint32(full.Count), First: full.First, Last: full.Last, Data: slices.Clone(packed),
		},
		Numbers: numbers, Meta: []spool.KV{s.meta()},
	})
	if err != nil {
		s.seq, s.thinned, s.replaced = was.seq, was.thinned, was.replaced
		return thinned{blocks: n}, err
	}
	b.countThinned(len(t.rows) - kept)
	return thinned{blocks: n, replaced: true}, nil
}

// unpack decodes the blocks of a run from the first on that may become one: of
// one UTC day, stamped by one clock, and not too many. It returns the tags, the
// first block's header and the number of blocks.
func (b *Batcher) unpack(run []spool.Block) (tags []string, head block.Header, n int) {
	t := &b.thinner
	t.rows = t.rows[:0]
	index := map[string]int{}
	for i := range run {
		if i > 0 && (dayOf(run[i].First) != dayOf(run[0].First) || len(t.rows)+int(run[i].Count) > thinSamples) {
			break
		}
		d, err := t.dec.Decode(run[i].Data)
		if err != nil {
			break
		}
		if i == 0 {
			head = d.Header
		}
		if d.Boot != head.Boot || d.Mono != head.Mono || d.Clock != head.Clock {
			break
		}
		n++
		for v := range d.All() {
			at, known := index[v.Tag]
			if !known {
				at = len(tags)
				index[v.Tag] = at
				tags = append(tags, v.Tag)
			}
			t.rows = append(t.rows, thinRow{tag: at, s: v})
		}
	}
	slices.SortStableFunc(t.rows, func(a, b thinRow) int {
		return cmp.Or(cmp.Compare(a.s.PrimaryTime(), b.s.PrimaryTime()), cmp.Compare(a.tag, b.tag))
	})
	return tags, head, n
}

// counters says of each tag whether every reading counts.
func (b *Batcher) counters(tags []string) []bool {
	out := make([]bool, len(tags))
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, name := range tags {
		// Of a tag that is not configured any more nobody can tell.
		e := b.entries[name]
		out[i] = e == nil || e.counter
	}
	return out
}

// choose marks the rows that are kept, with the smallest window that saves a
// fifth of them, and returns how many that are; false where none does.
func (t *thinner) choose(s *stream, counters []bool) (kept int, ok bool) {
	window := max(thinScans*s.origin.ScanRate, 10*time.Second)
	for {
		kept = keepRows(t.rows, counters, int64(window))
		if kept*5 <= len(t.rows)*mostKept {
			return kept, true
		}
		if window *= 2; window > thinWindow {
			return 0, false
		}
	}
}

// tagWindow is what is known of a tag while its rows are looked at, by time.
type tagWindow struct {
	any              bool
	window           int64
	last, least, top int // rows of the window; least and top are -1 where it has no number
	low, high        float64
}

// keepRows marks the rows that thinning keeps, and returns their number: of
// each tag and window the first, last, least and greatest value; all of a
// counter; whatever is Bad; each change of quality, of kind, or of a value that
// is no number. Windows are counted from the Unix epoch, so that one twice as
// long holds two whole ones: what was thinned before can be thinned again.
// Rows rise by their time.
func keepRows(rows []thinRow, counters []bool, window int64) (kept int) {
	state := make([]tagWindow, len(counters))
	keep := func(i int) {
		if i >= 0 && !rows[i].keep {
			rows[i].keep = true
			kept++
		}
	}
	end := func(w *tagWindow) {
		keep(w.last)
		keep(w.least)
		keep(w.top)
	}
	for i := range rows {
		rows[i].keep = false
	}
	for i := range rows {
		r := &rows[i]
		w := &state[r.tag]
		in := windowOf(r.s.PrimaryTime(), window)
		number, isNumber := r.s.Value.Number()
		isNumber = isNumber && !math.IsNaN(number) && r.s.Value.Kind() != sample.Bool
		switch {
		case !w.any || w.window != in:
			if w.any {
				end(w)
			}
			*w = tagWindow{any: true, window: in, least: -1, top: -1}
			keep(i)
		case counters[r.tag], r.s.Quality.IsBad(), changes(&rows[w.last].s, &r.s):
			keep(i)
		}
		w.last = i
		if !isNumber || r.s.Quality.IsBad() {
			continue
		}
		if w.least < 0 || number < w.low {
			w.least, w.low = i, number
		}
		if w.top < 0 || number > w.high {
			w.top, w.high = i, number
		}
	}
	for i := range state {
		if state[i].any {
			end(&state[i])
		}
	}
	return kept
}

func windowOf(ns, window int64) int64 {
	w := ns / window
	if ns < 0 && ns%window != 0 {
		w--
	}
	return w
}

// changes reports whether a sample differs from the one before in what is no
// measured value.
func changes(before, s *sample.Sample) bool {
	kind := s.Value.Kind()
	if before.Quality != s.Quality || before.Value.Kind() != kind {
		return true
	}
	return kind != sample.Float64 && kind != sample.Int64 && before.Value != s.Value
}

// replaced are sequences of a stream that never come, since thinned blocks stand
// for them: ranges that rise and do not touch.
type replaced []ledger.Range

// with adds a range.
func (r replaced) with(from, to uint64) replaced {
	out := make(replaced, 0, len(r)+1)
	for _, o := range r {
		if o.To+1 < from || to+1 < o.From {
			out = append(out, o)
			continue
		}
		from, to = min(from, o.From), max(to, o.To)
	}
	out = append(out, ledger.Range{From: from, To: to})
	slices.SortFunc(out, func(a, b ledger.Range) int { return cmp.Compare(a.From, b.From) })
	return out
}

// around is the range that has a sequence.
func (r replaced) around(seq uint64) (from, to uint64) {
	for _, o := range r {
		if o.From <= seq && seq <= o.To {
			return o.From, o.To
		}
	}
	return 0, 0
}

// newest are those that a stream states: heartbeats have told of the others.
func (r replaced) newest() replaced { return r[max(0, len(r)-maxReplaced):] }

// countThinned counts samples that were thinned out.
func (b *Batcher) countThinned(samples int) {
	b.mu.Lock()
	first := b.thinnedOut == 0
	b.thinnedOut += uint64(samples)
	b.mu.Unlock()
	if first {
		b.o.Log.Warn("the spool is nearly full: the oldest samples that no sink was handed are thinned out, as their sources' when_full says; see to the sinks, or raise spool.max_size")
	}
}

// Thinned is the number of samples that were thinned out since the start.
func (b *Batcher) Thinned() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.thinnedOut
}
