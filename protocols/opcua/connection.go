package opcua

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"millrace/internal/clock"
	"millrace/protocols"
)

const (
	// closeWithin bounds the closing of a session, which can hang in the
	// library when the server is gone.
	closeWithin = 2 * time.Second
	// minSilence is the least silence after which a connection counts as dead.
	minSilence = 10 * time.Second
)

// connection implements protocols.Connection and protocols.Checker. It owns
// the settings; each source has a session of its own, and the targets have one
// together, since a fresh client for each connection is the only one that
// never falls silent.
type connection struct {
	cfg     Config
	url     string
	host    string
	site    string
	log     *slog.Logger
	clock   clock.Clock
	silence time.Duration // shorter in tests
	writing writing
}

// OpenSource implements protocols.Connection.
func (c *connection) OpenSource(src *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	s := &source{conn: c, name: src.Name, health: h, interval: c.cfg.PublishingInterval}
	if s.interval == 0 {
		s.interval = src.ScanRate
	}
	for _, t := range src.Tags {
		a, err := parseAddress(t.Address)
		if err != nil {
			return nil, fmt.Errorf("open source %s: tag %s: %w", src.Name, t.Name, err)
		}
		it := &item{tag: t.Name, address: a, sampling: src.ScanRate}
		if t.ScanRate > 0 {
			it.sampling = t.ScanRate
		}
		s.items = append(s.items, it)
	}
	return s, nil
}

// Close implements protocols.Connection. Sessions end with their sources and
// with the last target.
func (c *connection) Close() error {
	c.writing.ends.Wait()
	return nil
}

// dial opens a session with a fresh client.
func (c *connection) dial(ctx context.Context, lost func()) (*link, error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	options := []opcua.Option{
		opcua.AutoReconnect(false), opcua.RequestTimeout(c.cfg.Timeout), opcua.DialTimeout(c.cfg.Timeout),
		opcua.ApplicationName("millrace " + c.site), opcua.SessionName("millrace " + c.site),
		opcua.StateChangedFunc(func(s opcua.ConnState) {
			if s == opcua.Disconnected || s == opcua.Closed {
				lost()
			}
		}),
	}
	ep, err := c.endpoint(limited)
	if err != nil {
		return nil, err
	}
	var leaf []byte // the server's certificate
	if c.cfg.Security != securityNone {
		if leaf, err = c.cfg.trusted().Check(ep.ServerCertificate, c.party(ep).mismatch, clock.WallOf(c.clock)); err != nil {
			return nil, fmt.Errorf("server %s: %w", c.url, err)
		}
		own, err := c.cfg.files().Load(c.site, clock.WallOf(c.clock))
		if err != nil {
			return nil, err
		}
		// The library encrypts for this certificate, and the guard sees to it
		// that it goes on to.
		ep.ServerCertificate = leaf
		options = append(options, opcua.Certificate(own.Cert), opcua.PrivateKey(own.Key))
	}
	token := ua.UserTokenTypeAnonymous
	if c.cfg.User != "" {
		token = ua.UserTokenTypeUserName
		password, err := c.cfg.Password.Read()
		if err != nil {
			return nil, err
		}
		options = append(options, opcua.AuthUsername(c.cfg.User, password))
	} else {
		options = append(options, opcua.AuthAnonymous())
	}
	if err := c.pickToken(ep, token); err != nil {
		return nil, err
	}
	options = append(options, opcua.SecurityFromEndpoint(ep, token))
	client, target := new(link), c.url
	if c.cfg.Security != securityNone {
		if client.guard, err = openGuard(limited, c.url, c.cfg.policy(), leaf); err != nil {
			return nil, c.explain("connect to", err)
		}
		target = client.guard.url
	}
	if client.Client, err = opcua.NewClient(target, options...); err != nil {
		client.guard.close()
		return nil, fmt.Errorf("server %s: %w", c.url, err)
	}
	if err := survive(func() error { return client.Connect(limited) }); err != nil {
		c.hangUp(client)
		if cause := client.guard.err(); cause != nil {
			return nil, cause
		}
		if c.cfg.Security != securityNone && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
			// It has just told its endpoints, so it runs.
			return nil, fmt.Errorf("connect to server %s: %w: %s", c.url, err, hintUntrusted)
		}
		return nil, c.explain("connect to", err)
	}
	return client, nil
}

// party is whom the server's certificate has to name.
func (c *connection) party(ep *ua.EndpointDescription) party {
	p := party{host: c.host}
	if ep.Server != nil {
		p.uri = ep.Server.ApplicationURI
	}
	return p
}

// endpoint asks the server for its endpoints and picks the one that is
// configured, never a lesser one.
func (c *connection) endpoint(ctx context.Context) (*ua.EndpointDescription, error) {
	list, err := opcua.GetEndpoints(ctx, c.url, opcua.AutoReconnect(false), opcua.RequestTimeout(c.cfg.Timeout), opcua.DialTimeout(c.cfg.Timeout))
	if err != nil {
		return nil, c.explain("ask", err)
	}
	offered := ""
	for _, ep := range list {
		if ep.SecurityPolicyURI == c.cfg.policy() && ep.SecurityMode == c.cfg.mode() {
			return ep, nil
		}
		offered += fmt.Sprintf(" %s/%s", policyName(ep.SecurityPolicyURI), modeName(ep.SecurityMode))
	}
	return nil, fmt.Errorf("server %s offers no %s/%s, only%s: choose one of these in connection.security and mode, or switch it on at the server",
		c.url, c.cfg.Security, modeName(c.cfg.mode()), offered)
}

// pickToken leaves the endpoint the one kind of token that is to be used. A
// password goes out encrypted, by the channel or by the token's own policy
// (OPC 10000-4, 7.41), whatever the server, or somebody in between, offers:
// the endpoints are asked for without security.
func (c *connection) pickToken(ep *ua.EndpointDescription, want ua.UserTokenType) error {
	plain := false
	for _, t := range ep.UserIdentityTokens {
		if t.TokenType != want {
			continue
		}
		policy := t.SecurityPolicyURI
		if policy == "" {
			policy = ep.SecurityPolicyURI
		}
		if want == ua.UserTokenTypeUserName && policy == ua.SecurityPolicyURINone && ep.SecurityMode != ua.MessageSecurityModeSignAndEncrypt &&
			!c.cfg.Password.IsZero() && !c.cfg.InsecurePassword {
			plain = true
			continue
		}
		ep.UserIdentityTokens = []*ua.UserTokenPolicy{t}
		return nil
	}
	switch {
	case plain:
		return fmt.Errorf("server %s takes the password at this endpoint unencrypted only, so it is not sent: use mode SignAndEncrypt", c.url)
	case want == ua.UserTokenTypeAnonymous:
		return fmt.Errorf("server %s lets nobody in without a user: set connection.user and password", c.url)
	}
	return fmt.Errorf("server %s takes no user names at this endpoint: leave connection.user out, or switch users on at the server", c.url)
}

// hangUp closes a client, within bounds.
func (c *connection) hangUp(client *link) {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What closing a connection that is given up says changes nothing.
		_ = client.Close(ctx)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	client.guard.close()
}

const hintUntrusted = "the server does not trust our certificate: accept it on the server (its list of rejected certificates)"

// explain turns what the library says into an operator's error.
func (c *connection) explain(verb string, err error) error {
	hint := "check that the server runs and that the URL and the firewall are right"
	var code ua.StatusCode
	switch {
	case errors.As(err, &code) && (code == ua.StatusBadUserAccessDenied || code == ua.StatusBadIdentityTokenRejected || code == ua.StatusBadIdentityTokenInvalid):
		hint = "the server refuses the user: check connection.user and the password"
	case errors.As(err, &code) && (code == ua.StatusBadSecurityChecksFailed || code == ua.StatusBadCertificateUntrusted || code == ua.StatusBadCertificateInvalid ||
		code == ua.StatusBadCertificateURIInvalid):
		hint = hintUntrusted
	case errors.As(err, &code) && code == ua.StatusBadTooManySessions:
		hint = "the server has no session left: close other clients, or raise its limit"
	}
	return fmt.Errorf("%s server %s: %w: %s", verb, c.url, err, hint)
}

func policyName(uri string) string {
	for i := len(uri) - 1; i >= 0; i-- {
		if uri[i] == '#' {
			return uri[i+1:]
		}
	}
	return uri
}

func modeName(m ua.MessageSecurityMode) string {
	switch m {
	case ua.MessageSecurityModeSign:
		return modeSign
	case ua.MessageSecurityModeSignAndEncrypt:
		return modeEncrypt
	}
	return securityNone
}

// Check implements protocols.Checker: it connects and reads every node.
func (c *connection) Check(ctx context.Context, src *protocols.SourceConfig) []error {
	client, err := c.dial(ctx, func() {})
	if err != nil {
		return []error{err}
	}
	defer c.hangUp(client)
	namespaces, err := client.NamespaceArray(ctx)
	if err != nil {
		return []error{c.explain("read the namespaces of", err)}
	}
	var errs []error
	for _, t := range src.Tags {
		a, err := parseAddress(t.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("tag %s: %w", t.Name, err))
			continue
		}
		dv, err := c.readOne(ctx, client, &a, namespaces)
		if err != nil {
			errs = append(errs, fmt.Errorf("tag %s: %w", t.Name, err))
			continue
		}
		if want, ok := typeIDs[t.Type]; ok && dv.Value != nil && dv.Value.Type() != want {
			errs = append(errs, fmt.Errorf("tag %s: node %s is a %s, the configuration says %s: correct the type or leave it out", t.Name, t.Address, dv.Value.Type(), t.Type))
		} else if _, err := convert(dv.Value); err != nil {
			errs = append(errs, fmt.Errorf("tag %s: node %s: %w", t.Name, t.Address, err))
		}
	}
	return errs
}

// readOne reads the value of a node.
func (c *connection) readOne(ctx context.Context, client *link, a *address, namespaces []string) (*ua.DataValue, error) {
	id, err := a.resolve(namespaces)
	if err != nil {
		return nil, err
	}
	resp, err := client.Read(ctx, &ua.ReadRequest{
		TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: []*ua.ReadValueID{{NodeID: id, AttributeID: ua.AttributeIDValue}},
	})
	if err != nil {
		return nil, c.explain("read "+a.text+" from", err)
	}
	dv := resp.Results[0]
	if uint32(dv.Status)&0x80000000 != 0 {
		return nil, nodeError(a.text, dv.Status)
	}
	return dv, nil
}

// nodeError says what is wrong with one node.
func nodeError(address string, code ua.StatusCode) error {
	hint := "look at the node on the server"
	switch code {
	case ua.StatusBadNodeIDUnknown, ua.StatusBadNodeIDInvalid:
		hint = "the server has no such node: check namespace and identifier, or whether the server renumbered its namespaces (nsu= survives that)"
	case ua.StatusBadNotReadable, ua.StatusBadUserAccessDenied:
		hint = "our user may not read it: give it the right on the server"
	case ua.StatusBadAttributeIDInvalid:
		hint = "it is no variable: choose the variable below it"
	}
	return fmt.Errorf("node %s: %w: %s", address, code, hint)
}
