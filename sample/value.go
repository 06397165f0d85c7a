package sample

import (
	"fmt"
	"math"
	"strconv"
)

// Kind is the type of a Value.
type Kind uint8

// The kinds of value. Their numbers are part of the block format.
const (
	Null Kind = iota
	Float64
	Int64
	Bool
	String
)

// String returns the kind's name as it stands in JSON and in messages.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Float64:
		return "float64"
	case Int64:
		return "int64"
	case Bool:
		return "bool"
	case String:
		return "string"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Value is a float64, an int64, a bool, a string or null. The zero Value is
// null. It is compared with ==, bit by bit: a NaN equals the same NaN, and 0
// does not equal -0.
type Value struct {
	str  string
	bits uint64
	kind Kind
}

// FloatValue returns f as a Value. The bits of a NaN are kept.
func FloatValue(f float64) Value { return Value{bits: math.Float64bits(f), kind: Float64} }

// IntValue returns i as a Value.
func IntValue(i int64) Value { return Value{bits: uint64(i), kind: Int64} }

// BoolValue returns b as a Value.
func BoolValue(b bool) Value {
	if b {
		return Value{bits: 1, kind: Bool}
	}
	return Value{kind: Bool}
}

// StringValue returns s as a Value.
func StringValue(s string) Value { return Value{str: s, kind: String} }

// Kind returns the value's kind.
func (v Value) Kind() Kind { return v.kind }

// Float returns a Float64 value; 0 for other kinds.
func (v Value) Float() float64 {
	if v.kind != Float64 {
		return 0
	}
	return math.Float64frombits(v.bits)
}

// Int returns an Int64 value; 0 for other kinds.
func (v Value) Int() int64 {
	if v.kind != Int64 {
		return 0
	}
	return int64(v.bits)
}

// Bool returns a Bool value; false for other kinds.
func (v Value) Bool() bool { return v.kind == Bool && v.bits != 0 }

// Str returns a String value; "" for other kinds.
func (v Value) Str() string { return v.str }

// Bits returns the 64 bits that hold a float, an integer or a bool (0 or 1).
func (v Value) Bits() uint64 { return v.bits }

// Number returns a Float64, Int64 or Bool value as a float64. An int64 beyond
// 2^53 in magnitude is rounded. The second result is false for null and strings.
func (v Value) Number() (float64, bool) {
	switch v.kind {
	case Float64:
		return math.Float64frombits(v.bits), true
	case Int64:
		return float64(int64(v.bits)), true
	case Bool:
		return float64(v.bits), true
	}
	return 0, false
}

// String formats the value for people: null, 1.5, 42, true, or a quoted string.
func (v Value) String() string {
	switch v.kind {
	case Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case Int64:
		return strconv.FormatInt(v.Int(), 10)
	case Bool:
		return strconv.FormatBool(v.Bool())
	case String:
		return strconv.Quote(v.str)
	}
	return "null"
}
