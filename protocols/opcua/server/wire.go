package server

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gopcua/opcua/ua"
)

// Sizes and times of a connection, OPC 10000-6, 7.1.
const (
	frameHeader = 8
	helloFixed  = frameHeader + 20
	maxURL      = 4096
	// bufferSize is what a chunk may have at most, either way; minBuffer what
	// every application has to take.
	bufferSize = 65535
	minBuffer  = 8192
	// maxOpen bounds the message that opens a channel: a certificate with its
	// chain, and little else.
	maxOpen = 16 << 10
	// maxMessage bounds a request in a session, maxStranger one before that, and
	// maxChunks the pieces of either.
	maxMessage  = 1 << 20
	maxStranger = 64 << 10
	maxChunks   = 64
	// messageWithin is how long a message of several chunks may take, and
	// writeWithin what we write: who is slower is cut off.
	messageWithin = 30 * time.Second
	writeWithin   = 10 * time.Second
)

// times are how long a client may take.
type times struct {
	open     time.Duration // without a channel
	stranger time.Duration // with a channel and without a session
	chunk    time.Duration // from its first byte to its last
}

func usualTimes() times {
	return times{open: 10 * time.Second, stranger: time.Minute, chunk: 10 * time.Second}
}

// frame is one chunk as it is on the wire.
type frame struct {
	kind string // HEL, OPN, MSG, CLO
	last byte   // 'F' final, 'C' more follow, 'A' given up
	raw  []byte // with its header
}

// wireError ends a connection, with what the other side is told.
type wireError struct {
	code ua.StatusCode
	text string
	// quiet is set where it was logged already.
	quiet bool
}

// Error implements error.
func (e *wireError) Error() string { return e.text }

func wireErrorf(code ua.StatusCode, format string, args ...any) error {
	return &wireError{code: code, text: fmt.Sprintf(format, args...)}
}

// errEnded is a connection that the other side has closed, between messages.
var errEnded = errors.New("the connection has ended")

// limits are what both sides of a connection take.
type limits struct {
	receive, send  int // bytes of a chunk
	maxSendMessage int // bytes, 0 for any
	maxSendChunks  int // 0 for any
}

// wire reads and writes frames.
type wire struct {
	conn   net.Conn
	r      *bufio.Reader
	limits limits
	chunk  time.Duration // that one may take
}

func newWire(c net.Conn, chunk time.Duration) *wire {
	return &wire{conn: c, r: bufio.NewReaderSize(c, 4096), limits: limits{receive: maxOpen}, chunk: chunk}
}

// next returns the next frame. It waits for its first byte until idle, and then
// for the others as long as a chunk may take.
func (w *wire) next(idle time.Time) (frame, error) {
	if err := w.conn.SetReadDeadline(idle); err != nil {
		return frame{}, err
	}
	if _, err := w.r.Peek(1); err != nil {
		if errors.Is(err, io.EOF) {
			return frame{}, errEnded
		}
		return frame{}, err
	}
	if err := w.conn.SetReadDeadline(time.Now().Add(w.chunk)); err != nil {
		return frame{}, err
	}
	var head [frameHeader]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: string(head[:3]), last: head[3]}
	size := binary.LittleEndian.Uint32(head[4:])
	limit := w.limits.receive
	switch f.kind {
	case "HEL":
		limit = helloFixed + 4 + maxURL
	case "OPN":
		limit = min(limit, maxOpen)
	case "MSG", "CLO":
	default:
		return frame{}, wireErrorf(ua.StatusBadTCPMessageTypeInvalid, "a message that is no OPC UA")
	}
	if size < frameHeader || size > uint32(limit) {
		return frame{}, wireErrorf(ua.StatusBadTCPMessageTooLarge, "a chunk of %d bytes, where %d are the limit", size, limit)
	}
	f.raw = make([]byte, size)
	copy(f.raw, head[:])
	_, err := io.ReadFull(w.r, f.raw[frameHeader:])
	return f, err
}

// write writes whole frames.
func (w *wire) write(b []byte) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	_, err := w.conn.Write(b)
	return err
}

// hello answers the client's Hello, which has to come first: OPC 10000-6,
// 7.1.2.3 and 7.1.2.4. It returns the URL that the client dialled.
func (w *wire) hello(until time.Time) (string, error) {
	f, err := w.next(until)
	if err != nil {
		return "", err
	}
	if f.kind != "HEL" || f.last != 'F' || len(f.raw) < helloFixed+4 {
		return "", wireErrorf(ua.StatusBadTCPMessageTypeInvalid, "a client that does not say Hello")
	}
	d := newDecoder(f.raw[frameHeader:])
	d.u32() // the version; every one is answered by ours, which is 0
	receive, send, message, chunks := d.u32(), d.u32(), d.u32(), d.u32()
	url := d.str()
	if d.err != nil || len(url) > maxURL {
		return "", wireErrorf(ua.StatusBadTCPEndpointURLInvalid, "a Hello that does not read")
	}
	if receive < minBuffer || send < minBuffer {
		return "", wireErrorf(ua.StatusBadConnectionRejected, "a client with buffers of %d and %d bytes, below %d", receive, send, minBuffer)
	}
	w.limits = limits{
		receive: int(min(send, bufferSize)), send: int(min(receive, bufferSize)),
		maxSendMessage: int(min(message, 1<<30)), maxSendChunks: int(min(chunks, 1<<20)),
	}
	ack := []byte("ACKF")
	for _, n := range []uint32{frameHeader + 20, 0, uint32(w.limits.receive), uint32(w.limits.send), maxMessage, maxChunks} {
		ack = binary.LittleEndian.AppendUint32(ack, n)
	}
	return url, w.write(ack)
}

// refuse tells the other side why the connection ends: OPC 10000-6, 7.1.2.5.
func (w *wire) refuse(code ua.StatusCode, reason string) {
	body := binary.LittleEndian.AppendUint32(nil, uint32(code))
	body = binary.LittleEndian.AppendUint32(body, uint32(len(reason)))
	body = append(body, reason...)
	b := binary.LittleEndian.AppendUint32([]byte("ERRF"), uint32(frameHeader+len(body)))
	// Who is cut off may be gone already.
	_ = w.write(append(b, body...))
}
