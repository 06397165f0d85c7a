package http

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	nethttp "net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/protocols"
)

const (
	beatEvery = 5 * time.Second
	// drainTime is how long requests under way may take once the source is
	// told to stop.
	drainTime = 5 * time.Second
	// maxHeader bounds a request's header.
	maxHeader = 16 << 10
)

// connection is one listener, of one source.
type connection struct {
	cfg   Config
	site  string
	log   *slog.Logger
	clock clock.Clock

	mu    sync.Mutex
	owner string
}

// Open implements protocols.Config.
func (c *Config) Open(s protocols.Settings) (protocols.Connection, error) {
	return &connection{cfg: *c, site: s.Site, log: s.Log, clock: s.Clock}, nil
}

// OpenSource implements protocols.Connection. One source has the listener.
func (c *connection) OpenSource(src *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner != "" && c.owner != src.Name {
		return nil, fmt.Errorf("open source %s: %s is the address of source %s already; give each HTTP source another connection.listen", src.Name, c.cfg.Listen, c.owner)
	}
	c.owner = src.Name
	return newSource(c, src, h), nil
}

// Close implements protocols.Connection. The listener ends with its source.
func (c *connection) Close() error { return nil }

// Check implements protocols.Checker: it reads the tokens and certificates and
// listens for a moment.
func (c *connection) Check(_ context.Context, src *protocols.SourceConfig) []error {
	s := newSource(c, src, nil)
	l, err := s.listen()
	if err != nil {
		return []error{err}
	}
	if err := l.Close(); err != nil {
		return []error{fmt.Errorf("http %s: %w", c.cfg.Listen, err)}
	}
	return nil
}

// source listens for requests.
type source struct {
	conn   *connection
	cfg    *Config
	log    *slog.Logger
	health protocols.Health
	wait   backoff.Policy
	names  *names

	tokens  [][sha256.Size]byte
	emit    protocols.Emit
	ctx     context.Context // of Run, for waits within Emit
	turn    chan struct{}   // held while samples are stamped and handed over
	workers chan *worker    // as many as requests are handled at once
	rate    *limiter
	told    refusals
	bound   func(net.Addr) // told where it listens; for tests
}

func newSource(c *connection, src *protocols.SourceConfig, h protocols.Health) *source {
	s := &source{conn: c, cfg: &c.cfg, log: c.log, health: h, wait: backoff.Policy{Max: 30 * time.Second},
		names: newNames(&c.cfg, c.site, src), turn: make(chan struct{}, 1), workers: make(chan *worker, c.cfg.MaxRequests),
		rate: newLimiter(c.cfg.MaxRate), told: refusals{log: c.log}, bound: func(net.Addr) {}}
	for range c.cfg.MaxRequests {
		s.workers <- &worker{}
	}
	return s
}

// Run implements protocols.Source.
func (s *source) Run(ctx context.Context, emit protocols.Emit) error {
	s.emit, s.ctx = emit, ctx
	for attempt := 0; ctx.Err() == nil; attempt++ {
		s.health.Beat()
		l, err := s.listen()
		if err == nil {
			s.health.Up()
			s.bound(l.Addr())
			attempt = 0
			err = s.serve(ctx, l)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.health.Down(err)
		s.pause(ctx, s.wait.Wait(attempt))
	}
	return nil
}

// pause waits for d and beats meanwhile.
func (s *source) pause(ctx context.Context, d time.Duration) {
	for d > 0 {
		step := min(d, beatEvery)
		if !backoff.Sleep(ctx, step) {
			return
		}
		s.health.Beat()
		d -= step
	}
}

// listen reads tokens and certificates, which may have been renewed, and opens
// the port.
func (s *source) listen() (net.Listener, error) {
	s.tokens = nil
	for _, ref := range s.cfg.Tokens {
		token, err := ref.Read()
		if err == nil && token == "" {
			err = fmt.Errorf("secret %s is empty", ref)
		}
		if err != nil {
			return nil, fmt.Errorf("http %s: read the tokens: %w; check connection.tokens", s.cfg.Listen, err)
		}
		s.tokens = append(s.tokens, sha256.Sum256([]byte(token)))
	}
	var conf *tls.Config
	if !s.cfg.TLS.IsZero() {
		var err error
		if conf, err = s.cfg.TLS.Config(); err != nil {
			return nil, fmt.Errorf("http %s: %w; check connection.tls", s.cfg.Listen, err)
		}
	}
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return nil, s.explainListen(err)
	}
	l = newLimitListener(l, max(256, 4*s.cfg.MaxRequests))
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	return l, nil
}

func (s *source) explainListen(err error) error {
	text, hint := err.Error(), "check connection.listen"
	var op *net.OpError
	if errors.As(err, &op) {
		text = op.Err.Error()
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		text, hint = "another program has this port", "find it with: ss -ltnp; or choose another port in connection.listen"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		text, hint = "this machine does not have the address", "write an address of this machine, or 0.0.0.0 for all, in connection.listen"
	case errors.Is(err, os.ErrPermission):
		text, hint = "permission denied", "ports below 1024 need CAP_NET_BIND_SERVICE; choose one above in connection.listen"
	}
	return fmt.Errorf("http %s: listen: %s; %s", s.cfg.Listen, text, hint)
}

// serve answers requests until ctx is done or the listener fails.
func (s *source) serve(ctx context.Context, l net.Listener) error {
	server := &nethttp.Server{
		Handler:           s,
		ReadTimeout:       s.cfg.ReadTimeout,
		ReadHeaderTimeout: s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.ReadTimeout + s.cfg.CommitTimeout + drainTime,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		// It speaks of clients that break off, at any rate that they like.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-failed:
			return errors.Join(fmt.Errorf("http %s: the listener failed: %w; it is opened again by itself", s.cfg.Listen, err), server.Close())
		case <-tick.C:
			s.health.Beat()
		case <-ctx.Done():
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
			defer cancel()
			if server.Shutdown(limited) != nil {
				// Somebody does not finish; the samples are not confirmed to them.
				_ = server.Close()
			}
			<-failed
			return nil
		}
	}
}

// limitListener bounds the connections that are open at once.
type limitListener struct {
	net.Listener
	slots chan struct{}
	ended chan struct{}
	once  sync.Once
}

func newLimitListener(l net.Listener, most int) net.Listener {
	return &limitListener{Listener: l, slots: make(chan struct{}, most), ended: make(chan struct{})}
}

// Accept implements net.Listener. It waits while there are too many.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.ended:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.ended) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
