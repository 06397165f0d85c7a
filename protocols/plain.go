package protocols

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"millrace/sample"
)

// Exactly returns v as a value of the kind, for targets whose form has no types
// of its own, such as text: 3 as the float 3, or 3.0 as the integer 3. Null as
// the kind stands for any. Null, NaN, infinity and text that is not UTF-8 are
// no values to write.
func Exactly(v sample.Value, kind sample.Kind) (sample.Value, error) {
	switch {
	case v.Kind() == sample.Null:
		return v, errors.New("null cannot be written")
	case v.Kind() == sample.Float64 && v.Float()-v.Float() != 0:
		return v, errors.New("NaN and infinity cannot be written")
	case v.Kind() == sample.String && !utf8.ValidString(v.Str()):
		return v, errors.New("the text is not UTF-8")
	case kind == sample.Null, v.Kind() == kind:
		return v, nil
	case kind == sample.Float64 && v.Kind() == sample.Int64:
		if f := float64(v.Int()); f < 1<<63 && int64(f) == v.Int() {
			return sample.FloatValue(f), nil
		}
	case kind == sample.Int64 && v.Kind() == sample.Float64:
		if f := v.Float(); f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
			return sample.IntValue(int64(f)), nil
		}
	}
	return v, fmt.Errorf("%s %s is not exactly a %s", v.Kind(), v, kind)
}

// AppendPlain appends a value as text that reads back as the same. Numbers of
// common size have no exponent: devices that read text often know none.
func AppendPlain(b []byte, v sample.Value) []byte {
	switch v.Kind() {
	case sample.String:
		return append(b, v.Str()...)
	case sample.Float64:
		f, form := v.Float(), byte('f')
		if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e15) {
			form = 'g'
		}
		return strconv.AppendFloat(b, f, form, -1, 64)
	}
	return append(b, v.String()...)
}
