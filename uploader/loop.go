package uploader

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/internal/backoff"
)

const (
	// beatEvery bounds the waits of the loop, so that Health.Beat is called at
	// least this often in the longest back-off.
	beatEvery = 10 * time.Second
	// longestWait between tries: with a request that runs into DefaultTimeout
	// before it, delivery goes on within a minute of an outage's end.
	longestWait = 25 * time.Second
	// overdue is how far beyond its time limit a request may be before the
	// loop counts as stuck and stops beating.
	overdue = 30 * time.Second
)

// Options tune a Loop. The zero Options are good.
type Options struct {
	// Timeout bounds one request; DefaultTimeout where 0.
	Timeout time.Duration
	// Grace is how long requests that are under way may go on after the context
	// of Run or Drain is done; 5 s where 0.
	Grace time.Duration
	// Backoff bounds the waits between tries; 0.5 s to 25 s where zero.
	Backoff backoff.Policy
	// BytesPerSecond caps the bandwidth of both lanes together, as the sink
	// counts bytes (Limits.Size); 0 is no cap. Single requests are sent whole and
	// the pause follows them.
	BytesPerSecond int
	// BacklogShare is the part of the sink that the backlog has while live
	// blocks come too, above 0 and below 1; 0.5 where 0.
	BacklogShare float64
	// RemindEvery is how often a line says that a delivery is held; a minute where 0.
	RemindEvery time.Duration
	// Log gets these lines; slog.Default where nil.
	Log *slog.Logger
}

// Loop delivers a queue's blocks to one sink. It is built of these steps, each
// in a file of its own: the window on the queue, observing, retrying,
// throttling, sending.
type Loop struct {
	sink  Sink
	queue Queue
	opts  Options
	obs   observer
	busy  sync.Mutex // Run and Drain take turns, and with it goes what follows

	flush, abort           chan struct{}
	flushOnce, abortedOnce sync.Once

	seals    seals
	boundary uint64 // where the live lane began
	began    bool
}

// New builds a loop. It starts nothing.
func New(sink Sink, q Queue, h Health, o Options) *Loop {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Grace <= 0 {
		o.Grace = 5 * time.Second
	}
	if o.Backoff.Max <= 0 {
		o.Backoff.Max = longestWait
	}
	if o.RemindEvery <= 0 {
		o.RemindEvery = remindEvery
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.BacklogShare <= 0 || o.BacklogShare >= 1 {
		o.BacklogShare = defaultShare
	}
	return &Loop{sink: sink, queue: q, opts: o, obs: observer{health: h, log: o.Log, every: o.RemindEvery, lanes: newLaneCounts()},
		flush: make(chan struct{}), abort: make(chan struct{})}
}

// Flush makes Run end once the queue is empty, as Drain does. It does not wait.
func (l *Loop) Flush() { l.flushOnce.Do(func() { close(l.flush) }) }

// Abort cuts off the requests that are under way after the context of Run or
// Drain is done: Options.Grace ends at once. It does not wait.
func (l *Loop) Abort() { l.abortedOnce.Do(func() { close(l.abort) }) }

// Run delivers until ctx is done, or after Flush until the queue is empty, then
// returns nil. Requests that are under
// way then get Options.Grace to be answered. Nothing is acknowledged but on a
// positive answer, and nothing is deleted.
func (l *Loop) Run(ctx context.Context) error {
	_, _ = l.run(ctx, false) // Health and Stats have the error
	return nil
}

// Drain delivers what is queued and returns nil once the queue is empty, or an
// error that says what is left when ctx is done before. Run must have returned
// or be about to.
func (l *Loop) Drain(ctx context.Context) error {
	done, last := l.run(ctx, true)
	switch {
	case done:
		return nil
	case last != nil:
		return fmt.Errorf("drain: stopped before the queue was empty; what is left stays there: %w", last)
	}
	return fmt.Errorf("drain: stopped before the queue was empty; what is left stays there: %w", context.Cause(ctx))
}

// Stats returns the loop's counters since New.
func (l *Loop) Stats() Stats { return l.obs.snapshot() }

// cycle is the state of one Run or Drain. Only the goroutine of run touches it.
type cycle struct {
	*Loop
	lanes    *lanes
	gate     gate
	pace     pace
	results  chan result
	inFlight map[*request]time.Time // and when each was started
	readErr  error
}

// run reports whether it has seen the queue empty, which ends it where drain
// is set, and the last error.
func (l *Loop) run(ctx context.Context, drain bool) (done bool, last error) {
	l.busy.Lock()
	defer l.busy.Unlock()
	next := l.queue.Next()
	l.seals.saw(next, time.Now())
	if !l.began {
		l.boundary, l.began = next-1, true
	}
	c := &cycle{
		Loop:     l,
		lanes:    newLanes(l.boundary, l.opts.BacklogShare),
		gate:     gate{policy: l.opts.Backoff},
		pace:     pace{policy: l.opts.Backoff, perSecond: l.opts.BytesPerSecond},
		results:  make(chan result, 1),
		inFlight: make(map[*request]time.Time),
	}
	// Requests outlive ctx by the grace.
	sendCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	timer := time.NewTimer(beatEvery)
	defer timer.Stop()
	flush := l.flush
	for {
		ready := l.queue.Ready() // asked before reading, so that nothing slips between
		wait := c.step(sendCtx, ctx.Err() == nil)
		if drain && c.drained() {
			return true, nil
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			c.finish(cancel)
			return c.drained(), c.obs.lastError()
		case r := <-c.results:
			c.settle(r)
		case <-flush:
			drain, flush = true, nil
		case <-ready:
		case <-timer.C:
		}
	}
}

// step reads, packs and starts what can be started now, and returns how long
// the loop may sleep.
func (c *cycle) step(sendCtx context.Context, more bool) time.Duration {
	now := time.Now()
	c.beat(now)
	limits := c.sink.Limits()
	next := c.queue.Next()
	c.seals.saw(next, now)
	if c.gate.fails == 0 && c.lanes.late(next, limits, &c.seals, now) {
		c.boundary = c.lanes.restart(next, limits, &c.seals, now)
	}
	c.readErr = c.lanes.fill(c.queue, limits, now)
	c.obs.queueRead(c.readErr)
	for more && len(c.inFlight) < max(limits.Concurrency, 1) &&
		c.gate.open(now, len(c.inFlight)) && c.pace.open(now) {
		req := c.pack(limits)
		if req == nil {
			break
		}
		c.pace.sent(now, req.size)
		c.obs.started(req)
		c.inFlight[req] = now
		go c.send(sendCtx, req)
	}
	c.obs.remind(now, c.lanes.held())
	c.lanes.each(func(l *lane) { l.bury(c.queue, now, &c.gate) })
	return c.nextWake(now)
}

// pack makes the next request, of the lane whose turn it is.
func (c *cycle) pack(limits Limits) *request {
	flying := 0
	for r := range c.inFlight {
		if r.lane == c.lanes.backlog {
			flying++
		}
	}
	lane := c.lanes.next(c.lanes.backlogMay(flying, limits.Concurrency))
	if lane == nil {
		return nil
	}
	req := lane.pack(c.gate.bound(lane.capped(limits, c.opts.BytesPerSecond)))
	req.lane = lane
	lane.charge(req.size)
	return req
}

// nextWake returns the time until something falls due, at most beatEvery.
func (c *cycle) nextWake(now time.Time) time.Duration {
	wake := now.Add(beatEvery)
	if c.readErr != nil {
		wake = earlier(wake, now.Add(time.Second))
	}
	c.lanes.each(func(l *lane) {
		if len(l.ready) > 0 {
			wake = earlier(wake, c.gate.until, now)
			wake = earlier(wake, c.pace.until(), now)
		}
		for _, it := range l.parked {
			wake = earlier(wake, it.due, now)
		}
	})
	return max(min(wake.Sub(now), c.opts.RemindEvery), time.Millisecond)
}

// earlier returns the earlier of a and b, where b counts only when it is after
// every one of the given instants.
func earlier(a, b time.Time, after ...time.Time) time.Time {
	for _, t := range after {
		if !b.After(t) {
			return a
		}
	}
	if b.Before(a) {
		return b
	}
	return a
}

// beat tells the watchdog that the loop lives, unless a request has long
// outlived its own time limit: then a sink is stuck.
func (c *cycle) beat(now time.Time) {
	for _, since := range c.inFlight {
		if now.Sub(since) > c.opts.Timeout+overdue {
			return
		}
	}
	c.obs.health.Beat()
}

// drained reports whether the queue was seen empty and nothing is at hand.
func (c *cycle) drained() bool {
	return c.readErr == nil && c.lanes.dry() && c.lanes.held() == 0
}

// finish waits for the requests that are under way, for Grace or until Abort,
// then cancels them and waits until each has returned.
func (c *cycle) finish(cancel context.CancelFunc) {
	grace := time.NewTimer(c.opts.Grace)
	defer grace.Stop()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	abort := c.abort
	for len(c.inFlight) > 0 {
		select {
		case r := <-c.results:
			c.settle(r)
		case <-abort:
			cancel()
			abort = nil
		case <-grace.C:
			cancel()
		case <-tick.C:
			c.beat(time.Now())
		}
	}
}
