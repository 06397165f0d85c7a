// Package server is the gateway's own OPC UA server, `type: opcua_server`: it
// shows the mirror's results and live tags to SCADA systems that prefer to
// read. It is read-only, checks certificates against a trust list and users by
// their passwords, and shows a value that must not be used as Bad.
//
// It stands on gopcua/opcua's types, encoding and cryptography; channel,
// sessions and services are its own (docs/adr/0019).
package server

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/internal/secret"
	"millrace/protocols"
	"millrace/protocols/opcua/pki"
	"millrace/sample"
)

// Protocol is the protocol `type: opcua_server`.
type Protocol struct{}

// Type implements protocols.Protocol.
func (Protocol) Type() string { return "opcua_server" }

// NewConfig implements protocols.Protocol.
func (Protocol) NewConfig() protocols.Config {
	return &Config{
		Listen:   "127.0.0.1:4840",
		Policies: []string{policyBasic256, policyAes128}, Modes: []string{modeSign, modeEncrypt},
		MaxSessions: 20, MaxSubscriptions: 50, MaxItems: 20_000,
		MinSampling: 100 * time.Millisecond, MaxSessionTimeout: time.Hour,
	}
}

// The words of the settings.
const (
	policyBasic256 = "Basic256Sha256"
	policyAes128   = "Aes128_Sha256_RsaOaep"
	modeSign       = "Sign"
	modeEncrypt    = "SignAndEncrypt"
)

// Config is what `connection:` of the server holds.
type Config struct {
	// Listen is address and port.
	Listen string `yaml:"listen"`
	// Hosts are the names or addresses by which clients reach the server, beside
	// the machine's own name. They stand in a certificate that is made here; the
	// first is in the endpoints' URL where a client has dialled none.
	Hosts []string `yaml:"hosts"`
	// Name is what clients see; "millrace SITE" where empty.
	Name string `yaml:"name"`
	// Policies are the security policies that are offered, Modes the modes.
	Policies []string `yaml:"policies"`
	Modes    []string `yaml:"modes"`
	// AllowNone offers sessions without security as well. Without it a channel
	// without security can ask for the endpoints, and nothing else.
	AllowNone bool `yaml:"allow_none"`
	// Certificate and Key are the server's own, in PEM or DER.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
	// AutoCertificate makes both, self-signed, where they are missing.
	AutoCertificate bool `yaml:"auto_certificate"`
	// TrustDir holds the certificates of the clients, or of the authorities that
	// signed them, that are trusted. Unknown ones are put in its folder rejected.
	TrustDir string `yaml:"trust_dir"`
	Users    []User `yaml:"users"`
	// Anonymous lets clients in without a user.
	Anonymous bool `yaml:"anonymous"`
	// InsecurePassword takes passwords over security None.
	InsecurePassword bool `yaml:"insecure_password"`
	// Insecure lets sessions without security in from beyond this machine.
	Insecure bool `yaml:"insecure"`
	// The bounds, for all clients together: sessions 1 to 1000, subscriptions 1 to
	// 10000, monitored items 1 to 1000000.
	MaxSessions      int `yaml:"max_sessions"`
	MaxSubscriptions int `yaml:"max_subscriptions"`
	MaxItems         int `yaml:"max_items"`
	// MinSampling is the shortest sampling and publishing interval, 10ms to 1m.
	MinSampling time.Duration `yaml:"min_sampling"`
	// MaxSessionTimeout is how long a silent session lives at most, 10s to 24h.
	MaxSessionTimeout time.Duration `yaml:"max_session_timeout"`
}

// User may log in.
type User struct {
	Name     string     `yaml:"name"`
	Password secret.Ref `yaml:"password"`
}

// policyURI returns the policy of a word of the settings.
func policyURI(word string) (string, bool) {
	switch word {
	case policyBasic256:
		return ua.SecurityPolicyURIBasic256Sha256, true
	case policyAes128:
		return ua.SecurityPolicyURIAes128Sha256RsaOaep, true
	}
	return "", false
}

func modeOf(word string) (ua.MessageSecurityMode, bool) {
	switch word {
	case modeSign:
		return ua.MessageSecurityModeSign, true
	case modeEncrypt:
		return ua.MessageSecurityModeSignAndEncrypt, true
	}
	return 0, false
}

// secured reports whether endpoints with security are offered.
func (c *Config) secured() bool { return c.Certificate != "" }

// Validate implements protocols.Config.
func (c *Config) Validate(src *protocols.SourceConfig) []protocols.Fault {
	var out []protocols.Fault
	fault := func(path, problem, hint string) {
		out = append(out, protocols.Fault{Path: path, Problem: problem, Hint: hint})
	}
	loopback := c.checkListen(fault)
	c.checkSecurity(loopback, fault)
	c.checkUsers(fault)
	bounds := func(path string, n, low, high int) {
		if n < low || n > high {
			fault("connection."+path, fmt.Sprintf("%d is not between %d and %d", n, low, high), "leave it out for the default")
		}
	}
	bounds("max_sessions", c.MaxSessions, 1, 1000)
	bounds("max_subscriptions", c.MaxSubscriptions, 1, 10_000)
	bounds("max_items", c.MaxItems, 1, 1_000_000)
	if c.MinSampling < 10*time.Millisecond || c.MinSampling > time.Minute {
		fault("connection.min_sampling", fmt.Sprintf("%s is not between 10ms and 1m", c.MinSampling), "100ms is good for most plants")
	}
	if c.MaxSessionTimeout < 10*time.Second || c.MaxSessionTimeout > 24*time.Hour {
		fault("connection.max_session_timeout", fmt.Sprintf("%s is not between 10s and 24h", c.MaxSessionTimeout), "1h is good for most plants")
	}
	places := map[string]int{}
	for i, t := range src.Tags {
		at := fmt.Sprintf("tags[%d].", i)
		node := liveNode(t)
		if err := checkNode(node); err != nil {
			fault(at+"address", err.Error(), "write s=some.name, or leave it out for s="+t.Name)
		}
		if other, ok := places[node]; ok {
			fault(at+"address", fmt.Sprintf("%q is tags[%d]'s already", node, other), "give each tag a node of its own")
		}
		places[node] = i
		if t.Order != "" {
			fault(at+"order", "has no meaning for OPC UA", "leave it out")
		}
		if t.Length != 0 {
			fault(at+"length", "has no meaning for OPC UA", "leave it out")
		}
		if _, ok := dataTypes(t.Type); !ok {
			fault(at+"type", fmt.Sprintf("%q is not a type that the server shows", t.Type), "leave it out, or write one of "+typeWords)
		}
	}
	return out
}

type faulter = func(path, problem, hint string)

func (c *Config) checkListen(fault faulter) (loopback bool) {
	host, port, err := net.SplitHostPort(c.Listen)
	if n, atoiErr := strconv.Atoi(port); err != nil || atoiErr != nil || n < 0 || n > 65535 {
		fault("connection.listen", fmt.Sprintf("%q is not an address with a port", c.Listen), "write 127.0.0.1:4840, or 0.0.0.0:4840 for all interfaces")
		return true
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *Config) checkSecurity(loopback bool, fault faulter) {
	if (c.Certificate == "") != (c.Key == "") {
		fault("connection.certificate", "certificate and key belong together, and one is missing", "name both files; with auto_certificate: true they are made")
	}
	if !c.secured() && !c.AllowNone {
		fault("connection.certificate", "is missing, and allow_none is false, so nobody could connect", "name certificate and key; with auto_certificate: true they are made")
	}
	if c.secured() && c.TrustDir == "" {
		fault("connection.trust_dir", "is missing", "name a folder for the clients' certificates")
	}
	if c.secured() && len(c.Policies) == 0 {
		fault("connection.policies", "there are none", "leave it out for "+policyBasic256+" and "+policyAes128)
	}
	for i, p := range c.Policies {
		if _, ok := policyURI(p); !ok {
			fault(fmt.Sprintf("connection.policies[%d]", i), fmt.Sprintf("%q is not a security policy that is supported", p), "write "+policyBasic256+" or "+policyAes128+"; for none there is allow_none")
		}
	}
	if c.secured() && len(c.Modes) == 0 {
		fault("connection.modes", "there are none", "leave it out for Sign and SignAndEncrypt")
	}
	for i, m := range c.Modes {
		if _, ok := modeOf(m); !ok {
			fault(fmt.Sprintf("connection.modes[%d]", i), fmt.Sprintf("%q is not a mode", m), "write Sign or SignAndEncrypt")
		}
	}
	if c.AllowNone && !loopback && !c.Insecure {
		fault("connection.allow_none", "lets everybody who reaches "+c.Listen+" read, and change what is read on the way", "set allow_none: false, listen on 127.0.0.1, or accept it with insecure: true")
	}
}

func (c *Config) checkUsers(fault faulter) {
	if len(c.Users) == 0 && !c.Anonymous {
		fault("connection.users", "there are none, and anonymous is false, so nobody could log in", "list users with their passwords, or set anonymous: true")
	}
	for i, u := range c.Users {
		at := fmt.Sprintf("connection.users[%d].", i)
		if u.Name == "" || len(u.Name) > maxUserName {
			fault(at+"name", fmt.Sprintf("is empty or longer than %d bytes", maxUserName), "give the user a name")
		}
		if slices.ContainsFunc(c.Users[:i], func(o User) bool { return o.Name == u.Name }) {
			fault(at+"name", fmt.Sprintf("%q stands there twice", u.Name), "list each user once")
		}
		if u.Password.IsZero() {
			fault(at+"password", "is missing", "write credential:NAME, file:/path or env:NAME")
		}
	}
	if len(c.Users) > 0 && c.AllowNone && !c.secured() && !c.InsecurePassword {
		fault("connection.users", "over security None everybody on the network can read their passwords, and there is no other endpoint", "name certificate and key, or accept it with insecure_password: true")
	}
}

// LinkKey implements protocols.Config.
func (c *Config) LinkKey() string { return "opcua_server " + c.Listen }

// Serves implements protocols.Sourceless.
func (c *Config) Serves() bool { return true }

// Open implements protocols.Config.
func (c *Config) Open(s protocols.Settings) (protocols.Connection, error) {
	return newServer(*c, s), nil
}

func (c *Config) files() pki.Files {
	hosts := slices.Clone(c.Hosts)
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && host != "" && !slices.Contains(hosts, host) {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
			hosts = append(hosts, host)
		}
	}
	return pki.Files{Certificate: c.Certificate, Key: c.Key, Auto: c.AutoCertificate, Hosts: hosts}
}

// NewTarget implements protocols.Writable.
func (c *Config) NewTarget() protocols.TargetConfig { return new(TargetConfig) }

// TargetConfig is what `write:` of a target on the server holds.
type TargetConfig struct {
	// Address is the node id, s=name; s=mirror/TARGET where empty.
	Address string `yaml:"address"`

	info protocols.TargetInfo
}

// Describe implements protocols.Described.
func (t *TargetConfig) Describe(info protocols.TargetInfo) { t.info = info }

func (t *TargetConfig) node() string {
	if t.Address != "" {
		return strings.TrimPrefix(t.Address, "s=")
	}
	return mirrorFolder + "/" + t.info.Name
}

// Validate implements protocols.TargetConfig.
func (t *TargetConfig) Validate(kind sample.Kind) []protocols.Fault {
	var out []protocols.Fault
	if t.Address == "" && t.info.Name == "" {
		out = append(out, protocols.Fault{Path: "address", Problem: "is missing", Hint: "write s=some.name"})
	} else if err := checkAddress(t.Address, t.node()); err != nil {
		out = append(out, protocols.Fault{Path: "address", Problem: err.Error(), Hint: "write s=some.name, or leave it out for s=mirror/ and the target's name"})
	}
	if kind == sample.Null {
		out = append(out, protocols.Fault{Path: "type", Problem: "null is not a type that the server shows", Hint: "write float64, int64, bool or string as the target's type"})
	}
	return out
}

// Places implements protocols.TargetConfig.
func (t *TargetConfig) Places() []string { return []string{"s=" + t.node()} }
