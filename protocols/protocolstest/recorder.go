package protocolstest

import (
	"context"
	"errors"
	"sync"
	"time"

	"millrace/sample"
)

// Collector takes what a source emits. Its zero value is ready: it takes
// everything and calls done with nil at once, from another goroutine.
type Collector struct {
	mu      sync.Mutex
	samples []sample.Sample
	from    int           // samples before it were forgotten by Reset
	blocked chan struct{} // closed when Release is called; nil when not blocked
	held    []func(error) // callbacks that wait for Confirm
	holding bool
	refuse  error // what Emit or done answers with
	late    bool  // refuse in done instead of in Emit
	inside  int   // calls of Emit under way
	faults  []error
	wg      sync.WaitGroup
}

// Emit is a protocols.Emit.
func (c *Collector) Emit(ctx context.Context, batch []sample.Sample, done func(error)) error {
	copied := append([]sample.Sample(nil), batch...)
	c.mu.Lock()
	c.inside++
	blocked := c.blocked
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inside--
		c.mu.Unlock()
	}()
	if blocked != nil {
		select {
		case <-blocked:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range copied {
		if copied[i] != batch[i] {
			c.fault(errors.New("the source changed a batch while Emit was under way"))
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil && !c.late {
		return c.refuse
	}
	answer := c.refuse
	if answer == nil {
		c.samples = append(c.samples, copied...)
	}
	switch {
	case done == nil:
	case c.holding:
		c.held = append(c.held, done)
	default:
		c.wg.Go(func() { done(answer) })
	}
	return nil
}

// Block makes Emit wait until Release or the end of its context.
func (c *Collector) Block() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked == nil {
		c.blocked = make(chan struct{})
	}
}

// Release ends Block.
func (c *Collector) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked != nil {
		close(c.blocked)
		c.blocked = nil
	}
}

// Inside returns how many calls of Emit are under way.
func (c *Collector) Inside() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inside
}

// Refuse makes Emit return err, or call done with it where late is true. Nil
// takes samples again.
func (c *Collector) Refuse(err error, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse, c.late = err, late
}

// Hold keeps the callbacks until Confirm.
func (c *Collector) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
}

// Confirm ends Hold and calls the callbacks that waited with nil.
func (c *Collector) Confirm() {
	c.mu.Lock()
	held := c.held
	c.held, c.holding = nil, false
	c.mu.Unlock()
	for _, done := range held {
		done(nil)
	}
}

// Samples returns a copy of what was taken since the last Reset, in the order
// of arrival.
func (c *Collector) Samples() []sample.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]sample.Sample(nil), c.samples[c.from:]...)
}

// Reset makes Samples leave out what was taken so far.
func (c *Collector) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from = len(c.samples)
}

// everything returns what was taken since the beginning.
func (c *Collector) everything() []sample.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]sample.Sample(nil), c.samples...)
}

// Wait waits up to patience until the collected samples satisfy ok.
func (c *Collector) Wait(patience time.Duration, ok func([]sample.Sample) bool) bool {
	return eventually(patience, func() bool { return ok(c.Samples()) })
}

func (c *Collector) fault(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, err)
}

func (c *Collector) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.faults...)
}

// HealthRecorder is a protocols.Health that remembers the changes of state.
type HealthRecorder struct {
	mu      sync.Mutex
	beats   int
	changes []error // nil for Up
}

// Beat implements protocols.Health.
func (r *HealthRecorder) Beat() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beats++
}

// Up implements protocols.Health.
func (r *HealthRecorder) Up() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.changes); n == 0 || r.changes[n-1] != nil {
		r.changes = append(r.changes, nil)
	}
}

// Down implements protocols.Health.
func (r *HealthRecorder) Down(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		err = errors.New("protocolstest: Down was called with a nil error")
	}
	if n := len(r.changes); n == 0 || r.changes[n-1] == nil {
		r.changes = append(r.changes, err)
	}
}

// Beats returns how often Beat was called.
func (r *HealthRecorder) Beats() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.beats
}

// Changes returns the changes of state so far: nil for Up, the error for
// Down. A call that changes nothing is not among them.
func (r *HealthRecorder) Changes() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.changes...)
}

// IsUp reports whether the last change was to Up.
func (r *HealthRecorder) IsUp() bool {
	c := r.Changes()
	return len(c) > 0 && c[len(c)-1] == nil
}

// IsDown reports whether the last change was to Down.
func (r *HealthRecorder) IsDown() bool {
	c := r.Changes()
	return len(c) > 0 && c[len(c)-1] != nil
}

// eventually polls cond, since devices and sources run in real time.
func eventually(patience time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(patience)
	for {
		if cond() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(2 * time.Millisecond)
	}
}
