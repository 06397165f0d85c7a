package uploader

import (
	"time"

	"millrace/internal/backoff"
)

// pace spaces requests: by the delay that the endpoint asked for, and by the
// cap on bandwidth. The zero pace with a policy lets everything through.
type pace struct {
	policy    backoff.Policy
	perSecond int // bytes; 0 is no cap

	slowed int       // throttled answers in a row
	pause  time.Time // what the endpoint asked for
	free   time.Time // when the bandwidth of what was sent is used up
}

// open reports whether a request may start now.
func (p *pace) open(now time.Time) bool { return !now.Before(p.until()) }

// until returns when the next request may start.
func (p *pace) until() time.Time {
	if p.free.After(p.pause) {
		return p.free
	}
	return p.pause
}

// sent books a request of so many bytes.
func (p *pace) sent(now time.Time, bytes int) {
	if p.perSecond <= 0 {
		return
	}
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(bytes) / float64(p.perSecond) * float64(time.Second)))
}

// throttled notes an answer that asks for fewer requests; after is the delay
// it named, or 0.
func (p *pace) throttled(now time.Time, after time.Duration) {
	wait := after
	if wait <= 0 {
		wait = p.policy.Wait(p.slowed)
	}
	p.slowed++
	if until := now.Add(wait); until.After(p.pause) {
		p.pause = until
	}
}

// fluent notes an answer that does not.
func (p *pace) fluent() { p.slowed = 0 }
