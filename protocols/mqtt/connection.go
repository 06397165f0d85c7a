package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"millrace/internal/clock"
	"millrace/protocols"
)

const (
	pingTimeout = 10 * time.Second
	// quiesce bounds a clean disconnect.
	quiesce = 250 * time.Millisecond
	// subscribeTimeout is how long the broker may take to answer SUBSCRIBE.
	subscribeTimeout = 20 * time.Second
	// subscribeChunk is how many filters go into one SUBSCRIBE.
	subscribeChunk = 200
)

// connection holds the settings of one broker. Each source has a session of
// its own, and the targets have one together.
type connection struct {
	cfg   Config
	site  string
	log   *slog.Logger
	clock clock.Clock

	mu    sync.Mutex
	owner string // the last source that was opened

	publishing publishing
}

// Open implements protocols.Config.
func (c *Config) Open(s protocols.Settings) (protocols.Connection, error) {
	if _, err := c.broker(); err != nil {
		return nil, fmt.Errorf("open mqtt: %w", err)
	}
	conn := &connection{cfg: *c, site: s.Site, log: s.Log, clock: s.Clock}
	conn.publishing.conn, conn.publishing.turn = conn, make(chan struct{}, 1)
	return conn, nil
}

// OpenSource implements protocols.Connection.
func (c *connection) OpenSource(src *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.ClientID != "" && c.owner != "" && c.owner != src.Name {
		return nil, fmt.Errorf("open source %s: client_id %q is source %s's already, and a broker disconnects the one for the other; give each source a client_id of its own, or leave it out",
			src.Name, c.cfg.ClientID, c.owner)
	}
	r, err := newRouter(&c.cfg, c.site, src, c.log)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", src.Name, err)
	}
	c.owner = src.Name
	return newSource(c, src, r, h), nil
}

// Close implements protocols.Connection. The targets' session ends with the
// last of them.
func (c *connection) Close() error {
	c.publishing.ends.Wait()
	return nil
}

// session is one connection to the broker, from CONNECT to its loss.
type session struct {
	client paho.Client
	wire   *wire
	lost   chan error // gets one error when the connection breaks
	// present says that the broker goes on with a session that it had.
	present bool
}

// connect opens a session. receive is called for each message, in the order of
// arrival, and must not block.
func (c *connection) connect(ctx context.Context, id string, clean bool, receive func(*session, *message)) (*session, error) {
	b, err := c.cfg.broker()
	if err != nil {
		return nil, c.explain("connect", err)
	}
	var conf *tls.Config
	if b.secure {
		if conf, err = c.cfg.TLS.Config(); err != nil {
			return nil, c.explain("connect", err)
		}
	}
	password, err := c.cfg.Password.Read()
	if err != nil {
		return nil, c.explain("connect", err)
	}
	s := &session{lost: make(chan error, 1)}
	var (
		dialled error
		unhook  = func() bool { return true }
	)
	limited, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	o := paho.NewClientOptions()
	o.Servers = []*url.URL{b.url}
	o.SetClientID(id).SetUsername(c.cfg.Username).SetPassword(password).SetCleanSession(clean).SetProtocolVersion(4).
		SetKeepAlive(c.cfg.KeepAlive).SetPingTimeout(pingTimeout).SetConnectTimeout(c.cfg.ConnectTimeout).SetWriteTimeout(writeTimeout).
		SetAutoReconnect(false).SetConnectRetry(false).SetStore(noStore{}).
		SetConnectionLostHandler(func(_ paho.Client, err error) { s.lost <- err }).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
			raw, err := dial(limited, b, conf, c.cfg.ConnectTimeout)
			if err != nil {
				dialled = err
				return nil, err
			}
			s.wire = newWire(raw, int(c.cfg.MaxMessage), func(m *message) { receive(s, m) })
			// An end of ctx breaks off the login too.
			unhook = context.AfterFunc(ctx, func() { _ = s.wire.Close() })
			return s.wire, nil
		})
	s.client = paho.NewClient(o)
	token := s.client.Connect().(*paho.ConnectToken)
	<-token.Done()
	unhook()
	switch err := token.Error(); {
	case err == nil && ctx.Err() != nil:
		s.close()
		return nil, ctx.Err()
	case err == nil:
		s.present = token.SessionPresent()
		return s, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case dialled != nil:
		return nil, c.explain("connect", dialled)
	default:
		return nil, c.explain("log in", err)
	}
}

// close ends the session, and the connection where it is still there.
func (s *session) close() { s.client.Disconnect(uint(quiesce / time.Millisecond)) }

// acknowledge writes acknowledgements. Where the connection breaks, the broker
// sends the messages again.
func (s *session) acknowledge(acks []byte) {
	if s == nil || len(acks) == 0 {
		return
	}
	if _, err := s.wire.Write(acks); err != nil {
		_ = s.wire.Close() // so that the library learns of it
	}
}

// subscribe subscribes to filters and returns those that the broker refused
// (return code 0x80: 3.1.1, 3.9.3).
func (s *session) subscribe(ctx context.Context, filters []string, qos byte) (refused []string, err error) {
	for len(filters) > 0 {
		chunk := filters[:min(len(filters), subscribeChunk)]
		filters = filters[len(chunk):]
		wanted := make(map[string]byte, len(chunk))
		for _, f := range chunk {
			wanted[f] = qos
		}
		token := s.client.SubscribeMultiple(wanted, nil).(*paho.SubscribeToken)
		timer := time.NewTimer(subscribeTimeout)
		select {
		case <-token.Done():
		case <-ctx.Done():
			err = ctx.Err()
		case <-timer.C:
			err = fmt.Errorf("the broker did not answer within %s", subscribeTimeout)
		}
		timer.Stop()
		if err == nil {
			err = token.Error()
		}
		if err != nil {
			return nil, err
		}
		granted := token.Result()
		for _, f := range chunk {
			if code, ok := granted[f]; !ok || code > 2 {
				refused = append(refused, f)
			}
		}
	}
	return refused, nil
}

// explained is an operator's message that keeps its cause.
type explained struct {
	msg   string
	cause error
}

func (e *explained) Error() string { return e.msg }
func (e *explained) Unwrap() error { return e.cause }

// explain says on one line what failed and what to do next.
func (c *connection) explain(what string, err error) error {
	text, hint := reason(err)
	msg := fmt.Sprintf("mqtt %s: %s: %s", c.cfg.URL, what, text)
	if hint != "" {
		msg += "; " + hint
	}
	return &explained{strings.Join(strings.Fields(msg), " "), err}
}

func reason(err error) (text, hint string) {
	var (
		unknown  x509.UnknownAuthorityError
		host     x509.HostnameError
		invalid  x509.CertificateInvalidError
		noTLS    tls.RecordHeaderError
		alert    tls.AlertError
		dns      *net.DNSError
		op       *net.OpError
		pathless *os.PathError
	)
	switch {
	case errors.As(err, &unknown):
		return "the broker's certificate is signed by an authority that is not trusted", "set connection.tls.ca to that authority's PEM file"
	case errors.As(err, &host):
		return "the broker's certificate is for another name: " + host.Error(), "use that name in the url, or set connection.tls.server_name"
	case errors.As(err, &invalid):
		return "the broker's certificate is not valid: " + invalid.Error(), "renew it, or set this machine's clock"
	case errors.As(err, &noTLS):
		return "the broker does not speak TLS on this port", "use its TLS port, mostly 8883, or tcp://"
	case errors.As(err, &alert):
		return "the broker broke off the TLS handshake: " + alert.Error(), "check connection.tls.cert and key: it may want a client certificate"
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword), errors.Is(err, packets.ErrorRefusedNotAuthorised):
		// Brokers give either code for a wrong password.
		return "the broker does not let this client in", "check connection.username, what connection.password points to, and the broker's access list for this client_id"
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return "the broker refuses the client id", "set connection.client_id to at most 23 letters and digits"
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return "the broker says that it is not available", "look at the broker's log; it is tried again by itself"
	case errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		return "the broker does not speak MQTT 3.1.1", "allow version 3.1.1 at the broker"
	case errors.As(err, &dns):
		return fmt.Sprintf("host %q is not known", dns.Name), "check the name in connection.url and this machine's DNS"
	case errors.As(err, &pathless):
		return pathless.Error(), "check that the file is there and that millrace may read it"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "check that the broker runs and listens at this address and port"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time", "check the address and port, the network and the firewalls on the way"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrUnexpectedEOF):
		return "the broker closed the connection", "look at its log; it may have stopped, want TLS (ssl://), or have another client with the same client_id"
	case errors.As(err, &op):
		return op.Err.Error(), "check the address and the network"
	case strings.Contains(err.Error(), "pingresp"): // the library has no type for it
		return "the broker stopped answering", "check the network and the broker"
	}
	return err.Error(), ""
}
