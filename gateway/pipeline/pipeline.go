// Package pipeline is what happens to a sample between its source and its
// batch: scale, range check, deadband with a longest silence, quality. It is a
// small state machine per tag, without locks, clocks or allocation.
package pipeline

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"millrace/sample"
)

// DefaultMaxSilence is the longest silence of a tag with a deadband.
const DefaultMaxSilence = 15 * time.Minute

// DeadbandKind says what a deadband's size is measured in.
type DeadbandKind uint8

// The kinds of deadband.
const (
	NoDeadband DeadbandKind = iota
	Absolute                // in the tag's unit
	Percent                 // of the value reported last
)

// Deadband is the smallest change that is reported.
type Deadband struct {
	Kind DeadbandKind
	Size float64
}

// Rule is a tag's configuration. It is shared by nobody and not changed.
type Rule struct {
	Scale, Offset float64 // value = raw × Scale + Offset; Scale 1 and Offset 0 leave the value and its kind
	HasMin        bool
	HasMax        bool
	Min, Max      float64 // of the scaled value
	Deadband      Deadband
	MaxSilence    time.Duration // with a deadband, DefaultMaxSilence where 0
}

// State is one tag's pipeline. It is not safe for concurrent use.
type State struct {
	rule    *Rule
	last    sample.Value // reported last
	at      int64        // gateway's time of the last report, ns
	inverse float64      // 1/Scale where that is a whole number, else 0
	shift   float64      // Offset×inverse where both are whole numbers
	quality sample.Quality
	started bool
}

// NewState returns the state of a tag that has reported nothing yet.
func NewState(r *Rule) State {
	s := State{rule: r}
	// 1/10 is no binary fraction, so raw×0.1 gives 23.500000000000004 where
	// raw/10 gives 23.5, which reads better and packs smaller. An offset of 0.2
	// is added before the division, as 2, for the same reason.
	if inv := math.Round(1 / r.Scale); r.Scale != 0 && inv > 1 && inv <= 1e9 && 1/inv == r.Scale {
		s.inverse = inv
		if shift := math.Round(r.Offset * inv); math.Abs(shift) < 1<<53 && shift/inv == r.Offset {
			s.shift = shift
		}
	}
	return s
}

// Apply edits a sample in place and reports whether it goes on.
func (st *State) Apply(s *sample.Sample) (keep bool) {
	st.scale(s)
	check(st.rule, s)
	if st.rule.Deadband.Kind == NoDeadband {
		return true
	}
	return st.changed(s)
}

// scale turns the raw value into the engineering value.
func (st *State) scale(s *sample.Sample) {
	r := st.rule
	if r.Scale == 1 && r.Offset == 0 {
		return
	}
	raw, ok := s.Value.Number()
	if !ok {
		return
	}
	switch {
	case st.shift != 0:
		raw = (raw + st.shift) / st.inverse
	case st.inverse != 0:
		raw = raw/st.inverse + r.Offset
	default:
		// The conversion forbids a fused multiply-add, so that every processor
		// gives the same bits.
		raw = float64(raw*r.Scale) + r.Offset
	}
	s.Value = sample.FloatValue(raw)
}

// check is the range check. What is no number becomes null and Bad: stores and
// consumers have no NaN in common. A value out of range is kept, since hiding
// it would hide the fault, and is marked Uncertain.
func check(r *Rule, s *sample.Sample) {
	v, ok := s.Value.Number()
	if !ok {
		return
	}
	if v != v || v-v != 0 { // NaN, Inf
		s.Value = sample.Value{}
		if !s.Quality.IsBad() {
			s.Quality = sample.BadOutOfRange
		}
		return
	}
	if s.Quality.IsGood() && (r.HasMin && v < r.Min || r.HasMax && v > r.Max) {
		s.Quality = sample.UncertainEngineeringUnits
	}
}

// changed is the deadband. The first sample passes, and so do a change of
// quality or of kind, a change beyond the deadband, and whatever comes after
// the longest silence.
func (st *State) changed(s *sample.Sample) bool {
	silence := st.rule.MaxSilence
	if silence == 0 {
		silence = DefaultMaxSilence
	}
	quiet := s.Time - st.at
	if st.started && s.Quality == st.quality && s.Value.Kind() == st.last.Kind() &&
		quiet >= 0 && quiet < int64(silence) && st.within(s.Value) {
		return false
	}
	st.started, st.quality, st.last, st.at = true, s.Quality, s.Value, s.Time
	return true
}

// within reports whether the value is as near to the last one, which is of the
// same kind, as the deadband allows. Null, bools and strings are near only
// where they are equal.
func (st *State) within(v sample.Value) bool {
	switch v.Kind() {
	case sample.Float64:
		last := st.last.Float()
		return math.Abs(v.Float()-last) <= st.size(last)
	case sample.Int64:
		// Counters pass 2^53, where float64 no longer tells neighbours apart.
		a, b := v.Int(), st.last.Int()
		size := st.size(float64(b))
		return size >= 1<<64 || difference(a, b) <= uint64(size)
	}
	return v == st.last
}

// size is the deadband around a value, in the tag's unit. It is 0 around 0
// where it is a percentage: every change passes there.
func (st *State) size(last float64) float64 {
	size := st.rule.Deadband.Size
	if st.rule.Deadband.Kind == Percent {
		size *= math.Abs(last) / 100
	}
	return size
}

// difference is |a-b|, which an int64 may not hold.
func difference(a, b int64) uint64 {
	if a < b {
		a, b = b, a
	}
	return uint64(a) - uint64(b)
}

// UnmarshalText reads a deadband: "0.5" in the tag's unit, or "1%".
func (d *Deadband) UnmarshalText(text []byte) error {
	number, percent := strings.CutSuffix(string(text), "%")
	size, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(size >= 0) || size-size != 0 {
		return fmt.Errorf("%q is not a deadband: write 0.5 (in the tag's unit) or 1%% (of the value reported last)", text)
	}
	if size == 0 {
		*d = Deadband{}
		return nil
	}
	d.Kind, d.Size = Absolute, size
	if percent {
		d.Kind = Percent
	}
	return nil
}
