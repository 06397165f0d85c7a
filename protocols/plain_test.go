package protocols

import (
	"math"
	"strconv"
	"testing"

	"millrace/sample"
)

func TestExactly(t *testing.T) {
	f, i, s, b := sample.FloatValue, sample.IntValue, sample.StringValue, sample.BoolValue
	for _, c := range []struct {
		v    sample.Value
		kind sample.Kind
		want sample.Value // null where it is refused
	}{
		{f(41.5), sample.Float64, f(41.5)}, {i(3), sample.Float64, f(3)}, {f(3), sample.Int64, i(3)}, {f(-1 << 53), sample.Int64, i(-1 << 53)},
		{i(1<<53 + 1), sample.Float64, sample.Value{}}, {i(math.MaxInt64), sample.Float64, sample.Value{}}, {i(math.MinInt64), sample.Float64, f(-1 << 63)},
		{f(41.5), sample.Int64, sample.Value{}}, {f(1 << 54), sample.Int64, sample.Value{}}, {f(math.NaN()), sample.Float64, sample.Value{}},
		{f(math.Inf(-1)), sample.Null, sample.Value{}}, {b(true), sample.Float64, sample.Value{}}, {i(1), sample.Bool, sample.Value{}},
		{s("1"), sample.Float64, sample.Value{}}, {s("\xff"), sample.String, sample.Value{}}, {s("ü"), sample.Null, s("ü")}, {sample.Value{}, sample.Null, sample.Value{}},
	} {
		got, err := Exactly(c.v, c.kind)
		if refused := c.want.Kind() == sample.Null; refused != (err != nil) || !refused && got != c.want {
			t.Errorf("%s %s as %s: %s %s, %v", c.v.Kind(), c.v, c.kind, got.Kind(), got, err)
		}
	}
}

func TestAppendPlain(t *testing.T) {
	for want, v := range map[string]sample.Value{
		"1000000": sample.FloatValue(1e6), "0.000001": sample.FloatValue(1e-6), "1e-07": sample.FloatValue(1e-7), "1e+15": sample.FloatValue(1e15),
		"-0": sample.FloatValue(math.Copysign(0, -1)), "41.5": sample.FloatValue(41.5), "9223372036854775807": sample.IntValue(math.MaxInt64),
		"true": sample.BoolValue(true), `a"b`: sample.StringValue(`a"b`),
	} {
		if got := string(AppendPlain(nil, v)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzAppendPlain(f *testing.F) {
	f.Add(0.1)
	f.Fuzz(func(t *testing.T, x float64) {
		got, err := strconv.ParseFloat(string(AppendPlain(nil, sample.FloatValue(x))), 64)
		if math.Float64bits(got) != math.Float64bits(x) && x == x || err != nil {
			t.Errorf("%v reads back as %v, %v", x, got, err)
		}
	})
}
