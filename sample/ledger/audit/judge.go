package audit

import (
	"slices"
	"sort"
	"time"
)

// account says what became of a hole, piece by piece.
func (j *judge) account(r *StreamReport, h hole) {
	gaps := j.s.gaps.within(h.span)
	var pieces []Hole
	piece := func(p span, kind Kind) *Hole {
		pieces = append(pieces, Hole{From: p.from, To: p.to, Kind: kind, After: instant(h.after), Before: instant(h.before)})
		return &pieces[len(pieces)-1]
	}
	rest := j.s.replaced.without(h.span)
	for _, p := range complement(h.span, rest) {
		piece(p, Thinned)
	}
	counted, exact := uint64(0), true // what the gap records inside say
	var covered spans
	for i := range gaps {
		g := &gaps[i]
		covered.add(g.from, g.to)
		exact = exact && g.known && g.from >= h.from && g.to <= h.to
		counted += g.count
	}
	open := 0
	for _, p := range rest {
		for _, q := range complement(p, covered.without(p)) {
			d := piece(q, Declared)
			for i := range gaps {
				if gaps[i].from <= q.to && gaps[i].to >= q.from && !slices.Contains(d.Causes, gaps[i].cause) {
					d.Causes = append(d.Causes, gaps[i].cause)
				}
			}
			if n := gapOf(gaps, q); n != nil {
				d.Samples = n
			}
		}
		for _, q := range covered.without(p) {
			piece(q, Undefined)
			open++
		}
	}
	exact = exact && h.known
	switch {
	case exact && open == 0 && h.samples >= counted:
		j.excess += h.samples - counted
	case exact && open == 0 && len(j.s.replaced) > 0:
		// A thinned block is among what was lost: its samples count as produced
		// where the blocks were that it replaced.
		j.moved += counted - h.samples
	case exact && open == 0 && len(rest) == 1 && rest[0] == h.span:
		r.fault("the gap records of " + spanText(h.from, h.to) + " declare more samples than the blocks around say")
	}
	for i := range pieces {
		p := &pieces[i]
		if p.Kind == Thinned && len(pieces) == 1 && h.known {
			p.Samples = &h.samples
		}
		if p.Kind != Undefined {
			continue
		}
		if exact && open == 1 && len(rest) == 1 && rest[0] == h.span && h.samples >= counted {
			n := h.samples - counted
			p.Samples = &n
		}
		j.excuse(p, h)
	}
	sort.Slice(pieces, func(a, b int) bool { return pieces[a].From < pieces[b].From })
	r.Holes = append(r.Holes, pieces...)
}

// excuse looks for a reason why a piece that nobody declares is not here.
func (j *judge) excuse(p *Hole, h hole) {
	for i := range j.loose {
		x := &j.loose[i]
		switch {
		case !x.concerns(j.key):
			continue
		case x.stream != "" && x.from == 0, x.from != 0 && (x.from > p.From || x.to < p.To):
			continue // of parts that were never a block, or of other blocks
		case h.after != 0 && !x.at.IsZero() && instant(h.after).After(x.at):
			continue // declared before these blocks were made
		case x.count != nil && p.Samples != nil && *x.count < *p.Samples:
			continue
		}
		if x.count != nil && p.Samples != nil {
			*x.count -= *p.Samples
		}
		p.Kind, p.Loose = Declared, true
		p.Causes = append(p.Causes, x.cause)
		return
	}
	if j.o.Elsewhere {
		p.Kind = Other
		return
	}
	// Blocks arrive out of order: those behind may be here while these wait.
	near := func(t time.Time) bool { return !t.IsZero() && j.o.Now.Sub(t) < j.o.Patience }
	tail := h.before == 0
	b := j.beat
	pending := !j.o.Local && b != nil && b.Backlog.Blocks > 0 && (tail || !instant(h.before).Before(b.Backlog.Oldest))
	if pending || near(p.Before) || tail && near(j.s.beatAt) {
		p.Kind = NotYet
	}
}

// concerns reports whether a loose record may be about a stream in an epoch.
func (x *loose) concerns(k streamKey) bool {
	return x.stream == "" || x.stream == k.stream && x.not != k.epoch
}

// explained reports whether a loose record accounts for samples that were lost
// before they were in a block.
func (j *judge) explained(samples uint64) bool {
	for i := range j.loose {
		x := &j.loose[i]
		switch {
		case x.from != 0, !x.concerns(j.key):
		case x.count == nil:
			return true
		case *x.count >= samples:
			*x.count -= samples
			return true
		}
	}
	return false
}

// complement lists what of p is not in holes, which rise.
func complement(p span, holes []span) []span {
	var s spans
	for _, h := range holes {
		s.add(h.from, h.to)
	}
	return s.without(p)
}

// gapOf returns how many samples a record declares of just p.
func gapOf(list gaps, p span) *uint64 {
	for i := range list {
		if list[i].span == p && list[i].known {
			n := list[i].count
			return &n
		}
	}
	return nil
}

func instant(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
