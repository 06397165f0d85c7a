package block

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"millrace/sample"
)

// shapeSet collects how each tag's columns are coded. Tags of one shape share
// its description.
type shapeSet struct {
	ops   []int32 // a byte, or -1-p for the description of pending column p
	ends  []int   // by used tag, in ops
	bytes []byte  // the distinct shapes
	sizes []int
	index map[string]int
	ids   []int64 // by used tag
	one   []byte
}

func (s *shapeSet) reset() {
	s.ops, s.ends, s.bytes, s.sizes, s.ids = s.ops[:0], s.ends[:0], s.bytes[:0], s.sizes[:0], s.ids[:0]
	if s.index == nil {
		s.index = map[string]int{}
	}
	clear(s.index)
}

func (s *shapeSet) byte(b byte)        { s.ops = append(s.ops, int32(b)) }
func (s *shapeSet) column(p pending)   { s.ops = append(s.ops, -1-int32(p)) }
func (s *shapeSet) endTag()            { s.ends = append(s.ends, len(s.ops)) }
func (s *shapeSet) set(at int, b byte) { s.ops[at] = int32(b) }

// resolve fills in the classes, and numbers the distinct shapes.
func (s *shapeSet) resolve(t *tokens) {
	from := 0
	for _, end := range s.ends {
		s.one = s.one[:0]
		for _, op := range s.ops[from:end] {
			if op >= 0 {
				s.one = append(s.one, byte(op))
			} else {
				s.one = append(s.one, t.desc(pending(-1-op)))
			}
		}
		from = end
		id, ok := s.index[string(s.one)]
		if !ok {
			id = len(s.sizes)
			s.index[string(s.one)] = id
			s.sizes = append(s.sizes, len(s.one))
			s.bytes = append(s.bytes, s.one...)
		}
		s.ids = append(s.ids, int64(id))
	}
}

// valueScratch is what the coding of values works with.
type valueScratch struct {
	ints    [slotCount][]int64
	slots   []int64
	floats  []uint64
	other   []int64
	rest    []uint64
	index   []int64
	dict    dictBuilder
	quality []uint32 // the block's quality codes but Good
	codes   map[uint32]uint32
	unit    int64
	grid    bool
	base    int64
	gridDes pending
	front   [3]pending
}

// encodeTags appends the columns of time and of every tag.
func (e *Encoder) encodeTags(first int64) {
	e.times.reset()
	e.clocks.reset()
	v := &e.value
	v.quality = v.quality[:0]
	if v.codes == nil {
		v.codes = map[uint32]uint32{}
	}
	clear(v.codes)
	e.tok.perColumn = len(e.used) <= maxKeys/4
	v.base = first
	if len(e.ticks) > 0 {
		v.base = e.ticks[0]
	}
	v.unit = commonUnit(e.ticks)
	// Where tags tick together, a tag's times are indexes in the list of all
	// ticks; where few do, they are times.
	v.grid = len(e.ticks) > 0 && len(e.ticks)*2 <= len(e.tag)
	if v.grid {
		v.gridDes = e.tok.ints(e.tickValues(v.other[:0], e.ticks))
	}
	from := 0
	for _, tag := range e.used {
		to := e.starts[tag]
		e.encodeTimes(from, to)
		e.encodeSource(from, to, first)
		e.encodeValues(from, to)
		from = to
	}
}

// tickValues appends (t-base)/unit for each time.
func (e *Encoder) tickValues(dst, times []int64) []int64 {
	for _, t := range times {
		dst = append(dst, (t-e.value.base)/e.value.unit)
	}
	e.value.other = dst
	return dst
}

// commonUnit is the largest of units that divides all distances from x[0].
func commonUnit(x []int64) int64 {
	k := len(units) - 1
	for _, v := range x {
		for d := v - x[0]; d%units[k] != 0; {
			k--
		}
	}
	return units[k]
}

func unitCode(u int64) byte {
	for k, v := range units {
		if v == u {
			return byte(k)
		}
	}
	panic(fmt.Sprintf("BUG: %d is no unit of time", u))
}

func (e *Encoder) encodeTimes(from, to int) {
	rows := e.sorted.tick
	if !find(&e.times, rows, from, to) {
		return
	}
	x := e.value.other[:0]
	if e.value.grid {
		for _, k := range rows[from:to] {
			x = append(x, int64(k))
		}
	} else {
		for _, k := range rows[from:to] {
			x = append(x, (e.ticks[k]-e.value.base)/e.value.unit)
		}
	}
	e.value.other = x
	e.tok.head(&e.tok.main, int64(to-from))
	e.times.descs = append(e.times.descs, e.tok.ints(x))
}

// encodeSource appends the device's times, as distances from the gateway's or
// from the block's first time, whichever is cheaper.
func (e *Encoder) encodeSource(from, to int, first int64) {
	if len(e.sorted.source) == 0 {
		return
	}
	rows := e.sorted.source[from:to]
	any := int64(0)
	for _, t := range rows {
		any |= t
	}
	if any == 0 {
		e.clocks.ids = append(e.clocks.ids, 0)
		return
	}
	if !find(&e.clocks, e.sorted.source, from, to) {
		return
	}
	near := grow(e.value.other, len(rows))
	far := grow(e.value.index, len(rows))
	e.value.other, e.value.index = near, far
	for i, t := range rows {
		near[i] = t - e.ticks[e.sorted.tick[from+i]]
		far[i] = t - first
	}
	nearBase, nearUnit := shrink(near)
	farBase, farUnit := shrink(far)
	_, nearCost := predict(near)
	_, farCost := predict(far)
	if nearCost <= farCost {
		e.tok.head(&e.tok.main, nearBase)
		e.clocks.unit = append(e.clocks.unit, unitCode(nearUnit))
		e.clocks.descs = append(e.clocks.descs, e.tok.ints(near))
		return
	}
	e.tok.head(&e.tok.main, farBase)
	e.clocks.unit = append(e.clocks.unit, unitCode(farUnit)|absoluteClock)
	e.clocks.descs = append(e.clocks.descs, e.tok.ints(far))
}

// absoluteClock marks a source column that holds distances from First.
const absoluteClock = 1 << 4

// shrink turns x into (x-base)/unit in place.
func shrink(x []int64) (base, unit int64) {
	base, unit = x[0], commonUnit(x)
	for i := range x {
		x[i] = (x[i] - base) / unit
	}
	return base, unit
}

// encodeValues appends a tag's kinds, values, qualities and producers, and its
// shape.
func (e *Encoder) encodeValues(from, to int) {
	kind, rows := e.sorted.kind[from:to], e.sorted.bits[from:to]
	sh := &e.shapes
	mask := len(sh.ops)
	sh.byte(0)
	flags := len(sh.ops)
	sh.byte(0)
	uniform := true
	for _, k := range kind {
		if k != kind[0] {
			uniform = false
			break
		}
	}
	if uniform {
		e.encodeUniform(mask, kind[0], rows)
	} else {
		e.encodeMixed(mask, kind, rows)
	}
	set := byte(0)
	if e.encodeQuality(from, to) {
		set |= shapeQuality
	}
	if e.encodeProducer(from, to) {
		set |= shapeProducer
	}
	sh.set(flags, set)
	sh.endTag()
}

func (e *Encoder) encodeUniform(mask int, kind uint8, rows []uint64) {
	v, sh := &e.value, &e.shapes
	switch sample.Kind(kind) {
	case sample.Null:
		sh.set(mask, 1<<slotNull)
	case sample.Float64:
		scale, bad := e.splitFloats(rows)
		if bad == 0 && scale>>4 == scaleFloat32 && e.rawIsCheaper(rows) {
			sh.set(mask, 1<<slotRaw)
			e.raw(rows)
			return
		}
		if bad == 0 {
			sh.set(mask, 1<<slotDecimal)
			e.numbers(scale, v.ints[slotDecimal])
			return
		}
		if bad == len(rows) {
			sh.set(mask, 1<<slotRaw)
			e.raw(v.rest)
			return
		}
		sh.set(mask, 1<<slotDecimal|1<<slotRaw)
		sh.column(e.tok.ints(v.slots))
		e.numbers(scale, v.ints[slotDecimal])
		e.raw(v.rest)
	default:
		slot := slotInt + int(kind) - int(sample.Int64)
		sh.set(mask, 1<<slot)
		x := v.ints[slot][:0]
		for _, b := range rows {
			x = append(x, int64(b))
		}
		v.ints[slot] = x
		e.slot(slot, x)
	}
}

// encodeMixed codes a column of several kinds: which slot each sample is in,
// then slot by slot.
func (e *Encoder) encodeMixed(mask int, kind []uint8, rows []uint64) {
	v, sh := &e.value, &e.shapes
	for i := range v.ints {
		v.ints[i] = v.ints[i][:0]
	}
	v.floats = v.floats[:0]
	for i, k := range kind {
		switch sample.Kind(k) {
		case sample.Float64:
			v.floats = append(v.floats, rows[i])
		case sample.Int64:
			v.ints[slotInt] = append(v.ints[slotInt], int64(rows[i]))
		case sample.Bool:
			v.ints[slotBool] = append(v.ints[slotBool], int64(rows[i]))
		case sample.String:
			v.ints[slotString] = append(v.ints[slotString], int64(rows[i]))
		}
	}
	v.slots, v.rest = v.slots[:0], v.rest[:0]
	scale := byte(0)
	if len(v.floats) > 0 {
		scale, _ = e.splitFloats(v.floats)
	}
	of := grow(v.index, len(kind))
	v.index = of
	set, next := 0, 0
	for i, k := range kind {
		slot := int(k)
		switch sample.Kind(k) {
		case sample.Float64:
			slot = int(v.slots[next])
			next++
		case sample.Null, sample.Int64, sample.Bool, sample.String:
		}
		of[i] = int64(slot)
		set |= 1 << slot
	}
	sh.set(mask, byte(set))
	if set&(set-1) != 0 {
		sh.column(e.tok.ints(of))
	}
	for slot := slotDecimal; slot < slotRaw; slot++ {
		switch {
		case len(v.ints[slot]) == 0:
		case slot == slotDecimal:
			e.numbers(scale, v.ints[slot])
		default:
			e.slot(slot, v.ints[slot])
		}
	}
	if len(v.rest) > 0 {
		e.raw(v.rest)
	}
}

func (e *Encoder) slot(slot int, x []int64) {
	if slot == slotInt {
		e.numbers(0, x)
		return
	}
	e.shapes.column(e.tok.ints(x))
}

// numbers codes integers, by a dictionary where they are few and scattered.
func (e *Encoder) numbers(scale byte, x []int64) {
	p, cost := predict(x)
	if cost > 5*len(x) && len(x) >= 32 && e.value.dict.build(x, cost) {
		d := &e.value.dict
		e.shapes.byte(scale | scaleDict)
		e.tok.head(&e.tok.main, int64(len(d.values)))
		e.shapes.column(e.tok.ints(d.values))
		e.shapes.column(e.tok.ints(d.codes))
		return
	}
	e.shapes.byte(scale)
	e.shapes.column(e.tok.append(&e.tok.main, x, p, cost))
}

// raw codes the bits of floats as integers in the order of the floats, without
// the low bits that are zero in all.
func (e *Encoder) raw(rows []uint64) {
	x, shift := e.ordered(rows)
	e.shapes.byte(shift)
	e.shapes.column(e.tok.ints(x))
}

// rawIsCheaper compares float32 noise, which is a decimal of nine digits too,
// with the decimals in ints[slotDecimal].
func (e *Encoder) rawIsCheaper(rows []uint64) bool {
	x, _ := e.ordered(rows)
	_, raw := predict(x)
	_, decimal := predict(e.value.ints[slotDecimal])
	return raw < decimal
}

// ordered returns floats' bits as integers in the order of the floats, less
// the low bits that are zero in all.
func (e *Encoder) ordered(rows []uint64) ([]int64, byte) {
	all := uint64(0)
	for _, b := range rows {
		all |= b
	}
	shift := min(uint(bits.TrailingZeros64(all&^(1<<63))), 63)
	x := grow(e.value.ints[slotRaw], len(rows))
	e.value.ints[slotRaw] = x
	for i, b := range rows {
		m := int64(b &^ (1 << 63) >> shift)
		x[i] = m ^ int64(b)>>63
	}
	return x, byte(shift)
}

func (e *Encoder) encodeQuality(from, to int) bool {
	if len(e.sorted.quality) == 0 {
		return false
	}
	rows := e.sorted.quality[from:to]
	any := uint32(0)
	for _, q := range rows {
		any |= q
	}
	if any == 0 {
		return false
	}
	v := &e.value
	x := v.other[:0]
	var last, code uint32
	for _, q := range rows {
		if q != last {
			code = v.qualityCode(q)
			last = q
		}
		x = append(x, int64(code))
	}
	v.other = x
	e.shapes.column(e.tok.ints(x))
	return true
}

// qualityCode returns 0 for Good, else the code's number in the block from 1.
func (v *valueScratch) qualityCode(q uint32) uint32 {
	if q == 0 {
		return 0
	}
	if c, ok := v.codes[q]; ok {
		return c
	}
	v.quality = append(v.quality, q)
	c := uint32(len(v.quality))
	v.codes[q] = c
	return c
}

func (e *Encoder) encodeProducer(from, to int) bool {
	if len(e.sorted.producer) == 0 {
		return false
	}
	none := e.strIndex[""]
	any := false
	for i := from; i < to; i++ {
		any = any || e.sorted.producer[i] != none || e.sorted.seq[i] != 0
	}
	if !any {
		return false
	}
	x := e.value.other[:0]
	for _, p := range e.sorted.producer[from:to] {
		x = append(x, int64(p))
	}
	e.shapes.column(e.tok.ints(x))
	x = x[:0]
	for _, n := range e.sorted.seq[from:to] {
		x = append(x, int64(n))
	}
	e.value.other = x
	e.shapes.column(e.tok.ints(x))
	return true
}

// encodeFront appends the columns over tags, which a decoder reads first.
func (e *Encoder) encodeFront() {
	e.shapes.resolve(&e.tok)
	v := &e.value
	v.front[0] = e.frontColumn(e.shapes.ids)
	v.front[1] = e.frontColumn(ids(v, e.times.ids))
	v.front[2] = e.frontColumn(ids(v, e.clocks.ids))
}

func ids(v *valueScratch, in []uint64) []int64 {
	x := v.other[:0]
	for _, id := range in {
		x = append(x, int64(id))
	}
	v.other = x
	return x
}

func (e *Encoder) frontColumn(x []int64) pending {
	p, cost := predict(x)
	return e.tok.append(&e.tok.front, x, p, cost)
}

// buildMeta writes what goes through zstd: frequency tables, tag names,
// strings, qualities, descriptions of the columns.
func (e *Encoder) buildMeta() error {
	for _, t := range e.used {
		if n := len(e.tags[t]); n > sample.MaxTagBytes {
			return fmt.Errorf("a tag name of %d bytes, the most is %d", n, sample.MaxTagBytes)
		}
	}
	m := e.tok.appendTables(e.meta[:0])
	m = binary.AppendUvarint(m, uint64(len(e.used)))
	m = e.appendNames(m)
	if e.strBytes > maxMeta/2 {
		return fmt.Errorf("%w: %d bytes of strings", ErrTooLarge, e.strBytes)
	}
	m = binary.AppendUvarint(m, uint64(len(e.strs)))
	for _, s := range e.strs {
		m = binary.AppendUvarint(m, uint64(len(s)))
	}
	for _, s := range e.strs {
		m = append(m, s...)
	}
	v := &e.value
	m = binary.AppendUvarint(m, uint64(len(v.quality)))
	for _, q := range v.quality {
		m = binary.LittleEndian.AppendUint32(m, q)
	}
	m = binary.AppendUvarint(m, uint64(len(e.shapes.sizes)))
	for _, n := range e.shapes.sizes {
		m = append(m, byte(n))
	}
	m = append(m, e.shapes.bytes...)
	clocks := byte(0)
	if len(e.clocks.ids) > 0 {
		clocks = 1
	}
	m = append(m, e.tok.desc(v.front[0]), e.tok.desc(v.front[1]), clocks)
	if clocks > 0 {
		m = append(m, e.tok.desc(v.front[2]))
	}
	m = binary.AppendVarint(m, v.base-e.firstOrZero())
	m = append(m, unitCode(v.unit))
	if v.grid {
		m = binary.AppendUvarint(m, uint64(len(e.ticks)))
		m = append(m, e.tok.desc(v.gridDes))
	} else {
		m = binary.AppendUvarint(m, 0)
	}
	for _, p := range e.times.descs {
		m = append(m, e.tok.desc(p))
	}
	for i, u := range e.clocks.unit {
		m = append(m, u, e.tok.desc(e.clocks.descs[i]))
	}
	e.meta = m
	if len(m) > maxMeta {
		return fmt.Errorf("%w: %d bytes of names and strings", ErrTooLarge, len(m))
	}
	return nil
}

func (e *Encoder) firstOrZero() int64 {
	if len(e.tag) == 0 {
		return 0
	}
	return e.first
}

// appendNames writes the tag names by what each shares with the one before.
func (e *Encoder) appendNames(m []byte) []byte {
	shared := func(i int) int {
		if i == 0 {
			return 0
		}
		a, b := e.tags[e.used[i-1]], e.tags[e.used[i]]
		n := 0
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		return n
	}
	for i := range e.used {
		m = binary.AppendUvarint(m, uint64(shared(i)))
	}
	for i, t := range e.used {
		m = binary.AppendUvarint(m, uint64(len(e.tags[t])-shared(i)))
	}
	for i, t := range e.used {
		m = append(m, e.tags[t][shared(i):]...)
	}
	return m
}

// splitFloats finds the decimal scale of a column and sorts its floats into
// ints[slotDecimal] and rest, with slots saying which is where. It returns how
// many are in rest.
func (e *Encoder) splitFloats(rows []uint64) (scale byte, bad int) {
	v := &e.value
	mode, d, ok := guessScale(rows)
	if ok {
		for {
			need := 0
			bad, need = v.scaleColumn(rows, mode, d)
			// A float kept whole costs about 64 bits, a digit more 3.3 a sample.
			if need <= d || bad*64 < (need-d)*len(rows)*10/3 {
				break
			}
			d = need
		}
		if bad*4 <= len(rows) || bad < len(rows) && bad <= 2 {
			return mode<<4 | byte(d), bad
		}
	}
	v.slots, v.rest, v.ints[slotDecimal] = v.slots[:0], append(v.rest[:0], rows...), v.ints[slotDecimal][:0]
	for range rows {
		v.slots = append(v.slots, slotRaw)
	}
	return 0, len(rows)
}

// scaleColumn turns floats into integers of d decimals. need is the most
// decimals that any of the others would have taken, 0 where none would do.
func (v *valueScratch) scaleColumn(rows []uint64, mode byte, d int) (bad, need int) {
	x := grow(v.ints[slotDecimal], len(rows))[:0]
	v.slots, v.rest = v.slots[:0], v.rest[:0]
	if mode == scaleDivide {
		x = divideRun(x, rows, d)
	}
	done := len(x)
	if done < len(rows) {
		for range done {
			v.slots = append(v.slots, slotDecimal)
		}
		for _, b := range rows[done:] {
			if m, ok := scaleOne(math.Float64frombits(b), mode, d); ok {
				x = append(x, m)
				v.slots = append(v.slots, slotDecimal)
				continue
			}
			v.slots, v.rest = append(v.slots, slotRaw), append(v.rest, b)
			if n, ok := decimals(math.Float64frombits(b), mode, d+1); ok {
				need = max(need, n)
			}
		}
	} else {
		v.slots = fill(v.slots, len(rows), slotDecimal)
	}
	v.ints[slotDecimal] = x
	return len(v.rest), need
}

// divideRun is the hot loop: it stops at the first float that is no decimal.
func divideRun(x []int64, rows []uint64, d int) []int64 {
	p := pow10[d]
	x = x[:len(rows)]
	for i, b := range rows {
		f := math.Float64frombits(b)
		s := f * p
		if !(math.Abs(s) < 1<<53) {
			return x[:i]
		}
		m := int64(s + math.Copysign(0.5, s))
		if math.Float64bits(float64(m)/p) != b {
			return x[:i]
		}
		x[i] = m
	}
	return x
}

// scaleOne returns the m of which unscale gives f, bit for bit.
func scaleOne(f float64, mode byte, d int) (int64, bool) {
	s := f * pow10[d]
	if !(math.Abs(s) < 1<<53) {
		return 0, false
	}
	m := int64(s + math.Copysign(0.5, s))
	return m, math.Float64bits(unscale(m, mode, d)) == math.Float64bits(f)
}

// unscale is the float that m stands for.
func unscale(m int64, mode byte, d int) float64 {
	switch mode {
	case scaleMultiply:
		return float64(m) * inversePow10[d]
	case scaleFloat32:
		return float64(float32(float64(m) / pow10[d]))
	}
	return float64(m) / pow10[d]
}

// decimals returns the least d of at least from with which f is a decimal.
func decimals(f float64, mode byte, from int) (int, bool) {
	if mode == scaleFloat32 && float64(float32(f)) != f {
		return 0, false
	}
	most := maxDecimals
	if mode == scaleFloat32 {
		most = 8
	}
	for d := from; d <= most; d++ {
		if _, ok := scaleOne(f, mode, d); ok {
			return d, true
		}
		if math.Abs(f)*pow10[d] >= 1<<53 {
			break
		}
	}
	return 0, false
}

// guessScale looks at some floats of a column, and says how they are decimals.
func guessScale(rows []uint64) (mode byte, d int, ok bool) {
	looks := min(len(rows), 8)
	for _, m := range []byte{scaleDivide, scaleFloat32, scaleMultiply} {
		most, fits, finite := 0, 0, 0
		for k := range looks {
			f := math.Float64frombits(rows[k*(len(rows)-1)/max(looks-1, 1)])
			if math.IsNaN(f) || math.IsInf(f, 0) {
				continue
			}
			finite++
			if n, ok := decimals(f, m, 0); ok {
				fits++
				most = max(most, n)
			} else if (finite-fits)*4 > looks {
				break
			}
		}
		if fits*4 >= finite*3 && fits > 0 {
			return m, most, true
		}
	}
	return 0, 0, false
}

// dictBuilder finds the distinct values of a column.
type dictBuilder struct {
	values []int64
	codes  []int64
	counts []int
	slots  [1024]uint16 // hash to index plus one
}

const maxDict = 256

// build lists the distinct values and each sample's index in them, zigzag
// decoded, unless they are too many for that to take less than cost bits.
func (d *dictBuilder) build(x []int64, cost int) bool {
	clear(d.slots[:])
	d.values, d.codes, d.counts = d.values[:0], d.codes[:0], d.counts[:0]
	most := min(maxDict, len(x)/8)
	for _, v := range x {
		h := uint64(v) * 0x9E3779B97F4A7C15 >> 54
		for d.slots[h] != 0 && d.values[d.slots[h]-1] != v {
			h = (h + 1) % uint64(len(d.slots))
		}
		if d.slots[h] == 0 {
			if len(d.values) == most {
				return false
			}
			d.values, d.counts = append(d.values, v), append(d.counts, 0)
			d.slots[h] = uint16(len(d.values))
		}
		i := d.slots[h] - 1
		d.counts[i]++
		d.codes = append(d.codes, int64(i))
	}
	size := xlogx(uint32(len(x)))
	for i, v := range d.values {
		size += float64(bits.Len64(zigzag(v))) + 8 - xlogx(uint32(d.counts[i]))
	}
	if size >= float64(cost) {
		return false
	}
	d.rank()
	return true
}

// rank numbers the values by falling count, so that small codes are frequent.
func (d *dictBuilder) rank() {
	order := make([]int, len(d.values))
	for i := range order {
		order[i] = i
	}
	sortByCount(order, d.counts)
	rank := make([]int64, len(order))
	sorted := make([]int64, len(order))
	for r, i := range order {
		rank[i] = unzigzag(uint64(r))
		sorted[r] = d.values[i]
	}
	copy(d.values, sorted)
	for i, c := range d.codes {
		d.codes[i] = rank[c]
	}
}

func sortByCount(order, counts []int) {
	slices.SortStableFunc(order, func(a, b int) int { return counts[b] - counts[a] })
}
