package uploader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/backoff"
	"millrace/uploader"
	"millrace/uploader/sinktest"
)

// script is a sink that does what its test says.
type script struct {
	limits uploader.Limits
	send   func(ctx context.Context, call int, blocks []uploader.Block) []error

	mu    sync.Mutex
	calls []attempt
	now   int // requests under way
	most  int // most of them at once
	bytes int // data under way
	peak  int
}

type attempt struct {
	at      time.Duration // since the start
	numbers []uint64
}

func newScript(send func(ctx context.Context, call int, blocks []uploader.Block) []error) *script {
	return &script{send: send, limits: uploader.Limits{MaxBlocks: 10, MaxBytes: 100_000, Concurrency: 1,
		Size: func(b *uploader.Block) int { return len(b.Data) }}}
}

func (s *script) Limits() uploader.Limits     { return s.limits }
func (s *script) Check(context.Context) error { return nil }
func (s *script) Close() error                { return nil }

func (s *script) Send(ctx context.Context, blocks []uploader.Block) []error {
	numbers, size := []uint64{}, 0
	for _, b := range blocks {
		numbers, size = append(numbers, b.Number), size+len(b.Data)
	}
	s.mu.Lock()
	call := len(s.calls)
	s.calls = append(s.calls, attempt{time.Since(start(ctx)), numbers})
	s.now, s.bytes = s.now+1, s.bytes+size
	s.most, s.peak = max(s.most, s.now), max(s.peak, s.bytes)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now, s.bytes = s.now-1, s.bytes-size
		s.mu.Unlock()
	}()
	return s.send(ctx, call, blocks)
}

func (s *script) attempts() []attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

type startKey struct{}

func start(ctx context.Context) time.Time { return ctx.Value(startKey{}).(time.Time) }

// delivered is the outcome of a whole request that was taken.
func delivered(blocks []uploader.Block) []error { return make([]error, len(blocks)) }

func fail(blocks []uploader.Block, err error) []error {
	out := make([]error, len(blocks))
	for i := range out {
		out[i] = err
	}
	return out
}

func fault(c uploader.Class) *uploader.SendError {
	return &uploader.SendError{Class: c, Op: "send to", Object: "test", Err: errors.New(c.String()), Hint: "mend it"}
}

// health notes what the loop says.
type health struct {
	mu      sync.Mutex
	changes []string
	beats   []time.Time
}

func (h *health) Beat()        { h.mu.Lock(); h.beats = append(h.beats, time.Now()); h.mu.Unlock() }
func (h *health) Up()          { h.note("up") }
func (h *health) Down(e error) { h.note("down: " + e.Error()) }

func (h *health) note(s string) { h.mu.Lock(); h.changes = append(h.changes, s); h.mu.Unlock() }

func (h *health) seen() []string { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.changes) }

// longestGap returns the longest time without a beat.
func (h *health) longestGap() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(h.beats); i++ {
		longest = max(longest, h.beats[i].Sub(h.beats[i-1]))
	}
	return longest
}

// rig is a loop that runs in a bubble.
type rig struct {
	*script
	queue  *sinktest.Queue
	health *health
	loop   *uploader.Loop
	log    *bytes.Buffer
	cancel context.CancelFunc
	ended  chan error
	ctx    context.Context
}

func newRig(t *testing.T, s *script, o uploader.Options, blocks int) *rig {
	r := &rig{script: s, queue: sinktest.NewQueue(), health: &health{}, log: &bytes.Buffer{}, ended: make(chan error, 1)}
	for n := range blocks {
		r.queue.Add(sinktest.OpaqueOf(uint64(n+1), 1000))
	}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.loop = uploader.New(s, r.queue, r.health, o)
	ctx := context.WithValue(context.Background(), startKey{}, time.Now())
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

func (r *rig) start() { go func() { r.ended <- r.loop.Run(r.ctx) }() }

// stop ends Run and checks what always holds.
func (r *rig) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Errorf("Run returned %v after its context was done", err)
	}
	if gap := r.health.longestGap(); gap > 10*time.Second {
		t.Errorf("there was no beat for %s", gap)
	}
}

// bubble runs a test in fake time.
func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

// after lets fake time go by.
func after(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestDeliversInFullRequests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, newScript(func(_ context.Context, _ int, b []uploader.Block) []error { return delivered(b) }), uploader.Options{}, 25)
		r.start()
		after(time.Second)
		r.queue.Add(sinktest.OpaqueOf(26, 1000)) // wakes the loop by Ready
		synctest.Wait()
		r.stop(t)
		var sizes []int
		for _, a := range r.attempts() {
			sizes = append(sizes, len(a.numbers))
		}
		if want := []int{10, 10, 5, 1}; !slices.Equal(sizes, want) {
			t.Errorf("requests of %v blocks, want %v", sizes, want)
		}
		if acked := r.queue.Acked(); len(acked) != 26 || !slices.IsSorted(acked) || r.queue.Left() != 0 {
			t.Errorf("acknowledged %v, %d are left", acked, r.queue.Left())
		}
		st := r.loop.Stats()
		if st.Blocks != 26 || st.Samples != 2600 || st.Bytes != 26_000 || st.Requests != 4 || st.Retries != 0 || st.State != uploader.StateUp ||
			st.LastDelivery.IsZero() {
			t.Errorf("Stats are %+v", st)
		}
		if want := []string{"up"}; !slices.Equal(r.health.seen(), want) {
			t.Errorf("Health was told %v, want %v", r.health.seen(), want)
		}
	})
}

func TestRequestsKeepTheLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			time.Sleep(time.Second)
			return delivered(b)
		})
		s.limits.MaxBytes, s.limits.Concurrency = 3500, 3
		r := newRig(t, s, uploader.Options{}, 40)
		r.queue.Add(sinktest.OpaqueOf(41, 9000)) // larger than a whole request: alone
		r.start()
		after(time.Minute)
		r.stop(t)
		for _, a := range r.attempts() {
			if len(a.numbers) > 3 || slices.Contains(a.numbers, 41) && len(a.numbers) > 1 {
				t.Errorf("a request holds %v", a.numbers)
			}
		}
		if s.most != 3 {
			t.Errorf("%d requests were under way at once, want 3", s.most)
		}
		if s.peak > 3*3500+9000 {
			t.Errorf("%d bytes were under way", s.peak)
		}
		if r.queue.Left() != 0 {
			t.Errorf("%d blocks are left", r.queue.Left())
		}
	})
}

func TestAnswersMayComeInAnyOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			time.Sleep(time.Duration(10-b[0].Number) * time.Second)
			return delivered(b)
		})
		s.limits.MaxBlocks, s.limits.Concurrency = 2, 4
		r := newRig(t, s, uploader.Options{}, 8)
		r.start()
		after(10 * time.Second)
		r.stop(t)
		if want := []uint64{7, 8, 5, 6, 3, 4, 1, 2}; !slices.Equal(r.queue.Acked(), want) {
			t.Errorf("acknowledged in the order %v, want %v", r.queue.Acked(), want)
		}
	})
}

func TestBacksOffWhileTheEndpointIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var up atomic.Bool
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			if up.Load() {
				return delivered(b)
			}
			return fail(b, fault(uploader.Transient))
		})
		s.limits.Concurrency = 4
		r := newRig(t, s, uploader.Options{}, 100)
		r.start()
		after(time.Hour)
		down := r.attempts()
		// At 6 to 60 s each an hour has 60 to 600 tries; the first seven are closer.
		if n := len(down); n < 60 || n > 620 {
			t.Errorf("%d tries in an hour", n)
		}
		for i := 12; i < len(down); i++ {
			if d := down[i].at - down[i-1].at; d > time.Minute || d < 5*time.Second {
				t.Errorf("%s between tries %d and %d", d, i-1, i)
			}
		}
		if len(r.queue.Acked())+len(r.queue.Buried()) > 0 {
			t.Error("blocks were acknowledged or buried during an outage")
		}
		up.Store(true)
		after(2 * time.Minute)
		r.stop(t)
		if r.queue.Left() != 0 {
			t.Errorf("%d blocks are left after the outage", r.queue.Left())
		}
		if c := r.health.seen(); len(c) != 2 || !strings.HasPrefix(c[0], "down: send to test: transient") || c[1] != "up" {
			t.Errorf("Health was told %v, want down and up once each", c)
		}
		if r.log.Len() > 0 {
			t.Errorf("an outage that Health reports was logged too: %s", r.log)
		}
	})
}

func TestOneFailureIsNoOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
			if call == 1 {
				return fail(b, fault(uploader.Transient))
			}
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{}, 30)
		r.start()
		after(time.Minute)
		r.stop(t)
		if want := []string{"up"}; !slices.Equal(r.health.seen(), want) || r.queue.Left() != 0 {
			t.Errorf("Health was told %v, want %v; %d blocks are left", r.health.seen(), want, r.queue.Left())
		}
		if n := r.loop.Stats().Retries; n != 10 {
			t.Errorf("%d blocks were sent again, want 10", n)
		}
	})
}

func TestServersDelayIsHonoured(t *testing.T) {
	for _, partial := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			slow := fault(uploader.Throttled)
			slow.RetryAfter = 42 * time.Second
			s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
				out := delivered(b)
				if call == 0 {
					out = fail(b, slow)
					if partial {
						out[0] = nil
					}
				}
				return out
			})
			s.limits.Concurrency = 2
			r := newRig(t, s, uploader.Options{}, 5)
			r.start()
			after(20 * time.Second)
			r.queue.Add(sinktest.OpaqueOf(6, 1000)) // must wait too
			after(time.Minute)
			r.stop(t)
			if a := r.attempts(); len(a) < 2 || a[1].at < 42*time.Second || a[1].at > 43*time.Second {
				t.Errorf("partial %v: requests at %v, want the second after 42s", partial, a)
			}
			if r.queue.Left() != 0 {
				t.Errorf("partial %v: %d blocks are left", partial, r.queue.Left())
			}
		})
	}
}

func TestOnlyFailedBlocksAreSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
			out := delivered(b)
			if call == 0 {
				out[2], out[5] = fault(uploader.Transient), fault(uploader.Throttled)
			}
			return out
		})
		r := newRig(t, s, uploader.Options{}, 10)
		r.start()
		after(2 * time.Minute)
		r.stop(t)
		sent := map[uint64]int{}
		for _, a := range r.attempts() {
			for _, n := range a.numbers {
				sent[n]++
			}
		}
		for n := uint64(1); n <= 10; n++ {
			if want := map[bool]int{true: 2, false: 1}[n == 3 || n == 6]; sent[n] != want {
				t.Errorf("block %d was sent %d times, want %d", n, sent[n], want)
			}
		}
		if r.queue.Left() != 0 {
			t.Errorf("%d blocks are left", r.queue.Left())
		}
	})
}

func TestPoisonIsBuriedAndHoldsUpNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			out := delivered(b)
			for i := range b {
				if b[i].Number%7 == 0 {
					out[i] = fault(uploader.Permanent)
				}
			}
			return out
		})
		r := newRig(t, s, uploader.Options{}, 50)
		r.queue.Fail("bury", errors.New("disk trouble"))
		r.start()
		after(time.Second)
		if n := len(r.queue.Acked()); n != 43 {
			t.Errorf("%d blocks were delivered beside the poison, want 43", n)
		}
		r.queue.Fail("bury", nil)
		after(2 * time.Minute)
		r.stop(t)
		if b := r.queue.Buried(); len(b) != 7 || !strings.Contains(b[7], "permanent") || r.queue.Left() != 0 {
			t.Errorf("buried %v, %d are left", b, r.queue.Left())
		}
		if n := r.loop.Stats().Buried; n != 7 {
			t.Errorf("Stats say %d were buried", n)
		}
	})
}

// A request that is refused as a whole says nothing of its single blocks.
func TestWholeRefusalIsTriedBlockByBlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			if slices.ContainsFunc(b, func(b uploader.Block) bool { return b.Number == 4 }) {
				return fail(b, fault(uploader.Permanent))
			}
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{}, 10)
		r.start()
		after(time.Minute)
		r.stop(t)
		if b := r.queue.Buried(); len(b) != 1 || b[4] == "" || len(r.queue.Acked()) != 9 {
			t.Errorf("buried %v, acknowledged %v", b, r.queue.Acked())
		}
	})
}

// A block that makes every request fail that it is in, without being refused.
func TestBlockThatAlwaysFailsHoldsUpNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			if slices.ContainsFunc(b, func(b uploader.Block) bool { return b.Number == 15 }) {
				return fail(b, fault(uploader.Transient))
			}
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{}, 100)
		r.start()
		after(2 * time.Minute)
		if r.queue.Left() != 1 {
			t.Errorf("%d blocks are left, want the bad one only", r.queue.Left())
		}
		before := len(r.attempts())
		after(time.Hour)
		if n := len(r.attempts()) - before; n < 10 || n > 650 {
			t.Errorf("the bad block was tried %d times in an hour", n)
		}
		r.stop(t)
	})
}

func TestHoldKeepsEverythingAndLogsOnceAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mended atomic.Bool
		s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
			if mended.Load() {
				return delivered(b)
			}
			held := fault(uploader.Hold)
			held.Err = fmt.Errorf("request %d denied", call) // differs each time
			return fail(b, held)
		})
		s.limits.Concurrency = 2
		r := newRig(t, s, uploader.Options{}, 200)
		r.start()
		after(10*time.Minute + 30*time.Second)
		if n := strings.Count(r.log.String(), "\n"); n < 9 || n > 10 {
			t.Errorf("%d lines in ten and a half minutes, want one a minute:\n%s", n, r.log)
		}
		if !strings.Contains(r.log.String(), "mend it") {
			t.Errorf("the lines lack the hint: %s", r.log)
		}
		if st := r.loop.Stats(); st.State != uploader.StateHeld || st.LastError == "" {
			t.Errorf("Stats are %+v", st)
		}
		if len(r.queue.Acked())+len(r.queue.Buried()) > 0 {
			t.Error("held blocks were acknowledged or buried")
		}
		a := r.attempts()
		for i := 10; i < len(a); i++ {
			if d := a[i].at - a[i-1].at; d > time.Minute {
				t.Errorf("%s between tries", d)
			}
		}
		mended.Store(true)
		after(time.Minute) // the next try comes within this
		lines := r.log.Len()
		after(3 * time.Minute)
		r.stop(t)
		if r.queue.Left() != 0 {
			t.Errorf("%d blocks are left after the hold", r.queue.Left())
		}
		if r.log.Len() != lines {
			t.Errorf("lines go on after the hold: %s", r.log.String()[lines:])
		}
		c := r.health.seen()
		if !strings.HasPrefix(c[0], "down: send to test: request ") || c[len(c)-1] != "up" || len(c) > 4 {
			t.Errorf("Health was told %v", c)
		}
	})
}

// One table of several is missing: its blocks wait, the others go on.
func TestPartialHoldLetsTheRestThrough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mended atomic.Bool
		old := func(b uploader.Block) bool { return b.Number <= 60 }
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			out, held := delivered(b), fault(uploader.Hold)
			for i := range b {
				if old(b[i]) && !mended.Load() {
					out[i] = held
				}
			}
			return out
		})
		r := newRig(t, s, uploader.Options{}, 100)
		r.start()
		after(10 * time.Minute)
		if n := len(r.queue.Acked()); n != 40 {
			t.Errorf("%d blocks got through beside those that are held, want 40", n)
		}
		if st := r.loop.Stats(); st.State != uploader.StateHeld {
			t.Errorf("Stats are %+v", st)
		}
		// One that comes later waits for the next try at most.
		r.queue.Add(sinktest.OpaqueOf(101, 1000))
		after(time.Minute)
		if n := len(r.queue.Acked()); n != 41 {
			t.Errorf("a new block did not get through within a minute: %d are delivered", n)
		}
		mended.Store(true)
		after(2 * time.Minute)
		r.stop(t)
		if c := r.health.seen(); r.queue.Left() != 0 || c[len(c)-1] != "up" {
			t.Errorf("%d blocks are left, Health was told %v", r.queue.Left(), c)
		}
	})
}

func TestShutdownWaitsForAnswersWithinTheGrace(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		acked int
	}{{3 * time.Second, 10}, {20 * time.Second, 0}} {
		bubble(t, func(t *testing.T) {
			s := newScript(func(ctx context.Context, _ int, b []uploader.Block) []error {
				if !backoff.Sleep(ctx, c.takes) {
					return fail(b, ctx.Err())
				}
				return delivered(b)
			})
			r := newRig(t, s, uploader.Options{Grace: 5 * time.Second}, 30)
			r.start()
			after(time.Second)
			stopped := time.Now()
			r.stop(t)
			if d := time.Since(stopped); d > 5*time.Second {
				t.Errorf("Run took %s to stop", d)
			}
			if n := len(r.queue.Acked()); n != c.acked || len(r.queue.Buried()) > 0 || len(r.attempts()) != 1 {
				t.Errorf("a request of %s: %d blocks acknowledged, want %d; %d requests", c.takes, n, c.acked, len(r.attempts()))
			}
			// What is left is delivered by the next one, from the beginning.
			s.send = func(_ context.Context, _ int, b []uploader.Block) []error { return delivered(b) }
			if err := r.loop.Drain(context.WithoutCancel(r.ctx)); err != nil || r.queue.Left() != 0 {
				t.Errorf("Drain: %v, %d blocks are left", err, r.queue.Left())
			}
		})
	}
}

func TestRequestsHaveATimeLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(ctx context.Context, call int, b []uploader.Block) []error {
			if call == 0 {
				<-ctx.Done()
				return fail(b, ctx.Err())
			}
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{Timeout: 20 * time.Second}, 5)
		r.start()
		after(time.Minute)
		r.stop(t)
		if a := r.attempts(); len(a) != 2 || a[1].at < 20*time.Second || a[1].at > 22*time.Second {
			t.Errorf("requests at %v", a)
		}
	})
}

// A sink that ignores its deadline is stuck, and the watchdog must see it.
func TestStuckSinkStopsTheHeartbeat(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			<-release
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{Timeout: 10 * time.Second}, 5)
		r.start()
		after(10 * time.Minute)
		r.health.mu.Lock()
		silent := time.Since(r.health.beats[len(r.health.beats)-1])
		r.health.mu.Unlock()
		if silent < 9*time.Minute {
			t.Errorf("the last beat was %s ago, with a request stuck for ten minutes", silent)
		}
		close(release)
		r.cancel()
		<-r.ended
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
			if call%2 == 0 {
				return fail(b, fault(uploader.Transient))
			}
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{}, 35)
		if err := r.loop.Drain(r.ctx); err != nil || r.queue.Left() != 0 {
			t.Errorf("Drain: %v, %d blocks are left", err, r.queue.Left())
		}
		s.send = func(_ context.Context, _ int, b []uploader.Block) []error { return fail(b, fault(uploader.Hold)) }
		r.queue.Add(sinktest.OpaqueOf(36, 1000))
		ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
		defer cancel()
		if err := r.loop.Drain(ctx); err == nil || uploader.Classify(err) != uploader.Hold || r.queue.Left() != 1 {
			t.Errorf("Drain of what is held: %v, %d blocks are left", err, r.queue.Left())
		}
	})
}

func TestBandwidthIsCapped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error { return delivered(b) })
		s.limits.Concurrency = 4
		r := newRig(t, s, uploader.Options{BytesPerSecond: 1000}, 100)
		r.start()
		after(55 * time.Second)
		// 10 blocks of 1000 bytes each 10 s, the first at once.
		if n := len(r.queue.Acked()); n != 60 {
			t.Errorf("%d kB were sent in 55 s at 1 kB/s, want 60", n)
		}
		r.stop(t)
	})
}

func TestQueueThatCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, newScript(func(_ context.Context, _ int, b []uploader.Block) []error { return delivered(b) }), uploader.Options{}, 5)
		r.queue.Fail("read", errors.New("segment 3 is corrupt"))
		r.start()
		after(time.Minute)
		if st := r.loop.Stats(); st.State != uploader.StateBlocked {
			t.Errorf("Stats are %+v", st)
		}
		r.queue.Fail("read", nil)
		after(time.Minute)
		r.stop(t)
		if c := r.health.seen(); r.queue.Left() != 0 || !strings.Contains(c[0], "segment 3 is corrupt") || c[len(c)-1] != "up" {
			t.Errorf("%d blocks are left, Health was told %v", r.queue.Left(), c)
		}
	})
}

// A block that was evicted while it waited is not sent again.
func TestEvictedBlockIsLetGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
			out := delivered(b)
			if call == 0 {
				out[3] = fault(uploader.Transient)
			}
			return out
		})
		r := newRig(t, s, uploader.Options{}, 5)
		r.start()
		synctest.Wait()
		r.queue.Evict(4)
		after(2 * time.Minute)
		r.stop(t)
		if n := len(r.attempts()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}

func TestWrongNumberOfOutcomesConfirmsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newScript(func(_ context.Context, call int, b []uploader.Block) []error {
			if call == 0 {
				return make([]error, len(b)-1)
			}
			return delivered(b)
		})
		r := newRig(t, s, uploader.Options{}, 5)
		r.start()
		after(time.Minute)
		r.stop(t)
		if len(r.queue.Acked()) != 5 || len(r.attempts()) != 2 {
			t.Errorf("acknowledged %v after %d requests", r.queue.Acked(), len(r.attempts()))
		}
	})
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want uploader.Class
	}{
		{errors.New("throttled, access denied, permanent"), uploader.Transient}, // never by text
		{fmt.Errorf("wrapped: %w", fault(uploader.Permanent)), uploader.Permanent},
		{fault(uploader.Hold), uploader.Hold},
		{context.DeadlineExceeded, uploader.Transient},
		{fmt.Errorf("send: %w", context.Canceled), uploader.Shutdown},
	} {
		if got := uploader.Classify(c.err); got != c.want {
			t.Errorf("Classify(%v) = %s, want %s", c.err, got, c.want)
		}
	}
	e := &uploader.SendError{Op: "send to queue", Object: "q", Err: errors.New("not\nthere."), Hint: "create it"}
	if got, want := e.Error(), "send to queue q: not there; create it"; got != want {
		t.Errorf("the error reads %q, want %q", got, want)
	}
}
