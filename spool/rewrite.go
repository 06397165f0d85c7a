package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// A segment that is not the tail is replaced by one with the same id that holds
// fewer blocks, in three steps: writeRest makes the new file, complete and
// durable, under a temporary name; the caller declares what is lost and marks
// it as left, in one durable transaction on the tail; exchange renames the new
// file over the old one. A crash leaves the old file or the new one, and either
// opens to the same state: numbers that every sink has are looked for nowhere.

// writeRest makes a file with those of g's blocks that keep names. It leaves
// nothing behind where it fails.
func (s *Spool) writeRest(g *segment, keep func(h *blockHeader) bool) (left []blockHeader, err error) {
	temp := g.path + tempSuffix
	if err := os.RemoveAll(temp); err != nil {
		return nil, err
	}
	err = s.writeKept(g, temp, keep, func(h *blockHeader) { left = append(left, *h) })
	if err == nil {
		err = s.hooks.at("rewrite written")
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(temp))
	}
	return left, nil
}

// exchange puts temp in the place of a segment. What fails from here on leaves
// it open which file a restart finds.
func (s *Spool) exchange(g *segment, temp string) error {
	err := removeIndex(g.path)
	if err == nil {
		err = s.hooks.at("rewrite without index")
	}
	if err == nil {
		err = os.Rename(temp, g.path)
	}
	if err == nil {
		err = s.hooks.at("rewrite renamed")
	}
	if err == nil {
		err = syncDir(s.o.Dir)
	}
	if err != nil {
		return s.breakDown("rewrite a segment", err)
	}
	return nil
}

// follow makes memory follow a rewritten segment. Readers that have the old
// file open read it to their end.
func (s *Spool) follow(g *segment, left []blockHeader) error {
	if err := g.close(false); err != nil {
		s.log.Warn("a segment did not close", "file", g.path, "error", err)
	}
	size, err := fileSize(g.path)
	if err != nil {
		return s.breakDown("rewrite a segment", err)
	}
	s.mu.Lock()
	var rest entries
	for n := g.first; n < g.next; n++ {
		e := hole
		if len(left) > 0 && left[0].Number == n {
			e, left = entryOf(&left[0].Info), left[1:]
		}
		rest.add(e)
	}
	rest.clip()
	g.entries, g.size, g.indexSize = rest, size, 0
	s.stats.rewritten++
	s.mu.Unlock()
	// Without an index the next start reads the segment, and writes it then.
	indexSize, err := s.writeIndex(g)
	if err == nil {
		err = syncDir(s.o.Dir)
	}
	if err != nil {
		s.log.Warn("the index of a segment could not be written; the next start reads the segment again", "file", g.path, "error", err)
		return nil
	}
	s.mu.Lock()
	g.indexSize = indexSize
	s.mu.Unlock()
	if err := g.close(false); err != nil {
		s.log.Warn("a segment did not close", "file", g.path, "error", err)
	}
	return s.hooks.at("rewrite done")
}

// writeKept fills temp with g's leftover state, which marks it as retired, and
// with those of its blocks that keep names, in transactions of bounded size,
// each of them synced.
func (s *Spool) writeKept(g *segment, temp string, keep func(h *blockHeader) bool, wrote func(h *blockHeader)) (err error) {
	db, err := openFile(temp, &bolt.Options{NoStatistics: true})
	if err != nil {
		return err
	}
	db.AllocSize = 16 * pageSize
	defer func() { err = errors.Join(err, db.Close()) }()
	err = guard(temp, func() error {
		return db.Update(func(to *bolt.Tx) error {
			if err := createBuckets(to); err != nil {
				return err
			}
			return g.view(s.now(), func(from *bolt.Tx) error { return copyState(from, to, nil) })
		})
	})
	if err != nil {
		return err
	}
	for next := uint64(0); ; {
		blocks, last, err := s.keptFrom(g, next, keep, wrote)
		if err != nil || len(blocks) == 0 {
			return err
		}
		err = guard(temp, func() error {
			return db.Update(func(to *bolt.Tx) error {
				c := &change{blocks: blocks}
				return c.writeBlocks(to)
			})
		})
		if err != nil {
			return err
		}
		next = last + 1
	}
}

// rewriteBatch bounds the blocks of one transaction of a rewrite, in bytes.
const rewriteBatch = 4 << 20

// keptFrom copies blocks that are to be kept, from number next on. One that
// does not match its checksum has to be declared as such first.
func (s *Spool) keptFrom(g *segment, next uint64, keep func(h *blockHeader) bool, wrote func(h *blockHeader)) (blocks []Block, last uint64, err error) {
	size := 0
	err = g.view(s.now(), func(tx *bolt.Tx) error {
		var bad error
		g.blocks(tx, next, func(h *blockHeader, key []byte) bool {
			if !keep(h) {
				return true
			}
			data := g.data(tx, h, key)
			if data == nil {
				bad = &damagedBlockError{number: h.Number}
				return false
			}
			blocks = append(blocks, h.block(slices.Clone(data)))
			wrote(h)
			last = h.Number
			size += len(data)
			return size < rewriteBatch
		})
		return bad
	})
	return blocks, last, err
}

// damagedBlockError says that a block which is to be kept does not read.
type damagedBlockError struct{ number uint64 }

func (e *damagedBlockError) Error() string {
	return fmt.Sprintf("block %d does not match its checksum", e.number)
}

// lighten drops what may go of a segment, declared, and writes the rest anew.
// Where drop is unset it only gives up what every sink has. Where the new file
// does not fit, nothing is declared.
func (s *Spool) lighten(g *segment, reservedFrom uint64, drop bool) error {
	if err := s.lookAt(g); err != nil {
		return err
	}
	lost, kept, err := s.divide(g, reservedFrom, drop)
	var left []blockHeader
	if err == nil {
		left, err = s.writeRest(g, func(h *blockHeader) bool {
			_, ok := slices.BinarySearch(kept, h.Number)
			return ok
		})
	}
	var damaged *damagedBlockError
	var corrupt *corruptError
	switch {
	case errors.As(err, &damaged):
		// It is had by all then, and the next attempt does not meet it. Room is
		// being made already: to make some for this would end here again.
		return s.declareBy(g, []uint64{damaged.number}, func(plan func() *change) error { return s.transact("loss", plan()) })
	case errors.As(err, &corrupt) && corrupt.path == g.path:
		return s.unreadableLocked(g, err)
	case err != nil:
		return err
	}
	if err := s.declareLost(g, lost); err != nil {
		return errors.Join(err, os.RemoveAll(g.path+tempSuffix))
	}
	if err := s.hooks.at("rewrite declared"); err != nil {
		return s.breakDown("rewrite a segment", err)
	}
	if err := s.exchange(g, g.path+tempSuffix); err != nil {
		return err
	}
	return s.follow(g, left)
}

// lookAt has a segment probed before it is mapped. One that is bad is left to
// the prober, which salvages it.
func (s *Spool) lookAt(g *segment) error {
	if g.probed.Load() {
		return nil
	}
	r, err := s.runProbe(context.Background(), &probeJob{Path: g.path, Role: roleSegment, ID: g.id})
	if err != nil {
		return err
	}
	if r.Verdict == verdictGood {
		g.probed.Store(true)
		return nil
	}
	if s.prober != nil {
		select {
		case s.prober.requests <- probeRequest{g: g, reply: make(chan error, 1)}:
		default: // it is busy, and will come to it
		}
	}
	return errUnprobed
}

// divide sorts a segment's blocks into those that go and those that stay.
func (s *Spool) divide(g *segment, reservedFrom uint64, drop bool) (lost []Info, kept []uint64, err error) {
	err = s.headers(g, func(h *blockHeader) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		h.Waiting = s.lacking(h.Number)
		switch {
		case len(h.Waiting) == 0:
		case !drop, s.kept(h.Stream, h.Number, reservedFrom):
			kept = append(kept, h.Number)
		default:
			lost = append(lost, h.Info)
		}
		return true
	})
	return lost, kept, err
}

// declareLost declares blocks of a segment and marks them as left, in one
// transaction, together with what every sink has acknowledged so far.
func (s *Spool) declareLost(g *segment, lost []Info) error {
	s.mu.Lock()
	losses := s.lossesOf(lost)
	s.mu.Unlock()
	gone := make([]span, 0, len(lost))
	samples := uint64(0)
	for i := range lost {
		samples += uint64(lost[i].Count)
		if n := len(gone) - 1; n >= 0 && gone[n].to+1 == lost[i].Number {
			gone[n].to++
			continue
		}
		gone = append(gone, span{lost[i].Number, lost[i].Number})
	}
	plan := s.newChange(gone...)
	for _, l := range losses {
		s.addEvicted(plan, l)
	}
	if err := s.transact("declare", plan); err != nil {
		return err
	}
	s.logEvicted(g, CauseEvicted, len(losses), samples)
	return nil
}
