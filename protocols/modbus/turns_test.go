package modbus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// A write waits for the request on the wire, not for the polls before it; and
// writes that follow each other leave every second turn to a poll.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		if err := turns.take(t.Context(), polling); err != nil {
			t.Fatal(err)
		}
		var order []byte
		wait := func(h hurry, as byte) {
			go func() {
				if err := turns.take(t.Context(), h); err != nil {
					t.Error(err)
				}
				order = append(order, as)
				turns.give()
			}()
			synctest.Wait()
		}
		for _, p := range []byte("abc") {
			wait(polling, p)
		}
		for _, w := range []byte("XYZ") {
			wait(writing, w)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { gone <- turns.take(ctx, writing) }()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ended with %v", err)
		}
		turns.give()
		synctest.Wait()
		if string(order) != "XaYbZc" {
			t.Errorf("turns %s", order)
		}
		if err := turns.take(t.Context(), polling); err != nil {
			t.Errorf("the last turn did not end: %v", err)
		}
		turns.give()
	})
}

// A turn that comes as its user leaves goes to the next.
func TestATurnIsNotLost(t *testing.T) {
	var turns turns
	for range 1000 {
		if err := turns.take(t.Context(), writing); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			if turns.take(ctx, polling) == nil {
				turns.give()
			}
			close(done)
		}()
		go cancel()
		turns.give()
		<-done
	}
	turns.mu.Lock()
	defer turns.mu.Unlock()
	if turns.held || len(turns.waiting[polling]) > 0 {
		t.Error("the link stays taken")
	}
}
