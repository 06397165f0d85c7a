package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"millrace/protocols"
	"millrace/sample"
)

// writer publishes single values. It has a session of its own, which it opens
// at the first write.
type writer struct {
	conn   *connection
	health protocols.Health
	turn   chan struct{} // held by the write under way

	session *session
	closed  bool
}

// ErrNoRead is returned by Read: a client of a broker cannot ask for a value.
var ErrNoRead = errors.New("MQTT cannot read a value back; subscribe to the topic by which the device confirms")

// Write implements protocols.Writer. It publishes at QoS 1 and returns once
// the broker has acknowledged; whether a device has taken the value is not
// known by that. address is a topic. The payload is the value as text: a
// number, true or false, or the string itself.
func (w *writer) Write(ctx context.Context, address, typ string, v sample.Value) error {
	payload, err := encode(typ, v)
	if err == nil {
		err = checkTopic(address)
	}
	if err != nil {
		return fmt.Errorf("write %s to topic %s: %w", v, address, err)
	}
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return w.failed(address, v, fmt.Errorf("another write is under way: %w", ctx.Err()))
	}
	if w.closed {
		return w.failed(address, v, errors.New("the connection is closed"))
	}
	if err := w.open(ctx); err != nil {
		if ctx.Err() == nil {
			w.health.Down(err)
		}
		return w.failed(address, v, err)
	}
	token := w.session.client.Publish(address, 1, w.conn.cfg.RetainWrites, payload)
	select {
	case <-token.Done():
		err = token.Error()
	case err = <-w.session.lost:
		err = fmt.Errorf("%w (whether it was published is not known)", w.conn.explain("connection lost", err))
	case <-ctx.Done():
		err = fmt.Errorf("the broker did not acknowledge in time (whether it was published is not known): %w", ctx.Err())
	}
	if err != nil {
		// The next write starts afresh: an answer must not be taken for another's.
		w.session.close()
		w.session = nil
		w.health.Down(w.conn.explain("publish", err))
		return w.failed(address, v, err)
	}
	w.health.Up()
	w.health.Beat()
	return nil
}

func (w *writer) failed(address string, v sample.Value, err error) error {
	return fmt.Errorf("write %s to topic %s: %w", v, address, err)
}

// open opens the session where there is none.
func (w *writer) open(ctx context.Context) error {
	if w.session != nil {
		select {
		case <-w.session.lost:
			w.session.close()
			w.session = nil
		default:
			return nil
		}
	}
	w.conn.mu.Lock()
	id := w.conn.cfg.clientID(w.conn.site, w.conn.owner) + "-writer"
	w.conn.mu.Unlock()
	s, err := w.conn.connect(ctx, id, true, func(*session, *message) {})
	if err != nil {
		return err
	}
	w.session = s
	return nil
}

// encode writes a value as the payload of a type.
func encode(typ string, v sample.Value) (string, error) {
	t, err := parseType(typ)
	if err != nil {
		return "", err
	}
	kinds := map[sample.Kind]valueType{sample.Float64: typeFloat, sample.Int64: typeInt, sample.Bool: typeBool, sample.String: typeString}
	is, ok := kinds[v.Kind()]
	switch {
	case !ok:
		return "", errors.New("null cannot be written")
	case is == typeFloat && v.Float()-v.Float() != 0:
		return "", errors.New("NaN and infinity cannot be written")
	case t == typeAuto, t == is, t == typeFloat && is == typeInt:
	case t == typeInt && is == typeFloat && v.Float() == float64(int64(v.Float())):
		return strconv.FormatInt(int64(v.Float()), 10), nil
	default:
		return "", fmt.Errorf("a %s is no %s", v.Kind(), t)
	}
	if is == typeString {
		return v.Str(), nil
	}
	return v.String(), nil
}

// Read implements protocols.Writer.
func (w *writer) Read(context.Context, string, string) (sample.Value, error) {
	return sample.Value{}, ErrNoRead
}

// Close implements protocols.Writer.
func (w *writer) Close() error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	w.closed = true
	if w.session != nil {
		w.session.close()
		w.session = nil
	}
	return nil
}
