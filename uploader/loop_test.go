package uploader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/backoff"
	"millrace/uploader"
	"millrace/uploader/sinktest"
)

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
		// What did not get through in time is sent in smaller requests.
		if a := r.attempts(); len(a) != 3 || a[1].at < 20*time.Second || a[2].at > 22*time.Second || len(a[1].numbers) != 2 {
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
		// A backlog's request takes the cap for 2 s: 2 blocks of 1000 bytes, the
		// first at once.
		if n := len(r.queue.Acked()); n != 56 {
			t.Errorf("%d kB were sent in 55 s at 1 kB/s, want 56", n)
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
