// Package protocolstest is the suite that every protocol passes. A protocol's
// own test starts a simulated device and calls Run:
//
//	func TestSuite(t *testing.T) {
//		protocolstest.Run(t, protocolstest.Harness{
//			Protocol: modbus.Protocol{},
//			Mode:     protocolstest.Polled,
//			Start:    startDevice, // a new Device per check
//			Faulty:   faulty,      // a configuration with two faults
//		})
//	}
//
// Run asks for a new Device for each check and does everything in real time,
// so scan rates, time limits and back-offs should be short. Collector and
// HealthRecorder are exported for the protocols' own tests.
package protocolstest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
)

// Mode says how a source gets its samples.
type Mode int

const (
	// Polled sources ask for the values at each scan.
	Polled Mode = iota
	// Subscribed sources are sent changes, and know when the device is away.
	Subscribed
	// Acknowledged sources emit with a callback and confirm to the device
	// once it is called with nil. They need not emit Bad for an absent device.
	Acknowledged
)

// Harness is what one protocol supplies.
type Harness struct {
	Protocol protocols.Protocol
	Mode     Mode
	// Start starts a device that says Want, and stops it for good in t.Cleanup.
	Start func(t *testing.T) *Device
	// Faulty returns a configuration with at least two independent faults,
	// and the paths at which they are to be reported, such as "connection.url".
	Faulty func() (protocols.Config, *protocols.SourceConfig, []string)
	// StopWithin is how long Run may take to return after its context is
	// done: the request's time limit and a little. 2 s where 0.
	StopWithin time.Duration
	// Patience is how long to wait for what should happen. 15 s where 0.
	Patience time.Duration
	// IgnoreGoroutines are pieces of stack traces, for example
	// "gopcua/opcua/server.": goroutines that hold one belong to the simulated
	// device and may outlive it.
	IgnoreGoroutines []string
}

// Device is one simulated device and the source that reads it.
type Device struct {
	Config protocols.Config
	Source *protocols.SourceConfig
	// Want is the value that the source must emit as Good, for every full tag
	// name of the device.
	Want map[string]sample.Value
	// Opened, where set, is called with the connection after OpenSource and
	// before Run. A listening protocol learns its address there.
	Opened func(protocols.Connection)
	// Publish, needed for Acknowledged and possible for Subscribed, makes the
	// device send every value of Want once. For an Acknowledged source it
	// returns nil once all are acknowledged, and an error when any was refused
	// or ctx ended first. It must be safe to call again after an error.
	Publish func(ctx context.Context) error
	// Counter is the full name of a tag of kind Int64 or Float64, and Send
	// makes n its next value; its value in Want lies outside of 1 to 8. For an
	// Acknowledged source Send waits for the acknowledgement. A nil Send skips
	// the check of the order.
	Counter string
	Send    func(ctx context.Context, n int64) error
	// Stop takes the device away: connections break and new ones fail. Resume
	// brings it back at the same address, with the values of Want. Both nil
	// where the protocol has no device that can go away (a server).
	Stop, Resume func()
}

// Settings returns settings for a test: site "plant", the system's clock, and
// a log that goes nowhere.
func Settings() protocols.Settings {
	return protocols.Settings{
		Site:  "plant",
		Log:   slog.New(slog.DiscardHandler),
		Clock: clock.System{},
	}
}

func (h Harness) stopWithin() time.Duration {
	if h.StopWithin > 0 {
		return h.StopWithin
	}
	return 2 * time.Second
}

func (h Harness) patience() time.Duration {
	if h.Patience > 0 {
		return h.Patience
	}
	return 15 * time.Second
}

// Run runs every check as a subtest.
func Run(t *testing.T, h Harness) {
	if h.Protocol == nil || h.Start == nil || h.Faulty == nil {
		t.Fatal("protocolstest: the harness needs Protocol, Start and Faulty")
	}
	checks := []struct {
		name  string
		check func(t *testing.T, h Harness) error
	}{
		{"defaults", checkDefaults},
		{"validate reports every fault", checkValidate},
		{"values are the device's", checkValues},
		{"a device that stops", checkAway},
		{"a device that is away at the start", checkAwayAtStart},
		{"run ends with its context", checkEnd},
		{"a blocked emit keeps the order", checkOrder},
		{"a blocked emit hears the context", checkBlockedEnd},
		{"refused samples are not acknowledged", checkRefused},
		{"samples are acknowledged only when durable", checkLateDone},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.check(t, h); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no goroutine is left", func(t *testing.T) {
		if err := checkGoroutines(t, h); err != nil {
			t.Error(err)
		}
	})
}
