package worker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/clock"
)

// Counts is what a worker has done since its start.
type Counts struct {
	Received  uint64 // messages, those that came again too
	Stored    uint64 // blocks that a table has acknowledged
	Late      uint64 // blocks stored as objects, since their table is gone
	Samples   uint64 // in both
	Bytes     uint64 // of the blocks stored
	Poison    uint64 // messages found to be poison
	Held      uint64 // blocks put aside, since their table is missing or refuses all
	Returned  uint64 // messages given back to the queue
	Throttled uint64 // answers that asked for less
	Records   uint64 // catalogue and gap records and newest readings brought to their tables
}

type counters struct {
	received, stored, late, samples, bytes, poison, held, returned, throttled, records atomic.Uint64
}

// take counts a block that a table has acknowledged.
func (c *counters) take(p *parcel) {
	c.stored.Add(1)
	c.samples.Add(uint64(p.header.Count))
	c.bytes.Add(uint64(len(p.data)))
}

func (c *counters) read() Counts {
	return Counts{c.received.Load(), c.stored.Load(), c.late.Load(), c.samples.Load(), c.bytes.Load(), c.poison.Load(), c.held.Load(),
		c.returned.Load(), c.throttled.Load(), c.records.Load()}
}

// Counts returns what the worker has done so far.
func (w *Worker) Counts() Counts { return w.counts.read() }

// status is the fields of a line: totals, and the rate since an earlier count.
func (w *Worker) status(now, before Counts, over time.Duration) []any {
	out := []any{"received", now.Received, "stored", now.Stored, "samples", now.Samples, "bytes", now.Bytes, "late", now.Late, "poison", now.Poison,
		"held", now.Held, "returned", now.Returned, "throttled", now.Throttled, "records", now.Records}
	if over > 0 {
		out = append(out, "samples_per_second", math.Round(float64(now.Samples-before.Samples)/over.Seconds()))
	}
	return out
}

// report logs a line once a minute.
func (w *Worker) report(done <-chan struct{}) {
	t := time.NewTicker(statusEvery)
	defer t.Stop()
	before, at := Counts{}, time.Now()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			now := w.counts.read()
			w.o.Log.Info("working", w.status(now, before, time.Since(at))...)
			before, at = now, time.Now()
		}
	}
}

// minutely lets each kind of line through once a minute.
type minutely struct {
	clock clock.Clock

	mu   sync.Mutex
	last map[string]time.Time
}

const maxKinds = 1000 // bounds the memory; tables' names are among the kinds

func newMinutely(c clock.Clock) *minutely {
	return &minutely{clock: c, last: map[string]time.Time{}}
}

func (m *minutely) now(kind string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Now()
	if last, said := m.last[kind]; said && now.Sub(last) < time.Minute && now.After(last.Add(-time.Minute)) {
		return false
	}
	if len(m.last) >= maxKinds {
		clear(m.last)
	}
	m.last[kind] = now
	return true
}
