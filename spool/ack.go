package spool

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// idleAfter is how long a segment that is not read stays open.
const idleAfter = 10 * time.Second

// ackPatience is for how many calls of Tend acknowledgements wait for a commit
// that takes them along.
const ackPatience = 10

// sink is what one sink has, guarded by Spool.mu.
type sink struct {
	acked      intervals
	configured bool
	version    uint64 // rises with acked
	stored     uint64 // version that the tail has

	progress       uint64 // numbers that the sink itself has acknowledged since the start
	pendingBlocks  int
	pendingSamples int64
	pendingBytes   int64
	pendingDisk    int64 // what they take on the disk, estimated
}

// pend adds a block to what is pending, or with -1 takes it away.
func (k *sink) pend(e entry, sign int64) {
	k.pendingBlocks += int(sign)
	k.pendingSamples += sign * int64(e.count)
	k.pendingBytes += sign * int64(e.bytes)
	k.pendingDisk += sign * diskCost(int64(e.bytes))
}

func (k *sink) mark(from, to uint64) {
	k.acked = k.acked.add(from, to)
	k.version++
}

// count computes what is pending from scratch.
func (s *Spool) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.sinks {
		k.pendingBlocks, k.pendingSamples, k.pendingBytes, k.pendingDisk = 0, 0, 0, 0
		for _, g := range s.segs {
			for n := k.acked.free(g.first); n < g.next; n = k.acked.free(n + 1) {
				if e, ok := g.entry(n); ok {
					k.pend(e, 1)
				}
			}
		}
	}
	s.open = totalsOf(s.records)
	for _, g := range s.segs { // now, and not while a commit waits
		s.sumsOf(g)
	}
}

// lacking names the sinks that have not acknowledged n, sorted.
func (s *Spool) lacking(n uint64) (names []string) {
	for name, k := range s.sinks {
		if !k.acked.has(n) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// named is lacking as a loss shows it: nil where it is every sink.
func (s *Spool) named(lacking []string) []string {
	if len(lacking) == len(s.sinks) {
		return nil
	}
	return lacking
}

// dirtyAcks encodes the acknowledgements that the tail does not have, and with
// gone all of them, with what leaves added.
func (s *Spool) dirtyAcks(gone []span) (out []ackValue) {
	for name, k := range s.sinks {
		if k.version == k.stored && len(gone) == 0 {
			continue
		}
		acked := k.acked
		if len(gone) > 0 {
			acked = slices.Clone(acked)
			for _, g := range gone {
				acked = acked.add(g.from, g.to)
			}
		}
		out = append(out, ackValue{sink: name, value: acked.append(nil), version: k.version})
	}
	return out
}

// dirty reports whether there are acknowledgements that the tail does not have.
func (s *Spool) dirty() bool {
	for _, k := range s.sinks {
		if k.version > k.stored {
			return true
		}
	}
	return false
}

// ackable reports whether there is anything about acknowledgements to store.
func (s *Spool) ackable() bool {
	return s.dirty() || s.newFloor() > s.counters.floor ||
		slices.ContainsFunc(s.segs[:len(s.segs)-1], func(g *segment) bool { return !g.left && s.drained(g) })
}

// newFloor is the number up to which every block has left: what is below the
// oldest segment that some sink needs still.
func (s *Spool) newFloor() uint64 {
	for i, g := range s.segs {
		if i == len(s.segs)-1 || !s.drained(g) {
			return max(s.counters.floor, g.first-1)
		}
	}
	return s.counters.floor
}

func (s *Spool) drained(g *segment) bool {
	if g.next == g.first {
		return true
	}
	for _, k := range s.sinks {
		if !k.acked.covers(g.first, g.next-1) {
			return false
		}
	}
	return true
}

// segmentOf finds the segment that has block n's number.
func (s *Spool) segmentOf(n uint64) *segment {
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].next > n })
	if i == len(s.segs) || s.segs[i].first > n {
		return nil
	}
	return s.segs[i]
}

// Ack notes that a sink has blocks, in any order, in memory. The next Commit
// or Sync makes it durable; a crash before that sends the same bytes again.
// Numbers that the sink has already, or that were never given, change nothing.
func (s *Spool) Ack(sinkName string, numbers ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sinks[sinkName]
	if k == nil || s.broken != nil {
		return
	}
	for _, n := range numbers {
		if n == 0 || n >= s.counters.next || k.acked.has(n) {
			continue
		}
		s.keepsUp = true
		if g := s.segmentOf(n); g != nil {
			if e, ok := g.entry(n); ok {
				k.pend(e, -1)
			}
		}
		k.mark(n, n)
		k.progress++
	}
}

// leave acknowledges from..to for every sink: the blocks are gone.
func (s *Spool) leave(from, to uint64) {
	for _, k := range s.sinks {
		for n := k.acked.free(from); n <= to; n = k.acked.free(n + 1) {
			if g := s.segmentOf(n); g != nil {
				if e, ok := g.entry(n); ok {
					k.pend(e, -1)
				}
			}
		}
		k.mark(from, to)
	}
}

// Sync makes acknowledgements durable where there are new ones, in a
// transaction of their own, and does what Tend does.
func (s *Spool) Sync() error { return s.tend(true) }

// Tend unlinks segments that every sink has whole, and gives up memory and
// files that are not used. It is to be called every second or so.
// Acknowledgements are left to the next Commit, which takes them along for
// nothing; those that have waited for ten calls are stored by themselves.
func (s *Spool) Tend() error { return s.tend(false) }

func (s *Spool) tend(now bool) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	waiting := s.ackable()
	s.mu.Unlock()
	if s.waited++; !waiting {
		s.waited = 0
	}
	if now || s.waited >= ackPatience {
		if err := s.sync(); err != nil {
			return err
		}
	} else if _, err := s.dropDrained(); err != nil {
		return err
	}
	s.restoreReserve()
	s.closeIdle(s.now())
	return nil
}

func (s *Spool) sync() error {
	s.waited = 0
	s.mu.Lock()
	dirty := s.ackable()
	s.mu.Unlock()
	if dirty {
		if err := s.store("sync", 0, func() *change { return s.newChange() }); err != nil {
			return err
		}
	}
	_, err := s.dropDrained()
	return err
}

// closeIdle closes segments that were not read for a while, and gives up what is
// mapped of the others.
func (s *Spool) closeIdle(now time.Time) {
	s.mu.Lock()
	segs := slices.Clone(s.segs)
	s.mu.Unlock()
	tail := segs[len(segs)-1]
	for _, g := range segs {
		if g == tail || g.idle(now) <= idleAfter {
			g.release()
			continue
		}
		if err := g.close(false); err != nil {
			s.log.Warn("a segment did not close", "file", g.path, "error", err)
		}
	}
}

// Forget drops a sink that the configuration does not name any more: what was
// pending for it alone may leave.
func (s *Spool) Forget(sinkName string) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	k := s.sinks[sinkName]
	s.mu.Unlock()
	switch {
	case k == nil:
		return fmt.Errorf("the spool knows no sink %q: `millrace spool stats` lists those it knows", sinkName)
	case k.configured:
		return fmt.Errorf("sink %q is in use: take it out of the configuration and restart millrace first", sinkName)
	}
	err := s.store("forget", 0, func() *change {
		c := s.newChange()
		c.forget = sinkName
		return c
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.log.Warn("a sink is forgotten; what was pending for it is not delivered to it",
		"sink", sinkName, "blocks", k.pendingBlocks, "samples", k.pendingSamples)
	delete(s.sinks, sinkName)
	s.mu.Unlock()
	return s.sync()
}
