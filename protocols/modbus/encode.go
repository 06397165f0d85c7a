package modbus

import (
	"errors"
	"fmt"
	"math"

	"millrace/sample"
)

// coilState takes a bool, or the numbers 0 and 1.
func coilState(v sample.Value) (bool, error) {
	n, ok := v.Number()
	if !ok || n != 0 && n != 1 {
		return false, errors.New("a coil takes true or false")
	}
	return n == 1, nil
}

// span is the range of an integer type. High is exclusive, since 2^63 and
// 2^64 are exact in float64 and the largest integers are not.
type span struct{ low, high float64 }

var spans = map[dataType]span{
	typeInt16:  {-1 << 15, 1 << 15},
	typeUint16: {0, 1 << 16},
	typeInt32:  {-1 << 31, 1 << 31},
	typeUint32: {0, 1 << 32},
	typeInt64:  {-1 << 63, 1 << 63},
	typeUint64: {0, 1 << 64},
}

// encode puts v as p's type into b, which has the size of the type. Nothing
// is clamped: what the type does not hold is refused. Only the rounding of a
// decimal to a float32 is taken.
func encode(b []byte, p point, v sample.Value) error {
	if v.Kind() != sample.Int64 && v.Kind() != sample.Float64 {
		return fmt.Errorf("a %s cannot be written as %s", v.Kind(), p.typ)
	}
	f, _ := v.Number()
	switch p.typ {
	case typeFloat64, typeFloat32:
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return errors.New("it is not a number that can be written")
		}
		if v.Kind() == sample.Int64 && (math.Abs(f) >= 1<<63 || int64(f) != v.Int()) {
			return fmt.Errorf("a %s does not hold it exactly", p.typ)
		}
		if p.typ == typeFloat64 {
			p.order.put(b, math.Float64bits(f))
			return nil
		}
		narrow := float32(f)
		if math.IsInf(float64(narrow), 0) {
			return errors.New("it is beyond the range of a float32")
		}
		if v.Kind() == sample.Int64 && float64(narrow) != f {
			return errors.New("a float32 does not hold it exactly")
		}
		p.order.put(b, uint64(math.Float32bits(narrow)))
		return nil
	}
	if v.Kind() == sample.Int64 {
		n := v.Int()
		s := spans[p.typ]
		// n >= 2^53 may round up to the bound; the two types with such bounds
		// hold every such n.
		if p.typ.registers() < 4 && (float64(n) < s.low || float64(n) >= s.high) || p.typ == typeUint64 && n < 0 {
			return fmt.Errorf("it is outside of %s, %.0f to %.0f", p.typ, s.low, s.high-1)
		}
		p.order.put(b, uint64(n))
		return nil
	}
	s, ok := spans[p.typ]
	switch {
	case !ok:
		return fmt.Errorf("a %s cannot be written as %s", v.Kind(), p.typ)
	case f != math.Trunc(f): // true for NaN as well
		return fmt.Errorf("a %s takes whole numbers only", p.typ)
	case f < s.low || f >= s.high:
		return fmt.Errorf("it is outside of %s, %.0f to %.0f", p.typ, s.low, s.high-1)
	case p.typ == typeUint64:
		p.order.put(b, uint64(f))
	default:
		p.order.put(b, uint64(int64(f)))
	}
	return nil
}
