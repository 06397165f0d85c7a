package opcua

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/awcullen/opcua/server"
	peer "github.com/awcullen/opcua/ua"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/opcua/pki"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// secured is a server with security on, of another make than our client.
type secured struct {
	url  string
	cert *authority
	srv  *server.Server
}

// startSecured starts a server that takes the user operator, and who is
// anonymous where anonymous is true.
func startSecured(t testing.TB, cert *authority, anonymous bool, options ...server.Option) *secured {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "opc.tcp://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := cert.files(t)
	options = append([]server.Option{
		server.WithAnonymousIdentity(anonymous), server.WithSecurityPolicyNone(true),
		server.WithAuthenticateUserNameIdentityFunc(func(u peer.UserNameIdentity, _, _ string) error {
			if u.UserName == "operator" && u.Password == "correct horse" {
				return nil
			}
			return peer.BadUserAccessDenied
		}),
	}, options...)
	srv, err := server.New(peer.ApplicationDescription{
		ApplicationURI: cert.cert.URIs[0].String(), ApplicationName: peer.LocalizedText{Text: "test"}, ApplicationType: peer.ApplicationTypeServer, DiscoveryURLs: []string{url},
	}, certFile, keyFile, url, options...)
	if err != nil {
		t.Fatal(err)
	}
	s := &secured{url: url, cert: cert, srv: srv}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the server does not stop")
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			return s
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// add adds a variable, ns=2;s=name.
func (s *secured) add(t testing.TB, name string, v peer.Variant, typ peer.NodeID, access byte) string {
	t.Helper()
	index := s.srv.NamespaceManager().Add("urn:test:nodes")
	err := s.srv.NamespaceManager().AddNode(server.NewVariableNode(s.srv, peer.NodeIDString{NamespaceIndex: index, ID: name},
		peer.QualifiedName{NamespaceIndex: index, Name: name}, peer.LocalizedText{Text: name}, peer.LocalizedText{}, nil,
		[]peer.Reference{{ReferenceTypeID: peer.ReferenceTypeIDOrganizes, IsInverse: true, TargetID: peer.ExpandedNodeID{NodeID: peer.ObjectIDObjectsFolder}}},
		peer.NewDataValue(v, 0, time.Now().UTC(), 0, time.Now().UTC(), 0), typ, peer.ValueRankScalar, nil, access, 10, false, nil))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("ns=%d;s=%s", index, name)
}

const readWrite = peer.AccessLevelsCurrentRead | peer.AccessLevelsCurrentWrite

// secureConfig trusts the server and has a certificate of its own made.
func (s *secured) config(t testing.TB, mode string) *Config {
	t.Helper()
	dir := t.TempDir()
	c := testConfig(s.url)
	c.Security, c.Mode, c.AutoCertificate, c.Timeout = securityBasic256, mode, true, 5*time.Second
	c.Certificate, c.Key, c.TrustDir = filepath.Join(dir, "own.pem"), filepath.Join(dir, "own.key"), filepath.Join(dir, "trusted")
	if err := os.Mkdir(c.TrustDir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(c.TrustDir, "server.der"), s.cert.cert.Raw)
	return c
}

func TestSecuredSubscription(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{modeSign, modeEncrypt} {
		t.Run(mode, func(t *testing.T) {
			s := startSecured(t, issue(t, "plc", nil, nil), true, server.WithInsecureSkipVerify())
			id := s.add(t, "a", 1.5, peer.DataTypeIDDouble, readWrite)
			src := source1(map[string]string{"plant/a": id, "plant/wrong": id + "x"})
			r := run(t, s.config(t, mode), src, nil)
			r.until(t, "the value", isValue("plant/a", sample.FloatValue(1.5)))
			r.until(t, "the wrong node", func(v sample.Sample) bool { return v.Tag == "plant/wrong" && v.Quality == sample.BadNodeIDUnknown })
			n, _ := s.srv.NamespaceManager().FindVariable(peer.ParseNodeID(id))
			n.SetValue(peer.NewDataValue(2.5, 0, time.Now().UTC(), 0, time.Now().UTC(), 0))
			r.until(t, "the next value", isValue("plant/a", sample.FloatValue(2.5)))
			if !r.Wait(patience, func([]sample.Sample) bool { return r.Health.IsDown() }) {
				t.Fatalf("health %v", r.Health.Changes())
			}
			err := r.Health.Changes()[0]
			if err == nil || !strings.HasPrefix(err.Error(), "partly: 1 of 2 tags: tag plant/wrong: node "+id+"x: ") {
				t.Errorf("health %v", err)
			}
		})
	}
}

// A server whose certificate an authority signed is trusted by the authority,
// with the chain that it sends.
func TestSecuredByAnAuthority(t *testing.T) {
	t.Parallel()
	root := issue(t, "plant root", nil, isCA)
	s := startSecured(t, issue(t, "plc", root, nil), true, server.WithInsecureSkipVerify())
	cfg := s.config(t, modeEncrypt)
	write(t, filepath.Join(cfg.TrustDir, "server.der"), root.cert.Raw)
	id := s.add(t, "a", int32(5), peer.DataTypeIDInt32, readWrite)
	r := run(t, cfg, source1(map[string]string{"plant/a": id}), nil)
	r.until(t, "the value", isValue("plant/a", sample.IntValue(5)))
}

// dialFails dials and returns the error, in which no secret may stand.
func dialFails(t *testing.T, c *Config) string {
	t.Helper()
	conn := open(t, c, new(logs))
	client, err := conn.dial(t.Context(), func() {})
	if err == nil {
		conn.hangUp(client)
		t.Fatal("it connects")
	}
	for _, secret := range []string{"correct horse", "battery staple"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the password stands in: %v", err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	return err.Error()
}

func TestWeDoNotTrustTheServer(t *testing.T) {
	t.Parallel()
	s := startSecured(t, issue(t, "plc", nil, nil), true, server.WithInsecureSkipVerify())
	cfg := s.config(t, modeEncrypt)
	write(t, filepath.Join(cfg.TrustDir, "server.der"), issue(t, "another", nil, nil).cert.Raw)
	if got := dialFails(t, cfg); !strings.Contains(got, s.url) || !strings.Contains(got, "is not in the trust list "+cfg.TrustDir) {
		t.Errorf("got %s", got)
	}
	kept, err := os.ReadDir(filepath.Join(cfg.TrustDir, pki.RejectedDir))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept aside: %v, %v", kept, err)
	}
}

func TestTheServerDoesNotTrustUs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "other.pem")
	write(t, other, issue(t, "another", nil, nil).pem())
	s := startSecured(t, issue(t, "plc", nil, nil), true, server.WithTrustedCertificatesPaths(other, ""), server.WithRejectedCertificatesPath(filepath.Join(dir, "rejected")))
	if got := dialFails(t, s.config(t, modeEncrypt)); !strings.Contains(got, "the server does not trust our certificate: accept it on the server") {
		t.Errorf("got %s", got)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	s := startSecured(t, issue(t, "plc", nil, nil), false, server.WithInsecureSkipVerify())
	id := s.add(t, "a", int32(5), peer.DataTypeIDInt32, readWrite)
	for _, mode := range []string{modeSign, modeEncrypt} {
		cfg := s.config(t, mode)
		cfg.User, cfg.Password = "operator", passwordFile(t, "correct horse")
		if errs := open(t, cfg, new(logs)).Check(t.Context(), source1(map[string]string{"plant/a": id})); len(errs) > 0 {
			t.Errorf("%s, the right password: %v", mode, errs)
		}
		cfg.Password = passwordFile(t, "battery staple")
		if got := dialFails(t, cfg); !strings.Contains(got, "the server refuses the user: check connection.user and the password") {
			t.Errorf("%s, the wrong password: %s", mode, got)
		}
	}
	if got := dialFails(t, s.config(t, modeEncrypt)); !strings.Contains(got, "lets nobody in without a user") {
		t.Errorf("no user: %s", got)
	}
	cfg := testConfig(s.url)
	cfg.User, cfg.Password, cfg.InsecurePassword = "operator", passwordFile(t, "correct horse"), true
	if errs := open(t, cfg, new(logs)).Check(t.Context(), source1(map[string]string{"plant/a": id})); len(errs) > 0 {
		t.Errorf("over None, accepted: %v", errs)
	}
}

// Whoever answers the question for endpoints does not get the password in the
// clear.
func TestPasswordsGoNowhereUnencrypted(t *testing.T) {
	for _, c := range []struct {
		channel  string
		mode     ua.MessageSecurityMode
		token    string
		insecure bool
		ok       bool
	}{
		{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSignAndEncrypt, "", false, true},
		{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSignAndEncrypt, ua.SecurityPolicyURINone, false, true},
		{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSign, "", false, true},
		{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSign, ua.SecurityPolicyURINone, false, false},
		{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSign, ua.SecurityPolicyURINone, true, true},
		{ua.SecurityPolicyURINone, ua.MessageSecurityModeNone, "", false, false},
		{ua.SecurityPolicyURINone, ua.MessageSecurityModeNone, "", true, true},
	} {
		cfg := testConfig("opc.tcp://plc")
		cfg.User, cfg.Password, cfg.InsecurePassword = "u", passwordFile(t, "p"), c.insecure
		ep := &ua.EndpointDescription{SecurityPolicyURI: c.channel, SecurityMode: c.mode,
			UserIdentityTokens: []*ua.UserTokenPolicy{{TokenType: ua.UserTokenTypeAnonymous}, {TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: c.token}}}
		err := open(t, cfg, new(logs)).pickToken(ep, ua.UserTokenTypeUserName)
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "unencrypted only, so it is not sent") {
			t.Errorf("%+v: got %v", c, err)
		}
	}
	// Of two, the one that encrypts is used.
	cfg := testConfig("opc.tcp://plc")
	cfg.User, cfg.Password = "u", passwordFile(t, "p")
	ep := &ua.EndpointDescription{SecurityPolicyURI: ua.SecurityPolicyURIBasic256Sha256, SecurityMode: ua.MessageSecurityModeSign, UserIdentityTokens: []*ua.UserTokenPolicy{
		{PolicyID: "plain", TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: ua.SecurityPolicyURINone},
		{PolicyID: "encrypted", TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: ua.SecurityPolicyURIBasic256Sha256}}}
	if err := open(t, cfg, new(logs)).pickToken(ep, ua.UserTokenTypeUserName); err != nil || ep.UserIdentityTokens[0].PolicyID != "encrypted" {
		t.Errorf("got %v, %v", ep.UserIdentityTokens, err)
	}
}

// A server that offers less than what is configured is not taken.
func TestNoFallingBack(t *testing.T) {
	sim := startPlain(t)
	cfg := (&secured{url: sim, cert: issue(t, "plc", nil, nil)}).config(t, modeEncrypt)
	if got := dialFails(t, cfg); !strings.Contains(got, "offers no Basic256Sha256/SignAndEncrypt, only None/None: choose one of these in connection.security and mode") {
		t.Errorf("got %s", got)
	}
}

// A target on a server of another make, with trust and a user as configured,
// and data types that are not built in.
func TestSecuredTarget(t *testing.T) {
	t.Parallel()
	s := startSecured(t, issue(t, "plc", nil, nil), true, server.WithInsecureSkipVerify())
	duration := peer.ParseNodeID("i=290")                                                // a subtype of Double, OPC 10000-5, 12.2.16
	access := readWrite | peer.AccessLevelsStatusWrite | peer.AccessLevelsTimestampWrite // it takes a time, and puts its own
	i32 := s.add(t, "i32", int32(1), peer.DataTypeIDInt32, readWrite)
	full := s.add(t, "full", 1.0, peer.DataTypeIDDouble, access)
	long := s.add(t, "long", nil, duration, readWrite)
	number := s.add(t, "number", uint16(1), peer.ParseNodeID("i=26"), readWrite)
	state := s.add(t, "state", nil, peer.ParseNodeID("i=852"), readWrite) // ServerState, an enumeration
	cfg := s.config(t, modeEncrypt)
	target := func(cfg *Config, at string) protocols.Target {
		t.Helper()
		own := cfg.NewTarget().(*Target)
		own.Address = at
		conn := open(t, cfg, new(logs))
		w, err := conn.OpenTarget(own, new(protocolstest.HealthRecorder))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(w.Close(), conn.Close()); err != nil {
				t.Error(err)
			}
		})
		return w
	}
	// Who is anonymous may not write there.
	err := target(cfg, i32).Write(t.Context(), command(sample.IntValue(2)))
	if got := protocols.OutcomeOf(err); err == nil || got != protocols.Rejected && got != protocols.Unsuited {
		t.Errorf("anonymous: %v", err)
	}
	user := *cfg
	user.User, user.Password = "operator", passwordFile(t, "correct horse")
	for _, c := range []struct {
		at   string
		v    sample.Value
		want sample.Value
	}{
		{i32, sample.IntValue(-7), sample.IntValue(-7)},
		{"nsu=urn:test:nodes;s=i32", sample.FloatValue(8), sample.IntValue(8)},
		{full, sample.FloatValue(230.1), sample.FloatValue(230.1)},
		{long, sample.IntValue(250), sample.FloatValue(250)},
		{number, sample.IntValue(65535), sample.IntValue(65535)},
		{state, sample.IntValue(3), sample.IntValue(3)},
	} {
		w := target(&user, c.at)
		p, err := w.Prepare(t.Context(), c.v)
		if err != nil || p != c.want {
			t.Errorf("%s: Prepare: %v, %v", c.at, p, err)
			continue
		}
		if err := w.Write(t.Context(), command(p)); err != nil {
			t.Errorf("%s: Write: %v", c.at, err)
			continue
		}
		if r, err := w.Read(t.Context()); err != nil || r.Value != c.want || r.Quality.IsBad() {
			t.Errorf("%s: Read: %+v, %v", c.at, r, err)
		}
		if c.at == full {
			if err := w.Tell(t.Context(), protocols.State{}); err != nil {
				t.Error(err)
			}
			if r, err := w.Read(t.Context()); err != nil || !r.Quality.IsBad() {
				t.Errorf("%s: stale, it reads %+v, %v", c.at, r, err)
			}
		}
	}
	_, err = target(&user, number).Prepare(t.Context(), sample.IntValue(70000))
	fails(t, err, protocols.Unsuited, "does not fit a node of type UInt16")
	user.Password = passwordFile(t, "battery staple")
	fails(t, target(&user, i32).Write(t.Context(), command(sample.IntValue(2))), protocols.Unsent, "check connection.user and the password")
	cfg.TrustDir = t.TempDir()
	fails(t, target(cfg, i32).Write(t.Context(), command(sample.IntValue(2))), protocols.Unsent, "is not in the trust list")
}
