package spool

import "errors"

// Held returns the oldest blocks with numbers above after that the spool still
// holds, whoever has acknowledged them: maxBlocks at most, and maxBytes of data
// at most but for the first. Their Data is the caller's. Those whose bytes do
// not match their checksum are left out; reading for a sink declares them. It
// returns the number to go on after, or 0 where there is nothing more; with an
// error too, where it is about one segment alone.
func (s *Spool) Held(after uint64, maxBlocks, maxBytes int) (blocks []Block, next uint64, err error) {
	for {
		g, numbers := s.heldBehind(after, maxBlocks, maxBytes)
		if g == nil {
			return nil, 0, nil
		}
		err := s.ensure(g, false)
		var waits *FullError
		if errors.As(err, &waits) { // it is damaged, and nothing of it is given up
			return nil, s.behind(g), err
		}
		if err == nil {
			blocks, _, err = s.fetch(g, numbers)
		}
		switch {
		case errors.Is(err, errGone), errors.Is(err, errUnprobed):
			continue // it left, or was found damaged meanwhile
		case err != nil && s.readOnly:
			return nil, s.behind(g), err
		case err != nil:
			if err := s.unreadable(g, err); err != nil {
				return nil, 0, err
			}
			continue
		}
		after = numbers[len(numbers)-1]
		if len(blocks) > 0 {
			return blocks, after, nil
		}
	}
}

// behind is a segment's last number.
func (s *Spool) behind(g *segment) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.next - 1
}

// heldBehind lists the next numbers held, all in one segment.
func (s *Spool) heldBehind(after uint64, maxBlocks, maxBytes int) (*segment, []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segs {
		var numbers []uint64
		for n := max(g.first, after+1); n < g.next && len(numbers) < maxBlocks; n++ {
			e, ok := g.entry(n)
			if !ok {
				continue
			}
			if maxBytes -= int(e.bytes); maxBytes < 0 && len(numbers) > 0 {
				break
			}
			numbers = append(numbers, n)
		}
		if len(numbers) > 0 {
			return g, numbers
		}
	}
	return nil, nil
}

// Held is Spool.Held.
func (r *Reader) Held(after uint64, maxBlocks, maxBytes int) ([]Block, uint64, error) {
	return r.s.Held(after, maxBlocks, maxBytes)
}
