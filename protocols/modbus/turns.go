package modbus

import (
	"context"
	"slices"
	"sync"
)

// hurry is what somebody wants a turn on the link for.
type hurry uint8

const (
	polling hurry = iota
	writing
	hurries
)

// turns hands the link to one user at a time. A write does not wait for the
// polls that were there before it, but for the request on the wire; a poll
// waits for one write at most. Within each, the first that came is first.
type turns struct {
	mu      sync.Mutex
	held    bool
	last    hurry // whose turn it is, or was last
	waiting [hurries][]chan struct{}
}

// take waits for a turn. A ctx that is done takes precedence.
func (t *turns) take(ctx context.Context, h hurry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	if !t.held {
		t.held, t.last = true, h
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.waiting[h] = append(t.waiting[h], mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting[h], mine)
	if i >= 0 {
		t.waiting[h] = slices.Delete(t.waiting[h], i, i+1)
	}
	t.mu.Unlock()
	if i < 0 {
		t.give() // the turn came at the same moment
	}
	return ctx.Err()
}

// give ends a turn.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := writing
	if len(t.waiting[writing]) == 0 || t.last == writing && len(t.waiting[polling]) > 0 {
		next = polling
	}
	if len(t.waiting[next]) == 0 {
		t.held = false
		return
	}
	t.last = next
	first := t.waiting[next][0]
	t.waiting[next] = slices.Delete(t.waiting[next], 0, 1)
	close(first)
}
