// Package guard decides what becomes of a result for a mirror target: it may be
// written, is held, or is refused for one reason. It is one pure function of
// what is known at the moment, without a clock, a device or a file.
package guard

import (
	"fmt"
	"math"
	"time"

	"millrace/sample"
)

// ClockSlack is how far the clocks of the gateway and of whoever computed the
// result may differ: a result whose validity begins that little ahead is valid
// now. The end of the validity knows no slack.
const ClockSlack = time.Second

// Mode is what a target may do.
type Mode string

// The modes.
const (
	Off    Mode = "off"     // nothing; no connection is made for it
	DryRun Mode = "dry_run" // everything but the write
	Armed  Mode = "armed"   // the write too
)

// Signature is what was found of a result's signature.
type Signature uint8

// The findings.
const (
	None    Signature = iota // it is not signed
	Valid                    // signed with a key of the configuration
	Unknown                  // signed with a key that the configuration does not have
	Invalid                  // the signature does not fit
	Local                    // the gateway made the result itself, of what the plant configured
)

// Enable is what the SCADA side's enable tag says.
type Enable uint8

// The states of an enable tag.
const (
	NotAsked   Enable = iota // the target has no enable tag
	Enabled                  // Good, and true or not 0
	Disabled                 // Good, and false or 0
	Unreadable               // Bad, Uncertain, too old, or never read
)

// Rules are one target's settings as far as they guard it. Min, Max and MaxStep
// are nil where there is none; they mean nothing for bools and strings.
type Rules struct {
	Type          sample.Kind
	Unit          string
	Min, Max      *float64
	MaxStep       *float64
	Clamp         bool          // a value out of range is written as the bound
	MinInterval   time.Duration // between two writes
	MaxAge        time.Duration // of the computation; 0 is any
	NeedSignature bool
	// NeedSigner refuses also what the gateway made itself, of a tag: nobody has
	// signed that.
	NeedSigner bool
	// EnableTag names the enable tag, for the text of a refusal.
	EnableTag string
}

// Result is what the guards look at of a result.
type Result struct {
	Site, Target                      string
	Version                           uint64
	Value                             sample.Value
	Unit                              string
	Quality                           sample.Quality
	ComputedAt, ValidFrom, ValidUntil time.Time
	Signature                         Signature
	Key                               string // the name of the signature's key
}

// Input is all that a decision depends on.
type Input struct {
	Result Result
	// Fallback says that Result.Value is the target's own fallback value, which
	// nobody sent: mode, type, range and enable tag are asked, nothing else.
	Fallback bool

	Target       *Rules // nil: there is no such target
	Mode         Mode
	Site         string    // the gateway's
	Now          time.Time // right time as the gateway knows it
	Synchronised bool      // whether that can be trusted

	LastVersion uint64        // the greatest that was accepted or attempted
	Last        *sample.Value // the last good value written; nil where there is none
	Present     *sample.Value // what was read from the device now; nil where nothing was read, or nothing usable stands there
	Enable      Enable
	Since       time.Duration // since the last write, by a clock that is not stepped; negative where there was none
}

// Action is what is to be done with a result.
type Action uint8

// The actions. The zero Action does nothing.
const (
	Refuse Action = iota // for Verdict.Reason
	Hold                 // for Verdict.Wait; the newest that is held wins
	Log                  // dry run: everything but the write
	Write
)

// Verdict is a decision.
type Verdict struct {
	Action  Action
	Reason  Reason        // of a refusal
	Detail  string        // for people: what was compared with what
	Value   sample.Value  // what is to be written, of Write, Log and Hold
	Clamped bool          // Value is a bound in place of the result's value
	Wait    time.Duration // of Hold
}

// Decide asks the guards in their order. The first that refuses gives the reason.
func Decide(in Input) Verdict {
	guards := []func(*Input) (Reason, string){origin, clock, validity, version, form}
	if in.Fallback {
		guards = []func(*Input) (Reason, string){form}
	}
	if in.Target == nil {
		return refuse(UnknownTarget, fmt.Sprintf("no target %.64q is configured", in.Result.Target))
	}
	if in.Mode != DryRun && in.Mode != Armed {
		return refuse(ModeOff, "the target's mode is off")
	}
	for _, g := range guards {
		if reason, detail := g(&in); reason != "" {
			return refuse(reason, detail)
		}
	}
	v, clamped, reason, detail := bounds(in.Target, in.Result.Value)
	if reason == "" && !in.Fallback {
		reason, detail = step(&in, v)
	}
	if reason == "" {
		reason, detail = enable(&in)
	}
	if reason != "" {
		return refuse(reason, detail)
	}
	out := Verdict{Action: Write, Value: v, Clamped: clamped}
	if clamped {
		out.Detail = fmt.Sprintf("clamped from %s", in.Result.Value)
	}
	if !in.Fallback && in.Since >= 0 && in.Since < in.Target.MinInterval {
		out.Action, out.Wait = Hold, in.Target.MinInterval-in.Since
		return out
	}
	if in.Mode == DryRun {
		out.Action = Log
	}
	return out
}

func refuse(reason Reason, detail string) Verdict { return Verdict{Reason: reason, Detail: detail} }

// origin: is it ours, and is it from whom we trust?
func origin(in *Input) (Reason, string) {
	r := &in.Result
	if r.Site != in.Site {
		return WrongSite, fmt.Sprintf("it is for site %.64q, this is %q", r.Site, in.Site)
	}
	switch r.Signature {
	case Valid:
		return "", ""
	case Local:
		if in.Target.NeedSigner {
			return Unsigned, "it is made of a tag, which nobody signs, and the target takes signed results only"
		}
		return "", ""
	case None:
		if in.Target.NeedSignature {
			return Unsigned, "it is not signed, and the target takes signed results only"
		}
		return "", ""
	case Unknown:
		return UnknownKey, fmt.Sprintf("it is signed with the key %.64q, which mirror.keys does not have", r.Key)
	case Invalid:
	}
	return BadSignature, fmt.Sprintf("its signature is not that of the key %.64q over what it says", r.Key)
}

// clock: can anything be said about times at all?
func clock(in *Input) (Reason, string) {
	if !in.Synchronised {
		return ClockUnsynchronised, "the gateway's clock is not synchronised, so nothing can be said about the validity; mend its time service, or set clock.sync: ignore where there is none"
	}
	return "", ""
}

// validity: is now within the validity, and is the computation young enough?
func validity(in *Input) (Reason, string) {
	r, now := &in.Result, in.Now
	age := now.Sub(r.ComputedAt)
	switch {
	case !now.Before(r.ValidUntil):
		return Expired, fmt.Sprintf("it was valid until %s, that is %s ago", stamp(r.ValidUntil), span(now.Sub(r.ValidUntil)))
	case r.ValidFrom.Sub(now) > ClockSlack:
		return NotYetValid, fmt.Sprintf("it is valid from %s on, that is in %s", stamp(r.ValidFrom), span(r.ValidFrom.Sub(now)))
	case -age > ClockSlack:
		return NotYetValid, fmt.Sprintf("it says that it was computed at %s, that is in %s", stamp(r.ComputedAt), span(-age))
	case in.Target.MaxAge > 0 && age > in.Target.MaxAge:
		return TooOld, fmt.Sprintf("it was computed %s ago, max_age is %s", span(age), in.Target.MaxAge)
	}
	return "", ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func span(d time.Duration) string { return d.Round(time.Millisecond).String() }

// version: is it newer than all that were accepted or attempted?
func version(in *Input) (Reason, string) {
	if in.Result.Version <= in.LastVersion {
		return NotNewer, fmt.Sprintf("its version is %d, the target has had version %d", in.Result.Version, in.LastVersion)
	}
	return "", ""
}

// form: is it of the target's type and unit, and meant to be used?
func form(in *Input) (Reason, string) {
	r, t := &in.Result, in.Target
	switch kind := r.Value.Kind(); {
	case kind != t.Type || kind == sample.Null:
		return WrongType, fmt.Sprintf("its value is of type %s, the target takes %s", kind, t.Type)
	case kind == sample.Float64 && (math.IsNaN(r.Value.Float()) || math.IsInf(r.Value.Float(), 0)):
		return NotANumber, fmt.Sprintf("its value is %s", r.Value)
	case in.Fallback:
		return "", ""
	case r.Unit != t.Unit:
		return WrongUnit, fmt.Sprintf("its unit is %.32q, the target's is %q", r.Unit, t.Unit)
	case r.Quality.IsBad():
		return BadQuality, fmt.Sprintf("its quality is %s", r.Quality)
	}
	return "", ""
}

// bounds: is the value within the limits, or to be put there?
func bounds(t *Rules, v sample.Value) (_ sample.Value, clamped bool, _ Reason, detail string) {
	if !numeric(v) {
		return v, false, "", ""
	}
	low := t.Min != nil && compareBound(v, *t.Min) < 0
	high := t.Max != nil && compareBound(v, *t.Max) > 0
	if t.Clamp && (low || high) {
		if c, ok := clampTo(t, v.Kind(), low); ok {
			return c, true, "", ""
		}
	}
	switch {
	case low:
		return v, false, BelowMin, fmt.Sprintf("%s is below min %s", v, number(*t.Min))
	case high:
		return v, false, AboveMax, fmt.Sprintf("%s is above max %s", v, number(*t.Max))
	}
	return v, false, "", ""
}

// step: is the value near enough to the last one, and to what stands there?
func step(in *Input, v sample.Value) (Reason, string) {
	most := in.Target.MaxStep
	if most == nil || !numeric(v) {
		return "", ""
	}
	if l := in.Last; l != nil && numeric(*l) && stepExceeds(*l, v, *most) {
		return StepFromLast, fmt.Sprintf("from the last value %s to %s is more than max_step %s", l, v, number(*most))
	}
	if p := in.Present; p != nil && numeric(*p) && stepExceeds(*p, v, *most) {
		return StepFromPresent, fmt.Sprintf("from %s, which was read now, to %s is more than max_step %s", p, v, number(*most))
	}
	return "", ""
}

// enable: does the SCADA side want it?
func enable(in *Input) (Reason, string) {
	switch in.Enable {
	case NotAsked, Enabled:
		return "", ""
	case Disabled:
		return NotEnabled, fmt.Sprintf("the enable tag %s is not set", in.Target.EnableTag)
	case Unreadable:
	}
	return NotEnabled, fmt.Sprintf("the enable tag %s has no Good and fresh reading", in.Target.EnableTag)
}
