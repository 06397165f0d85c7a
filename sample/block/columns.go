package block

import (
	"fmt"

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
	set := int64(0)
	for _, t := range rows {
		set |= t
	}
	if set == 0 {
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

func (e *Encoder) encodeQuality(from, to int) bool {
	if len(e.sorted.quality) == 0 {
		return false
	}
	rows := e.sorted.quality[from:to]
	set := uint32(0)
	for _, q := range rows {
		set |= q
	}
	if set == 0 {
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
	known := false
	for i := from; i < to; i++ {
		known = known || e.sorted.producer[i] != none || e.sorted.seq[i] != 0
	}
	if !known {
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
