package mirror

import (
	"encoding/json"
	"maps"
	"time"

	"millrace/gateway/mirror/guard"
	"millrace/sample"
)

// Status is what the mirror shows of itself.
type Status struct {
	Audit   AuditStatus    `json:"audit"`
	Feeds   []FeedStatus   `json:"feeds"`
	Targets []TargetStatus `json:"targets"` // in the order of the configuration
}

// AuditStatus is the audit log's state.
type AuditStatus struct {
	Records uint64 `json:"records"` // the number of the last record
	Hash    string `json:"hash"`    // of the last record
	// Error says why nothing can be recorded, and so nothing is written.
	Error string `json:"error,omitempty"`
}

// FeedStatus is one feed's state. Counts are since the start.
type FeedStatus struct {
	Name      string `json:"name"`
	Received  uint64 `json:"received"`  // messages
	Malformed uint64 `json:"malformed"` // of these, what was no result
	Strange   uint64 `json:"strange"`   // of these, results for no target of this feed
	Errors    uint64 `json:"errors"`    // failed calls
	// LastReceive is when the feed last answered; LastMessage when it last
	// brought a message.
	LastReceive *time.Time `json:"last_receive,omitempty"`
	LastMessage *time.Time `json:"last_message,omitempty"`
	Error       string     `json:"error,omitempty"` // of the last call, if it failed
}

// TargetStatus is one target's state. Counts are since the start.
type TargetStatus struct {
	Name       string     `json:"name"`
	Class      Class      `json:"class"`
	Configured guard.Mode `json:"configured"` // the mode that the configuration names
	Mode       guard.Mode `json:"mode"`       // the mode now
	ArmedUntil *time.Time `json:"armed_until,omitempty"`
	// By is who armed or disarmed it by hand, where that is in force.
	By       string       `json:"by,omitempty"`
	Disarmed bool         `json:"disarmed,omitempty"` // by hand, though the configuration arms it
	Stale    bool         `json:"stale,omitempty"`
	Last     *LastApplied `json:"last,omitempty"`    // what was written last, and read back
	Version  uint64       `json:"version"`           // the greatest that was accepted or attempted
	Pending  *Pending     `json:"pending,omitempty"` // accepted, and not yet written
	Outcome  *LastOutcome `json:"outcome,omitempty"` // of the newest result
	// Unverified says that the last write did not read back. What is refused after
	// it changes nothing of that.
	Unverified bool `json:"unverified,omitempty"`
	// Outcomes counts results by their outcome, Refused those that were refused
	// by their reason.
	Outcomes map[string]uint64 `json:"outcomes"`
	Refused  map[string]uint64 `json:"refused"`
}

// LastApplied is a value that stands at the device.
type LastApplied struct {
	Version    uint64    `json:"version"` // 0: the fallback value
	Value      Value     `json:"value"`
	Time       time.Time `json:"time"`
	ValidUntil time.Time `json:"valid_until"`
}

// Pending is a result that waits for its turn.
type Pending struct {
	ID      string    `json:"id"`
	Version uint64    `json:"version"`
	Value   Value     `json:"value"`
	Since   time.Time `json:"since"`
	// Why is "interval", "device" (which is away) or "busy".
	Why string `json:"why"`
}

// LastOutcome is what became of a result.
type LastOutcome struct {
	Outcome Outcome   `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	Detail  string    `json:"detail,omitempty"`
	ID      string    `json:"id,omitempty"`
	Version uint64    `json:"version,omitempty"`
	Time    time.Time `json:"time"`
}

// Value is a value that reads naturally in JSON: a number, a bool or a string.
type Value struct{ sample.Value }

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) {
	switch v.Kind() {
	case sample.Float64:
		return json.Marshal(v.Float())
	case sample.Int64:
		return json.Marshal(v.Int())
	case sample.Bool:
		return json.Marshal(v.Bool())
	case sample.String:
		return json.Marshal(v.Str())
	case sample.Null:
	}
	return []byte("null"), nil
}

// Outcome is what became of a result, as one word. The words stand in the audit
// log and in the status samples, and are never renamed.
type Outcome string

// The outcomes.
const (
	Written     Outcome = "written"      // and read back
	Unverified  Outcome = "unverified"   // written perhaps: reading back did not show it
	DryRun      Outcome = "dry_run"      // all but written
	Refused     Outcome = "refused"      // by a guard
	Malformed   Outcome = "malformed"    // no result at all
	Superseded  Outcome = "superseded"   // a newer one came while it waited
	ExpiredHeld Outcome = "expired_held" // it was accepted, and its time was over before its turn
	Unsuited    Outcome = "unsuited"     // the device's type, range or rights do not take it
	Unsent      Outcome = "unsent"       // the device is away; it waits
	Rejected    Outcome = "rejected"     // the device said no
)

// Outcomes lists all of them.
func Outcomes() []Outcome {
	return []Outcome{Written, Unverified, DryRun, Refused, Malformed, Superseded, ExpiredHeld, Unsuited, Unsent, Rejected}
}

// Status shows the mirror's state.
func (m *Mirror) Status() Status {
	s := Status{Feeds: []FeedStatus{}, Targets: []TargetStatus{}}
	if m.journal != nil {
		s.Audit.Records, s.Audit.Hash = m.journal.Head()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.auditErr != nil {
		s.Audit.Error = oneLine(m.auditErr)
	}
	for _, f := range m.feeds {
		one := f.status
		one.Name = f.name
		s.Feeds = append(s.Feeds, one)
	}
	for _, t := range m.targets {
		s.Targets = append(s.Targets, m.targetStatus(t))
	}
	return s
}

// targetStatus shows one target. Callers hold mu.
func (m *Mirror) targetStatus(t *target) TargetStatus {
	s := TargetStatus{
		Name: t.cfg.Name, Class: t.cfg.Class, Configured: t.cfg.Mode, Mode: m.mode(t), Outcome: t.outcome, Unverified: t.unverified,
		Outcomes: maps.Clone(t.outcomes), Refused: maps.Clone(t.refused),
	}
	st := m.state.Targets[t.cfg.Name]
	if st == nil {
		return s
	}
	s.Stale, s.Version = st.Stale, st.Version
	if a := st.Arming; a != nil {
		s.By, s.Disarmed = a.Who, a.Disarmed && s.Mode != guard.Armed
		if s.Mode == guard.Armed && a.Armed {
			until := m.s.Clock.Now().UTC().Add(a.For - (m.s.SinceBoot() - a.From.Since))
			s.ArmedUntil = &until
		}
	}
	if l := st.Last; l != nil {
		s.Last = &LastApplied{Version: l.Version, Value: Value{l.Value.Value}, Time: l.At, ValidUntil: l.Until}
	}
	if p := st.Pending; p != nil && p.r != nil {
		s.Pending = &Pending{ID: p.r.ID, Version: p.r.Version, Value: Value{p.r.Value}, Since: p.At, Why: "busy"}
		if t.away {
			s.Pending.Why = "device"
		} else if st.Attempt != nil && m.since(st.Attempt) < t.cfg.MinInterval {
			s.Pending.Why = "interval"
		}
	}
	return s
}
