package modbus

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// ServerProtocol is the gateway's own Modbus TCP server, which SCADA systems
// read mirror targets and live tags from. Nothing can be written to it.
type ServerProtocol struct{}

// Type implements protocols.Protocol.
func (ServerProtocol) Type() string { return "modbus_server" }

// NewConfig implements protocols.Protocol.
func (ServerProtocol) NewConfig() protocols.Config {
	return &ServerConfig{
		Listen:         "127.0.0.1:1502",
		Slaves:         []int{1},
		MaxConnections: 16,
		IdleTimeout:    time.Minute,
		ByteOrder:      "big",
		WordOrder:      "big",
	}
}

// ServerConfig is what `connection:` of a Modbus server holds.
type ServerConfig struct {
	// Listen is host:port; 127.0.0.1:1502 by default.
	Listen string `yaml:"listen"`
	// Insecure allows listening beyond this machine: Modbus TCP has neither
	// passwords nor encryption. Allow is required with it.
	Insecure bool `yaml:"insecure"`
	// Allow lists the networks whose clients are answered, as in 192.0.2.0/28.
	// Where it is empty, on loopback, all are.
	Allow []string `yaml:"allow"`
	// Slaves are the unit ids that are answered, 0 to 247 or 255. The first is
	// that of addresses that name none.
	Slaves []int `yaml:"slaves"`
	// MaxConnections is how many clients may be connected, 1 to 1000, shared out
	// among their addresses; IdleTimeout
	// is how long one may ask nothing, 1s to 1h.
	MaxConnections int           `yaml:"max_connections"`
	IdleTimeout    time.Duration `yaml:"idle_timeout"`
	// HeartbeatAddress is a register that counts while the mirror lives; none
	// where it is empty.
	HeartbeatAddress string `yaml:"heartbeat_address"`
	// ByteOrder within a register and WordOrder of several registers are big or
	// little. An order of a tag or a target overrides both.
	ByteOrder string `yaml:"byte_order"`
	WordOrder string `yaml:"word_order"`
	// AddressBase is the offset of the first register of a table: 0 or 1.
	AddressBase int `yaml:"address_base"`

	// shown is what Validate has found at the addresses of tags and heartbeat,
	// so that targets are held against it.
	shown *registerMap
}

// LinkKey implements protocols.Config.
func (c *ServerConfig) LinkKey() string { return "modbus_server " + c.Listen }

// Serves implements protocols.Sourceless.
func (c *ServerConfig) Serves() bool { return true }

// addressing returns the settings by which addresses are parsed, with those
// that make no sense replaced, so that one fault is not reported everywhere.
func (c *ServerConfig) addressing() *Config {
	a := Protocol{}.NewConfig().(*Config)
	a.ByteOrder, a.WordOrder = c.ByteOrder, c.WordOrder
	if len(c.Slaves) > 0 && validSlave(c.Slaves[0]) {
		a.Slave = c.Slaves[0]
	}
	if c.AddressBase == 1 {
		a.AddressBase = 1
	}
	return a
}

func (c *ServerConfig) loopback() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// networks returns Allow as it was parsed.
func (c *ServerConfig) networks() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for i, text := range c.Allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return nil, fmt.Errorf("allow[%d] %q is not a network", i, text)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// Validate implements protocols.Config. The tags are those that are shown.
func (c *ServerConfig) Validate(src *protocols.SourceConfig) []protocols.Fault {
	faults := c.faults()
	m := newRegisterMap()
	if c.HeartbeatAddress != "" {
		p, found := c.heartbeatPoint()
		for _, f := range found {
			f.Path = "connection.heartbeat_address"
			faults = append(faults, f)
		}
		if len(found) == 0 {
			_ = m.put([]*item{{point: p, name: "the server's heartbeat"}}) // it is the first
		}
	}
	c.shown = m
	for i, tag := range src.Tags {
		items, found := c.tagItems(tag)
		if len(found) == 0 {
			if err := m.put(items); err != nil {
				found = []protocols.Fault{{Path: "address", Problem: err.Error(), Hint: "give each value registers of its own"}}
			}
		}
		for _, f := range found {
			f.Path = fmt.Sprintf("tags[%d].%s", i, f.Path)
			faults = append(faults, f)
		}
	}
	return faults
}

// faults reports what is wrong with the server's own settings.
func (c *ServerConfig) faults() []protocols.Fault {
	var faults []protocols.Fault
	add := func(bad bool, field, problem, hint string) {
		if bad {
			faults = append(faults, protocols.Fault{Path: "connection." + field, Problem: problem, Hint: hint})
		}
	}
	host, port, err := net.SplitHostPort(c.Listen)
	n, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || portErr != nil:
		add(true, "listen", fmt.Sprintf("listen %q is not host:port", c.Listen), "write 127.0.0.1:1502, or an address of this machine that the SCADA system reaches")
	case host != "" && host != "localhost" && net.ParseIP(host) == nil:
		add(true, "listen", fmt.Sprintf("listen %q: the host is not an IP address of this machine", c.Listen), "write the address itself, or 0.0.0.0 for all")
	case !c.loopback():
		add(n == 0, "listen", fmt.Sprintf("listen %q: a port of 0 is another one at each start", c.Listen), "give a port from 1 to 65535")
		add(!c.Insecure, "insecure", fmt.Sprintf("listen %s can be reached from other machines, and Modbus TCP has neither passwords nor encryption: whoever reaches it reads every value", c.Listen),
			"set insecure: true and allow, where the network itself is safe; or use an opcua_server")
		add(len(c.Allow) == 0, "allow", fmt.Sprintf("listen %s can be reached from other machines, and nothing says which may ask", c.Listen),
			"list the SCADA system's addresses, as in [192.0.2.10, 192.0.2.16/28]")
	}
	if _, err := c.networks(); err != nil {
		add(true, "allow", err.Error(), "write an address or a network, as in 192.0.2.10 or 192.0.2.16/28")
	}
	add(len(c.Slaves) == 0, "slaves", "no unit id is answered", "leave it out for [1]")
	for i, s := range c.Slaves {
		add(!validSlave(s), "slaves", fmt.Sprintf("slave %d is not a unit id", s), "use 0 to 247, or 255")
		add(slices.Contains(c.Slaves[:i], s), "slaves", fmt.Sprintf("slave %d is listed twice", s), "list each once")
	}
	add(c.MaxConnections < 1 || c.MaxConnections > 1000, "max_connections", fmt.Sprintf("max_connections %d is not 1 to 1000", c.MaxConnections), "leave it out for 16")
	add(c.IdleTimeout < time.Second || c.IdleTimeout > time.Hour, "idle_timeout", fmt.Sprintf("idle_timeout %s is not 1s to 1h", c.IdleTimeout), "leave it out for 1m")
	for _, o := range []struct{ field, value string }{{"byte_order", c.ByteOrder}, {"word_order", c.WordOrder}} {
		add(!strings.EqualFold(o.value, "big") && !strings.EqualFold(o.value, "little"), o.field,
			fmt.Sprintf("%s %q is not big or little", o.field, o.value), "big is the specification's")
	}
	add(c.AddressBase != 0 && c.AddressBase != 1, "address_base", fmt.Sprintf("address_base %d is not 0 or 1", c.AddressBase),
		"use 0 where the first register of a table is 0, 1 where the SCADA system's list starts at 1")
	return faults
}

// heartbeatPoint parses HeartbeatAddress.
func (c *ServerConfig) heartbeatPoint() (point, []protocols.Fault) {
	return c.register(c.HeartbeatAddress, "heartbeat_address", "")
}

// register parses the address of a single register that is not a value.
func (c *ServerConfig) register(address, key, order string) (point, []protocols.Fault) {
	p, faults := makePoint(protocols.Tag{Name: address, Address: address, Type: typeUint16.String(), Order: order}, 0, c.addressing(), 1)
	if len(faults) == 0 {
		faults = c.answered(&p, key)
	}
	for i := range faults {
		faults[i].Path = key
	}
	return p, faults
}

// answered reports that p is of a slave that the server does not answer for.
func (c *ServerConfig) answered(p *point, key string) []protocols.Fault {
	if slices.Contains(c.Slaves, int(p.slave)) {
		return nil
	}
	return []protocols.Fault{{Path: key, Problem: fmt.Sprintf("%s is of slave %d, which the server does not answer for", p.address, p.slave),
		Hint: "add it to connection.slaves, or leave the slave out"}}
}

// statusMark stands before the address of a tag's status register.
const statusMark = "status="

// tagItems parses a live tag: its value, and its status register where the
// address names one: "input:0 status=input:100".
func (c *ServerConfig) tagItems(tag protocols.Tag) ([]*item, []protocols.Fault) {
	var faults []protocols.Fault
	fault := func(path, problem, hint string) {
		faults = append(faults, protocols.Fault{Path: path, Problem: problem, Hint: hint})
	}
	address, rest, _ := strings.Cut(strings.TrimSpace(tag.Address), " ")
	tag.Address = address
	if tag.Type == typeString.String() {
		fault("type", "a string cannot be shown", "use a number, or a coil or discrete input for a bool")
		return nil, faults
	}
	p, found := makePoint(tag, 0, c.addressing(), 1)
	faults = append(faults, found...)
	switch {
	case len(found) > 0:
	case p.bit != noBit:
		fault("address", "a single bit of a register cannot be shown", "use a coil or a discrete input")
	default:
		faults = append(faults, c.answered(&p, "address")...)
	}
	value := &item{point: p, name: "tag " + tag.Name}
	items := []*item{value}
	if rest = strings.TrimSpace(rest); rest != "" {
		at, ok := strings.CutPrefix(rest, statusMark)
		if !ok {
			fault("address", fmt.Sprintf("%q behind the address is not known", rest), "write status=table:offset there, as in \"input:0 status=input:100\"")
			return nil, faults
		}
		s, found := c.register(at, "address", tag.Order)
		faults = append(faults, found...)
		items = append(items, &item{point: s, name: "status of tag " + tag.Name, statusOf: value})
	}
	return items, faults
}

// shownAt returns a tag, or the heartbeat, that has a register of p.
func (c *ServerConfig) shownAt(p *point) *item {
	for i := range p.size {
		if c.shown != nil && c.shown.items[p.spot(i)] != nil {
			return c.shown.items[p.spot(i)]
		}
	}
	return nil
}

// NewTarget implements protocols.Writable.
func (c *ServerConfig) NewTarget() protocols.TargetConfig {
	return &ServerTargetConfig{Block: defaultBlock(), server: *c}
}

// ServerTargetConfig is what `write:` of a mirror target holds for the server:
// where its clients read the value and what belongs to it.
type ServerTargetConfig struct {
	Block `yaml:",inline"`
	// StatusAddress is a register that says why the value cannot be read.
	StatusAddress string `yaml:"status_address"`

	server ServerConfig // of the connection
	kind   sample.Kind  // as Validate was told
	name   string       // as Describe was told
}

// Describe implements protocols.Described: messages name the target.
func (t *ServerTargetConfig) Describe(info protocols.TargetInfo) { t.name = info.Name }

// Validate implements protocols.TargetConfig.
func (t *ServerTargetConfig) Validate(kind sample.Kind) []protocols.Fault {
	t.kind = kind
	l, faults := t.layout(t.server.addressing(), kind, t.StatusAddress)
	if l.has(roleValue) {
		faults = append(faults, t.server.answered(&l.points[roleValue], "address")...)
	}
	for r := range roles {
		if other := t.server.shownAt(&l.points[r]); other != nil {
			faults = append(faults, protocols.Fault{Path: roleKeys[r], Problem: fmt.Sprintf("%s lies on %s, which is %s", l.points[r].address, other.address, other.name),
				Hint: "give each value registers of its own"})
		}
	}
	return faults
}

// Places implements protocols.TargetConfig.
func (t *ServerTargetConfig) Places() []string {
	l, _ := t.layout(t.server.addressing(), t.kind, t.StatusAddress)
	return l.places()
}
