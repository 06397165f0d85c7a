// Package backoff computes waiting times between tries: exponential with full
// jitter, bounded.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Policy bounds the waits. The zero Policy waits between 0.5 s and 60 s.
type Policy struct {
	Base time.Duration // ceiling of the first wait; 500 ms where 0
	Max  time.Duration // ceiling of every wait; 60 s where 0
}

// Wait returns how long to wait before try number attempt (0 is the first
// retry): between a tenth of a ceiling and the ceiling, which doubles with
// each attempt up to Max. The lower bound keeps a failing loop from spinning.
func (p Policy) Wait(attempt int) time.Duration {
	base, most := p.Base, p.Max
	if base <= 0 {
		base = 500 * time.Millisecond
	}
	if most <= 0 {
		most = time.Minute
	}
	ceiling := most
	if attempt < 40 && base<<attempt > 0 && base<<attempt < most {
		ceiling = base << attempt
	}
	low := ceiling / 10
	return low + time.Duration(rand.Int64N(int64(ceiling-low)+1))
}

// Sleep waits for d or until ctx is done, and reports whether it waited to the end.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
