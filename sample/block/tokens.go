package block

import (
	"encoding/binary"
	"slices"
)

// tokens collects a block's integer columns as symbols and extra bits, groups
// columns of like spread so that they share a frequency table, and codes the
// symbols with two interleaved rANS states.
type tokens struct {
	front, main symbolStream
	cols        []intColumn
	heads       [256]uint32
	frontHist   [256]uint32
	groups      []group
	keys        [maxKeys]int // key to group, plus one
	perColumn   bool
	tables      []table // by class
	words       []uint16
	order       []int     // groups by cost, while they are clustered
	gains       []float64 // what each saves by merging with the next
	residuals   []int64
}

// maxKeys is the number of spreads that are told apart before clustering.
const maxKeys = 64

// symbolStream is a run of symbols in the order in which a decoder asks for
// them, and the bits that go with them.
type symbolStream struct {
	sym  []uint8
	segs []segment
	bits bitWriter
}

// segment says of which group, or of which class, the symbols up to end are.
type segment struct {
	end   int
	group int // -1: class
	class int
}

// pending is an integer column whose class is not known yet: an index.
type pending int

type intColumn struct {
	order uint8
	bias  bool
	group int // -1: zeroClass; -2: frontClass
}

type group struct {
	cost  int // mean cost, to order groups by
	hist  [256]uint32
	total uint32
	top   int     // symbols from here on do not occur
	bits  float64 // what the symbols and the table cost
	class int
	next  int // the group it was merged into, or -1
}

// table is a class's frequencies, for the coder and for the block.
type table struct {
	nibbles [256]uint8
	freq    [256]uint32
	start   [256]uint32
}

func (t *tokens) reset() {
	t.front.reset()
	t.main.reset()
	t.cols = t.cols[:0]
	clear(t.heads[:])
	clear(t.frontHist[:])
	t.groups = t.groups[:0]
	clear(t.keys[:])
	t.words = t.words[:0]
}

func (s *symbolStream) reset() {
	s.sym, s.segs = s.sym[:0], s.segs[:0]
	s.bits = bitWriter{buf: s.bits.buf[:0]}
}

// mark ends the symbols of one group or class.
func (s *symbolStream) mark(group, class int) {
	if n := len(s.segs); n > 0 {
		last := &s.segs[n-1]
		if last.end == len(s.sym) {
			return
		}
		if last.group == group && last.class == class {
			last.end = len(s.sym)
			return
		}
	}
	if len(s.sym) > 0 {
		s.segs = append(s.segs, segment{end: len(s.sym), group: group, class: class})
	}
}

// head appends one integer of headClass.
func (t *tokens) head(s *symbolStream, x int64) {
	z := zigzag(x)
	sym, extra := symbolOf(z)
	s.bits.put(z>>1&(1<<extra-1), extra)
	s.sym = append(s.sym, sym)
	t.heads[sym]++
	s.mark(-1, headClass)
}

// ints appends an integer column with the predictor that seems cheapest.
func (t *tokens) ints(x []int64) pending {
	p, cost := predict(x)
	return t.append(&t.main, x, p, cost)
}

func (t *tokens) append(s *symbolStream, x []int64, p predictor, cost int) pending {
	id := pending(len(t.cols))
	if len(x) == 0 {
		t.cols = append(t.cols, intColumn{group: -1})
		return id
	}
	col := intColumn{order: p.order, bias: p.bias != 0, group: -1}
	if col.bias {
		t.head(s, p.bias)
	}
	if p.order != orderNone {
		t.head(s, x[0])
	}
	if p.order == orderDelta2 && len(x) > 1 {
		t.head(s, x[1]-x[0])
	}
	t.residuals = p.residuals(grow(t.residuals, len(x)), x)
	var or int64
	for _, r := range t.residuals {
		or |= r
	}
	if or != 0 {
		hist := &t.frontHist
		if s == &t.front {
			col.group = -2
		} else {
			col.group = t.groupFor(cost, len(t.residuals))
			g := &t.groups[col.group]
			g.total += uint32(len(t.residuals))
			hist = &g.hist
		}
		s.tokenize(t.residuals, hist)
		if col.group >= 0 {
			s.mark(col.group, 0)
		} else {
			s.mark(-1, frontClass)
		}
	}
	t.cols = append(t.cols, col)
	return id
}

func (s *symbolStream) tokenize(residuals []int64, hist *[256]uint32) {
	n := len(s.sym)
	s.sym = slices.Grow(s.sym, len(residuals))[:n+len(residuals)]
	out := s.sym[n:]
	for i, r := range residuals {
		z := zigzag(r)
		sym := uint8(z)
		if z >= exactBelow {
			var extra uint
			sym, extra = symbolOf(z)
			s.bits.put(z>>1&(1<<extra-1), extra)
		}
		out[i] = sym
		hist[sym]++
	}
}

// groupFor returns the group for a column of n residuals that cost about cost
// bits. With few columns each has a group of its own, to be merged later.
func (t *tokens) groupFor(cost, n int) int {
	if t.perColumn && len(t.groups) < maxKeys {
		return t.newGroup(scaled(cost, 16, n))
	}
	key := min(scaled(cost, 3, n), maxKeys-1)
	if t.keys[key] == 0 {
		t.keys[key] = t.newGroup(scaled(cost, 16, n)) + 1
	}
	return t.keys[key] - 1
}

func (t *tokens) newGroup(cost int) int {
	t.groups = append(t.groups, group{cost: cost, next: -1})
	return len(t.groups) - 1
}

// appendTables appends the tables as a block holds them.
func (t *tokens) appendTables(b []byte) []byte {
	t.tables[headClass].build(&t.heads)
	t.tables[frontClass].build(&t.frontHist)
	b = append(b, uint8(len(t.tables)-1))
	w := nibbleWriter{b: b}
	for c := headClass; c < len(t.tables); c++ {
		nib := &t.tables[c].nibbles
		last := 255
		for last > 0 && nib[last] == 0 {
			last--
		}
		w.put(uint8(last) & 15)
		w.put(uint8(last) >> 4)
		for i := 0; i <= last; i++ {
			w.put(nib[i])
			if nib[i] != 0 {
				continue
			}
			run := 0
			for i < last && nib[i+1] == 0 && run < 15 {
				run++
				i++
			}
			w.put(uint8(run))
		}
	}
	return w.b
}

// desc is the byte that describes a column, once classes are known.
func (t *tokens) desc(p pending) byte {
	c := t.cols[p]
	class := zeroClass
	switch {
	case c.group == -2:
		class = frontClass
	case c.group >= 0:
		class = t.groups[c.group].class
	}
	d := byte(class) | c.order<<5
	if c.bias {
		d |= 1 << 7
	}
	return d
}

// appendStreams appends the symbols, coded, and the extra bits.
func (t *tokens) appendStreams(b []byte) []byte {
	states := [2]uint32{stateLow, stateLow}
	i := len(t.front.sym) + len(t.main.sym)
	words := t.words[:0]
	for _, s := range []*symbolStream{&t.main, &t.front} {
		end := len(s.sym)
		for k := len(s.segs) - 1; k >= 0; k-- {
			seg := s.segs[k]
			from := 0
			if k > 0 {
				from = s.segs[k-1].end
			}
			class := seg.class
			if seg.group >= 0 {
				class = t.groups[seg.group].class
			}
			tab := &t.tables[class]
			run := s.sym[from:end]
			end = from
			x, y := states[(i-1)&1], states[i&1]
			for j := len(run) - 1; j >= 0; j-- {
				f, start := tab.freq[run[j]], tab.start[run[j]]
				if uint64(x) >= uint64(f)<<(32-tableBits) {
					words = append(words, uint16(x))
					x >>= 16
				}
				q := x / f
				x, y = y, q<<tableBits+(x-q*f)+start
			}
			i -= len(run)
			states[(i-1)&1], states[i&1] = x, y
		}
	}
	t.words = words
	b = binary.AppendUvarint(b, uint64(len(words)))
	b = binary.LittleEndian.AppendUint32(b, states[0])
	b = binary.LittleEndian.AppendUint32(b, states[1])
	for k := len(words) - 1; k >= 0; k-- {
		b = binary.LittleEndian.AppendUint16(b, words[k])
	}
	t.front.bits.join(&t.main.bits)
	return t.front.bits.appendTo(b)
}
