package query

import (
	"slices"
	"sort"

	"millrace/cloud/format"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// maxStrays bounds the samples with corrected times that are in memory at once.
const maxStrays = 2 << 20

// corrections are the gateways' clock records (docs/clock.md), by boot.
type corrections struct {
	byBoot map[[16]byte][]correction
}

type correction struct {
	site, gateway string
	*ledger.Correction
}

func (c *corrections) add(site, gateway string, record *ledger.Correction) {
	list := c.byBoot[record.Boot]
	for _, have := range list {
		if *have.Correction == *record && have.site == site && have.gateway == gateway {
			return
		}
	}
	c.byBoot[record.Boot] = append(list, correction{site, gateway, record})
}

// right is a sample's right time of the gateway's clock, by the newest record
// that is for it; ok is false where none is, or where it changes nothing.
func (c *corrections) right(h *block.Header, at int64) (right int64, ok bool) {
	if c == nil {
		return at, false
	}
	best := uint64(0)
	right = at
	for _, k := range c.byBoot[h.Boot] {
		if k.site != h.Site || k.gateway != h.Gateway || ok && k.ID < best {
			continue
		}
		if t, fits := k.Correct(h.Boot, h.Mono, at); fits {
			right, ok, best = t, true, k.ID
		}
	}
	return right, ok && right != at
}

// moves reports whether a sample's primary time is not the one that it was sent
// with. Where the device's own time is the primary one, the gateway's is set right
// in place, and nothing moves.
func (c *corrections) moves(b *block.Block, s *sample.Sample) bool {
	right, ok := c.right(&b.Header, s.Time)
	if !ok {
		return false
	}
	if s.SourceTime != 0 {
		s.Time = right
		return false
	}
	return true
}

// where returns the ranges of time under which samples may have been sent whose
// right time is in a window, one gateway's at a time.
func (c *corrections) where(site, gateway string, w window) (out []window) {
	if c == nil {
		return nil
	}
	for _, list := range c.byBoot {
		for _, k := range list {
			if k.site != site || k.gateway != gateway {
				continue
			}
			// Of the monotonic clock: what the record is for, as far as it comes to
			// lie in the window.
			from, to := max(k.From-slack, w.from-k.Offset), min(k.To+slack, w.to-k.Offset)
			if from > to {
				continue
			}
			for _, other := range list { // each offset that was in force before a record
				sent := other.Offset - other.Step
				out = append(out, window{from + sent, to + sent + 1})
			}
		}
	}
	slices.SortFunc(out, func(a, b window) int {
		if a.from != b.from {
			return int(min(max(a.from-b.from, -1), 1))
		}
		return int(min(max(a.to-b.to, -1), 1))
	})
	var joined []window
	for _, r := range out {
		if n := len(joined); n > 0 && r.from <= joined[n-1].to {
			joined[n-1].to = max(joined[n-1].to, r.to)
		} else {
			joined = append(joined, r)
		}
	}
	return joined
}

// slack is how far a reading of the monotonic clock may be off: ledger.Correction.
const slack = int64(2e6)

// strays are samples that have another time than they were sent with, in the
// order of less.
type strays struct {
	rows []format.Row
	full bool
}

// take adds a block's samples of some tags whose right time is in a window.
func (s *strays) take(b *block.Block, w window, take func(string) bool, clock *corrections) {
	for i := range b.Columns {
		c := &b.Columns[i]
		if !take(c.Tag) {
			continue
		}
		for n := range c.N {
			row := format.Row{Sample: c.Sample(n), Gateway: b.Gateway, Stream: b.Stream}
			right, ok := clock.right(&b.Header, row.Time)
			if !ok || row.SourceTime != 0 || right < w.from || right >= w.to {
				continue
			}
			if len(s.rows) >= maxStrays {
				s.full = true
				return
			}
			row.Time = right
			s.rows = append(s.rows, row)
		}
	}
}

func (s *strays) sort() {
	sort.SliceStable(s.rows, func(i, j int) bool { return less(&s.rows[i], &s.rows[j]) })
}

// within is a cursor over those of a window and some tags.
func (s *strays) within(w window, want func(string) bool) cursor {
	from := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].PrimaryTime() >= w.from })
	to := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].PrimaryTime() >= w.to })
	return &slice{rows: s.rows[from:to], want: want}
}
