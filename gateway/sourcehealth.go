package gateway

import (
	"sync"

	"millrace/gateway/health"
)

// sourceHealth is what a source says of its device, and what the spool says of
// the source: one of which nothing is taken is down, though its device answers.
type sourceHealth struct {
	*health.Component

	mu   sync.Mutex
	told bool  // the source has said anything
	down error // what it said last; nil is up
	full error // why nothing is taken of it
}

// Up implements protocols.Health.
func (h *sourceHealth) Up() { h.is(nil) }

// Down implements protocols.Health.
func (h *sourceHealth) Down(err error) { h.is(err) }

func (h *sourceHealth) is(down error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told, h.down = true, down
	h.show()
}

// Full notes why nothing is taken of the source, or with nil that it is.
func (h *sourceHealth) Full(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.full = why
	h.show()
}

// isFull reports whether nothing is taken of the source now, so that what it
// said last is old.
func (h *sourceHealth) isFull() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.full != nil
}

// show tells the component the worse of both. Callers hold mu.
func (h *sourceHealth) show() {
	switch {
	case h.down != nil:
		h.Component.Down(h.down)
	case h.full != nil:
		h.Component.Down(h.full)
	case h.told:
		h.Component.Up()
	}
}
