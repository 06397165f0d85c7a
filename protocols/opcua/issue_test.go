package opcua

import (
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"millrace/protocols/opcua/pki/pkitest"
)

// authority is a certificate with its key.
type authority struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// issue makes a certificate, self-signed where by is nil.
func issue(t testing.TB, name string, by *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	var signer *pkitest.Authority
	if by != nil {
		signer = by.whole()
	}
	a := pkitest.Issue(t, name, signer, change)
	return &authority{cert: a.Cert, key: a.Key}
}

func (a *authority) whole() *pkitest.Authority {
	return &pkitest.Authority{Cert: a.cert, Key: a.key}
}

func isCA(c *x509.Certificate) { pkitest.IsCA(c) }

func (a *authority) pem() []byte { return a.whole().PEM() }

// files writes certificate and key as PEM.
func (a *authority) files(t testing.TB) (cert, key string) {
	t.Helper()
	return a.whole().Files(t)
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	pkitest.Write(t, path, data)
}
