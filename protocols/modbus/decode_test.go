package modbus

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"millrace/sample"
)

var orders = map[string]order{
	"ABCD": {},
	"CDAB": {swapWords: true},
	"BADC": {swapBytes: true},
	"DCBA": {swapBytes: true, swapWords: true},
}

func TestDecodeEveryTypeInEveryOrder(t *testing.T) {
	float := func(f float64) sample.Value { return sample.FloatValue(f) }
	integer := func(i int64) sample.Value { return sample.IntValue(i) }
	cases := []struct {
		typ   dataType
		bytes map[string]string // order to the bytes on the wire
		want  sample.Value
	}{
		{typeInt16, map[string]string{"ABCD": "\xFF\x85", "CDAB": "\xFF\x85", "BADC": "\x85\xFF", "DCBA": "\x85\xFF"}, integer(-123)},
		{typeUint16, map[string]string{"ABCD": "\xFF\x85", "CDAB": "\xFF\x85", "BADC": "\x85\xFF", "DCBA": "\x85\xFF"}, integer(65413)},
		{typeInt32, map[string]string{"ABCD": "\xFE\x01\x02\x03", "CDAB": "\x02\x03\xFE\x01", "BADC": "\x01\xFE\x03\x02", "DCBA": "\x03\x02\x01\xFE"}, integer(-33488381)},
		{typeUint32, map[string]string{"ABCD": "\xFE\x01\x02\x03", "CDAB": "\x02\x03\xFE\x01", "BADC": "\x01\xFE\x03\x02", "DCBA": "\x03\x02\x01\xFE"}, integer(4261478915)},
		{typeFloat32, map[string]string{"ABCD": "\x42\xF6\xE6\x66", "CDAB": "\xE6\x66\x42\xF6", "BADC": "\xF6\x42\x66\xE6", "DCBA": "\x66\xE6\xF6\x42"}, float(123.45)},
		{typeInt64, map[string]string{
			"ABCD": "\x80\x01\x02\x03\x04\x05\x06\x07", "CDAB": "\x06\x07\x04\x05\x02\x03\x80\x01",
			"BADC": "\x01\x80\x03\x02\x05\x04\x07\x06", "DCBA": "\x07\x06\x05\x04\x03\x02\x01\x80",
		}, integer(math.MinInt64 + 0x01020304050607)},
		{typeUint64, map[string]string{
			"ABCD": "\x7F\x01\x02\x03\x04\x05\x06\x07", "CDAB": "\x06\x07\x04\x05\x02\x03\x7F\x01",
			"BADC": "\x01\x7F\x03\x02\x05\x04\x07\x06", "DCBA": "\x07\x06\x05\x04\x03\x02\x01\x7F",
		}, integer(0x7F01020304050607)},
		{typeFloat64, map[string]string{
			"ABCD": "\xC0\x5E\xDD\x2F\x1A\x9F\xBE\x77", "CDAB": "\xBE\x77\x1A\x9F\xDD\x2F\xC0\x5E",
			"BADC": "\x5E\xC0\x2F\xDD\x9F\x1A\x77\xBE", "DCBA": "\x77\xBE\x9F\x1A\x2F\xDD\x5E\xC0",
		}, float(-123.456)},
		{typeString, map[string]string{"ABCD": "Pump", "CDAB": "Pump", "BADC": "uPpm", "DCBA": "uPpm"}, sample.StringValue("Pump")},
	}
	for _, c := range cases {
		for name, wire := range c.bytes {
			got, q := decode([]byte(wire), c.typ, orders[name])
			if got != c.want || q != sample.Good {
				t.Errorf("%s %s % x: got %s %s, want %s", c.typ, name, wire, got, q, c.want)
			}
			if c.typ == typeString {
				continue
			}
			back := make([]byte, len(wire))
			if err := encode(back, point{typ: c.typ, order: orders[name]}, c.want); err != nil || string(back) != wire {
				t.Errorf("%s %s: written as % x (%v), want % x", c.typ, name, back, err, wire)
			}
		}
		if len(c.bytes) != len(orders) {
			t.Errorf("%s: not every order is tested", c.typ)
		}
	}
}

func TestDecodeUint64BeyondInt64(t *testing.T) {
	for _, c := range []struct {
		n    uint64
		want sample.Value
		q    sample.Quality
	}{
		{math.MaxInt64, sample.IntValue(math.MaxInt64), sample.Good},
		{1 << 63, sample.FloatValue(1 << 63), sample.Good},
		{1<<63 + 1<<11, sample.FloatValue(1<<63 + 1<<11), sample.Good},
		{1<<63 + 1<<10, sample.Value{}, sample.BadOutOfRange},
		{1<<63 + 1, sample.Value{}, sample.BadOutOfRange},
		{math.MaxUint64, sample.Value{}, sample.BadOutOfRange},
	} {
		got, q := decode(binary.BigEndian.AppendUint64(nil, c.n), typeUint64, order{})
		if got != c.want || q != c.q {
			t.Errorf("%d: got %s %s, want %s %s", c.n, got, q, c.want, c.q)
		}
	}
}

func TestDecodeString(t *testing.T) {
	for wire, want := range map[string]string{
		"AB\x00\x00":     "AB",
		"AB  ":           "AB",
		"\x00BCD":        "",
		" A B":           " A B",
		"\xC3\xA4\xB0C":  "Ã¤°C", // not UTF-8 as a whole
		"\xC2\xB0C\x00":  "°C",
		"\xB0C\x00\x00a": "°C",
	} {
		if got, _ := decode([]byte(wire), typeString, order{}); got.Str() != want {
			t.Errorf("%q: got %q, want %q", wire, got.Str(), want)
		}
	}
}

func TestDecodeBit(t *testing.T) {
	for n := range int8(16) {
		b := binary.BigEndian.AppendUint16(nil, 1<<n)
		for m := range int8(16) {
			if got := decodeBit(b, m, order{}).Bool(); got != (n == m) {
				t.Errorf("register %016b, bit %d: got %t", 1<<n, m, got)
			}
		}
		if !decodeBit([]byte{b[1], b[0]}, n, order{swapBytes: true}).Bool() {
			t.Errorf("bit %d is not found in swapped bytes", n)
		}
	}
}

func TestWidenIsTheShortestDecimal(t *testing.T) {
	t.Parallel()
	check := func(f float32) {
		want, err := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
		got := widen(f)
		if err != nil || math.Float64bits(got) != math.Float64bits(want) && f == f {
			t.Fatalf("%g (bits %08x): got %v, want %v, %v", f, math.Float32bits(f), got, want, err)
		}
		if float32(got) != f && f == f {
			t.Fatalf("%g does not come back: %g", f, float32(got))
		}
	}
	for _, f := range []float32{0, float32(math.Copysign(0, -1)), 0.1, -0.1, 1, 1e-3, 16777215, 16777216, 16777217,
		123456789, 1e10, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, 0.001953125, 2.5, 1.17549435e-38,
		float32(math.Inf(1)), float32(math.Inf(-1))} {
		check(f)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400_000 {
		check(math.Float32frombits(rng.Uint32()))
		check(float32(rng.Float64() * 1000))
		check(float32(math.Round(rng.NormFloat64()*1e5) / 1e3))
		check(float32(rng.IntN(1<<25)) / float32(int(1)<<rng.IntN(24))) // exact binary fractions: ties
	}
	if got := widen(math.Float32frombits(0x7FC00001)); got == got {
		t.Errorf("a NaN became %v", got)
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	b := binary.BigEndian.AppendUint32(nil, math.Float32bits(1.2345678e-9))
	var v sample.Value
	if n := testing.AllocsPerRun(100, func() { v, _ = decode(b, typeFloat32, order{}) }); n != 0 {
		t.Errorf("%v allocations, last value %s", n, v)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name string
		typ  dataType
		wire []byte
	}{
		{"uint16", typeUint16, []byte{1, 2}},
		{"float32 with two decimals", typeFloat32, binary.BigEndian.AppendUint32(nil, math.Float32bits(123.45))},
		{"float32 with all digits", typeFloat32, binary.BigEndian.AppendUint32(nil, math.Float32bits(0.123456789))},
		{"float64", typeFloat64, binary.BigEndian.AppendUint64(nil, math.Float64bits(123.45))},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decode(c.wire, c.typ, order{})
			}
		})
	}
}
