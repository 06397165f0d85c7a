package block

import (
	"math"
	"math/bits"
)

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
