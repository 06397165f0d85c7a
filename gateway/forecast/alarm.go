package forecast

import "time"

// again is how often a filling spool is told of, where nothing changes.
const again = time.Hour

// thresholds are told of as they are crossed, the longest first.
func thresholds() []time.Duration { return []time.Duration{24 * time.Hour, 4 * time.Hour, time.Hour} }

// Alarm decides when a forecast is worth a line: when the spool begins to fill,
// then hourly, when it crosses 24 h, 4 h and 1 h, when it is full, and when that
// is over. It is for one goroutine.
type Alarm struct {
	told  State
	at    time.Time
	below int // thresholds that were told of
}

// Level says how much a line matters.
type Level int

// The levels.
const (
	Info Level = iota
	Warn
	Error
)

// Next returns the line to log for a forecast at a time, or false where there
// is none.
func (a *Alarm) Next(f Forecast, now time.Time) (level Level, line string, ok bool) {
	switch f.State {
	case Full:
		if a.told == Full && now.Sub(a.at) < again {
			return 0, "", false
		}
		a.told, a.at, a.below = Full, now, len(thresholds())
		return Error, "the spool is full: what comes now follows the policy of each source", true
	case Filling:
		return a.filling(f, now)
	case Steady, Draining:
		was := a.told
		a.told, a.below = f.State, 0
		if was == Filling || was == Full {
			a.at = now
			return Info, "the spool does not fill any more: " + f.Text, true
		}
	}
	return 0, "", false
}

func (a *Alarm) filling(f Forecast, now time.Time) (Level, string, bool) {
	below := 0
	for _, t := range thresholds() {
		if f.Left < t {
			below++
		}
	}
	first := a.told != Filling && a.told != Full
	if !first && below <= a.below && now.Sub(a.at) < again {
		return 0, "", false
	}
	a.told, a.at = Filling, now
	// The rate swings: a threshold that was crossed once is not told of again
	// before the spool has stopped filling.
	a.below = max(a.below, below)
	level := Warn
	if below == len(thresholds()) {
		level = Error
	}
	return level, "the spool is filling: " + f.Text, true
}
