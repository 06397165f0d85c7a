package weektable

import (
	"log/slog"
	"testing"
	"time"

	"millrace/feeds"
	"millrace/internal/sim/awssim"
	"millrace/sample"
)

// TestAFailedQueryIsTriedAgain as its caller spaces that: until one works, it
// neither says that all is well nor waits for its interval.
func TestAFailedQueryIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.conf.Stream, b.conf.Unit = "fast", "°C"
	f := b.open()
	f.poll = feeds.Poll{Interval: time.Hour}
	b.Server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Denied: true})
	for try := range 2 {
		if _, err := f.Receive(t.Context()); err == nil {
			t.Fatalf("try %d says nothing of the failure", try)
		}
	}
}

// TestACursorOfAnotherKind, which the feed of that name had before it was one of
// a week table, keeps no value away.
func TestACursorOfAnotherKind(t *testing.T) {
	b := newBench(t)
	b.conf.Stream, b.conf.Unit = "fast", "°C"
	b.store("fast", sample.Sample{Tag: tag, Time: monday.Add(-time.Second).UnixNano(), Value: sample.FloatValue(81.5)})
	opened, err := b.conf.Open(feeds.Settings{
		Name: "neighbour", Site: "north", Gateway: "gw1", Log: slog.New(slog.DiscardHandler), Clock: b.clock, Cursor: "2026-11-22T23:59:00.000Z#r-17",
	})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := opened.Receive(t.Context()); err != nil || len(m) != 1 {
		t.Errorf("%d messages, %v", len(m), err)
	}
}
