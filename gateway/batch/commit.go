package batch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/spool"
)

// Run commits until ctx is done, then seals every batch, makes it durable and
// returns nil. An error means that the spool is unusable. It must be stopped
// after the sources.
func (b *Batcher) Run(ctx context.Context) error {
	tick := time.NewTicker(b.o.CommitInterval)
	defer tick.Stop()
	b.o.Health.Up()
	for {
		stop := false
		select {
		case <-ctx.Done():
			stop = true
		case <-b.wake:
		case <-tick.C:
		}
		b.o.Health.Beat()
		if err := b.commit(ctx, stop); err != nil {
			b.close()
			return err
		}
		if stop {
			b.close()
			return nil
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

// work is what one commit takes from the open batches.
type work struct {
	c       spool.Commit
	parts   []taken // go to the open tier
	seals   []taken // go into blocks
	waiting []func(error)
	bytes   int // row bytes that leave memory
}

// taken is what one stream gives to a commit. What other goroutines may change
// meanwhile is copied here, under the lock.
type taken struct {
	s         *stream
	part      openPart // rows since the last commit, where has is set
	has       bool
	tags      []string
	recovered bool
	ratio     float64 // set by seal
}

// commit makes durable what came since the last one and seals what is due, or
// everything where all is set.
func (b *Batcher) commit(ctx context.Context, all bool) error {
	rotate := b.store.NeedsRotation()
	settle := b.declareLosses()
	w := b.collect(all || rotate)
	w.c.Settle = settle
	w.c.Rotate = rotate
	for i := range w.seals {
		if err := b.seal(w, &w.seals[i]); err != nil {
			return err
		}
		if err := b.flushBlocks(ctx, w); err != nil {
			return err
		}
	}
	for _, t := range w.parts {
		w.c.Parts = append(w.c.Parts, spool.Part{
			Stream: t.s.id, Count: uint32(t.part.count), First: t.part.first, Last: t.part.last, Data: t.part.data,
		})
	}
	if len(w.c.Parts)+len(w.c.Blocks)+len(w.c.Meta)+len(w.c.Settle) > 0 || rotate {
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
	all := w.c
	w.c = spool.Commit{Blocks: all.Blocks, Meta: all.Meta}
	err := b.transact(ctx, w)
	w.c = spool.Commit{Settle: all.Settle, Rotate: all.Rotate}
	return err
}

// collect takes the rows of every stream under the lock.
func (b *Batcher) collect(all bool) *work {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := &work{waiting: b.waiting}
	b.waiting = nil
	w.c.Meta, b.newMeta = b.newMeta, nil
	// Well before producers must wait, everything is sealed: rows shrink to a
	// tenth and leave memory.
	all = all || b.openBytes > b.o.MaxOpenBytes/2
	now := time.Now()
	for _, s := range b.streams {
		if s.rows == 0 {
			continue
		}
		due := all || s.due(now)
		part, has := s.take()
		t := taken{s: s, part: part, has: has, tags: s.tags, recovered: s.recovered, ratio: s.ratio}
		switch {
		case due:
			w.bytes += s.bytes
			s.rows, s.bytes, s.recovered = 0, 0, false
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
	for attempt := 0; ; attempt++ {
		err := b.store.Commit(&w.c)
		if err == nil {
			b.setStalled(nil)
			return nil
		}
		var full *spool.FullError
		if !errors.As(err, &full) {
			b.refuse(w, err)
			return fmt.Errorf("spool: %w", err)
		}
		b.setStalled(fmt.Errorf("the spool cannot take more: %w", err))
		if ctx.Err() != nil && attempt > 3 {
			b.refuse(w, err)
			return fmt.Errorf("spool: the last %d parts and %d blocks could not be stored: %w", len(w.c.Parts), len(w.c.Blocks), err)
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
	for _, t := range w.parts {
		t.s.parts = append(t.s.parts, t.part)
	}
	for _, id := range w.c.Settle {
		b.settled = max(b.settled, id)
	}
	b.mu.Lock()
	for _, t := range w.seals {
		t.s.parts, t.s.ratio = nil, t.ratio
	}
	b.openBytes -= w.bytes
	close(b.room)
	b.room = make(chan struct{})
	b.mu.Unlock()
	for _, done := range w.waiting {
		done(nil)
	}
}
