package sinktest

import (
	"context"
	"testing"
	"time"

	"millrace/internal/backoff"
	"millrace/uploader"
)

// silent is a Health that nobody listens to.
type silent struct{}

func (silent) Beat()      {}
func (silent) Up()        {}
func (silent) Down(error) {}

// checkLoop runs the delivery loop on the sink through a fault that comes and
// goes: every block must be stored, and none buried.
func checkLoop(t *testing.T, h Harness, f Fault) {
	e, s, set := h.withFault(t, f)
	q := NewQueue()
	blocks := h.blocks(1, 60)
	q.Add(blocks[:20]...)
	loop := uploader.New(s, q, silent{}, uploader.Options{Log: Log(), Timeout: patience,
		Backoff: backoff.Policy{Base: 5 * time.Millisecond, Max: 50 * time.Millisecond}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(running) }()
	set(true)
	q.Add(blocks[20:40]...)
	// The fault has struck once a block had to be sent again.
	for loop.Stats().Retries == 0 && ctx.Err() == nil {
		if !backoff.Sleep(ctx, 5*time.Millisecond) || q.Left() == 0 {
			break
		}
	}
	q.Add(blocks[40:]...)
	set(false)
	for q.Left() > 0 && backoff.Sleep(ctx, 5*time.Millisecond) {
		continue
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if q.Left() > 0 || len(q.Buried()) > 0 {
		st := loop.Stats()
		t.Fatalf("%d blocks are left and %d buried; %+v", q.Left(), len(q.Buried()), st)
	}
	mustHold(t, e, blocks)
}
