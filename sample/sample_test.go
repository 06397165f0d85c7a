package sample

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestValuesKeepTheirBits(t *testing.T) {
	odd := math.Float64frombits(0xFFF8DEADBEEF0001)
	if v := FloatValue(odd); v.Bits() != 0xFFF8DEADBEEF0001 || v.Kind() != Float64 {
		t.Errorf("NaN payload came back as %016x", v.Bits())
	}
	if same := FloatValue(math.Float64frombits(0xFFF8DEADBEEF0001)); FloatValue(odd) != same {
		t.Error("a NaN is not equal to itself, bit by bit")
	}
	if FloatValue(0) == FloatValue(math.Copysign(0, -1)) {
		t.Error("0 equals -0")
	}
	if FloatValue(1) == IntValue(1) || IntValue(1) == BoolValue(true) || StringValue("") == (Value{}) {
		t.Error("values of two kinds are equal")
	}
	if v := IntValue(math.MinInt64); v.Int() != math.MinInt64 || v.Float() != 0 || v.Bool() || v.Str() != "" {
		t.Errorf("int64 reads as %d, %g, %t, %q", v.Int(), v.Float(), v.Bool(), v.Str())
	}
}

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		v    Value
		want float64
		ok   bool
	}{
		{FloatValue(-2.5), -2.5, true}, {IntValue(7), 7, true}, {BoolValue(true), 1, true}, {BoolValue(false), 0, true},
		{StringValue("3"), 0, false}, {Value{}, 0, false},
	} {
		if got, ok := c.v.Number(); got != c.want || ok != c.ok {
			t.Errorf("%v is the number %g, %t; want %g, %t", c.v, got, ok, c.want, c.ok)
		}
	}
}

func TestValueText(t *testing.T) {
	for want, v := range map[string]Value{
		"1.5": FloatValue(1.5), "42": IntValue(42), "true": BoolValue(true), `"a\"b"`: StringValue(`a"b`), "null": {},
	} {
		if got := v.String(); got != want {
			t.Errorf("value reads %s, want %s", got, want)
		}
	}
	if got := Kind(9).String(); got != "kind(9)" {
		t.Errorf("unknown kind reads %s", got)
	}
}

func TestQualitySeverity(t *testing.T) {
	for _, c := range []struct {
		q                    Quality
		good, uncertain, bad bool
		text                 string
	}{
		{Good, true, false, false, "Good"},
		{0x00BA0000, true, false, false, "Good(0x00BA0000)"},
		{UncertainLastUsableValue, false, true, false, "UncertainLastUsableValue"},
		{0x40000001, false, true, false, "Uncertain(0x40000001)"},
		{BadTimeout, false, false, true, "BadTimeout"},
		{0x80550000, false, false, true, "Bad(0x80550000)"},
		{0xC0000000, false, false, true, "Bad(0xC0000000)"},
	} {
		if c.q.IsGood() != c.good || c.q.IsUncertain() != c.uncertain || c.q.IsBad() != c.bad {
			t.Errorf("%08X is good %t, uncertain %t, bad %t", uint32(c.q), c.q.IsGood(), c.q.IsUncertain(), c.q.IsBad())
		}
		if c.q.String() != c.text {
			t.Errorf("%08X reads %s, want %s", uint32(c.q), c.q, c.text)
		}
		if back, err := ParseQuality(c.text); err != nil || back != c.q {
			t.Errorf("%s is parsed as %v, %v", c.text, back, err)
		}
	}
	if q, err := ParseQuality("2148139008"); err != nil || q != BadTimeout {
		t.Errorf("the code's number is parsed as %v, %v", q, err)
	}
	for _, text := range []string{"", "bad", "Good(0x80550000)", "Bad(0x80550000", "0x1FFFFFFFF", "-1", "Timeout(0x800A0000)"} {
		if q, err := ParseQuality(text); err == nil {
			t.Errorf("%q is parsed as %v", text, q)
		}
	}
}

func TestPrimaryTime(t *testing.T) {
	s := Sample{Time: 5}
	if s.PrimaryTime() != 5 {
		t.Error("without a source time the gateway's is not primary")
	}
	if s.SourceTime = 3; s.PrimaryTime() != 3 {
		t.Error("the source time is not primary")
	}
}

func TestTagNames(t *testing.T) {
	for _, c := range [][4]string{
		{"plant", "meter07", "voltage", "plant/meter07/voltage"},
		{"plant", "meter07", "meter08/current", "plant/meter08/current"},
		{"plant", "meter07", "a/b/c", "plant/a/b/c"},
	} {
		if got := JoinTag(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%s of %s is %s, want %s", c[2], c[1], got, c[3])
		}
	}
	for _, tag := range []string{"a/b/c", "plant/meter07/U L1", "plant/m/a/b", "Werk/Zähler/Öl", strings.Repeat("x", 251) + "/y/z"} {
		if err := CheckTag(tag); err != nil {
			t.Errorf("%q is refused: %v", tag, err)
		}
	}
	for _, tag := range []string{"", "a", "a/b", "a//b", "/a/b", "a/b/", "a/b/c#d", "a/b/c\n", "a/b/\xff", "a/b/\u0085", strings.Repeat("x", 252) + "/y/z"} {
		if CheckTag(tag) == nil {
			t.Errorf("%q is taken", tag)
		}
	}
	for _, name := range []string{"", "a/b", "a#b", "a\x00", "\xff"} {
		if CheckName(name) == nil {
			t.Errorf("the part %q is taken", name)
		}
	}
}

func randomSample(r *rand.Rand) Sample {
	text := func() string {
		return []string{"", "a/b/c", "\xff\x00", "läuft \"gut\" \\ \t", "\u2028", "{}", "NaN"}[r.IntN(7)]
	}
	s := Sample{Tag: text(), Time: int64(r.Uint64())}
	switch r.IntN(6) {
	case 0:
		s.Value = FloatValue(math.Float64frombits(r.Uint64()))
	case 1:
		s.Value = FloatValue([]float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), 21, -1e300, 5e-324, 1e21}[r.IntN(9)])
	case 2:
		s.Value = IntValue(int64(r.Uint64()) >> r.IntN(64))
	case 3:
		s.Value = BoolValue(r.IntN(2) == 0)
	case 4:
		s.Value = StringValue(text())
	}
	if r.IntN(2) == 0 {
		s.SourceTime = int64(r.Uint64())
	}
	if r.IntN(2) == 0 {
		s.Quality = Quality(r.Uint32())
	}
	if r.IntN(2) == 0 {
		s.Producer, s.Seq = text(), r.Uint64()>>r.IntN(64)
	}
	return s
}

func TestJSONLinesComeBackBitForBit(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 5000 {
		s := randomSample(r)
		line := AppendJSONLine(nil, &s)
		got, err := ParseJSONLine(line)
		if err != nil || got != s {
			t.Fatalf("seed %d, sample %d: %s\n came back as %+v\n want %+v: %v", seed, i, line, got, s, err)
		}
	}
}

func TestJSONLine(t *testing.T) {
	s := Sample{
		Tag: "plant/m/u", Value: FloatValue(21), Quality: BadTimeout, Time: 1767225600250000000, SourceTime: 1767225600000000001,
		Producer: "p", Seq: 1<<53 + 1,
	}
	want := `{"tag":"plant/m/u","value":21.0,"time":"2026-01-01T00:00:00.25Z","source_time":"2026-01-01T00:00:00.000000001Z",` +
		`"quality":"BadTimeout","producer":"p","seq":"9007199254740993"}`
	if got := string(AppendJSONLine(nil, &s)); got != want {
		t.Errorf("line is\n%s, want\n%s", got, want)
	}
	s = Sample{Tag: "a/b/c", Value: IntValue(21), Time: 0}
	if got, want := string(AppendJSONLine(nil, &s)), `{"tag":"a/b/c","value":21,"time":"1970-01-01T00:00:00Z"}`; got != want {
		t.Errorf("line is %s, want %s", got, want)
	}
}

func TestJSONLinesThatAreRefused(t *testing.T) {
	for _, line := range []string{
		``, `{}`, `[]`, `null`, `{"tag":"a","value":1}`, `{"tag":"a","time":"1970-01-01T00:00:00Z"}`, `{"value":1,"time":"1970-01-01T00:00:00Z"}`,
		`{"tag":"a","value":1,"time":"1970-01-01"}`, `{"tag":"a","value":1,"time":"1500-01-01T00:00:00Z"}`,
		`{"tag":"a","value":[1],"time":"1970-01-01T00:00:00Z"}`, `{"tag":"a","value":1e999,"time":"1970-01-01T00:00:00Z"}`,
		`{"tag":"a","value":9223372036854775808,"time":"1970-01-01T00:00:00Z"}`, `{"tag":"a","value":{"float64":"1"},"time":"1970-01-01T00:00:00Z"}`,
		`{"tag":"a","value":{"int64":"1","float64":"NaN"},"time":"1970-01-01T00:00:00Z"}`, `{"tag":"a","value":{},"time":"1970-01-01T00:00:00Z"}`,
		`{"tag":"a","value":{"float64":"NaN:3ff0000000000000"},"time":"1970-01-01T00:00:00Z"}`,
		`{"tag":"a","value":1,"time":"1970-01-01T00:00:00Z","qualty":"Bad"}`, `{"tag":"a","value":1,"time":"1970-01-01T00:00:00Z","quality":"Worse"}`,
		`{"tag":"a","value":1,"time":"1970-01-01T00:00:00Z","seq":-1}`, `{"tag":"a","value":1,"time":"1970-01-01T00:00:00Z"} {}`,
		`{"tag":"a","value":1,"time":"1970-01-01T00:00:00Z"}}`, `{"tag":{"base64":"?"},"value":1,"time":"1970-01-01T00:00:00Z"}`,
	} {
		if s, err := ParseJSONLine([]byte(line)); err == nil {
			t.Errorf("%s is read as %+v", line, s)
		}
	}
}

func FuzzParseJSONLine(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		s := randomSample(r)
		f.Add(AppendJSONLine(nil, &s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseJSONLine(data)
		if err != nil {
			return
		}
		back, err := ParseJSONLine(AppendJSONLine(nil, &s))
		if err != nil || back != s {
			t.Fatalf("%+v came back as %+v, %v", s, back, err)
		}
	})
}

func TestDoubt(t *testing.T) {
	for q, want := range map[Quality]Quality{
		Good: Uncertain, 0x00000480: 0x40000480, 0x00960000: Uncertain, // GoodLocalOverride
		UncertainEngineeringUnits: UncertainEngineeringUnits, BadTimeout: BadTimeout, Bad: Bad,
	} {
		if got := q.Doubt(Uncertain); got != want {
			t.Errorf("%s comes into doubt as %s, want %s", q, got, want)
		}
	}
}
