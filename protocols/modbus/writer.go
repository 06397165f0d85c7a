package modbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	mb "github.com/goburrow/modbus"

	"millrace/protocols"
	"millrace/sample"
)

// writer writes single values through the connection's link.
type writer struct {
	conn   *connection
	health protocols.Health
}

// target parses an address and a type. The type may be followed by an order:
// "float32 CDAB".
func (w *writer) target(addr, typ string) (point, error) {
	c := w.conn.cfg
	tag := protocols.Tag{Name: addr, Address: addr}
	switch words := strings.Fields(typ); len(words) {
	case 0:
	case 1:
		tag.Type = words[0]
	case 2:
		tag.Type, tag.Order = words[0], words[1]
	default:
		return point{}, &addressError{fmt.Sprintf("type %q is not known", typ), "write a type, or a type and an order: float32 CDAB"}
	}
	if tag.Type == typeString.String() {
		return point{}, &addressError{"a string cannot be written", "use a number or bool"}
	}
	p, faults := makePoint(tag, 0, &c, 1)
	if len(faults) > 0 {
		return point{}, &addressError{faults[0].Problem, faults[0].Hint}
	}
	return p, nil
}

// Write implements protocols.Writer. A value that the type does not hold is
// refused before anything is sent. It uses function 5 or 6 for one coil or
// register, and 15 or 16 where the device does not have those, or for values
// of several registers. A write whose connection breaks is not repeated: the
// error then says that its outcome is not known.
func (w *writer) Write(ctx context.Context, addr, typ string, v sample.Value) error {
	p, err := w.target(addr, typ)
	if err == nil {
		err = writable(p)
	}
	var words [8]byte
	var on bool
	if err == nil {
		if p.table == coil {
			on, err = coilState(v)
		} else {
			err = encode(words[:2*p.size], p, v)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s to %s: %w", v, addr, err)
	}
	if p.table == coil {
		err = w.writeCoil(ctx, p, on)
	} else {
		err = w.writeRegisters(ctx, p, words[:2*p.size])
	}
	if unknownOutcome(err) {
		err = fmt.Errorf("%w (whether the device carried it out is not known; read it back)", err)
	}
	return w.told(fmt.Sprintf("write %s to %s", v, p.address), err)
}

// unknownOutcome reports whether a write was sent and not answered.
func unknownOutcome(err error) bool {
	var (
		timeout *timeoutError
		lost    *lostError
		reply   *replyError
		waiting *waitingError
	)
	if errors.As(err, &waiting) {
		return false
	}
	return errors.As(err, &timeout) || errors.As(err, &reply) || errors.As(err, &lost) && !lost.unsent
}

// told reports to Health whether the device answered, and words the error.
func (w *writer) told(object string, err error) error {
	if err == nil || exceptionOf(err) != 0 && !unitAway(err) {
		w.health.Up()
	}
	if err == nil {
		return nil
	}
	wrapped := explain(w.conn.link.name, object, err)
	if isAway(err) {
		w.health.Down(wrapped)
	}
	return wrapped
}

func (w *writer) writeCoil(ctx context.Context, p point, on bool) error {
	single, many := uint16(0), []byte{0}
	if on {
		single, many = 0xFF00, []byte{1}
	}
	err := w.conn.link.write(ctx, p.slave, func(c mb.Client) error {
		_, err := c.WriteSingleCoil(p.offset, single)
		return err
	})
	if exceptionOf(err) != mb.ExceptionCodeIllegalFunction {
		return err
	}
	return w.conn.link.write(ctx, p.slave, func(c mb.Client) error {
		_, err := c.WriteMultipleCoils(p.offset, 1, many)
		return err
	})
}

func (w *writer) writeRegisters(ctx context.Context, p point, words []byte) error {
	if len(words) == 2 {
		err := w.conn.link.write(ctx, p.slave, func(c mb.Client) error {
			_, err := c.WriteSingleRegister(p.offset, uint16(words[0])<<8|uint16(words[1]))
			return err
		})
		if exceptionOf(err) != mb.ExceptionCodeIllegalFunction {
			return err
		}
	}
	return w.conn.link.write(ctx, p.slave, func(c mb.Client) error {
		_, err := c.WriteMultipleRegisters(p.offset, uint16(len(words)/2), words)
		return err
	})
}

// Read implements protocols.Writer.
func (w *writer) Read(ctx context.Context, addr, typ string) (sample.Value, error) {
	p, err := w.target(addr, typ)
	if err != nil {
		return sample.Value{}, fmt.Errorf("read %s: %w", addr, err)
	}
	g := groupOf([]point{p})
	var buf [maxADU]byte
	data, _, err := w.conn.link.read(ctx, g.slave, g.table, g.start, g.count, buf[:])
	if err := w.told("read "+p.address.String(), err); err != nil {
		return sample.Value{}, err
	}
	switch {
	case p.table.isBits():
		return sample.BoolValue(g.bitOf(&p, data)), nil
	case p.bit != noBit:
		return decodeBit(data, p.bit, p.order), nil
	}
	v, q := decode(data, p.typ, p.order)
	if !q.IsGood() {
		return v, fmt.Errorf("read %s: what stands there is %s", addr, q)
	}
	return v, nil
}

// Close implements protocols.Writer. The link belongs to the connection.
func (w *writer) Close() error { return nil }

// writable reports why nothing can be written at p.
func writable(p point) error {
	switch {
	case p.table == input || p.table == discrete:
		return fmt.Errorf("the %s table can only be read; use holding or coil", p.table)
	case p.bit != noBit:
		return errors.New("a single bit of a register cannot be written without touching its neighbours; write the whole register")
	}
	return nil
}

// coilState takes a bool, or the numbers 0 and 1.
func coilState(v sample.Value) (bool, error) {
	n, ok := v.Number()
	if !ok || n != 0 && n != 1 {
		return false, errors.New("a coil takes true or false")
	}
	return n == 1, nil
}

// span is the range of an integer type. High is exclusive, since 2^63 and
// 2^64 are exact in float64 and the largest integers are not.
type span struct{ low, high float64 }

var spans = map[dataType]span{
	typeInt16:  {-1 << 15, 1 << 15},
	typeUint16: {0, 1 << 16},
	typeInt32:  {-1 << 31, 1 << 31},
	typeUint32: {0, 1 << 32},
	typeInt64:  {-1 << 63, 1 << 63},
	typeUint64: {0, 1 << 64},
}

// encode puts v as p's type into b, which has the size of the type. Nothing
// is clamped: what the type does not hold is refused. Only the rounding of a
// decimal to a float32 is taken.
func encode(b []byte, p point, v sample.Value) error {
	if v.Kind() != sample.Int64 && v.Kind() != sample.Float64 {
		return fmt.Errorf("a %s cannot be written as %s", v.Kind(), p.typ)
	}
	f, _ := v.Number()
	switch p.typ {
	case typeFloat64, typeFloat32:
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return errors.New("it is not a number that can be written")
		}
		if v.Kind() == sample.Int64 && (math.Abs(f) >= 1<<63 || int64(f) != v.Int()) {
			return fmt.Errorf("a %s does not hold it exactly", p.typ)
		}
		if p.typ == typeFloat64 {
			p.order.put(b, math.Float64bits(f))
			return nil
		}
		narrow := float32(f)
		if math.IsInf(float64(narrow), 0) {
			return errors.New("it is beyond the range of a float32")
		}
		if v.Kind() == sample.Int64 && float64(narrow) != f {
			return errors.New("a float32 does not hold it exactly")
		}
		p.order.put(b, uint64(math.Float32bits(narrow)))
		return nil
	}
	if v.Kind() == sample.Int64 {
		n := v.Int()
		s := spans[p.typ]
		// n >= 2^53 may round up to the bound; the two types with such bounds
		// hold every such n.
		if p.typ.registers() < 4 && (float64(n) < s.low || float64(n) >= s.high) || p.typ == typeUint64 && n < 0 {
			return fmt.Errorf("it is outside of %s, %.0f to %.0f", p.typ, s.low, s.high-1)
		}
		p.order.put(b, uint64(n))
		return nil
	}
	s, ok := spans[p.typ]
	switch {
	case !ok:
		return fmt.Errorf("a %s cannot be written as %s", v.Kind(), p.typ)
	case f != math.Trunc(f): // true for NaN as well
		return fmt.Errorf("a %s takes whole numbers only", p.typ)
	case f < s.low || f >= s.high:
		return fmt.Errorf("it is outside of %s, %.0f to %.0f", p.typ, s.low, s.high-1)
	case p.typ == typeUint64:
		p.order.put(b, uint64(f))
	default:
		p.order.put(b, uint64(int64(f)))
	}
	return nil
}
