package uploader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/uploader"
	"millrace/uploader/sinktest"
)

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
		// At 2.5 to 25 s each an hour has 144 to 1440 tries; the first six are closer.
		if n := len(down); n < 144 || n > 1460 {
			t.Errorf("%d tries in an hour", n)
		}
		for i := 12; i < len(down); i++ {
			if d := down[i].at - down[i-1].at; d > 25*time.Second+time.Millisecond || d < 2*time.Second {
				t.Errorf("%s between tries %d and %d", d, i-1, i)
			}
		}
		if len(r.queue.Acked())+len(r.queue.Buried()) > 0 {
			t.Error("blocks were acknowledged or buried during an outage")
		}
		up.Store(true)
		after(time.Minute) // within which delivery must go on
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

// Where one queue holds everything, each try is one small request, and what
// comes after the hold is in order.
func TestHoldOfTheOnlyPlaceIsTriedWithTheOldestBlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mended atomic.Bool
		s := newScript(func(_ context.Context, _ int, b []uploader.Block) []error {
			if mended.Load() {
				return delivered(b)
			}
			return fail(b, fault(uploader.Hold))
		})
		s.limits.OnePlace = true
		r := newRig(t, s, uploader.Options{}, 100)
		r.start()
		after(time.Hour)
		held := r.attempts()
		if len(held) < 60 {
			t.Errorf("%d tries in an hour", len(held))
		}
		for i, a := range held[1:] {
			if !slices.Equal(a.numbers, []uint64{1}) {
				t.Fatalf("try %d is of blocks %v, want the oldest alone", i+2, a.numbers)
			}
		}
		if st := r.loop.Stats(); st.State != uploader.StateHeld {
			t.Errorf("Stats are %+v", st)
		}
		mended.Store(true)
		after(2 * time.Minute)
		r.stop(t)
		var order []uint64
		for _, a := range r.attempts()[len(held):] {
			order = append(order, a.numbers...)
		}
		if r.queue.Left() != 0 || !slices.IsSorted(order) || len(order) != 100 {
			t.Errorf("%d are left; after the hold they went as %v", r.queue.Left(), order)
		}
		if n := len(r.attempts()) - len(held); n > 12 {
			t.Errorf("%d requests for 100 blocks of 10 a request", n)
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
