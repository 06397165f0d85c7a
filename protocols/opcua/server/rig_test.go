package server

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"millrace/internal/clock"
	"millrace/internal/secret"
	"millrace/protocols"
	"millrace/protocols/opcua/pki/pkitest"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

const (
	patience = 15 * time.Second
	password = "correct horse"
	userName = "operator"
)

// logs keeps what is logged.
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// parties are the certificates of a test: making them is slow, so they are
// shared.
type parties struct {
	own, client, stranger *pkitest.Authority
}

var made = sync.OnceValue(func() *parties { return new(parties) })

func certificates(t testing.TB) *parties {
	t.Helper()
	p := made()
	if p.own == nil {
		p.own, p.client, p.stranger = pkitest.Issue(t, "gateway", nil, nil), pkitest.Issue(t, "scada", nil, nil), pkitest.Issue(t, "stranger", nil, nil)
	}
	return p
}

// rig is a server that runs for a test.
type rig struct {
	*Server
	t      testing.TB
	url    string
	log    *logs
	health *protocolstest.HealthRecorder
	clock  *clock.Fake
	stop   func()
	trust  string
	latest func(tag string) (protocols.Reading, bool)
	// told are the codes of the errors that clients were sent, behind a tap, and
	// bend, where set, changes what they send.
	told chan error
	bend atomic.Pointer[func([]byte) []byte]
}

// tap has clients come through a listener that reads along.
func (r *rig) tap() {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.told = make(chan error, 100)
	to := r.addr.String()
	r.url = "opc.tcp://" + l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				down.Close()
				return
			}
			wg.Go(func() {
				defer up.Close()
				for buf := make([]byte, 65536); ; {
					n, err := down.Read(buf)
					b := buf[:n]
					if bend := r.bend.Load(); bend != nil && n > 0 {
						b = (*bend)(b)
					}
					if _, werr := up.Write(b); err != nil || werr != nil {
						return
					}
				}
			})
			wg.Go(func() {
				defer down.Close()
				for buf := make([]byte, 65536); ; {
					n, err := up.Read(buf)
					if at := bytes.Index(buf[:n], []byte("ERRF")); at >= 0 && n >= at+12 {
						r.told <- ua.StatusCode(binary.LittleEndian.Uint32(buf[at+8:]))
					}
					if _, werr := down.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			})
		}
	})
	r.t.Cleanup(func() { l.Close(); r.stop(); wg.Wait() })
}

// codes returns what clients were told since it was asked last.
func (r *rig) codes() (out []error) {
	for {
		select {
		case err := <-r.told:
			out = append(out, err)
		default:
			return out
		}
	}
}

// secretFile writes a secret and refers to it.
func secretFile(t testing.TB, text string) secret.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	pkitest.Write(t, path, []byte(text+"\n"))
	var r secret.Ref
	if err := r.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	return r
}

// plain are settings without security, secure with it and a user.
func plain(testing.TB) *Config {
	c := Protocol{}.NewConfig().(*Config)
	c.Listen, c.AllowNone, c.Anonymous = "127.0.0.1:0", true, true
	c.MinSampling = 10 * time.Millisecond
	return c
}

func secure(t testing.TB) *Config {
	t.Helper()
	c := Protocol{}.NewConfig().(*Config)
	c.Listen = "127.0.0.1:0"
	c.MinSampling = 10 * time.Millisecond
	c.Certificate, c.Key = certificates(t).own.Files(t)
	c.TrustDir = filepath.Join(t.TempDir(), "trusted")
	if err := os.MkdirAll(c.TrustDir, 0o700); err != nil {
		t.Fatal(err)
	}
	pkitest.Write(t, filepath.Join(c.TrustDir, "scada.der"), certificates(t).client.Cert.Raw)
	c.Users = []User{{Name: userName, Password: secretFile(t, password)}}
	return c
}

var tags = []protocols.Tag{
	{Name: "north/meter1/power", Unit: "kW", Description: "active power"},
	{Name: "north/meter1/state"},
	{Name: "north/pump/on", Type: "Boolean", Address: "s=pump.on"},
	{Name: "north/pump/speed", Scaled: true},
}

func start(t testing.TB, c *Config, change func(*rig)) *rig {
	t.Helper()
	for _, f := range c.Validate(&protocols.SourceConfig{Tags: tags}) {
		t.Fatalf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	r := &rig{t: t, log: new(logs), health: new(protocolstest.HealthRecorder), trust: c.TrustDir}
	// Certificates, and the client's tokens, are valid by the machine's clock.
	r.clock = clock.NewRunningFake(time.Now())
	conn, err := c.Open(protocols.Settings{Site: "north", Log: slog.New(slog.NewTextHandler(r.log, nil)), Clock: r.clock})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = conn.(*Server)
	r.users.wait = 0
	r.latest = func(tag string) (protocols.Reading, bool) {
		switch tag {
		case "north/meter1/power":
			return protocols.Reading{Value: sample.FloatValue(41.5), Time: r.clock.Now(), SourceTime: r.clock.Now().Add(-time.Second)}, true
		case "north/meter1/state":
			return protocols.Reading{Value: sample.StringValue("running"), Time: r.clock.Now()}, true
		case "north/pump/on":
			return protocols.Reading{Value: sample.BoolValue(true), Quality: sample.Uncertain, Time: r.clock.Now()}, true
		}
		return protocols.Reading{}, false
	}
	if change != nil {
		change(r)
	}
	if err := r.Show(tags, func(tag string) (protocols.Reading, bool) { return r.latest(tag) }); err != nil {
		t.Fatal(err)
	}
	if err := r.load(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr()
	r.url = "opc.tcp://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.serve(ctx, l, r.health) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("the server does not stop")
		}
		if strings.Contains(r.log.String(), "panic") {
			t.Errorf("it has panicked: %s", r.log)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// mirror opens a target of the server.
func (r *rig) mirror(name string, kind sample.Kind, unit string) protocols.Target {
	r.t.Helper()
	cfg := r.cfg.NewTarget().(*TargetConfig)
	cfg.Describe(protocols.TargetInfo{Name: name, Kind: kind, Unit: unit})
	for _, f := range cfg.Validate(kind) {
		r.t.Fatalf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	out, err := r.OpenTarget(cfg, r.health)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// endpoint picks an endpoint of the server.
func (r *rig) endpoint(policy string, mode ua.MessageSecurityMode) *ua.EndpointDescription {
	r.t.Helper()
	list, err := opcua.GetEndpoints(ctxOf(r.t), r.url, opcua.AutoReconnect(false))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range list {
		if e.SecurityPolicyURI == policy && e.SecurityMode == mode {
			return e
		}
	}
	r.t.Fatalf("no endpoint %s %s among %d", policy, mode, len(list))
	return nil
}

// dial connects a client; an error is of Connect.
func (r *rig) dial(options ...opcua.Option) (*opcua.Client, error) {
	r.t.Helper()
	c, err := opcua.NewClient(r.url, append([]opcua.Option{opcua.AutoReconnect(false), opcua.RequestTimeout(5 * time.Second)}, options...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := c.Connect(ctxOf(r.t)); err != nil {
		return nil, err
	}
	r.t.Cleanup(func() { c.Close(context.Background()) })
	return c, nil
}

// client connects one without security.
func (r *rig) client() *opcua.Client {
	r.t.Helper()
	c, err := r.dial(opcua.SecurityMode(ua.MessageSecurityModeNone))
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// login are the options of a client with a certificate and a password.
func (r *rig) login(e *ua.EndpointDescription, by *pkitest.Authority, user, pass string) []opcua.Option {
	return []opcua.Option{
		opcua.Certificate(by.Cert.Raw), opcua.PrivateKey(by.Key), opcua.ApplicationURI(by.Cert.URIs[0].String()),
		opcua.AuthUsername(user, pass), opcua.SecurityFromEndpoint(e, ua.UserTokenTypeUserName),
	}
}

// value reads one value.
func value(t testing.TB, c *opcua.Client, node string) *ua.DataValue {
	t.Helper()
	return attribute(t, c, node, ua.AttributeIDValue)
}

func attribute(t testing.TB, c *opcua.Client, node string, a ua.AttributeID) *ua.DataValue {
	t.Helper()
	resp, err := c.Read(ctxOf(t), &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: []*ua.ReadValueID{{NodeID: ua.MustParseNodeID(node), AttributeID: a}}})
	if err != nil {
		t.Fatalf("read %s: %v", node, err)
	}
	return resp.Results[0]
}

func testLogger(l *logs) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func thumbprintOf(der []byte) []byte {
	sum := sha1.Sum(der)
	return sum[:]
}
