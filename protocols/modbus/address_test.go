package modbus

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		base int
		want address
	}{
		{"holding:100", 0, address{1, holding, 100, noBit}},
		{"holding:100", 1, address{1, holding, 99, noBit}},
		{"3/input:0x10", 0, address{3, input, 16, noBit}},
		{"3/input:0X1f", 1, address{3, input, 30, noBit}},
		{"holding:7.3", 0, address{1, holding, 7, 3}},
		{"holding:0x7.15", 0, address{1, holding, 7, 15}},
		{"255/coil:0", 0, address{255, coil, 0, noBit}},
		{"0/discrete:65535", 0, address{0, discrete, 65535, noBit}},
		{"Discrete:65536", 1, address{1, discrete, 65535, noBit}},
		{" holding:1 ", 0, address{1, holding, 1, noBit}},
	} {
		got, err := parseAddress(c.in, 1, c.base)
		if err != nil || got != c.want {
			t.Errorf("%q base %d: got %v %v, want %v", c.in, c.base, got, err, c.want)
		}
	}
}

func TestParseAddressFaults(t *testing.T) {
	for _, c := range []struct {
		in            string
		base          int
		problem, hint string
	}{
		{"", 0, "empty", "[slave/]table:offset"},
		{"40001", 0, "reference number", "write holding:0"},
		{"40001", 1, "reference number", "write holding:1"},
		{"400101", 0, "reference number", "write holding:100"},
		{"30011", 0, "reference number", "write input:10"},
		{"10001", 0, "reference number", "write discrete:0"},
		{"00017", 0, "reference number", "write coil:16"},
		{"holding", 0, "no ':'", "for example"},
		{"register:5", 0, `table "register"`, "holding, input, coil or discrete"},
		{"248/holding:5", 0, `slave "248"`, "0 to 247"},
		{"x/holding:5", 0, `slave "x"`, "0 to 247"},
		{"holding:", 0, "not a number", "for example"},
		{"holding:-1", 0, "not a number", "for example"},
		{"holding:0", 1, "offset 0 does not exist", "holding:1"},
		{"holding:65536", 0, "beyond the table", "65535"},
		{"holding:1.16", 0, `bit "16"`, "0 (the least significant) to 15"},
		{"holding:1.", 0, `bit ""`, "0 (the least significant) to 15"},
		{"coil:1.2", 0, "is a bit already", "leave out .2"},
	} {
		_, err := parseAddress(c.in, 1, c.base)
		var ae *addressError
		if !errors.As(err, &ae) {
			t.Errorf("%q: got %v, want a fault", c.in, err)
			continue
		}
		if !strings.Contains(ae.problem, c.problem) || !strings.Contains(ae.hint, c.hint) {
			t.Errorf("%q: got %q, %q; want %q, %q", c.in, ae.problem, ae.hint, c.problem, c.hint)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("3/holding:0x10.2", 1)
	f.Fuzz(func(t *testing.T, s string, base int) {
		base &= 1
		a, err := parseAddress(s, 1, base)
		if err != nil {
			return
		}
		again, err := parseAddress(a.String(), 9, 0)
		if err != nil || again != a {
			t.Errorf("%q is %v, which is read as %v (%v)", s, a, again, err)
		}
	})
}
