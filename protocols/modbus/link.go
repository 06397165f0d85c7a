package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	mb "github.com/goburrow/modbus"

	"millrace/internal/backoff"
	"millrace/internal/clock"
)

// silentRequests is how many timeouts in a row, with no answer from any unit
// between them, make the link be opened anew: a cable that was pulled breaks
// no TCP connection for minutes.
const silentRequests = 2

// link owns the TCP connection to one device or gateway. One request is on
// the wire at a time, whoever asks.
type link struct {
	name  string // "modbus tcp://192.0.2.10:502"
	host  string
	cfg   Config
	clock clock.Clock
	dial  func(ctx context.Context, host string) (net.Conn, error)
	retry backoff.Policy

	turns turns

	// Below: owned by whose turn it is.
	tr       transport
	clients  map[uint8]mb.Client
	units    map[uint8]*unitState
	closed   bool
	attempts int       // connections that came to nothing since the last answer
	nextDial time.Time // do not dial before
	lastErr  error     // why there is no connection
	silent   int       // timeouts in a row
	lastUsed time.Time // end of the last request
}

// unitState is what the link knows of one unit id. A unit that does not answer
// is tried at growing intervals, so that the others on the line get their time.
type unitState struct {
	timeouts int
	skipTo   time.Time
	err      error
}

// waitingError repeats why a device is away while it is not tried again yet.
type waitingError struct{ cause error }

func (e *waitingError) Error() string { return e.cause.Error() }
func (e *waitingError) Unwrap() error { return e.cause }

var errClosed = errors.New("the connection is closed")

func newLink(cfg Config, host string, clk clock.Clock) *link {
	l := &link{
		name:    "modbus tcp://" + host,
		host:    host,
		cfg:     cfg,
		clock:   clk,
		retry:   backoff.Policy{Base: 250 * time.Millisecond, Max: 3 * time.Second},
		clients: map[uint8]mb.Client{},
		units:   map[uint8]*unitState{},
	}
	l.tr.timeout = cfg.Timeout
	dialer := &net.Dialer{KeepAlive: 30 * time.Second}
	l.dial = func(ctx context.Context, host string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", host)
	}
	return l
}

// acquire takes the link. A ctx that is done takes precedence.
func (l *link) acquire(ctx context.Context, h hurry) error {
	if err := l.turns.take(ctx, h); err != nil {
		return err
	}
	if l.closed {
		l.release()
		return errClosed
	}
	return nil
}

func (l *link) release() { l.turns.give() }

func (l *link) client(unit uint8) mb.Client {
	c, ok := l.clients[unit]
	if !ok {
		c = mb.NewClient2(&packager{tr: &l.tr, unit: unit}, &l.tr)
		l.clients[unit] = c
	}
	return c
}

func (l *link) unit(id uint8) *unitState {
	u, ok := l.units[id]
	if !ok {
		u = &unitState{}
		l.units[id] = u
	}
	return u
}

// read sends one read request and copies the answer's data into buf, which
// holds 250 bytes or more. It returns the data and the gateway's clock at the
// reply. A request that is on the wire is finished after ctx is done. While a
// device is away and its back-off runs, read fails at once with *waitingError.
func (l *link) read(ctx context.Context, unit uint8, t table, start uint16, count int, buf []byte) ([]byte, time.Time, error) {
	if err := l.acquire(ctx, polling); err != nil {
		return nil, time.Time{}, err
	}
	defer l.release()
	return l.ask(ctx, unit, t, start, count, buf)
}

// ask is read, for who has the link.
func (l *link) ask(ctx context.Context, unit uint8, t table, start uint16, count int, buf []byte) ([]byte, time.Time, error) {
	u := l.unit(unit)
	if wait := time.Until(u.skipTo); wait > 0 {
		return nil, l.clock.Now(), &waitingError{u.err}
	}
	for again := false; ; again = true {
		fresh, err := l.ready(ctx)
		if err != nil {
			return nil, l.clock.Now(), err
		}
		c := l.client(unit)
		var data []byte
		switch t {
		case holding:
			data, err = c.ReadHoldingRegisters(start, uint16(count))
		case input:
			data, err = c.ReadInputRegisters(start, uint16(count))
		case coil:
			data, err = c.ReadCoils(start, uint16(count))
		case discrete:
			data, err = c.ReadDiscreteInputs(start, uint16(count))
		}
		now := l.clock.Now()
		var lost *lostError
		if errors.As(err, &lost) && !fresh && !again {
			// Devices close connections that they find idle. Reading again
			// does no harm, and saves a Bad sample.
			continue
		}
		l.settle(u, err)
		if err != nil {
			return nil, now, err
		}
		return buf[:copy(buf, data)], now, nil
	}
}

// turn is the use of the link for requests to one unit that belong together.
type turn struct {
	link   *link
	ctx    context.Context
	unit   uint8
	probed bool // the connection was alive at the turn's first write
}

// hold gives f the link until it returns, before those that wait to poll. Its
// error is f's, or says why there was no turn.
func (l *link) hold(ctx context.Context, unit uint8, f func(*turn) error) error {
	if err := l.acquire(ctx, writing); err != nil {
		return &unsentError{err}
	}
	defer l.release()
	return f(&turn{link: l, ctx: ctx, unit: unit})
}

// unsentError says that a request did not go out.
type unsentError struct{ cause error }

func (e *unsentError) Error() string { return e.cause.Error() }
func (e *unsentError) Unwrap() error { return e.cause }

// read reads within the turn.
func (t *turn) read(tab table, start uint16, count int, buf []byte) ([]byte, time.Time, error) {
	return t.link.ask(t.ctx, t.unit, tab, start, count, buf)
}

// write sends one write request, which is not repeated: whether it was carried
// out is not known when the connection breaks. The deadline of the turn's
// context shortens the time limit. An *unsentError says that nothing went out.
func (t *turn) write(request func(mb.Client) error) error {
	l, u := t.link, t.link.unit(t.unit)
	if wait := time.Until(u.skipTo); wait > 0 {
		return &unsentError{&waitingError{u.err}}
	}
	fresh, err := l.ready(t.ctx)
	if err == nil && !fresh && !t.probed && l.tr.ended() {
		// The device found the connection idle and has closed it. A write on it
		// would be lost, and its outcome not known.
		_, err = l.ready(t.ctx)
	}
	if err == nil {
		err = t.ctx.Err()
	}
	if err != nil {
		return &unsentError{err}
	}
	t.probed = true
	l.tr.deadline, _ = t.ctx.Deadline()
	err = request(l.client(t.unit))
	l.tr.deadline = time.Time{}
	l.settle(u, err)
	var lost *lostError
	if errors.As(err, &lost) && lost.unsent {
		return &unsentError{err}
	}
	return err
}

// ready waits for the pause between requests and sees to a connection. It
// reports whether no request was answered on that connection so far.
func (l *link) ready(ctx context.Context) (fresh bool, err error) {
	if l.cfg.Pause > 0 {
		if wait := l.cfg.Pause - time.Since(l.lastUsed); wait > 0 && !backoff.Sleep(ctx, wait) {
			return false, ctx.Err()
		}
	}
	if l.cfg.IdleReconnect > 0 && l.tr.conn != nil && time.Since(l.lastUsed) > l.cfg.IdleReconnect {
		l.tr.close()
	}
	if l.tr.conn != nil {
		return l.tr.replies == 0, nil
	}
	if time.Now().Before(l.nextDial) {
		return false, &waitingError{l.lastErr}
	}
	dialCtx, cancel := context.WithTimeout(ctx, l.cfg.connectTimeout())
	conn, err := l.dial(dialCtx, l.host)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		l.failed(&lostError{cause: connectError(err, l.cfg.connectTimeout()), unsent: true})
		return false, l.lastErr
	}
	l.tr.adopt(conn)
	l.silent = 0
	for _, u := range l.units {
		u.skipTo = time.Time{}
	}
	return true, nil
}

// failed starts or lengthens the back-off before the next connection.
func (l *link) failed(err error) {
	l.lastErr = err
	l.nextDial = time.Now().Add(l.retry.Wait(l.attempts))
	l.attempts++
}

// settle takes note of how a request to u ended.
func (l *link) settle(u *unitState, err error) {
	l.lastUsed = time.Now()
	var (
		timeout *timeoutError
		lost    *lostError
	)
	away := false
	switch {
	case errors.As(err, &timeout):
		away = true
		l.silent++
		l.lastErr = err
		if l.silent >= silentRequests {
			l.tr.close()
		}
	case errors.As(err, &lost):
		l.failed(err)
		return
	default:
		l.silent, l.attempts = 0, 0
		away = unitAway(err)
	}
	if !away {
		u.timeouts, u.err = 0, nil
		return
	}
	u.err = err
	if u.timeouts++; u.timeouts > 1 {
		u.skipTo = time.Now().Add(l.retry.Wait(u.timeouts - 2))
	}
}

// close gives up the connection. A request under way is finished first.
func (l *link) close() {
	// Without an end to the context it is always had in the end.
	_ = l.turns.take(context.Background(), writing)
	l.closed = true
	l.tr.close()
	l.release()
}

// connectError words why no connection could be made.
func connectError(err error, limit time.Duration) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("cannot connect: the name %q is not known (%w)", dns.Name, err)
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return fmt.Errorf("cannot connect within %s", limit)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("cannot connect: connection refused")
	}
	return fmt.Errorf("cannot connect: %w", err)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// lossText words how a connection was lost.
func lossText(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the device closed the connection"
	}
	return err.Error()
}
