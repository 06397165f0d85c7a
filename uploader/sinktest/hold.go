package sinktest

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/backoff"
	"millrace/uploader"
)

// reminder stands for the minute between two lines of a hold.
const reminder = 100 * time.Millisecond

// lines collects a log. It may be written to and read at once.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) held() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, "delivery is held") {
			all = append(all, line)
		}
	}
	return all
}

// checkHold runs the delivery loop on a sink that an operator has to mend:
// everything is kept, one line each reminder says what to do, and once it is
// mended all drains by itself.
func checkHold(t *testing.T, h Harness, f Fault) {
	e, s, set := h.withFault(t, f)
	q := NewQueue()
	blocks := h.blocks(1, 40)
	q.Add(blocks...)
	log := &lines{}
	loop := uploader.New(s, q, silent{}, uploader.Options{Log: slog.New(slog.NewTextHandler(log, nil)), Timeout: patience, RemindEvery: reminder,
		Backoff: backoff.Policy{Base: 5 * time.Millisecond, Max: 20 * time.Millisecond}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	set(true)
	began := time.Now()
	go func() {
		defer close(ended)
		_ = loop.Run(running)
	}()
	for len(log.held()) < 3 && backoff.Sleep(ctx, 5*time.Millisecond) {
		continue
	}
	told, most := log.held(), int(time.Since(began)/reminder)
	st := loop.Stats()
	if len(told) < 3 || len(told) > most {
		t.Errorf("%d lines while it was held, want at least 3 and at most %d:\n%s", len(told), most, strings.Join(told, ""))
	}
	for _, line := range told {
		if !strings.Contains(line, "; ") || !strings.Contains(line, "nothing is lost") {
			t.Errorf("a line lacks the hint: %s", line)
		}
	}
	if st.State != uploader.StateHeld || q.Left() != len(blocks) || len(q.Buried()) > 0 {
		t.Errorf("while it was held: state %s, %d of %d blocks left, %d buried", st.State, q.Left(), len(blocks), len(q.Buried()))
	}
	set(false)
	for q.Left() > 0 && backoff.Sleep(ctx, 5*time.Millisecond) {
		continue
	}
	stop()
	<-ended
	if q.Left() > 0 || len(q.Buried()) > 0 {
		t.Fatalf("once mended: %d blocks are left and %d buried; %+v", q.Left(), len(q.Buried()), loop.Stats())
	}
	mustHold(t, e, blocks)
}
