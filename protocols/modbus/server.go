package modbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/protocols"
)

const (
	beatEvery = 5 * time.Second
	// frameTime is how long a request may take to arrive once it has begun, and
	// an answer to be taken.
	frameTime = 5 * time.Second
)

// server implements protocols.Server. Its one lock is that of what it shows.
type server struct {
	cfg      ServerConfig
	name     string // "modbus_server 127.0.0.1:1502"
	log      *slog.Logger
	clock    clock.Clock
	networks []netip.Prefix
	answers  [256]bool // by unit id
	regs     *registerMap
	bound    func(net.Addr) // told where it listens; for tests

	// Below: guarded by the lock of regs.
	targets map[layout]*shown
	beat    uint16 // the last heartbeat that any target was told
}

// Open implements protocols.Config.
func (c *ServerConfig) Open(s protocols.Settings) (protocols.Connection, error) {
	networks, err := c.networks()
	if err != nil {
		return nil, fmt.Errorf("open a Modbus server: %w", err)
	}
	x := &server{cfg: *c, name: c.LinkKey(), log: s.Log, clock: s.Clock, networks: networks, regs: newRegisterMap(),
		bound: func(net.Addr) {}, targets: map[layout]*shown{}}
	for _, id := range c.Slaves {
		x.answers[uint8(id)] = true
	}
	if c.HeartbeatAddress != "" {
		p, faults := c.heartbeatPoint()
		if len(faults) > 0 {
			return nil, fmt.Errorf("open a Modbus server: heartbeat_address: %s; %s", faults[0].Problem, faults[0].Hint)
		}
		it := &item{point: p, name: "the server's heartbeat", show: number16(&p, func(moment) uint16 { return x.beat })}
		if err := x.regs.put([]*item{it}); err != nil {
			return nil, fmt.Errorf("open a Modbus server: heartbeat_address: %w", err)
		}
	}
	return x, nil
}

// OpenSource implements protocols.Connection.
func (s *server) OpenSource(*protocols.SourceConfig, protocols.Health) (protocols.Source, error) {
	return nil, protocols.ErrNoSource
}

// Close implements protocols.Connection. The listener ends with Serve.
func (s *server) Close() error { return nil }

// Show implements protocols.Server.
func (s *server) Show(tags []protocols.Tag, latest func(string) (protocols.Reading, bool)) error {
	s.regs.mu.Lock()
	defer s.regs.mu.Unlock()
	live := map[string]*liveTag{}
	for _, tag := range tags {
		items, faults := s.cfg.tagItems(tag)
		if len(faults) > 0 {
			return fmt.Errorf("show tag %s: %s: %s; %s", tag.Name, faults[0].Path, faults[0].Problem, faults[0].Hint)
		}
		t := live[tag.Name]
		if t == nil {
			t = &liveTag{name: tag.Name, latest: latest}
			live[tag.Name] = t
		}
		for _, it := range items {
			if it.statusOf == nil {
				s.regs.showLive(it, t)
			} else {
				it.showStatus()
			}
		}
		if err := s.regs.put(items); err != nil {
			return fmt.Errorf("show tag %s: %w; give each value registers of its own", tag.Name, err)
		}
	}
	return nil
}

// Serve implements protocols.Server.
func (s *server) Serve(ctx context.Context, h protocols.Health) error {
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return s.explainListen(err)
	}
	h.Up()
	s.bound(l.Addr())
	g := &guests{server: s, conns: map[net.Conn]guest{}}
	inner, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() {
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			h.Beat()
			select {
			case <-tick.C:
			case <-inner.Done():
				return
			}
		}
	})
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close() // ends Accept
		g.close()
	})
	err = s.accept(ctx, l, g, h)
	cancel()
	stop()
	_ = l.Close() // what it says changes nothing
	g.close()
	helpers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: the listener failed: %w", s.name, err)
}

// accept takes clients until the listener is closed.
func (s *server) accept(ctx context.Context, l net.Listener, g *guests, h protocols.Health) error {
	wait := backoff.Policy{Base: 10 * time.Millisecond, Max: time.Second}
	failed := 0
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = c.Close() // it came as the server stops
			}
			return err
		case err != nil:
			// Out of files, say: it passes.
			h.Down(fmt.Errorf("%s: cannot take a client: %w; raise the limit of open files if it stays", s.name, err))
			backoff.Sleep(ctx, wait.Wait(failed))
			failed++
			continue
		case failed > 0:
			failed = 0
			h.Up()
		}
		g.admit(c)
	}
}

func (s *server) explainListen(err error) error {
	text, hint := err.Error(), "check connection.listen"
	var op *net.OpError
	if errors.As(err, &op) {
		text = op.Err.Error()
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		text, hint = "another program has this port", "find it with: ss -ltnp; or choose another port in connection.listen"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		text, hint = "this machine does not have the address", "write an address of this machine in connection.listen"
	case errors.Is(err, os.ErrPermission):
		text, hint = "permission denied", "ports below 1024, such as 502, need CAP_NET_BIND_SERVICE; choose one above in connection.listen"
	}
	return fmt.Errorf("%s: listen: %s; %s", s.name, text, hint)
}
