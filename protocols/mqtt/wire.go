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
	"sync/atomic"
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

// Packet types, 3.1.1, 2.2.1.
const typePublish = 3

// tooLarge stands in place of a payload that was too large. It is no UTF-8,
// so it is no value of any type.
const tooLarge = "\xff\xfemillrace: too large"

// wire is a network connection that reads ahead, bounds the size of a message
// and gives up a write that stands still. The client library reads byte by
// byte and would take 256 MiB into memory.
type wire struct {
	net.Conn
	in      *bufio.Reader
	most    int
	head    []byte // of the packet that is being read, not handed over yet
	headBuf [8]byte
	body    int          // bytes of it that follow
	renewed atomic.Int64 // when the write deadline was set, in ns of the wall clock
}

func newWire(c net.Conn, most int) *wire {
	return &wire{Conn: c, in: bufio.NewReaderSize(c, 16<<10), most: most}
}

// Read implements net.Conn.
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

// next reads the fixed header of a packet (3.1.1, 2.2).
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
	// The bound is on the payload; the topic may take up to 64 KiB more.
	if length <= w.most {
		w.head, w.body = head, length
		return nil
	}
	if first>>4 != typePublish {
		return fmt.Errorf("the broker sent a packet of type %d with %d bytes", first>>4, length)
	}
	return w.shrink(first, length)
}

// shrink reads a PUBLISH that is too large and leaves one whose payload is
// tooLarge, so that it can be acknowledged and does not come again and again.
func (w *wire) shrink(first byte, length int) error {
	var size [2]byte
	if _, err := io.ReadFull(w.in, size[:]); err != nil {
		return err
	}
	name := int(binary.BigEndian.Uint16(size[:]))
	rest := name // topic, and the packet identifier at QoS 1 and 2
	if first&0x06 != 0 {
		rest += 2
	}
	if rest+2 > length {
		return errors.New("the broker sent a PUBLISH that is shorter than its topic")
	}
	body := make([]byte, 2+rest, 2+rest+len(tooLarge))
	copy(body, size[:])
	if _, err := io.ReadFull(w.in, body[2:]); err != nil {
		return err
	}
	// Discard takes an int, which holds any length of MQTT.
	if _, err := w.in.Discard(length - 2 - rest); err != nil {
		return err
	}
	body = append(body, tooLarge...)
	head := []byte{first}
	for n := len(body); ; {
		b := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			head = append(head, b|0x80)
			continue
		}
		head = append(head, b)
		break
	}
	w.head = append(head, body...)
	return nil
}

// Write implements net.Conn. It renews the deadline once a second at most,
// since that costs more than a small write.
func (w *wire) Write(p []byte) (int, error) {
	now := time.Now()
	if last := w.renewed.Load(); now.UnixNano()-last > int64(time.Second) || now.UnixNano() < last {
		if err := w.Conn.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
			return 0, err
		}
		w.renewed.Store(now.UnixNano())
	}
	return w.Conn.Write(p)
}
