package spool

import (
	"math/rand/v2"
	"testing"
	"time"
)

// held makes a spool in memory that holds segments with so many blocks each.
func held(segments, blocks int, policies []StreamPolicy, sinks ...string) *Spool {
	s := newSpool(Options{MaxBytes: int64(segments) * 64 << 20, SegmentBytes: 64 << 20}, nil, hooks{})
	s.setPolicies(policies)
	for _, name := range sinks {
		s.sinks[name] = &sink{}
	}
	next := uint64(1)
	for id := range segments {
		g := &segment{id: uint64(id + 1), first: next, size: 64 << 20}
		for i := range blocks {
			e := entry{count: 60, bytes: uint32(3000 + i%500), first: uint32(next), stream: uint32(i % 40)}
			if i%17 == 16 {
				e = hole
			}
			g.entries.add(e)
			next++
		}
		g.next = next
		s.segs = append(s.segs, g)
	}
	s.counters.next = next
	return s
}

// reservedByBlock is reservedFrom, block by block.
func reservedByBlock(s *Spool) uint64 {
	left := s.reservedBytes()
	for i := len(s.segs) - 1; i >= 0; i-- {
		rest := int64(remnantBytes)
		if i == len(s.segs)-1 {
			rest = 0
		}
		if from := s.reservedIn(s.segs[i], rest, &left); from > 0 {
			return from
		}
	}
	return 0
}

// Sums by segment say the same as its blocks do, whatever is acknowledged and
// whichever policies change.
func TestSharesAreThoseOfTheBlocks(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		s := held(5, 60, nil, "a", "b")
		s.o.MaxBytes = []int64{1 << 20, 4 << 20, 16 << 20}[seed%3]
		for range 6 {
			switch rnd.IntN(4) {
			case 0:
				s.setPolicies([]StreamPolicy{{rnd.Uint32N(40), []Policy{DropOldest, Refuse, ThinOldest, Reserved, ReservedRefuse}[rnd.IntN(5)]}})
			case 1:
				for id := range uint32(20) {
					s.setPolicies([]StreamPolicy{{id, Reserved}})
				}
			case 2:
				g := s.segs[4]
				g.entries.add(entry{count: 1, bytes: 5000, stream: rnd.Uint32N(40)})
				g.next++
			default:
				for _, k := range s.sinks {
					g := s.segs[rnd.IntN(5)]
					from := g.first + rnd.Uint64N(g.next-g.first)
					if rnd.IntN(2) == 0 {
						from = g.first
					}
					k.mark(from, from+rnd.Uint64N(90))
				}
			}
			from := s.reservedFrom()
			if want := reservedByBlock(s); from != want {
				t.Fatalf("seed %d: reserved from %d, want %d", seed, from, want)
			}
			for _, g := range s.segs {
				if got, want := s.shareOf(g, from), s.shareByBlock(g, from); got != want {
					t.Fatalf("seed %d: segment %d has shares %+v, want %+v", seed, g.id, got, want)
				}
			}
		}
	}
}

// BenchmarkMakeRoom is how long nobody else may use a spool of two million
// blocks while it looks for what may go: nothing is delivered; every tenth block
// of one sink is; half of all.
func BenchmarkMakeRoom(b *testing.B) {
	policies := []StreamPolicy{{0, Reserved}, {1, Refuse}}
	for _, acked := range []string{"nothing", "half", "scattered"} {
		b.Run(acked, func(b *testing.B) {
			s := held(125, 16_000, policies, "a", "b")
			switch acked {
			case "half":
				s.sinks["a"].mark(1, 1_000_000)
				s.sinks["b"].mark(1, 900_100)
			case "scattered":
				for n := uint64(1); n < s.counters.next; n += 10 {
					s.sinks["a"].mark(n, n)
				}
			}
			s.candidates(s.reservedFrom()) // summed up once
			longest := time.Duration(0)
			for b.Loop() {
				began := time.Now()
				if len(s.candidates(s.reservedFrom())) == 0 {
					b.Fatal("nothing may go")
				}
				longest = max(longest, time.Since(began))
			}
			b.ReportMetric(longest.Seconds()*1000, "ms/longest")
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ms/op")
		})
	}
}
