//go:build interop

package interop

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/internal/secret"
	"millrace/protocols"
	"millrace/protocols/opcua"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// opcuaNode is one node of the asyncua server; see servers/opcua_server.py.
type opcuaNode struct {
	ID    string `json:"id"`
	Type  string `json:"type"`
	Value any    `json:"value"` // integers as text, so that JSON does not round them
	// Access are the bits of AccessLevel, by name; CurrentRead and CurrentWrite where there are none.
	Access []string `json:"access,omitempty"`
}

// opcuaSettings are the asyncua server's.
type opcuaSettings struct {
	Cert   string            `json:"cert"`
	Key    string            `json:"key"`
	Trust  string            `json:"trust"`
	Users  map[string]string `json:"users"`
	Secure bool              `json:"secure"`
	Nodes  []opcuaNode       `json:"nodes"`
}

// opcuaPlan has every type at its ends.
func opcuaPlan() (nodes []opcuaNode, want []sample.Value) {
	add := func(typ string, value any, v sample.Value) {
		nodes = append(nodes, opcuaNode{ID: fmt.Sprintf("Pumpe Süd.%d", len(nodes)), Type: typ, Value: value})
		want = append(want, v)
	}
	add("Boolean", true, sample.BoolValue(true))
	add("Boolean", false, sample.BoolValue(false))
	for _, n := range []struct {
		typ      string
		min, max int64
	}{
		{"SByte", math.MinInt8, math.MaxInt8}, {"Byte", 0, math.MaxUint8}, {"Int16", math.MinInt16, math.MaxInt16}, {"UInt16", 0, math.MaxUint16},
		{"Int32", math.MinInt32, math.MaxInt32}, {"UInt32", 0, math.MaxUint32}, {"Int64", math.MinInt64, math.MaxInt64}, {"UInt64", 0, math.MaxInt64},
	} {
		add(n.typ, strconv.FormatInt(n.min, 10), sample.IntValue(n.min))
		add(n.typ, strconv.FormatInt(n.max, 10), sample.IntValue(n.max))
	}
	add("UInt64", "9223372036854775808", sample.FloatValue(1<<63))
	add("Float", 230.1, sample.FloatValue(230.1))
	add("Float", 0.1, sample.FloatValue(0.1))
	add("Double", -math.Pi, sample.FloatValue(-math.Pi))
	add("Double", math.MaxFloat64, sample.FloatValue(math.MaxFloat64))
	add("String", "Pumpe Süd", sample.StringValue("Pumpe Süd"))
	add("String", "", sample.StringValue(""))
	add("DateTime", "2024-02-29T12:00:00.250000+00:00", sample.StringValue("2024-02-29T12:00:00.25Z"))
	return nodes, want
}

func opcuaTag(i int) string { return fmt.Sprintf("plant/line/n%02d", i) }

func opcuaSource(port int, nodes []opcuaNode, values []sample.Value) (*opcua.Config, *protocols.SourceConfig, map[string]sample.Value) {
	cfg := opcua.Protocol{}.NewConfig().(*opcua.Config)
	cfg.URL = fmt.Sprintf("opc.tcp://%s/millrace", address(port))
	cfg.Security = "None"
	src := &protocols.SourceConfig{Name: "asyncua", Device: "line", ScanRate: 100 * time.Millisecond}
	want := map[string]sample.Value{}
	for i, n := range nodes {
		a := "ns=2;s=" + n.ID
		if i%2 == 1 {
			a = "nsu=urn:millrace:interop;s=" + n.ID
		}
		src.Tags = append(src.Tags, protocols.Tag{Name: opcuaTag(i), Address: a})
		want[opcuaTag(i)] = values[i]
	}
	return cfg, src, want
}

func TestOPCUAReadsEveryTypeFromAsyncua(t *testing.T) {
	nodes, values := opcuaPlan()
	_, port := python(t, "opcua_server.py", opcuaSettings{Nodes: nodes})
	cfg, src, want := opcuaSource(port, nodes, values)
	src.Tags = append(src.Tags, protocols.Tag{Name: "plant/line/wrong", Address: "ns=2;s=nowhere"})
	r := run(t, cfg, src)
	r.expect(t, want)
	if !r.Wait(patience, func(list []sample.Sample) bool {
		for _, s := range list {
			if s.Tag == "plant/line/wrong" && s.Quality == sample.BadNodeIDUnknown {
				return true
			}
		}
		return false
	}) {
		t.Error("the node that is not there is not BadNodeIdUnknown")
	}
	for _, s := range r.Samples() {
		if s.Quality.IsGood() && s.SourceTime == 0 {
			t.Errorf("%s has no source time", s.Tag)
		}
	}
}

func TestOPCUASurvivesARestartOfAsyncua(t *testing.T) {
	nodes, values := opcuaPlan()
	settings := opcuaSettings{Nodes: nodes}
	device, port := python(t, "opcua_server.py", settings)
	cfg, src, want := opcuaSource(port, nodes, values)
	r := run(t, cfg, src)
	r.expect(t, want)
	device.kill()
	ready(t, "the server is reported down", r.Health.IsDown)
	r.Reset()
	pythonAt(t, "opcua_server.py", settings, port)
	r.expect(t, want)
	ready(t, "the server is reported up again", r.Health.IsUp)
}

// The steps of the manual: connect, be refused, compare, move the certificate,
// on our side and on the server's.
func TestOPCUATrustsAsyncuaByTheTrustList(t *testing.T) {
	nodes, values := opcuaPlan()
	server := selfSigned(t, "asyncua", "urn:millrace:interop:asyncua")
	own := selfSigned(t, "millrace", "urn:millrace:interop:gateway")
	serverTrusts, gatewayTrusts := t.TempDir(), t.TempDir()
	data, err := os.ReadFile(own.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(serverTrusts, "gateway.der"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, port := python(t, "opcua_server.py", opcuaSettings{Cert: server.DER, Key: server.Key, Trust: serverTrusts, Secure: true, Nodes: nodes})
	for _, mode := range []string{"SignAndEncrypt", "Sign"} {
		cfg, src, want := opcuaSource(port, nodes, values)
		cfg.Security, cfg.Mode, cfg.Certificate, cfg.Key, cfg.TrustDir = "Basic256Sha256", mode, own.Cert, own.Key, gatewayTrusts
		if mode == "SignAndEncrypt" {
			errs := opcuaCheck(t, cfg, src)
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), "is not in the trust list") {
				t.Fatalf("before it is trusted: %v", errs)
			}
			_, command, ok := strings.Cut(errs[0].Error(), "trust it by: mv ")
			words := strings.Fields(command)
			if !ok || len(words) != 2 {
				t.Fatalf("no command in %v", errs[0])
			}
			if err := os.Rename(words[0], filepath.Join(words[1], "asyncua.der")); err != nil {
				t.Fatal(err)
			}
		}
		r := run(t, cfg, src)
		r.expect(t, want)
		r.stop()
		stranger := selfSigned(t, "stranger", "urn:millrace:interop:stranger")
		cfg.Certificate, cfg.Key = stranger.Cert, stranger.Key
		if errs := opcuaCheck(t, cfg, src); len(errs) != 1 || !strings.Contains(errs[0].Error(), "the server does not trust our certificate") {
			t.Errorf("%s, a certificate that the server does not know: %v", mode, errs)
		}
	}
}

func TestOPCUAUsersOfAsyncua(t *testing.T) {
	nodes, values := opcuaPlan()
	server := selfSigned(t, "asyncua", "urn:millrace:interop:asyncua")
	_, port := python(t, "opcua_server.py", opcuaSettings{Cert: server.DER, Key: server.Key, Users: map[string]string{"operator": "correct horse"}, Nodes: nodes})
	cfg, src, want := opcuaSource(port, nodes, values)
	dir := t.TempDir()
	cfg.Security, cfg.TrustDir, cfg.AutoCertificate = "Basic256Sha256", t.TempDir(), true
	data, err := os.ReadFile(server.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.TrustDir, "asyncua.der"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Certificate, cfg.Key = filepath.Join(dir, "own.pem"), filepath.Join(dir, "own.key")
	password := func(text string) secret.Ref {
		var r secret.Ref
		if err := r.UnmarshalText([]byte("file:" + write(t, "password", "%s\n", text))); err != nil {
			t.Fatal(err)
		}
		return r
	}
	cfg.User, cfg.Password = "operator", password("correct horse")
	r := run(t, cfg, src)
	r.expect(t, want)
	r.stop()
	cfg.Password = password("battery staple")
	if errs := opcuaCheck(t, cfg, src); len(errs) != 1 || !strings.Contains(errs[0].Error(), "the server refuses the user: check connection.user and the password") {
		t.Errorf("the wrong password: %v", errs)
	}
}

// opcuaCheck does what check --connect does.
func opcuaCheck(t *testing.T, cfg *opcua.Config, src *protocols.SourceConfig) []error {
	t.Helper()
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return conn.(protocols.Checker).Check(ctx, src)
}

// What a target writes the server gives to a subscription of another session,
// in the node's own type, with status and time where it takes them.
func TestOPCUATargetWritesToAsyncua(t *testing.T) {
	nodes, values := opcuaPlan()
	full := []string{"CurrentRead", "CurrentWrite", "StatusWrite", "TimestampWrite"}
	first := len(nodes)
	for _, n := range []opcuaNode{
		{Type: "Double", Value: 1.0, Access: full}, {Type: "Float", Value: 1.0}, {Type: "UInt16", Value: "1"}, {Type: "Int64", Value: "1"},
		{Type: "Boolean", Value: false}, {Type: "String", Value: ""}, {Type: "Double", Value: 1.0, Access: []string{"CurrentRead"}},
		{Type: "Boolean", Value: false}, {Type: "UInt16", Value: "0"},
	} {
		n.ID = fmt.Sprintf("target.%d", len(nodes))
		nodes, values = append(nodes, n), append(values, sample.Value{})
	}
	at := func(i int) string { return "nsu=urn:millrace:interop;s=" + nodes[first+i].ID }
	_, port := python(t, "opcua_server.py", opcuaSettings{Nodes: nodes})
	cfg, src, _ := opcuaSource(port, nodes, values)
	r := run(t, cfg, src)
	computed := time.Date(2026, 2, 28, 12, 0, 0, 250e6, time.UTC)
	open := func(i int, v sample.Value, change func(*opcua.Target)) protocols.Target {
		own := cfg.NewTarget().(*opcua.Target)
		own.Address = at(i)
		if change != nil {
			change(own)
		}
		return openTarget(t, r, own, v.Kind())
	}
	saw := func(i int, ok func(sample.Sample) bool) {
		t.Helper()
		if !r.Wait(patience, func(list []sample.Sample) bool {
			for _, s := range list {
				if s.Tag == opcuaTag(first+i) && ok(s) {
					return true
				}
			}
			return false
		}) {
			t.Errorf("another session does not see what was written to %s", at(i))
		}
	}
	for i, c := range []struct{ v, want sample.Value }{
		{sample.FloatValue(41.5), sample.FloatValue(41.5)}, {sample.FloatValue(0.1), sample.FloatValue(0.1)}, {sample.FloatValue(65535), sample.IntValue(65535)},
		{sample.IntValue(1<<62 + 1), sample.IntValue(1<<62 + 1)}, {sample.BoolValue(true), sample.BoolValue(true)}, {sample.StringValue("Süd"), sample.StringValue("Süd")},
	} {
		target := open(i, c.v, nil)
		p, err := target.Prepare(t.Context(), c.v)
		if err != nil || p != c.want {
			t.Errorf("Prepare %s: %s, %v", c.v, p, err)
			continue
		}
		if err := target.Write(t.Context(), protocols.Command{Value: p, Time: computed, Version: 1}); err != nil {
			t.Error(err)
			continue
		}
		if got, err := target.Read(t.Context()); err != nil || got.Value != c.want || got.Quality.IsBad() {
			t.Errorf("%s reads back as %+v, %v", at(i), got, err)
		}
		saw(i, func(s sample.Sample) bool {
			return s.Value == c.want && s.Quality.IsGood() && (i > 0 || s.SourceTime == computed.UnixNano())
		})
	}
	double := open(0, sample.FloatValue(1), func(o *opcua.Target) { o.ValidityAddress, o.HeartbeatAddress = at(7), at(8) })
	if err := double.Write(t.Context(), protocols.Command{Value: sample.FloatValue(7), Time: computed, Version: 2}); err != nil {
		t.Fatal(err)
	}
	saw(7, func(s sample.Sample) bool { return s.Value == sample.BoolValue(true) })
	if err := double.Tell(t.Context(), protocols.State{Valid: false, Heartbeat: 65535}); err != nil {
		t.Fatal(err)
	}
	saw(7, func(s sample.Sample) bool { return s.Value == sample.BoolValue(false) })
	saw(8, func(s sample.Sample) bool { return s.Value == sample.IntValue(65535) })
	saw(0, func(s sample.Sample) bool { return s.Quality == 0x808D0000 }) // BadOutOfService
	if got, err := double.Read(t.Context()); err != nil || !got.Quality.IsBad() {
		t.Errorf("stale, it reads %+v, %v", got, err)
	}
	if err := double.Tell(t.Context(), protocols.State{Valid: true}); err != nil {
		t.Fatal(err)
	}
	saw(0, func(s sample.Sample) bool {
		return s.Value == sample.FloatValue(7) && s.Quality.IsGood() && s.SourceTime == computed.UnixNano()
	})
	for _, c := range []struct {
		i int
		v sample.Value
	}{{0, sample.StringValue("41.5")}, {2, sample.IntValue(70000)}, {2, sample.FloatValue(41.5)}, {6, sample.FloatValue(1)}} {
		target := open(c.i, c.v, nil)
		if err := target.Write(t.Context(), protocols.Command{Value: c.v}); err == nil || protocols.OutcomeOf(err) != protocols.Unsuited {
			t.Errorf("%s %s into %s: %v", c.v.Kind(), c.v, at(c.i), err)
		}
	}
}
