// Package modbussim is a Modbus TCP server for tests and the demo. Its values
// come from a callback, each reply is reported at the moment when it has gone
// out on the wire, and faults are switched on and off while it runs.
//
// It implements functions 1 to 6, 15 and 16 of the MODBUS Application Protocol
// Specification V1.1b3.
package modbussim

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Table is one of the four tables of the data model.
type Table uint8

// The tables.
const (
	Holding Table = iota
	Input
	Coil
	Discrete
)

// String returns the table's name.
func (t Table) String() string {
	return [...]string{"holding", "input", "coil", "discrete"}[t&3]
}

// Exception is a Modbus exception code (V1.1b3, 7); 0 is none.
type Exception byte

// The exceptions that a server uses most.
const (
	IllegalFunction    Exception = 1
	IllegalDataAddress Exception = 2
	IllegalDataValue   Exception = 3
	DeviceFailure      Exception = 4
	DeviceBusy         Exception = 6
	TargetNoResponse   Exception = 11
)

// Options are the device behind the server. The callbacks may be called from
// several goroutines.
type Options struct {
	// Read fills values with the registers at address and behind it. A coil or
	// discrete input is 0 or 1. It is called as the reply is made.
	Read func(slave uint8, t Table, address uint16, values []uint16) Exception
	// Write takes values that a client wrote. Nil refuses every write with
	// IllegalFunction. It may not keep values.
	Write func(slave uint8, t Table, address uint16, values []uint16) Exception
	// OnReply is told of each reply once all its bytes are written. It runs
	// before Stop returns, and before the connection's next request is read.
	// It may not call Stop, Resume or Disconnect.
	OnReply func(Reply)
}

// Reply is one reply that went out.
type Reply struct {
	Slave     uint8
	Function  byte
	Table     Table
	Address   uint16
	Values    []uint16 // valid during the call; of a write, what was written
	Exception Exception
	Arrived   time.Time // when the request had been read
	Written   time.Time // when the last byte was handed to the system
	// Fault is the fault that made this reply useless to the client, or "":
	// FaultTransaction or FaultLate. Such a reply must not be taken.
	Fault string
}

// The values of Reply.Fault.
const (
	FaultTransaction = "wrong transaction id"
	FaultLate        = "late"
)

// Server is a running device.
type Server struct {
	opts Options
	addr string

	// gate is held for reading while a reply is written and reported, so that
	// Stop finds each reply either done or not begun.
	gate    sync.RWMutex
	running *epoch // nil while stopped

	mu       sync.Mutex
	faults   Faults
	requests int
}

// epoch is the time between a start and a stop.
type epoch struct {
	listener net.Listener
	stopped  chan struct{}
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	done     sync.WaitGroup
}

// Start listens on a free port of 127.0.0.1.
func Start(opts Options) (*Server, error) {
	if opts.Read == nil {
		return nil, errors.New("modbussim: Options.Read is missing")
	}
	s := &Server{opts: opts, addr: "127.0.0.1:0"}
	if err := s.listen(); err != nil {
		return nil, err
	}
	s.addr = s.running.listener.Addr().String()
	return s, nil
}

// Addr returns host:port, which stays the same over Stop and Resume.
func (s *Server) Addr() string { return s.addr }

// URL returns tcp://host:port.
func (s *Server) URL() string { return "tcp://" + s.addr }

// Requests returns how many requests were received so far.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Connections returns how many clients are connected.
func (s *Server) Connections() int {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.running == nil {
		return 0
	}
	s.running.mu.Lock()
	defer s.running.mu.Unlock()
	return len(s.running.conns)
}

// Stop takes the device off the network: the port is closed and so is every
// connection. A reply that has begun is written and reported first.
func (s *Server) Stop() {
	s.gate.Lock()
	e := s.running
	s.running = nil
	s.gate.Unlock()
	if e == nil {
		return
	}
	close(e.stopped)
	// Closing is all that is wanted; the system's word on it is of no use.
	_ = e.listener.Close()
	e.closeConns()
	e.done.Wait()
}

// Resume brings the device back on its port.
func (s *Server) Resume() error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.running != nil {
		return nil
	}
	return s.listen()
}

// Disconnect closes every connection and stays reachable, as a device does
// that finds its clients idle.
func (s *Server) Disconnect() {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.running != nil {
		s.running.closeConns()
	}
}

// Close is Stop for good.
func (s *Server) Close() error {
	s.Stop()
	return nil
}

func (s *Server) listen() error {
	var (
		l   net.Listener
		err error
	)
	// The port was ours a moment ago; connections that are being torn down
	// may hold it a little longer.
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if l, err = net.Listen("tcp", s.addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("modbussim: listen on %s: %w", s.addr, err)
		}
	}
	e := &epoch{listener: l, stopped: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	s.running = e
	e.done.Go(func() { s.accept(e) })
	return nil
}

func (s *Server) accept(e *epoch) {
	for {
		c, err := e.listener.Accept()
		if err != nil {
			select {
			case <-e.stopped:
				return
			case <-time.After(10 * time.Millisecond): // out of files, say
				continue
			}
		}
		if !e.add(c) {
			_ = c.Close() // stopped meanwhile
			return
		}
		e.done.Go(func() {
			defer e.remove(c)
			s.serve(e, c)
		})
	}
}

func (e *epoch) add(c net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.stopped:
		return false
	default:
	}
	e.conns[c] = struct{}{}
	return true
}

func (e *epoch) remove(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
	_ = c.Close() // it may be closed already
}

func (e *epoch) closeConns() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		_ = c.Close() // ends its reader
	}
}
