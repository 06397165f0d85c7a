package config_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/feeds"
	"millrace/gateway/config"
	"millrace/protocols"
	"millrace/sample"
	"millrace/uploader"
)

// The section is tried on protocols and feeds of its own, whose rules the tests
// know: "rack" is read and written, "rack_server" serves, "scale" is only read.

type rack struct{ typ string }

func (r rack) Type() string { return r.typ }
func (r rack) NewConfig() protocols.Config {
	switch r.typ {
	case "rack_server":
		return &rackServer{}
	case "scale":
		return &readOnly{}
	}
	return &rackConfig{}
}

type rackConfig struct {
	URL  string `yaml:"url"`
	Slot int    `yaml:"slot"`
	Pace int    `yaml:"pace"` // which the link's key does not tell
}

func (c *rackConfig) Validate(src *protocols.SourceConfig) (faults []protocols.Fault) {
	if c.URL == "" {
		faults = append(faults, protocols.Fault{Path: "connection.url", Problem: "is missing", Hint: "write rack://host"})
	}
	if len(src.Tags) == 0 {
		faults = append(faults, protocols.Fault{Path: "tags", Problem: "there are no tags", Hint: "list them"})
	}
	for i := range src.Tags {
		if src.Tags[i].Address == "" {
			faults = append(faults, protocols.Fault{Path: fmt.Sprintf("tags[%d].address", i), Problem: "is missing", Hint: "write one"})
		}
	}
	return faults
}
func (c *rackConfig) LinkKey() string  { return fmt.Sprintf("rack %s slot %d", c.URL, c.Slot) }
func (c *rackConfig) Location() string { return "rack " + c.URL }
func (c *rackConfig) Open(protocols.Settings) (protocols.Connection, error) {
	return nil, errors.New("not opened by tests of the configuration")
}
func (c *rackConfig) NewTarget() protocols.TargetConfig { return &rackTarget{Width: 1} }

type rackServer struct {
	rackConfig `yaml:",inline"`
}

func (c *rackServer) Serves() bool { return true }
func (c *rackServer) Validate(src *protocols.SourceConfig) (faults []protocols.Fault) {
	if len(src.Tags) == 0 { // a server may show targets alone
		src = &protocols.SourceConfig{Tags: []protocols.Tag{{Address: "1"}}}
	}
	return c.rackConfig.Validate(src)
}

type readOnly struct{}

func (*readOnly) Validate(*protocols.SourceConfig) []protocols.Fault          { return nil }
func (*readOnly) LinkKey() string                                             { return "scale" }
func (*readOnly) Open(protocols.Settings) (c protocols.Connection, err error) { return nil, nil }

type rackTarget struct {
	Address string `yaml:"address"`
	Width   int    `yaml:"width"`
}

func (t *rackTarget) Validate(kind sample.Kind) (faults []protocols.Fault) {
	if t.Address == "" {
		faults = append(faults, protocols.Fault{Path: "address", Problem: "is missing", Hint: "write one"})
	}
	if kind == sample.String {
		faults = append(faults, protocols.Fault{Path: "address", Problem: "holds no string", Hint: "use another type"})
	}
	return faults
}

func (t *rackTarget) Places() (out []string) {
	for i := range t.Width {
		out = append(out, fmt.Sprintf("%s+%d", t.Address, i))
	}
	return out
}

type post struct{ typ string }

func (p post) Type() string { return p.typ }
func (p post) NewConfig() feeds.Config {
	if p.typ == "weektable" {
		return &tableConfig{postConfig: postConfig{Wait: time.Second}}
	}
	return &postConfig{Wait: time.Second}
}

// tableConfig is of a feed that makes its results itself.
type tableConfig struct {
	postConfig `yaml:",inline"`
	Target     string `yaml:"target"`
}

func (c *tableConfig) Aim() string { return c.Target }

type postConfig struct {
	URL  string        `yaml:"url"`
	Wait time.Duration `yaml:"wait"`
}

func (c *postConfig) Validate() []uploader.Fault {
	if c.URL == "" {
		return []uploader.Fault{{Path: "url", Problem: "is missing", Hint: "write one"}}
	}
	return nil
}
func (c *postConfig) Open(feeds.Settings) (feeds.Feed, error) {
	return nil, errors.New("not opened by tests of the configuration")
}

func mirrorRegistry() config.Registry {
	r := registry()
	r.Protocols = []protocols.Protocol{rack{"rack"}, rack{"rack_server"}, rack{"scale"}}
	r.Feeds = []feeds.Kind{post{"post"}, post{"weektable"}}
	return r
}

// plant is a file with a source, a sink and what a test adds.
func plant(mirror string) []byte {
	return []byte(`gateway: {site: north, id: gw1}
sources:
  - name: meter1
    type: rack
    connection: {url: rack://a}
    tags:
      - {name: power, address: "1", type: float32}
      - {name: ok, address: "2", type: bool}
sinks: [{name: out, type: file, dir: /tmp/out}]
mirror:
` + mirror)
}

const oneKey = "  keys: [{name: cloud, ed25519: \"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"}]\n"

// TestBadMirrors holds the exact messages of each file in testdata/mirror
// against the text beside it. UPDATE_GOLDEN=1 writes the texts anew: read them.
func TestBadMirrors(t *testing.T) {
	bad(t, "testdata/mirror/*.yaml", 9, mirrorRegistry(), func(*testing.T, string, string) {})
}

func TestMirrorValues(t *testing.T) {
	cfg, err := config.Parse("x.yaml", plant(`  enabled: true
  dir: /tmp/mirror
`+oneKey+`  feeds:
    - {name: results, type: post, url: "https://queue", wait: 2s}
    - {name: other, type: weektable, url: "https://table", target: sp3}
  devices:
    - name: scada
      type: rack_server
      connection: {url: rack://0}
      tags: [{tag: north/meter1/power, address: "7", type: float32, max_age: 1m}]
    - {name: valve, type: rack, connection: {url: rack://b}}
  targets:
    - name: sp1
      class: setpoint
      mode: dry_run
      feeds: [results]
      type: int64
      unit: Wh
      min: -9007199254740992
      max: 9223372036854774784
      max_step: 50
      max_age: 15m
      when_stale: fallback
      fallback: 9007199254740993
      enable: north/meter1/ok
      enable_max_age: 10s
      write: {to: meter1, address: "100", width: 2}
    - name: sp2
      feeds: [results, other]
      type: float64
      min: -0.5
      write: {to: scada, address: "100"}
    - name: sp3
      mode: armed
      feeds: [other]
      type: bool
      when_stale: fallback
      fallback: false
      min_interval: 0s
      heartbeat: 0s
      write: {to: valve, address: "101"}
`), mirrorRegistry())
	if err != nil {
		t.Fatal(err)
	}
	m := cfg.Mirror
	if !m.Enabled || m.Dir != "/tmp/mirror" || m.Signature != config.Required || len(m.Keys["cloud"]) != ed25519.PublicKeySize || m.AuditKeep != 0 {
		t.Errorf("%+v", m)
	}
	if f := m.Feeds[0]; f.Name != "results" || f.Type != "post" || f.Config.(*postConfig).Wait != 2*time.Second || m.Feeds[1].Config.(*tableConfig).Wait != time.Second {
		t.Errorf("feeds %+v", m.Feeds)
	}
	if d := m.Devices[0]; !d.Server || d.MaxAge["north/meter1/power"] != time.Minute || d.Spec.Tags[0].Address != "7" || m.Devices[1].Server {
		t.Errorf("devices %+v", m.Devices)
	}
	a, b, c := m.Targets[0], m.Targets[1], m.Targets[2]
	// 2^53+1 has no float64, and is kept all the same where nothing compares it.
	if a.Min.Int() != -9007199254740992 || a.Max.Int() != 9223372036854774784 || a.Fallback.Int() != 9007199254740993 || a.MaxStep.Int() != 50 {
		t.Errorf("limits of an int64: %v, %v, %v, %v", a.Min, a.Max, a.Fallback, a.MaxStep)
	}
	if a.Class != config.Setpoint || a.Mode != config.ModeDryRun || a.Link != cfg.Sources[0].Connection || a.Write.(*rackTarget).Width != 2 || a.Enable != "north/meter1/ok" || a.EnableMaxAge != 10*time.Second {
		t.Errorf("%+v", a)
	}
	if b.Mode != config.ModeOff || b.Class != config.MirrorTag || b.MinInterval != time.Second || b.VerifyWithin != 2*time.Second || b.Heartbeat != time.Second ||
		b.WhenStale != config.StaleMark || b.Min.Float() != -0.5 || b.Max != nil || b.Write.(*rackTarget).Width != 1 || b.Link != m.Devices[0].Connection {
		t.Errorf("%+v", b)
	}
	if c.Fallback.Kind() != sample.Bool || c.Fallback.Bool() || c.MinInterval != 0 || c.Heartbeat != 0 || c.Mode != config.ModeArmed {
		t.Errorf("%+v", c)
	}
	if got := a.StatusTag("north"); got != "north/mirror/sp1/status" {
		t.Errorf("status tag %s", got)
	}
}

// TestMirrorIsOffByDefault: a file without the section has no mirror.
func TestMirrorIsOffByDefault(t *testing.T) {
	data, _, _ := strings.Cut(string(plant("")), "mirror:\n")
	cfg, err := config.Parse("x.yaml", []byte(data), mirrorRegistry())
	if err != nil || cfg.Mirror.Enabled || len(cfg.Mirror.Targets) != 0 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// TestLocalFeedsNeedNoKey: nobody signs what the gateway itself makes of a tag.
func TestLocalFeedsNeedNoKey(t *testing.T) {
	const target = "  targets: [{name: sp1, feeds: [f], type: float64, write: {to: meter1, address: '100'}}]\n"
	if _, err := config.Parse("x.yaml", plant("  feeds: [{name: f, type: weektable, url: x, target: sp1}]\n"+target), mirrorRegistry()); err != nil {
		t.Error(err)
	}
	_, err := config.Parse("x.yaml", plant("  feeds: [{name: f, type: post, url: x}]\n"+target), mirrorRegistry())
	if err == nil || !strings.Contains(err.Error(), "mirror.keys: there is no key, and signature is required") {
		t.Errorf("%v", err)
	}
}

// TestSetpointsNeedASigner: whoever may write to the week tables, or send to the
// queue that fills them, must not set what a control loop follows.
func TestSetpointsNeedASigner(t *testing.T) {
	target := "  targets: [{name: sp1, class: setpoint, feeds: [f], type: float64, min: 0, max: 9, max_step: 1, max_age: 15m, write: {to: meter1, address: '100'}}]\n"
	_, err := config.Parse("x.yaml", plant(oneKey+"  feeds: [{name: f, type: weektable, url: x, target: sp1}]\n"+target), mirrorRegistry())
	if err == nil || !strings.Contains(err.Error(), "which nobody signs, and a setpoint needs signed results") {
		t.Errorf("%v", err)
	}
	if _, err := config.Parse("x.yaml", plant(oneKey+"  feeds: [{name: f, type: post, url: x}]\n"+target), mirrorRegistry()); err != nil {
		t.Error(err)
	}
}

func TestKeysFromFiles(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, typ string, der []byte, err error) string {
		path := filepath.Join(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pub, err := x509.MarshalPKIXPublicKey(public)
	good := write("public.pem", "PUBLIC KEY", pub, err)
	priv, err := x509.MarshalPKCS8PrivateKey(private)
	secret := write("private.pem", "PRIVATE KEY", priv, err)
	odd := write("odd.pem", "PUBLIC KEY", []byte("x"), nil)
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte(base64.StdEncoding.EncodeToString(public)), 0o600); err != nil {
		t.Fatal(err)
	}
	parse := func(key string) (*config.Config, error) {
		return config.Parse("x.yaml", plant(fmt.Sprintf("  keys: [{name: cloud, ed25519: %q}]\n", key)), mirrorRegistry())
	}
	cfg, err := parse("file:" + good)
	if err != nil || !public.Equal(cfg.Mirror.Keys["cloud"]) {
		t.Errorf("%v, %v", cfg, err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "cannot be read: no such file or directory",
		secret:                     "holds a PRIVATE KEY and not a PUBLIC KEY; the private key stays where results are signed",
		odd:                        "does not hold an Ed25519 key",
		plain:                      "is not PEM",
	} {
		if _, err := parse("file:" + path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
