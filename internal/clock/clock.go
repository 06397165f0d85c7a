// Package clock is the time source that code takes as an argument, so that a
// test can set it.
package clock

import "time"

// Clock tells the time.
type Clock interface {
	// Now returns the wall clock, with Go's monotonic reading.
	Now() time.Time
}

// System is the machine's clock.
type System struct{}

// Now implements Clock.
func (System) Now() time.Time { return time.Now() }
