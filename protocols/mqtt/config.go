// Package mqtt subscribes to an MQTT broker and acknowledges each message only
// once its samples are durable. It speaks MQTT 3.1.1; "3.1.1" in comments is
// the OASIS standard of that version.
//
// Every source has a connection of its own to the broker, under a client id of
// its own, since the broker keeps one session per client id.
package mqtt

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/internal/bytesize"
	"millrace/internal/secret"
	"millrace/internal/tlsfile"
	"millrace/protocols"
)

// Protocol is the MQTT protocol.
type Protocol struct{}

// Type implements protocols.Protocol.
func (Protocol) Type() string { return "mqtt" }

// NewConfig implements protocols.Protocol.
func (Protocol) NewConfig() protocols.Config {
	return &Config{
		KeepAlive:      30 * time.Second,
		ConnectTimeout: 10 * time.Second,
		QoS:            1,
		Payload:        payloadAuto,
		Missing:        missingBad,
		Retained:       retainedAccept,
		MaxInflight:    10000,
		MaxMessage:     1 * bytesize.MiB,
	}
}

// The words of the settings.
const (
	payloadAuto    = "auto"
	payloadValue   = "value"
	payloadJSON    = "json"
	missingBad     = "bad"
	missingSkip    = "skip"
	retainedAccept = "accept"
	retainedIgnore = "ignore"
)

// Config is what `connection:` of an MQTT source holds.
type Config struct {
	// URL is tcp://host:port, ssl:// (or tls://) for TLS, ws:// or wss:// for
	// WebSocket. The port is 1883, 8883, 80 or 443 where it is left out.
	URL string `yaml:"url"`
	// ClientID names the session at the broker; millrace-<site>-<source> where
	// empty. No two clients of a broker may use the same.
	ClientID string     `yaml:"client_id"`
	Username string     `yaml:"username"`
	Password secret.Ref `yaml:"password"`
	// TLS is for ssl://, tls:// and wss://.
	TLS tlsfile.Client `yaml:"tls"`
	// KeepAlive is how often a silent connection is probed; 30s by default.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// ConnectTimeout bounds connecting, TLS and login together; 10s by default.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// CleanSession makes the broker forget the session at each disconnect.
	CleanSession bool `yaml:"clean_session"`
	// QoS is what is subscribed to: 0 or 1.
	QoS int `yaml:"qos"`
	// Topics are the filters of dynamic tags.
	Topics []Topic `yaml:"topics"`
	// Payload is how the payload of a configured tag without a path is read:
	// auto, value or json.
	Payload string `yaml:"payload"`
	// TimeFormat is what a time that is a number counts: s, ms, us or ns since
	// the Unix epoch. Empty: a time is an RFC 3339 string.
	TimeFormat string `yaml:"time_format"`
	// TimePath, QualityPath, SeqPath and ProducerPath are where in a JSON
	// document the values of tags with a path find these; empty: nowhere.
	TimePath     string `yaml:"time_path"`
	QualityPath  string `yaml:"quality_path"`
	SeqPath      string `yaml:"seq_path"`
	ProducerPath string `yaml:"producer_path"`
	// Missing says what a document without a tag's path means: bad or skip.
	Missing string `yaml:"missing"`
	// Retained is accept or ignore.
	Retained string `yaml:"retained"`
	// MaxInflight bounds the messages that are held until they are durable.
	MaxInflight int `yaml:"max_inflight"`
	// MaxMessage bounds one message; a larger one counts as unreadable.
	MaxMessage bytesize.Size `yaml:"max_message"`
}

// Topic is a filter whose messages make dynamic tags.
type Topic struct {
	// Filter is a topic filter (3.1.1, 4.7), for example sensors/+/temp.
	Filter string `yaml:"filter"`
	// Payload is auto, value or json; the connection's where empty.
	Payload string `yaml:"payload"`
	// Path is where in a JSON document the value is; empty is "value".
	Path string `yaml:"path"`
	// Type is float, int, bool, string or auto.
	Type string `yaml:"type"`
	// Tag makes the tag's name: {1} is the topic's first level, {-1} its last.
	// {-2}/{-1} where empty.
	Tag string `yaml:"tag"`
}

// LinkKey implements protocols.Config. Sources share nothing but the settings,
// so any difference makes a key of its own.
func (c *Config) LinkKey() string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%+v", *c)
	id := c.ClientID
	if id == "" {
		id = "default"
	}
	return fmt.Sprintf("mqtt %s client=%s settings=%08x", c.URL, id, h.Sum32())
}

// Location implements protocols.Located.
func (c *Config) Location() string { return "mqtt " + c.URL }

var defaultPorts = map[string]string{"tcp": "1883", "mqtt": "1883", "ssl": "8883", "tls": "8883", "mqtts": "8883", "ws": "80", "wss": "443"}

// broker is a parsed URL.
type broker struct {
	url    *url.URL
	addr   string // host:port
	secure bool
	web    bool // over WebSocket
}

func (c *Config) broker() (broker, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return broker{}, fmt.Errorf("url %q is not a URL", c.URL)
	}
	port, known := defaultPorts[u.Scheme]
	switch {
	case u.User != nil:
		return broker{}, fmt.Errorf("the url holds a user name")
	case !known, u.Hostname() == "", u.RawQuery != "":
		return broker{}, fmt.Errorf("url %q is not tcp://host:port, ssl://host:port or ws://host:port/path", c.URL)
	}
	b := broker{url: u, secure: u.Scheme == "wss" || port == "8883", web: strings.HasPrefix(u.Scheme, "ws")}
	if u.Path != "" && u.Path != "/" && !b.web {
		return broker{}, fmt.Errorf("url %q has a path, which only ws:// has", c.URL)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return broker{}, fmt.Errorf("url %q: port %q is not 1 to 65535", c.URL, port)
	}
	b.addr = net.JoinHostPort(u.Hostname(), port)
	return b, nil
}

// clientID returns the id of a source's session.
func (c *Config) clientID(site, source string) string {
	if c.ClientID != "" {
		return c.ClientID
	}
	return "millrace-" + site + "-" + source
}

// Validate implements protocols.Config.
func (c *Config) Validate(src *protocols.SourceConfig) []protocols.Fault {
	var faults []protocols.Fault
	add := func(bad bool, path, problem, hint string) {
		if bad {
			faults = append(faults, protocols.Fault{Path: path, Problem: problem, Hint: hint})
		}
	}
	c.connectionFaults(add)
	c.readingFaults(add)
	for i := range c.Topics {
		c.Topics[i].faults(fmt.Sprintf("connection.topics[%d]", i), add)
		for j := range i {
			add(c.Topics[i].Filter == c.Topics[j].Filter, fmt.Sprintf("connection.topics[%d].filter", i),
				fmt.Sprintf("filter %q stands twice", c.Topics[i].Filter), "the first one takes every message; remove one")
		}
	}
	add(len(src.Tags) == 0 && len(c.Topics) == 0, "tags", "there are no tags and no topics",
		"list tags with a topic as their address, or filters under connection.topics")
	for i := range src.Tags {
		tagFaults(&src.Tags[i], fmt.Sprintf("tags[%d]", i), add)
	}
	return faults
}

type addFault func(bad bool, path, problem, hint string)

func (c *Config) connectionFaults(add addFault) {
	b, err := c.broker()
	switch {
	case c.URL == "":
		add(true, "connection.url", "url is missing", "give the broker's address, for example ssl://broker.example:8883")
	case err != nil:
		add(true, "connection.url", err.Error(), "write tcp://host:1883, or ssl://host:8883 for TLS; user name and password have settings of their own")
	default:
		add(!b.secure && c.TLS != (tlsfile.Client{}), "connection.tls", fmt.Sprintf("tls is set and %s does not use it", c.URL),
			"write ssl://host:8883, or leave tls out")
	}
	add(len(c.ClientID) > 65535 || !utf8.ValidString(c.ClientID) || strings.ContainsRune(c.ClientID, 0), "connection.client_id",
		"client_id is too long or not UTF-8", "use up to 23 letters and digits, which every broker takes")
	add(c.Username == "" && !c.Password.IsZero(), "connection.username", "there is a password and no username",
		"MQTT 3.1.1 has no password without a user name; set both")
	add(c.KeepAlive < 5*time.Second || c.KeepAlive > 18*time.Hour, "connection.keep_alive",
		fmt.Sprintf("keep_alive %s is not 5s to 18h", c.KeepAlive), "30s suits most networks")
	add(c.ConnectTimeout < 100*time.Millisecond || c.ConnectTimeout > time.Minute, "connection.connect_timeout",
		fmt.Sprintf("connect_timeout %s is not 100ms to 1m", c.ConnectTimeout), "10s suits most networks")
	add(c.QoS != 0 && c.QoS != 1, "connection.qos", fmt.Sprintf("qos %d is not 0 or 1", c.QoS),
		"use 1: it loses nothing, and what is sent twice is stored once where it carries its time; 2 is not supported")
	add(c.MaxInflight < 20 || c.MaxInflight > 65535, "connection.max_inflight",
		fmt.Sprintf("max_inflight %d is not 20 to 65535", c.MaxInflight), "leave it out for 10000")
	add(c.MaxMessage < bytesize.KiB || c.MaxMessage > 64*bytesize.MiB, "connection.max_message",
		fmt.Sprintf("max_message %s is not 1KiB to 64MiB", c.MaxMessage), "leave it out for 1MiB")
}

func (c *Config) readingFaults(add addFault) {
	oneOf := func(field, value string, words ...string) {
		for _, w := range words {
			if value == w {
				return
			}
		}
		add(true, "connection."+field, fmt.Sprintf("%s %q is not known", field, value), "write "+strings.Join(words, " or "))
	}
	oneOf("payload", c.Payload, payloadAuto, payloadValue, payloadJSON)
	oneOf("missing", c.Missing, missingBad, missingSkip)
	oneOf("retained", c.Retained, retainedAccept, retainedIgnore)
	if c.TimeFormat != "" {
		oneOf("time_format", c.TimeFormat, "s", "ms", "us", "ns")
	}
	for _, p := range []struct{ field, path string }{
		{"time_path", c.TimePath}, {"quality_path", c.QualityPath}, {"seq_path", c.SeqPath}, {"producer_path", c.ProducerPath},
	} {
		if _, err := parsePath(p.path); p.path != "" && err != nil {
			add(true, "connection."+p.field, err.Error(), pathHint)
		}
	}
	add(c.SeqPath != "" && c.ProducerPath == "", "connection.producer_path", "seq_path is set and producer_path is not",
		"a sequence counts within a producer; without its name two devices' samples could be taken for one")
}

const (
	pathHint = "write members with dots between them, data.temp or list.0.v, or a JSON pointer, /data/temp"
	typeHint = "use float, int, bool, string or auto"
)

func (t *Topic) faults(path string, add addFault) {
	if err := checkFilter(t.Filter); err != nil {
		add(true, path+".filter", err.Error(), "write a topic filter, for example sensors/+/temp or sensors/#")
	}
	switch t.Payload {
	case "", payloadAuto, payloadValue, payloadJSON:
	default:
		add(true, path+".payload", fmt.Sprintf("payload %q is not known", t.Payload), "write auto or value or json")
	}
	if _, err := parsePath(t.Path); t.Path != "" && err != nil {
		add(true, path+".path", err.Error(), pathHint)
	}
	add(t.Path != "" && t.Payload == payloadValue, path+".path", "path is set and the payload is a plain value", "write payload: json, or leave path out")
	if _, err := parseType(t.Type); err != nil {
		add(true, path+".type", err.Error(), typeHint)
	}
	if _, err := parseTemplate(t.Tag); err != nil {
		add(true, path+".tag", err.Error(), "write levels of the topic in braces, counted from 1 or from the end: {2}/{-1}")
	}
}

func tagFaults(t *protocols.Tag, path string, add addFault) {
	if _, _, err := parseAddress(t.Address); err != nil {
		add(true, path+".address", err.Error(), "write a topic, or topic#path of a value in a JSON document: sensors/boiler#data.temp; wildcards go under connection.topics")
	}
	if _, err := parseType(t.Type); err != nil {
		add(true, path+".type", err.Error(), typeHint)
	}
	add(t.Order != "", path+".order", "order has no meaning for MQTT", "leave it out")
	add(t.Length != 0, path+".length", "length has no meaning for MQTT", "leave it out")
	add(t.ScanRate != 0, path+".scan_rate", "a tag of MQTT has no scan rate of its own", "leave it out: values come when the device sends them")
}
