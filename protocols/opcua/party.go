package opcua

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// party is whom a server's certificate has to name.
type party struct {
	host string // as it is dialled
	uri  string // of the server's application, as it tells it
}

// mismatch says which of the names is not the certificate's: OPC 10000-4, 6.1.3,
// host name and URI.
func (p party) mismatch(leaf *x509.Certificate) string {
	// Some tools write an address as if it were a name.
	named := slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, p.host) })
	if !named && leaf.VerifyHostname(p.host) != nil {
		return fmt.Sprintf("for %s and not for %s, which connection.url names", hosts(leaf), p.host)
	}
	if !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == p.uri }) {
		return fmt.Sprintf("for the application %v and not for %q, as the server calls itself", leaf.URIs, p.uri)
	}
	return ""
}

// hosts lists the hosts that a certificate is for.
func hosts(leaf *x509.Certificate) string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return fmt.Sprintf("%q", names)
}
