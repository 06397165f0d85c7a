package modbus

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/protocols"
)

// point is one tag as the planner and the decoder see it.
type point struct {
	tag   string
	index int // in SourceConfig.Tags
	address
	typ   dataType
	order order
	size  int // in registers, or in bits for coil and discrete
	rate  time.Duration
}

// end returns the offset behind the point's last register or bit.
func (p *point) end() int { return int(p.offset) + p.size }

// limits bound one request.
type limits struct {
	registers int // the most registers in one reply
	bits      int // the most coils or discrete inputs in one reply
	gap       int // registers that may be read in vain to join neighbours; times 16 for bits
}

func (l limits) of(t table) (most, gap int) {
	if t.isBits() {
		return l.bits, l.gap * 16
	}
	return l.registers, l.gap
}

// group is what one request reads.
type group struct {
	slave  uint8
	table  table
	start  uint16
	count  int // registers or bits
	rate   time.Duration
	points []point // by offset
}

// String names the group for messages: "slave 1 holding 100..119".
func (g *group) String() string {
	if g.count == 1 {
		return fmt.Sprintf("slave %d %s %d", g.slave, g.table, g.start)
	}
	return fmt.Sprintf("slave %d %s %d..%d", g.slave, g.table, g.start, int(g.start)+g.count-1)
}

// makePoint turns a tag into a point. It returns every fault of the tag with
// the path of the field, relative to the tag.
func makePoint(tag protocols.Tag, index int, c *Config, srcRate time.Duration) (point, []protocols.Fault) {
	var faults []protocols.Fault
	fault := func(field, problem, hint string) {
		faults = append(faults, protocols.Fault{Path: field, Problem: problem, Hint: hint})
	}
	p := point{tag: tag.Name, index: index, rate: tag.ScanRate}
	if p.rate <= 0 {
		p.rate = srcRate
	}
	a, err := parseAddress(tag.Address, uint8(c.Slave), c.AddressBase)
	if err != nil {
		var ae *addressError
		if !errors.As(err, &ae) {
			panic("BUG: an address fails with " + err.Error())
		}
		fault("address", ae.problem, ae.hint)
	}
	p.address = a
	known := true
	if tag.Type == "" {
		p.typ = typeUint16
		if err == nil && (a.table.isBits() || a.bit != noBit) {
			p.typ = typeBool
		}
	} else if i := slices.Index(typeNames[:], tag.Type); i >= 0 {
		p.typ = dataType(i)
	} else {
		known = false
		fault("type", fmt.Sprintf("type %q is not known", tag.Type),
			"use int16, uint16, int32, uint32, int64, uint64, float32, float64, bool or string")
	}
	o, ok := parseOrder(tag.Order, c.order())
	if !ok {
		fault("order", fmt.Sprintf("order %q is not known", tag.Order),
			"use ABCD, CDAB, BADC or DCBA, or big or little for the words alone; docs/modbus.md shows how to find it")
	}
	p.order = o
	if err != nil || !known {
		return p, faults
	}
	bit := a.table.isBits() || a.bit != noBit
	switch {
	case bit && p.typ != typeBool:
		fault("type", fmt.Sprintf("%s is one bit and cannot be %s", tag.Address, p.typ), "use type: bool")
	case !bit && p.typ == typeBool:
		fault("type", fmt.Sprintf("%s is a register and cannot be bool", tag.Address),
			fmt.Sprintf("name the bit, for example %s.0", tag.Address))
	}
	switch {
	case p.typ == typeString && (tag.Length < 1 || tag.Length > 2*c.MaxRegisters):
		fault("length", fmt.Sprintf("a string of %d characters cannot be read", tag.Length),
			fmt.Sprintf("give length: 1 to %d, in characters (two in each register)", 2*c.MaxRegisters))
	case p.typ != typeString && tag.Length != 0:
		fault("length", fmt.Sprintf("a %s has no length", p.typ), "leave length out; it is for strings")
	}
	switch {
	case p.typ == typeBool:
		p.size = 1
	case p.typ == typeString:
		p.size = (tag.Length + 1) / 2
	default:
		p.size = p.typ.registers()
		if p.size > c.MaxRegisters {
			fault("type", fmt.Sprintf("a %s takes %d registers and connection.max_registers is %d", p.typ, p.size, c.MaxRegisters),
				"raise connection.max_registers")
		}
	}
	if p.end() > 65536 {
		fault("address", fmt.Sprintf("%s takes %d registers and ends beyond offset 65535", tag.Address, p.size),
			"check the offset and the type against the device's register list")
	}
	return p, faults
}

// plan groups points into requests: by slave, table and scan rate, as few as
// the limits allow, never splitting a value. The result depends on the set of
// points only, not on their order, but for points that lie on one address.
//
// Taking points by offset and starting a new request only at the first that
// does not fit is optimal: each request starts at a point that must be read
// and reaches as far as it may.
func plan(points []point, lim limits) []group {
	sorted := slices.Clone(points)
	slices.SortStableFunc(sorted, func(a, b point) int {
		return cmp.Or(
			cmp.Compare(a.rate, b.rate),
			cmp.Compare(a.slave, b.slave),
			cmp.Compare(a.table, b.table),
			cmp.Compare(a.offset, b.offset),
			cmp.Compare(a.size, b.size),
			cmp.Compare(a.bit, b.bit),
			cmp.Compare(a.tag, b.tag),
		)
	})
	var groups []group
	for _, p := range sorted {
		if n := len(groups); n > 0 {
			g := &groups[n-1]
			most, gap := lim.of(p.table)
			end := int(g.start) + g.count
			if g.rate == p.rate && g.slave == p.slave && g.table == p.table &&
				int(p.offset)-end <= gap && p.end()-int(g.start) <= most {
				g.points = append(g.points, p)
				g.count = max(end, p.end()) - int(g.start)
				continue
			}
		}
		groups = append(groups, groupOf([]point{p}))
	}
	return groups
}

// groupOf returns the request for points, which are sorted by offset and
// share slave, table and rate.
func groupOf(points []point) group {
	first := &points[0]
	g := group{slave: first.slave, table: first.table, start: first.offset, rate: first.rate, points: points}
	for i := range points {
		g.count = max(g.count, points[i].end()-int(g.start))
	}
	return g
}

// halve splits a group of two points or more at the middle.
func halve(g *group) (left, right group) {
	m := len(g.points) / 2
	return groupOf(slices.Clone(g.points[:m])), groupOf(slices.Clone(g.points[m:]))
}

// bytesOf returns p's registers in the reply of a register group.
func (g *group) bytesOf(p *point, data []byte) []byte {
	at := 2 * (int(p.offset) - int(g.start))
	return data[at : at+2*p.size]
}

// bitOf returns p's bit in the reply of a coil or discrete group, where the
// lowest address is in the lowest bit of the first byte (V1.1b3, 6.1).
func (g *group) bitOf(p *point, data []byte) bool {
	at := int(p.offset) - int(g.start)
	return data[at/8]>>(at%8)&1 == 1
}
