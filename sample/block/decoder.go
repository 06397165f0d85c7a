package block

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"millrace/sample"
)

// Decoder unpacks blocks. It keeps its buffers, so that a warm one allocates
// nothing per sample. It must not be used by two goroutines at once.
type Decoder struct {
	zstd *zstd.Decoder
	meta []byte
	sym  symbols
	out  Block
	left int // samples that no column has claimed yet

	name    []byte
	strs    []string
	quality []uint32
	shapes  [][]byte
	front   [3][]int64 // by tag: shape, time column, source column
	ticks   []int64
	times   [][]int64 // distinct columns of time
	clocks  [][]int64 // distinct columns of source time
	descs   []byte    // of the columns of time
	sources []byte    // of the columns of source time: unit and description of each
	base    int64
	unit    int64

	ints  arena[int64]
	bits  arena[uint64]
	seqs  arena[uint64]
	kinds arena[sample.Kind]
	texts arena[string]
	quals arena[sample.Quality]
	same  [sample.String + 1][]sample.Kind
	tmp   [3][]int64
}

// arena hands out slices of one buffer that is used again for the next block.
type arena[T any] struct {
	buf  []T
	want int
}

// reset prepares for a block of up to n elements at first.
func (a *arena[T]) reset() {
	if a.want > cap(a.buf) {
		a.buf = make([]T, 0, a.want)
	}
	a.buf, a.want = a.buf[:0], 0
}

func (a *arena[T]) take(n int) []T {
	a.want += n
	if n > cap(a.buf)-len(a.buf) {
		return make([]T, n)
	}
	at := len(a.buf)
	a.buf = a.buf[:at+n]
	return a.buf[at : at+n : at+n]
}

// NewDecoder returns a decoder.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxMeta), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &Decoder{zstd: z}, nil
}

// Decode checks and unpacks a block. The result is valid until the next Decode;
// strings in it may be kept. Errors wrap ErrCorrupt or ErrVersion.
//
// Whatever data holds, memory is bounded: by MaxSamples samples of some 80
// bytes, and by MaxDictionary names of MaxTagBytes; names and strings together
// unpack to no more than 64 KiB and 1024 times their packed size, nor than 32
// MiB. A hostile block of 1 KB takes under 60 MB.
func (d *Decoder) Decode(data []byte) (*Block, error) {
	if err := Verify(data); err != nil {
		return nil, err
	}
	h, rest, err := parseHeader(data[:len(data)-crcSize])
	if err != nil {
		return nil, err
	}
	d.out.Header = h
	if err := d.body(rest); err != nil {
		return nil, fmt.Errorf("block %s: %w", h.Identity(), err)
	}
	return &d.out, nil
}

func (d *Decoder) body(rest []byte) error {
	r := reader{b: rest}
	meta, err := d.unpackMeta(&r)
	if err != nil {
		return err
	}
	d.sym.start(&r)
	if r.err != nil {
		return r.err
	}
	d.left = d.out.Count
	m := reader{b: meta}
	d.sym.readTables(&m)
	n := m.count(min(MaxDictionary, d.out.Count), "tags")
	d.readNames(&m, n)
	d.readStrings(&m)
	d.readShapes(&m, n)
	if m.err != nil {
		return m.err
	}
	for i := range d.out.Columns {
		if err := d.column(i); err != nil {
			return err
		}
	}
	if d.left != 0 {
		m.fail("%d samples of %d belong to no tag", d.left, d.out.Count)
		return m.err
	}
	if len(d.descs) > 0 || len(d.sources) > 0 {
		m.fail("columns of time that no tag uses")
		return m.err
	}
	return d.sym.finish()
}

func (d *Decoder) unpackMeta(r *reader) ([]byte, error) {
	size := r.count(maxMeta, "bytes of names")
	packed := r.uvarint()
	if r.err != nil {
		return nil, r.err
	}
	if packed == 0 {
		return r.take(size), r.err
	}
	if packed > uint64(len(r.b)) || uint64(size) > metaSlack+maxMetaRatio*packed {
		r.fail("names of %d bytes from %d bytes", size, packed)
		return nil, r.err
	}
	d.meta = grow(d.meta, size)
	out, err := d.zstd.DecodeAll(r.take(int(packed)), d.meta[:0:size])
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
	}
	if len(out) != size {
		r.fail("names of %d bytes, not %d", len(out), size)
	}
	return out, r.err
}

func (d *Decoder) readNames(m *reader, n int) {
	d.tmp[0], d.tmp[1] = grow(d.tmp[0], n), grow(d.tmp[1], n)
	shared, own := d.tmp[0], d.tmp[1]
	for i := range n {
		shared[i] = int64(m.count(sample.MaxTagBytes, "shared bytes"))
	}
	for i := range n {
		own[i] = int64(m.count(sample.MaxTagBytes, "bytes of a name"))
	}
	d.name = d.name[:0]
	d.out.Columns = grow(d.out.Columns, n)
	for i := range n {
		if int(shared[i]) > len(d.name) || shared[i]+own[i] > sample.MaxTagBytes {
			m.fail("a name shares more than there is, or is longer than %d bytes", sample.MaxTagBytes)
			return
		}
		d.name = append(d.name[:shared[i]], m.take(int(own[i]))...)
		// The next block is mostly of the same tags.
		tag := d.out.Columns[i].Tag
		if tag != string(d.name) {
			tag = string(d.name)
		}
		d.out.Columns[i] = Column{Tag: tag}
	}
}

func (d *Decoder) readStrings(m *reader) {
	n := m.count(min(len(m.b), 2*d.out.Count+1), "strings")
	d.strs, d.tmp[0] = grow(d.strs, n), grow(d.tmp[0], n)
	for i := range n {
		d.tmp[0][i] = int64(m.count(len(m.b), "bytes of a string"))
	}
	for i, k := range d.tmp[0] {
		d.strs[i] = string(m.take(int(k)))
	}
	n = m.count(min(len(m.b)/4, d.out.Count), "quality codes")
	d.quality = append(d.quality[:0], 0)
	for range n {
		d.quality = append(d.quality, m.uint32())
	}
}

// readShapes reads the shapes and what describes the columns of time.
func (d *Decoder) readShapes(m *reader, tags int) {
	n := m.count(tags, "shapes")
	sizes := m.take(n)
	d.shapes = d.shapes[:0]
	for _, k := range sizes {
		d.shapes = append(d.shapes, m.take(int(k)))
	}
	shape, times, clocks := m.byte(), m.byte(), m.byte()
	source := byte(0)
	if clocks != 0 {
		source = m.byte()
	}
	d.base = d.out.First + m.varint()
	code := m.byte()
	grid := m.count(d.out.Count, "ticks")
	gridDesc := byte(0)
	if grid > 0 {
		gridDesc = m.byte()
	}
	if m.err != nil || int(code) >= len(units) {
		m.fail("a unit of time of 10^%d ns", code)
		return
	}
	d.unit = units[code]
	d.ints.reset()
	d.bits.reset()
	d.seqs.reset()
	d.kinds.reset()
	d.texts.reset()
	d.quals.reset()
	for k, desc := range []byte{shape, times, source} {
		d.front[k] = grow(d.front[k], tags)
		d.sym.ints(d.front[k], desc)
	}
	if clocks == 0 {
		clear(d.front[2])
	}
	d.times, d.clocks = d.times[:0], d.clocks[:0]
	d.ticks = grow(d.ticks, grid)
	d.sym.ints(d.ticks, gridDesc)
	d.instants(d.ticks)
	most := int64(0)
	for _, id := range d.front[1] {
		most = max(most, id)
	}
	d.descs = m.take(int(min(most, int64(len(m.b)+1))))
	most = 0
	for _, id := range d.front[2] {
		most = max(most, id)
	}
	d.sources = m.take(int(min(2*min(most, int64(len(m.b)+1)), int64(len(m.b)+1))))
	if len(m.b) > 0 {
		m.fail("%d bytes too many", len(m.b))
	}
	if d.sym.err != nil && m.err == nil {
		m.err = d.sym.err
	}
}

// instants turns units from the base into ns since 1970.
func (d *Decoder) instants(x []int64) {
	for i, v := range x {
		x[i] = d.base + v*d.unit
	}
}

// column decodes all of one tag.
func (d *Decoder) column(i int) error {
	c := &d.out.Columns[i]
	r := reader{}
	id := d.front[0][i]
	if id < 0 || id >= int64(len(d.shapes)) {
		r.fail("tag %d is of no shape", i)
		return r.err
	}
	if err := d.time(c, d.front[1][i]); err != nil {
		return err
	}
	if err := d.source(c, d.front[2][i]); err != nil {
		return err
	}
	r.b = d.shapes[id]
	d.values(c, &r)
	if r.err != nil {
		return fmt.Errorf("tag %s: %w", c.Tag, r.err)
	}
	if len(r.b) > 0 {
		r.fail("tag %s: its shape is too long", c.Tag)
		return r.err
	}
	return d.sym.err
}

// time sets a tag's times: those of a column that came before, or of the next.
func (d *Decoder) time(c *Column, id int64) error {
	r := reader{}
	switch {
	case id >= 1 && id <= int64(len(d.times)):
		c.Times = d.times[id-1]
		c.N = len(c.Times)
	case id == int64(len(d.times))+1 && len(d.descs) > 0:
		c.N = d.sym.length(1, d.left, "samples")
		if d.sym.err != nil {
			return d.sym.err
		}
		x := d.ints.take(c.N)
		d.sym.ints(x, d.descs[0])
		d.descs = d.descs[1:]
		if len(d.ticks) == 0 {
			d.instants(x)
		} else {
			for i, k := range x {
				if uint64(k) >= uint64(len(d.ticks)) {
					r.fail("tick %d of %d", k, len(d.ticks))
					return r.err
				}
				x[i] = d.ticks[k]
			}
		}
		c.Times = x
		d.times = append(d.times, x)
	default:
		r.fail("tag %s: time column %d of %d", c.Tag, id, len(d.times))
		return r.err
	}
	if c.N > d.left {
		r.fail("tag %s: %d samples where %d are left", c.Tag, c.N, d.left)
		return r.err
	}
	d.left -= c.N
	return nil
}

func (d *Decoder) source(c *Column, id int64) error {
	r := reader{}
	switch {
	case id == 0:
		return nil
	case id >= 1 && id <= int64(len(d.clocks)) && len(d.clocks[id-1]) == c.N:
		c.SourceTimes = d.clocks[id-1]
	case id == int64(len(d.clocks))+1 && len(d.sources) >= 2:
		unit, desc := d.sources[0], d.sources[1]
		d.sources = d.sources[2:]
		code := int(unit &^ absoluteClock)
		if code >= len(units) {
			r.fail("a unit of time of 10^%d ns", code)
			return r.err
		}
		x := d.ints.take(c.N)
		base := d.sym.head()
		d.sym.ints(x, desc)
		if unit&absoluteClock != 0 {
			base += d.out.First
			for i, k := range x {
				x[i] = base + k*units[code]
			}
		} else {
			for i, k := range x {
				x[i] = c.Times[i] + base + k*units[code]
			}
		}
		c.SourceTimes = x
		d.clocks = append(d.clocks, x)
	default:
		r.fail("tag %s: source time column %d of %d", c.Tag, id, len(d.clocks))
	}
	return r.err
}

// values decodes what a tag's shape describes.
func (d *Decoder) values(c *Column, r *reader) {
	mask, flags := r.byte(), r.byte()
	if mask == 0 || mask >= 1<<slotCount || flags&^shapeKnown != 0 {
		r.fail("a bad shape: %02x %02x", mask, flags)
		return
	}
	c.Bits = d.bits.take(c.N)
	if mask&(1<<slotString) != 0 {
		c.Strs = d.texts.take(c.N)
	}
	if mask&(mask-1) == 0 {
		slot := bits.TrailingZeros8(mask)
		c.Kinds = sameKinds(&d.same[kindOf(slot)], kindOf(slot), c.N)
		d.slot(c, r, slot, c.N, nil)
	} else {
		d.mixed(c, r, mask)
	}
	if flags&shapeQuality != 0 {
		x := d.scratch(0, c.N)
		d.sym.ints(x, r.byte())
		c.Quality = d.quals.take(c.N)
		for i, k := range x {
			if uint64(k) >= uint64(len(d.quality)) {
				r.fail("quality code %d of %d", k, len(d.quality))
				return
			}
			c.Quality[i] = sample.Quality(d.quality[k])
		}
	}
	if flags&shapeProducer != 0 {
		x := d.scratch(0, c.N)
		d.sym.ints(x, r.byte())
		c.Producers = d.texts.take(c.N)
		d.lookUp(r, c.Producers, x, nil)
		d.sym.ints(x, r.byte())
		c.Seqs = d.seqs.take(c.N)
		for i, k := range x {
			c.Seqs[i] = uint64(k)
		}
	}
}

// scratch returns one of the three work columns. 0 holds values or codes, 1
// dictionary values, 2 the slots of a mixed column.
func (d *Decoder) scratch(k, n int) []int64 {
	d.tmp[k] = grow(d.tmp[k], n)
	return d.tmp[k]
}

func kindOf(slot int) sample.Kind {
	if slot == slotRaw {
		return sample.Float64
	}
	return sample.Kind(slot)
}

func (d *Decoder) mixed(c *Column, r *reader, mask byte) {
	slots := d.scratch(2, c.N)
	d.sym.ints(slots, r.byte())
	c.Kinds = d.kinds.take(c.N)
	var counts [slotCount]int
	for i, s := range slots {
		if uint64(s) >= slotCount || mask>>s&1 == 0 {
			r.fail("a sample of kind %d", s)
			return
		}
		counts[s]++
		c.Kinds[i] = kindOf(int(s))
	}
	clear(c.Bits)
	clear(c.Strs)
	for slot := range slotCount {
		if mask>>slot&1 != 0 {
			d.slot(c, r, slot, counts[slot], slots)
		}
	}
}

// slot decodes n values of one slot. slots says which samples they are of; nil
// is all.
func (d *Decoder) slot(c *Column, r *reader, slot, n int, slots []int64) {
	if slot == slotNull {
		if slots == nil {
			clear(c.Bits)
		}
		return
	}
	extra := byte(0)
	if slot == slotDecimal || slot == slotInt || slot == slotRaw {
		extra = r.byte()
	}
	x := d.scratch(0, n)
	if extra&scaleDict != 0 && slot != slotRaw {
		d.dictionary(r, x)
	} else {
		d.sym.ints(x, r.byte())
	}
	if slot == slotString {
		d.lookUp(r, c.Strs, x, slots)
		if slots == nil {
			clear(c.Bits)
		}
		return
	}
	if slots == nil {
		toBits(c.Bits, x, slot, extra, r)
		return
	}
	// The values are few or mixed: work them out beside, then place them.
	vals := d.bits.take(n)
	toBits(vals, x, slot, extra, r)
	k := 0
	for i, s := range slots {
		if int(s) == slot {
			c.Bits[i] = vals[k]
			k++
		}
	}
}

// dictionary decodes a column of codes and replaces them by their values.
func (d *Decoder) dictionary(r *reader, x []int64) {
	n := d.sym.length(1, max(len(x), 1), "distinct values")
	values := d.scratch(1, n)
	d.sym.ints(values, r.byte())
	d.sym.ints(x, r.byte())
	for i, code := range x {
		k := zigzag(code)
		if k >= uint64(n) {
			r.fail("value %d of %d", k, n)
			return
		}
		x[i] = values[k]
	}
}

// lookUp replaces string numbers by strings.
func (d *Decoder) lookUp(r *reader, dst []string, x, slots []int64) {
	k := 0
	for i := range dst {
		if slots != nil && slots[i] != slotString {
			continue
		}
		if uint64(x[k]) >= uint64(len(d.strs)) {
			r.fail("string %d of %d", x[k], len(d.strs))
			return
		}
		dst[i] = d.strs[x[k]]
		k++
	}
}

// toBits turns a slot's integers into the bits of its values.
func toBits(dst []uint64, x []int64, slot int, extra byte, r *reader) {
	dst = dst[:len(x)]
	switch slot {
	case slotDecimal:
		mode, places := extra&^scaleDict>>4, int(extra&15)
		if mode > scaleFloat32 {
			r.fail("scale %02x", extra)
			return
		}
		if mode == scaleDivide {
			p := pow10[places]
			for i, m := range x {
				dst[i] = math.Float64bits(float64(m) / p)
			}
			return
		}
		for i, m := range x {
			dst[i] = math.Float64bits(unscale(m, mode, places))
		}
	case slotBool:
		for i, b := range x {
			if uint64(b) > 1 {
				r.fail("a bool of %d", b)
				return
			}
			dst[i] = uint64(b)
		}
	case slotRaw:
		if extra > 63 {
			r.fail("shift of %d", extra)
			return
		}
		for i, m := range x {
			sign := m >> 63
			dst[i] = uint64(m^sign)<<extra&^(1<<63) | uint64(sign)<<63
		}
	default:
		for i, v := range x {
			dst[i] = uint64(v)
		}
	}
}

// sameKinds returns n times the kind k, from buf.
func sameKinds(buf *[]sample.Kind, k sample.Kind, n int) []sample.Kind {
	*buf = fill(*buf, n, k)
	return (*buf)[:n:n]
}
