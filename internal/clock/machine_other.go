//go:build !linux

package clock

import "time"

// newMachine knows the wall clock alone: the daemon runs on Linux, and its
// tools elsewhere need no more.
func newMachine() Source { return &wallOnly{Clock: System{}, boot: randomBoot(), start: time.Now()} }
