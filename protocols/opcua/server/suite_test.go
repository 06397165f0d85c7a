package server

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// What the device holds is what a client of the server reads.
func TestTargets(t *testing.T) {
	protocolstest.RunTarget(t, protocolstest.TargetHarness{
		Protocol: Protocol{},
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			return &TargetConfig{Address: "i=85"}, sample.Null, []string{"address", "type"}
		},
		Start: func(t *testing.T) *protocolstest.TargetDevice {
			s := newServer(*plain(t), protocols.Settings{Site: "north", Log: testLogger(new(logs)), Clock: machine{}})
			writes := new(atomic.Int64)
			dev := &protocolstest.TargetDevice{Config: opened{s: s, writes: writes}, Writes: func() int { return int(writes.Load()) }}
			place := func(name string, kind sample.Kind, good, unsuited []sample.Value) {
				cfg := new(TargetConfig)
				cfg.Describe(protocols.TargetInfo{Name: name, Kind: kind})
				read := func(node string) reading {
					return s.attribute(&ua.ReadValueID{NodeID: ua.NewStringNodeID(1, node), AttributeID: ua.AttributeIDValue}, s.now())
				}
				dev.Places = append(dev.Places, protocolstest.TargetPlace{
					Config: cfg, Kind: kind, Good: good, Unsuited: unsuited, Emptied: true,
					Held: func() (sample.Value, error) {
						r := read("mirror/" + name)
						if r.value == nil {
							return sample.Value{}, nil
						}
						switch v := r.value.Value().(type) {
						case float64:
							return sample.FloatValue(v), nil
						case int64:
							return sample.IntValue(v), nil
						case bool:
							return sample.BoolValue(v), nil
						case string:
							return sample.StringValue(v), nil
						}
						return sample.Value{}, errors.New("a value of another type")
					},
					Valid: func() (bool, error) { return read("mirror/"+name).status == ua.StatusOK, nil },
					Heartbeat: func() (uint16, error) {
						r := read("mirror/" + name + ".Heartbeat")
						if r.value == nil {
							return 0, errors.New("none")
						}
						return r.value.Value().(uint16), nil
					},
				})
			}
			place("f", sample.Float64, []sample.Value{sample.FloatValue(1.5), sample.FloatValue(0), sample.FloatValue(-math.MaxFloat64)},
				[]sample.Value{sample.IntValue(1), sample.FloatValue(math.NaN()), sample.FloatValue(math.Inf(1)), sample.StringValue("1"), {}})
			place("i", sample.Int64, []sample.Value{sample.IntValue(math.MaxInt64), sample.IntValue(math.MinInt64)}, []sample.Value{sample.FloatValue(1)})
			place("b", sample.Bool, []sample.Value{sample.BoolValue(true), sample.BoolValue(false)}, []sample.Value{sample.IntValue(1)})
			place("s", sample.String, []sample.Value{sample.StringValue("on"), sample.StringValue("")}, []sample.Value{sample.StringValue(strings.Repeat("x", maxText+1)), sample.StringValue("\xff")})
			return dev
		},
	})
}

// machine is the wall clock.
type machine struct{}

func (machine) Now() time.Time { return time.Now() }

// opened are settings whose server is there already, so that a test can look
// into it and count what is written.
type opened struct {
	s      *Server
	writes *atomic.Int64
}

func (opened) Validate(*protocols.SourceConfig) []protocols.Fault { return nil }
func (opened) LinkKey() string                                    { return "opcua_server" }
func (o opened) Open(protocols.Settings) (protocols.Connection, error) {
	return &counted{o.s, o.writes}, nil
}
func (opened) NewTarget() protocols.TargetConfig { return new(TargetConfig) }

type counted struct {
	*Server
	writes *atomic.Int64
}

func (c *counted) OpenTarget(cfg protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	t, err := c.Server.OpenTarget(cfg, h)
	return &countedTarget{t, c.writes}, err
}

type countedTarget struct {
	protocols.Target
	writes *atomic.Int64
}

func (t *countedTarget) Write(ctx context.Context, c protocols.Command) error {
	err := t.Target.Write(ctx, c)
	if err == nil {
		t.writes.Add(1)
	}
	return err
}

func TestRestore(t *testing.T) {
	r := start(t, plain(t), nil)
	target := r.mirror("sp1", sample.Float64, "")
	restorer := target.(protocols.Restorer)
	now := r.clock.Now()
	restorer.Restore(protocols.Command{Value: sample.FloatValue(1), Version: 3, Time: now.Add(-time.Hour), ValidUntil: now.Add(-time.Second)})
	if got, err := target.Read(ctxOf(t)); err != nil || got.Quality != sample.Quality(codeWaiting) {
		t.Errorf("what is over is shown again: %+v, %v", got, err)
	}
	restorer.Restore(protocols.Command{Value: sample.FloatValue(2), Version: 4, Time: now, ValidUntil: now.Add(time.Minute)})
	if got, err := target.Read(ctxOf(t)); err != nil || got.Value != sample.FloatValue(2) || got.Version != 4 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A wall clock that is set back makes no value live longer.
func TestValidityEndsByTheMonotonicClockToo(t *testing.T) {
	v := &mirrorVariable{info: protocols.TargetInfo{Kind: sample.Float64}}
	wall := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	v.write(protocols.Command{Value: sample.FloatValue(1), Time: wall, ValidUntil: wall.Add(time.Minute)}, wall)
	v.deadline = time.Now().Add(-time.Nanosecond)
	if r := v.reading(wall.Add(-time.Hour)); r.status != codeExpired || r.value != nil {
		t.Errorf("got %+v", r)
	}
}

func TestConfig(t *testing.T) {
	for _, f := range secure(t).Validate(&protocols.SourceConfig{Tags: tags}) {
		t.Errorf("a good one: %+v", f)
	}
	src := func(list ...protocols.Tag) *protocols.SourceConfig { return &protocols.SourceConfig{Tags: list} }
	for _, c := range []struct {
		name   string
		change func(*Config)
		src    *protocols.SourceConfig
		want   []string
	}{
		{"no port", func(c *Config) { c.Listen = "10.0.0.1" }, src(), []string{"connection.listen"}},
		{"a port beyond", func(c *Config) { c.Listen = ":70000" }, src(), []string{"connection.listen"}},
		{"nothing at all", func(c *Config) { *c = *(Protocol{}.NewConfig().(*Config)) }, src(), []string{"connection.certificate", "connection.users"}},
		{"a key alone", func(c *Config) { c.Certificate = "" }, src(), []string{"connection.certificate", "connection.certificate"}},
		{"no trust list", func(c *Config) { c.TrustDir = "" }, src(), []string{"connection.trust_dir"}},
		{"odd words", func(c *Config) { c.Policies, c.Modes = []string{"None"}, []string{"Sign", "x"} }, src(), []string{"connection.policies[0]", "connection.modes[1]"}},
		{"no words", func(c *Config) { c.Policies, c.Modes = nil, nil }, src(), []string{"connection.policies", "connection.modes"}},
		{"without security, beyond this machine", func(c *Config) { c.AllowNone, c.Listen = true, "0.0.0.0:4840" }, src(), []string{"connection.allow_none"}},
		{"without security, on a name", func(c *Config) { c.AllowNone, c.Listen = true, "gateway:4840" }, src(), []string{"connection.allow_none"}},
		{"without security, on all", func(c *Config) { c.AllowNone, c.Listen = true, ":4840" }, src(), []string{"connection.allow_none"}},
		{"with insecure", func(c *Config) { c.AllowNone, c.Insecure, c.Listen = true, true, "0.0.0.0:4840" }, src(), nil},
		{"on this machine", func(c *Config) { c.AllowNone, c.Listen = true, "[::1]:4840" }, src(), nil},
		{"beyond it with security", func(c *Config) { c.Listen = "0.0.0.0:4840" }, src(), nil},
		{"users", func(c *Config) {
			c.Users = append(c.Users, User{}, User{Name: userName, Password: c.Users[0].Password})
		}, src(), []string{"connection.users[1].name", "connection.users[1].password", "connection.users[2].name"}},
		{"passwords in the open", func(c *Config) { c.Certificate, c.Key, c.AllowNone = "", "", true }, src(), []string{"connection.users"}},
		{"bounds", func(c *Config) {
			c.MaxSessions, c.MaxSubscriptions, c.MaxItems, c.MinSampling, c.MaxSessionTimeout = 0, 0, 0, 0, 0
		}, src(),
			[]string{"connection.max_sessions", "connection.max_subscriptions", "connection.max_items", "connection.min_sampling", "connection.max_session_timeout"}},
		{"tags", func(*Config) {}, src(protocols.Tag{Name: "a/b/c", Order: "AB", Length: 1, Type: "uint16"}, protocols.Tag{Name: "a/b/d", Address: "s=a/b/c"}, protocols.Tag{Name: "a/b/e", Address: "s="}),
			[]string{"tags[0].order", "tags[0].length", "tags[0].type", "tags[1].address", "tags[2].address"}},
	} {
		cfg := secure(t)
		c.change(cfg)
		var got []string
		for _, f := range cfg.Validate(c.src) {
			got = append(got, f.Path)
			if f.Problem == "" || f.Hint == "" {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := plain(t)
	cfg.Listen = l.Addr().String()
	conn, err := cfg.Open(protocols.Settings{Site: "north", Log: testLogger(new(logs)), Clock: machine{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.OpenSource(nil, nil); !errors.Is(err, protocols.ErrNoSource) {
		t.Errorf("OpenSource: %v", err)
	}
	h := new(protocolstest.HealthRecorder)
	s := conn.(protocols.Server)
	if err := s.Serve(ctxOf(t), h); err == nil || !strings.Contains(err.Error(), cfg.Listen) || h.IsUp() {
		t.Errorf("an address that is taken: %v", err)
	}
	l.Close()
	ctx, cancel := context.WithCancel(ctxOf(t))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, h) }()
	eventually(t, "it listens", h.IsUp)
	c, err := opcua.NewClient("opc.tcp://"+cfg.Listen, opcua.AutoReconnect(false), opcua.SecurityMode(ua.MessageSecurityModeNone))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("tcp", cfg.Listen); err == nil {
		t.Error("it listens still")
	}
	c.Close(context.Background())
}

func TestLimits(t *testing.T) {
	c := plain(t)
	c.MaxSessions, c.MaxSubscriptions, c.MaxItems = 2, 1, 3
	r := start(t, c, nil)
	one, two := r.client(), r.client()
	if _, err := r.dial(opcua.SecurityMode(ua.MessageSecurityModeNone)); !errors.Is(err, ua.StatusBadTooManySessions) {
		t.Errorf("a third session: %v", err)
	}
	if err := two.Close(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	r.client() // there is room again
	ch := make(chan *opcua.PublishNotificationData, 100)
	sub, err := one.Subscribe(ctxOf(t), &opcua.SubscriptionParameters{Interval: time.Second}, ch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Subscribe(ctxOf(t), nil, ch); !errors.Is(err, ua.StatusBadTooManySubscriptions) {
		t.Errorf("a second subscription: %v", err)
	}
	for i := range 4 {
		resp, err := sub.Monitor(ctxOf(t), ua.TimestampsToReturnBoth, opcua.NewMonitoredItemCreateRequestWithDefaults(ua.NewStringNodeID(1, meter), ua.AttributeIDValue, uint32(i)))
		if want := map[bool]ua.StatusCode{true: ua.StatusBadTooManyMonitoredItems}[i == 3]; err != nil || resp.Results[0].StatusCode != want {
			t.Errorf("item %d: %v, %+v\n%s", i, err, resp, r.log)
		}
	}
	if err := sub.Cancel(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	if r.subscriptions.Load() != 0 || r.items.Load() != 0 {
		t.Errorf("%d subscriptions and %d items are counted after the end", r.subscriptions.Load(), r.items.Load())
	}
}

func TestSessionsExpire(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	subscribe(t, c, &opcua.SubscriptionParameters{Interval: time.Second}, "ns=1;s=north/meter1/state")
	s := r.sessions.list()[0]
	s.mu.Lock()
	seen, timeout := s.seen, s.timeout
	s.mu.Unlock()
	r.sessions.expire(seen.Add(timeout - time.Second))
	if len(r.sessions.list()) != 1 {
		t.Fatal("it ends early")
	}
	r.sessions.expire(seen.Add(timeout + time.Minute))
	if len(r.sessions.list()) != 0 || r.subscriptions.Load() != 0 || r.items.Load() != 0 {
		t.Errorf("%d sessions and %d subscriptions are left", len(r.sessions.list()), r.subscriptions.Load())
	}
	if _, err := c.Read(ctxOf(t), readRequest()); !errors.Is(err, ua.StatusBadSessionIDInvalid) {
		t.Errorf("a read after that: %v", err)
	}
	if got := r.sessionTimeout(math.NaN()); got != time.Hour {
		t.Errorf("a timeout that is no number: %s", got)
	}
	if got := r.sessionTimeout(1); got != minSessionTimeout {
		t.Errorf("a short timeout: %s", got)
	}
}

// A session that nobody logs in to makes room for one that comes.
func TestSessionsWithoutAUserGiveWay(t *testing.T) {
	all := &sessions{byToken: map[string]*session{}}
	now := time.Now()
	add := func(seen time.Time, activated bool) (*session, error) {
		s := &session{srv: &Server{}, token: newNonce(), seen: seen, activated: activated, over: make(chan struct{})}
		return s, all.add(s, 2, now)
	}
	idle, err := add(now.Add(-5*time.Second), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := add(now, true); err != nil {
		t.Fatal(err)
	}
	if _, err := add(now, true); err != nil || !idle.closed {
		t.Errorf("a third: %v", err)
	}
	if _, err := add(now, true); !errors.Is(err, ua.StatusBadTooManySessions) {
		t.Errorf("a fourth: %v", err)
	}
}

func TestWarningsAreBounded(t *testing.T) {
	o := newOnce()
	now := time.Now()
	n := 0
	for i := range 1000 {
		for range 2 {
			if o.first(string(rune(i)), now) {
				n++
			}
		}
	}
	if n != maxSaid {
		t.Errorf("%d lines", n)
	}
	l := new(logs)
	for range 3 {
		o.say(testLogger(l), "one more", "one more")
	}
	if got := l.String(); strings.Count(got, "\n") != 1 || strings.Contains(got, "one more") {
		t.Errorf("that more is not logged is to be said once: %q", got)
	}
	if !o.first("later", now.Add(2*sayAgain)) {
		t.Error("nothing is said for ever")
	}
}

func TestNoncesAreBounded(t *testing.T) {
	n := newNonceRing()
	first := newNonce()
	if !n.fresh(first) || n.fresh(first) {
		t.Error("a nonce is taken twice")
	}
	for range keptNonces {
		n.fresh(newNonce())
	}
	if len(n.seen) != keptNonces || len(n.ring) != keptNonces {
		t.Errorf("%d are kept", len(n.seen))
	}
}
