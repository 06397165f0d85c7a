package backoff

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitStaysWithinItsCeiling(t *testing.T) {
	p := Policy{Base: time.Second, Max: 10 * time.Second}
	for attempt := range 100 {
		ceiling := 10 * time.Second
		if attempt < 4 {
			ceiling = time.Second << attempt
		}
		for range 50 {
			if w := p.Wait(attempt); w < ceiling/10 || w > ceiling {
				t.Fatalf("attempt %d waits %s, the ceiling is %s", attempt, w, ceiling)
			}
		}
	}
	if w := (Policy{}).Wait(1000); w > time.Minute || w < 6*time.Second {
		t.Errorf("the zero policy waits %s at last", w)
	}
}

func TestSleepHearsCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if Sleep(ctx, time.Hour) {
			t.Error("Sleep says that it waited to the end")
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("Sleep returned after %s", d)
		}
		if !Sleep(t.Context(), time.Hour) {
			t.Error("Sleep says that it was interrupted")
		}
	})
}
