package spool

import (
	"encoding/binary"
	"math"
	"slices"
	"time"
)

// entry is what memory keeps of a block. Where its first is holeFirst it is a
// hole: a number whose block is not there.
type entry struct {
	count  uint32
	bytes  uint32
	first  uint32 // s since the Unix epoch, rounded down, clamped; 0 where before
	stream uint32
}

const holeFirst = math.MaxUint32

var hole = entry{first: holeFirst}

func entryOf(h *Info) entry {
	return entry{stream: h.Stream, count: h.Count, bytes: uint32(h.Bytes), first: uint32(min(max(h.First/int64(time.Second), 0), holeFirst-1))}
}

// entriesPerMark is how many entries are read at most to get at one.
const entriesPerMark = 32

// entries are those of a segment's blocks, in their order. A backlog of ten GB
// has millions of them, so each is kept as its difference from the one before,
// in five bytes or so. Looking at one moves a cursor: callers hold Spool.mu for
// that too.
type entries struct {
	n      int
	packed []byte // of each, the differences of count, bytes, first and stream as varints
	marks  []mark // before every entriesPerMark-th
	last   entry
	cursor cursor
	sums   sums // of the blocks by policy, as far as they were asked for
}

// mark is a place to start reading from.
type mark struct {
	at     uint32 // in packed
	before entry
}

// cursor is where the last look ended.
type cursor struct {
	at   int // in packed
	next int // the entry that is read next
	last entry
}

func (v *entries) add(e entry) {
	if v.n%entriesPerMark == 0 {
		v.marks = append(v.marks, mark{at: uint32(len(v.packed)), before: v.last})
	}
	v.packed = binary.AppendVarint(v.packed, int64(e.count)-int64(v.last.count))
	v.packed = binary.AppendVarint(v.packed, int64(e.bytes)-int64(v.last.bytes))
	v.packed = binary.AppendVarint(v.packed, int64(e.first)-int64(v.last.first))
	v.packed = binary.AppendVarint(v.packed, int64(e.stream)-int64(v.last.stream))
	v.last = e
	v.n++
}

// at returns entry i, from 0 to n-1.
func (v *entries) at(i int) entry {
	c := &v.cursor
	if start := i / entriesPerMark; c.next > i+1 || c.next <= start*entriesPerMark {
		m := &v.marks[start]
		*c = cursor{at: int(m.at), next: start * entriesPerMark, last: m.before}
	}
	for c.next <= i {
		c.last.count += c.difference(v.packed)
		c.last.bytes += c.difference(v.packed)
		c.last.first += c.difference(v.packed)
		c.last.stream += c.difference(v.packed)
		c.next++
	}
	return c.last
}

// difference reads one; that the sum wraps around is what makes it come out.
func (c *cursor) difference(packed []byte) uint32 {
	d, n := binary.Varint(packed[c.at:])
	c.at += n
	return uint32(d)
}

// clip gives up what add has room for.
func (v *entries) clip() {
	v.packed, v.marks = slices.Clone(v.packed), slices.Clone(v.marks)
}
