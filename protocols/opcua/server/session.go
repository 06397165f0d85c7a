package server

import (
	"encoding/base64"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	minSessionTimeout = 10 * time.Second
	// activateWithin is how long a session may be without a user.
	activateWithin = 30 * time.Second
)

// session is a client's, OPC 10000-4, 5.6. It outlives its channel until its
// timeout, so that a client which was cut off can go on with it.
type session struct {
	srv *Server
	id  *ua.NodeID
	// token is the client's secret, base64 in byToken's keys.
	token       []byte
	policy      string
	mode        ua.MessageSecurityMode
	certificate []byte // the client's; nil without security
	name        string
	application string // URI, which the certificate confirms where there is one
	timeout     time.Duration
	maxResponse int // bytes, 0 for any

	over chan struct{} // closed with the session
	wake chan struct{} // has run look at what is due
	// sending keeps the answers to Publish in order. It is taken before mu.
	sending sync.Mutex

	mu        sync.Mutex
	conn      *conn // nil while there is no channel
	nonce     []byte
	activated bool
	closed    bool
	user      string // "" for anonymous
	seen      time.Time
	browses   continuations
	subs      map[uint32]*subscription
	publishes []*pending // the oldest first
}

func (s *session) fits(n int) bool { return s.maxResponse == 0 || n <= s.maxResponse }

// touch notes that the client is there.
func (s *session) touch(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ua.StatusBadSessionClosed
	case !s.activated:
		return ua.StatusBadSessionNotActivated
	}
	s.seen = now
	return nil
}

// close ends the session and what it holds.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.over)
	s.conn = nil
	s.browses = continuations{}
	s.publishes = nil
	for _, b := range s.subs {
		s.dropSubscription(b)
	}
}

// sessions are all of them.
type sessions struct {
	mu      sync.Mutex
	byToken map[string]*session
	last    uint32
	// running are the goroutines of those that have subscriptions.
	running sync.WaitGroup
}

// lookup finds a session by the token in a request, whatever its channel.
func (all *sessions) lookup(token *ua.NodeID) *session {
	if token.Type() != ua.NodeIDTypeByteString {
		return nil
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.byToken[token.StringID()]
}

// find returns the session of a request, which has to come on the session's own
// channel.
func (all *sessions) find(token *ua.NodeID, c *conn) (*session, error) {
	s := all.lookup(token)
	if s == nil {
		return nil, ua.StatusBadSessionIDInvalid
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c {
		return nil, ua.StatusBadSecureChannelIDInvalid
	}
	return s, nil
}

// add makes room for a session and takes it in. Where all are in use, one that
// nobody has logged in to gives way.
func (all *sessions) add(s *session, limit int, now time.Time) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.byToken) >= limit {
		var oldest *session
		for _, other := range all.byToken {
			other.mu.Lock()
			if !other.activated && now.Sub(other.seen) > time.Second && (oldest == nil || other.seen.Before(oldest.seen)) {
				oldest = other
			}
			other.mu.Unlock()
		}
		if oldest == nil {
			return ua.StatusBadTooManySessions
		}
		delete(all.byToken, oldest.key())
		oldest.close()
	}
	all.last++
	s.id = ua.NewNumericNodeID(nsGateway, all.last)
	all.byToken[s.key()] = s
	return nil
}

func (s *session) key() string { return base64.StdEncoding.EncodeToString(s.token) }

func (all *sessions) remove(s *session) {
	all.mu.Lock()
	delete(all.byToken, s.key())
	all.mu.Unlock()
	s.close()
}

// lost parts the sessions from a channel that has ended. They live on.
func (all *sessions) lost(c *conn) {
	for _, s := range all.list() {
		s.mu.Lock()
		if s.conn == c {
			s.conn, s.publishes = nil, nil
		}
		s.mu.Unlock()
	}
}

// uses reports whether somebody has logged in to a session on the channel.
func (all *sessions) uses(c *conn) bool {
	for _, s := range all.list() {
		s.mu.Lock()
		in := s.conn == c && s.activated
		s.mu.Unlock()
		if in {
			return true
		}
	}
	return false
}

func (all *sessions) list() []*session {
	all.mu.Lock()
	defer all.mu.Unlock()
	out := make([]*session, 0, len(all.byToken))
	for _, s := range all.byToken {
		out = append(out, s)
	}
	return out
}

// expire ends the sessions that have been silent for too long.
func (all *sessions) expire(now time.Time) {
	for _, s := range all.list() {
		s.mu.Lock()
		limit := s.timeout
		if !s.activated {
			limit = min(limit, activateWithin)
		}
		over := now.Sub(s.seen) > limit
		s.mu.Unlock()
		if over {
			all.remove(s)
		}
	}
}

func (all *sessions) closeAll() {
	for _, s := range all.list() {
		all.remove(s)
	}
}
