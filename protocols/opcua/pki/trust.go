package pki

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// RejectedDir is the folder, beside the trust list, that takes the certificates that are not
// trusted, so that an operator can look at one and move it.
const RejectedDir = "rejected"

// maxRejected bounds the certificates that are kept aside: who answers at the
// server's address could show a new one each time.
const maxRejected = 100

// Reason says why a certificate is not trusted.
type Reason uint8

// The reasons.
const (
	Missing   Reason = iota // none was sent
	Malformed               // it does not read
	Expired                 // not valid yet, or not any more
	Untrusted               // neither it nor its authority is in the trust list
	Misnamed                // its authority is, but it is for somebody or something else
)

// Error is a certificate that is not trusted, in an operator's words.
type Error struct {
	Reason Reason
	text   string
}

// Error implements error.
func (e *Error) Error() string { return e.text }

func errorf(r Reason, format string, args ...any) error {
	return &Error{Reason: r, text: fmt.Sprintf(format, args...)}
}

// Names tells whether a certificate that a trusted authority has signed is for
// the right application: it returns what is wrong with it, or "".
type Names func(leaf *x509.Certificate) string

// List is a trust list: a folder of certificates, of applications or of the
// authorities that signed them.
type List struct {
	Dir string
	// Whose is "server" or "client", the side whose certificates they are.
	Whose string
}

// Check checks a certificate (DER, the leaf first where it is a chain) against
// the trust list, and returns the leaf: OPC 10000-4, 6.1.3. What is not trusted
// is an *Error; others are of reading the list.
//
// One that stands in the list itself was compared by somebody and is that
// application's, whatever names are in it. An authority vouches for many
// devices, so there the names have to be this one's.
func (l List) Check(der []byte, names Names, now time.Time) ([]byte, error) {
	if len(der) == 0 {
		return nil, errorf(Missing, "the %s sent no certificate: give it one, or use another endpoint", l.Whose)
	}
	certs, err := x509.ParseCertificates(der)
	if err == nil && len(certs) == 0 {
		err = errors.New("nothing in it")
	}
	if err != nil {
		return nil, errorf(Malformed, "the %s's certificate does not read: %v: give the %s another one", l.Whose, err, l.Whose)
	}
	leaf := certs[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return nil, errorf(Expired, "the %s's certificate %q is valid from %s to %s only: renew it on the %s, or set this machine's clock",
			l.Whose, leaf.Subject.CommonName, leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly), l.Whose)
	}
	trusted, err := readTrusted(l.Dir)
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
		return nil, l.reject(Untrusted, leaf, "is not in the trust list "+l.Dir)
	}
	if wrong := names(leaf); wrong != "" {
		return nil, l.reject(Misnamed, leaf, "is signed by a trusted authority, but "+wrong)
	}
	return leaf.Raw, nil
}

// reject keeps the certificate aside and tells how it would be trusted.
func (l List) reject(r Reason, leaf *x509.Certificate, why string) error {
	short := sha1.Sum(leaf.Raw) // the thumbprint that OPC UA tools show
	full := sha256.Sum256(leaf.Raw)
	aside := filepath.Join(l.Dir, RejectedDir)
	path := filepath.Join(aside, hex.EncodeToString(short[:])+".der")
	what := fmt.Sprintf("the %s's certificate %q (SHA-256 %s) %s", l.Whose, leaf.Subject.CommonName, hex.EncodeToString(full[:]), why)
	if err := keep(aside, path, leaf.Raw); err != nil {
		return errorf(r, "%s, and could not be kept aside: %v; compare the fingerprint on the %s, then copy its certificate to %s", what, err, l.Whose, l.Dir)
	}
	return errorf(r, "%s; compare the fingerprint on the %s, then trust it by: mv %s %s", what, l.Whose, path, l.Dir)
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
