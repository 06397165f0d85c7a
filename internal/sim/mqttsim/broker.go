// Package mqttsim is an MQTT broker inside the process, on a loopback port,
// with faults to switch on. It logs every PUBLISH at the moment it goes out on
// the wire to a client.
package mqttsim

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Sent is one PUBLISH that was written to a client.
type Sent struct {
	Client  string
	Topic   string
	Payload []byte
	QoS     byte
	Dup     bool // the broker sent it before
	Retain  bool
	ID      uint16 // packet identifier, 0 at QoS 0
	At      time.Time
}

// Ack is one PUBACK that a client sent.
type Ack struct {
	Client string
	ID     uint16 // packet identifier of the message
	At     time.Time
}

// Published is one PUBLISH that a client sent.
type Published struct {
	Client  string
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
}

// Options say how the broker behaves. OnSent and OnAck must not block; they
// are called from the broker's own goroutines.
type Options struct {
	// TLS makes the broker speak TLS.
	TLS *tls.Config
	// User and Password are asked for where User is set.
	User, Password string
	// MaxInFlight is how many messages a session holds that are not
	// acknowledged; what exceeds it is dropped. 8192 where 0.
	MaxInFlight uint16
	OnSent      func(Sent)
	OnAck       func(Ack)
}

// Broker is a running broker. Its methods are safe for concurrent use.
type Broker struct {
	server *mqtt.Server
	o      Options
	addr   string

	mu      sync.Mutex
	listen  net.Listener // nil while stopped
	conns   map[net.Conn]bool
	refused map[string]bool
	silent  bool
	watches int
	came    []Published
	wg      sync.WaitGroup
}

const listenerID = "mqttsim"

// Start starts a broker on a free loopback port.
func Start(o Options) (*Broker, error) {
	capabilities := mqtt.NewDefaultServerCapabilities()
	if o.MaxInFlight > 0 {
		capabilities.MaximumInflight = o.MaxInFlight
	}
	b := &Broker{
		server: mqtt.New(&mqtt.Options{
			Capabilities: capabilities, InlineClient: true, Logger: slog.New(slog.DiscardHandler),
			SysTopicResendInterval: 3600,
		}),
		o: o, addr: "127.0.0.1:0", conns: map[net.Conn]bool{}, refused: map[string]bool{},
	}
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("simulated broker: %w", err)
	}
	if err := b.server.Serve(); err != nil {
		return nil, fmt.Errorf("simulated broker: %w", err)
	}
	if err := b.Resume(); err != nil {
		return nil, errors.Join(err, b.server.Close())
	}
	return b, nil
}

// URL is where clients connect, tcp:// or ssl://.
func (b *Broker) URL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.o.TLS != nil {
		return "ssl://" + b.addr
	}
	return "tcp://" + b.addr
}

// Publish hands a message to the broker as a client of it would.
func (b *Broker) Publish(topic string, payload []byte, qos byte, retain bool) error {
	return b.server.Publish(topic, payload, retain, qos)
}

// Clients returns the names of the clients that are connected.
func (b *Broker) Clients() []string {
	var names []string
	for name, c := range b.server.Clients.GetAll() {
		if !c.Closed() && !c.Net.Inline {
			names = append(names, name)
		}
	}
	return names
}

// Subscriptions returns the filters that the session of a client holds, with
// the granted QoS.
func (b *Broker) Subscriptions(client string) map[string]byte {
	filters := map[string]byte{}
	if c, ok := b.server.Clients.Get(client); ok {
		for filter, s := range c.State.Subscriptions.GetAll() {
			filters[filter] = s.Qos
		}
	}
	return filters
}

// InFlight returns how many messages the session of a client holds that are
// not acknowledged.
func (b *Broker) InFlight(client string) int {
	if c, ok := b.server.Clients.Get(client); ok {
		return c.State.Inflight.Len()
	}
	return 0
}

// RefuseSubscription makes the broker refuse subscriptions to a filter, with
// the return code 0x80 (MQTT 3.1.1, 3.9.3), or accept them again.
func (b *Broker) RefuseSubscription(filter string, refuse bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[filter] = refuse
}

// Published returns what clients have published so far, in the order of arrival.
func (b *Broker) Published() []Published {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Published(nil), b.came...)
}

// Retained returns the message that is retained on a topic.
func (b *Broker) Retained(topic string) (payload []byte, ok bool) {
	pk, ok := b.server.Topics.Retained.Get(topic)
	return pk.Payload, ok
}

// Watch calls seen with each message that comes on a topic, from the broker's
// goroutines, as a device that subscribes would get it.
func (b *Broker) Watch(topic string, seen func(payload []byte)) error {
	b.mu.Lock()
	b.watches++
	id := b.watches
	b.mu.Unlock()
	return b.server.Subscribe(topic, id, func(_ *mqtt.Client, _ packets.Subscription, pk packets.Packet) { seen(pk.Payload) })
}

// Silence makes all that the broker sends to clients get lost; what they send
// is still carried out.
func (b *Broker) Silence(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.silent = on
}

// mutable is a connection whose client hears nothing while the broker is
// silent.
type mutable struct {
	net.Conn
	b *Broker
}

// Write implements net.Conn.
func (m mutable) Write(p []byte) (int, error) {
	m.b.mu.Lock()
	silent := m.b.silent
	m.b.mu.Unlock()
	if silent {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// Drop breaks every connection. Clients may connect again at once.
func (b *Broker) Drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		// It is broken on purpose.
		_ = c.Close()
	}
}

// Forget ends every session, as the restart of a broker without persistence
// does. It is meant for a stopped broker.
func (b *Broker) Forget() {
	for name, c := range b.server.Clients.GetAll() {
		if c.Net.Inline {
			continue
		}
		c.ClearInflights()
		b.server.UnsubscribeClient(c)
		b.server.Clients.Delete(name)
	}
}

// Stop takes the broker off the network. Sessions and what they hold are kept,
// as by a broker with persistence.
func (b *Broker) Stop() {
	b.mu.Lock()
	if b.listen != nil {
		// A listener that was in use can be closed.
		_ = b.listen.Close()
		b.listen = nil
	}
	b.mu.Unlock()
	b.Drop()
	b.wg.Wait()
}

// Resume brings the broker back on the same port.
func (b *Broker) Resume() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listen != nil {
		return nil
	}
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return fmt.Errorf("simulated broker: %w", err)
	}
	b.listen, b.addr = l, l.Addr().String()
	b.wg.Go(func() { b.accept(l) })
	return nil
}

func (b *Broker) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // Stop
		}
		b.mu.Lock()
		if b.listen != l {
			b.mu.Unlock()
			_ = c.Close() // Stop was faster
			return
		}
		b.conns[c] = true
		b.mu.Unlock()
		b.wg.Go(func() { b.serve(c) })
	}
}

func (b *Broker) serve(raw net.Conn) {
	defer func() {
		b.mu.Lock()
		delete(b.conns, raw)
		b.mu.Unlock()
		_ = raw.Close() // mostly closed already
	}()
	c := raw
	if b.o.TLS != nil {
		c = tls.Server(raw, b.o.TLS)
	}
	// How a client's connection ends is the clients' tests' concern.
	_ = b.server.EstablishConnection(listenerID, mutable{c, b})
}

// Close stops the broker for good.
func (b *Broker) Close() error {
	b.Stop()
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("simulated broker: %w", err)
	}
	return nil
}

// hook is the broker's view of the wire.
type hook struct {
	mqtt.HookBase
	b *Broker
}

// ID implements mqtt.Hook.
func (h *hook) ID() string { return "mqttsim" }

// Provides implements mqtt.Hook.
func (h *hook) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPacketSent, mqtt.OnPacketRead:
		return true
	}
	return false
}

// OnConnectAuthenticate implements mqtt.Hook.
func (h *hook) OnConnectAuthenticate(_ *mqtt.Client, pk packets.Packet) bool {
	return h.b.o.User == "" || string(pk.Connect.Username) == h.b.o.User && string(pk.Connect.Password) == h.b.o.Password
}

// OnACLCheck implements mqtt.Hook.
func (h *hook) OnACLCheck(_ *mqtt.Client, filter string, write bool) bool {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	return write || !h.b.refused[filter]
}

// OnPacketSent implements mqtt.Hook.
func (h *hook) OnPacketSent(c *mqtt.Client, pk packets.Packet, _ []byte) {
	if h.b.o.OnSent == nil || pk.FixedHeader.Type != packets.Publish {
		return
	}
	h.b.o.OnSent(Sent{
		Client: c.ID, Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Dup: pk.FixedHeader.Dup,
		Retain: pk.FixedHeader.Retain, ID: pk.PacketID, At: time.Now(),
	})
}

// OnPacketRead implements mqtt.Hook.
func (h *hook) OnPacketRead(c *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Type == packets.Publish && !c.Net.Inline {
		h.b.mu.Lock()
		h.b.came = append(h.b.came, Published{c.ID, pk.TopicName, append([]byte(nil), pk.Payload...), pk.FixedHeader.Qos, pk.FixedHeader.Retain})
		h.b.mu.Unlock()
	}
	if h.b.o.OnAck != nil && pk.FixedHeader.Type == packets.Puback {
		h.b.o.OnAck(Ack{Client: c.ID, ID: pk.PacketID, At: time.Now()})
	}
	return pk, nil
}
