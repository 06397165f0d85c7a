package modbus

import (
	"fmt"
	"strconv"
	"strings"
)

// table is one of the four tables of the Modbus data model (MODBUS
// Application Protocol Specification V1.1b3, section 4.3).
type table uint8

const (
	holding table = iota
	input
	coil
	discrete
	tableCount
)

var tableNames = [tableCount]string{"holding", "input", "coil", "discrete"}

// String returns the table's name as it stands in an address.
func (t table) String() string { return tableNames[t] }

// isBits reports whether the table holds single bits.
func (t table) isBits() bool { return t == coil || t == discrete }

// noBit marks an address without a bit number.
const noBit = -1

// address is one parsed tag address. Offset counts from zero, as on the wire.
type address struct {
	slave  uint8
	table  table
	offset uint16
	bit    int8 // 0 is the least significant; noBit for a whole value
}

// String returns the address with the slave and a zero-based offset.
func (a address) String() string {
	s := fmt.Sprintf("%d/%s:%d", a.slave, a.table, a.offset)
	if a.bit != noBit {
		s += "." + strconv.Itoa(int(a.bit))
	}
	return s
}

// addressError is a fault in an address with what to do about it.
type addressError struct{ problem, hint string }

// Error implements error.
func (e *addressError) Error() string { return e.problem + "; " + e.hint }

const addressHint = "write [slave/]table:offset[.bit] with table holding, input, coil or discrete, for example holding:100, 3/input:0x10 or holding:7.3"

// parseAddress reads [slave/]table:offset[.bit]. The offset is decimal or hex
// with 0x and counts from base (0 or 1).
func parseAddress(s string, slave uint8, base int) (address, error) {
	a := address{slave: slave, bit: noBit}
	fail := func(hint, format string, args ...any) (address, error) {
		return address{}, &addressError{fmt.Sprintf("address %q: ", s) + fmt.Sprintf(format, args...), hint}
	}
	rest := strings.TrimSpace(s)
	if rest == "" {
		return fail(addressHint, "it is empty")
	}
	if hint, ok := classicHint(rest, base); ok {
		return fail(hint, "a reference number is not an address here")
	}
	if before, after, ok := strings.Cut(rest, "/"); ok {
		n, err := strconv.ParseUint(before, 10, 16)
		if err != nil || !validSlave(int(n)) {
			return fail("use 0 to 247, or 255", "slave %q is not a unit id", before)
		}
		a.slave, rest = uint8(n), after
	}
	name, number, ok := strings.Cut(rest, ":")
	if !ok {
		return fail(addressHint, "there is no ':' between table and offset")
	}
	found := false
	for i, n := range tableNames {
		if strings.EqualFold(n, name) {
			a.table, found = table(i), true
		}
	}
	if !found {
		return fail("use holding, input, coil or discrete", "table %q is not known", name)
	}
	number, bit, hasBit := strings.Cut(number, ".")
	offset, err := parseOffset(number)
	switch {
	case err != nil:
		return fail(addressHint, "offset %q is not a number", number)
	case base == 1 && offset == 0:
		return fail("the first one is "+name+":1, or set connection.address_base: 0", "offset 0 does not exist with address_base 1")
	case offset-uint64(base) > 65535:
		return fail("offsets end at 65535 (MODBUS Application Protocol V1.1b3, 4.4)", "offset %s is beyond the table", number)
	}
	a.offset = uint16(offset - uint64(base))
	if hasBit {
		n, err := strconv.ParseUint(bit, 10, 8)
		switch {
		case a.table.isBits():
			return fail("leave out ."+bit, "a %s is a bit already", a.table)
		case err != nil || n > 15:
			return fail("bits are 0 (the least significant) to 15", "bit %q is not in a register", bit)
		}
		a.bit = int8(n)
	}
	return a, nil
}

func parseOffset(s string) (uint64, error) {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		return strconv.ParseUint(hex, 16, 32)
	}
	return strconv.ParseUint(s, 10, 32)
}

func validSlave(n int) bool { return n >= 0 && n <= 247 || n == 255 }

// classicHint explains reference numbers such as 40001 or 300101, in which the
// first digit names the table and the rest counts from one.
func classicHint(s string, base int) (string, bool) {
	if len(s) != 5 && len(s) != 6 {
		return "", false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return "", false
	}
	scale := uint64(10_000)
	if len(s) == 6 {
		scale = 100_000
	}
	name, ok := map[uint64]string{0: "coil", 1: "discrete", 3: "input", 4: "holding"}[n/scale]
	if !ok || n%scale == 0 || n%scale > 65536 {
		return "", false
	}
	return fmt.Sprintf("%s is entry number %d of the %s table: write %s:%d", s, n%scale, name, name, n%scale-1+uint64(base)), true
}
