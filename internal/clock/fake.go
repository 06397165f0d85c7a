package clock

import (
	"sync"
	"time"
)

// Fake is a machine whose clocks do as a test says. It starts synchronised.
type Fake struct {
	mu    sync.Mutex
	boot  [16]byte
	up    time.Duration
	epoch time.Time // what the wall clock, as it is set now, showed at up 0
	sync  Sync
	since time.Time // where it runs: when it began to
}

// NewFake returns a machine that was started an hour ago and whose wall clock
// shows wall. Its clocks stand still until Advance.
func NewFake(wall time.Time) *Fake {
	f := &Fake{boot: randomBoot(), up: time.Hour, sync: Synchronised}
	f.epoch = wall.Round(0).Add(-f.up)
	return f
}

// NewRunningFake is NewFake with clocks that run as Go's do, so that within a
// bubble of testing/synctest they agree with its timers.
func NewRunningFake(wall time.Time) *Fake {
	f := NewFake(wall)
	f.since = time.Now()
	return f
}

// now is the monotonic clock. Callers hold f.mu.
func (f *Fake) now() time.Duration {
	if f.since.IsZero() {
		return f.up
	}
	return f.up + time.Since(f.since)
}

// Now implements Clock.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch.Add(f.now())
}

// SinceBoot implements Source.
func (f *Fake) SinceBoot() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now()
}

// Boot implements Source.
func (f *Fake) Boot() [16]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.boot
}

// Sync implements Source.
func (f *Fake) Sync() Sync {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sync
}

// Advance lets both clocks run on by d.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up += d
}

// Step moves the wall clock by d.
func (f *Fake) Step(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = f.epoch.Add(d)
}

// Set sets the wall clock.
func (f *Fake) Set(wall time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = wall.Round(0).Add(-f.now())
}

// SetSync sets what the kernel says of the synchronisation.
func (f *Fake) SetSync(s Sync) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sync = s
}

// Reboot starts the machine anew: another boot id, and a monotonic clock from
// zero. The wall clock shows what it showed, as one with a battery does.
func (f *Fake) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	wall := f.epoch.Add(f.now())
	f.boot, f.up = randomBoot(), 0
	if !f.since.IsZero() {
		f.since = time.Now()
	}
	f.epoch = wall
}
