// Package histogram counts durations in fixed buckets: all of them since the
// start, for Prometheus, and those of the last minutes, for people.
package histogram

import (
	"slices"
	"sync"
	"time"
)

const (
	// slots of slotLength each make up the last minutes.
	slots      = 5
	slotLength = time.Minute
)

// Histogram counts durations. It may be used from any goroutine.
type Histogram struct {
	bounds []time.Duration // upper bounds, inclusive, rising

	mu     sync.Mutex
	counts []uint64 // one more than bounds: the last is for what is longer
	sum    time.Duration
	recent [slots]slot
}

type slot struct {
	start  time.Time
	counts []uint32
	max    time.Duration
}

// New returns a histogram with the given upper bounds, which must rise.
func New(bounds ...time.Duration) *Histogram {
	h := &Histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
	for i := range h.recent {
		h.recent[i].counts = make([]uint32, len(bounds)+1)
	}
	return h
}

// Observe counts d at the time now.
func (h *Histogram) Observe(now time.Time, d time.Duration) {
	d = max(d, 0)
	i, _ := slices.BinarySearch(h.bounds, d)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[i]++
	h.sum += d
	s := h.slot(now)
	s.counts[i]++
	s.max = max(s.max, d)
}

// slot returns the slot of now, cleared where a new one begins: the one whose
// time has not run out, else the oldest.
func (h *Histogram) slot(now time.Time) *slot {
	newest, oldest := &h.recent[0], &h.recent[0]
	for i := range h.recent {
		s := &h.recent[i]
		if s.start.After(newest.start) {
			newest = s
		}
		if s.start.Before(oldest.start) {
			oldest = s
		}
	}
	if !newest.start.IsZero() && now.Sub(newest.start) < slotLength {
		return newest
	}
	oldest.start, oldest.max = now, 0
	clear(oldest.counts)
	return oldest
}

// Recent sums up the last minutes.
type Recent struct {
	Count  uint64        `json:"count"`
	Median time.Duration `json:"median_ns"` // the upper bound of its bucket, at most Max
	P99    time.Duration `json:"p99_ns"`    // likewise
	Max    time.Duration `json:"max_ns"`
}

// Recent returns what was observed in the last four to five minutes.
func (h *Histogram) Recent(now time.Time) Recent {
	h.mu.Lock()
	defer h.mu.Unlock()
	var r Recent
	counts := make([]uint64, len(h.counts))
	for i := range h.recent {
		s := &h.recent[i]
		if s.start.IsZero() || now.Sub(s.start) >= slots*slotLength {
			continue
		}
		for k, n := range s.counts {
			counts[k] += uint64(n)
			r.Count += uint64(n)
		}
		r.Max = max(r.Max, s.max)
	}
	r.Median, r.P99 = h.quantile(counts, r, 50), h.quantile(counts, r, 99)
	return r
}

func (h *Histogram) quantile(counts []uint64, r Recent, percent uint64) time.Duration {
	seen := uint64(0)
	for i, n := range counts {
		if seen += n; n > 0 && seen*100 >= r.Count*percent {
			if i < len(h.bounds) {
				return min(h.bounds[i], r.Max)
			}
			break
		}
	}
	return r.Max
}

// Snapshot is all that was observed.
type Snapshot struct {
	Bounds []time.Duration `json:"-"` // upper bounds
	// Counts holds for each bound how many were that long or shorter.
	Counts []uint64      `json:"-"`
	Count  uint64        `json:"count"`
	Sum    time.Duration `json:"sum_ns"`
}

// Snapshot returns all that was observed since New.
func (h *Histogram) Snapshot() Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Snapshot{Bounds: h.bounds, Counts: make([]uint64, len(h.bounds)), Sum: h.sum}
	for i, n := range h.counts {
		s.Count += n
		if i < len(h.bounds) {
			s.Counts[i] = s.Count
		}
	}
	return s
}
