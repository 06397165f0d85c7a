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
	"strings"
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
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	lines, end := text(t, exec.Command(installed(t, "PYTHON"), "-u", script(t, "opcua_client.py"), string(line)))
	out := make(chan opcuaSaid, 1000)
	go func() {
		defer close(out)
		for l := range lines {
			var s opcuaSaid
			if err := json.Unmarshal([]byte(l), &s); err != nil {
				s.Error = l
			}
			out <- s
		}
	}()
	return out, end
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
	ref := secretFile(t, "pump house")
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

func TestMiloReadsOurOPCUAServer(t *testing.T) {
	jars := installed(t, "MILO")
	own, trust := selfSigned(t, "gateway", "urn:millrace:interop:server"), t.TempDir()
	ref := secretFile(t, "pump house")
	secured := func(c *opcuaserver.Config) {
		c.Certificate, c.Key, c.TrustDir = own.Cert, own.Key, trust
		c.Users = []opcuaserver.User{{Name: "scada", Password: ref}}
	}
	for _, c := range []struct{ policy, mode, password string }{
		{"Basic256Sha256", "Sign", "pump house"},
		{"Basic256Sha256", "SignAndEncrypt", "pump house"},
		{"Aes128_Sha256_RsaOaep", "SignAndEncrypt", "pump house"},
		{"Basic256Sha256", "SignAndEncrypt", "guess"},
	} {
		t.Run(c.policy+" "+c.mode+" "+c.password, func(t *testing.T) {
			url, target := ownServer(t, secured)
			lines, end := text(t, exec.Command("java", "-cp", filepath.Join(jars, "*"), script(t, "MiloClient.java"),
				url, c.policy, c.mode, "scada", c.password, trust, "ns=1;s=plant/meter1/power", "ns=1;s=mirror/sp1"))
			want := func(what string) {
				t.Helper()
				select {
				case got := <-lines:
					if !strings.HasPrefix(got, what) {
						t.Fatalf("got %q, want %q", got, what)
					}
				case <-time.After(2 * patience):
					t.Fatalf("nothing, want %q", what)
				}
			}
			if c.password == "guess" {
				want("refused status=Bad_UserAccessDenied")
				return
			}
			want("browse Alive Heartbeat Live Mirror Server")
			want("read 230.1 0")
			want("write 803b0000")
			want("change null 80320000")
			now := time.Now()
			if err := target.Write(t.Context(), protocols.Command{Value: sample.FloatValue(41.5), Time: now, Version: 17, ValidUntil: now.Add(time.Second)}); err != nil {
				t.Fatal(err)
			}
			want("change 41.5 0")
			want("change null 80310000")
			end()
		})
	}
}

// text runs a program; its lines come from the channel, which is closed with it.
// Closing its input ends it.
func text(t *testing.T, cmd *exec.Cmd) (lines <-chan string, end func()) {
	t.Helper()
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
	all := make(chan string, 1000)
	go func() {
		defer close(all)
		for s := bufio.NewScanner(out); s.Scan(); {
			all <- s.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		for range all {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the client: %v", err)
		}
	})
	return all, func() { in.Close() }
}

func secretFile(t *testing.T, what string) secret.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(what+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var ref secret.Ref
	if err := ref.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	return ref
}
