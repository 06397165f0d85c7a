package spool

import (
	"errors"
	"fmt"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"

	"millrace/internal/failpoint"
)

const (
	pageSize = 4096 // for estimates only
	// fixedPages is what a transaction writes besides records.
	fixedPages = 16
	// maxGarbage bounds the open records that one commit deletes.
	maxGarbage = 1024
	// keepBuf is the largest encoding buffer kept between commits, in bytes.
	keepBuf = 1 << 20
)

// usage is how the tail uses its file, in bytes.
type usage struct {
	high int64 // where pages end that were ever used
	free int64 // of them, those free to use again
}

// totals count since the spool was opened.
type totals struct {
	commits      uint64
	bytesWritten uint64
	stored       uint64 // what blocks take on the disk, estimated
	evicted      uint64
	replaced     uint64 // blocks that thinned ones replaced
	rewritten    uint64
	corrupt      uint64
	salvaged     uint64
	mended       uint64
}

// Commit makes c durable, all or nothing, in one transaction, and numbers its
// blocks. It makes room first where the size bound asks for it: the oldest
// data leaves and is declared lost. It returns *FullError where there is no
// room even so, and nothing is stored, and *BrokenError where the disk failed,
// now or before. A rotation that fails is tried again with the next commit.
func (s *Spool) Commit(c *Commit) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	need := needs(c)
	if limit := s.o.largestCommit(); need > limit {
		return fmt.Errorf("spool %s: a commit of %d bytes is more than the %d that the bound of %d allows: raise spool.max_size", s.o.Dir, need, limit, s.o.MaxBytes)
	}
	if s.buf = s.buf[:0]; cap(s.buf) > keepBuf {
		s.buf = nil
	}
	for i := range c.Parts {
		s.buf = appendPart(s.buf, &c.Parts[i])
	}
	blocks := slices.Clone(c.Blocks)
	var done *change
	if len(c.Parts)+len(blocks)+len(c.Meta)+len(c.Settle)+len(c.Policies) > 0 {
		err := s.storeIn(s.classOf(c), "commit", need, func() *change {
			done = s.planCommit(c, blocks)
			return done
		})
		if err != nil {
			return err
		}
		for i := range blocks {
			c.Blocks[i].Number = blocks[i].Number
		}
		s.keepRecords(c, done)
	}
	if !c.Rotate {
		return nil
	}
	return s.tryRotate()
}

// tryRotate rotates after a commit, which is durable whatever becomes of it:
// only a broken disk is an error.
func (s *Spool) tryRotate() error {
	err := s.rotateTail()
	if err == nil {
		return nil
	}
	if broken := s.usable(); broken != nil {
		s.log.Error("the new segment could not be made durable", "error", broken)
		return nil // the next commit says so
	}
	s.log.Warn("no new segment could be made; the next commit tries again", "error", err)
	return nil
}

// needs estimates what c takes on disk, in bytes.
func needs(c *Commit) int64 {
	n := int64(0)
	for i := range c.Parts {
		n += int64(len(c.Parts[i].Data)) + partHeaderLen
	}
	for i := range c.Blocks {
		n += pages(int64(len(c.Blocks[i].Data))) + 2*blockKeyLen
	}
	for i := range c.Meta {
		n += int64(len(c.Meta[i].Key)+len(c.Meta[i].Value)) + 64
	}
	return pages(n)
}

func pages(n int64) int64 { return (n + 64 + pageSize - 1) / pageSize * pageSize }

// planCommit is the change that c makes; blocks get their numbers.
func (s *Spool) planCommit(c *Commit, blocks []Block) *change {
	ch := s.newChange()
	ch.meta, ch.settle, ch.policies = c.Meta, c.Settle, s.withPolicies(c.Policies)
	if len(c.Parts) > 0 {
		ch.parts, ch.record = s.buf, ch.number
	}
	for i := range blocks {
		b := &blocks[i]
		b.Number = ch.counters.next
		ch.counters.next++
		st, ok := ch.streams[b.Stream]
		if !ok {
			st = s.streams[b.Stream]
		}
		ch.streams[b.Stream] = streamState{seq: max(st.seq, b.Seq), sealed: ch.number}
	}
	ch.blocks = blocks
	s.offerNew(ch)
	// Records whose streams are all sealed by this commit go with it.
	if len(blocks) > 0 {
		for i := range s.records {
			r := &s.records[i]
			if len(ch.garbage) < maxGarbage && !slices.ContainsFunc(r.parts, func(p openPart) bool {
				_, seals := ch.streams[p.stream]
				return !seals
			}) {
				ch.garbage = append(ch.garbage, r.commit)
			}
		}
	}
	return ch
}

// keepRecords follows a commit in memory's list of the open tier.
func (s *Spool) keepRecords(c *Commit, ch *change) {
	if len(ch.blocks) > 0 {
		gone := ch.garbage[ch.oldGarbage:] // in the records' order
		s.records = slices.DeleteFunc(s.records, func(r openRecord) bool {
			if len(gone) > 0 && gone[0] == r.commit {
				gone = gone[1:]
				return true
			}
			return false
		})
		keep := s.records[:0]
		for _, r := range s.records {
			r.parts = slices.DeleteFunc(r.parts, func(p openPart) bool {
				_, seals := ch.streams[p.stream]
				return seals
			})
			if len(r.parts) == 0 {
				s.garbage = append(s.garbage, r.commit)
				continue
			}
			keep = append(keep, r)
		}
		s.records = keep
	}
	if len(c.Parts) > 0 {
		r := openRecord{commit: ch.record, parts: make([]openPart, len(c.Parts)), bytes: int64(len(ch.parts))}
		for i := range c.Parts {
			r.parts[i] = openPart{c.Parts[i].Stream, c.Parts[i].Count}
		}
		s.records = append(s.records, r)
	}
	open := totalsOf(s.records)
	s.mu.Lock()
	s.open = open
	s.mu.Unlock()
}

// newChange starts a change from the state as it is, with what every change
// takes along: acknowledgements and deletions that wait. Blocks numbered gone
// leave with it.
func (s *Spool) newChange(gone ...span) *change {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &change{counters: s.counters, streams: map[uint32]streamState{}, acks: s.dirtyAcks(gone), gone: gone}
	// Each change has a number of its own, by which a tail tells whether it has
	// it.
	c.number = c.counters.commit
	c.counters.commit++
	c.counters.floor = s.newFloor()
	for _, g := range s.segs[:len(s.segs)-1] {
		if s.drained(g) {
			c.drained = append(c.drained, g)
		}
	}
	c.garbage = slices.Clone(s.garbage[:min(len(s.garbage), maxGarbage)])
	c.oldGarbage = len(c.garbage)
	return c
}

// store is storeIn for what is small and must not wait for room: without it
// nothing would ever leave.
func (s *Spool) store(op string, need int64, plan func() *change) error {
	return s.storeIn(withReserve, op, need, plan)
}

// maxFreed bounds what is given up for one transaction on a full disk.
const maxFreed = 16

// storeIn runs plan's change, and makes room and tries again where that helps.
// Making room changes the state, so plan is called anew for each attempt.
func (s *Spool) storeIn(room class, op string, need int64, plan func() *change) error {
	err := s.makeRoom(need, room)
	var full *FullError
	if err != nil && (need > 0 || !errors.As(err, &full)) {
		return err
	}
	err = s.transact(op, plan())
	if tooLargeForFile(err) {
		if err := s.rotateTail(); err != nil {
			return s.failed(op, need, err)
		}
		s.allow(need)
		err = s.transact(op, plan())
	}
	for freed := 0; outOfSpace(err) && freed < maxFreed; freed++ {
		some, ferr := s.freeForSpace(err)
		if ferr != nil {
			return ferr
		}
		if !some {
			break
		}
		err = s.transact(op, plan())
	}
	if err != nil {
		return s.failed(op, need, err)
	}
	return nil
}

// allow lets a new tail grow as far as one change of need bytes takes it, which
// may be more than a segment has otherwise.
func (s *Spool) allow(need int64) {
	g := s.tail()
	s.mu.Lock()
	most := s.usage.high + need + fixedPages*pageSize + 2*s.o.growthStep()
	s.mu.Unlock()
	g.db.MaxSize = max(g.db.MaxSize, int(min(most, maxFile)))
}

// classOf says how much of the bound a commit may fill: what is of Reserved
// streams alone may use their room.
func (s *Spool) classOf(c *Commit) class {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range c.Parts {
		if !s.policy(c.Parts[i].Stream).reserved() {
			return ordinary
		}
	}
	for i := range c.Blocks {
		if !s.policy(c.Blocks[i].Stream).reserved() {
			return ordinary
		}
	}
	return withReserve
}

// failed types an error: no space leaves the spool as it was, anything else
// may have left pages that are not on the disk behind, and breaks it.
func (s *Spool) failed(op string, need int64, err error) error {
	var full *FullError
	var broken *BrokenError
	switch {
	case errors.As(err, &full), errors.As(err, &broken):
		return err
	case outOfSpace(err), tooLargeForFile(err):
		return &FullError{Dir: s.o.Dir, Need: need, Err: err}
	}
	return s.breakDown(op, err)
}

// breakDown stops the spool for good. A tail whose pages fail is marked, so
// that the next opening does not end here again.
func (s *Spool) breakDown(op string, err error) error {
	s.mu.Lock()
	if s.broken != nil {
		defer s.mu.Unlock()
		return s.broken
	}
	s.broken = &BrokenError{Dir: s.o.Dir, Op: op, Err: err}
	broken, tail := s.broken, ""
	if n := len(s.segs); n > 0 {
		tail = s.segs[n-1].path
	}
	s.mu.Unlock()
	var corrupt *corruptError
	if errors.As(err, &corrupt) && corrupt.path == tail && !s.readOnly {
		if err := os.WriteFile(tail+badSuffix, []byte(corrupt.why), fileMode); err != nil {
			s.log.Error("a corrupt tail could not be marked as such", "file", tail, "error", err)
		}
	}
	return broken
}

// usable returns why the spool takes nothing more, or nil.
func (s *Spool) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	if s.closed {
		return fmt.Errorf("spool %s: %w", s.o.Dir, errClosed)
	}
	return nil
}

// transact writes c to the tail. On success memory follows; else nothing has
// changed.
func (s *Spool) transact(op string, c *change) error {
	g := s.tail()
	st := g.db.Stats()
	before := st.TxStats.GetPageAlloc()
	err := s.update(op, g, c)
	if diskFailed(err) {
		err = s.mend(op, c, err)
		before = 0 // it is counted anew
	}
	if err != nil {
		return err
	}
	st = g.db.Stats()
	s.mu.Lock()
	s.stats.commits++
	s.stats.bytesWritten += uint64(st.TxStats.GetPageAlloc()-before) + pageSize // its meta page
	s.mu.Unlock()
	s.apply(c)
	s.measure()
	return s.hooks.at(op + " done")
}

// update makes a change to the tail.
func (s *Spool) update(op string, g *segment, c *change) error {
	return guard(g.path, func() error {
		if err := s.hooks.at(op); err != nil {
			return err
		}
		err := g.db.Update(func(tx *bolt.Tx) error {
			if err := c.write(tx); err != nil || !failpoint.Built {
				return err
			}
			failpoint.At("spool: " + op + " written")
			return nil
		})
		if err != nil {
			return err
		}
		return s.hooks.failed(op)
	})
}

// apply makes memory follow a change that is durable.
func (s *Spool) apply(c *change) {
	for id, st := range c.streams {
		s.streams[id] = st
	}
	s.garbage = slices.Delete(s.garbage, 0, c.oldGarbage)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters = c.counters
	if len(c.retried) > 0 {
		s.retried = c.retried
	}
	g := s.segs[len(s.segs)-1]
	for i := range c.blocks {
		b := &c.blocks[i]
		e := entryOf(&Info{Stream: b.Stream, Count: b.Count, Bytes: len(b.Data), First: b.First})
		g.entries.add(e)
		s.stats.stored += uint64(diskCost(int64(e.bytes)))
		g.next = b.Number + 1
		for name, k := range s.sinks {
			if c.only != "" && name != c.only {
				k.acked = k.acked.add(b.Number, b.Number)
				continue
			}
			k.pend(e, 1)
		}
	}
	for _, id := range c.settle {
		s.losses = slices.DeleteFunc(s.losses, func(l storedLoss) bool { return l.ID == id })
	}
	for i := range c.losses {
		s.follows(&c.losses[i])
	}
	if len(c.policies) > 0 {
		s.setPolicies(c.policies)
	}
	if c.offered != nil {
		s.offered = c.offered
	}
	clean := map[string]bool{}
	for _, a := range c.acks {
		if k := s.sinks[a.sink]; k != nil {
			k.stored = max(k.stored, a.version)
			clean[a.sink] = a.version == k.version
		}
	}
	for _, g := range c.drained {
		g.left = true
	}
	if len(c.acks) > 0 {
		s.waited = 0
	}
	for _, g := range c.gone {
		s.leave(g.from, g.to)
	}
	for name := range clean {
		if clean[name] {
			s.sinks[name].stored = s.sinks[name].version
		}
	}
	if len(c.blocks) > 0 {
		s.keepsUp = false // until the next acknowledgement
		close(s.ready)
		s.ready = make(chan struct{})
	}
}

// measure looks at how the tail uses its file, and decides on rotation.
func (s *Spool) measure() {
	g := s.tail()
	var u usage
	st := g.db.Stats()
	u.free = int64(st.FreePageN+st.PendingPageN) * int64(g.db.Info().PageSize)
	// A tail that cannot be read or looked at fails the next commit.
	_ = guard(g.path, func() error {
		return g.db.View(func(tx *bolt.Tx) error { u.high = tx.Size(); return nil })
	})
	size, err := fileSize(g.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		g.size = size
	}
	s.usage = u
	s.rotate = u.high-u.free >= s.o.SegmentBytes*3/4 || u.high >= s.o.SegmentBytes
}

// NeedsRotation reports that the tail has used its share. The caller then
// seals every stream and commits that with Rotate set.
func (s *Spool) NeedsRotation() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rotate
}

// Ready returns a channel that is closed at the next commit that adds blocks.
func (s *Spool) Ready() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// tail is the segment that is written to. Callers hold commitMu.
func (s *Spool) tail() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segs[len(s.segs)-1]
}
