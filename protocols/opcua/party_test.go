package opcua

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
)

func TestPartyMismatch(t *testing.T) {
	root := issue(t, "plant root", nil, isCA)
	forLine := func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "urn", Opaque: "test:line"}} }
	named := party{host: "127.0.0.1", uri: "urn:test:line"}
	for _, c := range []struct {
		name   string
		change func(*x509.Certificate)
		want   string
	}{
		{"its host and application", forLine, ""},
		{"of another host", func(c *x509.Certificate) {
			forLine(c)
			c.IPAddresses, c.DNSNames = nil, []string{"plc7.plant"}
		}, `for ["plc7.plant"] and not for 127.0.0.1`},
		{"of no host", func(c *x509.Certificate) {
			forLine(c)
			c.IPAddresses = nil
		}, "and not for 127.0.0.1"},
		{"an address written as a name", func(c *x509.Certificate) {
			forLine(c)
			c.IPAddresses, c.DNSNames = nil, []string{"127.0.0.1"}
		}, ""},
		{"of another application", nil, `the application [urn:test:plc] and not for "urn:test:line"`},
	} {
		got := named.mismatch(issue(t, "plc", root, c.change).cert)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
