package spool

import (
	"errors"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// Read returns the oldest blocks with numbers above after that the sink has
// not acknowledged: maxBlocks at most, and maxBytes of data at most but for
// the first. Their Data is the caller's. No transaction is left open. A block
// whose bytes do not match its checksum is declared lost and left out.
func (s *Spool) Read(sinkName string, after uint64, maxBlocks, maxBytes int) ([]Block, error) {
	var out []Block
	size := 0
	for len(out) < maxBlocks {
		g, numbers, err := s.wanted(sinkName, after, maxBlocks-len(out), maxBytes-size, len(out) == 0)
		if err != nil {
			return nil, err
		}
		if len(numbers) == 0 {
			return out, nil
		}
		blocks, bad, err := s.fetch(g, numbers)
		switch {
		case errors.Is(err, errGone):
			continue // evicted meanwhile: what is wanted is elsewhere now
		case err != nil:
			if err := s.unreadable(g, err); err != nil {
				return nil, err
			}
			continue
		}
		if err := s.declareBad(g, bad); err != nil {
			return nil, err
		}
		for i := range blocks {
			size += len(blocks[i].Data)
		}
		out = append(out, blocks...)
		after = numbers[len(numbers)-1]
	}
	return out, nil
}

// wanted lists the next numbers for a sink, all in one segment.
func (s *Spool) wanted(sinkName string, after uint64, maxBlocks, maxBytes int, first bool) (*segment, []uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, nil, s.broken
	}
	if s.closed {
		return nil, nil, errClosed
	}
	k := s.sinks[sinkName]
	if k == nil {
		return nil, nil, errors.New("the spool knows no sink " + sinkName)
	}
	for _, g := range s.segs {
		if g.next <= after+1 {
			continue
		}
		var numbers []uint64
		for n := k.acked.free(max(g.first, after+1)); n < g.next && len(numbers) < maxBlocks; n = k.acked.free(n + 1) {
			e, ok := g.entry(n)
			if !ok {
				continue
			}
			if maxBytes -= int(e.bytes); maxBytes < 0 && !first {
				if len(numbers) == 0 {
					return nil, nil, nil
				}
				break
			}
			first = false
			numbers = append(numbers, n)
		}
		if len(numbers) > 0 {
			return g, numbers, nil
		}
	}
	return nil, nil, nil
}

// fetch copies blocks out of a segment, and lists those that do not read.
func (s *Spool) fetch(g *segment, numbers []uint64) (blocks []Block, bad []uint64, err error) {
	err = g.view(s.now(), func(tx *bolt.Tx) error {
		blocks, bad = make([]Block, 0, len(numbers)), nil
		next := 0
		g.blocks(tx, numbers[0], func(h *blockHeader, key []byte) bool {
			for next < len(numbers) && numbers[next] < h.Number {
				bad = append(bad, numbers[next])
				next++
			}
			if next == len(numbers) {
				return false
			}
			if h.Number != numbers[next] {
				return true
			}
			next++
			if data := g.data(tx, h, key); data != nil {
				blocks = append(blocks, h.block(slices.Clone(data)))
			} else {
				bad = append(bad, h.Number)
			}
			return next < len(numbers)
		})
		bad = append(bad, numbers[next:]...)
		return nil
	})
	if err == nil {
		s.trim(g)
	}
	return blocks, bad, err
}

// trim closes the segment that was not read for longest, where more are open
// than are to be.
func (s *Spool) trim(current *segment) {
	s.mu.Lock()
	var oldest *segment
	open := 0
	for _, g := range s.segs[:len(s.segs)-1] {
		if g != current && g.isOpen() {
			open++
			if oldest == nil || g.used.Load() < oldest.used.Load() {
				oldest = g
			}
		}
	}
	s.mu.Unlock()
	if open < maxOpen {
		return
	}
	// The one that is left open longer is closed by Sync.
	if err := oldest.close(false); err != nil {
		s.log.Warn("a segment did not close", "file", oldest.path, "error", err)
	}
}

// declareBad declares blocks that do not read as lost to every sink that has
// not acknowledged them.
func (s *Spool) declareBad(g *segment, numbers []uint64) error {
	if len(numbers) == 0 {
		return nil
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	headers := map[uint64]Info{}
	err := g.view(s.now(), func(tx *bolt.Tx) error {
		g.blocks(tx, numbers[0], func(h *blockHeader, _ []byte) bool {
			headers[h.Number] = h.Info
			return h.Number < numbers[len(numbers)-1]
		})
		return nil
	})
	if err != nil && !errors.Is(err, errGone) {
		return s.unreadableLocked(g, err)
	}
	for _, n := range numbers {
		if err := s.declareBlock(g, n, headers); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) declareBlock(g *segment, n uint64, headers map[uint64]Info) error {
	s.mu.Lock()
	e, held := g.entry(n)
	lacking := s.lacking(n)
	l := Loss{Stream: NoStream, Sinks: s.named(lacking), Count: uint64(e.count)}
	s.mu.Unlock()
	if !held || len(lacking) == 0 {
		return nil // declared by another reader
	}
	if h, ok := headers[n]; ok {
		l.Stream, l.FromSeq, l.ToSeq, l.First, l.Last = h.Stream, h.Seq, h.Seq, h.First, h.Last
	}
	err := s.store("loss", 0, func() *change {
		c := s.newChange(span{n, n})
		c.addLoss(l, CauseCorrupt, s.now())
		return c
	})
	if err != nil {
		return err
	}
	s.log.Error("a block does not match its checksum and is declared lost",
		"file", g.path, "block", n, "stream", l.Stream, "seq", l.FromSeq, "samples", l.Count, "sinks", lacking)
	s.mu.Lock()
	s.stats.corrupt++
	s.mu.Unlock()
	return nil
}

// unreadable deals with a segment that failed while it was read. It returns
// nil where the reader can go on without it.
func (s *Spool) unreadable(g *segment, err error) error {
	var corrupt *corruptError
	if !errors.As(err, &corrupt) || s.readOnly {
		return err
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	return s.unreadableLocked(g, corrupt)
}

func (s *Spool) unreadableLocked(g *segment, err error) error {
	var corrupt *corruptError
	if !errors.As(err, &corrupt) {
		return err
	}
	if g == s.tail() {
		return s.breakDown("read", err)
	}
	s.mu.Lock()
	here := slices.Contains(s.segs, g)
	s.mu.Unlock()
	if !here {
		return nil // another reader met it before
	}
	if err := s.declareSegment(g, nil, CauseCorrupt); err != nil {
		return err
	}
	if err := s.putAside(g, corrupt.why); err != nil {
		return s.breakDown("put a corrupt segment aside", err)
	}
	s.mu.Lock()
	s.remove(g)
	s.stats.corrupt++
	s.mu.Unlock()
	return nil
}

// List returns up to most blocks that some sink has not acknowledged, oldest
// first.
func (s *Spool) List(most int) ([]Info, error) {
	s.mu.Lock()
	segs := slices.Clone(s.segs)
	s.mu.Unlock()
	var out []Info
	for _, g := range segs {
		if len(out) >= most {
			break
		}
		err := g.view(s.now(), func(tx *bolt.Tx) error {
			g.blocks(tx, 0, func(h *blockHeader, _ []byte) bool {
				s.mu.Lock()
				waiting := s.lacking(h.Number)
				known := h.Number < g.next
				s.mu.Unlock()
				if known && len(waiting) > 0 {
					h.Waiting, h.Segment = waiting, g.id
					out = append(out, h.Info)
				}
				return len(out) < most
			})
			return nil
		})
		if err != nil && !errors.Is(err, errGone) {
			return nil, err
		}
	}
	return out, nil
}

// Peek returns a block, whoever has acknowledged it, with bytes of its own. It
// fails with *NotFoundError where the spool does not hold it.
func (s *Spool) Peek(number uint64) (Block, error) {
	s.mu.Lock()
	g := s.segmentOf(number)
	held := false
	if g != nil {
		_, held = g.entry(number)
	}
	s.mu.Unlock()
	if !held {
		return Block{}, &NotFoundError{What: "block", Number: number}
	}
	blocks, bad, err := s.fetch(g, []uint64{number})
	switch {
	case errors.Is(err, errGone):
		return Block{}, &NotFoundError{What: "block", Number: number}
	case err != nil:
		return Block{}, err
	case len(bad) > 0:
		return Block{}, &corruptError{path: g.path, why: "block " + strconv.FormatUint(number, 10) + " does not match its checksum"}
	}
	return blocks[0], nil
}
