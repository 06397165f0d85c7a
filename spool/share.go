package spool

// What a segment's blocks are to whoever makes room is asked for each segment,
// with every commit on a full spool, and while nobody else may use the spool. So
// the sizes of a segment's blocks are summed up once, by what their policies say, and
// single blocks are looked at only in a segment that is acknowledged in part.

// share is what a segment's blocks are to whoever makes room, in bytes of
// pages.
type share struct {
	kept      int64 // may not go
	droppable int64 // some sink lacks it, and it may go
	left      int64 // every sink has it
}

func blockPages(e entry) int64 { return pages(int64(e.bytes)) + 2*blockKeyLen }

// waits reports whether some sink lacks block n. Callers hold mu.
func (s *Spool) waits(n uint64) bool {
	for _, k := range s.sinks {
		if !k.acked.has(n) {
			return true
		}
	}
	return false
}

// sums are the sizes of a segment's blocks by policy, in bytes of pages.
type sums struct {
	n       int    // entries that are in it
	changes uint64 // of policies that it knows

	keeps         int64 // kept whatever comes
	reserved      int64 // kept where its room suffices
	keepsReserved int64 // both
	other         int64
}

func (m *sums) all() int64 { return m.keeps + m.reserved + m.keepsReserved + m.other }

// sumsOf is up to date with a segment's blocks. Callers hold mu.
func (s *Spool) sumsOf(g *segment) *sums {
	m := &g.entries.sums
	if m.changes != s.policyChanges {
		*m = sums{changes: s.policyChanges}
	}
	for ; m.n < g.entries.n; m.n++ {
		e := g.entries.at(m.n)
		if e == hole {
			continue
		}
		switch p := s.policy(e.stream); {
		case p.keeps() && p.reserved():
			m.keepsReserved += blockPages(e)
		case p.keeps():
			m.keeps += blockPages(e)
		case p.reserved():
			m.reserved += blockPages(e)
		default:
			m.other += blockPages(e)
		}
	}
	return m
}

// untouched reports whether every block of a segment waits: some sink has none
// of them. Callers hold mu.
func (s *Spool) untouched(g *segment) bool {
	for _, k := range s.sinks {
		if !k.acked.meets(g.first, g.next-1) {
			return true
		}
	}
	return false
}

// reservedFrom is the number from which on blocks of Reserved streams are kept:
// the newest of them that fit their room. Callers hold mu.
func (s *Spool) reservedFrom() uint64 {
	left := s.reservedBytes()
	for i := len(s.segs) - 1; i >= 0; i-- {
		g, rest := s.segs[i], int64(remnantBytes)
		if i == len(s.segs)-1 {
			rest = 0
		}
		m := s.sumsOf(g)
		all := m.reserved + m.keepsReserved
		if all == 0 || s.drained(g) {
			continue
		}
		if s.untouched(g) && all+rest <= left {
			left -= all + rest
			continue
		}
		if from := s.reservedIn(g, rest, &left); from > 0 {
			return from
		}
	}
	return 0
}

// reservedIn takes the blocks of Reserved streams that wait from what is left of
// their room, the newest first, and rest with the oldest. It returns the number
// from which on they fit, or 0 where all do.
func (s *Spool) reservedIn(g *segment, rest int64, left *int64) uint64 {
	var numbers []uint64 // by rising number
	var bytes []int64
	for i := range g.entries.n {
		e, n := g.entries.at(i), g.first+uint64(i)
		if e == hole || !s.policy(e.stream).reserved() || !s.waits(n) {
			continue
		}
		numbers, bytes = append(numbers, n), append(bytes, blockPages(e)+rest)
		rest = 0
	}
	for i := len(numbers) - 1; i >= 0; i-- {
		if *left -= bytes[i]; *left < 0 {
			return numbers[i] + 1
		}
	}
	return 0
}

// kept reports whether block n of a stream may not go for want of room.
// Callers hold mu.
func (s *Spool) kept(stream uint32, n, reservedFrom uint64) bool {
	p := s.policy(stream)
	return p.keeps() || p.reserved() && n >= reservedFrom
}

// shareOf is a segment's. Callers hold mu.
func (s *Spool) shareOf(g *segment, reservedFrom uint64) (sh share) {
	m := s.sumsOf(g)
	if s.drained(g) {
		return share{left: m.all()}
	}
	parted := m.reserved > 0 && g.first < reservedFrom && reservedFrom < g.next
	if !s.untouched(g) || parted {
		return s.shareByBlock(g, reservedFrom)
	}
	sh = share{kept: m.keeps + m.keepsReserved, droppable: m.other}
	if reservedFrom <= g.first {
		sh.kept += m.reserved
	} else {
		sh.droppable += m.reserved
	}
	return sh
}

// shareByBlock looks through a segment's blocks. Callers hold mu.
func (s *Spool) shareByBlock(g *segment, reservedFrom uint64) (sh share) {
	for i := range g.entries.n {
		e, n := g.entries.at(i), g.first+uint64(i)
		switch {
		case e == hole:
		case !s.waits(n):
			sh.left += blockPages(e)
		case s.kept(e.stream, n, reservedFrom):
			sh.kept += blockPages(e)
		default:
			sh.droppable += blockPages(e)
		}
	}
	return sh
}
