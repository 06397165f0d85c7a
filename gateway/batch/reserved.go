package batch

import (
	"context"
	"errors"
	"slices"

	"millrace/spool"
)

// beside commits what has room of its own while w finds none: first what w
// holds of it, then what comes meanwhile. pending is what did not fit either,
// and is to be handed in with the next call.
func (b *Batcher) beside(ctx context.Context, w, pending *work, again bool) (*work, error) {
	if !again {
		pending = w.split()
	}
	for first := true; ; first = false {
		if pending.any() {
			pending.c.Meta = pending.own
			err := b.store.Commit(&pending.c)
			var full *spool.FullError
			switch {
			case errors.As(err, &full):
				return pending, nil
			case err != nil:
				return pending, err
			}
		}
		if pending != nil { // also where all of it is stored by transactions before
			b.finish(pending)
		}
		if ctx.Err() != nil || !first { // the records of the stop come last
			return nil, nil
		}
		b.records(false)
		pending = b.collect(sealDue, (*stream).isReserved)
		for i := range pending.seals {
			if err := b.seal(pending, &pending.seals[i]); err != nil {
				return pending, err
			}
		}
		pending.addParts(func(*stream) bool { return true })
	}
}

func (s *stream) isReserved() bool { return s.policy&spool.Reserved != 0 }

// any reports whether there is anything to commit.
func (w *work) any() bool {
	return w != nil && len(w.c.Parts)+len(w.c.Blocks)+len(w.own)+len(w.rest)+len(w.c.Settle)+len(w.c.Policies) > 0
}

// split takes away from w what has room of its own and is ready, with the state
// that does not tell of ordinary blocks: of a block that is not stored yet, a
// restart must not know. Losses are declared with w alone for the same reason,
// unless they are already.
func (w *work) split() *work {
	own := &work{time: w.time, own: w.own}
	ids := map[uint32]bool{}
	own.parts, w.parts = divide(w.parts, func(t taken) bool { ids[t.s.id] = ids[t.s.id] || t.reserved; return t.reserved })
	own.seals, w.seals = divide(w.seals, func(t taken) bool { ids[t.s.id] = ids[t.s.id] || t.reserved; return t.reserved && t.sealed })
	own.c.Parts, w.c.Parts = divide(w.c.Parts, func(p spool.Part) bool { return ids[p.Stream] })
	own.c.Blocks, w.c.Blocks = divide(w.c.Blocks, func(p spool.Block) bool { return ids[p.Stream] })
	own.c.Settle, own.c.Policies = w.c.Settle, w.c.Policies
	w.own, w.c.Settle, w.c.Policies = nil, nil, nil
	own.addParts(func(*stream) bool { return true })
	w.c.Rotate = false // parts may join the tail meanwhile; the next commit rotates
	return own
}

// divide sorts a list in two, each in its order.
func divide[T any](list []T, first func(T) bool) (yes, no []T) {
	for _, x := range list {
		if first(x) {
			yes = append(yes, x)
		} else {
			no = append(no, x)
		}
	}
	return yes, slices.Clip(no)
}
