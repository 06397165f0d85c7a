package block

import (
	"encoding/binary"
	"fmt"
	"math"

	"millrace/sample"
)

// The part form is rows, as they came: what the gateway keeps of an open batch
// in memory and in its spool. It belongs to one version of the gateway. Each
// row starts with a control byte: the value's form in bits 0-2, and flags.
const (
	partSameTime  = 1 << 3 // the time of the row before
	partNextTag   = 1 << 4 // the tag after that of the row before
	partQuality   = 1 << 5 // a quality follows; else Good
	partSource    = 1 << 6 // a source time follows
	partProducer  = 1 << 7 // a producer and a sequence number follow
	partFormMask  = 7
	partFormNull  = 0
	partFormFloat = 1 // 8 bytes
	partFormInt   = 2 // zigzag varint
	partFormFalse = 3
	partFormTrue  = 4
	partFormText  = 5
	partFormTiny  = 6 // float that is a decimal: byte with the decimals, zigzag varint
	partFormF32   = 7 // float that is a float32: 4 bytes
)

const (
	// partVersion is written; partVersionBare, without a clock, is still read.
	partVersion     = 2
	partVersionBare = 1
	// partDecimals and partTiny bound the decimals that are kept as such:
	// longer ones take no less than the float does.
	partDecimals = 4
	partTiny     = 1 << 40
)

// PartClock says by which clock the rows of a part were stamped, so that they
// can be stamped again.
type PartClock struct {
	Boot   [16]byte // the run of the monotonic clock
	Mono   int64    // time of a row less the monotonic clock when it was taken, ns
	Clock  ClockState
	Stated bool // false for a part of a version that did not say
}

// PartWriter packs rows, in the order in which they come. The zero PartWriter
// is ready for Add. It must not be used by two goroutines at once.
type PartWriter struct {
	buf         []byte
	count       int
	first, last int64
	tag         int
	time        int64
	source      int64
	seq         uint64
	producer    string
	decimals    int  // of the last float that was a decimal
	missed      bool // the last float was none
	clock       PartClock
}

// Reset drops the rows. Those to come are appended to buf[:0].
func (w *PartWriter) Reset(buf []byte) { *w = PartWriter{buf: buf[:0], clock: w.clock} }

// SetClock says by which clock the rows to come are stamped. It holds for parts
// that have no rows yet.
func (w *PartWriter) SetClock(c PartClock) { w.clock = c }

// Clock returns what SetClock was told.
func (w *PartWriter) Clock() PartClock { return w.clock }

// Bytes returns the part, which can be read by itself. It is valid until the
// next Add or Reset. A part without rows has no bytes.
func (w *PartWriter) Bytes() []byte { return w.buf }

// Count returns the number of rows.
func (w *PartWriter) Count() int { return w.count }

// First returns the earliest primary time of the rows, in ns since the Unix
// epoch; 0 where there are none.
func (w *PartWriter) First() int64 { return w.first }

// Last returns the latest primary time of the rows, in ns.
func (w *PartWriter) Last() int64 { return w.last }

// Add appends a row. tag is an index that means something to the caller, from
// 0 to MaxDictionary-1; s.Tag is not used.
func (w *PartWriter) Add(tag int, s *sample.Sample) {
	primary := s.PrimaryTime()
	if w.count == 0 {
		w.buf = append(append(w.buf, partVersion), w.clock.Boot[:]...)
		w.buf = append(binary.AppendVarint(w.buf, w.clock.Mono), byte(w.clock.Clock))
		w.first, w.last = primary, primary
		w.tag = -1
	}
	w.count++
	w.first, w.last = min(w.first, primary), max(w.last, primary)

	at := len(w.buf)
	control := byte(0)
	b := append(w.buf, 0)
	if tag == w.tag+1 {
		control |= partNextTag
	} else {
		b = binary.AppendVarint(b, int64(tag)-int64(w.tag)-1)
	}
	w.tag = tag
	if s.Time == w.time {
		control |= partSameTime
	} else {
		b = binary.AppendVarint(b, s.Time-w.time)
		w.time = s.Time
	}
	form, b := w.value(b, s.Value)
	control |= form
	if s.Quality != sample.Good {
		control |= partQuality
		b = binary.LittleEndian.AppendUint32(b, uint32(s.Quality))
	}
	if s.SourceTime != 0 {
		control |= partSource
		b = binary.AppendVarint(b, s.SourceTime-w.source)
		w.source = s.SourceTime
	}
	if s.Producer != "" || s.Seq != 0 {
		control |= partProducer
		b = binary.AppendVarint(b, int64(s.Seq-w.seq))
		w.seq = s.Seq
		if s.Producer == w.producer {
			b = append(b, 0)
		} else {
			b = binary.AppendUvarint(b, uint64(len(s.Producer))+1)
			b = append(b, s.Producer...)
			w.producer = s.Producer
		}
	}
	b[at] = control
	w.buf = b
}

// value appends a value and returns its form.
func (w *PartWriter) value(b []byte, v sample.Value) (byte, []byte) {
	switch v.Kind() {
	case sample.Float64:
		return w.float(b, v.Bits())
	case sample.Int64:
		return partFormInt, binary.AppendVarint(b, v.Int())
	case sample.Bool:
		if v.Bool() {
			return partFormTrue, b
		}
		return partFormFalse, b
	case sample.String:
		b = binary.AppendUvarint(b, uint64(len(v.Str())))
		return partFormText, append(b, v.Str()...)
	case sample.Null:
	}
	return partFormNull, b
}

// float appends a float in the shortest of three forms. It tries the decimals
// of the float before first, and after a float that was no decimal nothing else,
// since noise is mostly followed by noise.
func (w *PartWriter) float(b []byte, bits uint64) (byte, []byte) {
	f := math.Float64frombits(bits)
	tries := partDecimals + 1
	if w.missed {
		tries = 1
	}
	for range tries {
		s := f * pow10[w.decimals]
		if math.Abs(s) < partTiny {
			m := int64(s + math.Copysign(0.5, s))
			if math.Float64bits(float64(m)/pow10[w.decimals]) == bits {
				w.missed = false
				return partFormTiny, binary.AppendVarint(append(b, byte(w.decimals)), m)
			}
		}
		w.decimals = (w.decimals + 1) % (partDecimals + 1)
	}
	w.missed = true
	if f32 := float32(f); math.Float64bits(float64(f32)) == bits {
		return partFormF32, binary.LittleEndian.AppendUint32(b, math.Float32bits(f32))
	}
	return partFormFloat, binary.LittleEndian.AppendUint64(b, bits)
}

// ReadPart calls fn for each row of a part, in order. The sample is used again
// for the next row and has no Tag. It stops at the first error of fn and
// returns it; bytes that are no part give an error that wraps ErrCorrupt.
func ReadPart(data []byte, fn func(tag int, s *sample.Sample) error) error {
	if len(data) == 0 {
		return nil
	}
	r := reader{b: data}
	if _, err := readPartClock(&r); err != nil {
		return err
	}
	var s sample.Sample
	row := partRow{tag: -1}
	for len(r.b) > 0 {
		row.read(&r, &s)
		if r.err != nil {
			return fmt.Errorf("open batch: %w", r.err)
		}
		if err := fn(int(row.tag), &s); err != nil {
			return err
		}
	}
	return nil
}

// ReadPartClock returns the clock by which a part's rows were stamped.
func ReadPartClock(data []byte) (PartClock, error) {
	if len(data) == 0 {
		return PartClock{}, nil
	}
	return readPartClock(&reader{b: data})
}

func readPartClock(r *reader) (c PartClock, err error) {
	switch v := r.byte(); v {
	case partVersionBare:
		return c, nil
	case partVersion:
	default:
		return c, fmt.Errorf("%w: part of version %d, this program reads %d", ErrVersion, v, partVersion)
	}
	copy(c.Boot[:], r.take(len(c.Boot)))
	c.Mono = r.varint()
	c.Clock = ClockState(r.byte())
	c.Stated = true
	if r.err != nil {
		return PartClock{}, fmt.Errorf("open batch: %w", r.err)
	}
	return c, nil
}

// partRow is what a row is told relative to.
type partRow struct {
	tag, time, source int64
	seq               uint64
	producer          string
}

func (p *partRow) read(r *reader, s *sample.Sample) {
	control := r.byte()
	p.tag++
	if control&partNextTag == 0 {
		p.tag += r.varint()
	}
	if p.tag < 0 || p.tag >= MaxDictionary {
		r.fail("tag %d", p.tag)
		return
	}
	if control&partSameTime == 0 {
		p.time += r.varint()
	}
	*s = sample.Sample{Time: p.time}
	s.Value = readPartValue(r, control&partFormMask)
	if control&partQuality != 0 {
		s.Quality = sample.Quality(r.uint32())
	}
	if control&partSource != 0 {
		p.source += r.varint()
		s.SourceTime = p.source
	}
	if control&partProducer == 0 {
		return
	}
	p.seq += uint64(r.varint())
	if n := r.uvarint(); n > 0 {
		p.producer = string(r.take(clampLen(n - 1)))
	}
	s.Seq, s.Producer = p.seq, p.producer
}

func readPartValue(r *reader, form byte) sample.Value {
	switch form {
	case partFormFloat:
		return sample.FloatValue(math.Float64frombits(r.uint64()))
	case partFormF32:
		return sample.FloatValue(float64(math.Float32frombits(r.uint32())))
	case partFormTiny:
		d := r.byte()
		m := r.varint()
		if int(d) > maxDecimals {
			r.fail("float of %d decimals", d)
			return sample.Value{}
		}
		return sample.FloatValue(float64(m) / pow10[d])
	case partFormInt:
		return sample.IntValue(r.varint())
	case partFormFalse, partFormTrue:
		return sample.BoolValue(form == partFormTrue)
	case partFormText:
		return sample.StringValue(string(r.take(clampLen(r.uvarint()))))
	}
	return sample.Value{}
}

// clampLen turns a length that was read into one that take refuses where it is
// too large for an int.
func clampLen(n uint64) int { return int(min(n, math.MaxInt32)) }
