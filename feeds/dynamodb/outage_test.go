package dynamodb

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"millrace/feeds"
	"millrace/feeds/feedtest"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
)

// openAt opens the feed with a clock of the test's own.
func (b *bench) openAt(t *testing.T, c clock.Clock, cursor string) *feed {
	t.Helper()
	opened, err := b.conf.Open(feeds.Settings{Name: "results", Site: "north", Gateway: "gw1", Log: slog.New(slog.DiscardHandler), Clock: c, Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	return opened.(*feed)
}

// TestAFailedQueryIsTriedAgain as its caller spaces that: until one works, it
// neither says that all is well nor waits for its interval.
func TestAFailedQueryIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.conf.Interval = time.Hour
	f := b.openAt(t, clock.System{}, "")
	b.Server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Denied: true})
	for try := range 2 {
		if _, err := f.Receive(t.Context()); err == nil {
			t.Fatalf("try %d says nothing of the failure", try)
		}
	}
	b.Server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
	b.publish(t, time.Now(), "a", "after the failure")
	if m := feedtest.Receive(t, f, 1); string(m[0].Body) != "after the failure" {
		t.Errorf("%q", m[0].Body)
	}
}

// TestTheFirstResultOfAnOutage: a feed that has had nothing yet finds what was
// published while its table could not be reached, however long that was.
func TestTheFirstResultOfAnOutage(t *testing.T) {
	b := newBench(t)
	c := clock.NewFake(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC))
	f := b.openAt(t, c, "")
	if m, err := f.Receive(t.Context()); err != nil || len(m) != 0 {
		t.Fatalf("%v, %v", m, err)
	}
	b.publish(t, c.Now().Add(20*time.Minute), "a", "during the outage")
	c.Advance(time.Hour)
	if m := feedtest.Receive(t, f, 1); string(m[0].Body) != "during the outage" {
		t.Errorf("%q", m[0].Body)
	}
}

// TestALongBacklog takes no more memory than the overlap does.
func TestALongBacklog(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	const items = 2*maxPage + 50
	for i := range items { // one a minute, and two of them lie within the overlap
		b.publish(t, now.Add(time.Duration(i-items)*time.Minute), fmt.Sprint(i), "x")
	}
	f := b.openAt(t, clock.System{}, now.Add(-(items+1)*time.Minute).UTC().Format(PublishedLayout)+"#z")
	most, got := 0, 0
	for got < items {
		m, err := f.Receive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, most = got+len(m), max(most, len(f.seen))
	}
	if most > 10 {
		t.Errorf("%d keys were remembered, of which 3 can come again", most)
	}
}
