package server

import (
	"net"
	"sync"
)

// guests are the connections. Where all places are taken, one that nobody has
// logged in by gives way, so that idle strangers do not keep clients out: OPC
// 10000-4, 5.5.2.1.
type guests struct {
	mu    sync.Mutex
	limit int
	last  uint64
	all   map[*conn]guest
}

type guest struct {
	number uint64 // in the order in which they came
	close  func()
}

func newGuests(limit int) *guests { return &guests{limit: limit, all: map[*conn]guest{}} }

// admit takes c in, and reports whether there was room for it. It ends another
// one by its close where that makes room.
func (g *guests) admit(c *conn, end func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.all) >= g.limit {
		out := g.stranger()
		if out == nil {
			return false
		}
		g.all[out].close()
		delete(g.all, out)
	}
	g.last++
	g.all[c] = guest{number: g.last, close: end}
	return true
}

// stranger picks who gives way: the one that has come first of the address that
// has most, so that no address can push out others' connections by opening many
// of its own. Callers hold g.mu.
func (g *guests) stranger() *conn {
	count := map[string]int{}
	for c := range g.all {
		if !c.active.Load() {
			count[c.peer]++
		}
	}
	var out *conn
	for c, x := range g.all {
		if c.active.Load() {
			continue
		}
		if out == nil || count[c.peer] > count[out.peer] || count[c.peer] == count[out.peer] && x.number < g.all[out].number {
			out = c
		}
	}
	return out
}

func (g *guests) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, c)
}

// ender returns what ends a connection at once, whatever it waits for.
func ender(c net.Conn, cancel func()) func() {
	return func() {
		cancel()
		// Its own goroutine finds it closed.
		_ = c.Close()
	}
}
