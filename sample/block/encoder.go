package block

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/zstd"

	"millrace/sample"
)

// Encoder packs samples into blocks. It keeps its buffers, so that a warm one
// allocates nothing per sample. It must not be used by two goroutines at once.
type Encoder struct {
	tags []string

	// The rows, in order of arrival. The optional ones are empty until the
	// first row that needs them.
	tag      []uint16
	tick     []uint32 // index in ticks
	kind     []uint8
	bits     []uint64 // a string's index in strs
	quality  []uint32
	source   []int64
	producer []uint32
	seq      []uint64

	ticks       []int64 // the gateway's time, each time it changes
	first, last int64
	bad         error // what Add could not take

	strs     []string
	strIndex map[string]uint32
	strBytes int

	used   []uint32 // tags that have samples
	starts []int    // by tag, then by used tag
	sorted rows
	tok    tokens
	times  sharedColumns
	clocks sharedColumns
	shapes shapeSet
	value  valueScratch

	meta   []byte
	packed []byte
	zstd   *zstd.Encoder
}

// rows are the columns of all tags, one tag after the other.
type rows struct {
	tick     []uint32
	kind     []uint8
	bits     []uint64
	quality  []uint32
	source   []int64
	producer []uint32
	seq      []uint64
}

// NewEncoder returns an encoder without tags.
func NewEncoder() (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(64<<10), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	return &Encoder{zstd: z, strIndex: map[string]uint32{}}, nil
}

// Reset drops the samples and sets the dictionary of those to come. The encoder
// reads tags until the next Reset.
func (e *Encoder) Reset(tags []string) {
	e.tags = tags
	e.tag, e.tick, e.kind, e.bits = e.tag[:0], e.tick[:0], e.kind[:0], e.bits[:0]
	e.quality, e.source, e.producer, e.seq = e.quality[:0], e.source[:0], e.producer[:0], e.seq[:0]
	e.ticks = e.ticks[:0]
	e.bad = nil
	clear(e.strs)
	e.strs = e.strs[:0]
	clear(e.strIndex)
	e.strBytes = 0
}

// Len returns the number of samples added since Reset.
func (e *Encoder) Len() int { return len(e.tag) }

// Add appends a sample of the tag with the given index in the tags of Reset.
// s.Tag is not used. Samples come in order of arrival; their times may not.
// What Add cannot take is reported by Encode.
func (e *Encoder) Add(tag int, s *sample.Sample) {
	if tag < 0 || tag >= min(len(e.tags), MaxDictionary) {
		e.bad = fmt.Errorf("tag %d of a dictionary of %d (at most %d)", tag, len(e.tags), MaxDictionary)
		return
	}
	n := len(e.tag)
	if n >= MaxSamples {
		e.bad = fmt.Errorf("%w: more than %d", ErrTooLarge, MaxSamples)
		return
	}
	primary := s.Time
	if s.SourceTime != 0 {
		primary = s.SourceTime
	}
	if n == 0 {
		e.first, e.last = primary, primary
	} else {
		e.first, e.last = min(e.first, primary), max(e.last, primary)
	}
	if k := len(e.ticks); k == 0 || e.ticks[k-1] != s.Time {
		e.ticks = append(e.ticks, s.Time)
	}
	e.tag = append(e.tag, uint16(tag))
	e.tick = append(e.tick, uint32(len(e.ticks)-1))
	kind, bits := s.Value.Kind(), s.Value.Bits()
	if kind == sample.String {
		bits = uint64(e.intern(s.Value.Str()))
	}
	e.kind = append(e.kind, uint8(kind))
	e.bits = append(e.bits, bits)
	if len(e.quality) > 0 || s.Quality != sample.Good {
		e.quality = append(pad(e.quality, n), uint32(s.Quality))
	}
	if len(e.source) > 0 || s.SourceTime != 0 {
		e.source = append(pad(e.source, n), s.SourceTime)
	}
	if len(e.producer) > 0 || s.Producer != "" || s.Seq != 0 {
		if len(e.producer) == 0 {
			e.intern("")
			e.producer = fill(e.producer, n, e.strIndex[""])
		}
		e.producer = append(e.producer, e.intern(s.Producer))
		e.seq = append(pad(e.seq, n), s.Seq)
	}
}

// intern returns the index of s in the table of strings.
func (e *Encoder) intern(s string) uint32 {
	if i, ok := e.strIndex[s]; ok {
		return i
	}
	i := uint32(len(e.strs))
	e.strs = append(e.strs, s)
	e.strIndex[s] = i
	e.strBytes += len(s)
	return i
}

// pad lengthens an optional column to n with zeros.
func pad[T any](col []T, n int) []T {
	if len(col) == n {
		return col
	}
	var zero T
	return fill(col, n, zero)
}

func fill[T any](col []T, n int, v T) []T {
	for len(col) < n {
		col = append(col, v)
	}
	return col
}

// Encode appends the packed block to dst. Of h it uses all but Count, First and
// Last, which it takes from the samples. It fails where a name is too long or
// the samples do not fit a block (ErrTooLarge), and then returns dst as it was.
// The encoder keeps its samples.
func (e *Encoder) Encode(dst []byte, h Header) ([]byte, error) {
	if e.bad != nil {
		return dst, fmt.Errorf("encode block %s: %w", h.Identity(), e.bad)
	}
	h.Count = len(e.tag)
	h.First, h.Last = 0, 0
	if h.Count > 0 {
		h.First, h.Last = e.first, e.last
	}
	start := len(dst)
	out, err := appendHeader(dst, &h)
	if err != nil {
		return dst, fmt.Errorf("encode block %s: %w", h.Identity(), err)
	}
	e.gather()
	e.tok.reset()
	e.shapes.reset()
	e.encodeTags(h.First)
	e.tok.cluster()
	e.encodeFront()
	if err := e.buildMeta(); err != nil {
		return dst, fmt.Errorf("encode block %s: %w", h.Identity(), err)
	}
	e.packed = e.zstd.EncodeAll(e.meta, e.packed[:0])
	out = binary.AppendUvarint(out, uint64(len(e.meta)))
	if n := len(e.packed); n < len(e.meta) && uint64(len(e.meta)) <= metaSlack+maxMetaRatio*uint64(n) {
		out = binary.AppendUvarint(out, uint64(n))
		out = append(out, e.packed...)
	} else {
		out = binary.AppendUvarint(out, 0)
		out = append(out, e.meta...)
	}
	out = e.tok.appendStreams(out)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out[start:], castagnoli)), nil
}

// gather sorts the rows by tag, keeping their order within one.
func (e *Encoder) gather() {
	e.starts = grow(e.starts, len(e.tags)+1)
	clear(e.starts)
	for _, t := range e.tag {
		e.starts[t]++
	}
	e.used = e.used[:0]
	at := 0
	for t := range e.tags {
		n := e.starts[t]
		e.starts[t] = at
		if n > 0 {
			e.used = append(e.used, uint32(t))
		}
		at += n
	}
	s, n := &e.sorted, len(e.tag)
	s.tick, s.kind, s.bits = grow(s.tick, n), grow(s.kind, n), grow(s.bits, n)
	starts, tick, kind, bits := e.starts, e.tick[:n], e.kind[:n], e.bits[:n]
	for i, t := range e.tag {
		p := starts[t]
		starts[t] = p + 1
		s.tick[p], s.kind[p], s.bits[p] = tick[i], kind[i], bits[i]
	}
	// starts[t] is now where tag t ends.
	s.quality = scatter(s.quality, e.quality, e.tag, starts)
	s.source = scatter(s.source, e.source, e.tag, starts)
	s.producer = scatter(s.producer, e.producer, e.tag, starts)
	s.seq = scatter(s.seq, e.seq, e.tag, starts)
}

// scatter sorts one optional column by tag. ends are where the tags end.
func scatter[T any](dst, src []T, tag []uint16, ends []int) []T {
	if len(src) == 0 {
		return dst[:0]
	}
	dst = grow(dst, len(src))
	for i := len(src) - 1; i >= 0; i-- {
		ends[tag[i]]--
		dst[ends[tag[i]]] = src[i]
	}
	for _, t := range tag {
		ends[t]++
	}
	return dst
}

// grow returns a slice of length n, the old one where it is large enough.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}

// sharedColumns are the distinct columns of times, or of source times. Tags
// that tick together refer to one.
type sharedColumns struct {
	ids    []uint64 // by used tag: 0 none, else the column's number from 1
	from   []int    // by column: where its rows begin
	length []int    // by column: how many it has
	descs  []pending
	unit   []uint8
	index  map[uint64]int // content hash to column
}

func (c *sharedColumns) reset() {
	c.ids, c.from, c.length, c.descs, c.unit = c.ids[:0], c.from[:0], c.length[:0], c.descs[:0], c.unit[:0]
	if c.index == nil {
		c.index = map[uint64]int{}
	}
	clear(c.index)
}

// find looks for a column with the content of all[from:to]. Where there is none
// it adds one, and returns true.
func find[T ~uint32 | ~int64](c *sharedColumns, all []T, from, to int) bool {
	same := func(k int) bool {
		return c.length[k] == to-from && slices.Equal(all[c.from[k]:c.from[k]+c.length[k]], all[from:to])
	}
	if n := len(c.ids); n > 0 && c.ids[n-1] > 0 && same(int(c.ids[n-1])-1) {
		c.ids = append(c.ids, c.ids[n-1])
		return false
	}
	hash := uint64(to - from)
	for _, v := range all[from:to] {
		hash = (hash ^ uint64(v)) * 0x9E3779B97F4A7C15
		hash ^= hash >> 29
	}
	if k, ok := c.index[hash]; ok && same(k) {
		c.ids = append(c.ids, uint64(k)+1)
		return false
	}
	c.index[hash] = len(c.from)
	c.from, c.length = append(c.from, from), append(c.length, to-from)
	c.ids = append(c.ids, uint64(len(c.from)))
	return true
}
