package server

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"

	"millrace/protocols/opcua/pki"
	"millrace/protocols/opcua/pki/pkitest"
)

func TestConnectAndRead(t *testing.T) {
	r := start(t, plain(t), nil)
	v := value(t, r.client(), "ns=1;s=north/meter1/power")
	if v.Status != ua.StatusOK || v.Value.Value() != 41.5 || v.ServerTimestamp.Sub(v.SourceTimestamp) < 900*time.Millisecond {
		t.Errorf("got %+v %v", v, v.Value.Value())
	}
}

func TestSecuredEndpoints(t *testing.T) {
	r := start(t, secure(t), nil)
	for _, policy := range []string{ua.SecurityPolicyURIBasic256Sha256, ua.SecurityPolicyURIAes128Sha256RsaOaep} {
		for _, mode := range []ua.MessageSecurityMode{ua.MessageSecurityModeSign, ua.MessageSecurityModeSignAndEncrypt} {
			c, err := r.dial(r.login(r.endpoint(policy, mode), certificates(t).client, userName, password)...)
			if err != nil {
				t.Fatalf("%s %s: %v\n%s", policy, mode, err, r.log)
			}
			if v := value(t, c, "ns=1;s=north/meter1/power"); v.Status != ua.StatusOK || v.Value.Value() != 41.5 {
				t.Errorf("%s %s: got %v %v", policy, mode, v.Status, v.Value)
			}
			if err := c.Close(ctxOf(t)); err != nil {
				t.Error(err)
			}
		}
	}
}

func encrypted(r *rig) *ua.EndpointDescription {
	return r.endpoint(ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSignAndEncrypt)
}

// Each thing that must keep a client out does, with its code.
func TestWhoIsKeptOut(t *testing.T) {
	p := certificates(t)
	old := pkitest.Issue(t, "old", nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	})
	future := pkitest.Issue(t, "future", nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
	})
	root := pkitest.Issue(t, "root", nil, pkitest.IsCA)
	signed := pkitest.Issue(t, "signed", root, nil)
	website := pkitest.Issue(t, "website", root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	mute := pkitest.Issue(t, "mute", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	cfg := secure(t)
	for name, a := range map[string]*pkitest.Authority{"old": old, "future": future, "root": root} {
		pkitest.Write(t, filepath.Join(cfg.TrustDir, name+".der"), a.Cert.Raw)
	}
	r := start(t, cfg, nil)
	r.tap()
	e := encrypted(r)
	for _, c := range []struct {
		name    string
		options []opcua.Option
		want    ua.StatusCode // OK lets in
	}{
		{"the user", r.login(e, p.client, userName, password), ua.StatusOK},
		{"signed by a trusted authority", r.login(e, signed, userName, password), ua.StatusOK},
		{"a server's, signed by a trusted authority", r.login(e, website, userName, password), ua.StatusBadCertificateUseNotAllowed},
		{"one that may not sign, signed by a trusted authority", r.login(e, mute, userName, password), ua.StatusBadCertificateUseNotAllowed},
		{"wrong password", r.login(e, p.client, userName, "wrong"), ua.StatusBadUserAccessDenied},
		{"empty password", r.login(e, p.client, userName, ""), ua.StatusBadUserAccessDenied},
		{"a piece of the password", r.login(e, p.client, userName, password[:5]), ua.StatusBadUserAccessDenied},
		{"unknown user", r.login(e, p.client, "nobody", password), ua.StatusBadUserAccessDenied},
		{"untrusted certificate", r.login(e, p.stranger, userName, password), ua.StatusBadCertificateUntrusted},
		{"expired certificate", r.login(e, old, userName, password), ua.StatusBadCertificateTimeInvalid},
		{"certificate of tomorrow", r.login(e, future, userName, password), ua.StatusBadCertificateTimeInvalid},
		{"another application URI", append(r.login(e, p.client, userName, password), opcua.ApplicationURI("urn:test:other")), ua.StatusBadCertificateURIInvalid},
		{"anonymous", []opcua.Option{
			opcua.Certificate(p.client.Cert.Raw), opcua.PrivateKey(p.client.Key), opcua.ApplicationURI(p.client.Cert.URIs[0].String()),
			opcua.SecurityFromEndpoint(e, ua.UserTokenTypeAnonymous), opcua.AuthPolicyID("anonymous"), opcua.AuthAnonymous(),
		}, ua.StatusBadIdentityTokenRejected},
		{"without security", []opcua.Option{opcua.SecurityMode(ua.MessageSecurityModeNone)}, ua.StatusBadSecurityPolicyRejected},
	} {
		r.codes()
		client, err := r.dial(c.options...)
		if errors.Is(err, io.EOF) { // the client's library keeps the reason to itself
			select {
			case err = <-r.told:
			case <-time.After(patience):
			}
		}
		if c.want == ua.StatusOK {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if v := value(t, client, "ns=1;s=north/meter1/power"); v.Status != ua.StatusOK {
				t.Errorf("%s: %v", c.name, v.Status)
			}
			continue
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if text := r.log.String(); strings.Contains(text, password) || strings.Contains(text, "wrong") && strings.Contains(text, "password=wrong") {
		t.Errorf("a password is in the log: %s", text)
	}
}

// What the log tells an operator to do lets the client in, word for word.
func TestAnUnknownClientIsTrustedByWhatTheLogSays(t *testing.T) {
	r := start(t, secure(t), nil)
	e := encrypted(r)
	for range 3 {
		if _, err := r.dial(r.login(e, certificates(t).stranger, userName, password)...); err == nil {
			t.Fatal("a stranger is let in")
		}
	}
	text := r.log.String()
	if n := strings.Count(text, "trust it by: mv "); n != 1 {
		t.Fatalf("%d lines tell how: %s", n, text)
	}
	_, command, _ := strings.Cut(text, "trust it by: mv ")
	words := strings.Fields(strings.ReplaceAll(command, `"`, ""))
	if filepath.Dir(words[0]) != filepath.Join(r.trust, pki.RejectedDir) || words[1] != r.trust {
		t.Fatalf("mv %s %s", words[0], words[1])
	}
	if err := os.Rename(words[0], filepath.Join(words[1], "stranger.der")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.dial(r.login(e, certificates(t).stranger, userName, password)...); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// rawChannel opens a secure channel and no session.
func rawChannel(t testing.TB, r *rig, by *pkitest.Authority, policy string, mode ua.MessageSecurityMode) *uasc.SecureChannel {
	t.Helper()
	ch, _ := rawChannelOf(t, r, by, policy, mode)
	return ch
}

// rawChannelOf returns its settings too, which the library goes on to use.
func rawChannelOf(t testing.TB, r *rig, by *pkitest.Authority, policy string, mode ua.MessageSecurityMode) (*uasc.SecureChannel, *uasc.Config) {
	t.Helper()
	conn, err := uacp.Dial(ctxOf(t), r.url)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &uasc.Config{SecurityPolicyURI: policy, SecurityMode: mode, Lifetime: 60_000, RequestTimeout: 5 * time.Second}
	if policy != ua.SecurityPolicyURINone {
		cfg.Certificate, cfg.LocalKey, cfg.RemoteCertificate = by.Cert.Raw, by.Key, certificates(t).own.Cert.Raw
		cfg.Thumbprint = uapolicy.Thumbprint(cfg.RemoteCertificate)
	}
	ch, err := uasc.NewSecureChannel(r.url, conn, cfg, make(chan error, 10))
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Open(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ch.Close(); conn.Close() })
	return ch, cfg
}

// ask sends a request and returns the answer.
func ask[R ua.Response](t testing.TB, ch *uasc.SecureChannel, token *ua.NodeID, req ua.Request) (R, error) {
	t.Helper()
	var out R
	err := ch.SendRequest(ctxOf(t), req, token, func(resp ua.Response) error {
		r, ok := resp.(R)
		if !ok {
			return errors.New("another kind of answer")
		}
		out = r
		return nil
	})
	return out, err
}

func createSession(t testing.TB, ch *uasc.SecureChannel, certificate *pkitest.Authority, nonce []byte) (*ua.CreateSessionResponse, error) {
	t.Helper()
	return ask[*ua.CreateSessionResponse](t, ch, nil, &ua.CreateSessionRequest{
		ClientDescription: &ua.ApplicationDescription{ApplicationURI: certificate.Cert.URIs[0].String(), ApplicationName: ua.NewLocalizedText("test"), ApplicationType: ua.ApplicationTypeClient},
		ClientNonce:       nonce, ClientCertificate: certificate.Cert.Raw, RequestedSessionTimeout: 60_000,
	})
}

// activate logs in with the nonce that is given.
func activate(t testing.TB, ch *uasc.SecureChannel, s *ua.CreateSessionResponse, nonce []byte, pass string) (*ua.ActivateSessionResponse, error) {
	t.Helper()
	req := activation(t, ch, s, nonce, pass)
	return ask[*ua.ActivateSessionResponse](t, ch, s.AuthenticationToken, req)
}

func activation(t testing.TB, ch *uasc.SecureChannel, s *ua.CreateSessionResponse, nonce []byte, pass string) *ua.ActivateSessionRequest {
	t.Helper()
	signature, algorithm, err := ch.NewSessionSignature(s.ServerCertificate, nonce)
	if err != nil {
		t.Fatal(err)
	}
	sealed, sealedBy, err := ch.EncryptUserPassword("", pass, s.ServerCertificate, nonce)
	if err != nil {
		t.Fatal(err)
	}
	return &ua.ActivateSessionRequest{
		ClientSignature:    &ua.SignatureData{Algorithm: algorithm, Signature: signature},
		UserIdentityToken:  ua.NewExtensionObject(&ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: sealed, EncryptionAlgorithm: sealedBy}),
		UserTokenSignature: &ua.SignatureData{},
	}
}

func readRequest() *ua.ReadRequest {
	return &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: []*ua.ReadValueID{{NodeID: ua.NewNumericNodeID(0, 2258), AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}}}}
}

const (
	sha256Policy = "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256"
	signEncrypt  = ua.MessageSecurityModeSignAndEncrypt
)

func TestSessionsBelongToTheirChannel(t *testing.T) {
	p := certificates(t)
	cfg := secure(t)
	pkitest.Write(t, filepath.Join(cfg.TrustDir, "stranger.der"), p.stranger.Cert.Raw) // trusted, but somebody else
	r := start(t, cfg, nil)
	ch := rawChannel(t, r, p.client, sha256Policy, signEncrypt)
	expect := func(what string, err error, want ua.StatusCode) {
		t.Helper()
		if want == ua.StatusOK && err != nil || want != ua.StatusOK && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	_, err := createSession(t, ch, p.stranger, newNonce())
	expect("another certificate than the channel's", err, ua.StatusBadCertificateInvalid)
	nonce := newNonce()
	s, err := createSession(t, ch, p.client, nonce)
	expect("a session", err, ua.StatusOK)
	expect("its signature", ch.VerifySessionSignature(s.ServerCertificate, nonce, s.ServerSignature.Signature), ua.StatusOK)
	_, err = createSession(t, ch, p.client, nonce)
	expect("the same nonce again", err, ua.StatusBadNonceInvalid)
	_, err = createSession(t, ch, p.client, newNonce()[:16])
	expect("a short nonce", err, ua.StatusBadNonceInvalid)
	_, err = ask[*ua.ReadResponse](t, ch, s.AuthenticationToken, readRequest())
	expect("a read before anybody has logged in", err, ua.StatusBadSessionNotActivated)
	_, err = ask[*ua.ReadResponse](t, ch, nil, readRequest())
	expect("a read without a session", err, ua.StatusBadSessionIDInvalid)
	_, err = ask[*ua.CreateSubscriptionResponse](t, ch, nil, &ua.CreateSubscriptionRequest{})
	expect("a subscription without a session", err, ua.StatusBadSessionIDInvalid)
	_, err = ask[*ua.ReadResponse](t, ch, ua.NewByteStringNodeID(0, newNonce()), readRequest())
	expect("a made-up token", err, ua.StatusBadSessionIDInvalid)

	_, err = activate(t, ch, s, newNonce(), password)
	expect("a signature of another nonce", err, ua.StatusBadApplicationSignatureInvalid)
	odd := activation(t, ch, s, s.ServerNonce, password)
	odd.ClientSignature.Algorithm = "http://www.w3.org/2000/09/xmldsig#rsa-sha1"
	_, err = ask[*ua.ActivateSessionResponse](t, ch, s.AuthenticationToken, odd)
	expect("a signature by another algorithm", err, ua.StatusBadApplicationSignatureInvalid)
	thief := rawChannel(t, r, p.stranger, sha256Policy, signEncrypt)
	_, err = activate(t, thief, s, s.ServerNonce, password)
	expect("on another channel before it is active", err, ua.StatusBadSecureChannelIDInvalid)
	other, err := createSession(t, ch, p.client, newNonce())
	expect("a second session", err, ua.StatusOK)
	_, err = activate(t, ch, other, other.ServerNonce, password)
	expect("logging in to it", err, ua.StatusOK)
	first := activation(t, ch, s, s.ServerNonce, password)
	a, err := ask[*ua.ActivateSessionResponse](t, ch, s.AuthenticationToken, first)
	expect("logging in", err, ua.StatusOK)
	_, err = ask[*ua.ActivateSessionResponse](t, ch, s.AuthenticationToken, first)
	expect("the same request again", err, ua.StatusBadApplicationSignatureInvalid)
	_, err = ask[*ua.ReadResponse](t, ch, s.AuthenticationToken, readRequest())
	expect("a read", err, ua.StatusOK)
	_, err = ask[*ua.CloseSessionResponse](t, ch, other.AuthenticationToken, &ua.CloseSessionRequest{})
	expect("the second session's end", err, ua.StatusOK)
	for _, x := range r.sessions.list() {
		x.mu.Lock()
		if !x.conn.active.Load() {
			t.Error("the channel of a session counts as nobody's since another one on it has ended")
		}
		x.mu.Unlock()
	}

	_, err = ask[*ua.ReadResponse](t, thief, s.AuthenticationToken, readRequest())
	expect("a read on another channel", err, ua.StatusBadSecureChannelIDInvalid)
	_, err = activate(t, thief, s, a.ServerNonce, password)
	expect("taken over with another certificate", err, ua.StatusBadSecurityChecksFailed)
	again := rawChannel(t, r, p.client, sha256Policy, signEncrypt)
	a2, err := activate(t, again, s, a.ServerNonce, password)
	expect("taken over to a new channel", err, ua.StatusOK)
	_, err = ask[*ua.ReadResponse](t, again, s.AuthenticationToken, readRequest())
	expect("a read there", err, ua.StatusOK)
	_, err = ask[*ua.ReadResponse](t, ch, s.AuthenticationToken, readRequest())
	expect("a read on the old one", err, ua.StatusBadSecureChannelIDInvalid)
	weaker := rawChannel(t, r, p.client, sha256Policy, ua.MessageSecurityModeSign)
	_, err = activate(t, weaker, s, a2.ServerNonce, password)
	expect("taken over to a weaker channel", err, ua.StatusBadSecurityModeRejected)
	_, err = ask[*ua.CloseSessionResponse](t, again, s.AuthenticationToken, &ua.CloseSessionRequest{})
	expect("closing", err, ua.StatusOK)
	_, err = ask[*ua.ReadResponse](t, again, s.AuthenticationToken, readRequest())
	expect("a read after that", err, ua.StatusBadSessionIDInvalid)
}

// A password token is refused whose nonce, length or algorithm is not right.
func TestPasswordTokens(t *testing.T) {
	r := start(t, secure(t), nil)
	nonce := newNonce()
	public := &r.identity.Key.PublicKey
	algo, err := uapolicy.Asymmetric(sha256Policy, r.identity.Key, public)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(length int, text, nonce []byte) []byte {
		plain := binary.LittleEndian.AppendUint32(nil, uint32(length))
		out, err := algo.Encrypt(slices.Concat(plain, text, nonce))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := []byte(password)
	for _, c := range []struct {
		name  string
		token *ua.UserNameIdentityToken
		want  ua.StatusCode
	}{
		{"right", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: seal(len(good)+32, good, nonce), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusOK},
		{"another nonce", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: seal(len(good)+32, good, newNonce()), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenInvalid},
		{"no nonce", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: seal(len(good), good, nil), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenInvalid},
		{"a wrong length", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: seal(1<<30, good, nonce), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenInvalid},
		{"too short", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: bytes.Repeat([]byte{1}, 255), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenInvalid},
		{"rubbish", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: bytes.Repeat([]byte{1}, 256), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenInvalid},
		{"in the open", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: good}, ua.StatusBadIdentityTokenInvalid},
		{"another algorithm", &ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: seal(len(good)+32, good, nonce), EncryptionAlgorithm: "http://www.w3.org/2001/04/xmlenc#rsa-1_5"}, ua.StatusBadIdentityTokenInvalid},
		{"another policy", &ua.UserNameIdentityToken{PolicyID: "x", UserName: userName, Password: seal(len(good)+32, good, nonce), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenRejected},
		{"no name", &ua.UserNameIdentityToken{PolicyID: tokenUser, Password: seal(len(good)+32, good, nonce), EncryptionAlgorithm: algo.EncryptionURI()}, ua.StatusBadIdentityTokenInvalid},
	} {
		got, err := r.password(c.token, sha256Policy, nonce)
		if c.want == ua.StatusOK {
			if err != nil || got != password {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := r.password(&ua.UserNameIdentityToken{PolicyID: tokenUser, UserName: userName, Password: good}, ua.SecurityPolicyURINone, nonce); !errors.Is(err, ua.StatusBadIdentityTokenRejected) {
		t.Errorf("over security None: %v", err)
	}
}

func TestInsecurePassword(t *testing.T) {
	c := plain(t)
	c.Anonymous, c.InsecurePassword = false, true
	c.Users = []User{{Name: userName, Password: secretFile(t, password)}}
	r := start(t, c, nil)
	e := r.endpoint(ua.SecurityPolicyURINone, ua.MessageSecurityModeNone)
	if _, err := r.dial(opcua.AuthUsername(userName, password), opcua.SecurityFromEndpoint(e, ua.UserTokenTypeUserName)); err != nil {
		t.Error(err)
	}
	if _, err := r.dial(opcua.AuthUsername(userName, "wrong"), opcua.SecurityFromEndpoint(e, ua.UserTokenTypeUserName)); !errors.Is(err, ua.StatusBadUserAccessDenied) {
		t.Errorf("got %v", err)
	}
}

// Other kinds of user are refused without a fuss.
func TestOtherUserTokens(t *testing.T) {
	r := start(t, secure(t), nil)
	ch := rawChannel(t, r, certificates(t).client, sha256Policy, signEncrypt)
	for _, token := range []any{&ua.X509IdentityToken{PolicyID: "x509", CertificateData: []byte("x")}, &ua.IssuedIdentityToken{PolicyID: "issued"}} {
		s, err := createSession(t, ch, certificates(t).client, newNonce())
		if err != nil {
			t.Fatal(err)
		}
		req := activation(t, ch, s, s.ServerNonce, password)
		req.UserIdentityToken = ua.NewExtensionObject(token)
		if _, err := ask[*ua.ActivateSessionResponse](t, ch, s.AuthenticationToken, req); !errors.Is(err, ua.StatusBadIdentityTokenRejected) {
			t.Errorf("%T: %v", token, err)
		}
	}
}

// A channel goes on under new keys, time and again.
func TestChannelIsRenewed(t *testing.T) {
	for _, mode := range []ua.MessageSecurityMode{ua.MessageSecurityModeSign, signEncrypt} {
		r := start(t, secure(t), nil)
		ch := rawChannel(t, r, certificates(t).client, sha256Policy, mode)
		s, err := createSession(t, ch, certificates(t).client, newNonce())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := activate(t, ch, s, s.ServerNonce, password); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if err := ch.Renew(ctxOf(t)); err != nil {
				t.Fatalf("renewal %d: %v", i, err)
			}
			for range 2 {
				if _, err := ask[*ua.ReadResponse](t, ch, s.AuthenticationToken, readRequest()); err != nil {
					t.Fatalf("a read after renewal %d: %v", i, err)
				}
			}
		}
	}
}

// Who changes a message on the way, or sends one again, ends the connection and
// gets nothing.
func TestMessagesThatAreTamperedWith(t *testing.T) {
	for name, bend := range map[string]func([]byte) []byte{
		"a bit of the signature": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"a bit of the message":   func(b []byte) []byte { b[30] ^= 1; return b },
		"a bit of the token":     func(b []byte) []byte { b[12] ^= 1; return b },
		"the end cut off": func(b []byte) []byte {
			b = b[:len(b)-16]
			binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
			return b
		},
		"nothing but a header": func(b []byte) []byte { b = b[:16]; binary.LittleEndian.PutUint32(b[4:], uint32(len(b))); return b },
		"twice":                func(b []byte) []byte { return append(slices.Clone(b), b...) },
	} {
		for _, mode := range []ua.MessageSecurityMode{ua.MessageSecurityModeSign, signEncrypt} {
			r := start(t, secure(t), nil)
			r.tap()
			ch := rawChannel(t, r, certificates(t).client, sha256Policy, mode)
			s, err := createSession(t, ch, certificates(t).client, newNonce())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := activate(t, ch, s, s.ServerNonce, password); err != nil {
				t.Fatal(err)
			}
			r.bend.Store(&bend)
			_, err = ask[*ua.ReadResponse](t, ch, s.AuthenticationToken, readRequest())
			if err == nil && name != "twice" { // the first of two may be answered
				t.Errorf("%s, %v: %v", name, mode, err)
			}
			want := ua.StatusBadSecurityChecksFailed
			switch name {
			case "a bit of the token":
				want = ua.StatusBadSecureChannelTokenUnknown
			case "nothing but a header":
				want = ua.StatusBadTCPInternalError
			}
			select {
			case got := <-r.told:
				if !errors.Is(got, want) {
					t.Errorf("%s, %v: got %v, want %v", name, mode, got, want)
				}
			case <-time.After(patience):
				t.Errorf("%s, %v: nothing is said", name, mode)
			}
		}
	}
}

// A channel stays that of the certificate it was opened with.
func TestRenewalWithAnotherCertificate(t *testing.T) {
	p := certificates(t)
	cfg := secure(t)
	pkitest.Write(t, filepath.Join(cfg.TrustDir, "stranger.der"), p.stranger.Cert.Raw)
	r := start(t, cfg, nil)
	r.tap()
	ch, settings := rawChannelOf(t, r, p.client, sha256Policy, signEncrypt)
	settings.Certificate, settings.LocalKey = p.stranger.Cert.Raw, p.stranger.Key
	ctx, cancel := context.WithTimeout(ctxOf(t), 200*time.Millisecond) // the library does not hear the refusal
	defer cancel()
	if err := ch.Renew(ctx); err == nil {
		t.Error("it is renewed")
	}
	select {
	case got := <-r.told:
		if !errors.Is(got, ua.StatusBadSecurityChecksFailed) {
			t.Errorf("got %v", got)
		}
	case <-time.After(patience):
		t.Error("nothing is said")
	}
}

// Who is taken out of the trust list goes with the next renewal.
func TestRenewalAsksForTrustAgain(t *testing.T) {
	r := start(t, secure(t), nil)
	ch := rawChannel(t, r, certificates(t).client, sha256Policy, signEncrypt)
	if err := os.Remove(filepath.Join(r.trust, "scada.der")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctxOf(t), 200*time.Millisecond) // the library does not hear the refusal
	defer cancel()
	if err := ch.Renew(ctx); err == nil {
		t.Error("it is renewed")
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(r.log.String(), "trust it by: mv ") })
}

func TestLockOut(t *testing.T) {
	log := new(logs)
	u := newUsers([]User{{Name: userName, Password: secretFile(t, password)}}, testLogger(log), newOnce())
	u.wait = 0
	now := time.Now()
	try := func(name, pass, address string) bool {
		return u.login(context.Background(), name, pass, address, now) == nil
	}
	for range freeFailures {
		if try(userName, "wrong", "10.0.0.1") {
			t.Fatal("a wrong password lets in")
		}
	}
	if try(userName, password, "10.0.0.1") {
		t.Error("the right password lets in who is locked out")
	}
	if !try(userName, password, "10.0.0.2") {
		t.Error("somebody else's failures lock out at another address")
	}
	now = now.Add(lockFor + time.Second)
	if !try(userName, password, "10.0.0.1") {
		t.Error("he is locked out for ever")
	}
	if !strings.Contains(log.String(), "locks out") || strings.Contains(log.String(), password) {
		t.Errorf("log: %s", log)
	}
	for i := range addressFailures {
		try("name"+string(rune('a'+i)), password, "10.0.0.3")
	}
	if try(userName, password, "10.0.0.3") {
		t.Error("an address that tries many names is not locked out")
	}
	for i := range 3 * maxTracked {
		try("x", "y", net.IPv4(1, 2, byte(i>>8), byte(i)).String())
	}
	if len(u.failures) > maxTracked+1 {
		t.Errorf("%d failures are kept", len(u.failures))
	}
	if u := newUsers([]User{{Name: userName, Password: secretFile(t, "")}}, testLogger(log), newOnce()); u.matches(userName, "") {
		t.Error("an empty secret lets in")
	}
}

func TestApplicationURIOfTheServer(t *testing.T) {
	r := start(t, secure(t), nil)
	want := (&url.URL{Scheme: "urn", Opaque: "test:gateway"}).String()
	e := encrypted(r)
	if e.Server.ApplicationURI != want || !bytes.Equal(e.ServerCertificate, certificates(t).own.Cert.Raw) {
		t.Errorf("%q", e.Server.ApplicationURI)
	}
	for _, token := range e.UserIdentityTokens {
		if token.TokenType != ua.UserTokenTypeUserName {
			t.Errorf("offers %v", token.TokenType)
		}
	}
}
