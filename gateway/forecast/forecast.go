// Package forecast says how long the spool's room lasts at the present rate, and
// when that is worth a line in the log. It looks at no clock and at no disk:
// whoever observes hands both in.
package forecast

import (
	"fmt"
	"math"
	"time"
)

const (
	// window is how long observations are kept: the inflow is smoothed over all
	// of it, since batches come in bursts, up to an hour apart.
	window = 30 * time.Minute
	// recent is how far the outflow looks back: it changes when a sink does.
	recent = 5 * time.Minute
	// least is how long must have been observed before anything is said.
	least = 2 * time.Minute
	// every is how close observations may be.
	every = 10 * time.Second
	// longest is beyond what anything is foretold.
	longest = 365 * 24 * time.Hour
)

// Observation is the spool at one moment, in bytes on the disk.
type Observation struct {
	At time.Time
	// Stored is all that was ever stored for the sinks, rising.
	Stored uint64
	// Waiting is what the sink that is furthest behind does not have yet.
	Waiting int64
	// Room is how much more may wait before the bound's policy sets in.
	Room int64
	// Stalled says that this sink takes nothing now.
	Stalled bool
}

// State is which way the spool goes.
type State string

// The states.
const (
	Unknown  State = "unknown"  // too little was observed yet
	Steady   State = "steady"   // what comes in goes out
	Filling  State = "filling"  // more comes in
	Draining State = "draining" // more goes out
	Full     State = "full"     // there is no room; the policy has set in
)

// Forecast is what may be expected. Rates are in bytes on the disk a second.
type Forecast struct {
	State State   `json:"state"`
	In    float64 `json:"in_bytes_per_second"`
	Out   float64 `json:"out_bytes_per_second"`
	// Left is the time until the spool is full where it is filling, and until
	// the backlog is gone where it is draining; else 0. A year stands for more.
	Left time.Duration `json:"left_ns"`
	// Text says it in words: "41 h at the present rate".
	Text string `json:"text"`
}

// Tracker keeps the observations of the last half hour. It is for one goroutine.
type Tracker struct {
	seen []Observation
}

// Observe takes note of a moment. A step of the clock or of a counter starts
// the tracking anew.
func (t *Tracker) Observe(o Observation) {
	if n := len(t.seen); n > 0 {
		last := t.seen[n-1]
		d := o.At.Sub(last.At)
		if d < 0 || d > window || o.Stored < last.Stored {
			t.seen = t.seen[:0]
		} else if d < every && n > 1 && last.At.Sub(t.seen[n-2].At) < every {
			t.seen = t.seen[:n-1] // the last one is only kept up to date
		}
	}
	t.seen = append(t.seen, o)
	old := 0
	for old < len(t.seen)-1 && o.At.Sub(t.seen[old].At) > window {
		old++
	}
	t.seen = append(t.seen[:0], t.seen[old:]...)
}

// Forecast looks ahead from the last observation.
func (t *Tracker) Forecast() Forecast { return Ahead(t.seen) }

// Ahead looks ahead from observations, which rise in time.
func Ahead(seen []Observation) Forecast {
	f := Forecast{State: Unknown, Text: "not known yet"}
	if len(seen) == 0 {
		return f
	}
	first, last := seen[0], seen[len(seen)-1]
	if last.Room <= 0 {
		f.State, f.Text = Full, "full"
	}
	span := last.At.Sub(first.At)
	if span < least {
		return f
	}
	f.In = float64(last.Stored-first.Stored) / span.Seconds()
	from := since(seen, last.At.Add(-recent))
	near := last.At.Sub(from.At).Seconds()
	if !last.Stalled && near > 0 {
		left := float64(last.Stored-from.Stored) - float64(last.Waiting-from.Waiting)
		f.Out = max(left, 0) / near
	}
	if f.State == Full {
		return f
	}
	net := f.In - f.Out
	grown := float64(last.Waiting - from.Waiting)
	// What waits goes up and down by a batch at a time. It is a trend once it is
	// a tenth of the flow, and a minute's worth of it.
	trend := math.Abs(net) > 0.1*max(f.In, f.Out) && math.Abs(grown) >= 60*math.Abs(net)
	switch {
	case net > 0 && (last.Stalled || trend && grown > 0):
		f.State, f.Left = Filling, ahead(float64(last.Room)/net)
		f.Text = "full in " + Span(f.Left) + " at the present rate"
	case net < 0 && trend && grown < 0 && last.Waiting > 0:
		f.State, f.Left = Draining, ahead(float64(last.Waiting)/-net)
		f.Text = "the backlog is gone in " + Span(f.Left) + " at the present rate"
	default:
		f.State, f.Text = Steady, "not filling"
	}
	return f
}

// since returns the newest observation that is not after a time, or the first.
func since(seen []Observation, at time.Time) Observation {
	out := seen[0]
	for _, o := range seen {
		if o.At.After(at) {
			break
		}
		out = o
	}
	return out
}

func ahead(seconds float64) time.Duration {
	if seconds > longest.Seconds() {
		return longest
	}
	return time.Duration(seconds * float64(time.Second))
}

// Span writes a duration as a person would say it: "50 min", "41 h", "12 days".
func Span(d time.Duration) string {
	switch {
	case d >= longest:
		return "more than a year"
	case d < time.Minute:
		return "less than a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 72*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
