package uploader_test

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/backoff"
	"millrace/uploader"
	"millrace/uploader/sinktest"
)

const (
	streams   = 3
	blockSize = 20_000
)

// day is what streams leave in 24 h at a block a minute.
const day = 24 * 60 * streams

// link is an endpoint behind a slow line that all requests share.
type link struct {
	fixed     time.Duration // of each request
	perSecond int           // bytes
	line      chan struct{}
}

func newLink(fixed time.Duration, perSecond int) *link {
	return &link{fixed, perSecond, make(chan struct{}, 1)}
}

// carry takes as long as the request does, or until ctx is done.
func (l *link) carry(ctx context.Context, blocks []uploader.Block) error {
	if !backoff.Sleep(ctx, l.fixed) {
		return ctx.Err()
	}
	const packet = 4000
	for _, b := range blocks {
		for sent := 0; sent < len(b.Data) && l.perSecond > 0; sent += packet {
			l.line <- struct{}{}
			ok := backoff.Sleep(ctx, time.Duration(min(packet, len(b.Data)-sent))*time.Second/time.Duration(l.perSecond))
			<-l.line
			if !ok {
				return ctx.Err()
			}
		}
	}
	return nil
}

// plant seals blocks, a burst of one per stream at a time, and knows when.
type plant struct {
	*rig
	next   uint64
	sealed map[uint64]time.Time
}

func (p *plant) burst(n int) {
	var blocks []uploader.Block
	for range n {
		p.sealed[p.next] = time.Now()
		blocks = append(blocks, sinktest.OpaqueOf(p.next, blockSize))
		p.next++
	}
	p.queue.Add(blocks...)
}

// watched is a sink whose deliveries are timed and counted.
type watched struct {
	*script
	live  atomic.Uint64 // the first number of the live lane
	worst atomic.Int64  // longest time from seal to answer of live blocks, ns
	plant *plant
}

func newWatched(l *link, down *atomic.Bool, as uploader.Class) *watched {
	w := &watched{}
	w.script = newScript(func(ctx context.Context, _ int, b []uploader.Block) []error {
		if down.Load() {
			return fail(b, fault(as))
		}
		if err := l.carry(ctx, b); err != nil {
			return fail(b, err)
		}
		for _, b := range b {
			if first := w.live.Load(); first > 0 && b.Number >= first {
				w.worst.Store(max(w.worst.Load(), int64(time.Since(w.plant.sealed[b.Number]))))
			}
		}
		return delivered(b)
	})
	w.limits.MaxBytes = 1 << 20
	return w
}

// since returns the numbers sent from a time on, those of each lane apart.
// Which of the requests of one instant came first nobody can tell.
func (w *watched) since(from time.Duration) (live, backlog []uint64) {
	attempts := w.attempts()
	slices.SortStableFunc(attempts, func(a, b attempt) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.numbers[0], b.numbers[0]))
	})
	for _, a := range attempts {
		if a.at < from {
			continue
		}
		for _, n := range a.numbers {
			if n >= w.live.Load() {
				live = append(live, n)
			} else {
				backlog = append(backlog, n)
			}
		}
	}
	return live, backlog
}

// inOrderOnce checks that a lane's blocks were sent in their order and once.
func inOrderOnce(t *testing.T, lane string, sent []uint64, want int) {
	t.Helper()
	if len(sent) != want {
		t.Errorf("the %s lane sent %d blocks, want %d once each", lane, len(sent), want)
	}
	for i := 1; i < len(sent); i++ {
		if sent[i] <= sent[i-1] {
			t.Fatalf("the %s lane sent block %d after %d", lane, sent[i], sent[i-1])
		}
	}
}

// drainDay lets live blocks come while a day's backlog drains, and checks each
// minute that it falls, until it is gone.
func drainDay(t *testing.T, p *plant, w *watched) {
	t.Helper()
	first := w.live.Load()
	left := func() int {
		n := 0
		for _, b := range p.queue.Numbers() {
			if b < first {
				n++
			}
		}
		return n
	}
	last, bursts := left(), 0
	for minute := 0; last > 0; minute++ {
		after(7 * time.Second)
		p.burst(streams)
		bursts++
		after(53 * time.Second)
		now := left()
		if now >= last {
			t.Fatalf("the backlog was %d blocks before minute %d and %d after it", last, minute, now)
		}
		last = now
		if minute > 48*60 {
			t.Fatal("the backlog does not end")
		}
	}
	after(time.Minute)
	if worst := time.Duration(w.worst.Load()); worst >= 5*time.Second {
		t.Errorf("a live block took %s from seal to acknowledgement", worst)
	}
	st := p.loop.Stats()
	if l := st.Lanes[uploader.LaneLive]; l.Blocks < uint64(bursts*streams) || l.Recent.Max >= 5*time.Second || l.Recent.Count == 0 {
		t.Errorf("the live lane says %+v after %d blocks", l, bursts*streams)
	}
	if l := st.Lanes[uploader.LaneBacklog]; l.Blocks+st.Lanes[uploader.LaneLive].Blocks != st.Blocks || l.Latency.Count == 0 {
		t.Errorf("the backlog lane says %+v", l)
	}
	if p.queue.Left() != 0 {
		t.Errorf("%d blocks are left", p.queue.Left())
	}
}

// With a day's backlog the live latency stays below 5 s, over lines that are
// slow in different ways.
func TestLiveBlocksPassADaysBacklog(t *testing.T) {
	for name, c := range map[string]struct {
		link        *link
		concurrency int
		options     uploader.Options
	}{
		"one request at a time, narrow line": {&link{fixed: 300 * time.Millisecond, perSecond: 40_000}, 1, uploader.Options{}},
		"two requests, narrow line":          {&link{fixed: 300 * time.Millisecond, perSecond: 40_000}, 2, uploader.Options{}},
		"two requests, long way":             {&link{fixed: 2 * time.Second}, 2, uploader.Options{}},
		"one request at a time, long way":    {&link{fixed: 1800 * time.Millisecond}, 1, uploader.Options{}},
		"cap":                                {&link{fixed: 50 * time.Millisecond}, 2, uploader.Options{BytesPerSecond: 40_000}},
		"cap, a small share":                 {&link{fixed: 50 * time.Millisecond}, 4, uploader.Options{BytesPerSecond: 40_000, BacklogShare: 0.2}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var down atomic.Bool
				w := newWatched(newLink(c.link.fixed, c.link.perSecond), &down, uploader.Transient)
				w.limits.Concurrency = c.concurrency
				p := &plant{rig: newRig(t, w.script, c.options, 0), next: 1, sealed: map[uint64]time.Time{}}
				w.plant = p
				p.burst(day)
				w.live.Store(p.next)
				p.start()
				drainDay(t, p, w)
				p.stop(t)
				live, backlog := w.since(0)
				inOrderOnce(t, "live", live, int(p.next)-day-1)
				inOrderOnce(t, "backlog", backlog, day)
				if c.link.perSecond == 0 && c.options.BytesPerSecond == 0 {
					// Where a smaller request takes as long, they stay whole.
					if n := len(w.attempts()); n > (day/10+int(p.next-day)/streams)*3/2 {
						t.Errorf("%d requests for %d blocks", n, p.next-1)
					}
				}
			})
		})
	}
}

// What an outage leaves behind becomes the backlog when the sink answers again.
func TestLanesAfterAnOutageOfADay(t *testing.T) {
	for _, class := range []uploader.Class{uploader.Transient, uploader.Hold, uploader.Throttled} {
		t.Run(class.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var down atomic.Bool
				down.Store(true)
				w := newWatched(newLink(300*time.Millisecond, 40_000), &down, class)
				w.limits.Concurrency = 2
				p := &plant{rig: newRig(t, w.script, uploader.Options{}, 0), next: 1, sealed: map[uint64]time.Time{}}
				w.plant = p
				p.start()
				for range 24 * 60 {
					p.burst(streams)
					after(time.Minute)
				}
				down.Store(false)
				mended := time.Since(start(p.ctx))
				for p.queue.Left() == day { // the next try comes within a minute
					after(100 * time.Millisecond)
				}
				w.live.Store(p.next)
				drainDay(t, p, w)
				p.stop(t)
				live, backlog := w.since(mended)
				// The first request is what was due then: it finds the sink mended.
				probe := 0
				for _, a := range w.attempts() {
					if a.at >= mended {
						probe = len(a.numbers)
						break
					}
				}
				inOrderOnce(t, "live", live, int(p.next)-day-1)
				inOrderOnce(t, "backlog", backlog[probe:], day-probe)
			})
		})
	}
}

// Under more than the sink can take both lanes go on, at their shares.
func TestLanesShareASinkThatIsTooSlow(t *testing.T) {
	for _, share := range []float64{0.25, 0.5, 0.8} {
		bubble(t, func(t *testing.T) {
			var down atomic.Bool
			w := newWatched(newLink(0, 100_000), &down, uploader.Transient)
			w.limits.MaxBlocks = 5
			p := &plant{rig: newRig(t, w.script, uploader.Options{BacklogShare: share}, 0), next: 1, sealed: map[uint64]time.Time{}}
			w.plant = p
			p.burst(day)
			p.start()
			for range 300 {
				p.burst(10) // 200 kB each second over a line of 100 kB/s
				after(time.Second)
			}
			st := p.loop.Stats()
			live, backlog := st.Lanes[uploader.LaneLive], st.Lanes[uploader.LaneBacklog]
			got := float64(backlog.Bytes) / float64(live.Bytes+backlog.Bytes)
			if got < share-0.06 || got > share+0.06 {
				t.Errorf("the backlog had %.2f of the line, want %.2f", got, share)
			}
			if live.Latency.Count == 0 || live.Recent.Max > 6*time.Second {
				t.Errorf("the live lane says %+v", live.Recent)
			}
			p.stop(t)
			seen := map[uint64]bool{}
			for _, a := range w.attempts() {
				for _, n := range a.numbers {
					if seen[n] {
						t.Fatalf("block %d was sent twice", n)
					}
					seen[n] = true
				}
			}
			// The oldest go first in the backlog, whatever joined its end.
			w.live.Store(day + 1)
			_, oldest := w.since(0)
			if !slices.IsSorted(oldest) {
				t.Error("the backlog was not sent in its order")
			}
		})
	}
}

// A sink that keeps up has one lane, whose requests are as full as they can be.
func TestASinkThatKeepsUpHasNoBacklog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var down atomic.Bool
		w := newWatched(newLink(100*time.Millisecond, 0), &down, uploader.Transient)
		p := &plant{rig: newRig(t, w.script, uploader.Options{}, 0), next: 1, sealed: map[uint64]time.Time{}}
		w.plant = p
		p.start()
		synctest.Wait()
		for range 60 {
			p.burst(40)
			after(time.Minute)
		}
		p.stop(t)
		st := p.loop.Stats()
		if st.Lanes[uploader.LaneBacklog].Blocks != 0 || st.Lanes[uploader.LaneLive].Blocks != 2400 || st.Requests != 60*4 {
			t.Errorf("Stats are %+v", st)
		}
	})
}

// What Run leaves in each lane Drain takes up there: the newest do not wait
// behind the backlog when the gateway stops.
func TestDrainKeepsTheLanes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var down atomic.Bool
		w := newWatched(newLink(time.Second, 100_000), &down, uploader.Transient)
		p := &plant{rig: newRig(t, w.script, uploader.Options{}, 0), next: 1, sealed: map[uint64]time.Time{}}
		w.plant = p
		p.burst(day)
		w.live.Store(p.next)
		p.start()
		after(10 * time.Minute)
		p.burst(streams)
		p.cancel()
		<-p.ended
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 10*time.Second)
		defer cancel()
		if err := p.loop.Drain(ctx); err == nil {
			t.Error("Drain says that the backlog is gone after ten seconds")
		}
		synctest.Wait()
		if live, _ := w.since(0); len(live) != streams {
			t.Errorf("%d of the newest %d blocks were sent before the end", len(live), streams)
		}
	})
}
