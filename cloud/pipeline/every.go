package pipeline

import (
	"context"
	"log/slog"
	"time"
)

// Schedule is when runs begin, where no other scheduler starts them.
type Schedule struct {
	// Every is the period. Runs begin at its multiples in UTC, Offset after them:
	// 24h and 30m is half past midnight, each day.
	Every, Offset time.Duration
	// Retry is how long after a failure the run is taken up again, where the next
	// one is not due before.
	Retry time.Duration
}

// slot is the last time at or before now at which a run begins.
func (s Schedule) slot(now time.Time) time.Time {
	return now.UTC().Add(-s.Offset).Truncate(s.Every).Add(s.Offset)
}

// lookEvery is how often the wall clock is looked at while nothing is due, so
// that a step of it is noticed.
const lookEvery = time.Minute

// Follow has run do each of the schedule's times until ctx is done, beginning
// with the last one before now. They never overlap: what became due while one
// lasted is left out, but for the newest. An error of run is logged, and it is
// tried again.
func Follow(ctx context.Context, s Schedule, store *Store, log *slog.Logger, run func(ctx context.Context, scheduled time.Time) error) {
	last := time.Time{}
	for ctx.Err() == nil {
		now := store.Now()
		due := s.slot(now)
		if !due.After(last) {
			wait := due.Add(s.Every).Sub(now)
			store.Sleep(ctx, min(max(wait, time.Millisecond), lookEvery))
			continue
		}
		err := run(ctx, due)
		if err == nil {
			last = due
			continue
		}
		if ctx.Err() == nil {
			log.Error("the run did not come to its end; it is taken up again", "run", IDOf(due), "in", s.Retry.String(), "error", err)
			store.Sleep(ctx, max(min(s.Retry, s.slot(store.Now()).Add(s.Every).Sub(store.Now())), time.Second))
		}
	}
}
