package block

import (
	"encoding/binary"
	"math"
	"math/bits"
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

// predictor says how a column's values are predicted from those before.
type predictor struct {
	order uint8
	bias  int64
}

// residuals writes what the predictor leaves of x, first values taken off, to
// buf, which is as long as x.
func (p predictor) residuals(buf, x []int64) []int64 {
	r := buf[:len(x)]
	switch p.order {
	case orderNone:
		for i, v := range x {
			r[i] = v - p.bias
		}
		return r
	case orderDelta:
		prev := x[0]
		for i, v := range x {
			r[i] = v - prev - p.bias
			prev = v
		}
		return r[1:]
	case orderDelta2:
		if len(x) < 3 {
			return r[:0]
		}
		prev, step := x[1], x[1]-x[0]
		for i := 2; i < len(x); i++ {
			d := x[i] - prev
			r[i] = d - step
			prev, step = x[i], d
		}
		return r[2:]
	}
	m := newMean(x[0])
	for i := 1; i < len(x); i++ {
		r[i] = x[i] - m.next()
		m.take(x[i])
	}
	return r[1:]
}

// movingMean is the predictor of orderMean: a mean that moves a quarter of the
// way to each value, kept with four more bits.
type movingMean int64

func newMean(x int64) movingMean      { return movingMean(x << 4) }
func (m movingMean) next() int64      { return int64(m+8) >> 4 }
func (m *movingMean) take(x int64)    { *m += (movingMean(x<<4) - *m) >> 2 }
func cost(r int64) int                { return bits.Len64(zigzag(r)) }
func scaled(c, n, of int) int         { return int(int64(c) * int64(n) / int64(of)) }
func headCost(xs ...int64) (bits int) { return 3*len(xs) + costs(xs) }

func costs(xs []int64) (sum int) {
	for _, x := range xs {
		sum += cost(x)
	}
	return sum
}

const (
	probeBelow = 256 // columns up to this long are looked at whole
	probeLen   = 64
	probes     = 4
)

// predict picks the predictor for x, and estimates its cost in bits.
func predict(x []int64) (predictor, int) {
	n := len(x)
	if n < 2 {
		if n == 0 || x[0] == 0 {
			return predictor{}, 0
		}
		return predictor{order: orderDelta}, 0
	}
	var sum, spread int64
	for _, v := range x {
		sum += v - x[0]
		spread |= v ^ v>>63
	}
	if spread == 0 && sum == 0 && x[0] == 0 {
		return predictor{}, 0
	}
	var c probe
	c.mean = x[0] + sum/int64(n)
	c.slope = (x[n-1] - x[0]) / int64(n-1)
	if n <= probeBelow {
		c.run(x)
	} else {
		for k := range probes {
			at := (n - probeLen) * k / (probes - 1)
			c.run(x[at : at+probeLen])
		}
	}
	best, bits := predictor{order: orderDelta}, headCost(x[0])+scaled(c.delta, n-1, c.n)
	consider := func(p predictor, b int) {
		if b < bits {
			best, bits = p, b
		}
	}
	if c.slope != 0 {
		consider(predictor{orderDelta, c.slope}, headCost(x[0], c.slope)+scaled(c.biased, n-1, c.n))
	}
	consider(predictor{orderNone, c.mean}, headCost(c.mean)+scaled(c.none, n, c.n))
	if n > 2 {
		consider(predictor{order: orderDelta2}, headCost(x[0], x[1]-x[0])+scaled(c.delta2, n-2, c.n2))
		// The mean is kept with four more bits, and small values are where a
		// step of the sum would be noise.
		if spread < 1<<48 {
			consider(predictor{order: orderMean}, headCost(x[0])+scaled(c.moving, n-1, c.n))
		}
	}
	return best, bits
}

// probe sums up what the predictors cost on parts of a column.
type probe struct {
	mean, slope                         int64
	none, delta, biased, delta2, moving int
	n, n2                               int // steps, and changes of step
}

func (c *probe) run(x []int64) {
	m := newMean(x[0])
	prev, step := x[0], int64(0)
	first := 0
	for i := 1; i < len(x); i++ {
		v := x[i]
		d := v - prev
		c.none += cost(v - c.mean)
		c.delta += cost(d)
		c.biased += cost(d - c.slope)
		change := cost(d - step)
		if i == 1 {
			first = change
		}
		c.delta2 += change
		c.moving += cost(v - m.next())
		m.take(v)
		prev, step = v, d
	}
	c.delta2 -= first
	c.n += len(x) - 1
	c.n2 += len(x) - 2
}

// cluster merges groups of like spread while that saves more on tables than it
// costs in bits, and gives each of those left a class and a table.
func (t *tokens) cluster() {
	order, gains := t.order[:0], t.gains[:0]
	for i := range t.groups {
		t.groups[i].close()
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return t.groups[a].cost - t.groups[b].cost })
	for i := range len(order) - 1 {
		gains = append(gains, t.saved(order[i], order[i+1]))
	}
	for len(gains) > 0 {
		at := 0
		for i, g := range gains {
			if g > gains[at] {
				at = i
			}
		}
		if gains[at] <= 0 && len(order) <= maxClasses-frontClass-1 {
			break
		}
		t.merge(order[at], order[at+1])
		order = slices.Delete(order, at+1, at+2)
		gains = slices.Delete(gains, at, at+1)
		if at > 0 {
			gains[at-1] = t.saved(order[at-1], order[at])
		}
		if at < len(gains) {
			gains[at] = t.saved(order[at], order[at+1])
		}
	}
	t.order, t.gains = order, gains
	t.tables = grow(t.tables, frontClass+1+len(order))
	for i, g := range order {
		t.groups[g].class = frontClass + 1 + i
		t.tables[frontClass+1+i].build(&t.groups[g].hist)
	}
	for i := range t.groups {
		g := &t.groups[i]
		root := i
		for t.groups[root].next >= 0 {
			root = t.groups[root].next
		}
		g.class = t.groups[root].class
	}
}

// close works out what a group that gets no more symbols costs.
func (g *group) close() {
	g.top = len(g.hist)
	for g.top > 0 && g.hist[g.top-1] == 0 {
		g.top--
	}
	g.bits = codedBits(g.hist[:g.top], g.total)
}

// saved is how many bits a merger of two groups saves.
func (t *tokens) saved(a, b int) float64 {
	ga, gb := &t.groups[a], &t.groups[b]
	var h [256]uint32
	top := max(ga.top, gb.top)
	for i := range top {
		h[i] = ga.hist[i] + gb.hist[i]
	}
	return ga.bits + gb.bits - codedBits(h[:top], ga.total+gb.total)
}

func (t *tokens) merge(a, b int) {
	ga, gb := &t.groups[a], &t.groups[b]
	for i, c := range gb.hist {
		ga.hist[i] += c
	}
	ga.total += gb.total
	ga.close()
	gb.next = a
}

// codedBits is what symbols of these counts cost, table included.
func codedBits(hist []uint32, total uint32) float64 {
	cost := 10.0
	for _, c := range hist {
		if c != 0 {
			cost += 6 - xlogx(c)
		}
	}
	return cost + xlogx(total)
}

func xlogx(c uint32) float64 {
	if c < uint32(len(logs)) {
		return float64(c) * logs[c]
	}
	return float64(c) * math.Log2(float64(c))
}

// logs holds the base-2 logarithms of small counts.
var logs = func() (l [1024]float64) {
	for i := 1; i < len(l); i++ {
		l[i] = math.Log2(float64(i))
	}
	return l
}()

// build quantises a histogram to the nibbles that the block carries, and
// derives the frequencies from those as a decoder does.
func (t *table) build(hist *[256]uint32) {
	largest := slices.Max(hist[:])
	clear(t.freq[:])
	for i, c := range hist {
		t.nibbles[i] = 0
		if c == 0 {
			continue
		}
		w := float64(c) * float64(weights[15]) / float64(largest)
		q := uint8(15)
		for q > 1 && float64(weights[q])*0.79 > w {
			q--
		}
		t.nibbles[i] = q
		t.freq[i] = uint32(q)
	}
	frequencies(&t.freq)
	at := uint32(0)
	for i, f := range t.freq {
		t.start[i] = at
		at += f
	}
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

// bitWriter packs bits, lowest first.
type bitWriter struct {
	buf []byte
	acc uint64
	n   uint
}

// put appends the low k bits of v, which has no others. k is at most 63.
func (w *bitWriter) put(v uint64, k uint) {
	w.acc |= v << w.n
	w.n += k
	if w.n >= 64 {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.acc)
		w.n -= 64
		w.acc = v >> (k - w.n)
	}
}

// join appends what o holds.
func (w *bitWriter) join(o *bitWriter) {
	b := o.buf
	for ; len(b) >= 4; b = b[4:] {
		w.put(uint64(binary.LittleEndian.Uint32(b)), 32)
	}
	for _, c := range b {
		w.put(uint64(c), 8)
	}
	w.put(o.acc&(1<<min(o.n, 32)-1), min(o.n, 32))
	if o.n > 32 {
		w.put(o.acc>>32, o.n-32)
	}
}

func (w *bitWriter) appendTo(b []byte) []byte {
	b = append(b, w.buf...)
	for k := uint(0); k < w.n; k += 8 {
		b = append(b, byte(w.acc>>k))
	}
	return b
}

// nibbleWriter packs nibbles, low one first.
type nibbleWriter struct {
	b    []byte
	half bool
}

func (w *nibbleWriter) put(n uint8) {
	if w.half {
		w.b[len(w.b)-1] |= n << 4
	} else {
		w.b = append(w.b, n)
	}
	w.half = !w.half
}
