package spool

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"millrace/internal/failpoint"
)

const (
	// reserveName is a file whose space is given up when the disk is full.
	reserveName  = "reserve"
	reserveRetry = time.Minute
)

// makeRoom brings the files under what a class may fill with need bytes more.
// In this order it gives up segments that every sink has whole, files put
// aside, what every sink has of the other segments, and the oldest data that
// may go. It returns *FullError where nothing is left of these.
func (s *Spool) makeRoom(need int64, room class) error {
	for {
		over := s.over(need, room)
		if over <= 0 {
			return nil
		}
		freed, err := s.freeOne(false, true)
		if err != nil {
			return s.failed("make room", need, err)
		}
		if freed {
			continue
		}
		s.mu.Lock()
		tail := s.segs[len(s.segs)-1]
		sh := s.shareOf(tail, s.reservedFrom())
		last := s.rotating || sh.droppable+sh.left < s.o.SegmentBytes/8
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

// over is by how many bytes the files would exceed what a class may fill with
// need more.
func (s *Spool) over(need int64, room class) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.diskBytes() + s.growth(need) - s.limit(room)
}

// diskBytes is the size of all files. Callers hold mu.
func (s *Spool) diskBytes() int64 {
	n := s.dead.size + s.reserve
	for _, g := range s.segs {
		n += g.size + g.indexSize
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
	if s.rotating { // the file is new
		return need + s.o.growthStep()
	}
	if room := s.segs[len(s.segs)-1].size - s.usage.high + s.usage.free/2; need <= room {
		return 0
	}
	return need + s.o.growthStep()
}

// freeOne gives up one thing, and returns false where nothing is left: with drop
// unset, nothing that some sink lacks. On a full disk what can be unlinked goes
// before what has to be written anew.
func (s *Spool) freeOne(diskFull, drop bool) (bool, error) {
	s.mu.Lock()
	drained := slices.ContainsFunc(s.segs[:len(s.segs)-1], s.drained)
	dirty := s.ackable()
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
	}
	return s.freeBlocks(diskFull, drop)
}

// candidate is a segment of which something may go.
type candidate struct {
	g    *segment
	rest int64 // bytes that the file takes without it
	drop bool  // something that a sink lacks goes
}

// freeBlocks gives up blocks of one segment: the oldest of which a good part is
// had by every sink, else the oldest that holds what may be dropped.
func (s *Spool) freeBlocks(diskFull, drop bool) (bool, error) {
	s.mu.Lock()
	from := s.reservedFrom()
	list := s.candidates(from)
	s.mu.Unlock()
	if diskFull {
		slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(a.rest, b.rest) })
	}
	for _, c := range list {
		if c.drop && !drop {
			continue
		}
		if c.rest == 0 {
			return true, s.evict(c.g)
		}
		s.mu.Lock()
		fits := s.diskBytes()+c.rest <= s.o.MaxBytes || s.diskBytes() > s.o.MaxBytes
		s.mu.Unlock()
		if !fits {
			continue
		}
		err := s.lighten(c.g, from, c.drop)
		if outOfSpace(err) || errors.Is(err, errUnprobed) {
			s.log.Debug("a segment could not be written anew", "file", c.g.path, "error", err)
			continue
		}
		return err == nil, err
	}
	return false, nil
}

// candidates lists the segments of which something may go, in the order in
// which they are to be tried. Callers hold mu.
func (s *Spool) candidates(reservedFrom uint64) (list []candidate) {
	var drops []candidate
	for _, g := range s.segs[:len(s.segs)-1] {
		sh := s.shareOf(g, reservedFrom)
		if sh.left >= max(g.size/4, remnantBytes) && sh.kept+sh.droppable > 0 {
			list = append(list, candidate{g, sh.kept + sh.droppable + remnantBytes, false})
		}
		if sh.droppable > 0 {
			c := candidate{g: g, drop: true}
			if sh.kept > 0 {
				c.rest = sh.kept + remnantBytes
			}
			drops = append(drops, c)
		}
	}
	return append(list, drops...)
}

// freeForSpace makes the disk's space, rather than the bound's, go further: the
// reserve goes first, so that there is room to write down what goes next.
func (s *Spool) freeForSpace(why error) (bool, error) {
	s.mu.Lock()
	s.diskFull, s.reserveTried = why, s.now()
	s.mu.Unlock()
	dropped := s.dropReserve()
	freed, err := s.freeOne(true, true)
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
	if wait {
		return
	}
	if s.over(size, ordinary) > 0 {
		s.mu.Lock()
		s.diskFull = nil // the bound is what is short now
		s.mu.Unlock()
		return
	}
	// Zeros that are written, not a hole, take space.
	err := os.WriteFile(s.reservePath(), make([]byte, size), fileMode)
	if err != nil {
		err = errors.Join(err, os.RemoveAll(s.reservePath()))
		s.log.Debug("no space for the reserve", "error", err)
		size = 0
	}
	failpoint.At("spool: reserve made")
	s.mu.Lock()
	s.reserve, s.reserveTried = size, s.now()
	if size > 0 {
		s.diskFull = nil
	}
	s.mu.Unlock()
}

// dropDrained unlinks the segments that every sink has whole, by what is
// durable. An acknowledgement that came since must wait: after a crash the
// blocks would be missing, and be declared lost.
func (s *Spool) dropDrained() (int, error) {
	s.mu.Lock()
	var drained []*segment
	for _, g := range s.segs[:len(s.segs)-1] {
		if g.left {
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
	failpoint.At("spool: unlink")
	err := os.Remove(g.path)
	if err == nil {
		err = s.hooks.at("unlinked")
	}
	if err == nil {
		err = removeIndex(g.path)
	}
	if err == nil {
		err = syncDir(s.o.Dir)
	}
	if err != nil {
		return s.breakDown("remove a segment", err)
	}
	failpoint.At("spool: unlinked durably")
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

// unackedBlocks lists the headers of the blocks that some sink lacks.
func (s *Spool) unackedBlocks(g *segment) (lost []Info, err error) {
	err = s.headers(g, func(h *blockHeader) bool {
		s.mu.Lock()
		h.Waiting = s.lacking(h.Number)
		s.mu.Unlock()
		if len(h.Waiting) > 0 {
			lost = append(lost, h.Info)
		}
		return true
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
		if cause == CauseEvicted {
			s.addEvicted(plan, l)
		} else {
			plan.addLoss(l, cause, s.now())
		}
	}
	if err := s.transact("declare", plan); err != nil {
		return err
	}
	s.logEvicted(g, cause, len(losses), samples)
	return nil
}

func (s *Spool) logEvicted(g *segment, cause Cause, losses int, samples uint64) {
	if losses > 0 {
		s.log.Error("the oldest data leaves the spool and is declared lost",
			"file", filepath.Base(g.path), "cause", cause, "samples", samples, "bound_bytes", s.o.MaxBytes)
	}
}

// lossesOf makes one loss of each run of sequences of a stream that the same
// sinks lack.
func (s *Spool) lossesOf(lost []Info) (losses []Loss) {
	last := map[uint32]int{} // stream to its newest loss
	for i := range lost {
		b := &lost[i]
		sinks, earlier := s.named(b.Waiting), s.isEarlier(b.Number)
		if at, ok := last[b.Stream]; ok {
			l := &losses[at]
			if l.ToSeq+1 == b.Seq && l.Earlier == earlier && slices.Equal(l.Sinks, sinks) {
				l.ToSeq = b.Seq
				l.First, l.Last = min(l.First, b.First), max(l.Last, b.Last)
				l.Count += uint64(b.Count)
				continue
			}
		}
		last[b.Stream] = len(losses)
		losses = append(losses, Loss{
			Stream: b.Stream, Sinks: sinks, FromSeq: b.Seq, ToSeq: b.Seq, First: b.First, Last: b.Last, Count: uint64(b.Count),
			Earlier: earlier,
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
