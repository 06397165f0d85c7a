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
		g, numbers, offered, err := s.wanted(sinkName, after, maxBlocks-len(out), maxBytes-size, len(out) == 0)
		if err != nil {
			return nil, err
		}
		if len(numbers) == 0 {
			return out, nil
		}
		if !offered {
			if err := s.offer(g, numbers[0], numbers[len(numbers)-1]); err != nil {
				return nil, err
			}
			continue // some may have left meanwhile
		}
		if err := s.ensure(g, false); err != nil {
			return nil, err
		}
		blocks, bad, err := s.fetch(g, numbers)
		switch {
		case errors.Is(err, errGone), errors.Is(err, errUnprobed):
			continue // evicted or damaged meanwhile
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

// wanted lists the next numbers for a sink, all in one segment, and whether they
// may be handed out already.
func (s *Spool) wanted(sinkName string, after uint64, maxBlocks, maxBytes int, first bool) (g *segment, numbers []uint64, offered bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil, nil, false, s.broken
	}
	if s.closed {
		return nil, nil, false, errClosed
	}
	k := s.sinks[sinkName]
	if k == nil {
		return nil, nil, false, errors.New("the spool knows no sink " + sinkName)
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
					return nil, nil, true, nil
				}
				break
			}
			first = false
			numbers = append(numbers, n)
		}
		if len(numbers) > 0 {
			return g, numbers, !s.thins || s.offeredTo(g, numbers), nil
		}
	}
	s.keepsUp = true
	return nil, nil, true, nil
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
	now := s.now()
	s.mu.Lock()
	var oldest *segment
	open := 0
	for _, g := range s.segs[:len(s.segs)-1] {
		if g != current && g.isOpen() {
			open++
			if oldest == nil || g.idle(now) > oldest.idle(now) {
				oldest = g
			}
		}
	}
	s.mu.Unlock()
	if open < maxOpen {
		return
	}
	// The one that is left open longer is closed by Tend.
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
	return s.declareLocked(g, numbers)
}

// declareLocked declares blocks of a segment lost, by rising number, in one
// transaction.
func (s *Spool) declareLocked(g *segment, numbers []uint64) error {
	return s.declareBy(g, numbers, func(plan func() *change) error { return s.store("loss", 0, plan) })
}

// declareBy is declareLocked with a way to store the change that is planned.
func (s *Spool) declareBy(g *segment, numbers []uint64, store func(plan func() *change) error) error {
	headers := map[uint64]Info{}
	if len(numbers) == 0 {
		return nil
	}
	err := s.headers(g, func(h *blockHeader) bool {
		headers[h.Number] = h.Info
		return h.Number < numbers[len(numbers)-1]
	})
	if err != nil && !errors.Is(err, errGone) {
		return s.unreadableLocked(g, err)
	}
	var losses []Loss
	var gone []span
	plan := func() *change {
		gone = nil
		losses, gone = s.lossesOfNumbers(g, numbers, headers)
		c := s.newChange(gone...)
		for _, l := range losses {
			c.addLoss(l, CauseCorrupt, s.now())
		}
		return c
	}
	if _, gone = s.lossesOfNumbers(g, numbers, headers); len(gone) == 0 {
		return nil // declared by another reader
	}
	if err := store(plan); err != nil {
		return err
	}
	for _, l := range losses {
		s.log.Error("blocks do not match their checksums and are declared lost",
			"file", g.path, "stream", l.Stream, "from_seq", l.FromSeq, "to_seq", l.ToSeq, "samples", l.Count, "sinks", l.Sinks)
	}
	s.mu.Lock()
	s.stats.corrupt += uint64(len(gone))
	s.mu.Unlock()
	return nil
}

// lossesOfNumbers lists the losses that blocks are, and the numbers that leave
// with them: those that are held and that some sink lacks.
func (s *Spool) lossesOfNumbers(g *segment, numbers []uint64, headers map[uint64]Info) (losses []Loss, gone []span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var known []Info
	var rest []Loss
	for _, n := range numbers {
		e, held := g.entry(n)
		lacking := s.lacking(n)
		if !held || len(lacking) == 0 {
			continue
		}
		gone = append(gone, span{n, n})
		if h, ok := headers[n]; ok {
			h.Waiting = lacking
			known = append(known, h)
		} else {
			rest = append(rest, Loss{Stream: NoStream, Sinks: s.named(lacking), Count: uint64(e.count)})
		}
	}
	return append(s.lossesOf(known), rest...), gone
}

// mostFaults is how often a segment that is found whole may fail.
const mostFaults = 2

// unreadable deals with a segment that failed while it was read. It returns
// nil where the reader can go on: the segment was salvaged, or is given up.
func (s *Spool) unreadable(g *segment, err error) error {
	var corrupt *corruptError
	if !errors.As(err, &corrupt) || s.readOnly {
		return err
	}
	if s.isOlder(g) && g.faults.Add(1) < mostFaults {
		return s.ensure(g, true)
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	return s.unreadableLocked(g, corrupt)
}

// isOlder reports whether g is held and is not the tail.
func (s *Spool) isOlder(g *segment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.segs[:len(s.segs)-1], g)
}

func (s *Spool) unreadableLocked(g *segment, err error) error {
	var corrupt *corruptError
	if !errors.As(err, &corrupt) {
		return err
	}
	if g == s.tail() {
		return s.breakDown("read", err)
	}
	if !s.isOlder(g) {
		return nil // another reader met it before
	}
	return s.giveUp(g, corrupt)
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
		err := s.headers(g, func(h *blockHeader) bool {
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
		if err != nil && !errors.Is(err, errGone) {
			return nil, err
		}
	}
	return out, nil
}

// Peek returns a block, whoever has acknowledged it, with bytes of its own. It
// fails with *NotFoundError where the spool does not hold it.
func (s *Spool) Peek(number uint64) (Block, error) {
	if err := s.ensureNumber(number); err != nil {
		return Block{}, err
	}
	return s.peek(number)
}

// ensureNumber returns after the segment that has a block was looked at.
// Callers hold no lock.
func (s *Spool) ensureNumber(number uint64) error {
	s.mu.Lock()
	g := s.segmentOf(number)
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	return s.ensure(g, false)
}

// peek is Peek where the segment was looked at.
func (s *Spool) peek(number uint64) (Block, error) {
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
