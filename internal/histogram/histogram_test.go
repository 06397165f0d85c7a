package histogram

import (
	"slices"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	h := New(time.Second, 2*time.Second, 5*time.Second)
	now := time.Unix(1_000_000, 0)
	if r := h.Recent(now); r != (Recent{}) {
		t.Errorf("an empty histogram says %+v", r)
	}
	for _, d := range []time.Duration{-time.Second, time.Second, 1500 * time.Millisecond, 1600 * time.Millisecond, time.Minute} {
		h.Observe(now, d)
	}
	s := h.Snapshot()
	if !slices.Equal(s.Counts, []uint64{2, 4, 4}) || s.Count != 5 || s.Sum != 64100*time.Millisecond {
		t.Errorf("the snapshot is %+v", s)
	}
	want := Recent{Count: 5, Median: 2 * time.Second, P99: time.Minute, Max: time.Minute}
	if r := h.Recent(now.Add(4 * time.Minute)); r != want {
		t.Errorf("the last minutes are %+v, want %+v", r, want)
	}
	// The longest is over; what came since counts alone, with a bound no higher
	// than the longest of it.
	h.Observe(now.Add(3*time.Minute), 100*time.Millisecond)
	want = Recent{Count: 1, Median: 100 * time.Millisecond, P99: 100 * time.Millisecond, Max: 100 * time.Millisecond}
	if r := h.Recent(now.Add(6 * time.Minute)); r != want {
		t.Errorf("the last minutes are %+v, want %+v", r, want)
	}
	for i := range 100 { // slots are used again
		h.Observe(now.Add(time.Duration(i)*time.Minute), time.Second)
	}
	if r := h.Recent(now.Add(99 * time.Minute)); r.Count != 5 {
		t.Errorf("five minutes hold %d, want 5", r.Count)
	}
}
