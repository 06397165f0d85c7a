package modbus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	mb "github.com/goburrow/modbus"
)

// guests are the clients that are connected.
type guests struct {
	server *server
	mu     sync.Mutex
	conns  map[net.Conn]guest
	came   uint64 // how many have been taken
	closed bool
	done   sync.WaitGroup
	notes  notes
}

// guest is a client that is connected.
type guest struct {
	from   netip.Addr
	number uint64 // in the order in which they came
}

// share makes room for a client from an address that has at least two fewer
// than another one: that one's first client is disconnected. So no address can
// keep the others out by opening all connections. Callers hold g.mu.
func (g *guests) share(from netip.Addr) {
	count := map[netip.Addr]int{}
	for _, x := range g.conns {
		count[x.from]++
	}
	var out net.Conn
	for c, x := range g.conns {
		if count[x.from] < count[from]+2 {
			continue
		}
		if o := g.conns[out]; out == nil || count[x.from] > count[o.from] || x.from == o.from && x.number < o.number {
			out = c
		}
	}
	if out != nil {
		_ = out.Close() // ends its reader
		delete(g.conns, out)
	}
}

// admit serves c, or closes it at once.
func (g *guests) admit(c net.Conn) {
	s := g.server
	from := remoteOf(c)
	if !s.allowed(from) {
		g.refuse(c)
		g.note(from, "a client is not in connection.allow and is not answered; add its address if it is yours", "not allowed")
		return
	}
	g.mu.Lock()
	if len(g.conns) >= s.cfg.MaxConnections {
		g.share(from)
	}
	full := len(g.conns) >= s.cfg.MaxConnections
	taken := !full && !g.closed
	if taken {
		g.came++
		g.conns[c] = guest{from, g.came}
		g.done.Go(func() { g.serve(c, from) })
	}
	g.mu.Unlock()
	if !taken {
		g.refuse(c)
	}
	if full {
		g.note(netip.Addr{}, "as many clients are connected as connection.max_connections allows, and more are turned away; raise it, or look for clients that do not hang up", "full",
			"max_connections", s.cfg.MaxConnections, "turned_away", from)
	}
}

// refuse closes c without a trace in the kernel's tables.
func (g *guests) refuse(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // else it is closed in the ordinary way
	}
	_ = c.Close() // it is given up
}

// note logs a problem with a client, once an hour for each address and cause.
func (g *guests) note(from netip.Addr, text, cause string, more ...any) {
	g.mu.Lock()
	now := g.notes.due(note{from, cause}, time.Now())
	g.mu.Unlock()
	if now {
		if from.IsValid() {
			more = append(more, "client", from)
		}
		g.server.log.Warn(text, more...)
	}
}

// serve answers one client until the connection ends.
func (g *guests) serve(c net.Conn, from netip.Addr) {
	defer func() {
		g.mu.Lock()
		delete(g.conns, c)
		g.mu.Unlock()
		_ = c.Close() // it may be closed already
	}()
	switch err := g.server.converse(c); {
	case errors.Is(err, errNotModbus):
		g.note(from, "a client sends what is not Modbus TCP and is disconnected; set it to Modbus TCP, not RTU over TCP", "not modbus")
	case errors.Is(err, errSlow):
		g.note(from, "a client does not finish a request, or does not take its answer, and is disconnected", "slow", "within", frameTime)
	}
}

// close disconnects every client and waits until they have left.
func (g *guests) close() {
	g.mu.Lock()
	g.closed = true
	for c := range g.conns {
		_ = c.Close() // ends its reader
	}
	g.mu.Unlock()
	g.done.Wait()
}

// note is what is said once an hour.
type note struct {
	from  netip.Addr
	cause string
}

const (
	noteEvery = time.Hour
	// maxNotes bounds the addresses that are remembered. Beyond, nothing is said.
	maxNotes = 256
)

// notes remembers when each was said.
type notes map[note]time.Time

// due reports whether n is to be said now.
func (l *notes) due(n note, now time.Time) bool {
	if *l == nil {
		*l = notes{}
	}
	if at, ok := (*l)[n]; ok && now.Sub(at) < noteEvery {
		return false
	}
	if len(*l) >= maxNotes {
		for old, at := range *l {
			if now.Sub(at) >= noteEvery {
				delete(*l, old)
			}
		}
		if len(*l) >= maxNotes {
			return false
		}
	}
	(*l)[n] = now
	return true
}

func remoteOf(c net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

func (s *server) allowed(a netip.Addr) bool {
	if len(s.networks) == 0 {
		return true
	}
	for _, p := range s.networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// How a connection ends that the other side has not closed.
var (
	errNotModbus = errors.New("not Modbus TCP")
	errSlow      = errors.New("too slow")
	errIdle      = errors.New("idle")
)

// converse answers requests one after another. Those that a client sends ahead
// wait in the connection.
func (s *server) converse(c net.Conn) error {
	r := bufio.NewReaderSize(c, 2*maxADU)
	var in, out [maxADU]byte
	for {
		if err := c.SetDeadline(time.Now().Add(s.cfg.IdleTimeout)); err != nil {
			return err
		}
		if _, err := r.Peek(1); err != nil {
			return slowAs(err, errIdle)
		}
		if err := c.SetDeadline(time.Now().Add(frameTime)); err != nil {
			return err
		}
		n, err := readFrame(r, in[:])
		if err != nil {
			return slowAs(err, errSlow)
		}
		reply := s.reply(in[:n], out[:0])
		s.logLive()
		if _, err := c.Write(reply); err != nil {
			return slowAs(err, errSlow)
		}
	}
}

// slowAs returns as where err says that the time was over.
func slowAs(err, as error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return as
	}
	return err
}

// readFrame reads one request into buf, which holds maxADU bytes, and returns
// its length. Behind an error of the header nothing can be read any more: where
// the next frame begins is not known (Implementation Guide V1.0b, 3.1.3).
func readFrame(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:headerLen]); err != nil {
		return 0, err
	}
	length := int(binary.BigEndian.Uint16(buf[4:]))
	if binary.BigEndian.Uint16(buf[2:]) != 0 || length < 2 || length > maxADU-6 {
		return 0, errNotModbus
	}
	_, err := io.ReadFull(r, buf[headerLen:6+length])
	return 6 + length, err
}

// reply appends the answer to a request, header and all, to out.
func (s *server) reply(request, out []byte) []byte {
	out = append(out, request[:headerLen]...)
	function := request[headerLen]
	out = append(out, function)
	var code byte
	if s.answers[request[6]] {
		out, code = s.carryOut(request[6], request[headerLen:], out)
	} else {
		code = mb.ExceptionCodeGatewayTargetDeviceFailedToRespond
	}
	if code != 0 {
		out = append(out[:headerLen], function|0x80, code)
	}
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-6))
	return out
}

// carryOut appends byte count and values to out, or returns an exception, in
// the order of V1.1b3, 6.1 to 6.4: function, quantity, address, value. Nothing
// but the four reads is there.
func (s *server) carryOut(unit uint8, pdu, out []byte) ([]byte, byte) {
	var from table
	switch pdu[0] {
	case mb.FuncCodeReadCoils:
		from = coil
	case mb.FuncCodeReadDiscreteInputs:
		from = discrete
	case mb.FuncCodeReadHoldingRegisters:
		from = holding
	case mb.FuncCodeReadInputRegisters:
		from = input
	default:
		return out, mb.ExceptionCodeIllegalFunction
	}
	if len(pdu) != 5 {
		return out, mb.ExceptionCodeIllegalDataValue
	}
	first := spot{unit, from, binary.BigEndian.Uint16(pdu[1:])}
	count := int(binary.BigEndian.Uint16(pdu[3:]))
	most, bytes := specRegisters, 2*count
	if first.table.isBits() {
		most, bytes = specCoils, (count+7)/8
	}
	switch {
	case count < 1 || count > most:
		return out, mb.ExceptionCodeIllegalDataValue
	case int(first.offset)+count > 65536:
		return out, mb.ExceptionCodeIllegalDataAddress
	}
	return s.regs.read(s.clock, first, count, append(out, byte(bytes)))
}

// logLive logs live tags that their registers do not hold, and the end of that.
func (s *server) logLive() {
	for _, l := range s.regs.drain() {
		if l.problem != nil {
			s.log.Warn("a live tag cannot be shown; give it a type that holds it", "object", l.name, "error", l.problem)
		} else {
			s.log.Info("a live tag is shown again", "object", l.name)
		}
	}
}
