package spool

import (
	"math/rand/v2"
	"testing"
)

// The set does what a map does, and survives its encoding.
func TestIntervals(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		var v intervals
		have := map[uint64]bool{}
		for range rnd.IntN(40) {
			from := 1 + rnd.Uint64N(60)
			to := from + rnd.Uint64N(5)
			v = v.add(from, to)
			for n := from; n <= to; n++ {
				have[n] = true
			}
		}
		v = v.add(9, 8)
		back, err := readIntervals(v.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "decoded", back, v)
		for i := 1; i < len(v); i++ {
			if v[i].from <= v[i-1].to+1 {
				t.Fatalf("runs that touch: %v", v)
			}
		}
		for n := uint64(1); n < 70; n++ {
			if v.has(n) != have[n] {
				t.Fatalf("%v has %d: %v", v, n, v.has(n))
			}
			free := n
			for have[free] {
				free++
			}
			if v.free(n) != free {
				t.Fatalf("%v: free from %d is %d, want %d", v, n, v.free(n), free)
			}
			if to := n + rnd.Uint64N(4); v.covers(n, to) != (free > to) {
				t.Fatalf("%v covers %d..%d: %v", v, n, to, v.covers(n, to))
			}
		}
	}
}

func FuzzReadIntervals(f *testing.F) {
	f.Add(intervals{}.add(1, 5).add(9, 9).append(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := readIntervals(b); err == nil && len(v) > len(b) {
			t.Errorf("%d runs from %d bytes", len(v), len(b))
		}
	})
}

func FuzzReadParts(f *testing.F) {
	p := part(3, 9)
	f.Add(appendPart(appendPart(nil, &p), &p))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 0
		readParts(b, func(p Part) { size += len(p.Data) + partHeaderLen }, func(Part) {})
		if size > len(b) {
			t.Errorf("%d bytes of parts from %d", size, len(b))
		}
	})
}
