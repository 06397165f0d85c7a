package mirror

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// settled shows what was recorded: in the counts, by a status sample, in the log.
func (m *Mirror) settled(entries ...*entry) {
	for _, e := range entries {
		t := m.byName[e.target]
		if t == nil {
			if e.outcome != "" {
				m.said.say(slog.LevelWarn, string(e.outcome)+e.reason, "a result was "+e.text(), "feed", e.feed, "message", e.message)
			}
			continue
		}
		if e.outcome == "" {
			t.logChange(e)
			continue
		}
		t.count(e)
		m.s.Status(e.target, m.statusSample(e))
		t.logOutcome(e)
	}
}

func (t *target) count(e *entry) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.outcomes[string(e.outcome)]++
	if e.outcome == Refused {
		t.refused[e.reason]++
	}
	switch e.outcome {
	case Unverified:
		t.unverified = true
	case Written:
		t.unverified = false
	case DryRun, Refused, Malformed, Superseded, ExpiredHeld, Unsuited, Unsent, Rejected: // the device stays as it is
	}
	t.outcome = &LastOutcome{Outcome: e.outcome, Reason: e.reason, Detail: e.detail, ID: e.id, Version: e.version, Time: e.at}
}

// maxStatusText bounds a text value in a status sample, in bytes.
const maxStatusText = 256

// statusSample is an outcome as it goes to the cloud. Whole numbers beyond 2^53
// are strings, which no JSON parser rounds.
func (m *Mirror) statusSample(e *entry) sample.Sample {
	o := struct {
		Outcome Outcome `json:"outcome"`
		Reason  string  `json:"reason,omitempty"`
		ID      string  `json:"id,omitempty"`
		Version any     `json:"version,omitempty"`
		Value   any     `json:"value,omitempty"`
		N       uint64  `json:"n"`
		Hash    string  `json:"hash"`
	}{Outcome: e.outcome, Reason: e.reason, ID: e.id, N: e.n, Hash: e.hash}
	if e.version > 0 {
		o.Version = json.RawMessage(sample.AppendJSONUint(nil, e.version))
	}
	if e.new != nil {
		switch v := *e.new; v.Kind() {
		case sample.String:
			o.Value = strings.ToValidUTF8(shorten(v.Str(), maxStatusText), "")
		case sample.Int64:
			o.Value = json.RawMessage(sample.AppendJSONInt(nil, v.Int()))
		case sample.Null, sample.Float64, sample.Bool:
			o.Value = Value{v}
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		panic("BUG: a status cannot be JSON: " + err.Error())
	}
	q := sample.Good
	if e.outcome == Unverified {
		q = sample.Uncertain
	}
	return sample.Sample{
		Tag: m.s.Site + "/mirror/" + e.target + "/status", Value: sample.StringValue(string(text)), Quality: q, Time: e.at.UnixNano(),
	}
}

// text says an outcome in words.
func (e *entry) text() string {
	what := string(e.outcome)
	if e.reason != "" {
		what += " (" + e.reason + ")"
	}
	if e.detail != "" {
		what += ": " + e.detail
	}
	return what
}

func (t *target) logChange(e *entry) {
	switch e.kind {
	case kindArm:
		t.log.Warn(fmt.Sprintf("mirror target %s is armed %s", t.cfg.Name, e.detail), "by", e.who)
	case kindDisarm:
		t.log.Warn(fmt.Sprintf("mirror target %s is disarmed", t.cfg.Name), "by", e.who)
	case kindArmedEnd:
		t.log.Warn(fmt.Sprintf("mirror target %s is not armed any more: %s", t.cfg.Name, e.detail), "by", e.who)
	case kindStale:
		t.log.Warn(fmt.Sprintf("mirror target %s is stale: %s", t.cfg.Name, e.detail))
	case kindFresh:
		t.log.Info(fmt.Sprintf("mirror target %s is fresh again: %s", t.cfg.Name, e.detail))
	}
}

// logOutcome makes a line of what is new: a good outcome after another one, and
// each other outcome with its count once a minute.
func (t *target) logOutcome(e *entry) {
	t.m.mu.Lock()
	before := t.logged
	t.logged = e.outcome
	t.m.mu.Unlock()
	what := fmt.Sprintf("mirror target %s: ", t.cfg.Name)
	if e.kind == kindFallback {
		what += "fallback value "
	} else {
		what += fmt.Sprintf("version %d ", e.version)
	}
	what += e.text()
	switch e.outcome {
	case Superseded:
	case Written, DryRun:
		if before != e.outcome {
			t.said.say(slog.LevelInfo, string(e.outcome), what, "id", e.id)
		}
	case Unverified, Rejected, Unsuited:
		t.said.say(slog.LevelError, string(e.outcome), what, "id", e.id)
	case Refused, Malformed, ExpiredHeld, Unsent:
		t.said.say(slog.LevelWarn, string(e.outcome)+e.reason, what, "id", e.id)
	}
}

// sayEvery is how often the same is said again.
const sayEvery = time.Minute

// sayer logs the same at most once a minute, with how often it was. It is safe
// for concurrent use.
type sayer struct {
	log *slog.Logger
	mu  sync.Mutex
	all map[string]*saying // by outcome and reason, of which there are few
}

type saying struct {
	level slog.Level
	last  time.Time
	text  string
	args  []any
	more  int // since last
}

func newSayer(log *slog.Logger) *sayer { return &sayer{log: log, all: map[string]*saying{}} }

func (s *sayer) say(level slog.Level, key, text string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[key]
	if one == nil {
		one = &saying{level: level}
		s.all[key] = one
	}
	one.text, one.args = text, args
	one.more++
	s.out(one)
}

// flush says what was counted a minute ago or longer.
func (s *sayer) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		if one.more > 0 {
			s.out(one)
		}
	}
}

// out logs one, if its minute is over. Callers hold mu.
func (s *sayer) out(one *saying) {
	now := time.Now()
	if !one.last.IsZero() && now.Sub(one.last) < sayEvery {
		return
	}
	args := one.args
	if one.more > 1 {
		args = append(args[:len(args):len(args)], "times", one.more)
	}
	s.log.Log(nil, one.level, one.text, args...) //nolint:staticcheck // no context belongs to it
	one.last, one.more = now, 0
}

// targetHealth shows the worse of what a target says of its device and what the
// mirror says of the target.
type targetHealth struct {
	protocols.Health

	mu     sync.Mutex
	told   bool  // the target has said anything
	device error // what it said last; nil is up
	mirror error // why the mirror is not content
}

// Up implements protocols.Health.
func (h *targetHealth) Up() { h.set(func() { h.told, h.device = true, nil }) }

// Down implements protocols.Health.
func (h *targetHealth) Down(err error) { h.set(func() { h.told, h.device = true, err }) }

func (h *targetHealth) mirrorUp() { h.set(func() { h.told, h.mirror = true, nil }) }

func (h *targetHealth) mirrorDown(err error) { h.set(func() { h.mirror = err }) }

func (h *targetHealth) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	switch {
	case h.mirror != nil:
		h.Health.Down(h.mirror)
	case h.device != nil:
		h.Health.Down(h.device)
	case h.told:
		h.Health.Up()
	}
}

// oneLine puts an error on one line.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
