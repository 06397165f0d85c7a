package opcua

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is a certificate with its key.
type authority struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wholeKey makes a key whose private exponent is as long as its modulus. One in
// about seven is shorter, and the server that these tests run against takes the
// exponent's length for that of a block when it decrypts a password
// (awcullen/opcua 1.4.0, server_service_set.go): it hangs up on every user then.
func wholeKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	for {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if len(key.D.Bytes()) == key.Size() {
			return key
		}
	}
}

// issue makes a certificate, self-signed where by is nil.
func issue(t testing.TB, name string, by *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	key := wholeKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, URIs: []*url.URL{{Scheme: "urn", Opaque: "test:" + name}},
	}
	if change != nil {
		change(template)
	}
	a := &authority{key: key}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func isCA(c *x509.Certificate) { c.IsCA = true }

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// files writes certificate and key as PEM.
func (a *authority) files(t testing.TB) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, a.pem())
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return cert, key
}

func TestTrust(t *testing.T) {
	root := issue(t, "plant root", nil, isCA)
	middle := issue(t, "plant line", root, isCA)
	uri := &url.URL{Scheme: "urn", Opaque: "test:line"}
	forLine := func(c *x509.Certificate) { c.URIs = []*url.URL{uri} }
	named := party{host: "127.0.0.1", uri: uri.String()}
	leaf := issue(t, "plc", root, forLine)
	deep := issue(t, "plc deep", middle, forLine)
	elsewhere := issue(t, "plc elsewhere", root, func(c *x509.Certificate) {
		forLine(c)
		c.IPAddresses, c.DNSNames = nil, []string{"plc7.plant"}
	})
	asName := issue(t, "plc as name", root, func(c *x509.Certificate) {
		forLine(c)
		c.IPAddresses, c.DNSNames = nil, []string{"127.0.0.1"}
	})
	nameless := issue(t, "plc nameless", root, func(c *x509.Certificate) {
		forLine(c)
		c.IPAddresses = nil
	})
	another := issue(t, "plc another", root, nil)
	alone := issue(t, "plc alone", nil, nil)
	stranger := issue(t, "stranger root", nil, isCA)
	old := issue(t, "plc old", nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	})
	for _, c := range []struct {
		name    string
		trusted map[string][]byte
		der     []byte
		want    string // a piece of the error
	}{
		{"leaf in DER", map[string][]byte{"plc.der": alone.cert.Raw}, alone.cert.Raw, ""},
		{"leaf in PEM", map[string][]byte{"plc.pem": alone.pem()}, alone.cert.Raw, ""},
		{"CA", map[string][]byte{"root.pem": root.pem()}, leaf.cert.Raw, ""},
		{"CA, with the chain", map[string][]byte{"root.pem": root.pem()}, append(append([]byte(nil), deep.cert.Raw...), middle.cert.Raw...), ""},
		{"CA, without the chain", map[string][]byte{"root.pem": root.pem()}, deep.cert.Raw, "is not in the trust list"},
		{"CA, of another host", map[string][]byte{"root.pem": root.pem()}, elsewhere.cert.Raw, `but for ["plc7.plant"] and not for 127.0.0.1`},
		{"CA, of no host", map[string][]byte{"root.pem": root.pem()}, nameless.cert.Raw, "and not for 127.0.0.1"},
		{"CA, an address written as a name", map[string][]byte{"root.pem": root.pem()}, asName.cert.Raw, ""},
		{"CA, of another application", map[string][]byte{"root.pem": root.pem()}, another.cert.Raw, `the application [urn:test:plc another] and not for "urn:test:line"`},
		{"of another host, itself in the list", map[string][]byte{"plc.der": elsewhere.cert.Raw}, elsewhere.cert.Raw, ""},
		{"of another application, itself in the list", map[string][]byte{"plc.der": another.cert.Raw, "root.pem": root.pem()}, another.cert.Raw, ""},
		{"another CA", map[string][]byte{"other.pem": stranger.pem()}, leaf.cert.Raw, "is not in the trust list"},
		{"a leaf signs nothing", map[string][]byte{"alone.pem": alone.pem()}, issue(t, "forged", alone, nil).cert.Raw, "is not in the trust list"},
		{"a chain vouches for nothing by itself", nil, append(append([]byte(nil), leaf.cert.Raw...), root.cert.Raw...), "is not in the trust list"},
		{"a trusted one behind a stranger", map[string][]byte{"plc.der": alone.cert.Raw}, append(append([]byte(nil), leaf.cert.Raw...), alone.cert.Raw...), "is not in the trust list"},
		{"no trust list", nil, alone.cert.Raw, "is not in the trust list"},
		{"trusted and expired", map[string][]byte{"old.der": old.cert.Raw}, old.cert.Raw, "renew it on the server, or set this machine's clock"},
		{"rubbish in the trust list", map[string][]byte{"notes.txt": []byte("hello")}, alone.cert.Raw, "notes.txt holds no certificate"},
		{"no certificate", nil, nil, "sent no certificate"},
		{"rubbish", nil, []byte("rubbish"), "does not read"},
	} {
		dir := filepath.Join(t.TempDir(), "trusted")
		if c.trusted != nil {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for name, data := range c.trusted {
			write(t, filepath.Join(dir, name), data)
		}
		leaf, err := trust(dir, c.der, named, time.Now())
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "%!"):
			t.Errorf("%s: %v", c.name, err)
		case (err == nil) != (len(leaf) > 0) || !bytes.HasPrefix(c.der, leaf):
			t.Errorf("%s: %d bytes of a leaf and %v", c.name, len(leaf), err)
		}
	}
}

// What the message tells an operator to do is done, word for word.
func TestAnUnknownCertificateIsTrustedByWhatTheMessageSays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trusted")
	plc := issue(t, "plc 7", nil, nil)
	_, err := trust(dir, plc.cert.Raw, party{}, time.Now())
	if err == nil {
		t.Fatal("an unknown certificate is trusted")
	}
	sum := sha256.Sum256(plc.cert.Raw)
	if !strings.Contains(err.Error(), `"plc 7" (SHA-256 `+hex.EncodeToString(sum[:])+")") {
		t.Errorf("neither name nor fingerprint in: %v", err)
	}
	_, command, ok := strings.Cut(err.Error(), "trust it by: mv ")
	words := strings.Fields(command)
	if !ok || len(words) != 2 {
		t.Fatalf("no mv in: %v", err)
	}
	if filepath.Dir(words[0]) != filepath.Join(dir, rejectedDir) {
		t.Errorf("it lies at %s", words[0])
	}
	if err := os.Rename(words[0], filepath.Join(words[1], filepath.Base(words[0]))); err != nil {
		t.Fatal(err)
	}
	if _, err := trust(dir, plc.cert.Raw, party{}, time.Now()); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestAutoCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	c := &Config{Certificate: filepath.Join(dir, "own.pem"), Key: filepath.Join(dir, "private", "own.pem"), AutoCertificate: true}
	first, err := loadIdentity(c, "plant 7", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(first.cert)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.URIs) != 1 || !strings.HasSuffix(cert.URIs[0].String(), ":millrace:plant%207") || cert.NotAfter.Before(time.Now().Add(10*365*24*time.Hour)) {
		t.Errorf("URIs %v, valid until %s", cert.URIs, cert.NotAfter)
	}
	if info, err := os.Stat(c.Key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
	again, err := loadIdentity(c, "plant 7", time.Now())
	if err != nil || string(again.cert) != string(first.cert) {
		t.Errorf("the second time it is another one, %v", err)
	}
}

func TestAutoCertificateSparesWhatIsThere(t *testing.T) {
	own := issue(t, "own", nil, nil)
	_, key := own.files(t)
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	c := &Config{Certificate: filepath.Join(t.TempDir(), "gone.pem"), Key: key, AutoCertificate: true}
	if _, err := loadIdentity(c, "plant", time.Now()); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(key); err != nil || string(after) != string(before) {
		t.Errorf("the operator's key is overwritten, %v", err)
	}
}

func TestIdentityFaults(t *testing.T) {
	own, other := issue(t, "own", nil, nil), issue(t, "other", nil, nil)
	noURI := issue(t, "no uri", nil, func(c *x509.Certificate) { c.URIs = nil })
	ownCert, ownKey := own.files(t)
	_, otherKey := other.files(t)
	noURICert, noURIKey := noURI.files(t)
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	write(t, rubbish, []byte("rubbish"))
	for _, c := range []struct{ name, cert, key, want string }{
		{"a pair", ownCert, ownKey, ""},
		{"another's key", ownCert, otherKey, "do not belong together"},
		{"no application URI", noURICert, noURIKey, "has no application URI"},
		{"rubbish key", ownCert, rubbish, "neither PKCS #8 nor PKCS #1"},
		{"rubbish certificate", rubbish, ownKey, rubbish},
		{"no certificate", filepath.Join(t.TempDir(), "gone"), ownKey, "gone"},
	} {
		_, err := loadIdentity(&Config{Certificate: c.cert, Key: c.key}, "plant", time.Now())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// Who shows a new certificate each time does not fill the disk.
func TestRejectedCertificatesAreBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trusted")
	aside := filepath.Join(dir, rejectedDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxRejected - 1 {
		write(t, filepath.Join(aside, fmt.Sprint(i)), nil)
	}
	last, over := issue(t, "last", nil, nil), issue(t, "over", nil, nil)
	for range 2 { // the last one that has room is found there again
		if _, err := trust(dir, last.cert.Raw, party{}, time.Now()); err == nil || !strings.Contains(err.Error(), "trust it by: mv ") {
			t.Errorf("got %v", err)
		}
	}
	_, err := trust(dir, over.cert.Raw, party{}, time.Now())
	if err == nil || !strings.Contains(err.Error(), "holds 100 files already, remove them") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if there, err := os.ReadDir(aside); err != nil || len(there) != maxRejected {
		t.Errorf("%d files, %v", len(there), err)
	}
}
