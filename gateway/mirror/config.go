package mirror

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"millrace/feeds"
	"millrace/gateway/mirror/guard"
	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
	"millrace/uploader"
)

// Class is what a target is to the SCADA side.
type Class string

// The classes.
const (
	// MirrorTag is a tag that the SCADA logic chooses to use, or not.
	MirrorTag Class = "mirror_tag"
	// Setpoint is written where a control loop takes it from. It needs limits and signatures.
	Setpoint Class = "setpoint"
)

// WhenStale is what becomes of a target when results stop.
type WhenStale string

// The ways.
const (
	Mark          WhenStale = "mark"     // the target's validity is taken back
	HoldValue     WhenStale = "hold"     // the last value stays as it is
	WriteFallback WhenStale = "fallback" // the fallback value is written
)

// Config is what the configuration says of the mirror. Its keys are
// documented in docs/configuration.md.
type Config struct {
	Keys map[string]ed25519.PublicKey // by the name that a signature gives
	// SignatureRequired refuses results that are not signed, for every target. A
	// setpoint refuses them in any case.
	SignatureRequired bool
	AuditKeep         int // files of the audit log that are kept; 0: all
	Feeds             []Feed
	Targets           []Target
}

// Feed is one feed of results.
type Feed struct {
	Name   string // unique
	Config feeds.Config
}

// Target is one place that results are written to.
type Target struct {
	Name  string // unique
	Class Class
	Mode  guard.Mode
	Feeds []string // from which it takes results

	Type         sample.Kind
	Unit         string
	Min, Max     *float64 // inclusive; nil: none
	MaxStep      *float64 // nil: any step
	Clamp        bool
	MinInterval  time.Duration // between two writes; 0: none
	MaxAge       time.Duration // of a computation; 0: any
	StaleAfter   time.Duration // without an accepted result; 0: only valid_until counts
	WhenStale    WhenStale
	Fallback     *sample.Value // of WriteFallback
	Enable       string        // a tag that must read true; empty: none
	VerifyWithin time.Duration // time limit of reading back; 0 reads once
	Heartbeat    time.Duration // between two heartbeats while armed; 0: none
	// Open opens the target. It is not called where the mode is off.
	Open func(h protocols.Health) (protocols.Target, error)
}

// Settings come from code, not from the configuration.
type Settings struct {
	Site    string
	Gateway string
	Dir     string // of the audit log
	Log     *slog.Logger
	// Clock shows the right time as the gateway knows it, and Synchronised says
	// whether that can be trusted.
	Clock        clock.Clock
	Synchronised func() bool
	// SinceBoot is a clock that is never stepped, and Boot names its run.
	SinceBoot func() time.Duration
	Boot      [16]byte
	// Health makes what hears how a part fares, once for each: "feed/<name>",
	// "target/<name>" and "audit". Each beats at least every BeatEvery, but a
	// feed's within a long poll of 20 s.
	Health func(name string) protocols.Health
	// Latest returns the newest reading of one of the gateway's own tags, Bad
	// where it is too old, and false before the first.
	Latest func(tag string) (protocols.Reading, bool)
	// Status takes a status sample of a target. It must not block.
	Status func(target string, s sample.Sample)
	// Dial connects feeds to their endpoints; nil is a net.Dialer.
	Dial uploader.Dial
	// Step is called between any two steps of the engine, with the step's name
	// (see Steps), and is nil but in tests, which stop the world there.
	Step func(name string)
}

// BeatEvery is how often a part of the mirror says that it lives.
const BeatEvery = 10 * time.Second

// Configured is the duration for which Arm gives a target back the mode that
// the configuration names: without end.
const Configured time.Duration = 0

// MaxArming is the longest time for which a target can be armed by hand.
const MaxArming = 24 * time.Hour

// check reports what would make the mirror unsafe or break it. The gateway's
// configuration says the same earlier, with lines and hints.
func (c *Config) check() error {
	feedNames, names := map[string]bool{}, map[string]bool{}
	for _, f := range c.Feeds {
		if f.Name == "" || feedNames[f.Name] {
			return fmt.Errorf("mirror: the feed name %q is empty or there twice", f.Name)
		}
		feedNames[f.Name] = true
	}
	for i := range c.Targets {
		t := &c.Targets[i]
		if t.Name == "" || names[t.Name] {
			return fmt.Errorf("mirror: the target name %q is empty or there twice", t.Name)
		}
		names[t.Name] = true
		for _, f := range t.Feeds {
			if !feedNames[f] {
				return fmt.Errorf("mirror target %s: there is no feed %q", t.Name, f)
			}
		}
		if err := t.check(); err != nil {
			return fmt.Errorf("mirror target %s: %w", t.Name, err)
		}
	}
	return nil
}

func (t *Target) check() error {
	for _, b := range []*float64{t.Min, t.Max, t.MaxStep} {
		if b != nil && (math.IsNaN(*b) || math.IsInf(*b, 0)) {
			return errors.New("min, max and max_step have to be finite numbers")
		}
	}
	numeric := t.Type == sample.Float64 || t.Type == sample.Int64
	switch {
	case !slices.Contains([]guard.Mode{guard.Off, guard.DryRun, guard.Armed}, t.Mode):
		return fmt.Errorf("there is no mode %q", t.Mode)
	case !numeric && t.Type != sample.Bool && t.Type != sample.String:
		return fmt.Errorf("a target cannot be of type %s", t.Type)
	case t.Min != nil && t.Max != nil && *t.Min > *t.Max:
		return errors.New("min is above max")
	case t.MaxStep != nil && *t.MaxStep < 0:
		return errors.New("max_step is negative")
	case t.Class == Setpoint && numeric && (t.Min == nil || t.Max == nil || t.MaxStep == nil):
		return errors.New("a setpoint needs min, max and max_step")
	case t.Class == Setpoint && t.MaxAge <= 0:
		return errors.New("a setpoint needs max_age")
	case t.WhenStale == WriteFallback && (t.Fallback == nil || t.Fallback.Kind() != t.Type):
		return fmt.Errorf("when_stale: fallback needs a fallback value of type %s", t.Type)
	case t.Mode != guard.Off && t.Open == nil:
		return errors.New("BUG: it has no way to be opened")
	}
	return nil
}
