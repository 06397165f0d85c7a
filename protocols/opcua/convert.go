package opcua

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/sample"
)

// typeNames lists the words for a tag's type; typeIDs are their built-in types,
// OPC 10000-6, 5.1.2.
const typeNames = "boolean, sbyte, byte, int16, uint16, int32, uint32, int64, uint64, float, double, string, datetime"

var typeIDs = map[string]ua.TypeID{
	"boolean": ua.TypeIDBoolean, "sbyte": ua.TypeIDSByte, "byte": ua.TypeIDByte, "int16": ua.TypeIDInt16, "uint16": ua.TypeIDUint16,
	"int32": ua.TypeIDInt32, "uint32": ua.TypeIDUint32, "int64": ua.TypeIDInt64, "uint64": ua.TypeIDUint64,
	"float": ua.TypeIDFloat, "double": ua.TypeIDDouble, "string": ua.TypeIDString, "datetime": ua.TypeIDDateTime,
}

// highest are the largest values of the types that are whole numbers.
var highest = map[string]float64{
	"sbyte": math.MaxInt8, "byte": math.MaxUint8, "int16": math.MaxInt16, "uint16": math.MaxUint16,
	"int32": math.MaxInt32, "uint32": math.MaxUint32, "int64": math.MaxInt64, "uint64": math.MaxUint64,
}

// typeError says that a value is of a type that has no place in a sample.
type typeError struct{ what string }

func (e *typeError) Error() string { return e.what }

// convert turns a variant into a value. An integer beyond int64 is exact as a
// float64 or is an error, never rounded. The shortest decimal that reads back
// as the float32 stands for it: 0.1 and not 0.10000000149.
func convert(v *ua.Variant) (sample.Value, error) {
	if v == nil {
		return sample.Value{}, nil
	}
	switch x := v.Value().(type) {
	case nil:
		return sample.Value{}, nil
	case bool:
		return sample.BoolValue(x), nil
	case int8:
		return sample.IntValue(int64(x)), nil
	case uint8:
		return sample.IntValue(int64(x)), nil
	case int16:
		return sample.IntValue(int64(x)), nil
	case uint16:
		return sample.IntValue(int64(x)), nil
	case int32:
		return sample.IntValue(int64(x)), nil
	case uint32:
		return sample.IntValue(int64(x)), nil
	case int64:
		return sample.IntValue(x), nil
	case uint64:
		if x <= math.MaxInt64 {
			return sample.IntValue(int64(x)), nil
		}
		// Below 2^64 only: the largest float64 that fits a uint64 is 2^64-2048.
		if f := float64(x); f < 1<<64 && uint64(f) == x {
			return sample.FloatValue(f), nil
		}
		return sample.Value{}, fmt.Errorf("%d is larger than an int64 and no exact float64", x)
	case float32:
		return sample.FloatValue(widen(x)), nil
	case float64:
		return sample.FloatValue(x), nil
	case string:
		return sample.StringValue(x), nil
	case time.Time:
		return sample.StringValue(x.UTC().Format(time.RFC3339Nano)), nil
	case *ua.LocalizedText:
		return sample.StringValue(x.Text), nil
	}
	return sample.Value{}, &typeError{fmt.Sprintf("a %T is no single number, bool, text or time", v.Value())}
}

// widen returns the float64 that reads as the float32 does.
func widen(f float32) float64 {
	if f == float32(math.Trunc(float64(f))) || f != f {
		return float64(f) // whole numbers, infinities and NaN
	}
	var buf [32]byte
	out, err := strconv.ParseFloat(string(strconv.AppendFloat(buf[:0], float64(f), 'g', -1, 32)), 64)
	if err != nil {
		return float64(f)
	}
	return out
}

// overflowBits are InfoType DataValue and Overflow of a status code: the server
// dropped values since its queue was full. OPC 10000-4, 7.39.1.
const overflowBits = 0x00000480

// toSample turns a data value into a sample. The error says why the value is
// null although the server sent one.
func toSample(tag string, dv *ua.DataValue, now time.Time) (sample.Sample, error) {
	s := sample.Sample{Tag: tag, Time: now.UnixNano(), Quality: sample.Quality(uint32(dv.Status))}
	// Nanoseconds hold the years 1678 to 2261; servers send 1601 and 9999 for
	// "not known".
	if y := dv.SourceTimestamp.Year(); dv.EncodingMask&ua.DataValueSourceTimestamp != 0 && y >= 1678 && y <= 2261 {
		s.SourceTime = dv.SourceTimestamp.UnixNano()
	}
	if s.Quality.IsBad() {
		return s, nil
	}
	v, err := convert(dv.Value)
	if err != nil {
		s.Quality = sample.BadOutOfRange
		if odd := new(typeError); errors.As(err, &odd) {
			s.Quality = sample.BadTypeMismatch
		}
		return s, err
	}
	s.Value = v
	return s, nil
}

// typeName is the built-in type's name as OPC UA writes it, not the library.
func typeName(t ua.TypeID) string {
	name := strings.TrimPrefix(t.String(), "TypeID")
	if rest, ok := strings.CutPrefix(name, "Uint"); ok {
		return "UInt" + rest
	}
	return name
}

// toVariant converts a value for a node of a built-in type, exactly or not at
// all. Only the rounding of a decimal to a float32 is taken.
func toVariant(v sample.Value, t ua.TypeID) (*ua.Variant, error) {
	refuse := func() (*ua.Variant, error) {
		return nil, fmt.Errorf("%s %s does not fit a node of type %s", v.Kind(), v, typeName(t))
	}
	switch t {
	case ua.TypeIDBoolean:
		if v.Kind() != sample.Bool {
			return refuse()
		}
		return ua.NewVariant(v.Bool())
	case ua.TypeIDString:
		if v.Kind() != sample.String {
			return refuse()
		}
		return ua.NewVariant(v.Str())
	case ua.TypeIDDouble, ua.TypeIDFloat:
		f, ok := v.Number()
		if !ok || v.Kind() == sample.Bool || math.IsNaN(f) || math.IsInf(f, 0) {
			return refuse()
		}
		if v.Kind() == sample.Int64 && (f >= 1<<63 || int64(f) != v.Int()) {
			return refuse()
		}
		if t == ua.TypeIDDouble {
			return ua.NewVariant(f)
		}
		narrow := float32(f)
		if math.IsInf(float64(narrow), 0) || narrow == 0 && f != 0 || v.Kind() == sample.Int64 && float64(narrow) != f {
			return refuse()
		}
		return ua.NewVariant(narrow)
	}
	i, ok := integer(v)
	bits, unsigned, known := integerShape(t)
	if !ok || !known {
		return refuse()
	}
	if unsigned && i < 0 || unsigned && bits < 64 && i >= 1<<bits || !unsigned && bits < 64 && (i < -1<<(bits-1) || i >= 1<<(bits-1)) {
		return refuse()
	}
	switch t {
	case ua.TypeIDSByte:
		return ua.NewVariant(int8(i))
	case ua.TypeIDByte:
		return ua.NewVariant(byte(i))
	case ua.TypeIDInt16:
		return ua.NewVariant(int16(i))
	case ua.TypeIDUint16:
		return ua.NewVariant(uint16(i))
	case ua.TypeIDInt32:
		return ua.NewVariant(int32(i))
	case ua.TypeIDUint32:
		return ua.NewVariant(uint32(i))
	case ua.TypeIDInt64:
		return ua.NewVariant(i)
	}
	return ua.NewVariant(uint64(i))
}

// integer returns a whole number; a float that is whole counts.
func integer(v sample.Value) (int64, bool) {
	switch v.Kind() {
	case sample.Int64:
		return v.Int(), true
	case sample.Float64:
		f := v.Float()
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), true
		}
	}
	return 0, false
}

func integerShape(t ua.TypeID) (bits int, unsigned, ok bool) {
	switch t {
	case ua.TypeIDSByte:
		return 8, false, true
	case ua.TypeIDByte:
		return 8, true, true
	case ua.TypeIDInt16:
		return 16, false, true
	case ua.TypeIDUint16:
		return 16, true, true
	case ua.TypeIDInt32:
		return 32, false, true
	case ua.TypeIDUint32:
		return 32, true, true
	case ua.TypeIDInt64:
		return 64, false, true
	case ua.TypeIDUint64:
		return 64, true, true
	}
	return 0, false, false
}
