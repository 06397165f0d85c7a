package netsim

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"time"
)

// Answer is what a name server says.
type Answer uint8

// The answers of a name server.
const (
	Resolves Answer = iota // 127.0.0.1 for the names it knows
	ServFail               // it fails
	NoName                 // it denies every name
	Silent                 // it says nothing
)

// Names is a DNS server on the loopback.
type Names struct {
	conn  *net.UDPConn
	known map[string]bool
	wg    sync.WaitGroup

	mu     sync.Mutex
	answer Answer
	asked  int
}

// StartNames serves the names given, as 127.0.0.1.
func StartNames(names ...string) (*Names, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	n := &Names{conn: c, known: map[string]bool{}}
	for _, name := range names {
		n.known[strings.TrimSuffix(name, ".")] = true
	}
	n.wg.Go(n.serve)
	return n, nil
}

// Set changes what is answered.
func (n *Names) Set(a Answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = a
}

// Asked counts the questions so far.
func (n *Names) Asked() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// Resolver returns a resolver that asks this server alone.
func (n *Names) Resolver() *net.Resolver {
	addr := n.conn.LocalAddr().String()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", addr)
	}}
}

// Dial connects as net.Dialer does, by the names of this server.
func (n *Names) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, Resolver: n.Resolver()}
	return d.DialContext(ctx, network, addr)
}

// Close stops the server.
func (n *Names) Close() error {
	err := n.conn.Close()
	n.wg.Wait()
	return err
}

func (n *Names) serve() {
	buf := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFromUDP(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		n.mu.Lock()
		n.asked++
		answer := n.answer
		n.mu.Unlock()
		if reply := n.reply(buf[:size], answer); reply != nil {
			_, _ = n.conn.WriteToUDP(reply, from) // who has gone needs no answer
		}
	}
}

// reply builds an answer by RFC 1035, section 4, nil where there is none.
func (n *Names) reply(q []byte, answer Answer) []byte {
	const (
		header  = 12
		typeA   = 1
		classIN = 1
	)
	if answer == Silent || len(q) < header {
		return nil
	}
	var labels []string
	i := header
	for i < len(q) && q[i] != 0 {
		end := i + 1 + int(q[i])
		if end > len(q) {
			return nil
		}
		labels = append(labels, string(q[i+1:end]))
		i = end
	}
	if i+5 > len(q) {
		return nil
	}
	end := i + 5 // the root label, type and class
	kind := binary.BigEndian.Uint16(q[i+1:])
	out := append([]byte(nil), q[:end]...)
	out[2], out[3] = 0x84|q[2]&1, 0x80 // an answer, authoritative; recursion available
	binary.BigEndian.PutUint16(out[4:], 1)
	binary.BigEndian.PutUint16(out[6:], 0)
	binary.BigEndian.PutUint16(out[8:], 0)
	binary.BigEndian.PutUint16(out[10:], 0)
	known := n.known[strings.ToLower(strings.Join(labels, "."))]
	switch {
	case answer == ServFail:
		out[3] |= 2
	case answer == NoName || !known:
		out[3] |= 3
	case kind == typeA:
		binary.BigEndian.PutUint16(out[6:], 1)
		out = append(out, 0xC0, header, 0, typeA, 0, classIN, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
	}
	return out
}
