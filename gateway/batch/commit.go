package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/failpoint"
	"millrace/protocols"
	"millrace/sample/ledger"
	"millrace/spool"
)

// Run commits until ctx is done, then seals every batch, makes it durable and
// returns nil. An error means that the spool is unusable. It must be stopped
// after the sources.
func (b *Batcher) Run(ctx context.Context) error {
	tick := time.NewTicker(b.o.CommitInterval)
	defer tick.Stop()
	b.o.Health.Up()
	if b.left != nil {
		if err := b.completes(ctx, b.left); err != nil {
			b.close()
			return err
		}
		b.left, b.keep.before = nil, nil
	}
	for {
		stop := false
		select {
		case <-ctx.Done():
			stop = true
		case <-b.wake:
		case <-tick.C:
		}
		b.o.Health.Beat()
		b.admit()
		b.records(stop)
		err := b.commit(ctx, when(stop))
		if err == nil && stop { // once every batch is sealed, its counts are final
			b.heartbeat(ledger.AtStop)
			err = b.commit(ctx, when(stop))
		}
		if err == nil && !stop {
			err = b.thin()
		}
		if err != nil || stop {
			b.close()
			return err
		}
	}
}

// close refuses what comes from now on, and releases who waits.
func (b *Batcher) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, done := range b.waiting {
		done(&protocols.RefusedError{Reason: errStopping.Error(), RetryAfter: refusedRetry})
	}
	b.waiting = nil
	close(b.room)
	b.room = make(chan struct{})
}

// extent says which batches a commit seals.
type extent uint8

const (
	sealDue extent = iota // those at their age or size
	sealAll               // all but those that wait for the clock
	sealOut               // all, whatever they wait for
)

func when(stop bool) extent {
	if stop {
		return sealAll
	}
	return sealDue
}

// work is what one commit takes from the open batches.
type work struct {
	c       spool.Commit
	parts   []taken // go to the open tier
	seals   []taken // go into blocks
	waiting []func(error)
	// own is state that goes with what has room of its own, rest tells of other
	// blocks. Both go with the transaction.
	own, rest []spool.KV
	time      sealTime
}

// taken is what one stream gives to a commit. What other goroutines may change
// meanwhile is copied here, under the lock.
type taken struct {
	s      *stream
	part   openPart // rows since the last commit, where has is set
	has    bool
	tags   []string
	bytes  int  // that leave memory with the seal
	stored bool // the part is in a transaction
	sealed bool // its blocks are
	// reserved says that the stream has room of its own.
	reserved bool
	ratio    float64 // set by seal
	oldest   int64   // monotonic clock of the batch's oldest row, ns
}

// commit makes durable what came since the last one and seals what is due, or
// more.
func (b *Batcher) commit(ctx context.Context, what extent) error {
	return b.completes(ctx, b.begins(what))
}

// begins takes what a commit is to store.
func (b *Batcher) begins(what extent) *work {
	rotate := b.store.NeedsRotation()
	settle := b.declareLosses()
	if rotate {
		what = sealOut
	}
	w := b.collect(what, nil)
	failpoint.At("batch: taken")
	if failpoint.On(failpoint.AckEarly) {
		for _, done := range w.waiting {
			done(nil)
		}
		w.waiting = nil
	}
	w.c.Settle = settle
	w.c.Rotate = rotate
	b.stampAlive(w, what != sealDue)
	return w
}

// completes stores what a commit has taken. Where it fails for want of room,
// which it does in New alone, it may be called again.
func (b *Batcher) completes(ctx context.Context, w *work) error {
	for { // a transaction that is short of room takes some away
		i := slices.IndexFunc(w.seals, func(t taken) bool { return !t.sealed })
		if i < 0 {
			break
		}
		if err := b.seal(w, &w.seals[i]); err != nil {
			return err
		}
		if err := b.flushBlocks(ctx, w); err != nil {
			return err
		}
	}
	w.addParts(func(*stream) bool { return true })
	if w.any() || w.c.Rotate {
		if err := b.transact(ctx, w); err != nil {
			return err
		}
	}
	b.finish(w)
	return nil
}

// flushBlocks commits the blocks so far by themselves where they are many: a
// commit must be small beside a segment.
func (b *Batcher) flushBlocks(ctx context.Context, w *work) error {
	size := 0
	for i := range w.c.Blocks {
		size += len(w.c.Blocks[i].Data)
	}
	if size < b.o.MaxCommitBytes {
		return nil
	}
	rotate := w.c.Rotate
	w.c.Rotate = false
	// Gap records go with the state that counts them: a crash between this
	// transaction and the next must neither lose a record nor count it again.
	w.addParts(func(s *stream) bool { return s.id == systemStream })
	err := b.transact(ctx, w)
	if err != nil {
		w.c.Rotate = rotate
		return err
	}
	w.c, w.own, w.rest = spool.Commit{Rotate: rotate}, nil, nil
	return nil
}

// addParts adds the parts of the streams that are wanted to the transaction,
// unless they are in one already.
func (w *work) addParts(wanted func(*stream) bool) {
	for i := range w.parts {
		t := &w.parts[i]
		if t.stored || !wanted(t.s) {
			continue
		}
		t.stored = true
		w.c.Parts = append(w.c.Parts, spool.Part{
			Stream: t.s.id, Count: uint32(t.part.count), First: t.part.first, Last: t.part.last, Data: t.part.data,
		})
	}
}

// collect takes the rows of every stream under the lock, or of those wanted.
func (b *Batcher) collect(what extent, wanted func(*stream) bool) *work {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keep
	b.keepTime()
	w := &work{time: k.sealTime()}
	if wanted == nil {
		w.waiting, b.waiting = b.waiting, nil
	}
	w.own, b.newMeta = b.newMeta, nil
	w.c.Policies = b.takePolicies()
	// Well before producers must wait, everything is sealed: rows shrink to a
	// tenth and leave memory.
	if b.openBytes > b.o.MaxOpenBytes/2 {
		what = sealOut
	}
	mono := int64(k.tl.SinceBoot())
	for _, s := range b.streams {
		if s.rows == 0 || wanted != nil && !wanted(s) {
			continue
		}
		due := what != sealDue || s.held || s.due(mono)
		s.held = due && what != sealOut && s.hold(k, mono)
		due = due && !s.held
		part, has := s.take()
		t := taken{s: s, part: part, has: has, tags: s.tags, ratio: s.ratio, oldest: s.oldest, reserved: s.isReserved()}
		switch {
		case due:
			t.bytes = s.bytes
			s.rows, s.bytes, s.foreign = 0, 0, false
			w.seals = append(w.seals, t)
		case has:
			w.parts = append(w.parts, t)
		}
	}
	return w
}

// transact runs the transaction, again and again while the spool is full: what
// was taken is kept, and producers wait or are refused meanwhile.
func (b *Batcher) transact(ctx context.Context, w *work) error {
	var pending *work // what has room of its own and found none
	for attempt := 0; ; attempt++ {
		w.c.Meta = slices.Concat(w.own, w.rest)
		err := b.store.Commit(&w.c)
		if err == nil {
			b.setStalled(nil)
			if !pending.any() {
				return nil
			}
			if err := b.transact(ctx, pending); err != nil {
				return err
			}
			b.finish(pending)
			return nil
		}
		var full *spool.FullError
		if !errors.As(err, &full) {
			b.refuse(w, err)
			return fmt.Errorf("spool: %w", err)
		}
		b.setStalled(fmt.Errorf("the spool cannot take more: %w", err))
		if b.starting {
			return err
		}
		if ctx.Err() != nil && attempt > 3 {
			b.refuse(w, err)
			return fmt.Errorf("spool: the last %d parts and %d blocks could not be stored: %w", len(w.c.Parts), len(w.c.Blocks), err)
		}
		if pending, err = b.beside(ctx, w, pending, attempt > 0); err != nil {
			b.refuse(w, err)
			return fmt.Errorf("spool: %w", err)
		}
		wait := backoff.Policy{Base: 200 * time.Millisecond, Max: 10 * time.Second}.Wait(attempt)
		if ctx.Err() == nil {
			backoff.Sleep(ctx, wait)
		} else {
			time.Sleep(wait) // three short last tries after the stop
		}
		b.o.Health.Beat()
	}
}

// refuse tells the producers that wait for a commit which failed for good.
func (b *Batcher) refuse(w *work, err error) {
	for _, done := range w.waiting {
		done(&protocols.RefusedError{Reason: err.Error(), RetryAfter: refusedRetry})
	}
	w.waiting = nil
}

func (b *Batcher) setStalled(err error) {
	b.mu.Lock()
	was := b.stalled
	b.stalled = err
	b.mu.Unlock()
	if err != nil {
		b.o.Health.Down(err)
	} else if was != nil {
		b.o.Health.Up()
	}
}

// finish follows a successful transaction.
func (b *Batcher) finish(w *work) {
	failpoint.At("batch: committed")
	for _, t := range w.parts {
		t.s.parts = append(t.s.parts, t.part)
	}
	b.mu.Lock()
	for _, t := range w.seals {
		t.s.parts, t.s.ratio = nil, t.ratio
	}
	for i := range w.seals {
		b.openBytes -= w.seals[i].bytes
	}
	b.makeWay()
	b.mu.Unlock()
	for _, done := range w.waiting {
		done(nil)
	}
}
