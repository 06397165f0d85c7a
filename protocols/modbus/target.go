package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	mb "github.com/goburrow/modbus"

	"millrace/protocols"
	"millrace/sample"
)

// TargetConfig is what `write:` of a mirror target holds for a Modbus device.
// The value is a holding register or several, or a coil; version, validity and
// heartbeat are holding registers.
type TargetConfig struct {
	Block `yaml:",inline"`

	conn Config      // of the connection, for addresses that name no slave
	kind sample.Kind // as Validate was told
}

// NewTarget implements protocols.Writable.
func (c *Config) NewTarget() protocols.TargetConfig {
	return &TargetConfig{Block: defaultBlock(), conn: *c}
}

// Validate implements protocols.TargetConfig.
func (t *TargetConfig) Validate(kind sample.Kind) []protocols.Fault {
	t.kind = kind
	l, faults := t.layout(&t.conn, kind, "")
	for r := range roles {
		if p := &l.points[r]; l.has(r) && (p.table == input || p.table == discrete) {
			faults = append(faults, protocols.Fault{Path: roleKeys[r], Problem: fmt.Sprintf("the %s table can only be read", p.table),
				Hint: "use holding or coil"})
		}
	}
	return faults
}

// Places implements protocols.TargetConfig.
func (t *TargetConfig) Places() []string {
	l, _ := t.layout(&t.conn, t.kind, "")
	return l.places()
}

// OpenTarget implements protocols.TargetOpener.
func (c *connection) OpenTarget(cfg protocols.TargetConfig, h protocols.Health) (protocols.Target, error) {
	t, ok := cfg.(*TargetConfig)
	if !ok {
		panic(fmt.Sprintf("BUG: a Modbus target is configured by a %T", cfg))
	}
	if faults := t.Validate(t.kind); len(faults) > 0 {
		return nil, fmt.Errorf("open the target at %s: %s: %s; %s", t.Address, faults[0].Path, faults[0].Problem, faults[0].Hint)
	}
	l, _ := t.layout(&t.conn, t.kind, "")
	return &target{conn: c, health: h, layout: l}, nil
}

// target writes a block through the connection's link.
//
// A PLC may look at the block at any moment, and must never find a mix of two
// commands that is marked as valid. Value, version and validity that stand side
// by side go in one request (V1.1b3, 6.12). Else validity is taken away first,
// then the value is written, then the version, and validity is given last. So a
// version that reads back says that the value before it was written too.
//
// Validity is given by a write only. Tell takes it away, and gives it again
// where it had taken it and value and version are still those of the last
// write: a PLC that has lost its memory shows zeros, which nobody must mark as
// valid.
type target struct {
	layout
	conn   *connection
	health protocols.Health

	last    map[role]words // value and version that were written last, or may have been
	lowered bool           // validity was taken away since it was given
	many    bool           // the device has functions 15 and 16 only
	apart   bool           // the device has functions 5 and 6 only
	closed  atomic.Bool
}

var errTargetClosed = errors.New("the target is closed")

// hold is link.hold as long as the target is open.
func (t *target) hold(ctx context.Context, f func(*turn) error) error {
	if t.closed.Load() {
		return &unsentError{errTargetClosed}
	}
	return t.conn.link.hold(ctx, t.points[roleValue].slave, f)
}

// Prepare implements protocols.Target. Modbus tells nothing of types and
// rights, so nothing is read.
func (t *target) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	held, err := t.prepare(v)
	if err != nil {
		return sample.Value{}, t.unsuited(v, err)
	}
	return held, nil
}

func (t *target) unsuited(v sample.Value, err error) error {
	p := &t.points[roleValue]
	return protocols.Unsuitedf("%s: write %s to %s as %s: %w", t.conn.link.name, v, p.address, p.typ, err)
}

// step is one request of a write.
type step struct {
	piece
	command bool // it brings a part of the command, not validity alone
}

// Write implements protocols.Target. Function 5 or 6 writes one coil or
// register, 15 or 16 where the device does not have those, and 16 several
// registers.
func (t *target) Write(ctx context.Context, c protocols.Command) error {
	value, err := t.encodeValue(c.Value)
	if err != nil {
		return t.unsuited(c.Value, err)
	}
	last := map[role]words{roleValue: value}
	if t.has(roleVersion) {
		version, err := t.encodeVersion(c.Version)
		if err != nil {
			return t.unsuited(c.Value, err)
		}
		last[roleVersion] = version
	}
	before := t.last
	t.last = last
	steps := t.steps(last)
	var outcome protocols.WriteOutcome
	begun := false
	err = t.hold(ctx, func(turn *turn) error {
		for i, s := range steps {
			if !s.command && i == 0 {
				t.lowered = true
			}
			err := t.send(turn, s.piece)
			if err == nil {
				begun = begun || s.command
				continue
			}
			outcome = outcomeOf(err)
			switch {
			case begun:
				outcome = protocols.Unknown
			case !s.command && outcome == protocols.Unknown:
				// Taking validity away can be repeated; of the command nothing
				// was sent.
				outcome = protocols.Unsent
			}
			return err
		}
		t.lowered = false
		return nil
	})
	var unsent *unsentError
	if errors.As(err, &unsent) && !begun {
		outcome = protocols.Unsent
	}
	if err != nil && outcome != protocols.Unknown {
		t.last = before
	}
	object := fmt.Sprintf("write %s to %s", c.Value, t.points[roleValue].address)
	err = t.failed(object, err, outcome)
	if exceptionOf(err) == mb.ExceptionCodeIllegalFunction && slices.ContainsFunc(steps, func(s step) bool { return len(s.data) > 2 }) {
		return &protocols.WriteError{Outcome: outcome, Err: fmt.Errorf("%w; several registers need function 16, write multiple registers", err)}
	}
	return err
}

// steps returns the requests that bring the command.
func (t *target) steps(command map[role]words) []step {
	all := map[role]words{roleValue: command[roleValue]}
	if w, ok := command[roleVersion]; ok {
		all[roleVersion] = w
	}
	if t.has(roleValidity) {
		all[roleValidity] = t.encodeCount(roleValidity, 1)
	}
	if pieces := t.pieces(all); len(pieces) == 1 {
		return []step{{pieces[0], true}}
	}
	var steps []step
	lone := func(r role, w words, command bool) {
		steps = append(steps, step{t.pieces(map[role]words{r: w})[0], command})
	}
	if t.has(roleValidity) {
		lone(roleValidity, t.encodeCount(roleValidity, 0), false)
	}
	if pieces := t.pieces(command); len(pieces) == 1 {
		steps = append(steps, step{pieces[0], true})
	} else {
		lone(roleValue, command[roleValue], true)
		lone(roleVersion, command[roleVersion], true)
	}
	if t.has(roleValidity) {
		lone(roleValidity, t.encodeCount(roleValidity, 1), false)
	}
	return steps
}

// send writes one piece.
func (t *target) send(turn *turn, p piece) error {
	if p.table == coil {
		single := uint16(0)
		if p.data[0] != 0 {
			single = 0xFF00
		}
		return t.either(turn, true, func(c mb.Client) error {
			_, err := c.WriteSingleCoil(p.start, single)
			return err
		}, func(c mb.Client) error {
			_, err := c.WriteMultipleCoils(p.start, 1, p.data)
			return err
		})
	}
	return t.either(turn, len(p.data) == 2, func(c mb.Client) error {
		_, err := c.WriteSingleRegister(p.start, uint16(p.data[0])<<8|uint16(p.data[1]))
		return err
	}, func(c mb.Client) error {
		_, err := c.WriteMultipleRegisters(p.start, uint16(len(p.data)/2), p.data)
		return err
	})
}

// either sends single where it may, and several where that is not to be had: a
// device that answers with exception 1 has carried out nothing (V1.1b3, 7).
func (t *target) either(turn *turn, may bool, single, several func(mb.Client) error) error {
	if may && !t.many {
		err := turn.write(single)
		if exceptionOf(err) != mb.ExceptionCodeIllegalFunction {
			return err
		}
		if err := turn.write(several); err != nil {
			return err
		}
		t.many = true
		return nil
	}
	return turn.write(several)
}

// outcomeOf tells what is known of a request that failed with err.
func outcomeOf(err error) protocols.WriteOutcome {
	var unsent *unsentError
	if errors.As(err, &unsent) {
		return protocols.Unsent
	}
	// Exceptions that say that the request was refused before it was begun
	// (V1.1b3, 7). The others may come in the middle of it, or, as 11, from a
	// gateway that has passed it on; 5 says that it goes on.
	switch exceptionOf(err) {
	case mb.ExceptionCodeIllegalFunction, mb.ExceptionCodeIllegalDataAddress, mb.ExceptionCodeIllegalDataValue,
		mb.ExceptionCodeServerDeviceBusy, mb.ExceptionCodeGatewayPathUnavailable:
		return protocols.Rejected
	}
	return protocols.Unknown
}

// failed words err for operators, with the outcome; nil stays nil.
func (t *target) failed(object string, err error, outcome protocols.WriteOutcome) error {
	err = t.told(object, err)
	if err == nil {
		return nil
	}
	if outcome == protocols.Unknown {
		err = fmt.Errorf("%w (whether the device carried it out is not known; read it back)", err)
	}
	return &protocols.WriteError{Outcome: outcome, Err: err}
}

// told reports to Health whether the device answered, and words the error.
func (t *target) told(object string, err error) error {
	if err == nil || exceptionOf(err) != 0 && !unitAway(err) {
		t.health.Up()
	}
	if err == nil {
		return nil
	}
	wrapped := explain(t.conn.link.name, object, err)
	if isAway(err) {
		t.health.Down(wrapped)
	}
	return wrapped
}

// Read implements protocols.Target. The quality is Bad while the validity
// register is not 1.
func (t *target) Read(ctx context.Context) (protocols.Reading, error) {
	var (
		is  map[role]words
		now time.Time
	)
	err := t.hold(ctx, func(turn *turn) (err error) {
		is, now, err = t.look(turn, roleValue, roleVersion, roleValidity)
		return err
	})
	if err := t.told("read "+t.points[roleValue].address.String(), err); err != nil {
		return protocols.Reading{}, err
	}
	r := protocols.Reading{Time: now}
	r.Value, r.Quality = t.decodeValue(is[roleValue])
	if t.has(roleVersion) {
		r.Version = t.points[roleVersion].order.integer(is[roleVersion])
	}
	if t.has(roleValidity) && t.points[roleValidity].order.integer(is[roleValidity]) != 1 {
		r.Quality = sample.Bad
	}
	return r, nil
}

// look reads those of the points that there are, as few requests as the limits
// of the connection allow.
func (t *target) look(turn *turn, wanted ...role) (map[role]words, time.Time, error) {
	var points []point
	for _, r := range wanted {
		if t.has(r) {
			points = append(points, t.points[r])
		}
	}
	is := map[role]words{}
	var at time.Time
	for _, g := range plan(points, t.conn.cfg.limits()) {
		var buf [maxADU]byte
		data, now, err := turn.read(g.table, g.start, g.count, buf[:])
		if err != nil {
			return nil, now, err
		}
		at = now
		for i := range g.points {
			p := &g.points[i]
			w := room(p)
			if !p.table.isBits() {
				copy(w, g.bytesOf(p, data))
			} else if g.bitOf(p, data) {
				w[0] = 1
			}
			is[role(p.index)] = w
		}
	}
	return is, at, nil
}

// Tell implements protocols.Target.
func (t *target) Tell(ctx context.Context, s protocols.State) error {
	tell := map[role]words{}
	if t.has(roleHeartbeat) {
		tell[roleHeartbeat] = t.encodeCount(roleHeartbeat, s.Heartbeat)
	}
	if t.has(roleValidity) && !s.Valid {
		tell[roleValidity] = t.encodeCount(roleValidity, 0)
	}
	raise := t.has(roleValidity) && s.Valid && t.lowered && t.last != nil
	if len(tell) == 0 && !raise {
		return nil
	}
	err := t.hold(ctx, func(turn *turn) error {
		if raise {
			is, _, err := t.look(turn, roleValue, roleVersion)
			if err != nil {
				return &unsentError{err}
			}
			if raise = bytes.Equal(is[roleValue], t.last[roleValue]) && bytes.Equal(is[roleVersion], t.last[roleVersion]); raise {
				tell[roleValidity] = t.encodeCount(roleValidity, 1)
			}
		}
		if _, ok := tell[roleValidity]; ok {
			t.lowered = true // whatever comes of it
		}
		if err := t.sendAll(turn, tell); err != nil {
			return err
		}
		if raise {
			t.lowered = false
		}
		return nil
	})
	object := "write validity and heartbeat beside " + t.points[roleValue].address.String()
	return t.failed(object, err, outcomeOf(err))
}

// sendAll writes registers that may stand side by side, in one request where
// the device has the function.
func (t *target) sendAll(turn *turn, data map[role]words) error {
	pieces := t.pieces(data)
	if len(pieces) < len(data) && !t.apart {
		err := t.send(turn, pieces[0])
		if exceptionOf(err) != mb.ExceptionCodeIllegalFunction {
			return err
		}
		t.apart = true
	}
	for _, r := range []role{roleValidity, roleHeartbeat} {
		if w, ok := data[r]; ok {
			if err := t.send(turn, t.pieces(map[role]words{r: w})[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements protocols.Target. The link belongs to the connection.
func (t *target) Close() error {
	t.closed.Store(true)
	return nil
}
