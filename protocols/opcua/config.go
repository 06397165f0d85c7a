// Package opcua reads and writes OPC UA servers, by subscription, on
// gopcua/opcua. The library verifies no certificate and can fall silent when
// it reconnects by itself; both are done here: a trust list of our own, and a
// fresh client for each connection, with a watchdog on its silence.
package opcua

import (
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/internal/secret"
	"millrace/protocols"
	"millrace/protocols/opcua/pki"
)

// Protocol is the protocol `type: opcua`.
type Protocol struct{}

// Type implements protocols.Protocol.
func (Protocol) Type() string { return "opcua" }

// NewConfig implements protocols.Protocol.
func (Protocol) NewConfig() protocols.Config {
	return &Config{Security: securityBasic256, Mode: modeEncrypt, QueueSize: 10, Timeout: 10 * time.Second}
}

// The words of the settings.
const (
	securityNone     = "None"
	securityBasic256 = "Basic256Sha256"
	modeSign         = "Sign"
	modeEncrypt      = "SignAndEncrypt"
)

// defaultPort is that of opc.tcp, OPC 10000-6, 7.2.
const defaultPort = "4840"

// Config is what `connection:` of an OPC UA source holds.
type Config struct {
	// URL is opc.tcp://host:port/path. What the server advertises of itself is
	// not dialled: it is often a name that only the server's network knows.
	URL string `yaml:"url"`
	// Security is Basic256Sha256 or None, Mode Sign or SignAndEncrypt. There is
	// no falling back to less than what stands here.
	Security string `yaml:"security"`
	Mode     string `yaml:"mode"`
	// Certificate and Key are the gateway's own, in PEM or DER. The certificate
	// needs an application URI among its alternative names.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// AutoCertificate makes both, self-signed, where they are missing.
	AutoCertificate bool `yaml:"auto_certificate"`
	// TrustDir holds the certificates of the servers, or of the authorities
	// that signed them, that are trusted. Unknown ones are put beside it.
	TrustDir string     `yaml:"trust_dir"`
	User     string     `yaml:"user"`
	Password secret.Ref `yaml:"password"`
	// InsecurePassword lets the password go over security None.
	InsecurePassword bool `yaml:"insecure_password"`
	// PublishingInterval is the source's scan rate where 0.
	PublishingInterval time.Duration `yaml:"publishing_interval"`
	// QueueSize is how many values of a tag the server keeps between two
	// publishes, 1 to 10000.
	QueueSize int `yaml:"queue_size"`
	// Timeout bounds connecting and each request; 10s by default.
	Timeout time.Duration `yaml:"timeout"`
}

// Validate implements protocols.Config.
func (c *Config) Validate(src *protocols.SourceConfig) []protocols.Fault {
	var out []protocols.Fault
	fault := func(path, problem, hint string) {
		out = append(out, protocols.Fault{Path: path, Problem: problem, Hint: hint})
	}
	if c.URL == "" {
		fault("connection.url", "is missing", "write opc.tcp://host:4840")
	} else if u, err := url.Parse(c.URL); err != nil || u.Scheme != "opc.tcp" || u.Hostname() == "" || u.User != nil {
		fault("connection.url", fmt.Sprintf("%q is not the URL of an OPC UA server", c.URL), "write opc.tcp://host:4840; user and password have keys of their own")
	}
	switch c.Security {
	case securityNone:
		if !c.Password.IsZero() && !c.InsecurePassword {
			fault("connection.password", "over security None everybody on the network can read it", "use security Basic256Sha256, or accept it with insecure_password: true")
		}
	case securityBasic256:
		if c.TrustDir == "" {
			fault("connection.trust_dir", "is missing", "name a folder for the server's certificate, or write security: None")
		}
		if c.Certificate == "" || c.Key == "" {
			fault("connection.certificate", "certificate and key are missing", "name both files; with auto_certificate: true they are made")
		}
	default:
		fault("connection.security", fmt.Sprintf("%q is not a security policy that is supported", c.Security), "write Basic256Sha256 or None")
	}
	if c.Mode != modeSign && c.Mode != modeEncrypt {
		fault("connection.mode", fmt.Sprintf("%q is not a mode", c.Mode), "write Sign or SignAndEncrypt")
	}
	if c.User == "" && !c.Password.IsZero() {
		fault("connection.user", "is missing", "a password needs its user")
	}
	if c.QueueSize < 1 || c.QueueSize > 10_000 {
		fault("connection.queue_size", fmt.Sprintf("%d is not between 1 and 10000", c.QueueSize), "10 is good for most servers")
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 5*time.Minute {
		fault("connection.timeout", fmt.Sprintf("%s is not between 100ms and 5m", c.Timeout), "10s is good for most servers")
	}
	if c.PublishingInterval < 0 || c.PublishingInterval > time.Hour {
		fault("connection.publishing_interval", fmt.Sprintf("%s is not between 0s and 1h", c.PublishingInterval), "leave it out for the scan rate")
	}
	if len(src.Tags) == 0 {
		fault("tags", "there are none, so nothing would be read", "list the nodes to read")
	}
	for i, t := range src.Tags {
		at := fmt.Sprintf("tags[%d].", i)
		if _, err := parseAddress(t.Address); err != nil {
			fault(at+"address", err.Error(), "write it as the server shows it: ns=2;s=Line1.Temp, ns=3;i=1001 or nsu=http://vendor/;s=X")
		}
		if t.Order != "" {
			fault(at+"order", "has no meaning for OPC UA", "leave it out")
		}
		if t.Length != 0 {
			fault(at+"length", "has no meaning for OPC UA", "leave it out")
		}
		if t.Type != "" {
			if _, ok := typeIDs[t.Type]; !ok {
				fault(at+"type", fmt.Sprintf("%q is not an OPC UA type", t.Type), "leave it out, or write one of "+typeNames)
			}
		}
	}
	return out
}

// LinkKey implements protocols.Config.
func (c *Config) LinkKey() string {
	key := "opcua " + c.URL + " " + c.Security
	if c.Security != securityNone {
		key += " " + c.Mode
	}
	if c.User != "" {
		key += " as " + c.User
	}
	return key
}

// Highest implements protocols.Spanned. The type of a tag that names none is the
// server's to say, when it is read.
func (c *Config) Highest(t *protocols.Tag) float64 { return highest[t.Type] }

// Location implements protocols.Located.
func (c *Config) Location() string { return "opcua " + c.URL }

// Open implements protocols.Config.
func (c *Config) Open(s protocols.Settings) (protocols.Connection, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("opcua: url: %w", err)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), defaultPort)
	}
	conn := &connection{cfg: *c, url: u.String(), host: u.Hostname(), site: s.Site, log: s.Log, clock: s.Clock, silence: minSilence}
	conn.writing.conn, conn.writing.turn = conn, make(chan struct{}, 1)
	return conn, nil
}

func (c *Config) mode() ua.MessageSecurityMode {
	switch {
	case c.Security == securityNone:
		return ua.MessageSecurityModeNone
	case c.Mode == modeSign:
		return ua.MessageSecurityModeSign
	}
	return ua.MessageSecurityModeSignAndEncrypt
}

func (c *Config) policy() string {
	if c.Security == securityNone {
		return ua.SecurityPolicyURINone
	}
	return ua.SecurityPolicyURIBasic256Sha256
}

// trusted is the list of the servers that are trusted.
func (c *Config) trusted() pki.List { return pki.List{Dir: c.TrustDir, Whose: "server"} }

// files are the gateway's own.
func (c *Config) files() pki.Files {
	return pki.Files{Certificate: c.Certificate, Key: c.Key, Auto: c.AutoCertificate}
}
