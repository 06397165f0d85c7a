package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/feeds"
	"millrace/sample"
)

// TestATextOfSigns waits over a restart: JSON writes some characters six times
// as long, and the result is no larger for that.
func TestATextOfSigns(t *testing.T) {
	sp := sp1()
	sp.Type, sp.Unit, sp.Min, sp.Max, sp.MinInterval = sample.String, "", nil, nil, time.Minute
	within(t, []Target{sp}, func(r *rig) {
		text := func(version uint64, v string) {
			one := r.result(version, 0)
			one.Unit, one.Value = "", sample.StringValue(v)
			r.send(one)
		}
		text(1, "first")
		long := strings.Repeat("<", 4<<10)
		text(2, long) // it waits for its interval
		r.restart()
		r.pass(2 * time.Minute)
		if w := r.devices["sp1"].wrote(); len(w) != 2 || w[1].Value.Str() != long {
			t.Errorf("%d writes, the audit log ends with %q", len(w), r.story())
		}
	})
}

// TestNothingIsSentAfterItsTime: a device that keeps a write waiting, as one on a
// busy line does, does not get the value once it has expired.
func TestNothingIsSentAfterItsTime(t *testing.T) {
	within(t, []Target{sp1()}, func(r *rig) {
		free := make(chan struct{})
		r.lock(func() { r.devices["sp1"].hang = free })
		one := r.result(1, 41)
		one.ValidUntil = r.clock.Now().Add(2 * time.Second)
		r.send(one)
		r.pass(5 * time.Second)
		close(free)
		r.pass(5 * time.Second)
		r.written()
	})
}

// again is a feed that brings the same message whenever it is asked, and cannot
// be told that it is done.
type again struct {
	*queue
	message feeds.Message
	asked   int
}

func (a *again) Open(feeds.Settings) (feeds.Feed, error) { return a, nil }

func (a *again) Receive(context.Context) ([]feeds.Message, error) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.asked++
	if a.asked > 5000 {
		return nil, errDead
	}
	return []feeds.Message{a.message}, nil
}

func (a *again) Done(context.Context, []feeds.Message) error {
	return errors.New("access denied to delete")
}

// TestAFeedThatIsNeverTold does not fill the audit log as fast as it can.
func TestAFeedThatIsNeverTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		a := &again{queue: r.feed, message: feeds.Message{Key: "m-1", Body: []byte("{}")}}
		r.cfg.Feeds[0].Config = a
		r.start()
		r.pass(time.Minute)
		if n := len(r.story()); n < 5 || n > 60 {
			t.Errorf("%d records in a minute of a message that comes again and again", n)
		}
		r.stop()
	})
}

// deafAtTheEnd hangs when it is told.
type deafAtTheEnd struct{ *queue }

func (d deafAtTheEnd) Open(feeds.Settings) (feeds.Feed, error) { return d, nil }

func (d deafAtTheEnd) Done(ctx context.Context, _ []feeds.Message) error {
	<-ctx.Done()
	return fmt.Errorf("delete: %w", ctx.Err())
}

// TestAStopDoesNotWaitForAFeed whose line went dead: what it does not hear of
// comes again.
func TestAStopDoesNotWaitForAFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []Target{sp1()})
		r.cfg.Feeds[0].Config = deafAtTheEnd{r.feed}
		r.start()
		r.send(r.result(1, 41))
		r.pass(time.Second)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the stop took %s, the gateway grants 5 s", took)
		}
		r.written(41)
	})
}
