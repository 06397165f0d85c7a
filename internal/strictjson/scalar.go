package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// ErrRange is a number that neither an int64 nor a float64 holds.
var ErrRange = errors.New("the number is too large for an int64 or a float64")

// IsNumber reports whether b is a JSON number and nothing else.
func IsNumber(b []byte) bool { return len(b) > 0 && numberLen(b) == len(b) }

// Num reads the literal of a number: as i where it has neither fraction nor
// exponent, else as the nearest float64, f. It returns ErrRange where an
// integer is beyond int64 or a float beyond float64: a count is never rounded.
func Num(lit []byte) (i int64, f float64, isInt bool, err error) {
	if !bytes.ContainsAny(lit, ".eE") && string(lit) != "-0" {
		if i, err = strconv.ParseInt(string(lit), 10, 64); err != nil {
			return 0, 0, false, ErrRange
		}
		return i, 0, true, nil
	}
	if f, err = strconv.ParseFloat(string(lit), 64); err != nil {
		return 0, 0, false, ErrRange
	}
	return 0, f, false, nil
}

// Nanos turns the literal of a number into nanoseconds, exactly; digits below
// a nanosecond are cut. unit is how many nanoseconds 1 stands for, a power of
// ten from 1 to 1e9. An exponent is taken too, as encoders of floats write it.
func Nanos(lit []byte, unit int64) (int64, error) {
	mantissa, exponent := lit, 0
	if i := bytes.IndexAny(lit, "eE"); i >= 0 {
		e, err := strconv.Atoi(string(lit[i+1:]))
		if err != nil || e < -40 || e > 40 {
			return 0, errNanos(lit)
		}
		mantissa, exponent = lit[:i], e
	}
	for u := unit; u > 1; u /= 10 {
		exponent++
	}
	negative := len(mantissa) > 0 && mantissa[0] == '-'
	if negative {
		mantissa = mantissa[1:]
	}
	// The point moves right by exponent digits.
	point := bytes.IndexByte(mantissa, '.')
	if point < 0 {
		point = len(mantissa)
	}
	var n int64
	end := point + exponent
	for i, seen := 0, 0; seen < end; i++ {
		if i == point && i < len(mantissa) {
			continue
		}
		var d int64
		if i < len(mantissa) {
			d = int64(mantissa[i] - '0')
		}
		if n > (math.MaxInt64-d)/10 {
			return 0, errNanos(lit)
		}
		n = n*10 + d
		seen++
	}
	if negative {
		n = -n
	}
	return n, nil
}

func errNanos(lit []byte) error {
	return fmt.Errorf("%s is no time between the years 1678 and 2262", clip(lit))
}

// Time reads an RFC 3339 time and returns it in nanoseconds since the epoch.
func Time(text []byte) (int64, error) {
	var t time.Time
	if err := t.UnmarshalText(text); err != nil {
		return 0, fmt.Errorf("%q is not an RFC 3339 time such as 2026-01-31T12:00:00.5Z", clip(text))
	}
	if y := t.Year(); y < 1678 || y > 2261 {
		return 0, fmt.Errorf("%q is not between the years 1678 and 2262", clip(text))
	}
	return t.UnixNano(), nil
}

func clip(text []byte) []byte {
	const most = 40
	if len(text) > most {
		return append(text[:most:most], "..."...)
	}
	return text
}
