package results

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
)

// ParseKey reads a private key: the base64 of the 48 bytes of its DER form
// (PKCS #8, RFC 8410), which `openssl genpkey -algorithm ed25519 -outform DER`
// writes, or of its bare 32 bytes. Its errors do not repeat the text.
func ParseKey(text string) (ed25519.PrivateKey, error) {
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(data) == 0 {
		return nil, errors.New("the private key is not base64 on one line; make it by `openssl genpkey -algorithm ed25519 -outform DER | base64 -w0`")
	}
	if len(data) == ed25519.SeedSize {
		return ed25519.NewKeyFromSeed(data), nil
	}
	key, err := x509.ParsePKCS8PrivateKey(data)
	private, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("the private key is none of Ed25519; make it by `openssl genpkey -algorithm ed25519 -outform DER | base64 -w0`")
	}
	return private, nil
}

// PublicText is a key's public half, as the sites' mirror.keys takes it.
func PublicText(private ed25519.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
}
