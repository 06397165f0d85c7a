package server

import (
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	// maxPublishes is how many Publish requests of a session wait.
	maxPublishes = 20
	// maxRetained is how many messages of a subscription are kept until they are
	// acknowledged, and maxRetainedValues how many values they hold together.
	maxRetained       = 40
	maxRetainedValues = 5000
	// maxPerPublish bounds the values of one message.
	maxPerPublish = 1000
	// maxPublishing is the longest publishing interval, and maxSilence the longest
	// time that a subscription has nothing to say for.
	maxPublishing = time.Hour
	maxSilence    = time.Hour
)

// subscription is OPC 10000-4, 5.13. Its fields are guarded by its session.
type subscription struct {
	id        uint32
	interval  time.Duration
	lifetime  uint32 // cycles without a request to answer, until it ends
	keepAlive uint32 // cycles with nothing to say, until it says so
	perMsg    int
	enabled   bool
	priority  uint8

	items  map[uint32]*item
	order  []*item
	turn   int // index of the item that begins the next message
	lastID uint32

	next   time.Time // of the publishing cycle
	life   uint32    // cycles since the last answer
	quiet  uint32    // cycles since the last message
	begun  bool      // whether its first message went out
	late   bool      // waits for a request to answer
	seq    uint32
	retain []*ua.NotificationMessage
}

// pending is a Publish request that waits.
type pending struct {
	call    *call
	results []ua.StatusCode
	until   time.Time // zero: for as long as it takes
}

// outgoing is an answer to a Publish request, to be sent without the lock.
type outgoing struct {
	to   *pending
	resp ua.Response
	err  error
}

// revise sets the parameters that a client asks for, within bounds.
func (b *subscription) revise(s *Server, ms float64, lifetime, keepAlive, perMsg uint32, priority uint8) {
	b.interval = interval(ms, s.cfg.MinSampling, maxPublishing)
	most := uint32(max(maxSilence/b.interval, 1))
	if keepAlive == 0 {
		keepAlive = 10
	}
	b.keepAlive = min(keepAlive, most)
	// At least three times as long, OPC 10000-4, 5.13.2.2.
	b.lifetime = min(max(lifetime, 3*b.keepAlive), 10*most)
	b.perMsg = maxPerPublish
	if perMsg > 0 {
		b.perMsg = int(min(perMsg, maxPerPublish))
	}
	b.priority = priority
}

// sample takes what is due, and returns when something is due next.
func (b *subscription) sample(s *Server, now, wall time.Time) time.Time {
	next := b.next
	for _, m := range b.order {
		m.sample(s, now, wall)
		if m.mode != ua.MonitoringModeDisabled && m.next.Before(next) {
			next = m.next
		}
	}
	return next
}

// waiting reports whether there is something to send.
func (b *subscription) waiting() bool {
	return b.enabled && slices.ContainsFunc(b.order, func(m *item) bool { return len(m.queue) > 0 })
}

// step does what is due for the subscriptions of a session, and returns when
// something is due next. Callers hold s.mu and send what it returns after.
func (s *session) step(now time.Time) (out []outgoing, next time.Time) {
	wall := s.srv.now()
	out = s.dropPending(now)
	next = now.Add(time.Minute)
	for _, b := range s.byPriority() {
		if due := b.sample(s.srv, now, wall); due.Before(next) {
			next = due
		}
		if now.Before(b.next) {
			continue
		}
		if b.next = b.next.Add(b.interval); b.next.Before(now) {
			b.next = now.Add(b.interval) // cycles were missed
		}
		if b.next.Before(next) {
			next = b.next
		}
		out = append(out, s.cycle(b, wall)...)
	}
	for _, p := range s.publishes {
		if !p.until.IsZero() && p.until.Before(next) {
			next = p.until
		}
	}
	return out, next
}

// cycle is one publishing cycle: OPC 10000-4, 5.13.1.2.
func (s *session) cycle(b *subscription, wall time.Time) []outgoing {
	if b.life++; b.life > b.lifetime {
		out := s.end(b, wall)
		s.dropSubscription(b)
		return out
	}
	switch {
	case b.waiting():
		b.late = true
	case !b.begun || b.quiet+1 >= b.keepAlive:
		b.late = true
	default:
		b.quiet++
	}
	return s.serveLate(wall)
}

// serveLate answers requests for subscriptions that wait for one.
func (s *session) serveLate(wall time.Time) []outgoing {
	var out []outgoing
	for _, b := range s.byPriority() {
		for b.late && len(s.publishes) > 0 {
			out = append(out, s.notify(b, wall))
		}
	}
	return out
}

// notify answers the request that waits for longest with what there is, or with
// a keep-alive.
func (s *session) notify(b *subscription, wall time.Time) outgoing {
	msg := &ua.NotificationMessage{PublishTime: wall, NotificationData: []*ua.ExtensionObject{}}
	values := b.take()
	b.late = len(values) > 0 && b.waiting()
	msg.SequenceNumber = b.following()
	if len(values) > 0 {
		b.seq = msg.SequenceNumber
		msg.NotificationData = append(msg.NotificationData, ua.NewExtensionObject(&ua.DataChangeNotification{MonitoredItems: values}))
		b.keep(msg)
	}
	return s.reply(b, msg, b.late)
}

// following is the next sequence number, which is never 0.
func (b *subscription) following() uint32 { return max(b.seq+1, 1) }

// take takes the values of one message. The item that comes first changes, so
// that none has to wait for others for ever.
func (b *subscription) take() []*ua.MonitoredItemNotification {
	var out []*ua.MonitoredItemNotification
	if !b.enabled {
		return nil
	}
	n := len(b.order)
	for i := range n {
		m := b.order[(b.turn+i)%n]
		if len(m.queue) == 0 {
			continue
		}
		if out = append(out, m.pop(b.perMsg-len(out))...); len(out) >= b.perMsg {
			b.turn = (b.turn + i) % n
			break
		}
	}
	return out
}

// keep keeps a message until it is acknowledged, within bounds.
func (b *subscription) keep(msg *ua.NotificationMessage) {
	b.retain = append(b.retain, msg)
	total := 0
	for i := len(b.retain) - 1; i >= 0; i-- {
		total += len(b.retain[i].NotificationData[0].Value.(*ua.DataChangeNotification).MonitoredItems)
		if i < len(b.retain)-1 && (total > maxRetainedValues || len(b.retain)-i > maxRetained) {
			b.retain = slices.Clone(b.retain[i+1:])
			return
		}
	}
}

func (b *subscription) available() []uint32 {
	out := make([]uint32, len(b.retain))
	for i, m := range b.retain {
		out[i] = m.SequenceNumber
	}
	return out
}

// reply makes an answer to the request that waits for longest.
func (s *session) reply(b *subscription, msg *ua.NotificationMessage, more bool) outgoing {
	p := s.publishes[0]
	s.publishes = s.publishes[1:]
	b.life, b.quiet, b.begun = 0, 0, true
	return outgoing{to: p, resp: &ua.PublishResponse{
		SubscriptionID: b.id, AvailableSequenceNumbers: b.available(), MoreNotifications: more, NotificationMessage: msg, Results: p.results,
	}}
}

// end tells a client that a subscription has ended by itself, where it listens.
func (s *session) end(b *subscription, wall time.Time) []outgoing {
	if len(s.publishes) == 0 {
		return nil
	}
	change := ua.NewExtensionObject(&ua.StatusChangeNotification{Status: ua.StatusBadTimeout})
	msg := &ua.NotificationMessage{SequenceNumber: b.following(), PublishTime: wall, NotificationData: []*ua.ExtensionObject{change}}
	return []outgoing{s.reply(b, msg, false)}
}

// dropPending takes away requests that are over: their time is, or their channel.
func (s *session) dropPending(now time.Time) []outgoing {
	var out []outgoing
	s.publishes = slices.DeleteFunc(s.publishes, func(p *pending) bool {
		if p.call.conn != s.conn {
			return true
		}
		if over := !p.until.IsZero() && !now.Before(p.until); over {
			out = append(out, outgoing{to: p, err: ua.StatusBadTimeout})
			return true
		}
		return false
	})
	return out
}

// byPriority lists the subscriptions, the most urgent and oldest first.
func (s *session) byPriority() []*subscription {
	out := make([]*subscription, 0, len(s.subs))
	for _, b := range s.subs {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b *subscription) int {
		if a.priority != b.priority {
			return int(b.priority) - int(a.priority)
		}
		return int(a.id) - int(b.id)
	})
	return out
}

// dropSubscription forgets a subscription. Callers hold s.mu.
func (s *session) dropSubscription(b *subscription) {
	delete(s.subs, b.id)
	s.srv.subscriptions.Add(-1)
	s.srv.items.Add(-int64(len(b.items)))
	b.items, b.order = nil, nil
}
