package gateway_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/feeds"
	feedsall "millrace/feeds/all"
	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/gateway/control"
	"millrace/gateway/health"
	"millrace/gateway/mirror"
	"millrace/internal/clock"
	protocols "millrace/protocols/all"
	"millrace/sample"
	"millrace/sample/result"
	transport "millrace/uploader"
	uploader "millrace/uploader/all"
)

// mirrored is a gateway with an HTTP source, a file sink and a mirror on the
// desk's parts.
type mirrored struct {
	*gateway.Gateway
	t    *testing.T
	dir  string
	http string
	desk *desk
	key  ed25519.PrivateKey
	stop func() error
	// hurry, where not nil, is closed for a second signal.
	hurry chan struct{}
	// dial, where not nil, connects to endpoints.
	dial transport.Dial
}

// socket is the gateway's local socket.
func (m *mirrored) socket() string { return filepath.Join(m.dir, "c.sock") }

func mirrorConfig(t *testing.T, d *desk, dir, listen, section string) *config.Config {
	t.Helper()
	r := config.Registry{Protocols: append(protocols.List(), panel{d, false}, panel{d, true}), Sinks: uploader.List(), Feeds: append(feedsall.List(), tray{d})}
	cfg, err := config.Parse("millrace.yaml", fmt.Appendf(nil, `
gateway: {site: plant, id: gw1}
clock: {sync: ignore}
spool: {dir: %[1]s/spool, commit_interval: 20ms}
control: {socket: %[1]s/c.sock}
sources:
  - {name: web, type: http, batch: {max_age: 100ms}, connection: {listen: "%[2]s"}, tags: [{name: ok, address: ok}, {name: temp, address: temp, unit: degC, deadband: 5}]}
sinks: [{name: out, type: file, dir: %[1]s/out, format: jsonl}]
mirror:
  dir: %[1]s/mirror
%[3]s`, dir, listen, section), r)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// runMirrored runs a gateway until the test ends, or stop is called.
func runMirrored(t *testing.T, section string) *mirrored {
	t.Helper()
	m := &mirrored{t: t, dir: t.TempDir(), http: freeAddr(t), desk: newDesk(), key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	section = strings.ReplaceAll(section, "KEY", base64.StdEncoding.EncodeToString(m.key.Public().(ed25519.PublicKey)))
	m.start(section)
	return m
}

func (m *mirrored) start(section string) {
	m.t.Helper()
	cfg := mirrorConfig(m.t, m.desk, m.dir, m.http, section)
	var err error
	m.Gateway, err = gateway.New(m.t.Context(), gateway.Options{
		Config: cfg, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Notify: quiet{make(chan string, 10)}, StateDir: m.dir,
		Hurry: m.hurry, Dial: m.dial,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	stopped := false
	m.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	m.t.Cleanup(func() {
		if err := m.stop(); err != nil {
			m.t.Error(err)
		}
	})
	m.until("the socket answers", func() bool {
		var st gateway.Status
		return control.Call(m.t.Context(), m.socket(), "/v1/status", nil, &st) == nil
	})
}

// until waits for something that has to come.
func (m *mirrored) until(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: never; %s; %+v", what, m.desk, m.Status().Mirror)
		}
	}
}

func (m *mirrored) post(tag, value string) {
	m.t.Helper()
	m.until("the source listens", func() bool {
		r, err := http.Post("http://"+m.http+"/v1/samples", "application/json", strings.NewReader(fmt.Sprintf(`{"samples":[{"tag":%q,"value":%s}]}`, tag, value)))
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

// result is a signed result for target sp1.
func (m *mirrored) result(version uint64, value float64) feeds.Message {
	now := time.Now().UTC()
	r := result.Result{
		ID: fmt.Sprintf("r-%d", version), Site: "plant", Target: "sp1", Version: version, Value: sample.FloatValue(value), Unit: "kW", Quality: sample.Good,
		ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(time.Hour), Run: "test",
	}
	r.Sign("cloud", m.key)
	body, err := r.Encode()
	if err != nil {
		m.t.Fatal(err)
	}
	return feeds.Message{Key: r.ID, Body: body}
}

// target is the state of target sp1.
func (m *mirrored) target() mirror.TargetStatus { return m.Status().Mirror.Targets[0] }

const oneTarget = `  enabled: true
  keys: [{name: cloud, ed25519: KEY}]
  feeds: [{name: results, type: tray}]
  devices: [{name: plc, type: panel, connection: {url: x}}]
  targets: [{name: sp1, feeds: [results], type: float64, unit: kW, min: 0, max: 100, min_interval: 0s, mode: dry_run, write: {to: plc, address: a}}]
`

// TestWhatIsOffIsNotBuilt counts who is built and who dials, of a mirror that is
// disabled, one whose targets are all off, and one that is not.
func TestWhatIsOffIsNotBuilt(t *testing.T) {
	section := func(enabled bool, mode, server string) string {
		return fmt.Sprintf(`  enabled: %v
  signature: optional
  feeds: [{name: results, type: tray}]
  devices:
    - {name: plc, type: panel, connection: {url: x}}
    - {name: scada, type: panel_server, connection: {url: y}%s}
  targets:
    - {name: sp1, feeds: [results], type: float64, mode: %s, enable: plant/web/ok, write: {to: plc, address: a}}
    - {name: sp2, feeds: [results], type: float64, mode: off, write: {to: scada, address: b}}
`, enabled, server, mode)
	}
	const tags = ", tags: [{tag: plant/web/temp, address: '1'}]"
	for name, c := range map[string]struct {
		section string
		want    map[string]int
		dir     bool
	}{
		"not enabled":    {section(false, "armed", tags), map[string]int{}, false},
		"all off":        {section(true, "off", ""), map[string]int{}, false},
		"live tags only": {section(true, "off", tags), map[string]int{"panel_server opened": 1, "served": 1}, false},
		"dry run":        {section(true, "dry_run", ""), map[string]int{"panel opened": 1, "target opened": 1, "feed opened": 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := runMirrored(t, c.section)
			m.post("ok", "true")
			for what := range c.want {
				m.until(what, func() bool { return m.desk.count(what) > 0 })
			}
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			for _, what := range []string{"panel opened", "panel_server opened", "target opened", "feed opened", "served"} {
				if got := m.desk.count(what); got != c.want[what] {
					t.Errorf("%s: %d times, want %d", what, got, c.want[what])
				}
			}
			if _, err := os.Stat(filepath.Join(m.dir, "mirror")); (err == nil) != c.dir {
				t.Errorf("the mirror's folder: %v", err)
			}
			if m.desk.count("link closed") != m.desk.count("panel opened")+m.desk.count("panel_server opened") ||
				m.desk.count("target closed") != m.desk.count("target opened") || m.desk.count("feed closed") != m.desk.count("feed opened") {
				t.Errorf("what was opened is not closed: %s", m.desk)
			}
		})
	}
}

// TestADisabledMirrorDialsNobody, of real parts: the device and the queue are one
// listener that counts. Switched on, both call it.
func TestADisabledMirrorDialsNobody(t *testing.T) {
	for _, enabled := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		var listening sync.WaitGroup
		listening.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				calls.Add(1)
				_ = c.Close() // it was only counted
			}
		})
		var dialled atomic.Int64
		m := &mirrored{t: t, dir: t.TempDir(), http: freeAddr(t), desk: newDesk(), dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}}
		if err := os.WriteFile(filepath.Join(m.dir, "secret"), []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.start(fmt.Sprintf(`  enabled: %v
  signature: optional
  feeds: [{name: results, type: sqs, queue_url: "http://%[2]s/000000000000/results", region: eu-central-1, endpoint: "http://%[2]s", credentials: {access_key_id: A, secret_access_key: "file:%[3]s/secret"}}]
  devices: [{name: plc, type: modbus, connection: {url: "tcp://%[2]s"}}]
  targets: [{name: sp1, mode: armed, feeds: [results], type: float64, write: {to: plc, address: "holding:0", type: float32, heartbeat_address: "holding:2"}}]
`, enabled, l.Addr(), m.dir))
		m.post("ok", "true")
		m.post("temp", "20")
		if enabled {
			m.until("the feed dials", func() bool { return dialled.Load() > 0 })
			m.until("the device is called", func() bool { return calls.Load() > dialled.Load() })
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if n := calls.Load(); !enabled && (n != 0 || dialled.Load() != 0) {
			t.Errorf("a disabled mirror has called %d times, and dialled %d times", n, dialled.Load())
		}
		_ = l.Close() // which ends the listening
		listening.Wait()
	}
}

// TestArmingBySocket: an operator arms a target, a result is written, and is
// refused again after he disarmed it; who did it is in the audit log.
func TestArmingBySocket(t *testing.T) {
	m := runMirrored(t, oneTarget)
	post := func(path string, args url.Values, into any) error {
		return control.Post(t.Context(), m.socket(), path, args, into)
	}
	for _, c := range []struct {
		path string
		args url.Values
		want string
	}{
		{"arm", url.Values{"target": {"sp2"}, "for": {"1h"}}, `there is no mirror target "sp2"; there are: sp1`},
		{"disarm", url.Values{"target": {"sp2"}}, `there is no mirror target "sp2"; there are: sp1`},
		{"arm", url.Values{"target": {"sp1"}, "for": {"soon"}}, `for="soon" is not a time, such as 8h`},
		{"arm", url.Values{"target": {"sp1"}, "for": {"25h"}}, "at most 24h0m0s"},
		{"arm", url.Values{"target": {"sp1"}}, "is not armed by the configuration"},
	} {
		if err := post("/v1/mirror/"+c.path, c.args, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: %v", c.path, c.args, err)
		}
	}
	m.say(m.result(1, 10))
	m.until("the dry run", func() bool { return m.target().Outcomes["dry_run"] == 1 })

	var st mirror.TargetStatus
	if err := post("/v1/mirror/arm", url.Values{"target": {"sp1"}, "for": {"1h"}}, &st); err != nil {
		t.Fatal(err)
	}
	me := fmt.Sprintf("(uid %d, pid %d)", os.Getuid(), os.Getpid())
	if st.Mode != "armed" || st.ArmedUntil == nil || time.Until(*st.ArmedUntil) > time.Hour+time.Second || !strings.Contains(st.By, me) {
		t.Errorf("armed: %+v", st)
	}
	if line := m.Status().Line; !strings.Contains(line, "mirror: 1 armed, 0 in dry run") {
		t.Errorf("status line %q", line)
	}
	m.say(m.result(2, 20))
	m.until("the write", func() bool { return m.target().Outcomes["written"] == 1 })
	var done []mirror.TargetStatus
	if err := post("/v1/mirror/disarm", url.Values{"all": {"true"}}, &done); err != nil || len(done) != 1 || done[0].Mode != "dry_run" {
		t.Errorf("disarmed: %+v, %v", done, err)
	}
	m.say(m.result(3, 30))
	m.until("the dry run", func() bool { return m.target().Outcomes["dry_run"] == 2 })
	if m.desk.count("written") != 1 || m.desk.value.Float() != 20 {
		t.Errorf("written %d times, last %v", m.desk.count("written"), m.desk.value)
	}
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	text := m.audit()
	for _, want := range []string{`"arm"`, `"disarm"`, me} {
		if !strings.Contains(text, want) {
			t.Errorf("the audit log does not hold %s:\n%s", want, text)
		}
	}
}

// say brings messages by the feed.
func (m *mirrored) say(list ...feeds.Message) {
	m.desk.mu.Lock()
	defer m.desk.mu.Unlock()
	m.desk.messages = append(m.desk.messages, list...)
	select {
	case m.desk.arrived <- struct{}{}:
	default:
	}
}

// audit is the text of the audit log.
func (m *mirrored) audit() string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.dir, "mirror", "*.jsonl"))
	if err != nil || len(files) == 0 {
		m.t.Fatalf("audit files %v, %v", files, err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			m.t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// TestTheMirrorGoesOnAfterARestart: a target stays armed until its time is over,
// and a version that was used is used.
func TestTheMirrorGoesOnAfterARestart(t *testing.T) {
	m := runMirrored(t, oneTarget)
	if err := control.Post(t.Context(), m.socket(), "/v1/mirror/arm", url.Values{"target": {"sp1"}, "for": {"1h"}}, nil); err != nil {
		t.Fatal(err)
	}
	m.say(m.result(7, 10))
	m.until("the write", func() bool { return m.target().Outcomes["written"] == 1 })
	until := m.target().ArmedUntil
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	m.start(strings.ReplaceAll(oneTarget, "KEY", base64.StdEncoding.EncodeToString(m.key.Public().(ed25519.PublicKey))))
	st := m.target()
	if st.ArmedUntil == nil || st.ArmedUntil.Sub(*until).Abs() > time.Second || st.Version != 7 || st.Last == nil || st.Last.Value.Float() != 10 {
		t.Errorf("after a restart: %+v, last %+v; it was armed until %s", st, st.Last, until)
	}
	m.say(m.result(7, 20), m.result(6, 20), m.result(8, 20))
	m.until("the write", func() bool { return m.target().Outcomes["written"] == 1 })
	if st := m.target(); st.Refused["not_newer"] != 2 || m.desk.count("written") != 2 {
		t.Errorf("refused %v, %s", st.Refused, m.desk)
	}
}

// TestAStopDoesNotWaitForADevice that hangs: its link is closed. What was under
// way is not known then, and is said so.
func TestAStopDoesNotWaitForADevice(t *testing.T) {
	m := &mirrored{t: t, dir: t.TempDir(), http: freeAddr(t), desk: newDesk(), key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), hurry: make(chan struct{})}
	m.desk.hang = true
	m.start(strings.NewReplacer("mode: dry_run", "mode: armed, verify_within: 100ms", "KEY", base64.StdEncoding.EncodeToString(m.key.Public().(ed25519.PublicKey))).Replace(oneTarget))
	m.say(m.result(1, 10))
	m.until("the write", func() bool { return m.desk.count("written") == 1 })
	close(m.hurry)
	began := time.Now()
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if text := m.audit(); !strings.Contains(text, `"outcome":"unverified"`) || strings.Contains(text, `"outcome":"written"`) {
		t.Errorf("the audit log says\n%s", text)
	}
}

func TestACommandWithoutAMirror(t *testing.T) {
	m := runMirrored(t, "  enabled: false\n")
	var st gateway.MirrorStatus
	for _, err := range []error{
		control.Call(t.Context(), m.socket(), "/v1/mirror", nil, &st),
		control.Post(t.Context(), m.socket(), "/v1/mirror/arm", url.Values{"target": {"sp1"}, "for": {"1h"}}, nil),
		control.Post(t.Context(), m.socket(), "/v1/mirror/disarm", url.Values{"all": {"true"}}, nil),
	} {
		if err == nil || !strings.Contains(err.Error(), "the mirror is not enabled: set mirror.enabled: true") {
			t.Errorf("%v", err)
		}
	}
}

// TestAServerShowsLiveTags as their source last had them, scaled and with what a
// deadband holds back; one that is too old is Bad.
func TestAServerShowsLiveTags(t *testing.T) {
	m := runMirrored(t, `  enabled: true
  devices:
    - {name: scada, type: panel_server, connection: {url: y}, tags: [{tag: plant/web/temp, address: "1", max_age: 50ms}, {tag: plant/web/ok, address: "2"}]}
  targets: [{name: sp1, feeds: [results], type: bool, write: {to: scada, address: b}}]
  feeds: [{name: results, type: tray}]
  signature: optional
`)
	m.until("the server is up", func() bool { return m.component(health.Server, "scada") == health.Up })
	if got := m.desk.shown; len(got) != 2 || got[0].Name != "plant/web/temp" || got[0].Unit != "degC" || got[0].Address != "1" {
		t.Errorf("shown %+v", got)
	}
	if r, ok := m.desk.latest("plant/web/ok"); ok {
		t.Errorf("before the first sample: %+v", r)
	}
	m.post("temp", "20")
	m.post("temp", "21")
	m.post("ok", "true")
	// The post is answered after the commit, so the readings are there.
	if r, ok := m.desk.latest("plant/web/temp"); !ok || r.Value.String() != "21" {
		t.Errorf("what the deadband held back: %+v", r)
	}
	m.until("the reading is too old", func() bool { r, _ := m.desk.latest("plant/web/temp"); return r.Quality.IsBad() })
	if r, ok := m.desk.latest("plant/web/ok"); !ok || !r.Value.Bool() || !r.Quality.IsGood() {
		t.Errorf("a tag without a bound: %+v", r)
	}
}

// component is the state of a part of the gateway.
func (m *mirrored) component(kind health.Kind, name string) health.State {
	for _, c := range m.Status().Components {
		if c.Kind == kind && c.Name == name {
			return c.State
		}
	}
	return ""
}

// TestAServerIsStartedAgain after it failed and after it panicked.
func TestAServerIsStartedAgain(t *testing.T) {
	for name, fail := range map[string]error{"failed": errors.New("address in use"), "panicked": errPanic} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &mirrored{t: t, dir: t.TempDir(), http: freeAddr(t), desk: newDesk()}
			m.desk.fail = fail
			m.start(`  enabled: true
  signature: optional
  feeds: [{name: results, type: tray}]
  devices: [{name: scada, type: panel_server, connection: {url: y}, tags: [{tag: plant/web/ok, address: "2"}]}]
  targets: [{name: sp1, feeds: [results], type: bool, write: {to: scada, address: b}}]
`)
			m.until("it is up", func() bool { return m.component(health.Server, "scada") == health.Up })
			if n := m.desk.count("served"); n != 2 {
				t.Errorf("served %d times", n)
			}
		})
	}
}

// TestTheEnableTagIsWaitedFor: a result that waited in its queue while the
// gateway was restarted is not refused before SCADA's enable bit was read.
func TestTheEnableTagIsWaitedFor(t *testing.T) {
	m := runMirrored(t, strings.NewReplacer("mode: dry_run", "mode: armed, enable: plant/web/ok").Replace(oneTarget))
	m.say(m.result(1, 10))
	if n := m.desk.count("received"); n != 0 {
		t.Errorf("the feed was asked %d times before the enable tag was read", n)
	}
	m.post("ok", "true")
	m.until("the write", func() bool { return m.target().Outcomes["written"] == 1 })
	m.post("ok", "false")
	m.say(m.result(2, 20))
	m.until("the refusal", func() bool { return m.target().Refused["not_enabled"] == 1 })
	if m.desk.count("written") != 1 {
		t.Errorf("%s", m.desk)
	}
}

// TestCheckTriesTheMirror and takes and writes nothing.
func TestCheckTriesTheMirror(t *testing.T) {
	d := newDesk()
	section := strings.NewReplacer("KEY", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=").Replace(oneTarget)
	var told []string
	tell := func(what, _ string, errs []error) { told = append(told, what) }
	dir := t.TempDir()
	gateway.Check(t.Context(), mirrorConfig(t, d, dir, freeAddr(t), section), time.Second, tell)
	if got := strings.Join(told, ", "); !strings.HasSuffix(got, "feed results, target sp1") {
		t.Errorf("tried %s", got)
	}
	for _, what := range []string{"feed checked", "prepared", "read", "feed closed", "target closed", "link closed"} {
		if d.count(what) != 1 {
			t.Errorf("%s: %d times", what, d.count(what))
		}
	}
	for _, what := range []string{"received", "done", "written", "told"} {
		if d.count(what) != 0 {
			t.Errorf("%s: %d times", what, d.count(what))
		}
	}
	d, told = newDesk(), nil
	gateway.Check(t.Context(), mirrorConfig(t, d, dir, freeAddr(t), strings.Replace(section, "enabled: true", "enabled: false", 1)), time.Second, tell)
	if got := strings.Join(told, ", "); strings.Contains(got, "feed") || d.String() != "map[]" {
		t.Errorf("not enabled: tried %s, %s", got, d)
	}
}
