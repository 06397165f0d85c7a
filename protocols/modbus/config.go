// Package modbus reads and writes devices by Modbus TCP, and is a server of its
// own for SCADA systems that read. The specifications that its comments cite
// are the MODBUS Application Protocol Specification V1.1b3 and the MODBUS
// Messaging on TCP/IP Implementation Guide V1.0b.
//
// The requests are built by goburrow/modbus; the transport is this package's
// own, since an answer must never be taken for that of another request.
package modbus

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"millrace/protocols"
)

// Protocol is the Modbus TCP protocol.
type Protocol struct{}

// Type implements protocols.Protocol.
func (Protocol) Type() string { return "modbus" }

// NewConfig implements protocols.Protocol.
func (Protocol) NewConfig() protocols.Config {
	return &Config{
		Slave:        1,
		Timeout:      time.Second,
		ByteOrder:    "big",
		WordOrder:    "big",
		MaxRegisters: specRegisters,
		MaxCoils:     specCoils,
		MaxGap:       8,
	}
}

// The most that one read may ask for: V1.1b3, 6.1 and 6.3.
const (
	specRegisters = 125
	specCoils     = 2000
)

// Config is what `connection:` of a Modbus source holds.
type Config struct {
	// URL is tcp://host:port; the port is 502 where it is left out.
	URL string `yaml:"url"`
	// Slave is the unit id of addresses that name none: 0 to 247, or 255.
	Slave int `yaml:"slave"`
	// Timeout is how long one request may take; 1s by default.
	Timeout time.Duration `yaml:"timeout"`
	// ConnectTimeout is how long connecting may take; Timeout where 0.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// ByteOrder within a register and WordOrder of several registers are big
	// or little. A tag's order overrides both.
	ByteOrder string `yaml:"byte_order"`
	WordOrder string `yaml:"word_order"`
	// AddressBase is the offset of the first register of a table: 0 or 1.
	AddressBase int `yaml:"address_base"`
	// MaxRegisters (1 to 125) and MaxCoils (1 to 2000) bound one request.
	MaxRegisters int `yaml:"max_registers"`
	MaxCoils     int `yaml:"max_coils"`
	// MaxGap is how many registers (times 16: coils) may be read in vain so
	// that neighbours share a request.
	MaxGap int `yaml:"max_gap"`
	// Pause is the shortest time between two requests on the link.
	Pause time.Duration `yaml:"pause"`
	// IdleReconnect makes a connection that was idle for so long be opened
	// anew before it is used; 0 is never.
	IdleReconnect time.Duration `yaml:"idle_reconnect"`
}

// hostPort returns the address to dial.
func (c *Config) hostPort() (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return "", fmt.Errorf("url %q is not a URL", c.URL)
	}
	if u.Scheme != "tcp" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return "", fmt.Errorf("url %q is not tcp://host:port", c.URL)
	}
	port := u.Port()
	if port == "" {
		port = "502"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("url %q: port %q is not 1 to 65535", c.URL, port)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Highest implements protocols.Spanned.
func (c *Config) Highest(t *protocols.Tag) float64 {
	p, faults := makePoint(*t, 0, c, time.Second)
	s, whole := spans[p.typ]
	if len(faults) > 0 || !whole {
		return 0
	}
	return s.high - 1
}

func (c *Config) order() order {
	return order{
		swapBytes: strings.EqualFold(c.ByteOrder, "little"),
		swapWords: strings.EqualFold(c.WordOrder, "little"),
	}
}

func (c *Config) limits() limits {
	return limits{registers: c.MaxRegisters, bits: c.MaxCoils, gap: c.MaxGap}
}

func (c *Config) connectTimeout() time.Duration {
	if c.ConnectTimeout > 0 {
		return c.ConnectTimeout
	}
	return c.Timeout
}

// LinkKey implements protocols.Config. A connection has one set of settings,
// so sources share a link only when theirs are the same; settings that differ
// from the defaults are part of the key.
func (c *Config) LinkKey() string {
	key := c.Location()
	own, def := *c, *Protocol{}.NewConfig().(*Config)
	own.URL, def.URL = "", ""
	if own != def {
		key += fmt.Sprintf(" slave=%d timeout=%s/%s order=%s/%s base=%d max=%d/%d/%d pause=%s idle=%s", c.Slave, c.Timeout,
			c.connectTimeout(), c.ByteOrder, c.WordOrder, c.AddressBase, c.MaxRegisters, c.MaxCoils, c.MaxGap, c.Pause, c.IdleReconnect)
	}
	return key
}

// Location implements protocols.Located.
func (c *Config) Location() string {
	host, err := c.hostPort()
	if err != nil {
		host = c.URL
	}
	return "modbus tcp://" + host
}

// Validate implements protocols.Config.
func (c *Config) Validate(src *protocols.SourceConfig) []protocols.Fault {
	faults := c.faults()
	if len(src.Tags) == 0 {
		faults = append(faults, protocols.Fault{Path: "tags", Problem: "there are no tags",
			Hint: "list what to read, each with name, address and type"})
	}
	// Tags are checked against settings that make sense, so that one wrong
	// setting is not reported at every tag.
	usable := *c
	if usable.MaxRegisters < 1 || usable.MaxRegisters > specRegisters {
		usable.MaxRegisters = specRegisters
	}
	if usable.AddressBase != 0 && usable.AddressBase != 1 {
		usable.AddressBase = 0
	}
	for i, tag := range src.Tags {
		p, found := makePoint(tag, i, &usable, src.ScanRate)
		if p.rate < time.Millisecond {
			found = append(found, protocols.Fault{Path: "scan_rate", Problem: fmt.Sprintf("a scan rate of %s is too short", p.rate),
				Hint: "set scan_rate of the source or the tag to 1ms or more, for example 1s"})
		}
		for _, f := range found {
			f.Path = fmt.Sprintf("tags[%d].%s", i, f.Path)
			faults = append(faults, f)
		}
	}
	return faults
}

// faults reports what is wrong with the connection's own settings.
func (c *Config) faults() []protocols.Fault {
	var faults []protocols.Fault
	add := func(bad bool, field, problem, hint string) {
		if bad {
			faults = append(faults, protocols.Fault{Path: "connection." + field, Problem: problem, Hint: hint})
		}
	}
	switch _, err := c.hostPort(); {
	case c.URL == "":
		add(true, "url", "url is missing", "give the device's address, for example tcp://192.0.2.10:502")
	case err != nil:
		add(true, "url", err.Error(), "write tcp://host:port, for example tcp://192.0.2.10:502; millrace speaks Modbus TCP, not serial lines")
	}
	add(!validSlave(c.Slave), "slave", fmt.Sprintf("slave %d is not a unit id", c.Slave),
		"use 1 to 247; 0 or 255 where a TCP device asks for it")
	add(c.Timeout < time.Millisecond || c.Timeout > time.Minute, "timeout", fmt.Sprintf("timeout %s is not 1ms to 1m", c.Timeout),
		"1s suits most devices")
	add(c.ConnectTimeout < 0 || c.ConnectTimeout > time.Minute, "connect_timeout",
		fmt.Sprintf("connect_timeout %s is not 0 to 1m", c.ConnectTimeout), "leave it out to use timeout")
	for _, o := range []struct{ field, value string }{{"byte_order", c.ByteOrder}, {"word_order", c.WordOrder}} {
		add(!strings.EqualFold(o.value, "big") && !strings.EqualFold(o.value, "little"), o.field,
			fmt.Sprintf("%s %q is not big or little", o.field, o.value), "big is the specification's; docs/modbus.md shows how to find it")
	}
	add(c.AddressBase != 0 && c.AddressBase != 1, "address_base", fmt.Sprintf("address_base %d is not 0 or 1", c.AddressBase),
		"use 0 where the first register of a table is 0, 1 where the device's list starts at 1")
	add(c.MaxRegisters < 1 || c.MaxRegisters > specRegisters, "max_registers",
		fmt.Sprintf("max_registers %d is not 1 to %d", c.MaxRegisters, specRegisters), "leave it out unless the device takes fewer")
	add(c.MaxCoils < 1 || c.MaxCoils > specCoils, "max_coils",
		fmt.Sprintf("max_coils %d is not 1 to %d", c.MaxCoils, specCoils), "leave it out unless the device takes fewer")
	add(c.MaxGap < 0 || c.MaxGap > specRegisters, "max_gap", fmt.Sprintf("max_gap %d is not 0 to %d", c.MaxGap, specRegisters),
		"use 0 to read nothing but the tags' own registers")
	add(c.Pause < 0 || c.Pause > time.Minute, "pause", fmt.Sprintf("pause %s is not 0 to 1m", c.Pause), "leave it out unless the device needs time between requests")
	add(c.IdleReconnect < 0, "idle_reconnect", fmt.Sprintf("idle_reconnect %s is negative", c.IdleReconnect), "leave it out to keep the connection open")
	return faults
}

// Open implements protocols.Config.
func (c *Config) Open(s protocols.Settings) (protocols.Connection, error) {
	host, err := c.hostPort()
	if err != nil {
		return nil, fmt.Errorf("open a Modbus connection: %w", err)
	}
	return newConnection(*c, host, s), nil
}
