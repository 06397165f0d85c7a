package server

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

// createSession makes a session that nobody has logged in to yet: OPC 10000-4,
// 5.6.2.
func (cl *call) createSession(r *ua.CreateSessionRequest) (ua.Response, error) {
	srv, ch := cl.conn.srv, cl.conn.ch
	if !ch.secured() && !srv.cfg.AllowNone {
		return nil, ua.StatusBadSecurityPolicyRejected
	}
	if r.ServerURI != "" && r.ServerURI != srv.identity.URI {
		return nil, ua.StatusBadServerURIInvalid
	}
	signature := new(ua.SignatureData)
	if ch.secured() {
		if err := srv.checkClient(ch, r); err != nil {
			return nil, err
		}
		var err error
		if signature, err = srv.sign(ch, r.ClientCertificate, r.ClientNonce); err != nil {
			return nil, err
		}
	}
	s := &session{
		srv: srv, token: newNonce(), policy: ch.policy, mode: ch.mode, name: r.SessionName, application: r.ClientDescription.ApplicationURI[:min(len(r.ClientDescription.ApplicationURI), 200)],
		timeout: srv.sessionTimeout(r.RequestedSessionTimeout), maxResponse: int(min(r.MaxResponseMessageSize, 1<<30)),
		conn: cl.conn, nonce: newNonce(), seen: time.Now(), over: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	if ch.peer != nil {
		s.certificate = ch.peer.Raw
	}
	if err := srv.sessions.add(s, srv.cfg.MaxSessions, time.Now()); err != nil {
		srv.warned.say(srv.log, "sessions", "OPC UA server has all sessions in use, and refuses more", "limit", srv.cfg.MaxSessions, "remedy", "close other clients, or raise max_sessions")
		return nil, err
	}
	resp := &ua.CreateSessionResponse{
		SessionID: s.id, AuthenticationToken: ua.NewByteStringNodeID(0, s.token), RevisedSessionTimeout: milliseconds(s.timeout),
		ServerNonce: s.nonce, ServerEndpoints: srv.endpoints(cl.dialled(r.EndpointURL)), ServerSignature: signature, MaxRequestMessageSize: maxMessage,
	}
	if srv.identity.Leaf != nil {
		resp.ServerCertificate = srv.identity.Leaf.Raw
	}
	return resp, nil
}

func (s *Server) sessionTimeout(asked float64) time.Duration {
	limit := s.cfg.MaxSessionTimeout
	if !(asked > 0) || asked >= milliseconds(limit) { // NaN as well
		return limit
	}
	return max(time.Duration(asked*float64(time.Millisecond)), minSessionTimeout)
}

// checkClient checks that the session is asked for by who has opened the
// channel: OPC 10000-4, 5.6.2.2 and 6.1.3.
func (s *Server) checkClient(ch *channel, r *ua.CreateSessionRequest) error {
	if !bytes.HasPrefix(r.ClientCertificate, ch.peer.Raw) {
		return ua.StatusBadCertificateInvalid
	}
	if !slices.ContainsFunc(ch.peer.URIs, func(u *url.URL) bool { return u.String() == r.ClientDescription.ApplicationURI }) {
		s.warned.say(s.log, "uri "+string(ch.peer.RawSubject), "OPC UA server refuses a client that calls itself otherwise than its certificate",
			"certificate", ch.peer.Subject.CommonName, "remedy", "make the application URI in the client's settings that of its certificate")
		return ua.StatusBadCertificateURIInvalid
	}
	if len(r.ClientNonce) < nonceBytes || !s.nonces.fresh(r.ClientNonce) {
		return ua.StatusBadNonceInvalid
	}
	return nil
}

// sign signs what the client sent, so that it knows who answers.
func (s *Server) sign(ch *channel, certificate, nonce []byte) (*ua.SignatureData, error) {
	algo, err := s.asymmetric(ch.policy, ch.peer)
	if err != nil {
		return nil, err
	}
	sum, err := algo.Signature(slices.Concat(certificate, nonce))
	if err != nil {
		return nil, err
	}
	return &ua.SignatureData{Algorithm: algo.SignatureURI(), Signature: sum}, nil
}

func (s *Server) asymmetric(policy string, peer *x509.Certificate) (*uapolicy.EncryptionAlgorithm, error) {
	var public *rsa.PublicKey
	if peer != nil {
		var ok bool
		if public, ok = peer.PublicKey.(*rsa.PublicKey); !ok {
			return nil, ua.StatusBadCertificateInvalid
		}
	}
	return uapolicy.Asymmetric(policy, s.identity.Key, public)
}

// activateSession logs a user in, also on another channel than the session was
// made on: OPC 10000-4, 5.6.3.
func (cl *call) activateSession(r *ua.ActivateSessionRequest) (ua.Response, error) {
	srv, ch := cl.conn.srv, cl.conn.ch
	s := srv.sessions.lookup(cl.header.AuthenticationToken)
	if s == nil {
		return nil, ua.StatusBadSessionIDInvalid
	}
	s.mu.Lock()
	activated, nonce, user, at := s.activated, s.nonce, s.user, s.conn
	s.mu.Unlock()
	if at != cl.conn && !activated {
		return nil, ua.StatusBadSecureChannelIDInvalid
	}
	if ch.policy != s.policy || ch.mode != s.mode {
		return nil, ua.StatusBadSecurityModeRejected
	}
	if ch.secured() {
		if !bytes.Equal(ch.peer.Raw, s.certificate) {
			return nil, ua.StatusBadSecurityChecksFailed
		}
		if err := srv.verifyActivation(ch, r.ClientSignature, nonce); err != nil {
			return nil, err
		}
	}
	name, err := cl.identify(r, s, nonce)
	if err != nil {
		return nil, err
	}
	// Who takes a session over to another channel has to be who it is of.
	if activated && at != cl.conn && name != user {
		return nil, ua.StatusBadIdentityChangeNotSupported
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ua.StatusBadSessionClosed
	}
	if !bytes.Equal(s.nonce, nonce) {
		return nil, ua.StatusBadNonceInvalid // another request has used it meanwhile
	}
	if s.conn != cl.conn {
		s.publishes = nil // nobody waits for them on the other channel any more
	}
	s.conn, s.activated, s.user, s.nonce, s.seen = cl.conn, true, name, newNonce(), time.Now()
	cl.conn.ch.max = maxMessage
	cl.conn.active.Store(true)
	if !activated {
		s.srv.log.Info("OPC UA client logs in", "application", s.application, "user", name, "client", cl.conn.peer, "security", strings.TrimPrefix(s.mode.String(), "MessageSecurityMode"))
	}
	return &ua.ActivateSessionResponse{ServerNonce: s.nonce}, nil
}

// verifyActivation checks the client's signature of our certificate and the
// session's newest nonce, so that no request can be played again.
func (s *Server) verifyActivation(ch *channel, sig *ua.SignatureData, nonce []byte) error {
	algo, err := s.asymmetric(ch.policy, ch.peer)
	if err != nil {
		return err
	}
	if sig.Algorithm != algo.SignatureURI() {
		return ua.StatusBadApplicationSignatureInvalid
	}
	if algo.VerifySignature(slices.Concat(s.identity.Leaf.Raw, nonce), sig.Signature) != nil {
		return ua.StatusBadApplicationSignatureInvalid
	}
	return nil
}

// identify returns the name of the user, "" for anonymous: OPC 10000-4, 7.40.
func (cl *call) identify(r *ua.ActivateSessionRequest, s *session, nonce []byte) (string, error) {
	srv := cl.conn.srv
	switch t := r.UserIdentityToken.Value.(type) {
	case nil:
		// Nothing stands for anonymous; a kind that we do not know does not.
		if r.UserIdentityToken.EncodingMask != ua.ExtensionObjectEmpty {
			return "", ua.StatusBadIdentityTokenInvalid
		}
		return "", srv.anonymous()
	case *ua.AnonymousIdentityToken:
		return "", srv.anonymous()
	case *ua.UserNameIdentityToken:
		password, err := srv.password(t, s.policy, nonce)
		if err != nil {
			return "", err
		}
		return t.UserName, srv.users.login(cl.conn.ctx, t.UserName, password, cl.conn.peer, time.Now())
	default:
		return "", ua.StatusBadIdentityTokenRejected // certificates and issued tokens are not offered
	}
}

func (s *Server) anonymous() error {
	if !s.cfg.Anonymous {
		return ua.StatusBadIdentityTokenRejected
	}
	return nil
}

// password decrypts the password of a token: OPC 10000-4, 7.41.2. What is
// encrypted is its length with that of the nonce, itself, and the nonce.
func (s *Server) password(t *ua.UserNameIdentityToken, policy string, nonce []byte) (string, error) {
	if !slices.ContainsFunc(s.tokens(policy), func(p *ua.UserTokenPolicy) bool {
		return p.PolicyID == t.PolicyID && p.TokenType == ua.UserTokenTypeUserName
	}) {
		return "", ua.StatusBadIdentityTokenRejected
	}
	if t.UserName == "" || len(t.UserName) > maxUserName {
		return "", ua.StatusBadIdentityTokenInvalid
	}
	policy = s.passwordPolicy(policy)
	if policy == ua.SecurityPolicyURINone {
		if t.EncryptionAlgorithm != "" || len(t.Password) > maxPassword {
			return "", ua.StatusBadIdentityTokenInvalid
		}
		return string(t.Password), nil
	}
	algo, err := s.asymmetric(policy, nil)
	if err != nil {
		return "", err
	}
	size := s.identity.Key.Size()
	if t.EncryptionAlgorithm != algo.EncryptionURI() || len(t.Password) == 0 || len(t.Password)%size != 0 || len(t.Password) > maxPassword+size {
		return "", ua.StatusBadIdentityTokenInvalid
	}
	plain, err := algo.Decrypt(t.Password)
	if err != nil || len(plain) < 4 {
		return "", ua.StatusBadIdentityTokenInvalid
	}
	n := binary.LittleEndian.Uint32(plain)
	plain = plain[4:]
	if int64(n) != int64(len(plain)) || !bytes.HasSuffix(plain, nonce) || len(plain)-len(nonce) > maxPassword {
		return "", ua.StatusBadIdentityTokenInvalid
	}
	return string(plain[:len(plain)-len(nonce)]), nil
}

// closeSession answers OPC 10000-4, 5.6.4. Subscriptions end with their session.
func (cl *call) closeSession(*ua.CloseSessionRequest) (ua.Response, error) {
	s := cl.session
	err := s.answering(func() ([]outgoing, error) { return s.refusePending(ua.StatusBadSessionClosed), nil })
	s.srv.sessions.remove(s)
	cl.conn.since = time.Now()
	cl.conn.active.Store(s.srv.sessions.uses(cl.conn))
	return new(ua.CloseSessionResponse), err
}

// cancel has nothing to call back: what waits is Publish, and answering that
// early tells a client nothing.
func (cl *call) cancel(*ua.CancelRequest) (ua.Response, error) { return new(ua.CancelResponse), nil }
