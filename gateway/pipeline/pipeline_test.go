package pipeline

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"millrace/sample"
)

// apply runs one value at a second through a state.
func apply(st *State, v sample.Value, second int64) (sample.Sample, bool) {
	s := sample.Sample{Value: v, Time: second * int64(time.Second)}
	keep := st.Apply(&s)
	return s, keep
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		scale, offset float64
		in, want      sample.Value
	}{
		{1, 0, sample.IntValue(7), sample.IntValue(7)},
		{0.1, 0, sample.IntValue(235), sample.FloatValue(23.5)},
		{0.1, 0, sample.IntValue(3), sample.FloatValue(0.3)}, // 3*0.1 is 0.30000000000000004
		{0.001, 0, sample.IntValue(-12345), sample.FloatValue(-12.345)},
		{2, -40, sample.FloatValue(10), sample.FloatValue(-20)},
		{0.3, 0, sample.IntValue(10), sample.FloatValue(3)},
		{1, 5, sample.BoolValue(true), sample.FloatValue(6)},
		{2, 0, sample.StringValue("x"), sample.StringValue("x")},
		{2, 0, sample.Value{}, sample.Value{}},
	} {
		st := NewState(&Rule{Scale: c.scale, Offset: c.offset})
		if s, keep := apply(&st, c.in, 0); s.Value != c.want || !keep {
			t.Errorf("%v × %v + %v = %v, want %v", c.in, c.scale, c.offset, s.Value, c.want)
		}
	}
}

func TestRangeAndNotANumber(t *testing.T) {
	r := Rule{Scale: 1, HasMin: true, Min: 0, HasMax: true, Max: 100}
	for _, c := range []struct {
		in   sample.Value
		had  sample.Quality
		want sample.Quality
		null bool
	}{
		{sample.FloatValue(0), sample.Good, sample.Good, false},
		{sample.FloatValue(100), sample.Good, sample.Good, false},
		{sample.FloatValue(100.1), sample.Good, sample.UncertainEngineeringUnits, false},
		{sample.IntValue(-1), sample.Good, sample.UncertainEngineeringUnits, false},
		{sample.IntValue(-1), sample.UncertainLastUsableValue, sample.UncertainLastUsableValue, false},
		{sample.FloatValue(math.NaN()), sample.Good, sample.BadOutOfRange, true},
		{sample.FloatValue(math.Inf(1)), sample.Good, sample.BadOutOfRange, true},
		{sample.FloatValue(math.Inf(-1)), sample.BadDeviceFailure, sample.BadDeviceFailure, true},
		{sample.Value{}, sample.BadTimeout, sample.BadTimeout, true},
	} {
		st := NewState(&r)
		s := sample.Sample{Value: c.in, Quality: c.had}
		if !st.Apply(&s) || s.Quality != c.want || (s.Value.Kind() == sample.Null) != c.null {
			t.Errorf("%v %v becomes %v %v", c.in, c.had, s.Value, s.Quality)
		}
	}
}

func TestScaleThatOverflowsIsBad(t *testing.T) {
	st := NewState(&Rule{Scale: 1e300})
	if s, _ := apply(&st, sample.FloatValue(1e300), 0); s.Value.Kind() != sample.Null || s.Quality != sample.BadOutOfRange {
		t.Errorf("%v %v", s.Value, s.Quality)
	}
}

func TestDeadband(t *testing.T) {
	type step struct {
		v    float64
		keep bool
	}
	for name, c := range map[string]struct {
		d     Deadband
		steps []step
	}{
		"absolute":        {Deadband{Absolute, 0.5}, []step{{10, true}, {10.5, false}, {9.5, false}, {10.6, true}, {10.2, false}, {10, true}}},
		"percent":         {Deadband{Percent, 1}, []step{{200, true}, {202, false}, {202.1, true}, {200.1, false}, {200, true}}},
		"percent of zero": {Deadband{Percent, 50}, []step{{0, true}, {0, false}, {1e-12, true}, {0, true}}},
	} {
		st := NewState(&Rule{Scale: 1, Deadband: c.d})
		for i, s := range c.steps {
			if _, keep := apply(&st, sample.FloatValue(s.v), int64(i)); keep != s.keep {
				t.Errorf("%s: step %d (%v): kept %v", name, i, s.v, keep)
			}
		}
	}
}

func TestDeadbandPassesEveryChangeOfStateAndText(t *testing.T) {
	st := NewState(&Rule{Scale: 1, Deadband: Deadband{Absolute, 100}})
	for i, c := range []struct {
		v    sample.Value
		q    sample.Quality
		keep bool
	}{
		{sample.FloatValue(1), sample.Good, true},
		{sample.FloatValue(2), sample.Good, false},
		{sample.FloatValue(2), sample.UncertainLastUsableValue, true},
		{sample.FloatValue(3), sample.UncertainLastUsableValue, false},
		{sample.Value{}, sample.BadTimeout, true},
		{sample.Value{}, sample.BadTimeout, false},
		{sample.Value{}, sample.BadCommunicationError, true},
		{sample.FloatValue(3), sample.Good, true},
		{sample.StringValue("a"), sample.Good, true},
		{sample.StringValue("a"), sample.Good, false},
		{sample.StringValue("b"), sample.Good, true},
		{sample.BoolValue(true), sample.Good, true},
		{sample.BoolValue(true), sample.Good, false},
		{sample.BoolValue(false), sample.Good, true},
	} {
		s := sample.Sample{Value: c.v, Quality: c.q, Time: int64(i)}
		if keep := st.Apply(&s); keep != c.keep {
			t.Errorf("step %d (%v %v): kept %v", i, c.v, c.q, keep)
		}
	}
}

// TestReconstruction holds, over random walks and clocks that step, what a
// reader may rely on: between two reports the value never was further away
// than the deadband, and no silence is longer than the longest.
func TestReconstruction(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		d := r.Float64() * 3
		silence := time.Duration(1+r.IntN(60)) * time.Second
		st := NewState(&Rule{Scale: 1, Deadband: Deadband{Absolute, d}, MaxSilence: silence})
		v, now, reported, at := 0.0, int64(1e18), math.Inf(1), int64(0)
		for range 500 {
			v += r.NormFloat64()
			now += int64(time.Second)
			if r.IntN(100) == 0 {
				now -= int64(time.Hour) // somebody set the clock
			}
			s := sample.Sample{Value: sample.FloatValue(v), Time: now}
			if st.Apply(&s) {
				reported, at = v, now
			}
			if math.Abs(v-reported) > d {
				t.Fatalf("seed %d: %v is reported as %v with a deadband of %v", seed, v, reported, d)
			}
			if now-at >= int64(silence) || now < at {
				t.Fatalf("seed %d: silent from %d to %d, the longest is %s", seed, at, now, silence)
			}
		}
	}
}

func TestNoDeadbandPassesAll(t *testing.T) {
	st := NewState(&Rule{Scale: 1})
	for i := range 5 {
		if _, keep := apply(&st, sample.Value{}, int64(i)); !keep {
			t.Error("a repeated Bad sample was held back")
		}
	}
}

func TestDeadbandText(t *testing.T) {
	for text, want := range map[string]Deadband{"0.5": {Absolute, 0.5}, "1%": {Percent, 1}, "2.5 %": {Percent, 2.5}, "0": {}} {
		var d Deadband
		if err := d.UnmarshalText([]byte(text)); err != nil || d != want {
			t.Errorf("%q reads as %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "5 kW", "NaN", "Inf%"} {
		var d Deadband
		if d.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q reads as %v", text, d)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	st := NewState(&Rule{Scale: 0.1, HasMin: true, HasMax: true, Max: 1e6, Deadband: Deadband{Percent, 1}})
	s := sample.Sample{}
	i := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		i++
		s.Value, s.Time, s.Quality = sample.IntValue(i&1023), i*1e9, 0
		st.Apply(&s)
	}
}
