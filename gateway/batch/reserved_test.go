package batch

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/sample"
	"millrace/spool"
)

// A commit in several transactions finds no room after the first, which sealed
// what has room of its own: nothing of that is sealed again.
func TestNothingIsSealedTwiceWhereRoomEnds(t *testing.T) {
	s := &store{}
	b, err := New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, MaxCommitBytes: 1, Log: slog.New(slog.DiscardHandler),
		Clock: clock.System{}, Health: noHealth{}}, s, &spool.State{Epoch: 7})
	must(t, err)
	info := source("s/d/alarm", "s/d/a")
	info.Tags[0].Urgent = true
	p, err := b.Open(info)
	must(t, err)
	emit := func(i int) {
		t.Helper()
		must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/alarm", i, noon), at("s/d/a", i, noon)}, nil))
	}
	emit(1)
	must(t, b.commit(t.Context(), sealDue)) // as parts
	emit(2)
	ordinary := b.slots["s/d/a"].stream
	full := 0
	s.accepts = func(stream uint32) bool {
		if stream == ordinary && full < 2 {
			full++
			return false
		}
		return true
	}
	must(t, b.commit(context.Background(), sealOut))
	same(t, "times that there was no room", full, 2)
	must(t, b.commit(t.Context(), sealOut))
	emit(3)
	must(t, b.commit(t.Context(), sealOut))
	_, samples := s.blocks(t)
	came := map[string]int{}
	for _, v := range own(samples) {
		came[v.Tag]++
	}
	same(t, "alarms", came["s/d/alarm"], 3)
	same(t, "others", came["s/d/a"], 3)
	same(t, "bytes that wait", b.openBytes, 0)
}

func same(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}
