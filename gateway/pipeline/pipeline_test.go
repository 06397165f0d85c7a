package pipeline

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

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
		{0.1, 0.2, sample.IntValue(1), sample.FloatValue(0.3)}, // 0.1+0.2 is 0.30000000000000004
		{0.1, -40, sample.IntValue(235), sample.FloatValue(-16.5)},
		{0.01, 0.005, sample.IntValue(1), sample.FloatValue(0.015)}, // the offset is no whole hundredth
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

// TestNothingIsLost holds, over random qualities, kinds and values, that with
// any deadband no change of quality is lost, that no silence, of a failed read
// neither, is longer than the longest, and that a number never is further from
// the one reported than the deadband.
func TestNothingIsLost(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 2))
	qualities := []sample.Quality{sample.Good, sample.Good, sample.Good, sample.UncertainLastUsableValue, sample.BadTimeout, sample.BadNotConnected}
	for range 200 {
		d := Deadband{Kind: Absolute, Size: float64(r.IntN(5))}
		if r.IntN(2) == 0 {
			d = Deadband{Kind: Percent, Size: 1 + float64(r.IntN(50))}
		}
		silence := time.Duration(1+r.IntN(20)) * time.Second
		st := NewState(&Rule{Scale: 1, Deadband: d, MaxSilence: silence})
		var reported sample.Sample
		q, walk := sample.Good, int64(0)
		for i := range int64(500) {
			if r.IntN(8) == 0 {
				q = qualities[r.IntN(len(qualities))]
			}
			walk += int64(r.IntN(7)) - 3
			s := sample.Sample{Quality: q, Time: i * int64(time.Second)}
			switch {
			case q.IsBad():
			case r.IntN(20) == 0:
				s.Value = sample.StringValue("off")
			case r.IntN(20) == 0:
				s.Value = sample.BoolValue(walk > 0)
			default:
				s.Value = sample.IntValue(walk)
			}
			if keep := st.Apply(&s); keep {
				reported = s
				continue
			} else if i == 0 {
				t.Fatalf("seed %d: the first sample is lost", seed)
			}
			if s.Quality != reported.Quality || s.Value.Kind() != reported.Value.Kind() {
				t.Fatalf("seed %d: %v %v is lost after %v %v", seed, s.Value, s.Quality, reported.Value, reported.Quality)
			}
			if s.Time-reported.Time >= int64(silence) {
				t.Fatalf("seed %d: silent for %s", seed, time.Duration(s.Time-reported.Time))
			}
			size := d.Size
			if d.Kind == Percent {
				size *= math.Abs(float64(reported.Value.Int())) / 100
			}
			if s.Value.Kind() != sample.Int64 && s.Value != reported.Value || math.Abs(float64(s.Value.Int()-reported.Value.Int())) > size {
				t.Fatalf("seed %d: %v is reported as %v with %+v", seed, s.Value, reported.Value, d)
			}
		}
	}
}

func TestDeadbandOfLargeIntegers(t *testing.T) {
	const big = int64(1) << 60 // neighbours are one float64
	for name, c := range map[string]struct {
		d        Deadband
		from, to int64
		keep     bool
	}{
		"beyond":      {Deadband{Absolute, 1}, big, big + 2, true},
		"within":      {Deadband{Absolute, 2}, big, big + 2, false},
		"a fraction":  {Deadband{Absolute, 1.5}, big, big + 1, false},
		"below one":   {Deadband{Absolute, 0.5}, big, big + 1, true},
		"end to end":  {Deadband{Absolute, 1e18}, math.MinInt64, math.MaxInt64, true},
		"whole range": {Deadband{Absolute, 1e20}, math.MinInt64, math.MaxInt64, false},
		"percent":     {Deadband{Percent, 1}, big, big + big/101, false},
		"percent out": {Deadband{Percent, 1}, big, big + big/99, true},
	} {
		st := NewState(&Rule{Scale: 1, Deadband: c.d})
		apply(&st, sample.IntValue(c.from), 0)
		if _, keep := apply(&st, sample.IntValue(c.to), 1); keep != c.keep {
			t.Errorf("%s: kept %v", name, keep)
		}
	}
}

// TestNoiseOfFloat32 feeds a value that trembles in its last bits: no deadband,
// however small, lets that through.
func TestNoiseOfFloat32(t *testing.T) {
	st := NewState(&Rule{Scale: 1, Deadband: Deadband{Absolute, 1e-4}})
	v, kept := float32(23.4), 0
	for i := range int64(100) {
		if _, keep := apply(&st, sample.FloatValue(float64(v)), i); keep {
			kept++
		}
		v = math.Nextafter32(v, []float32{0, 100}[i&1])
	}
	if kept != 1 {
		t.Errorf("%d of 100 reported", kept)
	}
}

// TestRepeatedFailuresAreHeardAgain: a device that stays away is reported at
// each longest silence, whatever the deadband.
func TestRepeatedFailuresAreHeardAgain(t *testing.T) {
	st := NewState(&Rule{Scale: 1, Deadband: Deadband{Absolute, 1}})
	var at []int64
	for second := int64(0); second <= 3600; second++ {
		s := sample.Sample{Quality: sample.BadTimeout, Time: second * int64(time.Second)}
		if st.Apply(&s) {
			at = append(at, second)
		}
	}
	if want := []int64{0, 900, 1800, 2700, 3600}; !slices.Equal(at, want) {
		t.Errorf("reported at %v, want %v", at, want)
	}
}

func TestStateIsSmallAndAllocatesNothing(t *testing.T) {
	if size := unsafe.Sizeof(State{}); size > 96 {
		t.Errorf("a state takes %d bytes, and there is one for each tag", size)
	}
	st := NewState(&Rule{Scale: 0.1, HasMax: true, Max: 50, Deadband: Deadband{Percent, 1}})
	i := int64(0)
	values := []sample.Value{sample.IntValue(4), sample.FloatValue(math.NaN()), sample.StringValue("x"), {}, sample.BoolValue(true)}
	if n := testing.AllocsPerRun(1000, func() {
		i++
		s := sample.Sample{Value: values[i%5], Time: i}
		st.Apply(&s)
	}); n != 0 {
		t.Errorf("%v allocations a sample", n)
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
