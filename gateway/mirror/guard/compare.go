package guard

import (
	"math"
	"math/big"
	"strconv"

	"millrace/sample"
)

// numeric reports whether v is a number that can be compared.
func numeric(v sample.Value) bool {
	switch v.Kind() {
	case sample.Float64:
		return !math.IsNaN(v.Float()) && !math.IsInf(v.Float(), 0)
	case sample.Int64:
		return true
	case sample.Null, sample.Bool, sample.String:
	}
	return false
}

// compareBound compares a numeric value with a bound, exactly: an int64 never
// goes through a float64, which beyond 2^53 would round it.
func compareBound(v sample.Value, bound float64) int {
	if v.Kind() == sample.Float64 {
		switch f := v.Float(); {
		case f < bound:
			return -1
		case f > bound:
			return 1
		}
		return 0
	}
	return new(big.Float).SetInt64(v.Int()).Cmp(big.NewFloat(bound))
}

// clampTo returns the bound that stands in for a value below the range or
// above it, and false where the type has no value within the range.
func clampTo(t *Rules, kind sample.Kind, low bool) (sample.Value, bool) {
	bound := t.Max
	if low {
		bound = t.Min
	}
	v := sample.FloatValue(*bound)
	if kind == sample.Int64 {
		whole := math.Floor(*bound)
		if low {
			whole = math.Ceil(*bound)
		}
		if whole < -(1<<63) || whole >= 1<<63 {
			return v, false
		}
		v = sample.IntValue(int64(whole))
	}
	within := (t.Min == nil || compareBound(v, *t.Min) >= 0) && (t.Max == nil || compareBound(v, *t.Max) <= 0)
	return v, within
}

// stepExceeds reports whether from and to are further apart than most. Floats
// are compared as the decimals that people write: from 1.0 to 1.1 is 0.1, and
// not the little more that the difference of the two float64 is.
func stepExceeds(from, to sample.Value, most float64) bool {
	d := new(big.Rat).Sub(exact(to), exact(from))
	return d.Abs(d).Cmp(decimal(most)) > 0
}

func exact(v sample.Value) *big.Rat {
	if v.Kind() == sample.Int64 {
		return new(big.Rat).SetInt64(v.Int())
	}
	return decimal(v.Float())
}

// decimal is the shortest decimal that is read as f, which is finite.
func decimal(f float64) *big.Rat {
	if f == math.Trunc(f) && math.Abs(f) < 1<<63 {
		return new(big.Rat).SetInt64(int64(f))
	}
	r, ok := new(big.Rat).SetString(number(f))
	if !ok {
		panic("BUG: " + number(f) + " is not a decimal")
	}
	return r
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
