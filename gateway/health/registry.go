// Package health keeps what each part of the gateway says of itself: whether
// it is up, why it is down, and when its loop was last seen to turn. From that
// come the status line, the log's state changes and the watchdog.
package health

import (
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"millrace/internal/clock"
)

// Kind is what a component is.
type Kind string

// The kinds of component.
const (
	Source Kind = "source"
	Sink   Kind = "sink"
	Spool  Kind = "spool"
	Feed   Kind = "feed"
	Target Kind = "target"
	Server Kind = "server"
	Mirror Kind = "mirror"
)

// repeatEvery bounds how often a component that stays down with a new reason
// is logged.
const repeatEvery = time.Minute

// Registry holds the components of one gateway.
type Registry struct {
	log   *slog.Logger
	clock clock.Clock

	mu   sync.Mutex
	list []*Component
}

// New returns an empty registry.
func New(log *slog.Logger, c clock.Clock) *Registry { return &Registry{log: log, clock: c} }

// Component is one part's state. Its methods are safe for concurrent use.
type Component struct {
	kind    Kind
	name    string
	silence time.Duration
	r       *Registry

	mu      sync.Mutex
	state   State
	reason  string
	since   time.Time
	beat    time.Time
	logged  time.Time
	stopped bool
}

// State is a component's state.
type State string

// The states. A component starts as Starting.
const (
	Starting State = "starting"
	Up       State = "up"
	Down     State = "down"
)

// Add registers a component whose loop must beat at least once in silence.
func (r *Registry) Add(kind Kind, name string, silence time.Duration) *Component {
	now := r.clock.Now()
	c := &Component{kind: kind, name: name, silence: silence, r: r, state: Starting, since: now, beat: now}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, c)
	return c
}

// Beat says that the component's loop turns.
func (c *Component) Beat() {
	now := c.r.clock.Now()
	c.mu.Lock()
	c.beat = now
	c.mu.Unlock()
}

// Up says that the component works. The change is logged, once.
func (c *Component) Up() {
	now := c.r.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beat = now
	if c.state == Up {
		return
	}
	if c.state == Down {
		c.r.log.Info(fmt.Sprintf("%s %s is up again", c.kind, c.name), string(c.kind), c.name, "down_for", now.Sub(c.since).Round(time.Millisecond).String())
	} else {
		c.r.log.Info(fmt.Sprintf("%s %s is up", c.kind, c.name), string(c.kind), c.name)
	}
	c.state, c.reason, c.since = Up, "", now
}

// Down says that the component does not work, and why. The change is logged,
// once; a new reason at most once a minute.
func (c *Component) Down(err error) {
	now := c.r.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beat = now
	reason := err.Error()
	changed := c.state != Down
	if changed || (reason != c.reason && now.Sub(c.logged) >= repeatEvery) {
		c.r.log.Error(fmt.Sprintf("%s %s is down: %s", c.kind, c.name, reason), string(c.kind), c.name)
		c.logged = now
	}
	if changed {
		c.state, c.since = Down, now
	}
	c.reason = reason
}

// Stopped takes the component out of the watchdog's sight: it has returned.
func (c *Component) Stopped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
}

// Status is one component's state as it is shown.
type Status struct {
	Kind   Kind      `json:"kind"`
	Name   string    `json:"name"`
	State  State     `json:"state"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

// Snapshot lists all components by kind and name.
func (r *Registry) Snapshot() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Status, 0, len(r.list))
	for _, c := range r.list {
		c.mu.Lock()
		out = append(out, Status{Kind: c.kind, Name: c.name, State: c.state, Reason: c.reason, Since: c.since})
		c.mu.Unlock()
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Kind != out[j].Kind {
			return out[i].Kind < out[j].Kind
		}
		return out[i].Name < out[j].Name
	})
	return out
}

// Stuck names the components whose loop has not turned for longer than it may,
// each with how long. An outage is not stuck: its loop beats while it waits.
func (r *Registry) Stuck() []string {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, c := range r.list {
		c.mu.Lock()
		if quiet := now.Sub(c.beat); !c.stopped && quiet > c.silence {
			out = append(out, fmt.Sprintf("%s %s for %s", c.kind, c.name, quiet.Round(time.Second)))
		}
		c.mu.Unlock()
	}
	return out
}
