// Package http takes samples by HTTP and HTTPS: POST /v1/samples with a JSON
// body or with SenML (RFC 8428). A request is answered with 200 only once its
// samples are durable.
package http

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"millrace/internal/bytesize"
	"millrace/internal/secret"
	"millrace/internal/tlsfile"
	"millrace/protocols"
	"millrace/sample"
)

// Protocol is the HTTP protocol.
type Protocol struct{}

// Type implements protocols.Protocol.
func (Protocol) Type() string { return "http" }

// NewConfig implements protocols.Protocol.
func (Protocol) NewConfig() protocols.Config {
	return &Config{
		Listen:          "127.0.0.1:8080",
		MaxBody:         1 * bytesize.MiB,
		MaxDecompressed: 4 * bytesize.MiB,
		MaxSamples:      10000,
		MaxRequests:     32,
		ReadTimeout:     10 * time.Second,
		CommitTimeout:   10 * time.Second,
		IdleTimeout:     time.Minute,
	}
}

// The words of the setting accept.
const (
	acceptAny        = "any"
	acceptConfigured = "configured"
)

// Config is what `connection:` of an HTTP source holds.
type Config struct {
	// Listen is host:port; 127.0.0.1:8080 by default.
	Listen string `yaml:"listen"`
	// TLS makes the source listen by HTTPS.
	TLS tlsfile.Server `yaml:"tls"`
	// Tokens are the bearer tokens that let a request in (RFC 6750, 2.1).
	Tokens []secret.Ref `yaml:"tokens"`
	// Insecure allows listening beyond this machine without TLS.
	Insecure bool `yaml:"insecure"`
	// Accept is configured (only the source's tags) or any. Where it is empty
	// it is any when the source has no tags, and configured when it has.
	Accept string `yaml:"accept"`
	// MaxBody bounds a request's body as it is sent, MaxDecompressed what a
	// gzip body becomes, and MaxSamples what it holds.
	MaxBody         bytesize.Size `yaml:"max_body"`
	MaxDecompressed bytesize.Size `yaml:"max_decompressed"`
	MaxSamples      int           `yaml:"max_samples"`
	// MaxRequests is how many requests are handled at once.
	MaxRequests int `yaml:"max_requests"`
	// MaxRate is how many requests per second are taken; 0 is no limit.
	MaxRate int `yaml:"max_rate"`
	// ReadTimeout bounds the reading of a request, CommitTimeout the wait until
	// its samples are durable, IdleTimeout the wait for a next request.
	ReadTimeout   time.Duration `yaml:"read_timeout"`
	CommitTimeout time.Duration `yaml:"commit_timeout"`
	IdleTimeout   time.Duration `yaml:"idle_timeout"`
}

// LinkKey implements protocols.Config.
func (c *Config) LinkKey() string { return "http " + c.Listen }

// loopback reports whether the listener is out of reach of other machines.
func (c *Config) loopback() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Validate implements protocols.Config.
func (c *Config) Validate(src *protocols.SourceConfig) []protocols.Fault {
	var faults []protocols.Fault
	add := func(bad bool, path, problem, hint string) {
		if bad {
			faults = append(faults, protocols.Fault{Path: path, Problem: problem, Hint: hint})
		}
	}
	host, port, err := net.SplitHostPort(c.Listen)
	n, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || portErr != nil:
		add(true, "connection.listen", fmt.Sprintf("listen %q is not host:port", c.Listen), "write 127.0.0.1:8080, or 0.0.0.0:8443 for every network of this machine")
	case n == 0 && !c.loopback():
		add(true, "connection.listen", fmt.Sprintf("listen %q: a port of 0 is another one at each start", c.Listen), "give a port from 1 to 65535")
	case !c.loopback():
		add(len(c.Tokens) == 0, "connection.tokens", fmt.Sprintf("listen %s can be reached from other machines, and no token is asked for", c.Listen),
			"list tokens, such as credential:sensors, or listen on 127.0.0.1")
		add(c.TLS.IsZero() && !c.Insecure, "connection.tls", fmt.Sprintf("listen %s can be reached from other machines, and tokens and values would go over the network in the clear", c.Listen),
			"set tls.cert and tls.key; or insecure: true, where the network itself is safe")
	}
	if !c.TLS.IsZero() {
		add(c.TLS.Cert == "" || c.TLS.Key == "", "connection.tls", "tls has not both cert and key", "set both to PEM files")
	}
	add(host != "" && net.ParseIP(host) == nil && host != "localhost" && err == nil, "connection.listen",
		fmt.Sprintf("listen %q: the host is not an IP address of this machine", c.Listen), "write the address itself, or 0.0.0.0 for all")
	for i, t := range c.Tokens {
		add(t.IsZero(), fmt.Sprintf("connection.tokens[%d]", i), "the token is empty", "write credential:NAME, file:/path or env:NAME")
	}
	add(c.Accept != "" && c.Accept != acceptAny && c.Accept != acceptConfigured, "connection.accept",
		fmt.Sprintf("accept %q is not known", c.Accept), "write any or configured")
	add(c.Accept == acceptConfigured && len(src.Tags) == 0, "tags", "accept is configured and there are no tags", "list tags, or write accept: any")
	c.limitFaults(add)
	seen := map[string]int{}
	for i := range src.Tags {
		t := &src.Tags[i]
		path := fmt.Sprintf("tags[%d]", i)
		first, twice := seen[t.Address]
		seen[t.Address] = i
		add(t.Address == "", path+".address", "the address is empty", "write the name by which requests call this tag")
		add(twice && t.Address != "", path+".address", fmt.Sprintf("address %q is that of tags[%d] too", t.Address, first), "give each tag a name of its own")
		add(t.Type != "", path+".type", "type has no meaning for HTTP", "leave it out: values come with their type")
		add(t.Order != "", path+".order", "order has no meaning for HTTP", "leave it out")
		add(t.Length != 0, path+".length", "length has no meaning for HTTP", "leave it out")
		add(t.ScanRate != 0, path+".scan_rate", "a tag of HTTP has no scan rate of its own", "leave it out: values come when they are sent")
	}
	return faults
}

func (c *Config) limitFaults(add func(bad bool, path, problem, hint string)) {
	size := func(field string, v, least, most bytesize.Size) {
		add(v < least || v > most, "connection."+field, fmt.Sprintf("%s %s is not %s to %s", field, v, least, most), "leave it out for the default")
	}
	size("max_body", c.MaxBody, bytesize.KiB, 64*bytesize.MiB)
	size("max_decompressed", c.MaxDecompressed, bytesize.KiB, 256*bytesize.MiB)
	count := func(field string, v, least, most int) {
		add(v < least || v > most, "connection."+field, fmt.Sprintf("%s %d is not %d to %d", field, v, least, most), "leave it out for the default")
	}
	count("max_samples", c.MaxSamples, 1, 1_000_000)
	count("max_requests", c.MaxRequests, 1, 10_000)
	count("max_rate", c.MaxRate, 0, 1_000_000)
	limit := func(field string, v time.Duration) {
		add(v < 100*time.Millisecond || v > 10*time.Minute, "connection."+field, fmt.Sprintf("%s %s is not 100ms to 10m", field, v), "leave it out for the default")
	}
	limit("read_timeout", c.ReadTimeout)
	limit("commit_timeout", c.CommitTimeout)
	limit("idle_timeout", c.IdleTimeout)
}

// names turns the names in requests into full tag names. It is read-only.
type names struct {
	site, device string
	configured   map[string]string // address to full name
	any          bool
}

func newNames(c *Config, site string, src *protocols.SourceConfig) *names {
	n := &names{site: site, device: src.Device, configured: make(map[string]string, len(src.Tags)),
		any: c.Accept == acceptAny || c.Accept == "" && len(src.Tags) == 0}
	if n.device == "" {
		n.device = src.Name
	}
	for i := range src.Tags {
		n.configured[src.Tags[i].Address] = src.Tags[i].Name
	}
	return n
}

// full returns the full name of a name: that of a configured tag; a full name
// of this site as it is; else site/device/name or site/source/name.
func (n *names) full(name []byte) (string, error) {
	if full, ok := n.configured[string(name)]; ok {
		return full, nil
	}
	if !n.any {
		return "", fmt.Errorf("tag %q is not configured", clip(name))
	}
	if len(name) > len(n.site) && name[len(n.site)] == '/' && string(name[:len(n.site)]) == n.site {
		if tag := string(name); sample.CheckTag(tag) == nil {
			return tag, nil
		}
	}
	tag := sample.JoinTag(n.site, n.device, string(name))
	if err := sample.CheckTag(tag); err != nil {
		return "", err
	}
	return tag, nil
}

func clip(b []byte) string {
	const most = 60
	if len(b) > most {
		return string(b[:most]) + "..."
	}
	return string(b)
}
