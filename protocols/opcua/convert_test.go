package opcua

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/sample"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"ns=2;s=Line1.Temp", "ns=2;s=Line1.Temp"},
		{"ns=3;i=1001", "ns=3;i=1001"},
		{"i=2258", "i=2258"},
		{"s=Plain", "s=Plain"},
		{"ns=2;s=with;semicolon=and;more", "ns=2;s=with;semicolon=and;more"},
		{"ns=2;s=Pumpe Süd", "ns=2;s=Pumpe Süd"},
		{"ns=1;g=09087e75-8e5e-499b-954f-f2a9603db28a", "ns=1;g=09087E75-8E5E-499B-954F-F2A9603DB28A"},
		{"ns=65535;i=4294967295", "ns=65535;i=4294967295"},
		{"nsu=http://vendor/;s=X", "ns=1;s=X"},
		{"nsu=urn:other;i=7", "ns=2;i=7"},
		{"nsu=urn:other;s=a;b", "ns=2;s=a;b"},
	} {
		a, err := parseAddress(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		id, err := a.resolve([]string{"http://opcfoundation.org/UA/", "http://vendor/", "urn:other"})
		if err != nil || id.String() != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.text, id, err, c.want)
		}
	}
	for _, text := range []string{"", "Line1.Temp", "ns=2", "ns=2;", "ns=2;s=", "ns=2;x=1", "ns=65536;i=1", "ns=-1;i=1", "ns=a;i=1", "i=4294967296", "i=-1", "i=abc",
		"g=nonsense", "nsu=;s=X", "nsu=urn:a", "nsu=urn:a;", "nsu=urn:a;s=", "nsu=urn:a;ns=2;s=X", "nsu=urn:a;i=x", "ns=2;ns=3;i=1"} {
		if a, err := parseAddress(text); err == nil {
			t.Errorf("%q is taken as %v", text, a)
		}
	}
}

func TestResolveNamesAMissingNamespace(t *testing.T) {
	a, err := parseAddress("nsu=urn:gone;s=X")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.resolve([]string{"urn:other"}); err == nil || err.Error() != "the server has no namespace urn:gone" {
		t.Errorf("got %v", err)
	}
}

func TestConvert(t *testing.T) {
	whole := uint64(1 << 63)
	for _, c := range []struct {
		in   any
		want sample.Value
	}{
		{true, sample.BoolValue(true)}, {false, sample.BoolValue(false)},
		{int8(math.MinInt8), sample.IntValue(math.MinInt8)}, {uint8(math.MaxUint8), sample.IntValue(math.MaxUint8)},
		{int16(math.MinInt16), sample.IntValue(math.MinInt16)}, {uint16(math.MaxUint16), sample.IntValue(math.MaxUint16)},
		{int32(math.MinInt32), sample.IntValue(math.MinInt32)}, {uint32(math.MaxUint32), sample.IntValue(math.MaxUint32)},
		{int64(math.MinInt64), sample.IntValue(math.MinInt64)}, {int64(math.MaxInt64), sample.IntValue(math.MaxInt64)},
		{uint64(math.MaxInt64), sample.IntValue(math.MaxInt64)}, {whole, sample.FloatValue(1 << 63)},
		{uint64(math.MaxUint64 - 2047), sample.FloatValue(math.MaxUint64 - 2047)},
		{float32(0.1), sample.FloatValue(0.1)}, {float32(230.1), sample.FloatValue(230.1)}, {float32(-1.5), sample.FloatValue(-1.5)},
		{float32(16777216), sample.FloatValue(16777216)}, {float32(math.MaxFloat32), sample.FloatValue(math.MaxFloat32)},
		{float32(1e-45), sample.FloatValue(1e-45)}, {float32(math.Inf(-1)), sample.FloatValue(math.Inf(-1))},
		{0.1, sample.FloatValue(0.1)}, {math.MaxFloat64, sample.FloatValue(math.MaxFloat64)},
		{"Pumpe Süd", sample.StringValue("Pumpe Süd")}, {"", sample.StringValue("")},
		{time.Date(2024, 2, 29, 12, 0, 0, 100, time.UTC), sample.StringValue("2024-02-29T12:00:00.0000001Z")},
		{&ua.LocalizedText{EncodingMask: ua.LocalizedTextText, Text: "run"}, sample.StringValue("run")},
	} {
		got, err := convert(ua.MustVariant(c.in))
		if err != nil || got != c.want {
			t.Errorf("%T %v: got %v, %v, want %v", c.in, c.in, got, err, c.want)
		}
	}
	if v, err := convert(nil); err != nil || v.Kind() != sample.Null {
		t.Errorf("no variant: got %v, %v", v, err)
	}
	if v, err := convert(ua.MustVariant(nil)); err != nil || v.Kind() != sample.Null {
		t.Errorf("null variant: got %v, %v", v, err)
	}
	var wrong *typeError
	for _, n := range []uint64{math.MaxUint64, 1<<63 + 1} {
		if v, err := convert(ua.MustVariant(n)); err == nil || errors.As(err, &wrong) {
			t.Errorf("%d: got %v, %v, want an error that is not of the type", n, v, err)
		}
	}
	for _, in := range []any{[]int32{1, 2}, []float64{}, []string{"a"}, [][]int32{{1}, {2}}, []byte("bytes"), ua.NewTwoByteNodeID(1), ua.StatusOK, &ua.QualifiedName{Name: "q"}} {
		if v, err := convert(ua.MustVariant(in)); !errors.As(err, &wrong) {
			t.Errorf("%T: got %v, %v, want a type error", in, v, err)
		}
	}
}

func TestToSample(t *testing.T) {
	now := time.Unix(1700000000, 5)
	source := time.Date(2024, 1, 2, 3, 4, 5, 600, time.UTC)
	v := ua.MustVariant(int32(7))
	const timed = ua.DataValueValue | ua.DataValueSourceTimestamp
	for _, c := range []struct {
		name string
		in   ua.DataValue
		want sample.Sample
		err  bool
	}{
		{"good", ua.DataValue{EncodingMask: timed, Value: v, SourceTimestamp: source}, sample.Sample{Value: sample.IntValue(7), SourceTime: source.UnixNano()}, false},
		{"no source time", ua.DataValue{EncodingMask: ua.DataValueValue, Value: v}, sample.Sample{Value: sample.IntValue(7)}, false},
		{"source time null", ua.DataValue{EncodingMask: timed, Value: v}, sample.Sample{Value: sample.IntValue(7)}, false},
		{"source time of year 9999, which nanoseconds do not hold", ua.DataValue{EncodingMask: timed, Value: v, SourceTimestamp: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
			sample.Sample{Value: sample.IntValue(7)}, false},
		{"source time of 1601, which nanoseconds do not hold", ua.DataValue{EncodingMask: timed, Value: v, SourceTimestamp: time.Date(1601, 1, 1, 0, 0, 1, 0, time.UTC)},
			sample.Sample{Value: sample.IntValue(7)}, false},
		{"uncertain keeps its value", ua.DataValue{EncodingMask: timed, Value: v, Status: 0x40900000, SourceTimestamp: source},
			sample.Sample{Value: sample.IntValue(7), Quality: 0x40900000, SourceTime: source.UnixNano()}, false},
		{"bad is null", ua.DataValue{EncodingMask: timed, Value: v, Status: ua.StatusBadSensorFailure, SourceTimestamp: source},
			sample.Sample{Quality: sample.Quality(ua.StatusBadSensorFailure), SourceTime: source.UnixNano()}, false},
		{"the overflow bits stay", ua.DataValue{EncodingMask: ua.DataValueValue, Value: v, Status: overflowBits}, sample.Sample{Value: sample.IntValue(7), Quality: overflowBits}, false},
		{"array", ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant([]int32{1})}, sample.Sample{Quality: sample.BadTypeMismatch}, true},
		{"too large", ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(uint64(math.MaxUint64))}, sample.Sample{Quality: sample.BadOutOfRange}, true},
	} {
		c.want.Tag, c.want.Time = "plant/a", now.UnixNano()
		got, err := toSample("plant/a", &c.in, now)
		if got != c.want || (err != nil) != c.err {
			t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func TestToVariant(t *testing.T) {
	for _, c := range []struct {
		v    sample.Value
		t    ua.TypeID
		want any // nil: refused
	}{
		{sample.BoolValue(true), ua.TypeIDBoolean, true},
		{sample.IntValue(1), ua.TypeIDBoolean, nil},
		{sample.StringValue("x"), ua.TypeIDString, "x"},
		{sample.IntValue(1), ua.TypeIDString, nil},
		{sample.StringValue("1"), ua.TypeIDDouble, nil},
		{sample.BoolValue(true), ua.TypeIDDouble, nil},
		{sample.BoolValue(true), ua.TypeIDInt32, nil},
		{sample.FloatValue(1.5), ua.TypeIDDouble, 1.5},
		{sample.IntValue(3), ua.TypeIDDouble, 3.0},
		{sample.IntValue(1<<53 + 1), ua.TypeIDDouble, nil},
		{sample.IntValue(math.MaxInt64), ua.TypeIDDouble, nil},
		{sample.IntValue(math.MinInt64), ua.TypeIDDouble, float64(math.MinInt64)},
		{sample.FloatValue(0.1), ua.TypeIDFloat, float32(0.1)},
		{sample.FloatValue(123.45), ua.TypeIDFloat, float32(123.45)},
		{sample.IntValue(16777216), ua.TypeIDFloat, float32(16777216)},
		{sample.IntValue(16777217), ua.TypeIDFloat, nil},
		{sample.FloatValue(0.12345678901), ua.TypeIDFloat, float32(0.12345678901)},
		{sample.FloatValue(math.NaN()), ua.TypeIDFloat, nil},
		{sample.FloatValue(math.Inf(1)), ua.TypeIDDouble, nil},
		{sample.FloatValue(1e-60), ua.TypeIDFloat, nil},
		{sample.FloatValue(1e39), ua.TypeIDFloat, nil},
		{sample.FloatValue(math.MaxFloat32), ua.TypeIDFloat, float32(math.MaxFloat32)},
		{sample.IntValue(-128), ua.TypeIDSByte, int8(-128)},
		{sample.IntValue(-129), ua.TypeIDSByte, nil},
		{sample.IntValue(128), ua.TypeIDSByte, nil},
		{sample.IntValue(255), ua.TypeIDByte, uint8(255)},
		{sample.IntValue(256), ua.TypeIDByte, nil},
		{sample.IntValue(-1), ua.TypeIDByte, nil},
		{sample.IntValue(-32768), ua.TypeIDInt16, int16(-32768)},
		{sample.IntValue(32768), ua.TypeIDInt16, nil},
		{sample.IntValue(65535), ua.TypeIDUint16, uint16(65535)},
		{sample.IntValue(70000), ua.TypeIDUint16, nil},
		{sample.IntValue(math.MinInt32), ua.TypeIDInt32, int32(math.MinInt32)},
		{sample.IntValue(math.MaxInt32 + 1), ua.TypeIDInt32, nil},
		{sample.FloatValue(1.5), ua.TypeIDInt32, nil},
		{sample.FloatValue(-2), ua.TypeIDInt32, int32(-2)},
		{sample.FloatValue(math.NaN()), ua.TypeIDInt32, nil},
		{sample.FloatValue(math.Inf(1)), ua.TypeIDInt64, nil},
		{sample.FloatValue(1e300), ua.TypeIDUint64, nil},
		{sample.IntValue(math.MaxUint32), ua.TypeIDUint32, uint32(math.MaxUint32)},
		{sample.IntValue(1 << 32), ua.TypeIDUint32, nil},
		{sample.IntValue(math.MinInt64), ua.TypeIDInt64, int64(math.MinInt64)},
		{sample.IntValue(math.MaxInt64), ua.TypeIDUint64, uint64(math.MaxInt64)},
		{sample.IntValue(-1), ua.TypeIDUint64, nil},
		{sample.StringValue("2024-02-29T12:00:00Z"), ua.TypeIDDateTime, nil},
		{sample.Value{}, ua.TypeIDInt32, nil},
		{sample.Value{}, ua.TypeIDDouble, nil},
	} {
		got, err := toVariant(c.v, c.t)
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%s %s into %s: taken as %v", c.v.Kind(), c.v, c.t, got.Value())
		case c.want != nil && (err != nil || got.Value() != c.want):
			t.Errorf("%s %s into %s: got %v, %v", c.v.Kind(), c.v, c.t, got, err)
		}
	}
}

func TestTakingAValueAllocatesNothing(t *testing.T) {
	s := &source{conn: &connection{}, batch: make([]sample.Sample, 0, 8)}
	it := &item{tag: "plant/a"}
	dv := &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(float32(0.1))}
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		s.batch = s.batch[:0]
		s.take(it, dv, now)
	}); n > 0 {
		t.Errorf("%v allocations per value", n)
	}
}

func overflown(n int32) *ua.DataValue {
	return &ua.DataValue{EncodingMask: ua.DataValueValue | ua.DataValueStatusCode, Value: ua.MustVariant(n), Status: overflowBits}
}
