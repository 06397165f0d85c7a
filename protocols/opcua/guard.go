package opcua

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
)

const (
	// guardBuffer holds the largest message that opens a channel; others go
	// through it in pieces.
	guardBuffer = 64 << 10
	// frameHeader is message type 3 bytes, chunk type 1, size 4; a message that
	// opens a channel has its number next, 4 bytes: OPC 10000-6, 7.1.2.2 and
	// 6.7.2.
	frameHeader = 8
	openHead    = 12
	// helloFixed is what stands before the URL in a Hello: five numbers of 4
	// bytes each, OPC 10000-6, 7.1.2.3.
	helloFixed = frameHeader + 20
	maxHello   = helloFixed + 4 + 4096
)

// guard stands between the library and a server with security on. The library
// takes whatever certificate and policy the answer to OpenSecureChannel bears
// and encrypts the next renewal for it, so somebody in between could slip in
// his own. Here each such answer must bear the policy that is configured and
// the certificate that was found trusted; both stand in the open there.
//
// The library dials by itself and takes a TCP connection only, so the guard is
// one on the loopback. What passes is encrypted from end to end.
type guard struct {
	url    string // what the library dials
	server string // URL of the server
	policy string
	leaf   []byte // DER

	listen net.Listener
	up     *net.TCPConn
	wg     sync.WaitGroup

	mu     sync.Mutex
	down   *net.TCPConn // nil before the library has come
	closed bool
	cause  error // why the guard ended it
}

// openGuard connects to a server, whose URL has a port.
func openGuard(ctx context.Context, server, policy string, leaf []byte) (*guard, error) {
	local, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	up, err := d.DialContext(ctx, "tcp", local.Host)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, up.Close())
	}
	local.Host = l.Addr().String()
	g := &guard{url: local.String(), server: server, policy: policy, leaf: leaf, listen: l, up: up.(*net.TCPConn)}
	g.wg.Go(g.run)
	return g, nil
}

// close ends both connections and waits. A guard that is nil is closed.
func (g *guard) close() {
	if g == nil {
		return
	}
	g.end(nil)
	g.wg.Wait()
}

// err says why the guard ended the connection; nil where it did not.
func (g *guard) err() error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cause
}

func (g *guard) end(cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.closed, g.cause = true, cause
	// What closing a connection that is given up says changes nothing.
	_ = g.listen.Close()
	_ = g.up.Close()
	if g.down != nil {
		_ = g.down.Close()
	}
}

// run takes the library's connection, the only one, and copies.
func (g *guard) run() {
	defer g.end(nil)
	c, err := g.listen.Accept()
	if err != nil {
		return // closed before the library came
	}
	down := c.(*net.TCPConn)
	g.mu.Lock()
	g.down = down
	closed := g.closed
	g.mu.Unlock()
	if closed {
		_ = down.Close() // end did not see it
		return
	}
	_ = g.listen.Close() // nobody else is to come; it may be closed already
	g.wg.Go(func() {
		if cause := g.toClient(g.up, down); cause != nil {
			g.end(cause)
			return
		}
		// What came before the server's end is still to be read.
		_ = down.CloseWrite()
	})
	if g.hello(down) == nil {
		_, _ = io.Copy(g.up, down) // until either side ends it
	}
}

// hello passes the first message on, with the server's own URL in it.
func (g *guard) hello(down io.Reader) error {
	var head [helloFixed]byte
	if _, err := io.ReadFull(down, head[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if string(head[:3]) != "HEL" || size < helloFixed+4 || size > maxHello {
		return errors.New("the library does not say hello")
	}
	if _, err := io.CopyN(io.Discard, down, int64(size-helloFixed)); err != nil {
		return err
	}
	b := binary.LittleEndian.AppendUint32(head[:], uint32(len(g.server)))
	b = append(b, g.server...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	_, err := g.up.Write(b)
	return err
}

// toClient copies the server's messages. It returns nil when the connection
// ends, and an error for what must not come through.
func (g *guard) toClient(up io.Reader, down io.Writer) error {
	r := bufio.NewReaderSize(up, guardBuffer)
	for {
		head, err := r.Peek(frameHeader)
		if err != nil {
			return nil
		}
		left := binary.LittleEndian.Uint32(head[4:])
		if left < frameHeader {
			return fmt.Errorf("server %s sent a message of %d bytes, which is no OPC UA", g.server, left)
		}
		if string(head[:3]) == "OPN" {
			if left > guardBuffer {
				return fmt.Errorf("server %s sent %d bytes to open a channel, which is no OPC UA", g.server, left)
			}
			frame, err := r.Peek(int(left))
			if err != nil {
				return nil
			}
			if err := g.check(frame); err != nil {
				return err
			}
		}
		for left > 0 {
			if _, err := r.Peek(1); err != nil {
				return nil
			}
			piece, err := r.Peek(int(min(left, uint32(r.Buffered()))))
			if err != nil {
				return nil
			}
			if _, err := down.Write(piece); err != nil {
				return nil
			}
			left -= uint32(len(piece))
			if _, err := r.Discard(len(piece)); err != nil {
				return nil
			}
		}
	}
}

// check looks at the asymmetric security header, OPC 10000-6, 6.7.2.3: policy,
// sender's certificate (perhaps with its chain behind it), and the thumbprint
// of ours.
func (g *guard) check(frame []byte) error {
	rest := frame[min(openHead, len(frame)):]
	next := func() []byte {
		if len(rest) < 4 {
			rest = nil
			return nil
		}
		n := binary.LittleEndian.Uint32(rest)
		if rest = rest[4:]; uint64(n) > uint64(len(rest)) { // null is 2^32-1
			return nil
		}
		var out []byte
		out, rest = rest[:n], rest[n:]
		return out
	}
	policy, certificate := next(), next()
	if string(policy) != g.policy {
		return fmt.Errorf("server %s opened the channel with policy %q and not %s: something on the way may answer in its place: look at the network, and at the server",
			g.server, policyName(string(policy)), policyName(g.policy))
	}
	// DER tells its own length, so what begins with the certificate has it first.
	if !bytes.HasPrefix(certificate, g.leaf) {
		other := sha256.Sum256(certificate)
		return fmt.Errorf("server %s opened the channel with another certificate (SHA-256 %s) than the trusted one: something on the way may answer in its place: look at the network, and at the server",
			g.server, hex.EncodeToString(other[:]))
	}
	return nil
}

// link is a client with the guard that it dials through; there is none without
// security.
type link struct {
	*opcua.Client
	guard *guard
}

var errSignature = fmt.Errorf("%w: the server's signature of the session is no good", ua.StatusBadApplicationSignatureInvalid)

// survive calls connect. The library goes on with a nil session where the
// server's signature is wrong, and panics.
func survive(connect func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errSignature
		}
	}()
	return connect()
}
