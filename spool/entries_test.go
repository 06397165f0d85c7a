package spool

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestEntries(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var v entries
	var want []entry
	for range 1000 {
		e := entry{count: r.Uint32N(20_000), bytes: r.Uint32N(1 << 20), first: 1_700_000_000 + r.Uint32N(600)}
		switch r.IntN(10) {
		case 0:
			e = hole
		case 1:
			e = entry{count: math.MaxUint32, bytes: math.MaxUint32, first: holeFirst - 1}
		case 2:
			e = entry{}
		}
		want = append(want, e)
		v.add(e)
		if i := r.IntN(len(want)); v.at(i) != want[i] {
			t.Fatalf("entry %d of %d is %v, want %v", i, len(want), v.at(i), want[i])
		}
	}
	v.clip()
	for i := range want {
		if v.at(i) != want[i] {
			t.Fatalf("entry %d is %v, want %v", i, v.at(i), want[i])
		}
	}
	for range 5000 {
		if i := r.IntN(len(want)); v.at(i) != want[i] {
			t.Fatalf("entry %d is %v, want %v", i, v.at(i), want[i])
		}
	}
}

// Forty streams that are sealed once a minute: what a large site's outage
// leaves in memory for each block.
func TestEntriesAreSmall(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var v entries
	const blocks = 10_000
	for i := range blocks {
		v.add(entry{count: 15_000, bytes: 4000 + r.Uint32N(600), first: 1_700_000_000 + uint32(i/40*60)})
	}
	v.clip()
	if size := float64(cap(v.packed)+cap(v.marks)*16) / blocks; size > 6 {
		t.Errorf("%.1f bytes for a block, at most 6 are wanted", size)
	}
}
