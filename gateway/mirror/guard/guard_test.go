package guard

import (
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/sample"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// fine is a result that is written as it is.
func fine() Input {
	last, present := sample.FloatValue(40), sample.FloatValue(41)
	return Input{
		Result: Result{
			Site: "north", Target: "sp1", Version: 17, Value: sample.FloatValue(41.5), Unit: "kW",
			ComputedAt: noon.Add(-time.Minute), ValidFrom: noon.Add(-time.Minute), ValidUntil: noon.Add(9 * time.Minute), Signature: Valid, Key: "cloud",
		},
		Target: &Rules{
			Type: sample.Float64, Unit: "kW", Min: ptr(0.0), Max: ptr(500.0), MaxStep: ptr(50.0), MinInterval: 10 * time.Second,
			MaxAge: 15 * time.Minute, NeedSignature: true, EnableTag: "north/plc/ok",
		},
		Mode: Armed, Site: "north", Now: noon, Synchronised: true, LastVersion: 16, Last: &last, Present: &present, Enable: Enabled, Since: time.Hour,
	}
}

func TestDecide(t *testing.T) {
	kind := func(k sample.Kind, v sample.Value) func(*Input) {
		return func(in *Input) { in.Target.Type, in.Result.Value = k, v }
	}
	float := func(f float64) func(*Input) {
		return func(in *Input) { in.Result.Value = sample.FloatValue(f) }
	}
	// free takes away the step guard, so that only the range is asked.
	free := func(then func(*Input)) func(*Input) {
		return func(in *Input) { in.Target.MaxStep = nil; then(in) }
	}
	integer := func(v int64, low, high float64) func(*Input) {
		return free(func(in *Input) {
			in.Target.Type, in.Result.Value, in.Target.Min, in.Target.Max = sample.Int64, sample.IntValue(v), &low, &high
		})
	}
	clamp := func(v sample.Value, low, high float64) func(*Input) {
		return free(func(in *Input) {
			in.Target.Type, in.Result.Value, in.Target.Min, in.Target.Max, in.Target.Clamp = v.Kind(), v, &low, &high, true
		})
	}
	step := func(from, to, most float64) func(*Input) {
		return func(in *Input) {
			in.Last, in.Present, in.Target.MaxStep, in.Result.Value = ptr(sample.FloatValue(from)), nil, &most, sample.FloatValue(to)
			in.Target.Min, in.Target.Max = nil, nil
		}
	}
	intStep := func(from, to int64, most float64) func(*Input) {
		return func(in *Input) {
			step(0, 0, most)(in)
			in.Target.Type, in.Last, in.Result.Value = sample.Int64, ptr(sample.IntValue(from)), sample.IntValue(to)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   Verdict // without Detail; a zero Value is the result's
	}{
		{"as it is", func(*Input) {}, Verdict{Action: Write}},
		{"dry run", func(in *Input) { in.Mode = DryRun }, Verdict{Action: Log}},
		{"no target", func(in *Input) { in.Target = nil }, Verdict{Reason: UnknownTarget}},
		{"off", func(in *Input) { in.Mode = Off }, Verdict{Reason: ModeOff}},
		{"a mode of nobody", func(in *Input) { in.Mode = "" }, Verdict{Reason: ModeOff}},

		{"another site", func(in *Input) { in.Result.Site = "south" }, Verdict{Reason: WrongSite}},
		{"no site", func(in *Input) { in.Result.Site = "" }, Verdict{Reason: WrongSite}},
		{"not signed", func(in *Input) { in.Result.Signature = None }, Verdict{Reason: Unsigned}},
		{"not signed, which is optional", func(in *Input) { in.Result.Signature, in.Target.NeedSignature = None, false }, Verdict{Action: Write}},
		{"badly signed, which is optional", func(in *Input) { in.Result.Signature, in.Target.NeedSignature = Invalid, false }, Verdict{Reason: BadSignature}},
		{"strange key, which is optional", func(in *Input) { in.Result.Signature, in.Target.NeedSignature = Unknown, false }, Verdict{Reason: UnknownKey}},
		{"badly signed", func(in *Input) { in.Result.Signature = Invalid }, Verdict{Reason: BadSignature}},
		{"strange finding", func(in *Input) { in.Result.Signature = 99 }, Verdict{Reason: BadSignature}},
		{"strange key", func(in *Input) { in.Result.Signature = Unknown }, Verdict{Reason: UnknownKey}},
		{"of our own", func(in *Input) { in.Result.Signature = Local }, Verdict{Action: Write}},
		{"of our own, for a setpoint", func(in *Input) { in.Result.Signature, in.Target.NeedSigner = Local, true }, Verdict{Reason: Unsigned}},

		{"clock", func(in *Input) { in.Synchronised = false }, Verdict{Reason: ClockUnsynchronised}},

		{"valid until now", func(in *Input) { in.Result.ValidUntil = noon }, Verdict{Reason: Expired}},
		{"valid for a nanosecond", func(in *Input) { in.Result.ValidUntil = noon.Add(1) }, Verdict{Action: Write}},
		{"two hours old", func(in *Input) { in.Now = in.Now.Add(2 * time.Hour) }, Verdict{Reason: Expired}},
		{"no validity", func(in *Input) { in.Result.ValidUntil = time.Time{} }, Verdict{Reason: Expired}},
		{"valid from now", func(in *Input) { in.Result.ValidFrom = noon }, Verdict{Action: Write}},
		{"valid within the slack", func(in *Input) { in.Result.ValidFrom = noon.Add(ClockSlack) }, Verdict{Action: Write}},
		{"valid after the slack", func(in *Input) { in.Result.ValidFrom = noon.Add(ClockSlack + 1) }, Verdict{Reason: NotYetValid}},
		{"computed within the slack", func(in *Input) { in.Result.ComputedAt = noon.Add(ClockSlack) }, Verdict{Action: Write}},
		{"computed in the future", func(in *Input) { in.Result.ComputedAt = noon.Add(ClockSlack + 1) }, Verdict{Reason: NotYetValid}},
		{"as old as may be", func(in *Input) { in.Result.ComputedAt = noon.Add(-15 * time.Minute) }, Verdict{Action: Write}},
		{"too old", func(in *Input) { in.Result.ComputedAt = noon.Add(-15*time.Minute - 1) }, Verdict{Reason: TooOld}},
		{"centuries old", func(in *Input) { in.Result.ComputedAt = time.Time{} }, Verdict{Reason: TooOld}},
		{"of any age", func(in *Input) { in.Result.ComputedAt, in.Target.MaxAge = time.Time{}, 0 }, Verdict{Action: Write}},

		{"same version", func(in *Input) { in.Result.Version = 16 }, Verdict{Reason: NotNewer}},
		{"older version", func(in *Input) { in.Result.Version = 1 }, Verdict{Reason: NotNewer}},
		{"no version", func(in *Input) { in.Result.Version, in.LastVersion = 0, 0 }, Verdict{Reason: NotNewer}},
		{"last version of all", func(in *Input) { in.Result.Version, in.LastVersion = math.MaxInt64, math.MaxInt64-1 }, Verdict{Action: Write}},
		{"after the last version", func(in *Input) { in.Result.Version, in.LastVersion = math.MaxInt64, math.MaxInt64 }, Verdict{Reason: NotNewer}},

		{"int for a float", func(in *Input) { in.Result.Value = sample.IntValue(41) }, Verdict{Reason: WrongType}},
		{"float for an int", func(in *Input) { in.Target.Type = sample.Int64 }, Verdict{Reason: WrongType}},
		{"bool for a float", func(in *Input) { in.Result.Value = sample.BoolValue(true) }, Verdict{Reason: WrongType}},
		{"string for a float", func(in *Input) { in.Result.Value = sample.StringValue("41.5") }, Verdict{Reason: WrongType}},
		{"null", kind(sample.Null, sample.Value{}), Verdict{Reason: WrongType}},
		{"NaN", float(math.NaN()), Verdict{Reason: NotANumber}},
		{"infinity", free(func(in *Input) { float(math.Inf(1))(in); in.Target.Max, in.Target.Clamp = nil, true }), Verdict{Reason: NotANumber}},
		{"unit", func(in *Input) { in.Result.Unit = "MW" }, Verdict{Reason: WrongUnit}},
		{"no unit", func(in *Input) { in.Result.Unit = "" }, Verdict{Reason: WrongUnit}},
		{"Bad", func(in *Input) { in.Result.Quality = sample.BadOutOfRange }, Verdict{Reason: BadQuality}},
		{"of severity 3", func(in *Input) { in.Result.Quality = 0xC0000000 }, Verdict{Reason: BadQuality}},
		{"Uncertain", func(in *Input) { in.Result.Quality = sample.UncertainLastUsableValue }, Verdict{Action: Write}},

		{"bool", kind(sample.Bool, sample.BoolValue(true)), Verdict{Action: Write}},
		{"string", kind(sample.String, sample.StringValue("eco")), Verdict{Action: Write}},
		{"min", free(float(0)), Verdict{Action: Write}},
		{"minus zero at min 0", free(float(math.Copysign(0, -1))), Verdict{Action: Write}},
		{"the least below min 0", free(float(-math.SmallestNonzeroFloat64)), Verdict{Reason: BelowMin}},
		{"the least above min 0", free(float(math.SmallestNonzeroFloat64)), Verdict{Action: Write}},
		{"max", free(float(500)), Verdict{Action: Write}},
		{"the next above max", free(float(math.Nextafter(500, 501))), Verdict{Reason: AboveMax}},
		{"far above max", free(float(math.MaxFloat64)), Verdict{Reason: AboveMax}},
		{"int at min", integer(-5, -5, 5), Verdict{Action: Write}},
		{"int at max", integer(5, -5, 5), Verdict{Action: Write}},
		{"int above max", integer(6, -5, 5.9), Verdict{Reason: AboveMax}},
		{"int below min", integer(-6, -5.9, 5), Verdict{Reason: BelowMin}},
		{"int at 2^53", integer(1<<53, 0, 1<<53), Verdict{Action: Write}},
		{"int at 2^53+1", integer(1<<53+1, 0, 1<<53), Verdict{Reason: AboveMax}},
		{"int at -2^53-1", integer(-(1<<53)-1, -(1 << 53), 0), Verdict{Reason: BelowMin}},
		{"int at 2^62", integer(1<<62, 0, 1<<62), Verdict{Action: Write}},
		{"int at 2^62+1", integer(1<<62+1, 0, 1<<62), Verdict{Reason: AboveMax}},
		{"greatest int below 2^63", integer(math.MaxInt64, 0, 1<<63), Verdict{Action: Write}},
		{"least int", integer(math.MinInt64, -(1 << 63), 0), Verdict{Action: Write}},

		{"clamped to max", clamp(sample.FloatValue(501), 0, 500), Verdict{Action: Write, Value: sample.FloatValue(500), Clamped: true}},
		{"clamped to min", clamp(sample.FloatValue(-1), 0, 500), Verdict{Action: Write, Value: sample.FloatValue(0), Clamped: true}},
		{"in range, not clamped", clamp(sample.FloatValue(500), 0, 500), Verdict{Action: Write}},
		{"int clamped down", clamp(sample.IntValue(70000), 0, 65535.5), Verdict{Action: Write, Value: sample.IntValue(65535), Clamped: true}},
		{"int clamped up", clamp(sample.IntValue(-70000), -10.5, 10), Verdict{Action: Write, Value: sample.IntValue(-10), Clamped: true}},
		{"no int in the range", clamp(sample.IntValue(7), 0.2, 0.8), Verdict{Reason: AboveMax}},
		{"no int up there", clamp(sample.IntValue(7), 1e300, 2e300), Verdict{Reason: BelowMin}},
		{"clamped, and still too far", func(in *Input) { in.Target.Clamp = true; float(501)(in) }, Verdict{Reason: StepFromLast}},

		{"as far as may be", step(40, 90, 50), Verdict{Action: Write}},
		{"as far down as may be", step(90, 40, 50), Verdict{Action: Write}},
		{"a little further", step(40, math.Nextafter(90, 91), 50), Verdict{Reason: StepFromLast}},
		{"a tenth, in decimals", step(1, 1.1, 0.1), Verdict{Action: Write}},
		{"a tenth down, in decimals", step(0.3, 0.2, 0.1), Verdict{Action: Write}},
		{"more than a tenth", step(1, 1.1000000000000003, 0.1), Verdict{Reason: StepFromLast}},
		{"no step at all", step(7.7, 7.7, 0), Verdict{Action: Write}},
		{"no step allowed", step(7.7, 7.8, 0), Verdict{Reason: StepFromLast}},
		{"zero and minus zero", step(0, math.Copysign(0, -1), 0), Verdict{Action: Write}},
		{"subnormal step", step(0, 5e-324, 5e-324), Verdict{Action: Write}},
		{"two subnormals", step(0, 1e-323, 5e-324), Verdict{Reason: StepFromLast}},
		{"across all floats", step(-math.MaxFloat64, math.MaxFloat64, math.MaxFloat64), Verdict{Reason: StepFromLast}},
		{"int step", intStep(1<<53, 1<<53+1, 1), Verdict{Action: Write}},
		{"int step beyond 2^53", intStep(1<<53, 1<<53+2, 1), Verdict{Reason: StepFromLast}},
		{"across all ints", intStep(math.MinInt64, math.MaxInt64, 1<<63), Verdict{Reason: StepFromLast}},
		{"int step of a half", intStep(3, 4, 0.5), Verdict{Reason: StepFromLast}},
		{"first value", func(in *Input) { in.Last, in.Present = nil, nil; float(500)(in) }, Verdict{Action: Write}},
		{"as far from what stands there", func(in *Input) { in.Last, in.Present = nil, ptr(sample.FloatValue(-8.5)) }, Verdict{Action: Write}},
		{"too far from what stands there", func(in *Input) { in.Present = ptr(sample.FloatValue(-9)) }, Verdict{Reason: StepFromPresent}},
		{"what stands there is an int", func(in *Input) { in.Present = ptr(sample.IntValue(92)) }, Verdict{Reason: StepFromPresent}},
		{"what stands there is no number", func(in *Input) { in.Present = ptr(sample.FloatValue(math.NaN())) }, Verdict{Action: Write}},
		{"what stands there is text", func(in *Input) { in.Present = ptr(sample.StringValue("off")) }, Verdict{Action: Write}},

		{"no enable tag", func(in *Input) { in.Enable = NotAsked }, Verdict{Action: Write}},
		{"not enabled", func(in *Input) { in.Enable = Disabled }, Verdict{Reason: NotEnabled}},
		{"enable tag unknown", func(in *Input) { in.Enable = Unreadable }, Verdict{Reason: NotEnabled}},
		{"enable of nobody", func(in *Input) { in.Enable = 99 }, Verdict{Reason: NotEnabled}},

		{"never written", func(in *Input) { in.Since = -1 }, Verdict{Action: Write}},
		{"just written", func(in *Input) { in.Since = 0 }, Verdict{Action: Hold, Wait: 10 * time.Second}},
		{"written a while ago", func(in *Input) { in.Since = 10*time.Second - 1 }, Verdict{Action: Hold, Wait: 1}},
		{"written an interval ago", func(in *Input) { in.Since = 10 * time.Second }, Verdict{Action: Write}},
		{"just written, dry run", func(in *Input) { in.Since, in.Mode = 0, DryRun }, Verdict{Action: Hold, Wait: 10 * time.Second}},
	} {
		in := fine()
		c.change(&in)
		got := Decide(in)
		if (got.Detail != "") != (got.Action == Refuse || got.Clamped) {
			t.Errorf("%s: the detail is %q", c.name, got.Detail)
		}
		if strings.ContainsAny(got.Detail, "\n") || len(got.Detail) > 300 {
			t.Errorf("%s: the detail %q is not one short line", c.name, got.Detail)
		}
		if c.want.Action != Refuse && c.want.Value == (sample.Value{}) {
			c.want.Value = in.Result.Value
		}
		got.Detail = ""
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// It does everything wrong at once, and mends one thing after the
// other in the guards' order.
func TestTheOrderHolds(t *testing.T) {
	good := fine()
	in := fine()
	rules, r := *in.Target, &in.Result
	in.Target, in.Mode, r.Site, r.Signature, in.Synchronised = nil, Off, "south", None, false
	r.ValidUntil, r.ValidFrom, r.ComputedAt = noon.Add(-time.Hour), noon.Add(time.Hour), noon.Add(-24*time.Hour)
	in.LastVersion, r.Unit, r.Quality = 99, "A", sample.Bad
	r.Value = sample.StringValue("x")
	in.Last, in.Present = ptr(sample.FloatValue(-1000)), ptr(sample.FloatValue(-1000))
	in.Enable, in.Since = Disabled, 0

	mend := []struct {
		want Reason
		mend func()
	}{
		{UnknownTarget, func() { in.Target = &rules }},
		{ModeOff, func() { in.Mode = DryRun }},
		{WrongSite, func() { r.Site = good.Result.Site }},
		{Unsigned, func() { r.Signature = Unknown }},
		{UnknownKey, func() { r.Signature = Invalid }},
		{BadSignature, func() { r.Signature = Valid }},
		{ClockUnsynchronised, func() { in.Synchronised = true }},
		{Expired, func() { r.ValidUntil = good.Result.ValidUntil }},
		{NotYetValid, func() { r.ValidFrom = good.Result.ValidFrom }},
		{TooOld, func() { r.ComputedAt = good.Result.ComputedAt }},
		{NotNewer, func() { in.LastVersion = 16 }},
		{WrongType, func() { r.Value = sample.FloatValue(math.NaN()) }},
		{NotANumber, func() { r.Value = sample.FloatValue(-1) }},
		{WrongUnit, func() { r.Unit = good.Result.Unit }},
		{BadQuality, func() { r.Quality = sample.Good }},
		{BelowMin, func() { r.Value = sample.FloatValue(501) }},
		{AboveMax, func() { r.Value = sample.FloatValue(41.5) }},
		{StepFromLast, func() { in.Last = good.Last }},
		{StepFromPresent, func() { in.Present = good.Present }},
		{NotEnabled, func() { in.Enable = Enabled }},
	}
	var order []Reason
	for _, m := range mend {
		if got := Decide(in); got.Action != Refuse || got.Reason != m.want {
			t.Fatalf("it is refused for %q, want %q", got.Reason, m.want)
		}
		order = append(order, m.want)
		m.mend()
	}
	if !slices.Equal(order, Reasons()) {
		t.Errorf("Reasons lists %v, the guards ask in the order %v", Reasons(), order)
	}
	if got := Decide(in); got.Action != Hold {
		t.Errorf("within the shortest interval: %+v", got)
	}
	if in.Since = time.Hour; Decide(in).Action != Log {
		t.Error("in a dry run it is not said to be one")
	}
	if in.Mode = Armed; Decide(in).Action != Write {
		t.Error("mended in all, it is not written")
	}
}

// A fallback value is the plant's own: who sent it, when and as what version is
// not asked, and it may be far off.
func TestFallback(t *testing.T) {
	plain := func() Input {
		in := fine()
		in.Fallback, in.Result, in.Synchronised, in.Since = true, Result{Value: sample.FloatValue(500)}, false, 0
		in.Last = ptr(sample.FloatValue(0))
		return in
	}
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   Action
		reason Reason
	}{
		{"armed", func(*Input) {}, Write, ""},
		{"dry run", func(in *Input) { in.Mode = DryRun }, Log, ""},
		{"off", func(in *Input) { in.Mode = Off }, Refuse, ModeOff},
		{"not enabled", func(in *Input) { in.Enable = Disabled }, Refuse, NotEnabled},
		{"out of range", func(in *Input) { in.Result.Value = sample.FloatValue(501) }, Refuse, AboveMax},
		{"wrong type", func(in *Input) { in.Result.Value = sample.IntValue(1) }, Refuse, WrongType},
		{"NaN", func(in *Input) { in.Result.Value = sample.FloatValue(math.NaN()) }, Refuse, NotANumber},
	} {
		in := plain()
		c.change(&in)
		if got := Decide(in); got.Action != c.want || got.Reason != c.reason {
			t.Errorf("%s: %+v, want action %d and reason %q", c.name, got, c.want, c.reason)
		}
	}
}

// Decide gives the same answer again and leaves its input alone.
func TestDecideIsPure(t *testing.T) {
	in := fine()
	in.Target.Clamp, in.Result.Value, in.Target.MaxStep = true, sample.FloatValue(600), nil
	first := Decide(in)
	if again := Decide(in); again != first || in.Result.Value != sample.FloatValue(600) || *in.Target.Max != 500 {
		t.Errorf("%+v, then %+v", first, again)
	}
}

func TestEachReasonIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/mirror-reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Guards")
	table, _, _ = strings.Cut(table, "\n## ")
	var got []Reason
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
		got = append(got, Reason(m[1]))
	}
	if !slices.Equal(got, Reasons()) {
		t.Errorf("docs/mirror-reasons.md lists the guards\n%v, the code has\n%v", got, Reasons())
	}
}
