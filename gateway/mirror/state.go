package mirror

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"millrace/gateway/mirror/guard"
	"millrace/sample"
	"millrace/sample/result"
)

// state is what the mirror has to know after a restart. It is what the changes
// in the audit log's records add up to, and nothing else sets it.
type state struct {
	Targets map[string]*targetState `json:"targets"`
	// Cursors are the feeds' greatest cursors whose outcomes are durable.
	Cursors map[string]string `json:"cursors"`
}

// targetState is one target's part of it. That of a target which is not
// configured any more stays, so that its versions go on to rise if it comes back.
type targetState struct {
	Version  uint64    `json:"version"`            // the greatest that was attempted, or logged in a dry run
	Pending  *held     `json:"pending,omitempty"`  // accepted, and waiting for its turn
	Open     *intent   `json:"open,omitempty"`     // written perhaps, with no outcome yet
	Last     *applied  `json:"last,omitempty"`     // the last good value written
	Attempt  *moment   `json:"attempt,omitempty"`  // when a value was last written, or logged in a dry run
	Accepted *accepted `json:"accepted,omitempty"` // the last result that came through
	Arming   *arming   `json:"arming,omitempty"`   // what was commanded by hand
	Stale    bool      `json:"stale,omitempty"`
	// FellBack says that the fallback value was attempted since the target is stale.
	FellBack bool `json:"fell_back,omitempty"`
}

// held is a result that was accepted, whole.
type held struct {
	Feed    string    `json:"feed"`
	Message string    `json:"message"`
	Local   bool      `json:"local,omitempty"`
	Body    string    `json:"body"` // as it came: as JSON within JSON it would grow beyond result.MaxBytes
	At      time.Time `json:"at"`

	r    *result.Result
	sign guard.Signature
}

// intent is a write that may be under way.
type intent struct {
	ID       string    `json:"id,omitempty"`
	Version  uint64    `json:"version"` // 0: the fallback value
	Before   uint64    `json:"before"`  // targetState.Version before it
	Value    value     `json:"value"`
	Prepared value     `json:"prepared"` // as the device will hold it
	Quality  uint32    `json:"quality"`
	Computed time.Time `json:"computed"`
	Until    time.Time `json:"until"`
	Held     *held     `json:"held,omitempty"` // nil for the fallback value
}

// applied is a value that was written and read back.
type applied struct {
	Version  uint64    `json:"version"`
	Value    value     `json:"value"`
	Prepared value     `json:"prepared"`
	Quality  uint32    `json:"quality"`
	Computed time.Time `json:"computed"`
	Until    time.Time `json:"until"`
	At       time.Time `json:"at"`
}

// moment is an instant by the wall clock, and by the clock that is not stepped.
type moment struct {
	At    time.Time     `json:"at"`
	Boot  string        `json:"boot"`
	Since time.Duration `json:"since"` // since the start of Boot, ns
}

// accepted is when a result came through, and until when it may be used.
type accepted struct {
	moment
	Until time.Time     `json:"until"`
	Left  time.Duration `json:"left"` // of the validity then, ns
}

// arming is what was commanded by hand and is in force.
type arming struct {
	// Disarmed takes the target down to dry_run, whatever the configuration says.
	Disarmed bool `json:"disarmed,omitempty"`
	// Armed raises it for For from From on, whatever Disarmed says.
	Armed bool          `json:"armed,omitempty"`
	From  moment        `json:"from"`
	For   time.Duration `json:"for,omitempty"` // ns
	Until time.Time     `json:"until"`         // by the wall clock at From
	Who   string        `json:"who"`
}

// change is what one record does to the state of its target.
type change struct {
	Held     *held     `json:"held,omitempty"`     // becomes the pending one
	Drop     bool      `json:"drop,omitempty"`     // there is no pending one any more
	Intent   *intent   `json:"intent,omitempty"`   // becomes the open one, and its version is used up
	Close    bool      `json:"close,omitempty"`    // there is no open one any more
	Unuse    bool      `json:"unuse,omitempty"`    // with Close: nothing was sent, the version is not used up
	Version  uint64    `json:"version,omitempty"`  // is used up
	Last     *applied  `json:"last,omitempty"`     // the last good value
	Attempt  *moment   `json:"attempt,omitempty"`  // the shortest interval begins
	Accepted *accepted `json:"accepted,omitempty"` // a result came through
	Arming   *arming   `json:"arming,omitempty"`   // is in force
	NoArming bool      `json:"no_arming,omitempty"`
	Stale    *bool     `json:"stale,omitempty"`
}

// empty reports whether the change changes nothing.
func (c *change) empty() bool { return *c == change{} }

// apply does to the state what the record of a target and a feed says.
func (s *state) apply(target, feed, cursor string, c *change) {
	if cursor > s.Cursors[feed] {
		s.Cursors[feed] = cursor
	}
	if c.empty() {
		return
	}
	t := s.of(target)
	switch {
	case c.Drop:
		t.Pending = nil
	case c.Intent != nil:
		t.Open = c.Intent
		if c.Intent.Held == nil {
			t.FellBack = true
		} else {
			t.Version, t.Pending = c.Intent.Version, nil
		}
	case c.Close && t.Open != nil:
		if c.Unuse && t.Open.Held != nil {
			t.Version = t.Open.Before
		} else if c.Unuse {
			t.FellBack = false
		}
		t.Open = nil
	}
	if c.Held != nil {
		t.Pending = c.Held
	}
	t.Version = max(t.Version, c.Version)
	if c.Last != nil {
		t.Last = c.Last
	}
	if c.Attempt != nil {
		t.Attempt = c.Attempt
	}
	if c.Accepted != nil {
		t.Accepted = c.Accepted
	}
	if c.Arming != nil {
		t.Arming = c.Arming
	} else if c.NoArming {
		t.Arming = nil
	}
	if c.Stale != nil {
		t.Stale, t.FellBack = *c.Stale, t.FellBack && *c.Stale
	}
}

// of returns a target's state, which it makes where there is none.
func (s *state) of(target string) *targetState {
	t := s.Targets[target]
	if t == nil {
		t = &targetState{}
		s.Targets[target] = t
	}
	return t
}

func newState() *state {
	return &state{Targets: map[string]*targetState{}, Cursors: map[string]string{}}
}

// parseState reads a checkpoint; an empty one is that of a new log.
func parseState(raw json.RawMessage) (*state, error) {
	s := newState()
	if len(raw) == 0 || string(raw) == "null" {
		return s, nil
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("the checkpoint of the mirror's state: %w", err)
	}
	if s.Targets == nil {
		s.Targets = map[string]*targetState{}
	}
	if s.Cursors == nil {
		s.Cursors = map[string]string{}
	}
	return s, nil
}

// moment is now by both clocks.
func (m *Mirror) moment() moment {
	return moment{At: m.s.Clock.Now().UTC(), Boot: m.boot, Since: m.s.SinceBoot()}
}

// since is how long ago at was. After a reboot only the wall clock can say it:
// where that cannot be trusted, or shows less than nothing, it was just now.
func (m *Mirror) since(at *moment) time.Duration {
	if at.Boot == m.boot {
		return m.s.SinceBoot() - at.Since
	}
	if !m.s.Synchronised() {
		return 0
	}
	return max(0, m.s.Clock.Now().Sub(at.At))
}

func bootName(id [16]byte) string { return hex.EncodeToString(id[:]) }

// value is a sample.Value that JSON takes and gives back bit by bit.
type value struct{ sample.Value }

// MarshalJSON implements json.Marshaler: {"float64":"4044c00000000000"}, the
// bits in hexadecimal; {"int64":"-5"}, {"bool":true}, {"string":"eco"}.
func (v value) MarshalJSON() ([]byte, error) {
	var content any
	switch v.Kind() {
	case sample.Float64:
		content = fmt.Sprintf("%016x", v.Bits())
	case sample.Int64:
		content = strconv.FormatInt(v.Int(), 10)
	case sample.Bool:
		content = v.Bool()
	case sample.String:
		content = v.Str()
	case sample.Null:
		return []byte("null"), nil
	}
	return json.Marshal(map[string]any{v.Kind().String(): content})
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *value) UnmarshalJSON(data []byte) error {
	var o struct {
		Float64 *string `json:"float64"`
		Int64   *string `json:"int64"`
		Bool    *bool   `json:"bool"`
		String  *string `json:"string"`
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return err
	}
	switch {
	case o.Float64 != nil:
		bits, err := strconv.ParseUint(*o.Float64, 16, 64)
		v.Value = sample.FloatValue(math.Float64frombits(bits))
		return err
	case o.Int64 != nil:
		i, err := strconv.ParseInt(*o.Int64, 10, 64)
		v.Value = sample.IntValue(i)
		return err
	case o.Bool != nil:
		v.Value = sample.BoolValue(*o.Bool)
	case o.String != nil:
		v.Value = sample.StringValue(*o.String)
	}
	return nil
}
