package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/cloud/state"
)

// The attributes of the lock, beside its keys and the fence.
const (
	attrOwner   = "holder"  // S: who has it, "" while nobody does
	attrBeat    = "beat"    // S: random, anew with each renewal: the sign of life
	attrLease   = "lease"   // N: ms without a new beat after which it is free
	attrRenewed = "renewed" // S: the holder's clock at the last renewal, for people
)

// Holder is who has the lock.
type Holder struct {
	Owner   string        `json:"owner"`
	Renewed time.Time     `json:"renewed"` // by its own clock
	Lease   time.Duration `json:"-"`
}

type lock struct {
	store *Store
	owner string
	lease time.Duration
	fence uint64
	beat  string
	// asked is when the last renewal that succeeded was asked for. Whoever waits
	// for the lease to end has seen that beat later than this.
	asked time.Time
}

// Holder returns who has the lock, nil where nobody has. A holder that crashed
// still has it.
func (s *Store) Holder(ctx context.Context) (*Holder, error) {
	item, err := s.Get(ctx, pkLock, pkLock)
	if errors.Is(err, state.ErrNoTable) {
		return nil, nil
	}
	if err != nil || item.Text(attrOwner) == "" {
		return nil, err
	}
	h := holderOf(item)
	return &h, nil
}

func holderOf(item state.Item) Holder {
	renewed, err := time.Parse(time.RFC3339, item.Text(attrRenewed))
	if err != nil {
		renewed = time.Time{}
	}
	return Holder{Owner: item.Text(attrOwner), Renewed: renewed, Lease: time.Duration(item.Number(attrLease)) * time.Millisecond}
}

// take takes the lock: at once where nobody has it, and else once its holder has
// shown no sign of life for the lease. That is measured by this machine's
// monotonic clock between two looks at the table; no two machines' clocks are
// compared. The error wraps ErrBusy as soon as there is a sign of life.
func (s *Store) take(ctx context.Context, owner string, lease time.Duration, log *slog.Logger) (*lock, error) {
	l := &lock{store: s, owner: owner, lease: lease}
	seen, since := "", time.Time{}
	for {
		item, err := s.Get(ctx, pkLock, pkLock)
		if err != nil {
			return nil, err
		}
		h, beat := holderOf(item), item.Text(attrBeat)
		free := h.Owner == ""
		switch {
		case free:
		case seen == "":
			seen, since = beat, time.Now() // after the look: not before the holder's last renewal
			log.Info("a run is recorded as under way; waiting for a sign of life", "owner", h.Owner, "renewed", h.Renewed, "at_most", h.Lease.String())
		case beat != seen:
			return nil, fmt.Errorf("%w: %s has the lock; two are never at once: let it end, or see `millrace-cloud pipeline status`", ErrBusy, h.Owner)
		case time.Since(since) >= h.Lease:
			log.Warn("the run that is recorded as under way shows no sign of life; its lock is taken over", "owner", h.Owner)
			free = true
		}
		if free {
			mine, err := l.put(ctx, item.Number(attrFence)+1, owner, beat, item != nil)
			if err != nil {
				return nil, err
			}
			if mine {
				return l, nil
			}
			if seen == "" { // somebody was quicker; the next look watches it
				continue
			}
			return nil, fmt.Errorf("%w: another one has taken the lock in this moment; two are never at once: see `millrace-cloud pipeline status`", ErrBusy)
		}
		if !s.Sleep(ctx, max(h.Lease/16, time.Second)) {
			return nil, fmt.Errorf("%w while waiting for the lock", ErrInterrupted)
		}
	}
}

// put writes the lock if it still has the beat that was seen. It reports whether
// it did: also where an answer was lost and a second try found its own beat.
func (l *lock) put(ctx context.Context, fence uint64, owner, seen string, exists bool) (bool, error) {
	beat, asked := rand.Text(), time.Now()
	item := state.Item{"pk": state.Text(pkLock), "sk": state.Text(pkLock), attrFence: state.Number(fence), attrOwner: state.Text(owner), attrBeat: state.Text(beat),
		attrLease: state.Number(uint64(l.lease / time.Millisecond)), attrRenewed: state.Text(l.store.Now().UTC().Format(time.RFC3339))}
	condition, values := "attribute_not_exists(pk)", state.Item(nil)
	if exists {
		condition, values = "beat = :seen", state.Item{":seen": state.Text(seen)}
	}
	err := l.store.Put(ctx, item, condition, values)
	if errors.Is(err, state.ErrCondition) {
		item, err := l.store.Get(ctx, pkLock, pkLock)
		if err != nil || item.Text(attrBeat) != beat {
			return false, err
		}
	} else if err != nil {
		return false, err
	}
	l.fence, l.beat, l.asked = fence, beat, asked
	return true, nil
}

// keep renews the lock until stop is called. The context that it returns is done
// when the lock is another's, or may be before long: a quarter of the lease is
// left for the stage to end in.
func (l *lock) keep(ctx context.Context, log *slog.Logger) (held context.Context, stop func()) {
	held, lose := context.WithCancelCause(ctx)
	renewing, end := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for l.store.Sleep(renewing, l.lease/6) {
			limited, cancel := context.WithDeadline(renewing, l.asked.Add(l.lease*3/4))
			mine, err := l.put(limited, l.fence, l.owner, l.beat, true)
			cancel()
			switch {
			case renewing.Err() != nil:
				return
			case err != nil && time.Since(l.asked) < l.lease*3/4:
				log.Warn("the lock cannot be renewed; trying on", "error", err)
			case err != nil:
				lose(fmt.Errorf("%w: it could not be renewed within its lease of %v: %w; mend that and run again: it goes on where it was", ErrLost, l.lease, err))
				return
			case !mine:
				lose(fmt.Errorf("%w: another run has taken it, since there was no sign of life from here for %v; see `millrace-cloud pipeline status`", ErrLost, l.lease))
				return
			}
		}
	}()
	return held, func() { end(); <-done; lose(nil) }
}

// release gives the lock back.
func (l *lock) release(ctx context.Context) error {
	_, err := l.put(ctx, l.fence, "", l.beat, true) // where it is another's, that is as well
	return err
}
