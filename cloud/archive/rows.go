package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"millrace/cloud/lake"
	"millrace/sample"
	"millrace/sample/block"
)

// row is a sample in the sorter's memory. Texts are indices.
type row struct {
	at, time, source         int64 // primary time, gateway's, device's
	bits, seq                uint64
	tag, who, producer, text uint32
	quality                  sample.Quality
	kind                     sample.Kind
}

// who is a gateway and one of its streams.
type who struct{ gateway, stream string }

// names gives texts a number.
type names[T comparable] struct {
	list  []T
	index map[T]uint32
}

func (n *names[T]) of(v T) uint32 {
	if i, ok := n.index[v]; ok {
		return i
	}
	if n.index == nil {
		n.index = map[T]uint32{}
	}
	i := uint32(len(n.list))
	n.index[v] = i
	n.list = append(n.list, v)
	return i
}

// sorter sorts the samples of one day by tag and time, with bounded memory: what
// does not fit goes to sorted runs on the disk, which are merged.
type sorter struct {
	limits   limits
	dir      string // for the runs
	from, to int64  // of the primary time, ns
	codec    *spillCodec

	rows, spare []row
	tags        names[string]
	producers   names[string]
	whos        names[who]
	texts       []string
	textBytes   int
	runs        []string // files
	made        int      // runs so far
	total       int64
}

func newSorter(l limits, dir string, from, to int64) (*sorter, error) {
	codec, err := newSpillCodec()
	if err != nil {
		return nil, err
	}
	return &sorter{limits: l, dir: dir, from: from, to: to, codec: codec}, nil
}

// errOutside says that a block's header is not that of its samples.
var errOutside = errors.New("it has a sample outside of its own times")

func instant(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// add takes the samples of a block that are of the day. Those of others are left
// to these, which the block's header tells: a sample outside of the header's times
// would be in no file at all, and is an error.
func (s *sorter) add(b *block.Block) error {
	w, nobody := s.whos.of(who{b.Gateway, b.Stream}), s.producers.of("")
	for c := range b.Columns {
		col := &b.Columns[c]
		tag := s.tags.of(col.Tag)
		for i := range col.N {
			r := row{time: col.Times[i], at: col.Times[i], tag: tag, who: w, kind: col.Kinds[i], bits: col.Bits[i]}
			if col.SourceTimes != nil && col.SourceTimes[i] != 0 {
				r.source, r.at = col.SourceTimes[i], col.SourceTimes[i]
			}
			if r.at < s.from || r.at >= s.to {
				if r.at < b.First || r.at > b.Last {
					return fmt.Errorf("%w: of %s at %s, and its header says %s to %s", errOutside, col.Tag, instant(r.at), instant(b.First), instant(b.Last))
				}
				continue
			}
			if col.Quality != nil {
				r.quality = col.Quality[i]
			}
			if r.producer = nobody; col.Producers != nil {
				r.producer, r.seq = s.producers.of(col.Producers[i]), col.Seqs[i]
			}
			if r.kind == sample.String {
				r.bits, r.text = 0, uint32(len(s.texts))
				s.texts = append(s.texts, col.Strs[i])
				s.textBytes += len(col.Strs[i]) + 16
			}
			s.rows = append(s.rows, r)
			s.total++
			if len(s.rows) >= s.limits.rows || s.textBytes >= s.limits.textBytes {
				if err := s.spill(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sort brings the rows in memory into order.
func (s *sorter) sort() {
	// By tag first, which has few values; within a tag they mostly are in order.
	order := make([]uint32, len(s.tags.list))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return strings.Compare(s.tags.list[a], s.tags.list[b]) })
	starts := make([]int, len(order)+1)
	for i := range s.rows {
		starts[s.rows[i].tag]++
	}
	at := 0
	for _, tag := range order {
		n := starts[tag]
		starts[tag] = at
		at += n
	}
	s.spare = slices.Grow(s.spare[:0], len(s.rows))[:len(s.rows)]
	for i := range s.rows {
		tag := s.rows[i].tag
		s.spare[starts[tag]] = s.rows[i]
		starts[tag]++
	}
	from := 0
	for _, tag := range order {
		part := s.spare[from:starts[tag]]
		if !slices.IsSortedFunc(part, s.compare) {
			slices.SortFunc(part, s.compare)
		}
		from = starts[tag]
	}
	s.rows, s.spare = s.spare, s.rows
}

// compare orders rows of one tag. Everything of a row counts, so that the same
// samples make the same file, in whatever order they were read.
func (s *sorter) compare(a, b row) int {
	if c := cmp.Compare(a.at, b.at); c != 0 {
		return c
	}
	if a.who != b.who {
		x, y := s.whos.list[a.who], s.whos.list[b.who]
		return cmp.Or(strings.Compare(x.gateway, y.gateway), strings.Compare(x.stream, y.stream))
	}
	c := cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.source, b.source), cmp.Compare(a.kind, b.kind), cmp.Compare(a.bits, b.bits),
		cmp.Compare(a.quality, b.quality), cmp.Compare(a.seq, b.seq))
	if c != 0 {
		return c
	}
	if a.producer != b.producer {
		return strings.Compare(s.producers.list[a.producer], s.producers.list[b.producer])
	}
	if a.kind != sample.String {
		return 0
	}
	return strings.Compare(s.texts[a.text], s.texts[b.text])
}

// compareRows orders as the sorter does, rows of any tags.
func compareRows(a, b *lake.Row) int {
	if c := strings.Compare(a.Tag, b.Tag); c != 0 {
		return c
	}
	if c := cmp.Compare(a.PrimaryTime(), b.PrimaryTime()); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(a.Gateway, b.Gateway), strings.Compare(a.Stream, b.Stream),
		cmp.Compare(a.Time, b.Time), cmp.Compare(a.SourceTime, b.SourceTime), cmp.Compare(a.Value.Kind(), b.Value.Kind()), cmp.Compare(a.Value.Bits(), b.Value.Bits()),
		cmp.Compare(a.Quality, b.Quality), cmp.Compare(a.Seq, b.Seq), strings.Compare(a.Producer, b.Producer), strings.Compare(a.Value.Str(), b.Value.Str()))
}

// get sets out from a row.
func (s *sorter) get(r *row, out *lake.Row) {
	w := s.whos.list[r.who]
	*out = lake.Row{Sample: sample.Sample{Tag: s.tags.list[r.tag], Quality: r.quality, Time: r.time, SourceTime: r.source,
		Producer: s.producers.list[r.producer], Seq: r.seq}, Gateway: w.gateway, Stream: w.stream}
	text := ""
	if r.kind == sample.String {
		text = s.texts[r.text]
	}
	out.Value = valueOf(r.kind, r.bits, text)
}

func valueOf(k sample.Kind, bits uint64, text string) sample.Value {
	switch k {
	case sample.Float64:
		return sample.FloatValue(floatOf(bits))
	case sample.Int64:
		return sample.IntValue(int64(bits))
	case sample.Bool:
		return sample.BoolValue(bits != 0)
	case sample.String:
		return sample.StringValue(text)
	case sample.Null:
	}
	return sample.Value{}
}

// rowSource hands over rows in order, and io.EOF at the end. The row is
// overwritten by the next.
type rowSource interface {
	next() (*lake.Row, error)
	close() error
}

// memory is the source of the rows that are in memory.
type memory struct {
	s   *sorter
	at  int
	row lake.Row
}

func (m *memory) next() (*lake.Row, error) {
	if m.at == len(m.s.rows) {
		return nil, io.EOF
	}
	m.s.get(&m.s.rows[m.at], &m.row)
	m.at++
	return &m.row, nil
}

func (*memory) close() error { return nil }

// spill writes the rows in memory to a sorted run.
func (s *sorter) spill() error {
	s.sort()
	name, err := s.write(&memory{s: s})
	if err != nil {
		return fmt.Errorf("sort on the disk: %w", err)
	}
	s.runs = append(s.runs, name)
	s.rows, s.texts, s.textBytes = s.rows[:0], s.texts[:0], 0
	return nil
}

// merged is the source of all rows. Runs are merged first where there are more
// than can be open at once.
func (s *sorter) merged() (rowSource, error) {
	for len(s.runs) > s.limits.fanIn {
		few, err := s.openRuns(s.runs[:s.limits.fanIn])
		if err != nil {
			return nil, err
		}
		name, err := s.write(few)
		if err = errors.Join(err, few.close()); err != nil {
			return nil, fmt.Errorf("merge on the disk: %w", err)
		}
		if err := removeAll(s.runs[:s.limits.fanIn]); err != nil {
			return nil, err
		}
		s.runs = append(s.runs[s.limits.fanIn:], name)
	}
	s.sort()
	s.spare = nil
	if len(s.runs) == 0 {
		return &memory{s: s}, nil
	}
	m, err := s.openRuns(s.runs)
	if err != nil {
		return nil, err
	}
	if err := m.add(&memory{s: s}); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}
