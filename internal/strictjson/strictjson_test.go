package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"testing"
)

func TestSkipAgreesWithTheStandardLibrary(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `null`, `true`, `false`, `0`, `-0`, `-1.5e+10`, `"a"`, `"\u00e9\ud83d\ude00\n"`, ` [1, 2,{"a":[{}]}] `,
		`{"a":1,"b":[true,null]}`, "\"\xff\"", ``, ` `, `{`, `[`, `[1,]`, `{"a":1,}`, `{,}`, `[,1]`, `{"a"}`, `{"a":}`, `{a:1}`,
		`01`, `1.`, `.5`, `+1`, `1e`, `1e+`, `-`, `NaN`, `Infinity`, `tru`, `truefalse`, `nul`, `"a`, `"\x"`, `"\u12"`, `"\u12g4"`,
		"\"\n\"", `[1 2]`, `{"a":1 "b":2}`, `[1}`, `{"a":1]`, `1 2`, `{"a":1}{}`, `[[[[[[[[]]]]]]]]`, `"\ud800"`, `"\ud800\u0041"`, `]`,
	} {
		var r Reader
		r.Reset([]byte(text))
		err := r.Skip()
		if err == nil {
			err = r.End()
		}
		want := json.Valid([]byte(text))
		switch text {
		case `"\ud800"`, `"\ud800\u0041"`, "\"\xff\"": // no text; encoding/json replaces it
			want = false
		}
		if (err == nil) != want {
			t.Errorf("%s: error %v, valid is %t", text, err, want)
		}
	}
	var r Reader
	r.Reset(bytes.Repeat([]byte{'['}, 1000))
	if err := r.Skip(); err == nil || err.Error() != "not JSON: byte 64: nested deeper than 64" {
		t.Errorf("deep nesting: %v", err)
	}
}

func TestTextUnescapes(t *testing.T) {
	var r Reader
	for _, text := range []string{`"plain"`, `"a\"\\\/\b\f\n\r\tz"`, `"\u00e9é\ud83d\ude00"`, `""`} {
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		r.Reset([]byte(text))
		if got, err := r.Text(); err != nil || string(got) != want {
			t.Errorf("%s reads %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestNum(t *testing.T) {
	for lit, want := range map[string]any{
		"0": int64(0), "-7": int64(-7), "9223372036854775807": int64(math.MaxInt64), "-9223372036854775808": int64(math.MinInt64),
		"1.0": 1.0, "1e3": 1000.0, "0.1": 0.1, "-0": math.Copysign(0, -1), "5e-324": 5e-324,
	} {
		i, f, isInt, err := Num([]byte(lit))
		var got any = f
		if isInt {
			got = i
		}
		if err != nil || got != want || math.Signbit(f) != (lit == "-0") {
			t.Errorf("%s is %T %v, %v; want %T %v", lit, got, got, err, want, want)
		}
	}
	for _, lit := range []string{"9223372036854775808", "-9223372036854775809", "1e999", "-1e999"} {
		if i, f, _, err := Num([]byte(lit)); !errors.Is(err, ErrRange) {
			t.Errorf("%s is %d or %g, %v; want ErrRange", lit, i, f, err)
		}
	}
}

func TestNanos(t *testing.T) {
	for _, c := range []struct {
		lit  string
		unit int64
		want int64
	}{
		{"1700000000", 1e9, 1700000000e9}, {"1700000000.123456789", 1e9, 1700000000123456789},
		{"1700000000123", 1e6, 1700000000123e6}, {"1700000000123.4", 1e6, 1700000000123400000},
		{"1700000000123456", 1e3, 1700000000123456000}, {"1700000000123456789", 1, 1700000000123456789},
		{"1.7e9", 1e9, 1700000000e9}, {"1700000000123e-3", 1e9, 1700000000123e6}, {"-1.5", 1e9, -1500000000},
		{"0", 1e9, 0}, {"0.0000000019", 1e9, 1}, {"5e-30", 1e9, 0}, {"1.123456789123", 1e9, 1123456789},
	} {
		if got, err := Nanos([]byte(c.lit), c.unit); err != nil || got != c.want {
			t.Errorf("%s in units of %d ns is %d, %v; want %d", c.lit, c.unit, got, err, c.want)
		}
	}
	for _, lit := range []string{"1700000000000", "1e30", "9223372037", "1e99999999999999999999", "1e41"} {
		if got, err := Nanos([]byte(lit), 1e9); err == nil {
			t.Errorf("%s s is %d, want an error", lit, got)
		}
	}
}

func TestTime(t *testing.T) {
	if got, err := Time([]byte("2026-01-31T12:00:00.5+01:00")); err != nil || got != 1769857200500000000 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, text := range []string{"", "2026-01-31", "2026-01-31 12:00:00", "12:00", "1500-01-01T00:00:00Z", "9999-01-01T00:00:00Z"} {
		if got, err := Time([]byte(text)); err == nil {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
}

// FuzzSkip holds the reader against the standard library's.
func FuzzSkip(f *testing.F) {
	f.Add([]byte(`{"a":[1,2.5e3,"x\u00e9",true,null]}`))
	f.Add([]byte(`[{"n":"\ud83d\ude00"},-0.1]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Reader
		r.Reset(data)
		err := r.Skip()
		if err == nil {
			err = r.End()
		}
		if err == nil && !json.Valid(data) {
			t.Errorf("%q is taken", data)
		}
	})
}

func BenchmarkSkip(b *testing.B) {
	text := []byte(`{"value":21.5,"time":"2026-01-31T12:00:00.5Z","seq":12345,"quality":"Good"}`)
	b.ReportAllocs()
	var r Reader
	for b.Loop() {
		r.Reset(text)
		if err := r.Skip(); err != nil {
			b.Fatal(err)
		}
	}
}
