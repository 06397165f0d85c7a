package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

const (
	// maxBatch is how many samples one Emit gets, at which a batch is full.
	maxBatch = 1000
	// drainTime is how long the last messages may take to become durable once
	// the source is told to stop.
	drainTime = 5 * time.Second
	// retryMost bounds the wait after a refusal.
	retryMost = time.Minute
)

// deliverer hands messages to the gateway, one batch at a time and in order,
// and acknowledges them once they are durable. A batch is what arrived while
// the one before was made durable: it never waits for more.
type deliverer struct {
	queue  *queue
	router *router
	log    *slog.Logger
	emit   protocols.Emit

	done     chan error
	callback func(error)
	giveUp   chan struct{}             // closed when a stop has taken too long
	since    atomic.Pointer[time.Time] // when a wait for durability began; nil: none

	batch    []sample.Sample
	ends     []int // of each item's samples in batch
	refusing bool
}

func newDeliverer(q *queue, r *router, log *slog.Logger, emit protocols.Emit) *deliverer {
	d := &deliverer{queue: q, router: r, log: log, emit: emit, done: make(chan error, 1), giveUp: make(chan struct{})}
	d.callback = func(err error) { d.done <- err }
	return d
}

// errStopped ends the delivery: what is left stays unacknowledged, so the
// broker sends it again at the next start.
var errStopped = errors.New("stopped")

// run delivers until the queue is closed and empty, or ctx is done and the
// gateway takes no more.
func (d *deliverer) run(ctx context.Context) error {
	var items, spare []item
	for {
		if items = d.queue.take(spare); items == nil {
			return nil
		}
		spare = items
		for len(items) > 0 {
			n := d.fill(items)
			if err := d.deliver(ctx, items[:n], d.batch, d.ends, 0); errors.Is(err, errStopped) {
				return nil
			} else if err != nil {
				return err
			}
			items = items[n:]
		}
	}
}

// fill decodes items into the batch until it is full, and returns how many.
func (d *deliverer) fill(items []item) int {
	d.batch, d.ends = d.batch[:0], d.ends[:0]
	for i := range items {
		it := &items[i]
		switch m := it.msg; {
		case m == nil, it.known:
		case m.large:
			d.batch = d.router.large(m.topic, it.at, d.batch)
		default:
			d.batch = d.router.decode(m.topic, m.payload, m.retained, it.at, d.batch)
		}
		for _, tag := range it.bad {
			d.batch = append(d.batch, sample.Sample{Tag: tag, Quality: it.quality, Time: it.at})
		}
		d.ends = append(d.ends, len(d.batch))
		if len(d.batch) >= maxBatch {
			return i + 1
		}
	}
	return len(items)
}

// deliver emits the samples of items and acknowledges them. ends are the
// items' ends in batch, counted from base on.
func (d *deliverer) deliver(ctx context.Context, items []item, batch []sample.Sample, ends []int, base int) error {
	err := d.insist(ctx, items, batch)
	var refused *protocols.RefusedError
	if !errors.As(err, &refused) {
		if err == nil {
			d.queue.settle(items)
		}
		return err
	}
	// It will never be taken as it is. One of its messages is the reason, and
	// must not take the others with it.
	if len(items) == 1 {
		if m := items[0].msg; m != nil {
			d.router.refuse(m.topic, items[0].at, err)
		}
		d.queue.settle(items)
		return nil
	}
	half := len(items) / 2
	cut := ends[half-1] - base
	if err := d.deliver(ctx, items[:half], batch[:cut], ends[:half], base); err != nil {
		return err
	}
	return d.deliver(ctx, items[half:], batch[cut:], ends[half:], base+cut)
}

// insist emits a batch until it is durable. A refusal that may pass is waited
// out; one that will not is returned.
func (d *deliverer) insist(ctx context.Context, items []item, batch []sample.Sample) error {
	if len(batch) == 0 {
		return nil
	}
	for {
		err := d.once(ctx, items, batch)
		var refused *protocols.RefusedError
		switch {
		case err == nil:
			if d.refusing {
				d.refusing = false
				d.log.Info("the gateway takes messages again")
			}
			return nil
		case errors.Is(err, errStopped):
			return err
		case !errors.As(err, &refused):
			if ctx.Err() != nil {
				return errStopped
			}
			return fmt.Errorf("hand over messages of source %s: %w", d.router.src.Name, err)
		case refused.RetryAfter <= 0:
			return err
		}
		if !d.refusing {
			d.refusing = true
			d.log.Warn("the gateway does not take messages now; they stay unacknowledged at the broker and are tried again", "error", err)
		}
		wait := time.NewTimer(min(refused.RetryAfter, retryMost))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return errStopped
		}
	}
}

// once emits a batch, and waits until it is durable where the broker waits for
// an acknowledgement.
func (d *deliverer) once(ctx context.Context, items []item, batch []sample.Sample) error {
	acknowledged := false
	for i := range items {
		if m := items[i].msg; m != nil && m.qos > 0 {
			acknowledged = true
			break
		}
	}
	if !acknowledged {
		return d.emit(ctx, batch, nil)
	}
	began := time.Now()
	d.since.Store(&began)
	defer d.since.Store(nil)
	if err := d.emit(ctx, batch, d.callback); err != nil {
		return err
	}
	select {
	case err := <-d.done:
		return err
	case <-d.giveUp:
		return errStopped
	}
}

// stuck reports whether a batch has waited for durability for longer than d.
func (d *deliverer) stuck(limit time.Duration) bool {
	since := d.since.Load()
	return since != nil && time.Since(*since) > limit
}
