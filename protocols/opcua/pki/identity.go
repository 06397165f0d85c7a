// Package pki is the certificates of OPC UA: the trust list that the other
// side's are checked against, and the gateway's own.
package pki

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// ownLifetime is that of a certificate that we make.
const ownLifetime = 20 * 365 * 24 * time.Hour

// ApplicationURI names the gateway of a site, on a host, among OPC UA's
// applications.
func ApplicationURI(host, site string) *url.URL {
	return &url.URL{Scheme: "urn", Opaque: url.PathEscape(host) + ":millrace:" + url.PathEscape(site)}
}

// Files are where the gateway's own certificate and key are, in PEM or DER.
type Files struct {
	Certificate, Key string
	// Auto makes both, self-signed, where they are missing: for Hosts, names or
	// addresses, beside this machine's own name.
	Auto  bool
	Hosts []string
}

// Identity is the gateway's own certificate and key.
type Identity struct {
	Cert []byte // DER, the leaf first where it is a chain
	Leaf *x509.Certificate
	Key  *rsa.PrivateKey
	URI  string // of the application, from the certificate
}

// Load reads the gateway's certificate, or makes one.
func (c Files) Load(site string, now time.Time) (*Identity, error) {
	if c.Auto {
		if _, err := os.Stat(c.Certificate); errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(c.Key); !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("the key %s is there and its certificate %s is not, so none is made: bring the certificate back, or move the key away", c.Key, c.Certificate)
			}
			if err := c.make(site, now); err != nil {
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
	certs, err := x509.ParseCertificates(cert)
	if err == nil && len(certs) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.Certificate, err)
	}
	leaf := certs[0]
	if len(leaf.URIs) == 0 {
		return nil, fmt.Errorf("certificate %s has no application URI among its alternative names; make one with auto_certificate: true", c.Certificate)
	}
	if public, ok := leaf.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(&private.PublicKey) {
		return nil, fmt.Errorf("certificate %s and key %s do not belong together", c.Certificate, c.Key)
	}
	return &Identity{Cert: cert, Leaf: leaf, Key: private, URI: leaf.URIs[0].String()}, nil
}

// make writes a self-signed application instance certificate: OPC
// 10000-6, 6.2.2 (the application URI is among the alternative names).
func (c Files) make(site string, now time.Time) error {
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
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "millrace " + site, Organization: []string{"millrace"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(ownLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{ApplicationURI(host, site)}, DNSNames: []string{host}, BasicConstraintsValid: true,
	}
	for _, h := range c.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != host {
			template.DNSNames = append(template.DNSNames, h)
		}
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
		os.MkdirAll(filepath.Dir(c.Key), 0o750), os.MkdirAll(filepath.Dir(c.Certificate), 0o750),
		os.WriteFile(c.Key, keyPEM, 0o600), os.WriteFile(c.Certificate, certPEM, 0o644)) // the certificate is public
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
