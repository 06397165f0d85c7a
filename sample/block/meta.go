package block

import (
	"encoding/binary"
	"fmt"

	"millrace/sample"
)

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
