package results

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	// RFC 8032, section 7.1, test 1.
	seed := []byte("\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60")
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(seed))
	if err != nil || len(der) != 48 {
		t.Fatal(len(der), err)
	}
	for _, data := range [][]byte{seed, der} {
		private, err := ParseKey(base64.StdEncoding.EncodeToString(data) + "\n")
		if err != nil || PublicText(private) != "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" {
			t.Error(err)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKCS8PrivateKey(other); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "hunter2 hunter2", "-----BEGIN PRIVATE KEY-----", base64.StdEncoding.EncodeToString(seed[1:]), base64.StdEncoding.EncodeToString(der)} {
		if _, err := ParseKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "openssl") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
