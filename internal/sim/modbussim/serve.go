package modbussim

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"time"
)

// Function codes (V1.1b3, 6).
const (
	readCoils      = 1
	readDiscrete   = 2
	readHolding    = 3
	readInput      = 4
	writeCoil      = 5
	writeRegister  = 6
	writeCoils     = 15
	writeRegisters = 16
)

const headerLen = 7

// session is one client's connection.
type session struct {
	server *Server
	epoch  *epoch
	conn   net.Conn
	in     [300]byte
	out    [300]byte
	values [2000]uint16
	held   []byte // a late reply
	heldAs Reply
}

// serve answers requests until the connection ends.
func (s *Server) serve(e *epoch, c net.Conn) {
	x := &session{server: s, epoch: e, conn: c}
	r := bufio.NewReader(c)
	for {
		if _, err := io.ReadFull(r, x.in[:headerLen]); err != nil {
			return
		}
		length := int(binary.BigEndian.Uint16(x.in[4:]))
		if binary.BigEndian.Uint16(x.in[2:]) != 0 || length < 2 || length > 254 {
			return // not Modbus TCP
		}
		if _, err := io.ReadFull(r, x.in[headerLen:6+length]); err != nil {
			return
		}
		if !x.answer(x.in[:6+length], time.Now()) {
			return
		}
	}
}

// answer replies to one request and reports whether the connection goes on.
func (x *session) answer(request []byte, arrived time.Time) bool {
	pdu := request[headerLen:]
	reply := Reply{Slave: request[6], Function: pdu[0], Arrived: arrived}
	count, malformed := x.parse(pdu, &reply)
	v := x.server.judge(&reply, count)
	if v.delay > 0 {
		t := time.NewTimer(v.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-x.epoch.stopped:
			return false
		}
	}
	if v.drop {
		return true
	}

	x.server.gate.RLock()
	defer x.server.gate.RUnlock()
	if x.server.running != x.epoch {
		return false
	}
	reply.Exception = malformed
	if reply.Exception == 0 {
		reply.Exception = v.exception
	}
	if reply.Exception == 0 {
		reply.Exception = x.carryOut(&reply, count)
	}
	frame := x.frame(request, &reply)
	switch {
	case v.late:
		reply.Fault = FaultLate
		x.held, x.heldAs = slices.Clone(frame), reply
		x.heldAs.Values = slices.Clone(reply.Values)
		return true
	case v.wrongID:
		reply.Fault = FaultTransaction
		binary.BigEndian.PutUint16(frame, binary.BigEndian.Uint16(frame)+0x5555)
	case v.truncate:
		// What is cut is no reply: it is not reported. The client sees the end.
		_, _ = x.conn.Write(frame[:len(frame)/2])
		return false
	}
	if x.held != nil {
		if !x.send(x.held, x.heldAs, false) {
			return false
		}
		x.held = nil
	}
	return x.send(frame, reply, v.split)
}

// send writes a frame and reports it.
func (x *session) send(frame []byte, reply Reply, split bool) bool {
	for split && len(frame) > 3 {
		if _, err := x.conn.Write(frame[:3]); err != nil {
			return false
		}
		frame = frame[3:]
		time.Sleep(time.Millisecond) // so that the pieces are segments
	}
	if _, err := x.conn.Write(frame); err != nil {
		return false
	}
	reply.Written = time.Now()
	if x.server.opts.OnReply != nil {
		x.server.opts.OnReply(reply)
	}
	return true
}

// parse fills in the table, the address and the values of a write. It returns
// how many registers or bits are touched, and an exception where the request
// itself is wrong.
func (x *session) parse(pdu []byte, r *Reply) (int, Exception) {
	switch r.Function {
	case readCoils, writeCoil, writeCoils:
		r.Table = Coil
	case readDiscrete:
		r.Table = Discrete
	case readHolding, writeRegister, writeRegisters:
		r.Table = Holding
	case readInput:
		r.Table = Input
	default:
		return 0, IllegalFunction
	}
	if len(pdu) < 5 {
		return 0, IllegalDataValue
	}
	r.Address = binary.BigEndian.Uint16(pdu[1:])
	n := int(binary.BigEndian.Uint16(pdu[3:]))
	most := map[byte]int{readCoils: 2000, readDiscrete: 2000, readHolding: 125, readInput: 125,
		writeCoils: 1968, writeRegisters: 123}[r.Function]
	switch r.Function {
	case writeCoil:
		if n != 0 && n != 0xFF00 {
			return 1, IllegalDataValue
		}
		x.values[0] = uint16(n >> 15)
		n, most = 1, 1
	case writeRegister:
		x.values[0] = uint16(n)
		n, most = 1, 1
	}
	if n < 1 || n > most {
		return n, IllegalDataValue
	}
	if int(r.Address)+n > 65536 {
		return n, IllegalDataAddress
	}
	r.Values = x.values[:n]
	switch r.Function {
	case writeCoils:
		if len(pdu) != 6+(n+7)/8 || int(pdu[5]) != (n+7)/8 {
			return n, IllegalDataValue
		}
		for i := range r.Values {
			r.Values[i] = uint16(pdu[6+i/8] >> (i % 8) & 1)
		}
	case writeRegisters:
		if len(pdu) != 6+2*n || int(pdu[5]) != 2*n {
			return n, IllegalDataValue
		}
		for i := range r.Values {
			r.Values[i] = binary.BigEndian.Uint16(pdu[6+2*i:])
		}
	}
	return n, 0
}

// carryOut asks the device behind the server.
func (x *session) carryOut(r *Reply, count int) Exception {
	r.Values = x.values[:count]
	switch r.Function {
	case readCoils, readDiscrete, readHolding, readInput:
		clear(r.Values)
		return x.server.opts.Read(r.Slave, r.Table, r.Address, r.Values)
	}
	if x.server.opts.Write == nil {
		return IllegalFunction
	}
	return x.server.opts.Write(r.Slave, r.Table, r.Address, r.Values)
}

// frame builds the reply's bytes.
func (x *session) frame(request []byte, r *Reply) []byte {
	out := append(x.out[:0], request[:8]...)
	switch {
	case r.Exception != 0:
		r.Values = nil
		out[headerLen] |= 0x80
		out = append(out, byte(r.Exception))
	case r.Function == readHolding || r.Function == readInput:
		out = append(out, byte(2*len(r.Values)))
		for _, v := range r.Values {
			out = binary.BigEndian.AppendUint16(out, v)
		}
	case r.Function == readCoils || r.Function == readDiscrete:
		n := (len(r.Values) + 7) / 8
		out = append(out, byte(n))
		for range n {
			out = append(out, 0)
		}
		for i, v := range r.Values {
			if v != 0 {
				out[headerLen+2+i/8] |= 1 << (i % 8)
			}
		}
	default: // a write is confirmed by its first bytes
		out = append(out, request[8:12]...)
	}
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-6))
	return out
}
