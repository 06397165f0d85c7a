package awssim

import (
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxRequest bounds a request's body, in bytes. DynamoDB takes 16 MB.
const maxRequest = 17 << 20

// call is one request on its way through a service.
type call struct {
	ctx      context.Context
	now      time.Time
	action   string
	body     []byte
	accepted []Accepted
	partial  func() bool // whether the next entry of a batch fails
	refuse   func(Accepted) bool
}

// decode reads the request's body.
func (c *call) decode(into any) *apiError {
	if err := json.Unmarshal(c.body, into); err != nil {
		return badRequest("SerializationException", err.Error())
	}
	return nil
}

// endpoint is one service's listener.
type endpoint struct {
	server  *Server
	service string
	listen  net.Listener
	http    http.Server
	serve   func(*call) (any, *apiError)
	served  chan error
	wire    atomic.Uint64
	count   atomic.Uint64
	stored  atomic.Uint64
	lost    atomic.Uint64

	mu     sync.Mutex
	faults Faults
	random *rand.Rand
	conns  map[*countingConn]struct{}
}

func startEndpoint(s *Server, service string, serve func(*call) (any, *apiError)) (*endpoint, error) {
	listen := s.opts.Listen
	if listen == nil {
		listen = func(string) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	}
	l, err := listen(service)
	if err != nil {
		return nil, err
	}
	e := &endpoint{server: s, service: service, listen: l, serve: serve, served: make(chan error, 1),
		random: rand.New(rand.NewPCG(s.opts.Seed, uint64(len(service)))), conns: make(map[*countingConn]struct{})}
	e.http.Handler = e
	e.http.ReadHeaderTimeout = 10 * time.Second
	e.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	go func() { e.served <- e.http.Serve(countingListener{l, e}) }()
	return e, nil
}

func (e *endpoint) url() string { return "http://" + e.listen.Addr().String() }

func (e *endpoint) close() error {
	err := e.http.Close()
	if e := <-e.served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func (e *endpoint) setFaults(f Faults) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = f
	if f.Down {
		for c := range e.conns {
			c.reset()
		}
	}
}

func (e *endpoint) snapshot() Stats {
	return Stats{Requests: e.count.Load(), Accepted: e.stored.Load(), Lost: e.lost.Load(), WireBytes: e.wire.Load()}
}

// hit reports whether a fault of that rate strikes now.
func (e *endpoint) hit(rate float64) bool {
	if rate <= 0 {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.random.Float64() < rate
}

// ServeHTTP implements http.Handler.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	conn, _ := r.Context().Value(connKey{}).(*countingConn)
	wire := conn.taken()
	e.count.Add(1)
	e.wire.Add(uint64(wire))
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		// A request that broke off: the load balancer in front answers for itself.
		http.Error(w, "<html><body><h1>400 Bad request</h1></body></html>", http.StatusBadRequest)
		return
	}
	if err != nil {
		e.reply(w, nil, &apiError{status: http.StatusRequestEntityTooLarge, code: "RequestEntityTooLarge", message: err.Error()}, time.Now())
		return
	}
	e.mu.Lock()
	f := e.faults
	e.mu.Unlock()
	if f.Slow > 0 {
		t := time.NewTimer(f.Slow)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return
		}
	}
	now := time.Now().Add(f.Clock)
	prefix, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	c := &call{ctx: r.Context(), now: now, action: action, body: body,
		partial: func() bool { return e.hit(f.Partial) },
		refuse:  func(a Accepted) bool { return f.Refuse != nil && f.Refuse(a) }}
	out, fault := e.answer(c, r, &f, prefix)
	if len(c.accepted) > 0 {
		c.accepted[0].WireBytes = wire
		e.stored.Add(uint64(len(c.accepted)))
		e.server.accepted(c.accepted)
	}
	if fault == nil && e.hit(f.AnswerLost) {
		if len(c.accepted) > 0 {
			e.lost.Add(1)
		}
		conn.reset()
		return
	}
	e.reply(w, out, fault, now)
}

func (e *endpoint) answer(c *call, r *http.Request, f *Faults, prefix string) (any, *apiError) {
	if err := verify(r, c.body, e.service, e.server.opts.Keys, c.now); err != nil {
		return nil, err
	}
	if err := e.refusal(f, r.Header.Get("X-Amz-Date")); err != nil {
		return nil, err
	}
	if want := map[string]string{ServiceSQS: "AmazonSQS", ServiceDynamoDB: "DynamoDB_20120810"}[e.service]; prefix != want {
		return nil, badRequest("UnknownOperationException", "unknown target "+r.Header.Get("X-Amz-Target"))
	}
	return e.serve(c)
}

// reply writes an answer in AWS JSON 1.0.
func (e *endpoint) reply(w http.ResponseWriter, out any, fault *apiError, now time.Time) {
	h := w.Header()
	status := http.StatusOK
	if fault != nil {
		status = fault.status
		namespace := "com.amazonaws.dynamodb.v20120810"
		if e.service == ServiceSQS {
			namespace = "com.amazonaws.sqs"
			query := fault.query
			if query == "" {
				query = fault.code
			}
			side := "Sender"
			if status >= 500 {
				side = "Receiver"
			}
			h.Set("X-Amzn-Query-Error", query+";"+side)
		}
		for k, v := range fault.header {
			h[k] = v
		}
		body := map[string]any{"__type": namespace + "#" + fault.code, "message": fault.message}
		if fault.item != nil {
			body["Item"] = fault.item
		}
		out = body
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic("BUG: an answer of the simulator does not encode: " + err.Error())
	}
	h.Set("Content-Type", "application/x-amz-json-1.0")
	h.Set("X-Amzn-Requestid", newID())
	h.Set("Date", now.UTC().Format(http.TimeFormat))
	if e.service == ServiceDynamoDB {
		h.Set("X-Amz-Crc32", strconv.FormatUint(uint64(crc32.ChecksumIEEE(text)), 10))
	}
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone needs no answer
}

type connKey struct{}

// countingConn counts the bytes that its client sends.
type countingConn struct {
	net.Conn
	e    *endpoint
	read atomic.Int64
	seen int64 // of read, at the end of the last request
}

// Read implements net.Conn.
func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// taken returns the bytes that came since it was last called.
func (c *countingConn) taken() int {
	if c == nil {
		return 0
	}
	n := c.read.Load()
	d := n - c.seen
	c.seen = n
	return int(d)
}

// reset cuts the connection so that its client sees a reset.
func (c *countingConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // on a connection that is closed already there is nothing to reset
	}
	_ = c.Conn.Close()
}

// Close implements net.Conn.
func (c *countingConn) Close() error {
	c.e.mu.Lock()
	delete(c.e.conns, c)
	c.e.mu.Unlock()
	return c.Conn.Close()
}

// countingListener hands out countingConns, and resets them while it is down.
type countingListener struct {
	net.Listener
	e *endpoint
}

// Accept implements net.Listener.
func (l countingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cc := &countingConn{Conn: c, e: l.e}
		l.e.mu.Lock()
		down := l.e.faults.Down
		if !down {
			l.e.conns[cc] = struct{}{}
		}
		l.e.mu.Unlock()
		if !down {
			return cc, nil
		}
		cc.reset()
	}
}

func formatMillis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
