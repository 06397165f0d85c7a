package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/gateway/forecast"
	"millrace/spool"
)

// An outage of 30 h at a rate that fills the spool in 28 h: the log tells of it
// as it begins, hourly, as it passes 24 h, 4 h and 1 h, and when it is full.
// logText is what was logged, to be read while more is.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestTheLogTellsOfAFillingSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		g := &Gateway{log: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		const rate, bound = 10_000, 10_000 * 28 * 3600
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.follow(ctx, func(now time.Time) forecast.Observation {
				stored := int64(now.Sub(began).Seconds()) * rate
				return forecast.Observation{At: now, Stored: uint64(stored), Waiting: stored, Room: max(bound-stored, 0), Stalled: true}
			})
		}()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if f := g.foresee(); f.State != forecast.Filling || f.Text != "full in 27 h at the present rate" {
			t.Errorf("after three minutes: %+v", f)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "full in 27 h at the present rate") {
			t.Errorf("after three minutes the log has\n%s", log.String())
		}
		time.Sleep(30 * time.Hour)
		synctest.Wait()
		cancel()
		<-done
		text := log.String()
		for _, want := range []string{"level=WARN msg=\"the spool is filling: full in 23 h", "full in 3 h at", "level=ERROR msg=\"the spool is filling: full in 59 min", "level=ERROR msg=\"the spool is full"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q was not told", want)
			}
		}
		if n := strings.Count(text, "\n"); n < 30 || n > 34 {
			t.Errorf("%d lines in 30 h:\n%s", n, text)
		}
	})
}

func TestTheSlowestSinkCounts(t *testing.T) {
	st := spool.Stats{Sinks: map[string]spool.SinkStats{"a": {PendingDisk: 5}, "b": {PendingDisk: 9, PendingBlocks: 1}, "c": {PendingDisk: 9}}}
	for range 20 { // whatever the order of the map
		if name, s := furthest(st); name != "b" || s.PendingDisk != 9 {
			t.Fatalf("%s is furthest behind, with %+v", name, s)
		}
	}
}
