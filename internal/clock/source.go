package clock

import (
	"crypto/rand"
	"time"
)

// Sync says whether the wall clock is disciplined by NTP, PTP or the like.
type Sync uint8

// The states of synchronisation.
const (
	SyncUnknown  Sync = iota // the kernel does not say
	Synchronised             // disciplined
	Unsynchronised
)

// String names the state in one word.
func (s Sync) String() string {
	switch s {
	case Synchronised:
		return "synchronised"
	case Unsynchronised:
		return "unsynchronised"
	case SyncUnknown:
	}
	return "unknown"
}

// Source is all that a machine knows of time. It may be used by many
// goroutines at once.
type Source interface {
	Clock
	// SinceBoot is the monotonic clock: the time since the machine was started,
	// time asleep included (CLOCK_BOOTTIME). It never goes back.
	SinceBoot() time.Duration
	// Boot identifies the run of the monotonic clock: two readings with the
	// same Boot can be compared.
	Boot() [16]byte
	// Sync asks whether the wall clock is synchronised now.
	Sync() Sync
}

// SourceOf returns what is to be known of time beside c: c itself where it is a
// Source, the machine's clocks where it is System, and else c's wall clock
// beside the process's own monotonic clock.
func SourceOf(c Clock) Source {
	switch c := c.(type) {
	case Source:
		return c
	case System:
		return newMachine()
	}
	return &wallOnly{Clock: c, boot: randomBoot(), start: time.Now()}
}

// wallOnly is a wall clock of which nothing else is known.
type wallOnly struct {
	Clock
	boot  [16]byte
	start time.Time
}

func (w *wallOnly) SinceBoot() time.Duration { return time.Since(w.start) }
func (w *wallOnly) Boot() [16]byte           { return w.boot }
func (*wallOnly) Sync() Sync                 { return SyncUnknown }

// randomBoot stands for the run of a monotonic clock that nothing else names,
// and so can be compared within this process only.
func randomBoot() (id [16]byte) {
	rand.Read(id[:]) // never fails
	return id
}
