package netsim

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// Outage is how a network in memory fails.
type Outage uint8

// The outages of a network in memory.
const (
	Up      Outage = iota
	Refused        // open connections are cut, new ones are refused
	Dark           // nothing is answered, and nobody is told
)

// Memory is a network of one host in memory, for tests in fake time: waiting
// for a real socket would stop a synctest bubble's clock.
type Memory struct {
	mu      sync.Mutex
	outage  Outage
	changed chan struct{} // closed and renewed when the outage changes
	accept  chan net.Conn
	closed  chan struct{}
	conns   map[*memoryConn]struct{}
	dials   int
}

// NewMemory returns a network that is up. Where it is used in a bubble it must
// be made there.
func NewMemory() *Memory {
	return &Memory{changed: make(chan struct{}), accept: make(chan net.Conn), closed: make(chan struct{}), conns: map[*memoryConn]struct{}{}}
}

// Set changes the outage. A connection that has seen the dark stays dark.
func (m *Memory) Set(o Outage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outage = o
	close(m.changed)
	m.changed = make(chan struct{})
	for c := range m.conns {
		switch o {
		case Refused:
			c.cut()
		case Dark:
			c.darken()
		}
	}
}

// Dials counts the connections tried.
func (m *Memory) Dials() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials
}

// dialTimeout is how long a connection may take.
const dialTimeout = 10 * time.Second

// Dial connects to the host, whatever the address. In the dark it waits until
// ctx is done, or ten seconds.
func (m *Memory) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	m.mu.Lock()
	m.dials++
	outage := m.outage
	m.mu.Unlock()
	switch outage {
	case Refused:
		return fail(syscall.ECONNREFUSED)
	case Dark:
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		<-ctx.Done()
		return fail(ctx.Err())
	}
	client, server := net.Pipe()
	c := &memoryConn{Conn: client, m: m, gone: make(chan struct{})}
	m.mu.Lock()
	m.conns[c] = struct{}{}
	m.mu.Unlock()
	select {
	case m.accept <- server:
		return c, nil
	case <-ctx.Done():
		return fail(errors.Join(ctx.Err(), c.Close()))
	case <-m.closed:
		return fail(errors.Join(syscall.ECONNREFUSED, c.Close()))
	}
}

// Accept implements net.Listener.
func (m *Memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.accept:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It cuts every connection.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		return net.ErrClosed
	default:
	}
	close(m.closed)
	for c := range m.conns {
		c.cut()
	}
	return nil
}

// Addr implements net.Listener.
func (m *Memory) Addr() net.Addr { return memoryAddr{} }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory:80" }

// memoryConn is the client's side of a connection.
type memoryConn struct {
	net.Conn
	m    *Memory
	once sync.Once
	gone chan struct{} // closed by Close

	mu   sync.Mutex
	dark bool
}

// cut ends the connection for both sides.
func (c *memoryConn) cut() { _ = c.Conn.Close() } // a pipe's Close does not fail

// darken leaves the client with a connection that says nothing any more. The
// far side is closed: it would find out by its own keep-alive.
func (c *memoryConn) darken() {
	c.mu.Lock()
	c.dark = true
	c.mu.Unlock()
	c.cut()
}

func (c *memoryConn) isDark() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dark
}

// Read implements net.Conn.
func (c *memoryConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.isDark() {
		<-c.gone
		return 0, net.ErrClosed
	}
	return n, err
}

// Write implements net.Conn. In the dark bytes go nowhere, as into the
// kernel's buffer.
func (c *memoryConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.isDark() {
		return len(p), nil
	}
	return n, err
}

// Close implements net.Conn.
func (c *memoryConn) Close() error {
	c.once.Do(func() {
		close(c.gone)
		c.m.mu.Lock()
		delete(c.m.conns, c)
		c.m.mu.Unlock()
	})
	return c.Conn.Close()
}
