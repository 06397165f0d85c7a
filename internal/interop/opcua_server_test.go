//go:build interop

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/internal/secret"
	"millrace/protocols"
	opcuaserver "millrace/protocols/opcua/server"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// opcuaClient are the settings of servers/opcua_client.py.
type opcuaClient struct {
	URL      string   `json:"url"`
	Security string   `json:"security"`
	Cert     string   `json:"cert"`
	Key      string   `json:"key"`
	Server   string   `json:"server"`
	URI      string   `json:"uri"`
	User     string   `json:"user"`
	Password string   `json:"password"`
	Read     []string `json:"read"`
	Watch    []string `json:"watch"`
}

// opcuaSaid is a line of the client's.
type opcuaSaid struct {
	Error  string   `json:"error"`
	Browse []string `json:"browse"`
	Read   [][2]any `json:"read"`
	Write  string   `json:"write"`
	Change []any    `json:"change"`
	Ended  string   `json:"ended"`
}

// asyncuaClient runs the client; what it says comes from the channel, which is
// closed with it. Closing its input ends it.
func asyncuaClient(t *testing.T, c opcuaClient) (said <-chan opcuaSaid, end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, installed(t, "PYTHON"), "-u", script(t, "opcua_client.py"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	lines := make(chan opcuaSaid, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			var l opcuaSaid
			if err := json.Unmarshal(s.Bytes(), &l); err != nil {
				l.Error = s.Text()
			}
			lines <- l
		}
	}()
	t.Cleanup(func() {
		in.Close()
		for range lines {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the client: %v", err)
		}
		cancel()
	})
	return lines, func() { in.Close() }
}

// ownServer starts the gateway's own server with one live tag and one target.
func ownServer(t *testing.T, change func(*opcuaserver.Config)) (url string, target protocols.Target) {
	t.Helper()
	port := freePort(t)
	cfg := opcuaserver.Protocol{}.NewConfig().(*opcuaserver.Config)
	cfg.Listen = address(port)
	change(cfg)
	tags := []protocols.Tag{{Name: "plant/meter1/power", Unit: "kW"}}
	for _, f := range cfg.Validate(&protocols.SourceConfig{Tags: tags}) {
		t.Fatalf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	conn, err := cfg.Open(protocols.Settings{Site: "plant", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	s := conn.(protocols.Server)
	h := new(protocolstest.HealthRecorder)
	write := cfg.NewTarget().(*opcuaserver.TargetConfig)
	write.Describe(protocols.TargetInfo{Name: "sp1", Kind: sample.Float64, Unit: "kW"})
	if target, err = s.OpenTarget(write, h); err != nil {
		t.Fatal(err)
	}
	err = s.Show(tags, func(string) (protocols.Reading, bool) {
		return protocols.Reading{Value: sample.FloatValue(230.1), Time: time.Now()}, true
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	ready(t, "the server listens", h.IsUp)
	return "opc.tcp://" + address(port), target
}

func TestAsyncuaReadsOurOPCUAServer(t *testing.T) {
	own, client := selfSigned(t, "gateway", "urn:millrace:interop:server"), selfSigned(t, "asyncua client", "urn:millrace:interop:client")
	trust := t.TempDir()
	der, err := os.ReadFile(client.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(trust, "client.der"), der, 0o600); err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("pump house\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var ref secret.Ref
	if err := ref.UnmarshalText([]byte("file:" + password)); err != nil {
		t.Fatal(err)
	}
	secured := func(c *opcuaserver.Config) {
		c.Certificate, c.Key, c.TrustDir = own.Cert, own.Key, trust
		c.Users = []opcuaserver.User{{Name: "scada", Password: ref}}
	}
	plain := func(c *opcuaserver.Config) { c.AllowNone, c.Anonymous = true, true }
	for _, c := range []struct {
		security string
		change   func(*opcuaserver.Config)
		user     string
	}{
		{"", plain, ""},
		{"Basic256Sha256,Sign", secured, "scada"},
		{"Basic256Sha256,SignAndEncrypt", secured, "scada"},
		{"Aes128Sha256RsaOaep,SignAndEncrypt", secured, "scada"},
	} {
		t.Run(c.security, func(t *testing.T) {
			url, target := ownServer(t, c.change)
			said, end := asyncuaClient(t, opcuaClient{
				URL: url, Security: c.security, Cert: client.DER, Key: client.Key, Server: own.DER, URI: "urn:millrace:interop:client", User: c.user, Password: "pump house",
				Read:  []string{"ns=1;s=plant/meter1/power", "ns=1;s=mirror/sp1", "i=2259", "ns=1;s=mirror/sp1.EngineeringUnits", "i=2256"},
				Watch: []string{"ns=1;s=mirror/sp1"},
			})
			next := func() opcuaSaid {
				t.Helper()
				select {
				case l, ok := <-said:
					if !ok || l.Error != "" {
						t.Fatalf("the client ends: %+v", l)
					}
					return l
				case <-time.After(patience):
					t.Fatal("the client says nothing")
				}
				return opcuaSaid{}
			}
			paths := next().Browse
			for _, p := range []string{"/Mirror/sp1/Version", "/Live/plant/meter1/power", "/Server/ServerStatus/CurrentTime", "/Heartbeat", "/Alive"} {
				if !slices.Contains(paths, p) {
					t.Errorf("no %s in %q", p, paths)
				}
			}
			read := next().Read
			if len(read) != 5 || read[0] != [2]any{230.1, 0.0} || read[1] != [2]any{nil, float64(0x80320000)} || read[2] != [2]any{0.0, 0.0} ||
				fmt.Sprint(read[3]) != "[[4.937556e+06 kW] 0]" || read[4][1] != 0.0 {
				t.Errorf("read %v", read)
			}
			if w := next().Write; w != "BadNotWritable" && w != "BadUserAccessDenied" {
				t.Errorf("write: %s", w)
			}
			want := func(v any, status float64) {
				t.Helper()
				if got := next().Change; len(got) != 3 || got[1] != v || got[2] != status {
					t.Errorf("change %v, want %v with status %#x", got, v, uint32(status))
				}
			}
			want(nil, 0x80320000)
			now := time.Now()
			if err := target.Write(t.Context(), protocols.Command{Value: sample.FloatValue(41.5), Time: now, Version: 17, ValidUntil: now.Add(time.Second)}); err != nil {
				t.Fatal(err)
			}
			want(41.5, 0)
			want(nil, 0x80310000) // by itself, a second later
			end()
		})
	}
	for _, c := range []struct {
		name, user, password, want string
	}{
		{"wrong password", "scada", "guess", "BadUserAccessDenied"},
		{"unknown user", "nobody", "pump house", "BadUserAccessDenied"},
		{"anonymous", "", "", "BadIdentityTokenRejected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, _ := ownServer(t, secured)
			said, _ := asyncuaClient(t, opcuaClient{
				URL: url, Security: "Basic256Sha256,SignAndEncrypt", Cert: client.DER, Key: client.Key, Server: own.DER, URI: "urn:millrace:interop:client",
				User: c.user, Password: c.password, Read: []string{}, Watch: []string{},
			})
			if l := <-said; l.Error != c.want {
				t.Errorf("got %+v, want %s", l, c.want)
			}
		})
	}
}
