// Package plant is a simulated plant: Modbus slaves, an OPC UA server, an MQTT
// broker with sensors and a sensor that posts by HTTP. Every value encodes its
// tag's number and a step counter, so that a value in the wrong place or at
// the wrong time shows; and every value is logged at the moment when it goes
// out on the wire.
package plant

import (
	"fmt"
	"math"

	"millrace/sample"
)

// The sources of the plant, as the gateway's configuration names them.
const (
	SourceModbus = "meters"
	SourceOPCUA  = "line"
	SourceMQTT   = "sensors"
	SourceHTTP   = "lab"
)

// Tag is one simulated tag.
type Tag struct {
	No      int    // 1 to 255, part of each of its values
	Source  string // one of the sources above
	Name    string // device/name
	Type    string // as in the gateway's configuration
	Address string // likewise
	Order   string // Modbus: word order, where it is not big endian
	Length  int    // Modbus: characters of a string
	Tenths  bool   // the configuration scales it by 0.1

	slave, table, offset int // Modbus
	step                 uint64
}

// modbusTypes go round over the register tags.
var modbusTypes = []struct {
	name  string
	regs  int
	order string
}{
	{"float32", 2, ""}, {"uint16", 1, ""}, {"int32", 2, ""}, {"float64", 4, ""}, {"int16", 1, ""}, {"float32", 2, "CDAB"},
	{"uint32", 2, ""}, {"int64", 4, ""}, {"uint64", 4, ""}, {"string", 8, ""},
}

// Modbus tables, in the words of addresses.
const (
	tableHolding = iota
	tableInput
	tableCoil
	tableDiscrete
)

var tableNames = [...]string{"holding", "input", "coil", "discrete"}

// tags lists the plant's 210 tags: 130 on Modbus, 40 on OPC UA, 25 on MQTT,
// 15 by HTTP.
func tags() []*Tag {
	var all []*Tag
	add := func(t *Tag) { t.No = len(all) + 1; all = append(all, t) }
	const slaves = 2
	for slave := 1; slave <= slaves; slave++ {
		offset := [4]int{}
		place := func(table, size int) (int, string) {
			at := offset[table]
			offset[table] += size
			return at, fmt.Sprintf("%d/%s:%d", slave, tableNames[table], at)
		}
		for i := range 55 {
			typ := modbusTypes[i%len(modbusTypes)]
			table := tableHolding
			if i >= 40 {
				table = tableInput
			}
			at, address := place(table, typ.regs)
			t := &Tag{
				Source: SourceModbus, Name: fmt.Sprintf("meter%02d/reg%02d", slave, i), Type: typ.name, Address: address, Order: typ.order,
				Tenths: typ.name == "uint16", slave: slave, table: table, offset: at,
			}
			if typ.name == "string" {
				t.Length = 2 * typ.regs
			}
			add(t)
		}
		for i := range 10 {
			table := tableCoil + i%2
			at, address := place(table, 1)
			add(&Tag{
				Source: SourceModbus, Name: fmt.Sprintf("meter%02d/%s%d", slave, tableNames[table], at), Type: "bool", Address: address,
				slave: slave, table: table, offset: at,
			})
		}
	}
	for i := range 40 {
		typ := []string{"double", "float", "int32", "int64", "boolean", "string"}[i%6]
		name := fmt.Sprintf("press/%s%02d", typ, i)
		add(&Tag{Source: SourceOPCUA, Name: name, Type: typ, Address: "ns=1;s=" + name})
	}
	for i := range 25 {
		name := fmt.Sprintf("tank%02d/level", i)
		add(&Tag{Source: SourceMQTT, Name: name, Type: "double", Address: "plant/" + name})
	}
	for i := range 15 {
		name := fmt.Sprintf("probe%02d/ph", i)
		add(&Tag{Source: SourceHTTP, Name: name, Type: "double", Address: name})
	}
	return all
}

// next takes the next step and returns the value of the tag as the gateway
// should deliver it.
func (t *Tag) next() sample.Value {
	t.step++
	return t.value(t.step)
}

// value is the tag's value at a step.
func (t *Tag) value(step uint64) sample.Value {
	no, n := uint64(t.No), step
	switch t.Type {
	case "uint16":
		raw := no%16<<12 | n%4096
		return sample.FloatValue(float64(raw) / 10) // Tenths
	case "int16":
		return sample.IntValue(int64(int16(no%16<<12 | n%4096)))
	case "int32":
		return sample.IntValue(int64(no<<20 | n%(1<<20)))
	case "uint32":
		return sample.IntValue(int64(no<<22 | n%(1<<22)))
	case "int64":
		return sample.IntValue(-int64(no<<32 | n))
	case "uint64":
		return sample.IntValue(int64(no<<40 | n))
	case "float32", "float":
		return sample.FloatValue(float64(no<<16 | n%(1<<16))) // 24 bits: exact in a float32
	case "float64", "double":
		return sample.FloatValue(float64(no)*1e6 + float64(n) + 0.25)
	case "bool", "boolean":
		return sample.BoolValue((no+n)%2 == 0)
	case "string":
		return sample.StringValue(fmt.Sprintf("T%03d-%09d", no, n))
	}
	panic("BUG: simulated tag of type " + t.Type)
}

// registers lays a value out in Modbus registers, high byte first, by the
// tag's word order. It is written apart from the gateway's decoder, so that an
// error in the one is not repeated in the other.
func (t *Tag) registers(v sample.Value) []uint16 {
	words := func(bits uint64, n int) []uint16 {
		out := make([]uint16, n)
		for i := range out {
			out[i] = uint16(bits >> (16 * (n - 1 - i)))
		}
		if t.Order == "CDAB" {
			out[0], out[1] = out[1], out[0]
		}
		return out
	}
	switch t.Type {
	case "uint16":
		return []uint16{uint16(math.Round(v.Float() * 10))}
	case "int16":
		return words(uint64(v.Int()), 1)
	case "int32", "uint32":
		return words(uint64(v.Int()), 2)
	case "int64", "uint64":
		return words(uint64(v.Int()), 4)
	case "float32":
		return words(uint64(math.Float32bits(float32(v.Float()))), 2)
	case "float64":
		return words(math.Float64bits(v.Float()), 4)
	case "string":
		text := make([]byte, t.Length)
		copy(text, v.Str())
		out := make([]uint16, t.Length/2)
		for i := range out {
			out[i] = uint16(text[2*i])<<8 | uint16(text[2*i+1])
		}
		return out
	}
	panic("BUG: simulated register of type " + t.Type)
}
