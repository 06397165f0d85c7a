package opcua

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/internal/secret"
	"millrace/protocols"
)

func passwordFile(t testing.TB, password string) secret.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	write(t, path, []byte(password))
	var r secret.Ref
	if err := r.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestValidateReportsEveryFaultAtOnce(t *testing.T) {
	c := Protocol{}.NewConfig().(*Config)
	c.URL, c.Mode, c.QueueSize, c.Timeout, c.PublishingInterval = "opc.tcp://user@plc", "Encrypt", 10_001, time.Millisecond, -1
	c.Password = passwordFile(t, "x")
	src := &protocols.SourceConfig{Tags: []protocols.Tag{
		{Name: "plant/a", Address: "ns=2;s=A", Type: "double"}, {Name: "plant/b", Address: "B", Type: "real", Order: "ABCD", Length: 4},
	}}
	want := []string{"connection.url", "connection.trust_dir", "connection.certificate", "connection.mode", "connection.user", "connection.queue_size",
		"connection.timeout", "connection.publishing_interval", "tags[1].address", "tags[1].order", "tags[1].length", "tags[1].type"}
	var got []string
	for _, f := range c.Validate(src) {
		got = append(got, f.Path)
		if f.Problem == "" || f.Hint == "" || strings.Contains(f.Problem+f.Hint, "\n") {
			t.Errorf("%+v is no fault for an operator", f)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.pem")
	write(t, there, []byte("x"))
	secured := func(c *Config) {
		c.Security, c.TrustDir, c.Certificate, c.Key = securityBasic256, dir, there, there
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string // path of the only fault; empty for none
	}{
		{"none", func(*Config) {}, ""},
		{"secured", secured, ""},
		{"no url", func(c *Config) { c.URL = "" }, "connection.url"},
		{"http", func(c *Config) { c.URL = "http://plc:4840" }, "connection.url"},
		{"no host", func(c *Config) { c.URL = "opc.tcp://:4840" }, "connection.url"},
		{"password over none", func(c *Config) { c.User, c.Password = "u", passwordFile(t, "p") }, "connection.password"},
		{"password over none, accepted", func(c *Config) { c.User, c.Password, c.InsecurePassword = "u", passwordFile(t, "p"), true }, ""},
		{"password secured", func(c *Config) { secured(c); c.User, c.Password = "u", passwordFile(t, "p") }, ""},
		{"old policy", func(c *Config) { c.Security = "Basic256" }, "connection.security"},
		{"no trust list", func(c *Config) { secured(c); c.TrustDir = "" }, "connection.trust_dir"},
		{"key is looked for when it is used", func(c *Config) { secured(c); c.Key = filepath.Join(dir, "gone") }, ""},
		{"sign", func(c *Config) { secured(c); c.Mode = modeSign }, ""},
		{"no queue", func(c *Config) { c.QueueSize = 0 }, "connection.queue_size"},
		{"long timeout", func(c *Config) { c.Timeout = time.Hour }, "connection.timeout"},
	} {
		cfg := testConfig("opc.tcp://plc")
		c.change(cfg)
		faults := cfg.Validate(source1(map[string]string{"plant/a": "ns=2;s=A"}))
		if c.want == "" && len(faults) > 0 || c.want != "" && (len(faults) != 1 || faults[0].Path != c.want) {
			t.Errorf("%s: got %+v, want %q", c.name, faults, c.want)
		}
	}
	if f := testConfig("opc.tcp://plc").Validate(&protocols.SourceConfig{}); len(f) != 1 || f[0].Path != "tags" {
		t.Errorf("no tags: got %+v", f)
	}
}

func TestLinkKeyTellsLinksApart(t *testing.T) {
	seen := map[string]bool{}
	for _, change := range []func(*Config){
		func(*Config) {}, func(c *Config) { c.URL = "opc.tcp://other" }, func(c *Config) { c.Security = securityBasic256 },
		func(c *Config) { c.Security, c.Mode = securityBasic256, modeSign }, func(c *Config) { c.User = "u" },
	} {
		c := testConfig("opc.tcp://plc")
		change(c)
		if seen[c.LinkKey()] {
			t.Errorf("%s twice", c.LinkKey())
		}
		seen[c.LinkKey()] = true
	}
}

func TestURLWithoutPortGetsTheStandardOne(t *testing.T) {
	for url, want := range map[string]string{
		"opc.tcp://plc": "opc.tcp://plc:4840", "opc.tcp://plc/UA/Server": "opc.tcp://plc:4840/UA/Server",
		"opc.tcp://[::1]": "opc.tcp://[::1]:4840", "opc.tcp://plc:53530": "opc.tcp://plc:53530",
	} {
		if got := open(t, testConfig(url), new(logs)).url; got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
}
