package forecast

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// flow makes observations every ten seconds: in and out in bytes a second, with
// what comes in stored once a minute, as batches are.
type flow struct {
	length  time.Duration
	in, out float64
	stalled bool
}

const bound = 1_000_000_000

func observe(flows ...flow) (seen []Observation) {
	t := &Tracker{}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	stored, due, waiting := 0.0, 0.0, 0.0
	n := 0
	for _, f := range flows {
		for range int(f.length / every) {
			if n%6 == 0 {
				stored, waiting, due = stored+due, waiting+due, 0
			}
			n++
			t.Observe(Observation{At: at, Stored: uint64(stored), Waiting: int64(waiting), Room: bound - int64(waiting), Stalled: f.stalled})
			at = at.Add(every)
			due += f.in * every.Seconds()
			waiting = max(waiting-f.out*every.Seconds(), 0)
		}
	}
	return t.seen
}

func TestAhead(t *testing.T) {
	for name, c := range map[string]struct {
		flows    []flow
		state    State
		min, max time.Duration
		text     string
	}{
		"nothing seen":             {nil, Unknown, 0, 0, "not known yet"},
		"a minute seen":            {[]flow{{length: time.Minute, in: 1000}}, Unknown, 0, 0, "not known yet"},
		"nothing comes":            {[]flow{{length: time.Hour}}, Steady, 0, 0, "not filling"},
		"in and out alike":         {[]flow{{length: 2 * time.Hour, in: 1000, out: 5000}}, Steady, 0, 0, "not filling"},
		"an outage from the start": {[]flow{{length: 10 * time.Minute, in: 10_000, stalled: true}}, Filling, 27 * time.Hour, 32 * time.Hour, "h at the present rate"},
		"an outage, at once": {[]flow{{length: time.Hour, in: 10_000, out: 50_000}, {length: time.Minute, in: 10_000, stalled: true}},
			Filling, 26 * time.Hour, 29 * time.Hour, "full in 2"},
		"an outage of an hour": {[]flow{{length: time.Hour, in: 10_000, out: 50_000}, {length: time.Hour, in: 10_000, stalled: true}},
			Filling, 25 * time.Hour, 28 * time.Hour, "h at the present rate"},
		"too slow a line":            {[]flow{{length: time.Hour, in: 10_000, out: 5_000}}, Filling, 50 * time.Hour, 60 * time.Hour, "h at the present rate"},
		"draining":                   {[]flow{{length: time.Hour, in: 10_000, stalled: true}, {length: 10 * time.Minute, in: 10_000, out: 20_000}}, Draining, 40 * time.Minute, time.Hour, "the backlog is gone in"},
		"drained":                    {[]flow{{length: time.Hour, in: 10_000, stalled: true}, {length: 2 * time.Hour, in: 10_000, out: 50_000}}, Steady, 0, 0, "not filling"},
		"nearly for ever":            {[]flow{{length: time.Hour, in: 1, stalled: true}}, Filling, longest, longest, "full in more than a year"},
		"full":                       {[]flow{{length: time.Hour, in: 1_000_000, stalled: true}}, Full, 0, 0, "full"},
		"stalled, and nothing comes": {[]flow{{length: time.Hour, stalled: true}}, Steady, 0, 0, "not filling"},
	} {
		f := Ahead(observe(c.flows...))
		if f.State != c.state || f.Left < c.min || f.Left > c.max || !strings.Contains(f.Text, c.text) {
			t.Errorf("%s: %+v, want %s within %s to %s, %q", name, f, c.state, c.min, c.max, c.text)
		}
	}
}

func TestTrackerIsBoundedAndStartsAnew(t *testing.T) {
	tr := &Tracker{}
	at := time.Unix(1_000_000, 0)
	for range 100_000 {
		tr.Observe(Observation{At: at, Stored: 5, Room: 1})
		at = at.Add(time.Second)
	}
	if n := len(tr.seen); n > int(window/every)+2 || n < 100 {
		t.Errorf("%d observations are kept", n)
	}
	if span := tr.seen[len(tr.seen)-1].At.Sub(tr.seen[0].At); span > window || span < window/2 {
		t.Errorf("they span %s", span)
	}
	for what, o := range map[string]Observation{
		"the clock went back":   {At: at.Add(-24 * time.Hour), Stored: 5, Room: 1},
		"the clock leapt":       {At: at.Add(24 * time.Hour), Stored: 5, Room: 1},
		"the counter restarted": {At: at, Stored: 1, Room: 1},
	} {
		again := &Tracker{seen: slices.Clone(tr.seen)}
		again.Observe(o)
		if f := again.Forecast(); len(again.seen) != 1 || f.State != Unknown {
			t.Errorf("%s: %d observations, %+v", what, len(again.seen), f)
		}
	}
}

func TestSpan(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"less than a minute": 59 * time.Second, "1 min": 90 * time.Second, "119 min": 2*time.Hour - 1, "41 h": 41*time.Hour + 50*time.Minute,
		"3 days": 73 * time.Hour, "364 days": longest - 1, "more than a year": longest,
	} {
		if got := Span(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

// An outage is told of as it begins, hourly, and at 24 h, 4 h and 1 h.
func TestAlarm(t *testing.T) {
	var a Alarm
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var told []string
	say := func(f Forecast) {
		if level, line, ok := a.Next(f, now); ok {
			told = append(told, fmt.Sprintf("%s %d %s", now.Format("02 15:04"), level, line))
		}
		now = now.Add(10 * time.Second)
	}
	left := func(d time.Duration) Forecast {
		return Forecast{State: Filling, Left: d, Text: "full in " + Span(d) + " at the present rate"}
	}
	say(Forecast{State: Unknown})
	say(Forecast{State: Steady})
	start := now
	for now.Sub(start) < 26*time.Hour {
		d := 26*time.Hour - now.Sub(start)
		if now.Second() == 10 {
			d += 20 * time.Minute // the rate swings
		}
		say(left(d))
	}
	for range 400 {
		say(Forecast{State: Full, Text: "full"})
	}
	say(Forecast{State: Draining, Text: "the backlog is gone in 2 h at the present rate"})
	for range 1000 {
		say(Forecast{State: Steady, Text: "not filling"})
	}
	say(left(3 * time.Hour)) // another outage
	all := strings.Join(told, "\n")
	for _, want := range []string{
		"01 00:00 1 the spool is filling: full in 26 h at the present rate",
		"01 01:00 1 the spool is filling", "01 02:00 1 the spool is filling: full in 23 h",
		"01 22:00 1 the spool is filling: full in 3 h", "02 01:00 2 the spool is filling: full in 59 min",
		"02 02:00 2 the spool is full", "02 03:00 2 the spool is full",
		"the spool does not fill any more: the backlog is gone in 2 h", "full in 3 h",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q was not told", want)
		}
	}
	// 26 hourly lines of which the thresholds may stand for some, two of the
	// full spool, one of its end, one of the next outage.
	if n := len(told); n < 29 || n > 34 {
		t.Errorf("%d lines:\n%s", n, all)
	}
}
