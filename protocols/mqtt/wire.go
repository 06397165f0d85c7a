package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// writeTimeout is how long a write may stand still before the connection is
// given up: the client library would wait for ever.
const writeTimeout = 10 * time.Second

// dial opens the network connection, with TLS where the URL says so.
func dial(ctx context.Context, b broker, conf *tls.Config, timeout time.Duration) (net.Conn, error) {
	if b.web {
		return paho.NewWebsocket(b.url.String(), conf, timeout, nil, nil)
	}
	d := net.Dialer{Timeout: timeout}
	c, err := d.DialContext(ctx, "tcp", b.addr)
	if err != nil || conf == nil {
		return c, err
	}
	if conf.ServerName == "" {
		conf.ServerName = b.url.Hostname()
	}
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close() // the handshake's error is what matters
		return nil, err
	}
	return t, nil
}

// message is a PUBLISH that the broker sent: 3.1.1, 3.3.
type message struct {
	topic    string
	payload  []byte
	id       uint16 // packet identifier, 0 at QoS 0
	qos      byte
	dup      bool // it may have been sent before
	retained bool
	large    bool // the payload was too large and is not here
}

// ack appends what confirms the message: PUBACK (3.1.1, 3.4). A broker that
// holds a subscription of QoS 2 from before gets its PUBREC (3.5), and the
// library does the rest.
func (m *message) ack(b []byte) []byte {
	switch m.qos {
	case 1:
		return append(b, 0x40, 2, byte(m.id>>8), byte(m.id))
	case 2:
		return append(b, 0x50, 2, byte(m.id>>8), byte(m.id))
	}
	return b
}

// The first byte of a fixed header: 3.1.1, 2.2 and 3.3.1.
const (
	typePublish = 3
	typePing    = 12
	typePong    = 13
	flagRetain  = 0x01
	flagQoS     = 0x06
	flagDup     = 0x08
)

// maxTopics bounds the topics that a wire remembers.
const maxTopics = 20000

// wire is the network connection as the client library sees it. It takes the
// messages out and hands them to receive, in their order: the library would
// take each through five goroutines, at several times the cost of all the
// rest, read byte by byte, and hold a message of any size in memory. It also
// gives up a write that stands still.
type wire struct {
	net.Conn
	in      *bufio.Reader
	most    int // bytes of a payload
	receive func(*message)
	topics  map[string]string // so that a topic is allocated once

	head    []byte // of the library's packet that is being read, not handed over yet
	headBuf [8]byte
	body    int // bytes of it that follow

	mu      sync.Mutex // held by a write, which is of whole packets
	renewed time.Time  // when the write deadline was set

	pings int // PINGREQs written, the library's own among them

	answers sync.Mutex
	pongs   int           // PINGREQs answered
	awaits  int           // which answer closes pong
	pong    chan struct{} // nil where nobody waits
}

func newWire(c net.Conn, most int, receive func(*message)) *wire {
	return &wire{Conn: c, in: bufio.NewReaderSize(c, 16<<10), most: most, receive: receive, topics: map[string]string{}}
}

// Read implements net.Conn: it gives all packets but PUBLISH.
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(w.head) == 0 && w.body == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	if len(w.head) > 0 {
		n := copy(p, w.head)
		w.head = w.head[n:]
		return n, nil
	}
	n, err := w.in.Read(p[:min(len(p), w.body)])
	w.body -= n
	return n, err
}

// maxOther bounds packets that are no messages: a SUBACK has a byte for each
// filter.
const maxOther = 64 << 10

// next reads the fixed header of a packet (3.1.1, 2.2), and all of a PUBLISH.
func (w *wire) next() error {
	first, err := w.in.ReadByte()
	if err != nil {
		return err
	}
	head := append(w.headBuf[:0], first)
	length := 0
	for shift := 0; ; shift += 7 {
		b, err := w.in.ReadByte()
		if err != nil {
			return err
		}
		head = append(head, b)
		length |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
		if shift == 21 {
			return errors.New("the broker sent a packet whose length is not MQTT")
		}
	}
	switch {
	case first>>4 == typePublish:
		return w.publish(first, length)
	case length > maxOther:
		return fmt.Errorf("the broker sent a packet of type %d with %d bytes", first>>4, length)
	case first>>4 == typePong:
		w.answered()
	}
	w.head, w.body = head, length
	return nil
}

// publish reads the rest of a PUBLISH (3.1.1, 3.3). A payload that is too large
// is read past, so that the message can be acknowledged and does not come
// again and again.
func (w *wire) publish(first byte, length int) error {
	m := &message{qos: first & flagQoS >> 1, dup: first&flagDup != 0, retained: first&flagRetain != 0}
	var two [2]byte
	if _, err := io.ReadFull(w.in, two[:]); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(two[:]))
	rest := length - 2 - size
	if m.qos > 0 {
		rest -= 2
	}
	if rest < 0 || m.qos == 3 {
		return errors.New("the broker sent a PUBLISH that is not MQTT")
	}
	if err := w.topic(m, size); err != nil {
		return err
	}
	if m.qos > 0 {
		if _, err := io.ReadFull(w.in, two[:]); err != nil {
			return err
		}
		m.id = binary.BigEndian.Uint16(two[:])
	}
	if rest > w.most {
		m.large = true
		if _, err := w.in.Discard(rest); err != nil {
			return err
		}
	} else {
		m.payload = make([]byte, rest)
		if _, err := io.ReadFull(w.in, m.payload); err != nil {
			return err
		}
	}
	w.receive(m)
	return nil
}

func (w *wire) topic(m *message, size int) error {
	if size > w.in.Size() {
		name := make([]byte, size)
		_, err := io.ReadFull(w.in, name)
		m.topic = string(name)
		return err
	}
	name, err := w.in.Peek(size)
	if err != nil {
		return err
	}
	topic, known := w.topics[string(name)]
	if !known {
		topic = string(name)
		if len(w.topics) < maxTopics {
			w.topics[topic] = topic
		}
	}
	m.topic = topic
	_, err = w.in.Discard(size)
	return err
}

// Write implements net.Conn. It renews the deadline once a second at most,
// since that costs as much as a small write.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write(p)
}

// write writes packets. The caller holds mu.
func (w *wire) write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(w.renewed) > time.Second {
		if err := w.Conn.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
			return 0, err
		}
		w.renewed = now
	}
	if len(p) > 0 && p[0]>>4 == typePing {
		w.pings++
	}
	return w.Conn.Write(p)
}

// ping sends a PINGREQ (3.1.1, 3.12). The channel is closed at its answer, when
// the broker has read all that was written before. It is called once.
func (w *wire) ping() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	pong := make(chan struct{})
	w.answers.Lock()
	w.awaits, w.pong = w.pings+1, pong
	w.answers.Unlock()
	if _, err := w.write([]byte{typePing << 4, 0}); err != nil {
		_ = w.Close() // so that the library learns of it
	}
	return pong
}

func (w *wire) answered() {
	w.answers.Lock()
	defer w.answers.Unlock()
	w.pongs++
	if w.pong != nil && w.pongs >= w.awaits {
		close(w.pong)
		w.pong = nil
	}
}
