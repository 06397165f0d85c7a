package plant

import (
	"fmt"
	"math"
	"strings"
	"sync"

	"millrace/internal/sim/modbussim"
	"millrace/internal/sim/truth"
	"millrace/sample"
)

// meters are the plant's Modbus slaves behind one TCP server. Each read of a
// tag takes its next step, so no two replies hold the same value.
type meters struct {
	*modbussim.Server
	site     string
	log      *truth.Log
	setpoint setpoint

	mu   sync.Mutex
	tags []*Tag
}

func startMeters(site string, tags []*Tag, log *truth.Log) (*meters, error) {
	m := &meters{site: site, log: log, tags: tags}
	s, err := modbussim.Start(modbussim.Options{Read: m.read, Write: m.setpoint.write, OnReply: m.replied})
	if err != nil {
		return nil, fmt.Errorf("simulated meters: %w", err)
	}
	m.Server = s
	return m, nil
}

// size is how many registers or bits a tag takes up.
func (t *Tag) size() int {
	if t.Type == "bool" {
		return 1
	}
	return len(t.registers(t.value(0)))
}

// within calls fn with each tag that lies wholly within a range of a table.
func (m *meters) within(slave uint8, table modbussim.Table, address uint16, n int, fn func(t *Tag, at int)) {
	for _, t := range m.tags {
		at := t.offset - int(address)
		if t.slave == int(slave) && t.table == int(table) && at >= 0 && at+t.size() <= n {
			fn(t, at)
		}
	}
}

func (m *meters) read(slave uint8, table modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	if m.setpoint.read(slave, table, address, values) {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found := false
	m.within(slave, table, address, len(values), func(t *Tag, at int) {
		found = true
		v := t.next()
		if t.Type == "bool" {
			values[at] = uint16(v.Bits())
			return
		}
		copy(values[at:], t.registers(v))
	})
	if !found {
		return modbussim.IllegalDataAddress
	}
	return 0
}

// replied logs what a reply held, read from its very registers.
func (m *meters) replied(r modbussim.Reply) {
	if r.Exception != 0 || r.Fault != "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.within(r.Slave, r.Table, r.Address, len(r.Values), func(t *Tag, at int) {
		m.log.Sent(m.site+"/"+t.Name, truth.Event{Value: t.decode(r.Values[at:]), From: r.Arrived, To: r.Written})
	})
}

// decode reads a value back from registers; see Tag.registers.
func (t *Tag) decode(regs []uint16) sample.Value {
	bits := func(n int) (out uint64) {
		w := append([]uint16(nil), regs[:n]...)
		if t.Order == "CDAB" {
			w[0], w[1] = w[1], w[0]
		}
		for _, r := range w {
			out = out<<16 | uint64(r)
		}
		return out
	}
	switch t.Type {
	case "bool":
		return sample.BoolValue(regs[0] != 0)
	case "uint16":
		return sample.FloatValue(float64(regs[0]) / 10)
	case "int16":
		return sample.IntValue(int64(int16(bits(1))))
	case "int32":
		return sample.IntValue(int64(int32(bits(2))))
	case "uint32":
		return sample.IntValue(int64(bits(2)))
	case "int64", "uint64":
		return sample.IntValue(int64(bits(4)))
	case "float32":
		return sample.FloatValue(float64(math.Float32frombits(uint32(bits(2)))))
	case "float64":
		return sample.FloatValue(math.Float64frombits(bits(4)))
	case "string":
		var b strings.Builder
		for _, r := range regs[:t.Length/2] {
			b.WriteByte(byte(r >> 8))
			b.WriteByte(byte(r))
		}
		return sample.StringValue(strings.TrimRight(b.String(), "\x00"))
	}
	panic("BUG: simulated register of type " + t.Type)
}
