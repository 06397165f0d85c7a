// Package opcuasim is an OPC UA server inside the process, on loopback ports.
// Clients reach it through a tap, which reports each value at the moment when
// it goes out on the wire, and which can cut or silence the connection.
package opcuasim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/gopcua/opcua/server"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uasc"
)

// Sent is one value that went out to a client.
type Sent struct {
	Node       string // "ns=1;s=name"
	Value      any
	Status     uint32
	SourceTime time.Time
	At         time.Time
}

// Options say how the server behaves. OnSent is called from the tap's
// goroutines, for each value that a publish response carries.
type Options struct {
	OnSent func(Sent)
}

// Server is a running server behind its tap. It speaks security None and lets
// anybody in.
type Server struct {
	o      Options
	server *server.Server
	space  *server.NodeNameSpace
	inner  string // address of the server itself
	addr   string // address of the tap
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	nodes  map[string]*variable
	byID   map[string]*variable // those that can be written
	listen net.Listener         // nil while stopped
	conns  map[net.Conn]bool
	silent bool
	deaf   bool // to publish requests

	written []Written
	writes  int
	answer  ua.StatusCode // to each value that is written
	fault   ua.StatusCode // to the next requests to write,
	faults  int           // as many as these
}

type variable struct {
	mu    sync.Mutex
	value ua.DataValue
	id    *ua.NodeID

	// Of one that can be written:
	typ    ua.TypeID
	access Access
	plain  bool
}

func (v *variable) get() *ua.DataValue {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.value
	return &out
}

// Start starts a server on free ports of the loopback.
func Start(o Options) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	// The library listens by itself, so the port is given back to it.
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{o: o, cancel: cancel, inner: fmt.Sprintf("127.0.0.1:%d", port), nodes: map[string]*variable{}, byID: map[string]*variable{}, conns: map[net.Conn]bool{}}
	if err := s.Resume(); err != nil {
		cancel()
		return nil, err
	}
	// The server tells only those endpoints that a client has asked at, so it
	// is told of the tap's address too; it listens on the first.
	s.mu.Lock()
	tapPort := s.listen.Addr().(*net.TCPAddr).Port
	s.mu.Unlock()
	s.server = server.New(server.EnableSecurity("None", ua.MessageSecurityModeNone), server.EnableAuthMode(ua.UserTokenTypeAnonymous),
		server.EndPoint("127.0.0.1", port), server.EndPoint("127.0.0.1", tapPort), server.SetLogger(quiet{}))
	s.server.RegisterHandler(writeRequest, s.write)
	s.server.RegisterHandler(publishRequest, s.publish)
	s.space = server.NewNodeNameSpace(s.server, "simulated")
	if err := s.server.Start(ctx); err != nil {
		s.Stop()
		cancel()
		return nil, fmt.Errorf("simulated OPC UA server: %w", err)
	}
	return s, nil
}

// quiet keeps the library's log out of the tests'.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(m string, a ...any) {
	slog.Debug(fmt.Sprintf(m, a...))
}

// URL is the endpoint that clients dial: the tap.
func (s *Server) URL() string { return "opc.tcp://" + s.addr }

// Add adds a variable and returns its node id.
func (s *Server) Add(name string, initial any) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[name] != nil {
		return "", fmt.Errorf("node %s is there already", name)
	}
	v := &variable{id: ua.NewStringNodeID(s.space.ID(), name)}
	if err := v.set(initial, time.Now(), 0); err != nil {
		return "", err
	}
	s.nodes[name] = v
	n := s.space.AddNode(server.NewVariableNode(v.id, name, v.get))
	s.space.Objects().AddRef(n, server.RefType(organizes), true)
	return v.id.String(), nil
}

// organizes is the reference type Organizes, OPC 10000-5, 11.6.
const organizes = 35

func (v *variable) set(value any, at time.Time, status ua.StatusCode) error {
	variant, err := ua.NewVariant(value)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.value = ua.DataValue{
		EncodingMask:    ua.DataValueValue | ua.DataValueSourceTimestamp | ua.DataValueServerTimestamp,
		Value:           variant,
		SourceTimestamp: at,
		ServerTimestamp: time.Now(),
	}
	if status != 0 {
		v.value.EncodingMask |= ua.DataValueStatusCode
		v.value.Status = status
	}
	return nil
}

// Set gives a variable a new value with its source time, and tells those who
// subscribed. It panics on a name that was not added or a type that OPC UA
// does not have.
func (s *Server) Set(name string, value any, at time.Time) { s.put(name, value, at, 0) }

// overflow are InfoType DataValue and the bit Overflow. OPC 10000-4, 7.39.1.
const overflow = 0x00000480

// SetOverflown is Set of a value that says that values before it were dropped,
// since the queue of the monitored item was full.
func (s *Server) SetOverflown(name string, value any, at time.Time) {
	s.put(name, value, at, overflow)
}

func (s *Server) put(name string, value any, at time.Time, status ua.StatusCode) {
	s.mu.Lock()
	v := s.nodes[name]
	s.mu.Unlock()
	if v == nil {
		panic("BUG: simulated node " + name + " was not added")
	}
	if err := v.set(value, at, status); err != nil {
		panic("BUG: simulated node " + name + ": " + err.Error())
	}
	s.server.ChangeNotification(v.id)
}

// Stop cuts all connections and refuses new ones.
func (s *Server) Stop() {
	s.mu.Lock()
	l := s.listen
	s.listen = nil
	for c := range s.conns {
		_ = c.Close() // it is being cut
	}
	s.mu.Unlock()
	if l != nil {
		_ = l.Close() // likewise
	}
}

// Resume takes connections again, on the same port.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listen != nil {
		return nil
	}
	address := s.addr
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("simulated OPC UA server: %w", err)
	}
	s.listen, s.addr = l, l.Addr().String()
	s.wg.Go(func() { s.accept(l) })
	return nil
}

// Silence keeps connections open and forwards nothing to the clients.
func (s *Server) Silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// Forget makes the server answer all but requests to publish: as it is for a
// client whose library has stopped to ask.
func (s *Server) Forget(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = on
}

// publishRequest is PublishRequest_Encoding_DefaultBinary, OPC 10000-6, annex A.
const publishRequest = 826

func (s *Server) publish(channel *uasc.SecureChannel, r ua.Request, id uint32) (ua.Response, error) {
	s.mu.Lock()
	deaf := s.deaf
	s.mu.Unlock()
	if deaf {
		return nil, nil
	}
	return s.server.SubscriptionService.Publish(channel, r, id)
}

// Close stops everything.
func (s *Server) Close() error {
	s.Stop()
	err := s.server.Close()
	s.cancel()
	s.wg.Wait()
	return err
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // stopped
		}
		s.wg.Go(func() { s.forward(c) })
	}
}

// forward copies between a client and the server until either ends.
func (s *Server) forward(client net.Conn) {
	up, err := net.Dial("tcp", s.inner)
	if err != nil {
		_ = client.Close() // there is nobody to talk to
		return
	}
	s.mu.Lock()
	if s.listen == nil { // stopped meanwhile
		s.mu.Unlock()
		_, _ = client.Close(), up.Close()
		return
	}
	s.conns[client], s.conns[up] = true, true
	s.mu.Unlock()
	t := &tap{handles: map[uint32]string{}, sent: s.o.OnSent}
	var both sync.WaitGroup
	both.Go(func() { s.pump(up, client, t.request, nil); _ = up.Close() })
	both.Go(func() { s.pump(client, up, nil, t); _ = client.Close() })
	both.Wait()
	s.mu.Lock()
	delete(s.conns, client)
	delete(s.conns, up)
	s.mu.Unlock()
}

// pump copies whole messages. What goes to the server is shown to seen before
// it is written; what goes to the client is reported by t once it is written.
func (s *Server) pump(to io.Writer, from io.Reader, seen func([]byte), t *tap) {
	for {
		frame, err := readFrame(from)
		if err != nil {
			return
		}
		if seen != nil {
			seen(frame)
		}
		s.mu.Lock()
		drop := s.silent && t != nil
		s.mu.Unlock()
		if drop {
			continue
		}
		at := time.Now()
		if _, err := to.Write(frame); err != nil {
			return
		}
		if t != nil {
			t.response(frame, at)
		}
	}
}
