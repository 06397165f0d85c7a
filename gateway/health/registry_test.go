package health

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// hand is a clock that a test moves.
type hand struct{ now time.Time }

func (h *hand) Now() time.Time { return h.now }

func newRegistry() (*Registry, *hand, *bytes.Buffer) {
	var log bytes.Buffer
	h := &hand{time.Date(2026, 4, 1, 3, 0, 0, 0, time.UTC)}
	return New(slog.New(slog.NewTextHandler(&log, nil)), h), h, &log
}

func lines(b *bytes.Buffer) int { return strings.Count(b.String(), "\n") }

func TestEachChangeIsLoggedOnce(t *testing.T) {
	r, clock, log := newRegistry()
	c := r.Add(Source, "meter", time.Minute)
	for range 5 {
		c.Up()
	}
	if lines(log) != 1 {
		t.Errorf("five times up logs %d lines", lines(log))
	}
	for range 5 {
		c.Down(errors.New("no answer"))
	}
	if lines(log) != 2 {
		t.Errorf("five times down logs %d lines", lines(log)-1)
	}
	for range 100 { // another reason each second
		clock.now = clock.now.Add(time.Second)
		c.Down(errors.New(clock.now.String()))
	}
	if n := lines(log) - 2; n < 1 || n > 2 {
		t.Errorf("a new reason each second logs %d lines in 100 s", n)
	}
	c.Up()
	if !strings.Contains(log.String(), "source meter is up again") || !strings.Contains(log.String(), "down_for=1m40s") {
		t.Errorf("the recovery is not told: %s", log)
	}
	if s := r.Snapshot()[0]; s.State != Up || s.Reason != "" || s.Name != "meter" {
		t.Errorf("snapshot %+v", s)
	}
}

func TestAnOutageIsNotStuckAndAStuckLoopIs(t *testing.T) {
	r, clock, _ := newRegistry()
	away, stuck, gone := r.Add(Sink, "away", time.Minute), r.Add(Source, "hung", time.Minute), r.Add(Source, "stopped", time.Minute)
	gone.Stopped()
	away.Down(errors.New("no network"))
	stuck.Up()
	for range 30 {
		clock.now = clock.now.Add(10 * time.Second)
		away.Beat()
	}
	if got := r.Stuck(); len(got) != 1 || got[0] != "source hung for 5m0s" {
		t.Errorf("stuck: %q", got)
	}
	stuck.Beat()
	if got := r.Stuck(); len(got) != 0 {
		t.Errorf("stuck after it turned again: %q", got)
	}
}
