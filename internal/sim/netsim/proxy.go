// Package netsim is a bad network on the loopback: a TCP proxy that resets,
// delays, silences and half-closes connections as a seed says, a name server
// that fails, and connections in memory for tests in fake time.
package netsim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Kind is what happens to one connection.
type Kind uint8

// What can happen to a connection. Most of it happens after a number of bytes
// in one direction, so that it strikes inside a request or inside an answer.
const (
	Fair      Kind = iota // nothing
	Reset                 // both sides see a reset
	Cut                   // both sides see the other close
	Slow                  // bytes arrive a few at a time
	Deaf                  // nobody reads any more in one direction; the other goes on
	Frozen                // nothing passes any more, and nobody is told: half-open, or a black hole
	HalfClose             // one direction is closed, the other goes on
	kinds
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	names := [kinds]string{"fair", "reset", "cut", "slow", "deaf", "frozen", "half-close"}
	if k < kinds {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Kinds lists every Kind that is a fault.
func Kinds() []Kind { return []Kind{Reset, Cut, Slow, Deaf, Frozen, HalfClose} }

// Weather is what connections meet from now on.
type Weather struct {
	// Kinds are what a new connection may draw, each as likely; none is Fair.
	Kinds []Kind
	// Share is the part of connections that draw, 0 to 1; the others are Fair.
	Share float64
	// Live says that the connections that are open already draw too.
	Live bool
	// Refuse has new connections refused: nothing listens on the port.
	Refuse bool
}

// Proxy forwards TCP connections from a loopback port to one address.
type Proxy struct {
	target string
	port   *Port
	seed   uint64

	mu      sync.Mutex
	weather Weather
	links   map[*link]struct{}
	count   uint64 // of connections, which numbers their draws
	struck  map[Kind]int
	closed  bool
	wg      sync.WaitGroup
}

// StartProxy listens on a free port of 127.0.0.1 and forwards to target.
func StartProxy(target string, seed uint64) (*Proxy, error) {
	port, err := Reserve()
	if err != nil {
		return nil, fmt.Errorf("start the proxy for %s: %w", target, err)
	}
	p := &Proxy{target: target, port: port, seed: seed, links: map[*link]struct{}{}, struck: map[Kind]int{}}
	if err := p.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the proxy for %s: %w", target, err), port.Close())
	}
	return p, nil
}

// Addr is where the proxy listens: "127.0.0.1:34567".
func (p *Proxy) Addr() string { return p.port.addr }

// Set changes the weather. Fair weather disarms what has not struck yet; what
// is frozen, deaf or closed stays so, as on a real network.
func (p *Proxy) Set(w Weather) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	refused := p.weather.Refuse
	p.weather = w
	for l := range p.links {
		if w.Live {
			l.arm(p.draw())
		} else {
			l.arm(plan{})
		}
	}
	switch {
	case w.Refuse && !refused:
		return p.port.refuse()
	case !w.Refuse && refused && !p.closed:
		return p.listen()
	}
	return nil
}

// Struck tells how many connections each kind of fault has hit.
func (p *Proxy) Struck() map[Kind]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[Kind]int{}
	for k, n := range p.struck {
		out[k] = n
	}
	return out
}

// Close cuts every connection and stops listening.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	err := p.port.Close()
	for l := range p.links {
		l.end(true)
	}
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

// listen starts to accept. The caller holds mu, or is the only one.
func (p *Proxy) listen() error {
	l, err := p.port.listen()
	if err != nil {
		return err
	}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // refused from now on, or closed
			}
			p.take(c.(*net.TCPConn))
		}
	})
	return nil
}

func (p *Proxy) take(client *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = client.Close() // it came too late
		return
	}
	l := &link{p: p, client: client, done: make(chan struct{})}
	l.plan = p.draw()
	p.links[l] = struct{}{}
	p.wg.Go(l.run)
}

// draw makes the next connection's plan. The caller holds mu.
func (p *Proxy) draw() plan {
	p.count++
	r := rand.New(rand.NewPCG(p.seed, p.count))
	if len(p.weather.Kinds) == 0 || r.Float64() >= p.weather.Share {
		return plan{}
	}
	pl := plan{kind: p.weather.Kinds[r.IntN(len(p.weather.Kinds))], dir: r.IntN(2)}
	// Often within the head of a request, else anywhere in a block.
	if r.IntN(8) > 0 {
		pl.after = r.IntN(1 << (4 + r.IntN(12)))
	}
	pl.delay = time.Duration(1+r.IntN(20)) * time.Millisecond
	pl.chunk = 16 << r.IntN(8)
	return pl
}

// The directions of a connection.
const (
	up   = 0 // from the client to the target
	down = 1
)

// plan is what will happen to one connection.
type plan struct {
	kind  Kind
	dir   int           // whose bytes are counted
	after int           // bytes, before it strikes
	delay time.Duration // Slow: before each chunk
	chunk int           // Slow: bytes
}

// link is one forwarded connection.
type link struct {
	p      *Proxy
	client *net.TCPConn
	done   chan struct{}

	mu     sync.Mutex
	server *net.TCPConn
	plan   plan
	passed [2]int
	struck bool
	ended  bool
	frozen bool
}

func (l *link) arm(pl plan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.struck {
		return
	}
	pl.after += l.passed[pl.dir]
	l.plan = pl
}

// end closes both sides, with a reset or in order.
func (l *link) end(reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.ended = true
	close(l.done)
	for _, c := range []*net.TCPConn{l.client, l.server} {
		if c == nil {
			continue
		}
		if reset {
			_ = c.SetLinger(0) // a connection that has gone already needs no reset
		}
		_ = c.Close()
	}
}

func (l *link) run() {
	defer func() {
		l.end(false)
		l.p.mu.Lock()
		delete(l.p.links, l)
		l.p.mu.Unlock()
	}()
	if l.strikes(up, 0) && !l.strike(up, nil) {
		return
	}
	c, err := net.DialTimeout("tcp", l.p.target, 5*time.Second)
	if err != nil {
		l.end(true)
		return
	}
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		_ = c.Close()
		return
	}
	l.server = c.(*net.TCPConn)
	l.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(up, l.server, l.client) })
	pumps.Go(func() { l.pump(down, l.client, l.server) })
	pumps.Wait()
}

// strikes reports whether the plan is due in a direction after n more bytes.
func (l *link) strikes(dir, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passed[dir] += n
	pl := &l.plan
	return !l.struck && pl.kind != Fair && pl.kind != Slow && pl.dir == dir && l.passed[dir] >= pl.after
}

// room returns how many bytes may pass before the plan must be looked at, and
// how long to wait before them.
func (l *link) room(dir, most int) (int, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pl := &l.plan
	switch {
	case l.struck || pl.kind == Fair:
		return most, 0
	case pl.kind == Slow:
		return min(most, pl.chunk), pl.delay
	case pl.dir == dir && pl.after > l.passed[dir]:
		return min(most, pl.after-l.passed[dir]), 0
	}
	return most, 0
}

// strike carries the plan out, and reports whether this direction goes on.
func (l *link) strike(dir int, dst *net.TCPConn) bool {
	l.mu.Lock()
	l.struck = true
	kind := l.plan.kind
	l.frozen = kind == Frozen
	l.mu.Unlock()
	l.p.mu.Lock()
	l.p.struck[kind]++
	l.p.mu.Unlock()
	switch kind {
	case Reset:
		l.end(true)
	case Cut:
		l.end(false)
	case Deaf, Frozen:
		<-l.done // until the proxy is closed
	case HalfClose:
		if dst == nil {
			l.end(false)
			return false
		}
		_ = dst.CloseWrite() // where the other has gone there is nothing to close
	}
	return false
}

// pump copies one direction until it ends.
func (l *link) pump(dir int, dst, src *net.TCPConn) {
	buf := make([]byte, 16<<10)
	slow := 0
	for {
		n, wait := l.room(dir, len(buf))
		if wait > 0 {
			slow++
			if slow == 1 && dir == up {
				l.p.mu.Lock()
				l.p.struck[Slow]++
				l.p.mu.Unlock()
			}
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-l.done:
			}
			t.Stop()
		}
		n, err := src.Read(buf[:n])
		if l.isFrozen() {
			<-l.done
			return
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				l.end(true)
				return
			}
			if l.strikes(dir, n) && !l.strike(dir, dst) {
				return
			}
		}
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) { // a reset on one side is one on the other
				l.end(true)
				return
			}
			_ = dst.CloseWrite()
			return
		}
	}
}

func (l *link) isFrozen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen
}
