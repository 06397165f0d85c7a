package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	mb "github.com/goburrow/modbus"
)

// MBAP header (Implementation Guide V1.0b, 3.1.3): transaction id 2 bytes,
// protocol id 2 (zero), length 2 (of what follows), unit id 1. Then the PDU:
// function code 1, data.
const (
	headerLen = 7
	maxADU    = 260
)

// replyError is an answer that arrived and cannot be used.
type replyError struct{ problem string }

func (e *replyError) Error() string { return e.problem }

// timeoutError says that no usable answer came in time. Foreign counts the
// frames that answered something else meanwhile.
type timeoutError struct {
	after   time.Duration
	foreign int
}

func (e *timeoutError) Error() string {
	s := fmt.Sprintf("no answer within %s", e.after)
	if e.foreign > 0 {
		s += fmt.Sprintf(" (%d answers with another transaction id, unit id or function code were discarded)", e.foreign)
	}
	return s
}

// lostError says that the connection broke or could not be made. Begun is
// true when a part of the answer had come, unsent when no request went out.
type lostError struct {
	cause  error
	begun  bool
	unsent bool
}

func (e *lostError) Error() string { return e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// packager adds and removes the MBAP header for one unit id. It shares the
// transaction counter of its link.
type packager struct {
	tr   *transport
	unit uint8
}

// Encode implements modbus.Packager. The result is valid until the next call
// on the same link.
func (p *packager) Encode(pdu *mb.ProtocolDataUnit) ([]byte, error) {
	p.tr.transaction++
	adu := p.tr.out[:headerLen+1+len(pdu.Data)]
	binary.BigEndian.PutUint16(adu, p.tr.transaction)
	binary.BigEndian.PutUint16(adu[2:], 0)
	binary.BigEndian.PutUint16(adu[4:], uint16(2+len(pdu.Data)))
	adu[6] = p.unit
	adu[headerLen] = pdu.FunctionCode
	copy(adu[headerLen+1:], pdu.Data)
	return adu, nil
}

// Verify implements modbus.Packager. The transport returns nothing that it has
// not matched with the request.
func (p *packager) Verify(_, _ []byte) error { return nil }

// Decode implements modbus.Packager.
func (p *packager) Decode(adu []byte) (*mb.ProtocolDataUnit, error) {
	return &mb.ProtocolDataUnit{FunctionCode: adu[headerLen], Data: adu[headerLen+1:]}, nil
}

// transport sends one request at a time over conn. Its owner serialises the
// calls.
type transport struct {
	conn        net.Conn // nil while there is none
	timeout     time.Duration
	deadline    time.Time // of the next Send; timeout from its start where zero
	transaction uint16
	out         [maxADU]byte
	in          [2 * maxADU]byte
	have        int // bytes of in that are not taken yet, from its start
	used        int // bytes of in that the last answer took
	replies     int // answers since the connection was made
}

var errNotConnected = errors.New("not connected")

// Send implements modbus.Transporter. The answer is valid until the next call.
// Frames that do not answer this request, such as the late answer to one that
// timed out, are dropped. After a *lostError the connection is closed.
func (t *transport) Send(request []byte) ([]byte, error) {
	if t.conn == nil {
		return nil, &lostError{cause: errNotConnected, unsent: true}
	}
	start := time.Now()
	deadline := start.Add(t.timeout)
	if !t.deadline.IsZero() && t.deadline.Before(deadline) {
		deadline = t.deadline
	}
	if err := t.conn.SetDeadline(deadline); err != nil {
		t.close()
		return nil, &lostError{cause: err, unsent: true}
	}
	if n, err := t.conn.Write(request); err != nil {
		t.close()
		return nil, &lostError{cause: err, unsent: n == 0}
	}
	foreign := 0
	for {
		frame, err := t.next()
		if err != nil {
			var le *lostError
			if errors.As(err, &le) && errors.Is(le.cause, os.ErrDeadlineExceeded) {
				if le.begun {
					// The rest of the frame would be taken for a header.
					t.close()
				}
				return nil, &timeoutError{after: deadline.Sub(start).Round(time.Millisecond), foreign: foreign}
			}
			t.close()
			return nil, err
		}
		if !answers(request, frame) {
			foreign++
			continue
		}
		t.replies++
		if err := checkReply(request, frame); err != nil {
			return nil, err
		}
		return frame, nil
	}
}

// next returns the next whole frame from the connection.
func (t *transport) next() ([]byte, error) {
	t.compact()
	for {
		if t.have >= headerLen {
			length := int(binary.BigEndian.Uint16(t.in[4:]))
			if binary.BigEndian.Uint16(t.in[2:]) != 0 || length < 3 || length > maxADU-6 {
				return nil, &lostError{cause: errors.New("what the device sends is not Modbus TCP"), begun: true}
			}
			if t.have >= 6+length {
				t.used = 6 + length
				return t.in[:t.used], nil
			}
		}
		n, err := t.conn.Read(t.in[t.have:])
		t.have += n
		if err != nil && n == 0 {
			return nil, &lostError{cause: err, begun: t.have > 0}
		}
	}
}

// compact drops the last answer from in.
func (t *transport) compact() {
	if t.used > 0 {
		copy(t.in[:], t.in[t.used:t.have])
		t.have -= t.used
		t.used = 0
	}
}

// probeTime is how long ended waits for the end of a connection that has come
// already: a read whose deadline is over says nothing.
const probeTime = time.Millisecond

// ended reports whether the other side has closed the connection, and gives it
// up then. What else has come is kept for next.
func (t *transport) ended() bool {
	t.compact()
	if t.conn.SetDeadline(time.Now().Add(probeTime)) == nil {
		n, err := t.conn.Read(t.in[t.have:])
		t.have += n
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
	t.close()
	return true
}

// adopt takes over a fresh connection.
func (t *transport) adopt(c net.Conn) {
	t.conn, t.have, t.used, t.replies = c, 0, 0, 0
}

func (t *transport) close() {
	if t.conn != nil {
		// The connection is given up; what closing it says changes nothing.
		_ = t.conn.Close()
	}
	t.conn, t.have, t.used = nil, 0, 0
}

// answers reports whether frame answers request: the same transaction id,
// unit id and function code, the latter with or without the exception bit.
func answers(request, frame []byte) bool {
	return request[0] == frame[0] && request[1] == frame[1] &&
		request[6] == frame[6] && request[headerLen] == frame[headerLen]&0x7F
}

// checkReply reports an answer whose length or echo is not what the request
// asks for (V1.1b3, 6.1 to 6.12 and 7).
func checkReply(request, frame []byte) error {
	pdu := frame[headerLen:]
	if pdu[0]&0x80 != 0 {
		if len(pdu) != 2 {
			return &replyError{fmt.Sprintf("an exception of %d bytes instead of 2", len(pdu))}
		}
		return nil
	}
	quantity := int(binary.BigEndian.Uint16(request[headerLen+3:]))
	switch pdu[0] {
	case mb.FuncCodeReadCoils, mb.FuncCodeReadDiscreteInputs:
		return checkCount(pdu, (quantity+7)/8)
	case mb.FuncCodeReadHoldingRegisters, mb.FuncCodeReadInputRegisters:
		return checkCount(pdu, 2*quantity)
	default:
		// The writes echo the address and the value or the quantity.
		if len(pdu) != 5 || string(pdu[1:]) != string(request[headerLen+1:headerLen+5]) {
			return &replyError{"the confirmation of the write does not repeat address and value"}
		}
		return nil
	}
}

func checkCount(pdu []byte, want int) error {
	if len(pdu) < 2 || int(pdu[1]) != want || len(pdu) != 2+want {
		return &replyError{fmt.Sprintf("the answer holds %d bytes of values where %d were asked for", len(pdu)-2, want)}
	}
	return nil
}
