package spool

import (
	"fmt"
	"maps"
	"slices"
)

// Policy says what becomes of a stream's data where there is no room. It is
// stored with the stream, since room is also made while a spool opens.
type Policy uint8

// The policies. A stream has DropOldest until a commit says otherwise.
const (
	// DropOldest gives up the stream's oldest blocks, declared.
	DropOldest Policy = 0
	// Refuse keeps every block until it is acknowledged. What finds no room is
	// not taken: see Admit.
	Refuse Policy = 1
	// ThinOldest is DropOldest for a stream whose blocks the caller may thin
	// before: see Thinnable.
	ThinOldest Policy = 2
	// Reserved has room of its own, a sixteenth of the bound. Beyond that its
	// oldest blocks go like those of DropOldest.
	Reserved Policy = 4
	// ReservedRefuse uses the room of Reserved and is kept like Refuse.
	ReservedRefuse Policy = Reserved | Refuse
)

func (p Policy) String() string {
	switch p {
	case DropOldest:
		return "drop_oldest"
	case Refuse:
		return "refuse"
	case ThinOldest:
		return "thin_oldest"
	case Reserved:
		return "reserved"
	case ReservedRefuse:
		return "reserved, refuse"
	}
	return fmt.Sprintf("policy %d", uint8(p))
}

func (p Policy) keeps() bool    { return p&Refuse != 0 }
func (p Policy) reserved() bool { return p&Reserved != 0 }
func (p Policy) known() bool {
	return p == DropOldest || p == Refuse || p == ThinOldest || p == Reserved || p == ReservedRefuse
}

// StreamPolicy gives a stream a policy.
type StreamPolicy struct {
	Stream uint32
	Policy Policy
}

const (
	// reservedShare is the part of the bound that only Reserved streams may use.
	reservedShare = 16
	// leastReserved keeps that part above what one transaction and one rewritten
	// segment take.
	leastReserved = 128 << 10
	// remnantBytes is what a segment takes besides its blocks' pages.
	remnantBytes = 12 * pageSize
)

// class says how much of the bound a transaction may fill.
type class int

const (
	ordinary    class = iota
	withReserve       // also the room that is set aside for Reserved streams
	refusable         // leaves the others room to go on
)

func (s *Spool) reservedBytes() int64 { return max(s.o.MaxBytes/reservedShare, leastReserved) }

// limit is the part of the bound that a class may fill, in bytes. Where some
// stream's data is kept whatever comes, the others need room to go on: a tail
// of their own, and a segment's room in which one that holds both is written
// anew. Callers hold mu.
func (s *Spool) limit(c class) int64 {
	if c == withReserve {
		return s.o.MaxBytes
	}
	n := s.o.MaxBytes - s.reservedBytes()
	if !s.refuses {
		return n
	}
	n -= s.o.SegmentBytes
	if c == refusable {
		n -= s.o.SegmentBytes + 2*s.o.growthStep()
	}
	return n
}

// Admit makes room for need bytes more of streams whose policy is Refuse: what
// the other streams may give up goes first. It fails with *FullError where that
// is not enough, or while the disk itself is full: then such data is not to be
// committed, and the other streams go on.
func (s *Spool) Admit(need int64) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	diskFull := s.diskFull
	s.mu.Unlock()
	if diskFull != nil {
		return &FullError{Dir: s.o.Dir, Need: need, Err: diskFull}
	}
	return s.makeRoom(pages(need), refusable)
}

// policy is the stream's. Callers hold mu.
func (s *Spool) policy(stream uint32) Policy { return s.policies[stream] }

// withPolicies lists all policies once changes are made, or none where there
// are no changes.
func (s *Spool) withPolicies(changes []StreamPolicy) (all []StreamPolicy) {
	if len(changes) == 0 {
		return nil
	}
	next := maps.Clone(s.policies)
	for _, p := range changes {
		next[p.Stream] = p.Policy
	}
	for _, stream := range slices.Sorted(maps.Keys(next)) {
		all = append(all, StreamPolicy{stream, next[stream]})
	}
	return all
}

// setPolicies makes memory follow policies that are durable. Callers hold mu.
func (s *Spool) setPolicies(list []StreamPolicy) {
	for _, p := range list {
		if s.policies[p.Stream] != p.Policy {
			s.policyChanges++
		}
		s.policies[p.Stream] = p.Policy
	}
	s.refuses, s.thins = false, false
	for _, p := range s.policies {
		s.refuses = s.refuses || p.keeps()
		s.thins = s.thins || p == ThinOldest
	}
}
