package opcua

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// rejectedDir, beside the trust list, takes the certificates that are not
// trusted, so that an operator can look at one and move it.
const rejectedDir = "rejected"

// ownLifetime is that of a certificate that we make.
const ownLifetime = 20 * 365 * 24 * time.Hour

// maxRejected bounds the certificates that are kept aside: who answers at the
// server's address could show a new one each time.
const maxRejected = 100

// party is whom a certificate has to name.
type party struct {
	host string // as it is dialled
	uri  string // of the server's application, as it tells it
}

// trust checks a server's certificate (DER, the leaf first where it is a
// chain) against the trust list, and returns the leaf: OPC 10000-4, 6.1.3.
//
// One that stands in the list itself was compared by somebody and is that
// server's, whatever names are in it. An authority vouches for many devices, so
// there the names have to be this one's.
func trust(dir string, der []byte, of party, now time.Time) ([]byte, error) {
	if len(der) == 0 {
		return nil, errors.New("the server sent no certificate: give it one, or use another endpoint")
	}
	certs, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, fmt.Errorf("the server's certificate does not read: %w: give the server another one", err)
	}
	leaf := certs[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the server's certificate is valid from %s to %s only: renew it on the server, or set this machine's clock",
			leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly))
	}
	trusted, err := readTrusted(dir)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	for _, t := range trusted {
		if bytes.Equal(t.Raw, leaf.Raw) {
			return leaf.Raw, nil
		}
		if t.IsCA {
			roots.AddCert(t)
		}
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, reject(dir, leaf, "is not in the trust list "+dir)
	}
	if wrong := of.mismatch(leaf); wrong != "" {
		return nil, reject(dir, leaf, wrong)
	}
	return leaf.Raw, nil
}

// mismatch says which of the names is not the certificate's: OPC 10000-4, 6.1.3,
// host name and URI.
func (p party) mismatch(leaf *x509.Certificate) string {
	// Some tools write an address as if it were a name.
	named := slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, p.host) })
	if !named && leaf.VerifyHostname(p.host) != nil {
		return fmt.Sprintf("is signed by a trusted authority, but for %s and not for %s, which connection.url names", hosts(leaf), p.host)
	}
	if !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == p.uri }) {
		return fmt.Sprintf("is signed by a trusted authority, but for the application %v and not for %q, as the server calls itself", leaf.URIs, p.uri)
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

// reject keeps the certificate aside and tells how it would be trusted.
func reject(dir string, leaf *x509.Certificate, why string) error {
	short := sha1.Sum(leaf.Raw) // the thumbprint that OPC UA tools show
	full := sha256.Sum256(leaf.Raw)
	aside := filepath.Join(dir, rejectedDir)
	path := filepath.Join(aside, hex.EncodeToString(short[:])+".der")
	what := fmt.Sprintf("the server's certificate %q (SHA-256 %s) %s", leaf.Subject.CommonName, hex.EncodeToString(full[:]), why)
	if err := keep(aside, path, leaf.Raw); err != nil {
		return fmt.Errorf("%s, and could not be kept aside: %w; compare the fingerprint on the server, then copy its certificate there", what, err)
	}
	return fmt.Errorf("%s; compare the fingerprint on the server, then trust it by: mv %s %s", what, path, dir)
}

// keep writes a certificate that is not there yet, where there is room.
func keep(dir, path string, der []byte) error {
	if _, err := os.Stat(path); err == nil {
		return nil // it is tried again and again
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(there) >= maxRejected {
		return fmt.Errorf("%s holds %d files already, remove them", dir, len(there))
	}
	return os.WriteFile(path, der, 0o640)
}

// readTrusted reads every certificate in the trust list, DER or PEM.
func readTrusted(dir string) ([]*x509.Certificate, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trust list: %w", err)
	}
	var out []*x509.Certificate
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		der, err := readDER(path)
		if err != nil {
			return nil, fmt.Errorf("trust list: %w", err)
		}
		certs, err := x509.ParseCertificates(der)
		if err != nil {
			return nil, fmt.Errorf("trust list: %s holds no certificate: %w; take the file away", path, err)
		}
		out = append(out, certs...)
	}
	return out, nil
}

// readDER reads a file in DER, or what its PEM blocks hold.
func readDER(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var der []byte
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		der = append(der, b.Bytes...)
	}
	if der == nil {
		return data, nil
	}
	return der, nil
}

// identity is the gateway's own certificate and key.
type identity struct {
	cert []byte // DER
	key  *rsa.PrivateKey
}

// loadIdentity reads the gateway's certificate, or makes one.
func loadIdentity(c *Config, site string, now time.Time) (*identity, error) {
	if c.AutoCertificate {
		if _, err := os.Stat(c.Certificate); errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(c.Key); !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("the key %s is there and its certificate %s is not, so none is made: bring the certificate back, or move the key away", c.Key, c.Certificate)
			}
			if err := makeIdentity(c.Certificate, c.Key, site, now); err != nil {
				return nil, fmt.Errorf("make the certificate %s: %w", c.Certificate, err)
			}
		}
	}
	cert, err := readDER(c.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyDER, err := readDER(c.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	var key any
	if key, err = x509.ParsePKCS8PrivateKey(keyDER); err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(keyDER); err != nil {
			return nil, fmt.Errorf("key %s: neither PKCS #8 nor PKCS #1: %w", c.Key, err)
		}
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key %s is a %T; OPC UA's Basic256Sha256 needs an RSA key", c.Key, key)
	}
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.Certificate, err)
	}
	if len(leaf.URIs) == 0 {
		return nil, fmt.Errorf("certificate %s has no application URI among its alternative names; make one with auto_certificate: true", c.Certificate)
	}
	if public, ok := leaf.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(&private.PublicKey) {
		return nil, fmt.Errorf("certificate %s and key %s do not belong together", c.Certificate, c.Key)
	}
	return &identity{cert: cert, key: private}, nil
}

// makeIdentity writes a self-signed application instance certificate: OPC
// 10000-6, 6.2.2 (the application URI is among the alternative names).
func makeIdentity(certPath, keyPath, site string, now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	uri := &url.URL{Scheme: "urn", Opaque: url.PathEscape(host) + ":millrace:" + url.PathEscape(site)}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "millrace " + site, Organization: []string{"millrace"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(ownLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{uri}, DNSNames: []string{host}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(filepath.Dir(keyPath), 0o750), os.MkdirAll(filepath.Dir(certPath), 0o750),
		os.WriteFile(keyPath, keyPEM, 0o600), os.WriteFile(certPath, certPEM, 0o644)) // the certificate is public
}
