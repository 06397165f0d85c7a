package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/protocols/opcua/pki/pkitest"
)

func servers(dir string) List { return List{Dir: dir, Whose: "server"} }

func TestTrust(t *testing.T) {
	root := pkitest.Issue(t, "plant root", nil, pkitest.IsCA)
	middle := pkitest.Issue(t, "plant line", root, pkitest.IsCA)
	uri := &url.URL{Scheme: "urn", Opaque: "test:line"}
	forLine := func(c *x509.Certificate) { c.URIs = []*url.URL{uri} }
	named := func(leaf *x509.Certificate) string {
		if slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == uri.String() }) {
			return ""
		}
		return fmt.Sprintf("for the application %v", leaf.URIs)
	}
	leaf := pkitest.Issue(t, "plc", root, forLine)
	deep := pkitest.Issue(t, "plc deep", middle, forLine)
	another := pkitest.Issue(t, "plc another", root, nil)
	alone := pkitest.Issue(t, "plc alone", nil, nil)
	stranger := pkitest.Issue(t, "stranger root", nil, pkitest.IsCA)
	old := pkitest.Issue(t, "plc old", nil, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	})
	for _, c := range []struct {
		name    string
		trusted map[string][]byte
		der     []byte
		want    string // a piece of the error
	}{
		{"leaf in DER", map[string][]byte{"plc.der": alone.Cert.Raw}, alone.Cert.Raw, ""},
		{"leaf in PEM", map[string][]byte{"plc.pem": alone.PEM()}, alone.Cert.Raw, ""},
		{"CA", map[string][]byte{"root.pem": root.PEM()}, leaf.Cert.Raw, ""},
		{"CA, with the chain", map[string][]byte{"root.pem": root.PEM()}, append(append([]byte(nil), deep.Cert.Raw...), middle.Cert.Raw...), ""},
		{"CA, without the chain", map[string][]byte{"root.pem": root.PEM()}, deep.Cert.Raw, "is not in the trust list"},
		{"CA, of another application", map[string][]byte{"root.pem": root.PEM()}, another.Cert.Raw, "is signed by a trusted authority, but for the application [urn:test:plc another]"},
		{"of another application, itself in the list", map[string][]byte{"plc.der": another.Cert.Raw, "root.pem": root.PEM()}, another.Cert.Raw, ""},
		{"another CA", map[string][]byte{"other.pem": stranger.PEM()}, leaf.Cert.Raw, "is not in the trust list"},
		{"a leaf signs nothing", map[string][]byte{"alone.pem": alone.PEM()}, pkitest.Issue(t, "forged", alone, nil).Cert.Raw, "is not in the trust list"},
		{"a chain vouches for nothing by itself", nil, append(append([]byte(nil), leaf.Cert.Raw...), root.Cert.Raw...), "is not in the trust list"},
		{"a trusted one behind a stranger", map[string][]byte{"plc.der": alone.Cert.Raw}, append(append([]byte(nil), leaf.Cert.Raw...), alone.Cert.Raw...), "is not in the trust list"},
		{"no trust list", nil, alone.Cert.Raw, "is not in the trust list"},
		{"trusted and expired", map[string][]byte{"old.der": old.Cert.Raw}, old.Cert.Raw, "renew it on the server, or set this machine's clock"},
		{"rubbish in the trust list", map[string][]byte{"notes.txt": []byte("hello")}, alone.Cert.Raw, "notes.txt holds no certificate"},
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
			pkitest.Write(t, filepath.Join(dir, name), data)
		}
		leaf, err := servers(dir).Check(c.der, named, time.Now())
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
	plc := pkitest.Issue(t, "plc 7", nil, nil)
	_, err := servers(dir).Check(plc.Cert.Raw, anyName, time.Now())
	if err == nil {
		t.Fatal("an unknown certificate is trusted")
	}
	sum := sha256.Sum256(plc.Cert.Raw)
	if !strings.Contains(err.Error(), `"plc 7" (SHA-256 `+hex.EncodeToString(sum[:])+")") {
		t.Errorf("neither name nor fingerprint in: %v", err)
	}
	_, command, ok := strings.Cut(err.Error(), "trust it by: mv ")
	words := strings.Fields(command)
	if !ok || len(words) != 2 {
		t.Fatalf("no mv in: %v", err)
	}
	if filepath.Dir(words[0]) != filepath.Join(dir, RejectedDir) {
		t.Errorf("it lies at %s", words[0])
	}
	if err := os.Rename(words[0], filepath.Join(words[1], filepath.Base(words[0]))); err != nil {
		t.Fatal(err)
	}
	if _, err := servers(dir).Check(plc.Cert.Raw, anyName, time.Now()); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestAutoCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	c := Files{Certificate: filepath.Join(dir, "own.pem"), Key: filepath.Join(dir, "private", "own.pem"), Auto: true}
	first, err := c.Load("plant 7", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(first.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.URIs) != 1 || !strings.HasSuffix(cert.URIs[0].String(), ":millrace:plant%207") || cert.NotAfter.Before(time.Now().Add(10*365*24*time.Hour)) {
		t.Errorf("URIs %v, valid until %s", cert.URIs, cert.NotAfter)
	}
	if info, err := os.Stat(c.Key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
	again, err := c.Load("plant 7", time.Now())
	if err != nil || string(again.Cert) != string(first.Cert) {
		t.Errorf("the second time it is another one, %v", err)
	}
}

func TestAutoCertificateSparesWhatIsThere(t *testing.T) {
	own := pkitest.Issue(t, "own", nil, nil)
	_, key := own.Files(t)
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	c := Files{Certificate: filepath.Join(t.TempDir(), "gone.pem"), Key: key, Auto: true}
	if _, err := c.Load("plant", time.Now()); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(key); err != nil || string(after) != string(before) {
		t.Errorf("the operator's key is overwritten, %v", err)
	}
}

func TestIdentityFaults(t *testing.T) {
	own, other := pkitest.Issue(t, "own", nil, nil), pkitest.Issue(t, "other", nil, nil)
	noURI := pkitest.Issue(t, "no uri", nil, func(c *x509.Certificate) { c.URIs = nil })
	ownCert, ownKey := own.Files(t)
	_, otherKey := other.Files(t)
	noURICert, noURIKey := noURI.Files(t)
	rubbish := filepath.Join(t.TempDir(), "rubbish")
	pkitest.Write(t, rubbish, []byte("rubbish"))
	for _, c := range []struct{ name, cert, key, want string }{
		{"a pair", ownCert, ownKey, ""},
		{"another's key", ownCert, otherKey, "do not belong together"},
		{"no application URI", noURICert, noURIKey, "has no application URI"},
		{"rubbish key", ownCert, rubbish, "neither PKCS #8 nor PKCS #1"},
		{"rubbish certificate", rubbish, ownKey, rubbish},
		{"no certificate", filepath.Join(t.TempDir(), "gone"), ownKey, "gone"},
	} {
		_, err := Files{Certificate: c.cert, Key: c.key}.Load("plant", time.Now())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// Who shows a new certificate each time does not fill the disk.
func TestRejectedCertificatesAreBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trusted")
	aside := filepath.Join(dir, RejectedDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxRejected - 1 {
		pkitest.Write(t, filepath.Join(aside, fmt.Sprint(i)), nil)
	}
	last, over := pkitest.Issue(t, "last", nil, nil), pkitest.Issue(t, "over", nil, nil)
	for range 2 { // the last one that has room is found there again
		if _, err := servers(dir).Check(last.Cert.Raw, anyName, time.Now()); err == nil || !strings.Contains(err.Error(), "trust it by: mv ") {
			t.Errorf("got %v", err)
		}
	}
	_, err := servers(dir).Check(over.Cert.Raw, anyName, time.Now())
	if err == nil || !strings.Contains(err.Error(), "holds 100 files already, remove them") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if there, err := os.ReadDir(aside); err != nil || len(there) != maxRejected {
		t.Errorf("%d files, %v", len(there), err)
	}
}

// anyName takes every one.
func anyName(*x509.Certificate) string { return "" }
