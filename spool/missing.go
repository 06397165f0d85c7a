package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// settleFiles brings segments, sinks and numbers together: it finishes
// evictions, registers sinks, and declares what is missing.
func (s *Spool) settleFiles(op *opening) error {
	for name, acked := range op.tail.acks {
		s.sinks[name] = &sink{acked: acked}
	}
	if err := s.finishRemovals(); err != nil {
		return err
	}
	s.addSinks(op)
	s.declareMissing(op)
	for _, d := range op.tail.damaged {
		for _, p := range d.lost {
			op.lose(partLoss(p))
		}
		if d.cut {
			op.lose(Loss{Stream: NoStream, Unknown: true})
		}
	}
	return nil
}

// finishRemovals unlinks segments whose blocks have all left.
func (s *Spool) finishRemovals() error {
	if s.readOnly {
		return nil
	}
	var keep []*segment
	removed := false
	for i, g := range s.segs {
		if i < len(s.segs)-1 && (g.next == 0 || g.next-1 <= s.counters.floor) {
			if err := errors.Join(g.close(true), os.Remove(g.path), removeIndex(g.path)); err != nil {
				return fmt.Errorf("spool %s: %w", s.o.Dir, err)
			}
			removed = true
			continue
		}
		keep = append(keep, g)
	}
	s.segs = keep
	if removed {
		if err := syncDir(s.o.Dir); err != nil {
			return fmt.Errorf("spool %s: %w", s.o.Dir, err)
		}
	}
	return nil
}

// addSinks registers the sinks of the configuration. A new one starts at the
// oldest block that some known sink has not acknowledged; where no sink is
// known, at the oldest block held.
func (s *Spool) addSinks(op *opening) {
	start := s.counters.floor + 1
	if len(s.sinks) > 0 {
		start = s.counters.next
		for _, k := range s.sinks {
			start = min(start, k.acked.free(s.counters.floor+1))
		}
	}
	known := map[string]bool{}
	for name := range s.sinks {
		known[name] = true
	}
	for _, name := range s.o.Sinks {
		if !known[name] {
			s.sinks[name] = &sink{acked: intervals{}.add(1, start-1), version: 1}
			op.change = true
		}
		s.sinks[name].configured = true
	}
}

// declareMissing declares the numbers that some sink has not acknowledged and
// no segment holds: a segment was put aside or deleted, or a header does not
// read.
func (s *Spool) declareMissing(op *opening) {
	n := s.counters.floor + 1
	missing := func(from, to uint64) { // from..to are held nowhere
		for from <= to {
			first, last, sinks := s.unacked(from, to)
			if first == 0 {
				return
			}
			s.log.Error("blocks are missing and are declared lost", "from", first, "to", last, "sinks", sinks)
			known, all := s.orphaned(op, first, last)
			for _, l := range known {
				op.lose(l)
			}
			if !all {
				op.lose(Loss{Stream: NoStream, Unknown: true, Sinks: sinks})
			}
			for _, k := range s.sinks {
				k.mark(first, last)
			}
			from = last + 1
		}
	}
	for _, g := range s.segs {
		if g.first > n {
			missing(n, g.first-1)
		}
		for i := range g.entries.n {
			if g.entries.at(i) != hole {
				continue
			}
			if at := g.first + uint64(i); at > s.counters.floor {
				missing(at, at)
			}
		}
		n = max(n, g.next)
	}
	if s.counters.next > n {
		missing(n, s.counters.next-1)
	}
}

// unacked finds the first run of numbers in from..to that the same sinks have
// not acknowledged. Sinks is nil where that is all of them. It returns 0, 0
// where every sink has all.
func (s *Spool) unacked(from, to uint64) (first, last uint64, sinks []string) {
	for n := from; n <= to; n++ {
		lacking := s.lacking(n)
		switch {
		case len(lacking) == 0 && first == 0:
			// Skip what every sink has at once.
			next := to + 1
			for _, k := range s.sinks {
				next = min(next, k.acked.free(n))
			}
			n = next - 1
		case first == 0:
			first, last, sinks = n, n, lacking
		case slices.Equal(lacking, sinks):
			last = n
		default:
			n = to
		}
	}
	if len(sinks) == len(s.sinks) {
		sinks = nil
	}
	return first, last, sinks
}

// orphaned lists what the indexes of segments that are gone tell of blocks
// first..last, and whether that is all of them.
func (s *Spool) orphaned(op *opening, first, last uint64) (losses []Loss, all bool) {
	var known []Info
	for i := range op.orphans {
		h := op.orphans[i].Info
		if h.Number >= first && h.Number <= last {
			h.Waiting = s.lacking(h.Number)
			known = append(known, h)
		}
	}
	return s.lossesOf(known), uint64(len(known)) == last-first+1
}

// findOrphans reads the indexes of segments that are gone: somebody deleted
// them, or a crash came before the index was removed too.
func (s *Spool) findOrphans(ids []uint64, op *opening) error {
	list, err := filepath.Glob(filepath.Join(s.o.Dir, "*"+indexSuffix))
	if err != nil {
		return err
	}
	for _, path := range list { // by rising id
		id, ok := segmentID(strings.TrimSuffix(filepath.Base(path), indexSuffix) + segmentSuffix)
		if !ok || slices.Contains(ids, id) {
			continue
		}
		data, _ := os.ReadFile(path) // one that the disk does not give back is as good as none
		if x, ok := parseIndex(data, id); ok {
			op.orphans = append(op.orphans, x.headers...)
		}
		op.orphanFiles = append(op.orphanFiles, path)
	}
	return nil
}

// removeOrphans removes the indexes whose blocks are declared.
func (s *Spool) removeOrphans(op *opening) error {
	for _, path := range op.orphanFiles {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("spool %s: %w", s.o.Dir, err)
		}
	}
	return nil
}
