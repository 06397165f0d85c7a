package http

import (
	"strings"
	"testing"
	"time"

	"millrace/internal/secret"
	"millrace/internal/tlsfile"
	"millrace/protocols"
)

func TestDefaultsAreGood(t *testing.T) {
	if faults := (Protocol{}).NewConfig().Validate(&protocols.SourceConfig{Name: "lab"}); len(faults) != 0 {
		t.Errorf("%+v", faults)
	}
}

func TestFaultyConfigs(t *testing.T) {
	token := []secret.Ref{ref(t, "token")}
	for _, c := range []struct {
		change func(*Config)
		tags   []protocols.Tag
		want   string
	}{
		{func(c *Config) { c.Listen = "8080" }, nil, `connection.listen: listen "8080" is not host:port; write 127.0.0.1:8080, or 0.0.0.0:8443 for every network of this machine`},
		{func(c *Config) { c.Listen = "127.0.0.1:http" }, nil, `connection.listen: listen "127.0.0.1:http" is not host:port; write 127.0.0.1:8080, or 0.0.0.0:8443 for every network of this machine`},
		{func(c *Config) { c.Listen = "sensor.example:80"; c.Tokens = token; c.Insecure = true }, nil,
			`connection.listen: listen "sensor.example:80": the host is not an IP address of this machine; write the address itself, or 0.0.0.0 for all`},
		{func(c *Config) { c.Listen = ":8080" }, nil,
			"connection.tokens: listen :8080 can be reached from other machines, and no token is asked for; list tokens, such as credential:sensors, or listen on 127.0.0.1\n" +
				"connection.tls: listen :8080 can be reached from other machines, and tokens and values would go over the network in the clear; set tls.cert and tls.key; or insecure: true, where the network itself is safe"},
		{func(c *Config) { c.Listen = "[::]:8443"; c.TLS = tlsfile.Server{Cert: "c", Key: "k"} }, nil,
			"connection.tokens: listen [::]:8443 can be reached from other machines, and no token is asked for; list tokens, such as credential:sensors, or listen on 127.0.0.1"},
		{func(c *Config) { c.Listen = "192.0.2.1:0"; c.Tokens = token; c.Insecure = true }, nil,
			`connection.listen: listen "192.0.2.1:0": a port of 0 is another one at each start; give a port from 1 to 65535`},
		{func(c *Config) { c.Tokens = []secret.Ref{{}} }, nil, "connection.tokens[0]: the token is empty; write credential:NAME, file:/path or env:NAME"},
		{func(c *Config) { c.TLS.Cert = "c" }, nil, "connection.tls: tls has not both cert and key; set both to PEM files"},
		{func(c *Config) { c.Accept = "all" }, nil, `connection.accept: accept "all" is not known; write any or configured`},
		{func(c *Config) { c.Accept = acceptConfigured }, nil, "tags: accept is configured and there are no tags; list tags, or write accept: any"},
		{func(c *Config) { c.MaxBody, c.MaxRate, c.ReadTimeout = 1, -1, 0 }, nil,
			"connection.max_body: max_body 1B is not 1KiB to 64MiB; leave it out for the default\n" +
				"connection.max_rate: max_rate -1 is not 0 to 1000000; leave it out for the default\n" +
				"connection.read_timeout: read_timeout 0s is not 100ms to 10m; leave it out for the default"},
		{func(*Config) {}, []protocols.Tag{{Address: "a"}, {}, {Address: "a", Type: "float", Order: "CDAB", Length: 2, ScanRate: time.Second}},
			"tags[1].address: the address is empty; write the name by which requests call this tag\n" +
				`tags[2].address: address "a" is that of tags[0] too; give each tag a name of its own` + "\n" +
				"tags[2].type: type has no meaning for HTTP; leave it out: values come with their type\n" +
				"tags[2].order: order has no meaning for HTTP; leave it out\n" +
				"tags[2].length: length has no meaning for HTTP; leave it out\n" +
				"tags[2].scan_rate: a tag of HTTP has no scan rate of its own; leave it out: values come when they are sent"},
	} {
		cfg := Protocol{}.NewConfig().(*Config)
		c.change(cfg)
		var got []string
		for _, f := range cfg.Validate(&protocols.SourceConfig{Name: "lab", Tags: c.tags}) {
			got = append(got, f.Path+": "+f.Problem+"; "+f.Hint)
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("got\n%s\nwant\n%s", text, c.want)
		}
	}
}

func TestOpenToOthersIsAllowed(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) { c.TLS = tlsfile.Server{Cert: "c", Key: "k"} },
		func(c *Config) { c.Insecure = true },
	} {
		cfg := Protocol{}.NewConfig().(*Config)
		cfg.Listen = "0.0.0.0:8443"
		cfg.Tokens = []secret.Ref{ref(t, "token")}
		change(cfg)
		if faults := cfg.Validate(&protocols.SourceConfig{Name: "lab"}); len(faults) != 0 {
			t.Errorf("%+v", faults)
		}
	}
}
