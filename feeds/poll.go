package feeds

import (
	"context"
	"time"

	"millrace/internal/backoff"
)

// longestWait bounds a wait, so that the caller sees that the feed lives.
const longestWait = 10 * time.Second

// Poll spaces the questions of a feed that has to ask. The zero time of asking
// is due at once.
type Poll struct {
	Interval time.Duration
	asked    time.Time // by the monotonic clock
}

// Wait waits until a question is due, for 10 s at the most, and reports
// whether it is.
func (p *Poll) Wait(ctx context.Context) (due bool, err error) {
	wait := p.Interval - time.Since(p.asked)
	if p.asked.IsZero() || wait <= 0 {
		return true, nil
	}
	if !backoff.Sleep(ctx, min(wait, longestWait)) {
		return false, ctx.Err()
	}
	return wait <= longestWait, nil
}

// Asked notes that a question was asked now.
func (p *Poll) Asked() { p.asked = time.Now() }
