package uploader

import (
	"context"
	"errors"
	"slices"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/failpoint"
)

// suspectAfter is how often a block may fail together with others before it is
// tried in a request of its own.
const suspectAfter = 3

// gate holds everything back while the endpoint as a whole fails: after each
// failure it closes for a back-off, and opens for one request at a time until
// one succeeds.
type gate struct {
	policy  backoff.Policy
	fails   int  // requests in a row that delivered nothing
	held    bool // the last of them since an operator has to mend something, for all blocks alike
	until   time.Time
	since   time.Time // of the first of them
	success time.Time // of the last delivery
}

func (g *gate) open(now time.Time, inFlight int) bool {
	if g.fails == 0 {
		return true
	}
	return inFlight == 0 && !now.Before(g.until)
}

// failed closes the gate, for after where that is set, else for a back-off.
func (g *gate) failed(now time.Time, after time.Duration) {
	wait := g.policy.Wait(g.fails)
	if after > 0 {
		wait = after
	}
	if g.fails == 0 {
		g.since = now
	}
	g.fails++
	if until := now.Add(wait); until.After(g.until) {
		g.until = until
	}
}

func (g *gate) worked(now time.Time) { g.fails, g.held, g.success = 0, false, now }

// bound makes a try that is expected to be refused again a small one: what is
// sent in vain costs as much on a metered link.
func (g *gate) bound(l Limits) Limits {
	if g.held {
		l.MaxBlocks = 1
	}
	return l
}

// settle takes a request's result: acknowledges what was delivered, buries
// what was refused for good, and arranges the next try of the rest.
func (c *cycle) settle(r result) {
	now := time.Now()
	began := c.inFlight[r.req]
	delete(c.inFlight, r.req)
	win := &r.req.lane.window
	win.landed(r.req)
	c.lanes.answered(r.req, c.sink.Limits(), now.Sub(began), ranOut(r.outcomes))

	var acked []uint64
	var failed, alone []*item
	var faults []error
	shared := sharedErrors(r.outcomes)
	answered, throttled := false, false
	delay := time.Duration(0)
	for i, it := range r.req.items {
		err := r.outcomes[i]
		if err == nil {
			acked = append(acked, it.block.Number)
			delete(win.taken, it.block.Number)
			wait, known := c.seals.latency(&it.block, now)
			c.obs.delivered(it, r.req.lane.name, now, wait, known)
			answered = true
			continue
		}
		switch Classify(err) {
		case Permanent:
			answered = true
			if shared(err) {
				// The endpoint does not say which of the blocks it minds.
				it.alone, it.tries = true, it.tries+1
				alone = append(alone, it)
				continue
			}
			c.refuse(win, it, err, now)
			continue
		case Throttled:
			throttled = true
			delay = max(delay, retryAfter(err))
		}
		failed, faults = append(failed, it), append(faults, err)
	}
	if len(acked) > 0 {
		failpoint.At("uploader: ack")
		c.queue.Ack(acked...)
		failpoint.At("uploader: acked")
	}
	win.again(alone, true)
	if throttled {
		c.pace.throttled(now, delay)
	} else {
		c.pace.fluent()
	}
	switch {
	case answered:
		if c.gate.fails > 0 {
			c.lanes.each(func(l *lane) { l.revive(c.gate.since, now) })
		}
		c.gate.worked(now)
		for i, it := range failed {
			c.parkFailed(win, it, faults[i], now)
		}
	default:
		c.wholeFailed(win, failed, faults, now)
	}
	c.obs.outcome(c.gate.fails, c.lanes.holding(), faults)
}

// ranOut reports whether a request was given up at its time limit.
func ranOut(outcomes []error) bool {
	return slices.ContainsFunc(outcomes, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) })
}

// refuse buries a block, or parks it to be buried later where that fails.
func (c *cycle) refuse(win *window, it *item, err error, now time.Time) {
	c.obs.buried(err)
	if e := c.queue.Bury(it.block.Number, err.Error()); e != nil {
		it.refused = err.Error()
		win.park(it, now.Add(c.gate.policy.Wait(0)))
		return
	}
	delete(win.taken, it.block.Number)
}

// parkFailed puts a block aside that failed while others were delivered.
func (c *cycle) parkFailed(win *window, it *item, err error, now time.Time) {
	wait := c.gate.policy.Wait(it.tries)
	if after := retryAfter(err); after > 0 {
		wait = after
	}
	note(it, now)
	it.held = Classify(err) == Hold
	win.park(it, now.Add(wait))
}

// wholeFailed arranges the next try after a request that delivered nothing.
func (c *cycle) wholeFailed(win *window, failed []*item, faults []error, now time.Time) {
	if c.othersPass(failed, faults) {
		for i, it := range failed {
			c.parkFailed(win, it, faults[i], now)
		}
		return
	}
	delay := time.Duration(0)
	var again, first []*item
	onePlace := c.sink.Limits().OnePlace
	for i, it := range failed {
		delay = max(delay, retryAfter(faults[i]))
		hold := Classify(faults[i]) == Hold
		switch {
		case hold && onePlace:
			note(it, now)
			first = append(first, it)
			continue
		case hold:
			// It may concern one table of several. The window moves on, so that
			// blocks for the others come to their turn.
			c.parkFailed(win, it, faults[i], now)
			continue
		}
		note(it, now)
		it.alone = it.tries >= suspectAfter
		again = append(again, it)
	}
	c.gate.failed(now, delay)
	c.gate.held = len(first) > 0
	win.again(again, false)
	win.again(first, true)
}

// othersPass reports whether the failure is known to be these blocks' own:
// others were delivered since each of them failed first, and they are held (one
// table of several may be missing) or have often failed, the last time alone.
// They are put aside then, so that they do not hold up the rest.
func (c *cycle) othersPass(failed []*item, faults []error) bool {
	for i, it := range failed {
		often := len(failed) == 1 && it.tries >= suspectAfter
		if it.tries == 0 || !c.gate.success.After(it.failed) || !often && Classify(faults[i]) != Hold {
			return false
		}
	}
	return true
}

func note(it *item, now time.Time) {
	if it.tries == 0 {
		it.failed = now
	}
	it.last = now
	it.tries++
}
