package mqtt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"millrace/internal/secret"
	"millrace/internal/sim/mqttsim"
	"millrace/protocols"
)

// authority is a test's own certificate authority.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var der []byte
	a.key, der = a.sign(template, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(template, parent *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, der
}

// server returns the settings of a server that is called name.
func (a *authority) server(name string) *tls.Config {
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	key, der := a.sign(template, a.cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func password(t *testing.T, text string) secret.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var r secret.Ref
	if err := r.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	b := startBroker(t, mqttsim.Options{TLS: ca.server("127.0.0.1"), User: "pump", Password: "s3cret"})
	cfg := testConfig(b.URL())
	cfg.TLS.CA, cfg.Username, cfg.Password = ca.file, "pump", password(t, "s3cret")
	r := run(t, cfg, nil)
	until(t, "up", r.health.IsUp)
	publish(t, b, "pump/a", "1", 1)
	until(t, "acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 && len(r.Samples()) == 1 })
}

// TestOperatorsMessages holds what Down says for each thing that can be wrong.
func TestOperatorsMessages(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	plain := startBroker(t, mqttsim.Options{User: "pump", Password: "s3cret"})
	secure := startBroker(t, mqttsim.Options{TLS: ca.server("127.0.0.1")})
	misnamed := startBroker(t, mqttsim.Options{TLS: ca.server("broker.example")})
	away := startBroker(t, mqttsim.Options{})
	away.Stop()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, c := range []struct {
		name, url string
		change    func(*Config)
		want      string
	}{
		{"wrong password", plain.URL(), func(c *Config) { c.Username, c.Password = "pump", password(t, "wrong") },
			"log in: the broker does not let this client in; check connection.username, what connection.password points to, and the broker's access list for this client_id"},
		{"no password file", plain.URL(), func(c *Config) {
			c.Username = "pump"
			if err := c.Password.UnmarshalText([]byte("file:/no/such/password")); err != nil {
				t.Fatal(err)
			}
		}, "connect: open /no/such/password: no such file or directory; check that the file is there and that millrace may read it"},
		{"unknown authority", secure.URL(), func(c *Config) { c.TLS.CA = stranger.file },
			"connect: the broker's certificate is signed by an authority that is not trusted; set connection.tls.ca to that authority's PEM file"},
		{"the system's authorities", secure.URL(), func(*Config) {},
			"connect: the broker's certificate is signed by an authority that is not trusted; set connection.tls.ca to that authority's PEM file"},
		{"another name", misnamed.URL(), func(c *Config) { c.TLS.CA = ca.file },
			"connect: the broker's certificate is for another name: x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs; use that name in the url, or set connection.tls.server_name"},
		{"no authority file", secure.URL(), func(c *Config) { c.TLS.CA = "/no/such/ca" },
			"connect: open /no/such/ca: no such file or directory; check that the file is there and that millrace may read it"},
		{"TLS on a port without", strings.Replace(plain.URL(), "tcp://", "ssl://", 1), func(*Config) {},
			"connect: the broker closed the connection; look at its log; it may have stopped, want TLS (ssl://), or have another client with the same client_id"},
		{"a port with TLS", strings.Replace(secure.URL(), "ssl://", "tcp://", 1), func(*Config) {},
			"log in: the broker closed the connection; look at its log; it may have stopped, want TLS (ssl://), or have another client with the same client_id"},
		{"away", away.URL(), func(*Config) {}, "connect: connection refused; check that the broker runs and listens at this address and port"},
		{"silent", "tcp://" + silent.Addr().String(), func(c *Config) { c.ConnectTimeout = 100 * time.Millisecond },
			"log in: no answer in time; check the address and port, the network and the firewalls on the way"},
		{"unknown host", "tcp://no-such-host.invalid", func(*Config) {},
			`connect: host "no-such-host.invalid" is not known; check the name in connection.url and this machine's DNS`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(c.url)
			c.change(cfg)
			r := run(t, cfg, nil)
			until(t, "down", r.health.IsDown)
			if got, want := r.health.Changes()[0].Error(), "mqtt "+c.url+": "+c.want; got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			conn, err := cfg.Open(settings(t))
			if err != nil {
				t.Fatal(err)
			}
			errs := conn.(protocols.Checker).Check(t.Context(), &protocols.SourceConfig{Name: "pump", Tags: pumpTags})
			if len(errs) != 1 || errs[0].Error() != "mqtt "+c.url+": "+c.want {
				t.Errorf("Check says %v", errs)
			}
			if strings.Contains(r.health.Changes()[0].Error(), "s3cret") {
				t.Error("the message holds the password")
			}
		})
	}
}

func TestFaultyConfigs(t *testing.T) {
	tags := []protocols.Tag{{Name: "plant/a/b", Address: "a/b"}}
	for _, c := range []struct {
		change func(*Config)
		tags   []protocols.Tag
		want   string
	}{
		{func(*Config) {}, tags, ""},
		{func(c *Config) { c.URL = "wss://broker/mqtt"; c.TLS.CA = "ca" }, tags, ""},
		{func(c *Config) { c.URL = "" }, tags, "connection.url: url is missing; give the broker's address, for example ssl://broker.example:8883"},
		{func(c *Config) { c.URL = "tcp://u:p@broker" }, tags, "connection.url: the url holds a user name; write tcp://host:1883, or ssl://host:8883 for TLS; user name and password have settings of their own"},
		{func(c *Config) { c.URL = "tcp://broker:99999" }, tags, `connection.url: url "tcp://broker:99999": port "99999" is not 1 to 65535; write tcp://host:1883, or ssl://host:8883 for TLS; user name and password have settings of their own`},
		{func(c *Config) { c.TLS.CA = "ca" }, tags, "connection.tls: tls is set and tcp://broker does not use it; write ssl://host:8883, or leave tls out"},
		{func(c *Config) { c.Password = password(t, "x") }, tags, "connection.username: there is a password and no username; MQTT 3.1.1 has no password without a user name; set both"},
		{func(c *Config) { c.QoS = 2 }, tags, "connection.qos: qos 2 is not 0 or 1; use 1: it loses nothing, and what is sent twice is stored once where it carries its time; 2 is not supported"},
		{func(c *Config) { c.KeepAlive, c.ConnectTimeout, c.MaxInflight, c.MaxMessage = 0, 0, 0, 0 }, tags,
			"connection.keep_alive: keep_alive 0s is not 5s to 18h; 30s suits most networks\nconnection.connect_timeout: connect_timeout 0s is not 100ms to 1m; 10s suits most networks\n" +
				"connection.max_inflight: max_inflight 0 is not 20 to 65535; leave it out for 10000\nconnection.max_message: max_message 0B is not 1KiB to 64MiB; leave it out for 1MiB"},
		{func(c *Config) { c.Payload, c.Missing, c.Retained, c.TimeFormat = "xml", "zero", "no", "days" }, tags,
			"connection.payload: payload \"xml\" is not known; write auto or value or json\nconnection.missing: missing \"zero\" is not known; write bad or skip\n" +
				"connection.retained: retained \"no\" is not known; write accept or ignore\nconnection.time_format: time_format \"days\" is not known; write s or ms or us or ns"},
		{func(c *Config) { c.TimePath, c.SeqPath = "a..b", "n" }, tags,
			"connection.time_path: path \"a..b\" has an empty member; write members with dots between them, data.temp or list.0.v, or a JSON pointer, /data/temp\n" +
				"connection.producer_path: seq_path is set and producer_path is not; a sequence counts within a producer; without its name two devices' samples could be taken for one"},
		{func(*Config) {}, nil, "tags: there are no tags and no topics; list tags with a topic as their address, or filters under connection.topics"},
		{func(c *Config) {
			c.Topics = []Topic{{Filter: "a/#"}, {Filter: "a/#"}, {Filter: "a#", Payload: "xml", Path: "..", Type: "real", Tag: "{"}, {Filter: "b", Payload: "value", Path: "x"}}
		}, nil, "connection.topics[1].filter: filter \"a/#\" stands twice; the first one takes every message; remove one\n" +
			"connection.topics[2].filter: filter \"a#\": a wildcard stands for a whole level; write a topic filter, for example sensors/+/temp or sensors/#\n" +
			"connection.topics[2].payload: payload \"xml\" is not known; write auto or value or json\n" +
			"connection.topics[2].path: path \"..\" has an empty member; write members with dots between them, data.temp or list.0.v, or a JSON pointer, /data/temp\n" +
			"connection.topics[2].type: type \"real\" is not known; use float, int, bool, string or auto\n" +
			"connection.topics[2].tag: tag \"{\" has a { without its }; write levels of the topic in braces, counted from 1 or from the end: {2}/{-1}\n" +
			"connection.topics[3].path: path is set and the payload is a plain value; write payload: json, or leave path out"},
		{func(*Config) {}, []protocols.Tag{{Address: "a/+", Type: "real", Order: "x", Length: 1, ScanRate: 1}},
			"tags[0].address: address \"a/+\": topic \"a/+\" holds a wildcard; write a topic, or topic#path of a value in a JSON document: sensors/boiler#data.temp; wildcards go under connection.topics\n" +
				"tags[0].type: type \"real\" is not known; use float, int, bool, string or auto\ntags[0].order: order has no meaning for MQTT; leave it out\n" +
				"tags[0].length: length has no meaning for MQTT; leave it out\ntags[0].scan_rate: a tag of MQTT has no scan rate of its own; leave it out: values come when the device sends them"},
	} {
		cfg := testConfig("tcp://broker")
		c.change(cfg)
		var got []string
		for _, f := range cfg.Validate(&protocols.SourceConfig{Name: "src", Tags: c.tags}) {
			got = append(got, f.Path+": "+f.Problem+"; "+f.Hint)
		}
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("got\n%s\nwant\n%s", text, c.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// conn is a network connection that reads from a buffer, a few bytes at a time.
type conn struct {
	net.Conn
	in io.Reader
}

func (c *conn) Read(p []byte) (int, error) { return c.in.Read(p[:min(len(p), 3)]) }

func TestWire(t *testing.T) {
	var stream bytes.Buffer
	write := func(p packets.ControlPacket) {
		if err := p.Write(&stream); err != nil {
			t.Fatal(err)
		}
	}
	sizes := []int{0, 1, 100, 1000, 2000, 5, 200_000, 1024, 1025, 3}
	topic := func(i int) string { return strings.Repeat("t", 1+20_000*(i%2)) } // longer than the buffer
	for i, size := range sizes {
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.TopicName, p.Qos, p.Payload, p.Dup, p.Retain = topic(i), byte(i%3), bytes.Repeat([]byte{'x'}, size), i%3 == 1, i%2 == 1
		if p.Qos > 0 {
			p.MessageID = uint16(256 + i)
		}
		write(p)
		ping := packets.NewControlPacket(packets.Pingresp)
		write(ping)
	}
	suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	suback.MessageID, suback.ReturnCodes = 7, make([]byte, 200)
	write(suback)
	var got []*message
	w := newWire(&conn{in: &stream}, 1024, func(m *message) { got = append(got, m) })
	for i, size := range sizes {
		if p, err := packets.ReadPacket(w); err != nil || p.Details() != packets.NewControlPacket(packets.Pingresp).Details() {
			t.Fatalf("after message %d: %v %v", i, p, err)
		}
		want := message{topic: topic(i), qos: byte(i % 3), dup: i%3 == 1, retained: i%2 == 1, large: size > 1024}
		if want.qos > 0 {
			want.id = uint16(256 + i)
		}
		if !want.large {
			want.payload = bytes.Repeat([]byte{'x'}, size)
		}
		if len(got) != i+1 || !reflect.DeepEqual(*got[i], want) {
			t.Fatalf("message %d of %d bytes comes as QoS %d, identifier %d, %d bytes", i, size, got[i].qos, got[i].id, len(got[i].payload))
		}
	}
	if p, err := packets.ReadPacket(w); err != nil || p.(*packets.SubackPacket).MessageID != 7 || len(p.(*packets.SubackPacket).ReturnCodes) != 200 {
		t.Errorf("the SUBACK comes as %v, %v", p, err)
	}
	if _, err := packets.ReadPacket(w); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for _, bad := range [][]byte{
		{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, // a length of five bytes
		{0x90, 0xff, 0xff, 0x7f},             // a large SUBACK
		{0x36, 5, 0, 1, 't', 0, 1},           // QoS 3
		{0x30, 3, 0xff, 0xff, 't'},           // a topic longer than its packet
		{0x32, 3, 0, 1, 't'},                 // no identifier
	} {
		w := newWire(&conn{in: bytes.NewReader(bad)}, 1024, func(*message) { t.Errorf("%x gives a message", bad) })
		if _, err := packets.ReadPacket(w); err == nil || !strings.HasPrefix(err.Error(), "the broker sent ") {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// FuzzWire holds the wire against the library's reader.
func FuzzWire(f *testing.F) {
	f.Add([]byte{0x32, 7, 0, 1, 't', 1, 2, '4', '2', 0xd0, 0, 0x90, 3, 0, 7, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var got []*message
		w := newWire(&conn{in: bytes.NewReader(data)}, 1<<20, func(m *message) { got = append(got, m) })
		for {
			if _, err := packets.ReadPacket(w); err != nil {
				break
			}
		}
		r := bytes.NewReader(data)
		for _, m := range got {
			for {
				p, err := packets.ReadPacket(r)
				if err != nil {
					t.Fatalf("%x: the library reads fewer messages: %v", data, err)
				}
				if p, ok := p.(*packets.PublishPacket); ok {
					if p.TopicName != m.topic || p.Qos != m.qos || p.MessageID != m.id || !bytes.Equal(p.Payload, m.payload) || p.Dup != m.dup || p.Retain != m.retained {
						t.Fatalf("%x: %+v, the library reads %+v", data, m, p)
					}
					break
				}
			}
		}
	})
}
