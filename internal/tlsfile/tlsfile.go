// Package tlsfile builds TLS settings from PEM files. Certificates are always
// verified; there is no switch to turn that off.
package tlsfile

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// Client is the YAML form of a client's TLS settings.
type Client struct {
	// CA is a PEM file with the authorities to trust; empty means the system's.
	CA string `yaml:"ca"`
	// Cert and Key are the client's own certificate, where the server asks for one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ServerName is checked in place of the host that is dialled.
	ServerName string `yaml:"server_name"`
}

// Config reads the files. The result asks for TLS 1.2 or later.
func (c Client) Config() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CA != "" {
		pool, err := pool(c.CA)
		if err != nil {
			return nil, err
		}
		out.RootCAs = pool
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, fmt.Errorf("tls: cert and key go together; only one of them is set")
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("tls: certificate %s with key %s: %w", c.Cert, c.Key, err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// Server is the YAML form of a listener's TLS settings.
type Server struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA makes clients show a certificate that one of these signed.
	ClientCA string `yaml:"client_ca"`
}

// IsZero reports whether TLS is not configured.
func (s Server) IsZero() bool { return s == Server{} }

// Config reads the files. The result asks for TLS 1.2 or later.
func (s Server) Config() (*tls.Config, error) {
	if s.Cert == "" || s.Key == "" {
		return nil, fmt.Errorf("tls: a listener needs both cert and key")
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: certificate %s with key %s: %w", s.Cert, s.Key, err)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if s.ClientCA != "" {
		pool, err := pool(s.ClientCA)
		if err != nil {
			return nil, err
		}
		out.ClientCAs, out.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return out, nil
}

func pool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("tls: authority file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls: %s holds no PEM certificate", path)
	}
	return pool, nil
}
