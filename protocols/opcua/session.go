package opcua

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gopcua/opcua/ua"
)

// writing is the session that all targets of a connection write by. It is
// opened at the first use and again after it was lost.
type writing struct {
	conn *connection
	turn chan struct{} // held by whoever opens or drops
	now  *session
	open int            // targets that are not closed
	ends sync.WaitGroup // sessions that are being closed
}

// session is one stay at the server. What a target has learned of its nodes
// holds within it only.
type session struct {
	client     *link
	namespaces []string
	lost       chan struct{} // closed when the connection is
}

// get returns a session that is up.
func (w *writing) get(ctx context.Context) (*session, error) {
	if ctx.Err() != nil { // a turn that is free may be taken all the same
		return nil, fmt.Errorf("server %s: nothing was sent: %w", w.conn.url, context.Cause(ctx))
	}
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("server %s: another target is connecting: %w", w.conn.url, context.Cause(ctx))
	}
	if w.now != nil {
		select {
		case <-w.now.lost:
			w.hangUp()
		default:
			return w.now, nil
		}
	}
	s := &session{lost: make(chan struct{})}
	var err error
	if s.client, err = w.conn.dial(ctx, sync.OnceFunc(func() { close(s.lost) })); err != nil {
		return nil, err
	}
	if s.namespaces, err = s.client.NamespaceArray(ctx); err != nil {
		w.ends.Go(func() { w.conn.hangUp(s.client) })
		return nil, w.conn.explain("read the namespaces of", err)
	}
	w.now = s
	return s, nil
}

// drop ends a session that is no good any more; the next get opens another.
func (w *writing) drop(s *session) {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if w.now == s {
		w.hangUp()
	}
}

// hangUp ends the session. Nobody waits for a server that does not answer any
// more but the connection's Close. Callers hold the turn.
func (w *writing) hangUp() {
	if s := w.now; s != nil {
		w.ends.Go(func() { w.conn.hangUp(s.client) })
		w.now = nil
	}
}

// join and leave count the targets; the last one to leave ends the session.
func (w *writing) join() {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	w.open++
}

func (w *writing) leave() {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if w.open--; w.open == 0 {
		w.hangUp()
	}
}

// ended reports whether the server says that it knows the session no more, and
// so has carried out nothing.
func ended(err error) bool {
	return isOneOf(err, ua.StatusBadSessionIDInvalid, ua.StatusBadSessionClosed, ua.StatusBadSessionNotActivated)
}

func isOneOf(err error, codes ...ua.StatusCode) bool {
	var code ua.StatusCode
	if !errors.As(err, &code) {
		return false
	}
	for _, c := range codes {
		if code == c {
			return true
		}
	}
	return false
}
