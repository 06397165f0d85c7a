package ledger

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"millrace/sample"
)

// ClockName is the device and name part of the tag under which a gateway's
// correction records are delivered, after the site: "site/<gateway>/$clock".
const ClockName = "$clock"

// ClockTag returns the full tag name of a gateway's correction records.
func ClockTag(site, gateway string) string { return site + "/" + gateway + "/" + ClockName }

// ClockCause says why a correction record was made.
type ClockCause string

// The causes of a correction record.
const (
	ClockSynchronised ClockCause = "synchronised" // after samples went up with a clock that ran free
	ClockStepped      ClockCause = "step"         // the wall clock was set to another time
)

// slack is how far a reading of the monotonic clock that was got back from a
// sample's time may be off, in ns: times are cut to the millisecond, and are not
// moved for less than one.
const slack = int64(2 * time.Millisecond)

// Correction says what the time of samples is that went up before it was known.
// It is for samples of blocks with the same Boot, whose reading of the monotonic
// clock m, that is Time - Mono of the block's header, is between From and To,
// both included, give or take 2 ms: their right time is m + Offset. Where several records are for a
// sample, the one with the highest ID counts.
//
// It travels as the JSON text of a string sample.
type Correction struct {
	ID     uint64 // from 1, of the boot in the spool's epoch
	Epoch  string // 16 hexadecimal digits
	Boot   [16]byte
	Cause  ClockCause
	Offset int64 // right time less the monotonic clock, ns
	From   int64 // monotonic clock, ns
	To     int64
	Step   int64 // Offset less the offset in force before, ns
}

// correctionText is the JSON form: ns are beyond 2^53, so they are text.
type correctionText struct {
	ID     uint64     `json:"id"`
	Epoch  string     `json:"epoch"`
	Boot   string     `json:"boot"`
	Cause  ClockCause `json:"cause"`
	Offset int64      `json:"offset_ns,string"`
	From   int64      `json:"from_mono_ns,string"`
	To     int64      `json:"to_mono_ns,string"`
	Step   int64      `json:"step_ns,string"`
}

// Sample returns the record as a sample taken at now. Its producer and sequence
// make one of it, however often it is delivered.
func (c *Correction) Sample(tag string, now time.Time) (sample.Sample, error) {
	boot := hex.EncodeToString(c.Boot[:])
	text, err := json.Marshal(correctionText{c.ID, c.Epoch, boot, c.Cause, c.Offset, c.From, c.To, c.Step})
	if err != nil {
		return sample.Sample{}, fmt.Errorf("encode correction record %d: %w", c.ID, err)
	}
	return sample.Sample{
		Tag: tag, Value: sample.StringValue(string(text)), Time: now.UnixNano(),
		Producer: "clock/" + c.Epoch + "/" + boot, Seq: c.ID,
	}, nil
}

// ParseCorrection reads a correction record back from a delivered sample.
func ParseCorrection(s *sample.Sample) (*Correction, error) {
	if s.Value.Kind() != sample.String {
		return nil, fmt.Errorf("correction record of %s is a %s, not a string", s.Tag, s.Value.Kind())
	}
	var t correctionText
	if err := json.Unmarshal([]byte(s.Value.Str()), &t); err != nil {
		return nil, fmt.Errorf("correction record of %s: %w", s.Tag, err)
	}
	c := &Correction{ID: t.ID, Epoch: t.Epoch, Cause: t.Cause, Offset: t.Offset, From: t.From, To: t.To, Step: t.Step}
	boot, err := hex.DecodeString(t.Boot)
	if err != nil || len(boot) != len(c.Boot) {
		return nil, fmt.Errorf("correction record of %s: boot %q is not 32 hexadecimal digits", s.Tag, t.Boot)
	}
	copy(c.Boot[:], boot)
	return c, nil
}

// Correct returns the right time, in ns, of a sample of a block with these Boot
// and Mono that went up with the given time of the gateway's clock; ok reports
// whether the record is for that sample. A sample's source time is the device's
// and stays as it is.
func (c *Correction) Correct(boot [16]byte, mono, at int64) (right int64, ok bool) {
	if boot != c.Boot || boot == ([16]byte{}) {
		return at, false
	}
	m := at - mono
	if m < c.From-slack || m > c.To+slack {
		return at, false
	}
	if c.Offset > 0 && m > math.MaxInt64-c.Offset {
		return at, false
	}
	return m + c.Offset, true
}
