package protocolstest

import (
	"reflect"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// TargetHarness is what one protocol supplies for RunTarget, the suite that
// every target of the mirror passes:
//
//	func TestTargets(t *testing.T) {
//		protocolstest.RunTarget(t, protocolstest.TargetHarness{
//			Protocol: modbus.Protocol{},
//			Start:    startTargets, // a new TargetDevice per check
//			Faulty:   faultyTarget, // settings with two faults
//		})
//	}
type TargetHarness struct {
	Protocol protocols.Protocol
	// Start starts a device, and stops it for good in t.Cleanup.
	Start func(t *testing.T) *TargetDevice
	// Faulty returns settings with at least two independent faults for values
	// of a kind, and the paths at which they are to be reported: "address".
	Faulty func() (protocols.TargetConfig, sample.Kind, []string)
	// Limit ends the context of a write whose answer is lost. 1 s where 0.
	Limit time.Duration
	// Patience is how long to wait for what should happen. 15 s where 0.
	Patience time.Duration
	// IgnoreGoroutines are pieces of stack traces of goroutines that belong to
	// the simulated device.
	IgnoreGoroutines []string
}

// TargetDevice is one simulated device and the places on it.
type TargetDevice struct {
	Config protocols.Config
	Places []TargetPlace // at least one; no two are the same
	// Source reads Places[0] by one tag, on the same connection; nil where the
	// protocol has no source.
	Source *protocols.SourceConfig
	// Writes returns how many requests to write have reached the device, as the
	// device counts them.
	Writes func() int
	// Stop takes the device away: connections break and new ones fail. Resume
	// brings it back at the same address, with the values that it held. Both
	// nil for a server of the gateway's own.
	Stop, Resume func()
	// LoseAnswers makes the device carry out what it is told and its answers
	// get lost. Nil where there are none.
	LoseAnswers func(on bool)
	// Reject makes the device answer each write that it does not carry it out.
	// Nil where the protocol has no such answer.
	Reject func(on bool)
}

// TargetPlace is one place on a device.
type TargetPlace struct {
	Config protocols.TargetConfig
	// Kind is that of the values that the mirror has for it.
	Kind sample.Kind
	// Good are values that the place takes: at least two, which differ once
	// they are there. A value may be rounded there, as Prepare tells.
	Good []sample.Value
	// Unsuited are values that it does not take, by their type or range.
	Unsuited []sample.Value
	// Held returns what the device holds, by its own account.
	Held func() (sample.Value, error)
	// Valid and Heartbeat return what the device shows beside the value; nil
	// where the place has no room for it.
	Valid     func() (bool, error)
	Heartbeat func() (uint16, error)
	// Emptied says that the value is taken away when it is not valid any more,
	// since there is no other way to say so.
	Emptied bool
}

func (h TargetHarness) limit() time.Duration {
	if h.Limit > 0 {
		return h.Limit
	}
	return time.Second
}

func (h TargetHarness) patience() time.Duration {
	if h.Patience > 0 {
		return h.Patience
	}
	return 15 * time.Second
}

// RunTarget runs every check as a subtest.
func RunTarget(t *testing.T, h TargetHarness) {
	if h.Protocol == nil || h.Start == nil || h.Faulty == nil {
		t.Fatal("protocolstest: the harness needs Protocol, Start and Faulty")
	}
	checks := []struct {
		name  string
		check func(t *testing.T, h TargetHarness) error
	}{
		{"defaults", checkTargetDefaults},
		{"validate reports every fault", checkTargetValidate},
		{"places are named", checkTargetPlaces},
		{"the device holds what Prepare returned", checkTargetWrites},
		{"unsuited values are refused before the wire", checkTargetUnsuited},
		{"a device that is away at the start", checkTargetAwayAtStart},
		{"a device that goes away", checkTargetGone},
		{"an answer that is lost", checkTargetLost},
		{"a device that rejects", checkTargetRejected},
		{"what stands beside the value", checkTargetTell},
		{"close", checkTargetClose},
		{"at the same time as others", checkTargetTogether},
		{"a cancelled context", checkTargetCancelled},
		{"no goroutine is left", checkTargetGoroutines},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.check(t, h); err != nil {
				t.Error(err)
			}
		})
	}
}

// hasYAML reports whether v points to a struct whose exported fields all have
// yaml tags.
func hasYAML(v any) bool {
	p := reflect.TypeOf(v)
	if p == nil || p.Kind() != reflect.Pointer || p.Elem().Kind() != reflect.Struct {
		return false
	}
	for f := range p.Elem().Fields() {
		if f.IsExported() && f.Tag.Get("yaml") == "" {
			return false
		}
	}
	return true
}
