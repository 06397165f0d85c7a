package modbus

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/protocols"
	"millrace/sample"
)

// Block says where a value stands and what belongs to it: what a PLC needs to
// know whether it may use the value. Only the address is required.
type Block struct {
	// Address is [slave/]table:offset of the value.
	Address string `yaml:"address"`
	// Type is that of the value: int16 to uint64, float32, float64; uint16 where
	// it is empty, and bool for a coil.
	Type string `yaml:"type"`
	// Order is the byte and word order of the block's registers; the connection's
	// where it is empty.
	Order string `yaml:"order"`
	// VersionAddress is where the value's version stands, VersionType uint32 or
	// uint64.
	VersionAddress string `yaml:"version_address"`
	VersionType    string `yaml:"version_type"`
	// ValidityAddress is a uint16: 1 while the value may be used, else 0.
	ValidityAddress string `yaml:"validity_address"`
	// HeartbeatAddress is a uint16 that counts.
	HeartbeatAddress string `yaml:"heartbeat_address"`
}

func defaultBlock() Block { return Block{VersionType: typeUint32.String()} }

// role is what a point of a block is for.
type role int

const (
	roleValue role = iota
	roleVersion
	roleValidity
	roleHeartbeat
	roleStatus
	roles
)

var roleKeys = [roles]string{"address", "version_address", "validity_address", "heartbeat_address", "status_address"}

// mostWritten is how many registers one function 16 can write (V1.1b3, 6.12).
const mostWritten = 123

// layout is a block as it was parsed. A point without a size is not there.
type layout struct {
	points [roles]point
	kind   sample.Kind // of the target's values; Null where it is not known
	most   int         // registers that one request may write
}

func (l *layout) has(r role) bool { return l.points[r].size > 0 }

// layout parses b and returns every fault, with paths relative to `write:`.
// status is the address of a status register, or "".
func (b *Block) layout(c *Config, kind sample.Kind, status string) (layout, []protocols.Fault) {
	l := layout{kind: kind, most: min(c.MaxRegisters, mostWritten)}
	var faults []protocols.Fault
	fault := func(path, problem, hint string) {
		faults = append(faults, protocols.Fault{Path: path, Problem: problem, Hint: hint})
	}
	parse := func(r role, address, typ string) {
		if address == "" {
			return
		}
		p, found := makePoint(protocols.Tag{Name: address, Address: address, Type: typ, Order: b.Order}, int(r), c, 1)
		for _, f := range found {
			switch {
			case r != roleValue && f.Path == "order":
				continue // said of the value
			case r != roleValue:
				f.Path = roleKeys[r]
			}
			faults = append(faults, f)
		}
		if len(found) > 0 {
			return
		}
		if r != roleValue && (p.table.isBits() || p.bit != noBit) {
			fault(roleKeys[r], address+" is not a register", "write a whole register, as in holding:104")
			return
		}
		l.points[r] = p
	}
	if b.Address == "" {
		fault("address", "the address is missing", "write [slave/]table:offset, as in holding:100")
	}
	if b.Type == typeString.String() {
		fault("type", "a string cannot be written", "use a number, or a coil for a bool")
	} else {
		parse(roleValue, b.Address, b.Type)
	}
	versionType := b.VersionType
	if versionType != typeUint32.String() && versionType != typeUint64.String() {
		fault("version_type", fmt.Sprintf("version_type %q is not uint32 or uint64", versionType), "versions that are times in ms need uint64")
		versionType = typeUint64.String()
	}
	parse(roleVersion, b.VersionAddress, versionType)
	parse(roleValidity, b.ValidityAddress, typeUint16.String())
	parse(roleHeartbeat, b.HeartbeatAddress, typeUint16.String())
	parse(roleStatus, status, typeUint16.String())
	faults = append(faults, l.conflicts()...)
	if l.has(roleValue) {
		faults = append(faults, kindFault(&l.points[roleValue], kind)...)
	}
	return l, faults
}

// conflicts finds points that lie on each other, or are of different slaves.
func (l *layout) conflicts() (faults []protocols.Fault) {
	for r := roleVersion; r < roles; r++ {
		if !l.has(r) {
			continue
		}
		p := &l.points[r]
		for q := roleValue; q < r; q++ {
			other := &l.points[q]
			switch {
			case !l.has(q):
			case p.slave != other.slave && q == roleValue:
				faults = append(faults, protocols.Fault{Path: roleKeys[r], Problem: fmt.Sprintf("%s is of another slave than the value, %s", p.address, other.address),
					Hint: "a block stands in one device"})
			case p.overlaps(other):
				faults = append(faults, protocols.Fault{Path: roleKeys[r], Problem: fmt.Sprintf("%s lies on %s, which is %s", p.address, other.address, roleKeys[q]),
					Hint: "mind how many registers each takes: docs/modbus.md has a map to copy"})
			}
		}
	}
	return faults
}

// overlaps reports whether two points share a register or a bit.
func (p *point) overlaps(o *point) bool {
	return p.slave == o.slave && p.table == o.table && int(p.offset) < o.end() && int(o.offset) < p.end()
}

// kindFault reports that p cannot hold values of the kind at all. What depends
// on the single value is for Prepare to say.
func kindFault(p *point, kind sample.Kind) []protocols.Fault {
	bits := p.table.isBits()
	switch {
	case kind == sample.String:
		return []protocols.Fault{{Path: "address", Problem: "a string cannot be written", Hint: "Modbus targets take float64, int64 and bool"}}
	case kind == sample.Bool && p.bit != noBit:
		return []protocols.Fault{{Path: "address", Problem: "a single bit of a register cannot be written without touching its neighbours",
			Hint: "use a coil, or an int64 target with the values 0 and 1 for the whole register"}}
	case kind == sample.Bool && !bits:
		return []protocols.Fault{{Path: "address", Problem: fmt.Sprintf("%s is a register and the target's values are bool", p.address),
			Hint: "use a coil, or an int64 target with the values 0 and 1"}}
	case kind != sample.Bool && kind != sample.Null && (bits || p.bit != noBit):
		return []protocols.Fault{{Path: "address", Problem: fmt.Sprintf("%s is one bit and the target's values are %s", p.address, kind),
			Hint: "use a register, or type: bool for the target"}}
	}
	return nil
}

// places names each register of the block: "1/holding:100".
func (l *layout) places() (places []string) {
	for r := range roles {
		p := &l.points[r]
		for i := range p.size {
			places = append(places, fmt.Sprintf("%d/%s:%d", p.slave, p.table, int(p.offset)+i))
		}
	}
	return places
}

// words is what stands at a point: its registers as on the wire, or one byte,
// 0 or 1, for a bit.
type words []byte

// room returns the words of p, all 0.
func room(p *point) words {
	if p.table.isBits() {
		return make(words, 1)
	}
	return make(words, 2*p.size)
}

// encodeValue returns what stands at the block's value for v. It refuses another
// kind than that of the target's values, and what the type does not hold.
func (l *layout) encodeValue(v sample.Value) (words, error) {
	p := &l.points[roleValue]
	w := room(p)
	if k := v.Kind(); l.kind != sample.Null && k != l.kind {
		return w, fmt.Errorf("it is %s, and the target's values are %s; it cannot be written", k, l.kind)
	}
	if p.table.isBits() {
		on, err := coilState(v)
		if on {
			w[0] = 1
		}
		return w, err
	}
	return w, encode(w, *p, v)
}

// encodeVersion returns what stands at the block's version.
func (l *layout) encodeVersion(version uint64) (words, error) {
	p := &l.points[roleVersion]
	if p.typ == typeUint32 && version > math.MaxUint32 {
		return nil, fmt.Errorf("version %d does not fit into a uint32; set version_type: uint64", version)
	}
	w := room(p)
	p.order.put(w, version)
	return w, nil
}

// encodeCount returns a uint16 as it stands at r.
func (l *layout) encodeCount(r role, n uint16) words {
	w := room(&l.points[r])
	l.points[r].order.put(w, uint64(n))
	return w
}

// decodeValue is the inverse of encodeValue. A number comes in the kind of the
// target's values where that holds it: a float64 target reads 41 and not an
// integer from a uint16. What is no number is Bad.
func (l *layout) decodeValue(w words) (sample.Value, sample.Quality) {
	p := &l.points[roleValue]
	if p.table.isBits() {
		return sample.BoolValue(w[0] != 0), sample.Good
	}
	v, q := decode(w, p.typ, p.order)
	switch f := v.Float(); {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return v, sample.BadOutOfRange
	case l.kind == sample.Float64 && v.Kind() == sample.Int64:
		if f := float64(v.Int()); math.Abs(f) < 1<<63 && int64(f) == v.Int() {
			return sample.FloatValue(f), q
		}
	case l.kind == sample.Int64 && v.Kind() == sample.Float64:
		if f == math.Trunc(f) && f >= -1<<63 && f < 1<<63 {
			return sample.IntValue(int64(f)), q
		}
	}
	return v, q
}

// prepare returns v as it reads once it is written.
func (l *layout) prepare(v sample.Value) (sample.Value, error) {
	w, err := l.encodeValue(v)
	if err != nil {
		return sample.Value{}, err
	}
	held, q := l.decodeValue(w)
	if !q.IsGood() {
		return sample.Value{}, errors.New("the type does not hold it")
	}
	return held, nil
}

// piece is a run of registers, or one coil, that one request writes.
type piece struct {
	table table
	start uint16
	data  words
}

// pieces joins points whose places follow on each other without a gap, as far
// as one request may write them.
func (l *layout) pieces(data map[role]words) []piece {
	var list []piece
	order := make([]role, 0, len(data))
	for r := range data {
		order = append(order, r)
	}
	slices.SortFunc(order, func(a, b role) int {
		p, q := &l.points[a], &l.points[b]
		if p.table != q.table {
			return int(p.table) - int(q.table)
		}
		return int(p.offset) - int(q.offset)
	})
	for _, r := range order {
		p := &l.points[r]
		if n := len(list); n > 0 && !p.table.isBits() && list[n-1].table == p.table {
			last := &list[n-1]
			if size := len(last.data) / 2; int(last.start)+size == int(p.offset) && size+p.size <= l.most {
				last.data = slices.Concat(last.data, data[r])
				continue
			}
		}
		list = append(list, piece{table: p.table, start: p.offset, data: data[r]})
	}
	return list
}
