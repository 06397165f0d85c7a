package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// reserveName is a file whose space is given up when the disk is full.
	reserveName  = "reserve"
	reserveRetry = time.Minute
)

// makeRoom brings the files under the bound with need bytes more: segments
// that every sink has whole go first, then files put aside, then the oldest
// data. It returns *FullError where nothing is left but the tail's open tier.
func (s *Spool) makeRoom(need int64) error {
	for {
		over := s.over(need)
		if over <= 0 {
			return nil
		}
		freed, err := s.freeOne()
		if err != nil {
			return s.failed("make room", need, err)
		}
		if freed {
			continue
		}
		s.mu.Lock()
		tail := s.segs[len(s.segs)-1]
		last := s.rotating || tail.first == tail.next
		s.mu.Unlock()
		if !last {
			// The bound was lowered below what the tail takes. As an older
			// segment it can go.
			if err := s.newTail(); err != nil {
				return s.failed("make room", need, err)
			}
			continue
		}
		return &FullError{Dir: s.o.Dir, Need: need, Err: fmt.Errorf("%w: %d bytes", errBound, s.o.MaxBytes)}
	}
}

// over is by how many bytes the files would exceed the bound with need more.
func (s *Spool) over(need int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.diskBytes() + s.growth(need) - s.o.MaxBytes
}

// diskBytes is the size of all files. Callers hold mu.
func (s *Spool) diskBytes() int64 {
	n := s.dead.size + s.reserve
	for _, g := range s.segs {
		n += g.size
	}
	for _, f := range s.aside {
		n += f.size
	}
	return n
}

// growth estimates by how much the tail's file grows with need bytes more. Of
// the free pages only half count: a large value needs neighbours.
func (s *Spool) growth(need int64) int64 {
	need += fixedPages * pageSize
	if room := s.segs[len(s.segs)-1].size - s.usage.high + s.usage.free/2; need <= room {
		return 0
	}
	return need + s.o.growthStep()
}

// freeOne gives up one thing, and returns false where nothing is left.
func (s *Spool) freeOne() (bool, error) {
	s.mu.Lock()
	drained := slices.ContainsFunc(s.segs[:len(s.segs)-1], s.drained)
	dirty := s.dirty() || s.newFloor() > s.counters.floor
	var oldest *segment
	if len(s.segs) > 1 {
		oldest = s.segs[0]
	}
	var aside *asideFile
	if len(s.aside) > 0 {
		aside = &s.aside[0]
	}
	s.mu.Unlock()
	switch {
	case drained:
		if dirty {
			if err := s.transact("sync", s.newChange()); err != nil {
				return false, err
			}
		}
		n, err := s.dropDrained()
		return n > 0, err
	case aside != nil:
		return true, s.dropAside(aside)
	case oldest != nil:
		return true, s.evict(oldest)
	}
	return false, nil
}

// freeForSpace makes the disk's space, rather than the bound's, go further: the
// reserve goes first, so that there is room to write down what goes next.
func (s *Spool) freeForSpace() (bool, error) {
	dropped := s.dropReserve()
	freed, err := s.freeOne()
	if err != nil {
		return false, s.failed("free space", 0, err)
	}
	return dropped || freed, nil
}

func (s *Spool) reservePath() string { return filepath.Join(s.o.Dir, reserveName) }

func (s *Spool) dropReserve() bool {
	s.mu.Lock()
	had := s.reserve > 0
	s.mu.Unlock()
	if !had || os.Remove(s.reservePath()) != nil {
		return false
	}
	s.mu.Lock()
	s.reserve, s.reserveTried = 0, s.now()
	s.mu.Unlock()
	return true
}

// restoreReserve sets space aside for the transaction that declares a loss on
// a full disk. It is tried again now and then until there is space.
func (s *Spool) restoreReserve() {
	s.mu.Lock()
	wait := s.reserve > 0 || s.now().Sub(s.reserveTried) < reserveRetry
	s.mu.Unlock()
	size := s.o.growthStep()
	if wait || s.over(size) > 0 {
		return
	}
	// Zeros that are written, not a hole, take space.
	err := os.WriteFile(s.reservePath(), make([]byte, size), fileMode)
	if err != nil {
		err = errors.Join(err, os.RemoveAll(s.reservePath()))
		s.log.Debug("no space for the reserve", "error", err)
		size = 0
	}
	s.mu.Lock()
	s.reserve, s.reserveTried = size, s.now()
	s.mu.Unlock()
}

// dropDrained unlinks the segments that every sink has whole. What the sinks
// have must be durable before, or a restart would miss the blocks.
func (s *Spool) dropDrained() (int, error) {
	s.mu.Lock()
	var drained []*segment
	for _, g := range s.segs[:len(s.segs)-1] {
		if s.drained(g) {
			drained = append(drained, g)
		}
	}
	s.mu.Unlock()
	for _, g := range drained {
		if err := s.unlink(g); err != nil {
			return 0, err
		}
	}
	return len(drained), nil
}

// unlink removes a segment's file durably.
func (s *Spool) unlink(g *segment) error {
	if err := g.close(true); err != nil {
		s.log.Warn("a segment did not close", "file", g.path, "error", err)
	}
	err := os.Remove(g.path)
	if err == nil {
		err = s.hooks.at("unlinked")
	}
	if err == nil {
		err = syncDir(s.o.Dir)
	}
	if err != nil {
		return s.breakDown("remove a segment", err)
	}
	s.mu.Lock()
	s.remove(g)
	s.mu.Unlock()
	return nil
}

// remove takes g off the list. Callers hold mu.
func (s *Spool) remove(g *segment) {
	s.segs = slices.DeleteFunc(slices.Clone(s.segs), func(x *segment) bool { return x == g })
}

// dropAside removes a file that did not read. What it held is declared.
func (s *Spool) dropAside(f *asideFile) error {
	if err := errors.Join(os.Remove(f.path), syncDir(s.o.Dir)); err != nil {
		return s.breakDown("remove a file put aside", err)
	}
	s.log.Warn("a corrupt file that was put aside makes room for data", "file", f.path, "bytes", f.size)
	s.mu.Lock()
	s.aside = slices.Clone(s.aside[1:])
	s.mu.Unlock()
	return nil
}

// evict gives up the oldest segment. The losses are durable before the file
// goes, in one transaction with the mark that its blocks have left: a crash in
// between leaves a file that the next opening removes without a word.
func (s *Spool) evict(g *segment) error {
	lost, err := s.unackedBlocks(g)
	if err != nil {
		s.log.Error("a segment that is evicted does not read; its samples are counted without their streams", "file", g.path, "error", err)
		lost = nil
	}
	if err := s.declareSegment(g, lost, CauseEvicted); err != nil {
		return err
	}
	if err := s.hooks.at("evict declared"); err != nil {
		return s.breakDown("evict", err)
	}
	if err := s.unlink(g); err != nil {
		return err
	}
	s.mu.Lock()
	s.stats.evicted++
	s.mu.Unlock()
	return nil
}

// unackedBlocks reads the headers of the blocks that some sink lacks.
func (s *Spool) unackedBlocks(g *segment) (lost []Info, err error) {
	err = g.view(s.now(), func(tx *bolt.Tx) error {
		g.blocks(tx, 0, func(h *blockHeader, _ []byte) bool {
			s.mu.Lock()
			h.Waiting = s.lacking(h.Number)
			s.mu.Unlock()
			if len(h.Waiting) > 0 {
				lost = append(lost, h.Info)
			}
			return true
		})
		return nil
	})
	return lost, err
}

// declareSegment declares what a segment holds and some sink lacks, and marks
// all its numbers as left. Of what is not in lost, the streams are not known.
func (s *Spool) declareSegment(g *segment, lost []Info, cause Cause) error {
	s.mu.Lock()
	losses := append(s.lossesOf(lost), s.lossesUnread(g, lost)...)
	s.mu.Unlock()
	samples := uint64(0)
	for i := range losses {
		samples += losses[i].Count
	}
	plan := s.newChange(span{g.first, g.next - 1})
	for _, l := range losses {
		plan.addLoss(l, cause, s.now())
	}
	if err := s.transact("declare", plan); err != nil {
		return err
	}
	if len(losses) > 0 {
		s.log.Error("the oldest data leaves the spool and is declared lost",
			"file", filepath.Base(g.path), "cause", cause, "samples", samples, "bound_bytes", s.o.MaxBytes)
	}
	return nil
}

// lossesOf makes one loss of each run of sequences of a stream that the same
// sinks lack.
func (s *Spool) lossesOf(lost []Info) (losses []Loss) {
	last := map[uint32]int{} // stream to its newest loss
	for i := range lost {
		b := &lost[i]
		sinks := s.named(b.Waiting)
		if at, ok := last[b.Stream]; ok {
			l := &losses[at]
			if l.ToSeq+1 == b.Seq && slices.Equal(l.Sinks, sinks) {
				l.ToSeq = b.Seq
				l.First, l.Last = min(l.First, b.First), max(l.Last, b.Last)
				l.Count += uint64(b.Count)
				continue
			}
		}
		last[b.Stream] = len(losses)
		losses = append(losses, Loss{
			Stream: b.Stream, Sinks: sinks, FromSeq: b.Seq, ToSeq: b.Seq, First: b.First, Last: b.Last, Count: uint64(b.Count),
		})
	}
	return losses
}

// lossesUnread counts from memory what a segment held and does not read.
func (s *Spool) lossesUnread(g *segment, read []Info) (losses []Loss) {
	for n := g.first; n < g.next; n++ {
		if len(read) > 0 && read[0].Number == n {
			read = read[1:]
			continue
		}
		e, held := g.entry(n)
		lacking := s.lacking(n)
		if !held || len(lacking) == 0 {
			continue
		}
		sinks := s.named(lacking)
		if i := len(losses) - 1; i >= 0 && slices.Equal(losses[i].Sinks, sinks) {
			losses[i].Count += uint64(e.count)
			continue
		}
		losses = append(losses, Loss{Stream: NoStream, Sinks: sinks, Count: uint64(e.count)})
	}
	return losses
}
