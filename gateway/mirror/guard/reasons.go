package guard

// Reason is why a result is refused, as one word. The words stand in the audit
// log and in the status samples, so they are never renamed.
type Reason string

// The reasons, in the order in which the guards are asked.
const (
	UnknownTarget Reason = "unknown_target"

	ModeOff Reason = "mode_off"

	WrongSite    Reason = "wrong_site"
	Unsigned     Reason = "unsigned"
	UnknownKey   Reason = "unknown_key"
	BadSignature Reason = "bad_signature"

	ClockUnsynchronised Reason = "clock_unsynchronised"

	Expired     Reason = "expired"
	NotYetValid Reason = "not_yet_valid"
	TooOld      Reason = "too_old"

	NotNewer Reason = "not_newer"

	WrongType  Reason = "wrong_type"
	NotANumber Reason = "not_a_number"
	WrongUnit  Reason = "wrong_unit"
	BadQuality Reason = "bad_quality"

	BelowMin Reason = "below_min"
	AboveMax Reason = "above_max"

	StepFromLast    Reason = "step_from_last"
	StepFromPresent Reason = "step_from_present"

	NotEnabled Reason = "not_enabled"
)

// Reasons lists all of them in the guards' order.
func Reasons() []Reason {
	return []Reason{
		UnknownTarget, ModeOff, WrongSite, Unsigned, UnknownKey, BadSignature, ClockUnsynchronised, Expired, NotYetValid, TooOld,
		NotNewer, WrongType, NotANumber, WrongUnit, BadQuality, BelowMin, AboveMax, StepFromLast, StepFromPresent, NotEnabled,
	}
}
