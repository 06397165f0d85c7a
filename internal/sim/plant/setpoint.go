package plant

import (
	"math"
	"sync"

	"millrace/internal/sim/modbussim"
)

// The place in the first meter that the mirror writes to: registers of one
// block, as docs/modbus.md lays them out.
const (
	setpointSlave = 1
	setpointFrom  = 5000
	setpointRegs  = 6
)

// Written is a value that the PLC was told, with its version.
type Written struct {
	Value   float32
	Version uint32
}

// setpoint is a block of holding registers that clients may write: a float32,
// its version as a uint32, a validity and a heartbeat.
type setpoint struct {
	mu   sync.Mutex
	regs [setpointRegs]uint16
	log  []Written
}

// within returns the part of the block that a request touches; nil where it is
// not wholly within.
func (s *setpoint) within(slave uint8, table modbussim.Table, address uint16, n int) []uint16 {
	at := int(address) - setpointFrom
	if slave != setpointSlave || table != modbussim.Holding || at < 0 || at+n > setpointRegs {
		return nil
	}
	return s.regs[at : at+n]
}

// read reports whether it is the block that was read.
func (s *setpoint) read(slave uint8, table modbussim.Table, address uint16, values []uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return copy(values, s.within(slave, table, address, len(values))) > 0
}

// write takes what a client wrote. Each write of a value or a version is noted
// as they stand after it.
func (s *setpoint) write(slave uint8, table modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	s.mu.Lock()
	defer s.mu.Unlock()
	place := s.within(slave, table, address, len(values))
	if place == nil {
		return modbussim.IllegalDataAddress
	}
	copy(place, values)
	if address < setpointFrom+4 {
		s.log = append(s.log, s.stands())
	}
	return 0
}

func (s *setpoint) stands() Written {
	return Written{
		Value:   math.Float32frombits(uint32(s.regs[0])<<16 | uint32(s.regs[1])),
		Version: uint32(s.regs[2])<<16 | uint32(s.regs[3]),
	}
}

// Setpoint returns what stands in the PLC's block now, and all that was written
// to it, in order.
func (p *Plant) Setpoint() (stands Written, all []Written) {
	s := &p.meters.setpoint
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stands(), append(all, s.log...)
}

// SetpointWrite is the block as `write:` of a mirror target.
func (p *Plant) SetpointWrite() string {
	return `{to: ` + SourceModbus + `, address: "1/holding:5000", type: float32, version_address: "holding:5002", ` +
		`validity_address: "holding:5004", heartbeat_address: "holding:5005"}`
}
