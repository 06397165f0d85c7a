package uploader

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// remindEvery is how often a held delivery is logged.
const remindEvery = time.Minute

// State is how a loop fares.
type State string

// The states of a loop.
const (
	StateIdle    State = "idle"    // nothing was sent yet
	StateUp      State = "up"      // the last request delivered
	StateRetry   State = "retry"   // the endpoint fails; blocks are kept and tried again
	StateHeld    State = "held"    // an operator has to mend something; everything is kept
	StateBlocked State = "blocked" // the queue cannot be read
)

// Stats are a loop's counters since it was built.
type Stats struct {
	Blocks   uint64 `json:"blocks"`     // delivered
	Samples  uint64 `json:"samples"`    // in the blocks delivered
	Bytes    uint64 `json:"bytes"`      // packed bytes of the blocks delivered
	Sent     uint64 `json:"sent_bytes"` // of all requests, as the sink counts them, retries included
	Requests uint64 `json:"requests"`
	Retries  uint64 `json:"retries"` // blocks sent again
	Buried   uint64 `json:"buried"`  // blocks refused for good
	// LastDelivery is the time of the last positive answer; zero before it.
	LastDelivery time.Time `json:"last_delivery,omitzero"`
	State        State     `json:"state"`
	LastError    string    `json:"last_error,omitempty"` // of State, empty when it is up or idle
	// Lanes are live and backlog.
	Lanes map[Lane]LaneStats `json:"lanes"`
}

// observer counts, and tells Health of changes.
type observer struct {
	health Health
	log    *slog.Logger
	every  time.Duration // between two lines while a delivery is held

	mu       sync.Mutex
	lanes    map[Lane]*laneCounts
	stats    Stats
	last     error
	kind     string    // of the error that Health was told of
	held     error     // why deliveries are held
	reminded time.Time // when Health was told, or the log since
}

func (o *observer) snapshot() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	if s.State == "" {
		s.State = StateIdle
	}
	s.Lanes = make(map[Lane]LaneStats, len(o.lanes))
	now := time.Now()
	for name, c := range o.lanes {
		s.Lanes[name] = c.stats(now)
	}
	return s
}

func (o *observer) lastError() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

func (o *observer) started(r *request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.Requests++
	o.stats.Sent += uint64(r.size)
	for _, it := range r.items {
		if it.tries > 0 {
			o.stats.Retries++
		}
	}
}

// delivered counts a block; wait is the time since its seal, where it is known.
func (o *observer) delivered(it *item, name Lane, now time.Time, wait time.Duration, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l := o.lanes[name]
	l.blocks++
	l.samples += uint64(max(it.block.Header.Count, 0))
	l.bytes += uint64(len(it.block.Data))
	if known {
		l.latency.Observe(now, wait)
	}
	o.stats.Blocks++
	o.stats.Samples += uint64(max(it.block.Header.Count, 0))
	o.stats.Bytes += uint64(len(it.block.Data))
	o.stats.LastDelivery = now
}

func (o *observer) buried(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stats.Buried++
	o.last = err
}

// outcome derives the state from how many requests in a row delivered nothing,
// how many blocks wait for an operator, and this request's errors. One failed
// request is no outage: the sink is down after two, or at once when held.
func (o *observer) outcome(fails, holding int, faults []error) {
	var held, other error
	for _, err := range faults {
		switch Classify(err) {
		case Hold:
			held = err
		case Shutdown:
		default:
			other = err
		}
	}
	o.mu.Lock()
	if held == nil && fails == 0 && holding > 0 {
		held = o.held // a block parked earlier still waits
	}
	switch {
	case held != nil && fails == 0:
		held = partly(held)
		o.change(StateHeld, held)
	case held != nil:
		o.change(StateHeld, held)
	case fails >= 2 && other != nil:
		o.change(StateRetry, other)
	case fails == 0:
		o.change(StateUp, nil)
	}
	o.mu.Unlock()
}

// partlyError is a hold that concerns some blocks only.
type partlyError struct{ error }

func (e partlyError) Error() string { return "partly held: " + e.error.Error() }
func (e partlyError) Unwrap() error { return e.error }

func partly(err error) error {
	var p partlyError
	if errors.As(err, &p) {
		return err
	}
	return partlyError{err}
}

// change notes a state and its error, and tells Health where it changed. Errors
// that take turns within one state, as those of two missing tables do, are told
// once a minute at most, in place of a reminder. The caller holds mu.
func (o *observer) change(s State, err error) {
	text, kind := "", ""
	if err != nil {
		text, kind = err.Error(), errorKind(err)
		o.last = err
	}
	o.held = nil
	if s == StateHeld {
		o.held = err
	}
	now := time.Now()
	same := s == o.stats.State && (kind == o.kind || now.Sub(o.reminded) < o.every)
	o.stats.State, o.stats.LastError = s, text
	if same {
		return
	}
	o.kind, o.reminded = kind, now
	if err == nil {
		o.health.Up()
		return
	}
	o.health.Down(err)
}

// errorKind is what two errors have in common that differ only in their
// details, such as a request's number or the time of day.
func errorKind(err error) string {
	var se *SendError
	if errors.As(err, &se) {
		return strings.Join([]string{se.Class.String(), se.Op, se.Object, se.Hint}, "\n")
	}
	return err.Error()
}

// queueRead notes whether the queue could be read.
func (o *observer) queueRead(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.change(StateBlocked, fmt.Errorf("read the spool: %w; look at the daemon's messages on the spool and the disk", err))
		return
	}
	if o.stats.State == StateBlocked {
		o.change(StateIdle, nil)
	}
}

// remind logs, once a minute, that deliveries are held and what to do.
func (o *observer) remind(now time.Time, blocks int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held == nil || now.Sub(o.reminded) < o.every {
		return
	}
	o.reminded = now
	o.log.Warn("delivery is held, nothing is lost", "error", o.held.Error(), "at_hand", blocks)
}
