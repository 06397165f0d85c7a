package mqtt

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
)

// publishing is the session by which all targets of a connection publish. It
// is opened at the first use and again after it was lost.
type publishing struct {
	conn *connection
	turn chan struct{} // held by whoever opens or ends the session
	now  *stay
	ends sync.WaitGroup // sessions that end, and those who watch them

	mu      sync.Mutex
	targets []*publisher // that are not closed; they get what comes
}

// stay is one session of the targets, from CONNECT to its loss.
type stay struct {
	*session
	down chan struct{} // closed when the connection is lost
	left chan struct{} // closed when it is given up
}

// get returns a session that is up.
func (p *publishing) get(ctx context.Context) (*stay, error) {
	if ctx.Err() != nil { // a turn that is free may be taken all the same
		return nil, fmt.Errorf("mqtt %s: nothing was sent: %w", p.conn.cfg.URL, context.Cause(ctx))
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("mqtt %s: another target is connecting: %w", p.conn.cfg.URL, context.Cause(ctx))
	}
	if p.now != nil {
		select {
		case <-p.now.down:
			p.hangUp()
		default:
			return p.now, nil
		}
	}
	session, err := p.conn.connect(ctx, p.clientID(), true, p.receive)
	if err != nil {
		return nil, err
	}
	s := &stay{session: session, down: make(chan struct{}), left: make(chan struct{})}
	p.ends.Go(func() {
		select {
		case <-session.lost:
			close(s.down)
		case <-s.left:
		}
	})
	p.now = s
	return s, nil
}

// clientID names the session at the broker, which keeps nothing of it. The name
// is another one each time, so that a gateway and a check of its configuration
// beside it do not throw each other out.
func (p *publishing) clientID() string {
	if id := p.conn.cfg.ClientID; id != "" {
		return id + "-mirror"
	}
	return fmt.Sprintf("millrace-%s-mirror-%s", p.conn.site, rand.Text()[:8])
}

// drop ends a session that is no good any more; the next get opens another.
func (p *publishing) drop(s *stay) {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	if p.now == s {
		p.hangUp()
	}
}

// hangUp ends the session; nobody but the connection's Close waits for it.
// Callers hold the turn.
func (p *publishing) hangUp() {
	if s := p.now; s != nil {
		close(s.left)
		p.ends.Go(s.close)
		p.now = nil
	}
}

func (p *publishing) join(t *publisher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = append(p.targets, t)
}

// leave forgets a target; the last one ends the session.
func (p *publishing) leave(t *publisher) {
	p.mu.Lock()
	p.targets = slices.DeleteFunc(p.targets, func(o *publisher) bool { return o == t })
	last := len(p.targets) == 0
	p.mu.Unlock()
	if last {
		p.turn <- struct{}{}
		defer func() { <-p.turn }()
		p.hangUp()
	}
}

// receive hands a message to the targets that read its topic. It must not
// block.
func (p *publishing) receive(s *session, m *message) {
	if m.qos > 0 {
		s.acknowledge(m.ack(nil))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.targets {
		if t.hears(m.topic) {
			t.take(m)
		}
	}
}
