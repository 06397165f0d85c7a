package modbus

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/sample"
)

// dataType is the type of a value in the device.
type dataType uint8

const (
	typeBool dataType = iota
	typeInt16
	typeUint16
	typeInt32
	typeUint32
	typeInt64
	typeUint64
	typeFloat32
	typeFloat64
	typeString
	typeCount
)

var typeNames = [typeCount]string{"bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string"}

// String returns the type's name as it stands in the configuration.
func (t dataType) String() string { return typeNames[t] }

// registers returns the width in registers; 0 for bool and string.
func (t dataType) registers() int {
	switch t {
	case typeInt16, typeUint16:
		return 1
	case typeInt32, typeUint32, typeFloat32:
		return 2
	case typeInt64, typeUint64, typeFloat64:
		return 4
	}
	return 0
}

// order says how the bytes of a value lie in its registers. The zero order is
// ABCD: the most significant byte comes first. The specification fixes the
// order within a register (V1.1b3, 4.2: big-endian) and leaves that of several
// registers to the device; not all devices keep to it.
type order struct {
	swapBytes bool // the low byte of each register comes first
	swapWords bool // the least significant register comes first
}

// parseOrder reads a tag's order: ABCD, CDAB, BADC, DCBA, or big or little for
// the words alone. An empty s is the connection's order.
func parseOrder(s string, connection order) (order, bool) {
	switch strings.ToLower(s) {
	case "":
		return connection, true
	case "abcd":
		return order{}, true
	case "cdab":
		return order{swapWords: true}, true
	case "badc":
		return order{swapBytes: true}, true
	case "dcba":
		return order{swapBytes: true, swapWords: true}, true
	case "big":
		return order{swapBytes: connection.swapBytes}, true
	case "little":
		return order{swapBytes: connection.swapBytes, swapWords: true}, true
	}
	return order{}, false
}

// integer returns the value of b, whose length is 2, 4 or 8 bytes.
func (o order) integer(b []byte) uint64 {
	var v uint64
	switch len(b) {
	case 2:
		v = uint64(binary.BigEndian.Uint16(b))
	case 4:
		n := binary.BigEndian.Uint32(b)
		if o.swapWords {
			n = bits.RotateLeft32(n, 16)
		}
		v = uint64(n)
	case 8:
		v = binary.BigEndian.Uint64(b)
		if o.swapWords {
			v = v<<48 | v>>48 | (v&0xFFFF0000)<<16 | (v>>16)&0xFFFF0000
		}
	}
	if o.swapBytes {
		v = v>>8&0x00FF00FF00FF00FF | v&0x00FF00FF00FF00FF<<8
	}
	return v
}

// put writes v into b, whose length is 2, 4 or 8 bytes; it is the inverse of
// integer.
func (o order) put(b []byte, v uint64) {
	// Both swaps are their own inverse, so that reading back what was written
	// in plain order gives the bytes in o's order.
	switch len(b) {
	case 2:
		binary.BigEndian.PutUint16(b, uint16(v))
		binary.BigEndian.PutUint16(b, uint16(o.integer(b)))
	case 4:
		binary.BigEndian.PutUint32(b, uint32(v))
		binary.BigEndian.PutUint32(b, uint32(o.integer(b)))
	case 8:
		binary.BigEndian.PutUint64(b, v)
		binary.BigEndian.PutUint64(b, o.integer(b))
	}
}

// decode returns the value of type t in b, the bytes of its registers as they
// came on the wire. Only strings allocate.
//
// A float32 becomes the float64 with the same shortest decimal (0.1 stays 0.1
// and is not 0.10000000149011612); converted back it is the same float32. A
// uint64 beyond 2^63-1 becomes a float64 where that is exact, else it is null
// and BadOutOfRange.
func decode(b []byte, t dataType, o order) (sample.Value, sample.Quality) {
	switch t {
	case typeInt16:
		return sample.IntValue(int64(int16(o.integer(b)))), sample.Good
	case typeInt32:
		return sample.IntValue(int64(int32(o.integer(b)))), sample.Good
	case typeUint16, typeUint32, typeInt64:
		return sample.IntValue(int64(o.integer(b))), sample.Good
	case typeUint64:
		n := o.integer(b)
		if n <= math.MaxInt64 {
			return sample.IntValue(int64(n)), sample.Good
		}
		// Exact when the bits from the highest to the lowest that is set span
		// no more than a float64's 53.
		if 64-bits.TrailingZeros64(n) <= 53 {
			return sample.FloatValue(float64(n)), sample.Good
		}
		return sample.Value{}, sample.BadOutOfRange
	case typeFloat32:
		return sample.FloatValue(widen(math.Float32frombits(uint32(o.integer(b))))), sample.Good
	case typeFloat64:
		return sample.FloatValue(math.Float64frombits(o.integer(b))), sample.Good
	case typeString:
		return sample.StringValue(decodeString(b, o)), sample.Good
	}
	return sample.Value{}, sample.BadInternalError
}

// decodeString reads two characters a register, the first in the high byte
// unless the bytes are swapped. It ends at the first NUL; blanks at the end
// are padding. Bytes that are not UTF-8 are read as ISO 8859-1.
func decodeString(b []byte, o order) string {
	buf := make([]byte, len(b))
	copy(buf, b)
	if o.swapBytes {
		for i := 0; i+1 < len(buf); i += 2 {
			buf[i], buf[i+1] = buf[i+1], buf[i]
		}
	}
	s := string(buf)
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	s = strings.TrimRight(s, " ")
	if utf8.ValidString(s) {
		return s
	}
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

// decodeBit returns bit n of a register.
func decodeBit(b []byte, n int8, o order) sample.Value {
	return sample.BoolValue(o.integer(b[:2])>>n&1 == 1)
}

var powersOfTen = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12}

// widen returns the float64 nearest to f's shortest decimal. NaN keeps its
// bits as far as the conversion does.
func widen(f float32) float64 {
	x := float64(f)
	if x != x || x > math.MaxFloat32 || x < -math.MaxFloat32 {
		return x
	}
	// Process values have few decimals, for which scaling is several times
	// faster than printing and parsing. f has 24 significant bits and 5^12 has
	// 28, so that the product is exact, and its rounding the nearest decimal.
	// Below 2^24 no decimal is shorter than the integer part.
	if a := math.Abs(x); a < 1<<24 && a >= 1e-3 {
		for _, p := range powersOfTen {
			if r := math.RoundToEven(x*p) / p; float32(r) == f {
				return r
			}
		}
	}
	var buf [32]byte
	r, err := strconv.ParseFloat(string(strconv.AppendFloat(buf[:0], x, 'g', -1, 32)), 64)
	if err != nil {
		return x
	}
	return r
}
