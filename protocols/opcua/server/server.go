package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/protocols/opcua/pki"
)

// connectionsPerSession bounds the connections: each session has one, and some
// ask for endpoints or are about to be cut off.
const connectionsPerSession = 2

// Server is the gateway's own OPC UA server. It implements protocols.Server.
type Server struct {
	cfg   Config
	site  string
	log   *slog.Logger
	clock clock.Clock
	// born and started are when it was made, by the monotonic and the wall clock.
	born    time.Time
	started time.Time

	space     *space
	heartbeat atomic.Int64 // -1 before the first
	nonces    *nonceRing
	users     *users
	warned    *once
	times     times

	mu       sync.Mutex
	built    bool
	identity *pki.Identity // nil before Serve
	mirrors  map[string]*mirrorVariable
	// addr is where it listens, from Serve.
	addr net.Addr

	sessions         sessions
	subscriptions    atomic.Int64 // that there are
	items            atomic.Int64
	lastSubscription atomic.Uint32
	channels         atomic.Uint32 // number of the last one
}

func newServer(cfg Config, st protocols.Settings) *Server {
	s := &Server{
		cfg: cfg, site: st.Site, log: st.Log, clock: st.Clock, born: time.Now(), started: clock.WallOf(st.Clock).UTC(),
		space: &space{nodes: map[nodeKey]*node{}}, mirrors: map[string]*mirrorVariable{},
		nonces: newNonceRing(), warned: newOnce(), times: usualTimes(),
	}
	s.users = newUsers(cfg.Users, s.log, s.warned)
	s.sessions.byToken = map[string]*session{}
	s.heartbeat.Store(-1)
	return s
}

// now is the right time as the gateway knows it.
func (s *Server) now() time.Time { return clock.WallOf(s.clock).UTC() }

// build makes the address space, once. Callers hold s.mu.
func (s *Server) build() error {
	if s.built {
		return nil
	}
	s.built = true
	return errors.Join(s.buildBase(), s.addOwn())
}

// load reads the server's own certificate, or makes it.
func (s *Server) load() error {
	if !s.cfg.secured() {
		s.identity = &pki.Identity{URI: s.plainURI()}
		return nil
	}
	own, err := s.cfg.files().Load(s.site, s.now())
	if err != nil {
		return fmt.Errorf("opcua_server: %w", err)
	}
	// What the policies that are offered take: OPC 10000-7, Basic256Sha256 and
	// Aes128_Sha256_RsaOaep.
	if bits := own.Key.N.BitLen(); bits < 2048 || bits > 4096 {
		return fmt.Errorf("opcua_server: key %s has %d bits, and clients take 2048 to 4096: make another one", s.cfg.Key, bits)
	}
	if now := s.now(); now.After(own.Leaf.NotAfter) || now.Before(own.Leaf.NotBefore) {
		s.log.Warn("OPC UA server: its own certificate is not valid now, and clients may refuse it", "certificate", s.cfg.Certificate,
			"from", own.Leaf.NotBefore.Format(time.DateOnly), "to", own.Leaf.NotAfter.Format(time.DateOnly), "remedy", "renew it, or set this machine's clock")
	}
	s.identity = own
	return nil
}

// plainURI names the application where it has no certificate that does.
func (s *Server) plainURI() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return pki.ApplicationURI(host, s.site).String()
}

// OpenSource implements protocols.Connection: there is none.
func (s *Server) OpenSource(*protocols.SourceConfig, protocols.Health) (protocols.Source, error) {
	return nil, protocols.ErrNoSource
}

// Close implements protocols.Connection. Serve ends by its context.
func (s *Server) Close() error { return nil }

// Serve implements protocols.Server.
func (s *Server) Serve(ctx context.Context, h protocols.Health) error {
	s.mu.Lock()
	err := errors.Join(s.build(), s.load())
	s.mu.Unlock()
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("opcua_server: listen on %s: %w: is another server running there, or the address of another machine?", s.cfg.Listen, err)
	}
	s.mu.Lock()
	s.addr = l.Addr()
	s.mu.Unlock()
	h.Up()
	s.log.Info("OPC UA server listens", "address", l.Addr().String(), "url", s.endpointURL(""))
	return s.serve(ctx, l, h)
}

// serve accepts connections until ctx is done, and returns once all have ended.
func (s *Server) serve(ctx context.Context, l net.Listener, h protocols.Health) error {
	inner, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	// In this order, backwards: connections end, then what they have left.
	defer s.sessions.running.Wait()
	defer s.sessions.closeAll()
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		<-inner.Done()
		// What accepts is to end; that it was closed is no fault.
		_ = l.Close()
	})
	wg.Go(func() { s.watch(inner, h) })
	guests := newGuests(s.cfg.MaxSessions*connectionsPerSession + 10)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			return fmt.Errorf("opcua_server: accept on %s: %w", s.cfg.Listen, err)
		}
		guest := newConn(s, c)
		its, end := context.WithCancel(inner)
		if !guests.admit(guest, ender(c, end)) {
			s.warned.say(s.log, "connections", "OPC UA server has all connections in use, and hangs up on more", "limit", guests.limit, "remedy", "close other clients, or raise max_sessions")
			// It gets no answer, as there is no goroutine for it.
			ender(c, end)()
			continue
		}
		wg.Go(func() {
			defer end()
			defer guests.leave(guest)
			s.handle(its, guest, c)
		})
	}
}

// watch ends sessions that have gone silent, and tells Health that all is well.
func (s *Server) watch(ctx context.Context, h protocols.Health) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			h.Beat()
			s.sessions.expire(time.Now())
		}
	}
}

// handle serves one connection until either side ends it. A panic ends it alone.
func (s *Server) handle(ctx context.Context, guest *conn, c net.Conn) {
	defer func() {
		// Both sides may have closed it.
		_ = c.Close()
		if p := recover(); p != nil {
			s.log.Error("OPC UA server: a connection has failed and is closed", "client", c.RemoteAddr().String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	ended := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer ended()
	err := guest.run(ctx)
	var we *wireError
	if errors.As(err, &we) {
		guest.wire.refuse(we.code, we.text)
		if we.quiet {
			return
		}
		s.warned.say(s.log, host(c.RemoteAddr())+" "+we.code.Error(), "OPC UA server: a client is cut off", "client", c.RemoteAddr().String(), "reason", we.text, "code", we.code.Error())
	}
}

// host is the address of a client without its port.
func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}

// use tells what a certificate is for, where that is not a client: OPC 10000-4,
// 6.1.3, certificate usage. An authority of a plant vouches for servers too.
func use(leaf *x509.Certificate) string {
	clients := len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0
	for _, u := range leaf.ExtKeyUsage {
		clients = clients || u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny
	}
	switch {
	case !clients:
		return "is not for clients by its extended key usage: issue one with clientAuth"
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return "is not for signing by its key usage: issue one with digitalSignature"
	}
	return ""
}

// trust checks a client's certificate and returns it. The address of the
// application is looked at when it makes a session.
func (s *Server) trust(der []byte, now time.Time) (*x509.Certificate, error) {
	leaf, err := pki.List{Dir: s.cfg.TrustDir, Whose: "client"}.Check(der, use, now)
	if err == nil {
		return x509.ParseCertificate(leaf)
	}
	var bad *pki.Error
	if !errors.As(err, &bad) {
		s.warned.say(s.log, "trust list", "OPC UA server cannot read its trust list", "error", err)
		return nil, wireErrorf(ua.StatusBadSecurityChecksFailed, "certificates cannot be checked")
	}
	code := ua.StatusBadCertificateUntrusted
	switch bad.Reason {
	case pki.Missing, pki.Malformed:
		code = ua.StatusBadCertificateInvalid
	case pki.Expired:
		code = ua.StatusBadCertificateTimeInvalid
	case pki.Misnamed:
		code = ua.StatusBadCertificateUseNotAllowed
	case pki.Untrusted:
	}
	s.warned.say(s.log, bad.Error(), "OPC UA server refuses a client", "reason", bad.Error())
	// Where the gateway keeps its files is no client's business.
	return nil, &wireError{code: code, text: "the certificate is not accepted", quiet: true}
}

func (s *Server) offers(policy string) bool {
	if !s.cfg.secured() {
		return false
	}
	for _, p := range s.cfg.Policies {
		if uri, _ := policyURI(p); uri == policy {
			return true
		}
	}
	return false
}

func (s *Server) offersMode(m ua.MessageSecurityMode) bool {
	for _, word := range s.cfg.Modes {
		if mode, _ := modeOf(word); mode == m {
			return true
		}
	}
	return false
}
