package spool

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// startEpoch makes a tail for a spool that is new or has lost its state. Block
// numbers go on above those of the segments that are left. Acknowledgements
// come from the newest segment whose copy of them reads: an older copy only
// means that a block is sent again.
func (s *Spool) startEpoch(ctx context.Context, ids []uint64, op *opening) error {
	t := &tailState{
		counters: counters{epoch: newEpoch(), next: 1, commit: 1, loss: 1},
		streams:  map[uint32]streamState{}, acks: map[string]intervals{},
	}
	op.tail = t
	for i := len(s.segs) - 1; i >= 0; i-- {
		found, err := s.oldState(ctx, s.segs[i], t)
		if err != nil {
			return err
		}
		if found {
			break
		}
	}
	id := uint64(1)
	if len(ids) > 0 {
		id = ids[len(ids)-1] + 1
	}
	for _, g := range s.segs {
		t.next = max(t.next, g.next)
	}
	t.epochFirst = t.next
	if s.readOnly {
		return nil
	}
	if len(ids) > 0 {
		s.lostParts(ids[len(ids)-1], op.broken, t)
	}
	for i := range t.losses {
		t.losses[i].Earlier = true
	}
	g := s.newSegment(id)
	g.first, g.next = t.next, t.next
	c := &change{counters: t.counters, losses: t.losses, policies: t.policies}
	for name, acked := range t.acks {
		c.acks = append(c.acks, ackValue{sink: name, value: acked.append(nil)})
	}
	if n := len(s.segs); n > 0 && s.segs[n-1].indexSize == 0 {
		size, err := s.writeIndex(s.segs[n-1])
		if err != nil {
			return fmt.Errorf("spool %s: %w", s.o.Dir, err)
		}
		s.segs[n-1].indexSize = size
	}
	err := s.createSegment(g, func(tx *bolt.Tx) error {
		return errors.Join(c.write(tx), put(tx.Bucket(bucketState), keyEpochFirst, key64(t.epochFirst)))
	})
	if err != nil {
		return unusable(s.o.Dir, err)
	}
	s.touched = true
	s.segs = append(s.segs, g)
	// Only now may the file without a state go: before, the segment under it
	// would have passed for the tail.
	if last := len(ids) - 1; last >= 0 && !slices.ContainsFunc(s.segs, func(g *segment) bool { return g.id == ids[last] }) {
		return s.putAside(&segment{id: ids[last], path: segmentPath(s.o.Dir, ids[last])}, op.broken.why)
	}
	return nil
}

// oldState takes up what a state in an older segment is still good for.
func (s *Spool) oldState(ctx context.Context, g *segment, t *tailState) (bool, error) {
	var corrupt *corruptError
	if !g.probed.Load() {
		// What cannot be salvaged is dealt with when it is read.
		if err := s.examine(ctx, g, roleSegment, false); errors.As(err, &corrupt) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	err := g.view(s.o.Clock.Now(), func(tx *bolt.Tx) error {
		acks, err := loadAcks(tx, g.path)
		if err != nil {
			return err
		}
		losses, err := loadLosses(tx, g.path)
		if err != nil {
			return err
		}
		v, ok := unsealed(keyCounters, tx.Bucket(bucketState).Get(keyCounters))
		old, ok2 := readCounters(v)
		if !ok || !ok2 {
			return &corruptError{path: g.path, why: "its counters do not read"}
		}
		if t.policies, err = loadPolicies(tx, g.path); err != nil {
			return err
		}
		// Numbers above those of the blocks that are left were given too: a sink
		// that has them must not pass for having new ones.
		t.acks, t.losses, t.loss, t.floor, t.next = acks, losses, old.loss, old.floor, max(t.next, old.next)
		return nil
	})
	if errors.As(err, &corrupt) {
		return false, nil
	}
	return err == nil, err
}

// isEarlier reports whether a block is of an epoch before the spool's. Callers
// hold mu.
func (s *Spool) isEarlier(number uint64) bool {
	return number < s.epochFirst || s.retried.has(number)
}

// lostParts declares what the open tier of a tail without state held. Its
// parts cannot be sealed: which tags they are about is lost.
func (s *Spool) lostParts(id uint64, why *corruptError, t *tailState) {
	lose := func(l Loss) {
		l.ID, l.Cause, l.At, l.Earlier = t.loss, CauseCorrupt, s.o.Clock.Now(), true
		t.loss++
		t.losses = append(t.losses, storedLoss{Loss: l})
	}
	i := slices.IndexFunc(s.segs, func(g *segment) bool { return g.id == id })
	if i < 0 || why.successor { // the file is put aside or gone: what it held is not known
		lose(Loss{Stream: NoStream, Unknown: true})
		return
	}
	g := s.segs[i]
	known := &tailState{streams: map[uint32]streamState{}}
	err := g.view(s.o.Clock.Now(), func(tx *bolt.Tx) error {
		err := each(tx, bucketStreams, func(k, v []byte) error {
			if v, ok := unsealed(k, v); ok && len(k) == 4 && len(v) == 16 {
				known.streams[binary.BigEndian.Uint32(k)] = streamState{sealed: binary.BigEndian.Uint64(v[8:])}
			}
			return nil
		})
		if err != nil {
			return err
		}
		loadOpen(tx, known, func(p Part) { lose(partLoss(p)) })
		return nil
	})
	cut := err != nil
	for _, d := range known.damaged {
		cut = cut || d.cut
		for _, p := range d.lost {
			lose(partLoss(p))
		}
	}
	if cut {
		lose(Loss{Stream: NoStream, Unknown: true})
	}
	// The new tail starts without these streams.
}

func partLoss(p Part) Loss {
	return Loss{Stream: p.Stream, First: p.First, Last: p.Last, Count: uint64(p.Count)}
}

func newEpoch() uint64 {
	var b [8]byte
	for {
		// It never fails: the runtime ends the process where the system has no
		// random numbers.
		_, _ = rand.Read(b[:])
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}
