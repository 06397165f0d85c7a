package spool

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// What a sink has been handed may have reached the cloud, whatever became of
// the answer. So a block that a thinned one replaces must never have been
// handed out, by this run or one before. The numbers that may have been are
// offered: a set that is durable before Read hands out a block of it. In steady
// state that costs no transaction, since the commit that stores a block offers
// it too while some sink keeps up. In an outage none does, and the backlog
// stays as it was.

const (
	// offerShare is the part of the bound that is offered at once where a backlog
	// is read.
	offerShare = 64
	// mostReplaced bounds the blocks of one run.
	mostReplaced = 512
)

// AttemptedError says that a block cannot be replaced: it was handed to a sink,
// or has left, since it was listed.
type AttemptedError struct{ Number uint64 }

func (e *AttemptedError) Error() string {
	return fmt.Sprintf("block %d was handed to a sink, or has left, and cannot be replaced", e.Number)
}

// Replacement is a thinned block, and the numbers of those that it replaces.
type Replacement struct {
	Block   Block    // Number is filled in
	Numbers []uint64 // rising, of Block's stream
	Meta    []KV
}

// offeredTo reports whether all blocks of numbers that may be thinned are
// offered. Callers hold mu.
func (s *Spool) offeredTo(g *segment, numbers []uint64) bool {
	for _, n := range numbers {
		if e, ok := g.entry(n); ok && s.policy(e.stream) == ThinOldest && !s.offered.has(n) {
			return false
		}
	}
	return true
}

// offer makes it durable that the blocks from..to of a segment, and some more of
// it that would be read next, may be handed out.
func (s *Spool) offer(g *segment, from, to uint64) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	for size := int64(0); to+1 < g.next; to++ {
		if e, ok := g.entry(to + 1); ok {
			if size += blockPages(e); size > s.o.MaxBytes/offerShare {
				break
			}
		}
	}
	s.mu.Unlock()
	return s.store("offer", 0, func() *change {
		c := s.newChange()
		s.offerWith(c, span{from, to})
		return c
	})
}

// offerWith lets a change offer blocks. Callers hold commitMu.
func (s *Spool) offerWith(c *change, list ...span) {
	set := append(intervals{}, s.offered...).add(1, c.counters.floor)
	for _, o := range list {
		set = set.add(o.from, o.to)
	}
	c.offered = set
}

// offerNew adds to a commit what it offers: its own blocks while some sink keeps
// up, and with a stream that may be thinned from now on, and has blocks, all
// that there are.
func (s *Spool) offerNew(c *change) {
	s.mu.Lock()
	thins, keepsUp := s.thins, s.keepsUp
	all := false
	for _, p := range c.policies {
		if p.Policy != ThinOldest {
			continue
		}
		thins = true
		all = all || s.policy(p.Stream) != ThinOldest && s.streams[p.Stream].seq > 0
	}
	next := s.counters.next
	s.mu.Unlock()
	if !thins {
		return
	}
	var list []span
	if all {
		list = append(list, span{1, next - 1})
	}
	if n := len(c.blocks); n > 0 && keepsUp {
		list = append(list, span{c.blocks[0].Number, c.blocks[n-1].Number})
	}
	if len(list) > 0 || len(c.policies) > 0 {
		s.offerWith(c, list...)
	}
}

// thinnable reports whether block n may be replaced by a thinned one. Callers
// hold mu.
func (s *Spool) thinnable(e entry, n uint64) bool {
	if e == hole || s.policy(e.stream) != ThinOldest || n < s.epochFirst || s.offered.has(n) {
		return false
	}
	for _, k := range s.sinks {
		if k.acked.has(n) {
			return false
		}
	}
	return true
}

// short reports whether less than a tenth of what ordinary data may fill is
// left, besides what the next commits want of it at once, when all is gone that
// no sink needs. Callers hold mu.
func (s *Spool) short() bool {
	limit := s.limit(ordinary) - s.o.growthStep() - fixedPages*pageSize - s.o.SegmentBytes/4
	used := s.diskBytes()
	if used <= limit/10*9 {
		return false
	}
	for _, g := range s.segs[:len(s.segs)-1] {
		left := g.size + g.indexSize
		if !s.drained(g) {
			if left = s.shareOf(g, 0).left; left < max(g.size/4, remnantBytes) {
				continue
			}
		}
		used -= left
	}
	return used > limit/10*9
}

// Thinnable returns, where room is short, the oldest blocks above a number that
// the caller may replace by one thinned block: of one stream that has the
// policy ThinOldest, of sequences in a row, handed to no sink yet, none of the
// segment that is written to, and with maxBytes of data at most but for the
// first. It returns none where room is not short or no such block is left. The
// blocks' Data is the caller's.
func (s *Spool) Thinnable(after uint64, maxBytes int) ([]Block, error) {
	s.mu.Lock()
	var list []runIn
	err := error(nil)
	if s.broken != nil {
		err = s.broken
	} else if !s.closed && s.thins && s.short() {
		list = s.thinnableRun(after, maxBytes)
	}
	s.mu.Unlock()
	var out []Block
	for _, r := range list {
		if err := s.ensure(r.g, false); err != nil {
			return nil, err
		}
		blocks, bad, err := s.fetch(r.g, r.numbers)
		switch {
		case errors.Is(err, errGone), errors.Is(err, errUnprobed):
			return contiguous(out), nil
		case err != nil:
			return nil, s.unreadable(r.g, err)
		}
		if len(bad) > 0 {
			return nil, s.declareBad(r.g, bad) // the next call lists what is left
		}
		out = append(out, blocks...)
	}
	return contiguous(out), err
}

// runIn is the part of a run that lies in one segment.
type runIn struct {
	g       *segment
	numbers []uint64
}

// thinnableRun finds the first run above a number. Callers hold mu.
func (s *Spool) thinnableRun(after uint64, maxBytes int) (list []runIn) {
	stream, found := uint32(0), 0
	for _, g := range s.segs[:len(s.segs)-1] {
		if g.next <= after+1 {
			continue
		}
		var numbers []uint64
		end := false
		for n := max(g.first, after+1); n < g.next && !end; n++ {
			e, ok := g.entry(n)
			switch {
			case !ok, found > 0 && e.stream != stream:
			case s.thinnable(e, n):
				if maxBytes -= int(e.bytes); maxBytes < 0 && found > 0 || found == mostReplaced {
					end = true
					continue
				}
				stream, numbers = e.stream, append(numbers, n)
				found++
			default:
				end = found > 0
			}
		}
		if len(numbers) > 0 {
			list = append(list, runIn{g, numbers})
		}
		if end {
			break
		}
	}
	return list
}

// contiguous cuts blocks of a stream where their sequences do.
func contiguous(blocks []Block) []Block {
	for i := 1; i < len(blocks); i++ {
		if blocks[i].Seq != blocks[i-1].Seq+1 {
			return blocks[:i]
		}
	}
	return blocks
}

// Replace stores a thinned block, and marks those that it replaces as left for
// every sink, in one transaction. Parts of the stream's open batch stay as they
// are. It gives up nothing that a sink lacks: where there is no room even so it
// fails with *FullError, and where a block was handed to a sink meanwhile or has
// left, with *AttemptedError; then nothing has changed.
func (s *Spool) Replace(r *Replacement) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	need := needs(&Commit{Blocks: []Block{r.Block}, Meta: r.Meta})
	for s.over(need, withReserve) > 0 {
		freed, err := s.freeOne(false, false)
		if err != nil {
			return s.failed("thin", need, err)
		}
		if !freed {
			return &FullError{Dir: s.o.Dir, Need: need, Err: fmt.Errorf("%w: %d bytes", errBound, s.o.MaxBytes)}
		}
	}
	var gone []span
	s.mu.Lock()
	for _, n := range r.Numbers {
		g := s.segmentOf(n)
		e := hole
		if g != nil {
			e, _ = g.entry(n)
		}
		if e.stream != r.Block.Stream || !s.thinnable(e, n) {
			s.mu.Unlock()
			return &AttemptedError{Number: n}
		}
		gone = append(gone, span{n, n})
	}
	s.mu.Unlock()
	c := s.newChange(gone...)
	b := r.Block
	b.Number = c.counters.next
	c.counters.next++
	c.blocks, c.meta = []Block{b}, r.Meta
	st := s.streams[b.Stream]
	c.streams[b.Stream] = streamState{seq: max(st.seq, b.Seq), sealed: st.sealed}
	if err := s.transact("thin", c); err != nil {
		return s.failed("thin", need, err)
	}
	r.Block.Number = b.Number
	s.mu.Lock()
	s.stats.replaced += uint64(len(r.Numbers))
	s.mu.Unlock()
	return nil
}

// loadOffered reads which numbers may have been handed out. Nil means that the
// file does not say.
func loadOffered(tx *bolt.Tx, path string) (intervals, error) {
	stored := tx.Bucket(bucketState).Get(keyOffered)
	if stored == nil {
		return nil, nil
	}
	if v, ok := unsealed(keyOffered, stored); ok {
		if set, err := readIntervals(v); err == nil {
			return set, nil
		}
	}
	return nil, &corruptError{path: path, why: "the numbers that were handed out do not read"}
}
