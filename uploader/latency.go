package uploader

import (
	"sort"
	"time"

	"millrace/internal/histogram"
)

// maxSeals bounds how many times of seals are kept. Beyond it neighbours share
// the earlier time.
const maxSeals = 1024

// seals remembers when blocks were sealed, as far as the loop has seen it.
type seals struct {
	marks []mark // by rising number
	first uint64 // blocks below were sealed before the loop looked
}

// mark says that the blocks up to a number, and above the mark before, were
// sealed at a time.
type mark struct {
	upTo uint64
	at   time.Time
}

// saw notes that blocks below next exist.
func (s *seals) saw(next uint64, now time.Time) {
	if s.first == 0 {
		s.first = next
	}
	last := s.first - 1
	if n := len(s.marks); n > 0 {
		last = s.marks[n-1].upTo
	}
	if next <= last+1 {
		return
	}
	if len(s.marks) == maxSeals {
		keep := s.marks[:0]
		for i := 0; i < len(s.marks); i += 2 {
			keep = append(keep, mark{s.marks[i+1].upTo, s.marks[i].at})
		}
		s.marks = keep
	}
	s.marks = append(s.marks, mark{next - 1, now})
}

// at returns when a block was sealed. Where that was before the loop looked, it
// returns false.
func (s *seals) at(number uint64) (time.Time, bool) {
	if number < s.first {
		return time.Time{}, false
	}
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].upTo >= number })
	if i == len(s.marks) {
		return time.Time{}, false
	}
	return s.marks[i].at, true
}

// since returns the first number that was sealed at a time or later; next, which
// comes next, where there is none.
func (s *seals) since(at time.Time, next uint64) uint64 {
	for i := len(s.marks) - 1; ; i-- {
		if i < 0 || s.marks[i].at.Before(at) {
			switch {
			case i+1 == len(s.marks):
				return next
			case i < 0:
				return s.first
			}
			return s.marks[i].upTo + 1
		}
	}
}

// latencyBounds are the buckets of the time from seal to acknowledgement.
func latencyBounds() []time.Duration {
	return []time.Duration{
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
		time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour,
	}
}

// LaneStats are the counters of one lane since the loop was built.
type LaneStats struct {
	Blocks  uint64 `json:"blocks"`  // delivered
	Samples uint64 `json:"samples"` // in the blocks delivered
	Bytes   uint64 `json:"bytes"`   // packed bytes of the blocks delivered
	// Latency is the time from the seal to the acknowledgement. Blocks sealed
	// before the gateway started count with the time of their last sample.
	Latency histogram.Snapshot `json:"latency"`
	// Recent is that of the last five minutes.
	Recent histogram.Recent `json:"recent"`
}

// laneCounts is a lane's counters in the making, guarded by observer.mu but for
// the histogram, which guards itself.
type laneCounts struct {
	blocks, samples, bytes uint64
	latency                *histogram.Histogram
}

func newLaneCounts() map[Lane]*laneCounts {
	m := map[Lane]*laneCounts{}
	for _, l := range []Lane{LaneLive, LaneBacklog} {
		m[l] = &laneCounts{latency: histogram.New(latencyBounds()...)}
	}
	return m
}

func (c *laneCounts) stats(now time.Time) LaneStats {
	return LaneStats{Blocks: c.blocks, Samples: c.samples, Bytes: c.bytes, Latency: c.latency.Snapshot(), Recent: c.latency.Recent(now)}
}

// latency is how long a block waited from its seal until now.
func (s *seals) latency(b *Block, now time.Time) (time.Duration, bool) {
	if at, ok := s.at(b.Number); ok {
		return now.Sub(at), true
	}
	d := now.Sub(time.Unix(0, b.Header.Last))
	return d, d >= 0 && d < 10*365*24*time.Hour
}
