package server

import (
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
)

// publish takes a request that is answered when there is something to tell: OPC
// 10000-4, 5.13.5.
func (cl *call) publish(r *ua.PublishRequest) (ua.Response, error) {
	if len(r.SubscriptionAcknowledgements) > maxOperations {
		return nil, ua.StatusBadTooManyOperations
	}
	s := cl.session
	err := s.answering(func() ([]outgoing, error) {
		p := &pending{call: cl, results: s.acknowledge(r.SubscriptionAcknowledgements)}
		if len(s.subs) == 0 {
			return nil, ua.StatusBadNoSubscription
		}
		if hint := cl.header.TimeoutHint; hint > 0 {
			p.until = time.Now().Add(time.Duration(hint) * time.Millisecond)
		}
		var out []outgoing
		if len(s.publishes) >= maxPublishes {
			out = append(out, outgoing{to: s.publishes[0], err: ua.StatusBadTooManyPublishRequests})
			s.publishes = s.publishes[1:]
		}
		s.publishes = append(s.publishes, p)
		return append(out, s.serveLate(s.srv.now())...), nil
	})
	if err != nil {
		return nil, err
	}
	s.wakeUp() // the timeout of the request may be the next thing due
	return nil, errLater
}

// answering has do choose what is answered, with the session locked, and sends
// it after, in order.
func (s *session) answering(do func() ([]outgoing, error)) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	out, err := s.choose(do)
	if err != nil {
		return err
	}
	return s.send(out)
}

func (s *session) choose(do func() ([]outgoing, error)) ([]outgoing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return do()
}

// acknowledge forgets messages that the client has. Callers hold s.mu.
func (s *session) acknowledge(acks []*ua.SubscriptionAcknowledgement) []ua.StatusCode {
	out := make([]ua.StatusCode, len(acks))
	for i, a := range acks {
		b := s.subs[a.SubscriptionID]
		if b == nil {
			out[i] = ua.StatusBadSubscriptionIDInvalid
			continue
		}
		at := slices.IndexFunc(b.retain, func(m *ua.NotificationMessage) bool { return m.SequenceNumber == a.SequenceNumber })
		if at < 0 {
			out[i] = ua.StatusBadSequenceNumberUnknown
			continue
		}
		b.retain = slices.Delete(b.retain, at, at+1)
	}
	return out
}

// send sends answers, each on the channel of its request. Its error is that of a
// connection which is over anyway.
func (s *session) send(out []outgoing) error {
	var first error
	for _, o := range out {
		if err := o.to.call.conn.answer(o.to.call, o.resp, o.err); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// republish sends a message again: OPC 10000-4, 5.13.6.
func (cl *call) republish(r *ua.RepublishRequest) (ua.Response, error) {
	s := cl.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.subs[r.SubscriptionID]
	if b == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	for _, m := range b.retain {
		if m.SequenceNumber == r.RetransmitSequenceNumber {
			return &ua.RepublishResponse{NotificationMessage: m}, nil
		}
	}
	return nil, ua.StatusBadMessageNotAvailable
}

// run samples and publishes until the session is closed. A panic ends the
// session alone.
func (s *session) run() {
	defer func() {
		if p := recover(); p != nil {
			s.srv.log.Error("OPC UA server: a session has failed and is closed", "session", s.name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.srv.sessions.remove(s)
		}
	}()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-s.over:
			return
		case <-s.wake:
		case <-t.C:
		}
		t.Reset(max(time.Until(s.due()), 0))
	}
}

// due does what is due, and returns when something is next.
func (s *session) due() (next time.Time) {
	err := s.answering(func() (out []outgoing, err error) {
		out, next = s.step(time.Now())
		return out, nil
	})
	// Who does not take an answer in time loses the connection by it.
	if err != nil {
		s.drop()
	}
	return next
}

// drop closes the connection of the session.
func (s *session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		// It has failed already.
		_ = s.conn.wire.conn.Close()
	}
}

// wakeUp has run look at what is due.
func (s *session) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
