package modbus

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// newWriter opens a writer to sim.
func newWriter(t *testing.T, cfg *Config) (protocols.Writer, *protocolstest.HealthRecorder) {
	t.Helper()
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	h := &protocolstest.HealthRecorder{}
	w, err := conn.OpenWriter(h)
	if err != nil {
		t.Fatal(err)
	}
	return w, h
}

func TestWriteAndReadBack(t *testing.T) {
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	w, h := newWriter(t, testConfig(sim))
	for _, c := range []struct {
		address, typ string
		v            sample.Value
		want         []uint16 // from the address on
	}{
		{"holding:1", "uint16", sample.IntValue(65535), []uint16{0xFFFF}},
		{"holding:1", "int16", sample.FloatValue(-2), []uint16{0xFFFE}},
		{"holding:2", "float32", sample.FloatValue(123.45), []uint16{0x42F6, 0xE666}},
		{"holding:2", "float32 CDAB", sample.FloatValue(123.45), []uint16{0xE666, 0x42F6}},
		{"holding:4", "float32", sample.IntValue(3), []uint16{0x4040, 0}},
		{"holding:6", "uint32", sample.IntValue(math.MaxUint32), []uint16{0xFFFF, 0xFFFF}},
		{"holding:8", "int64 DCBA", sample.IntValue(math.MinInt64), []uint16{0, 0, 0, 0x80}},
		{"holding:8", "int64", sample.IntValue(math.MaxInt64), []uint16{0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF}},
		{"holding:8", "uint64", sample.IntValue(math.MaxInt64), []uint16{0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF}},
		{"holding:8", "uint64", sample.FloatValue(1 << 63), []uint16{0x8000, 0, 0, 0}},
		{"holding:12", "float64", sample.FloatValue(-123.456), []uint16{0xC05E, 0xDD2F, 0x1A9F, 0xBE77}},
		{"coil:3", "bool", sample.BoolValue(true), nil},
		{"coil:3", "", sample.IntValue(0), nil},
	} {
		if err := w.Write(t.Context(), c.address, c.typ, c.v); err != nil {
			t.Errorf("%s %s: %v", c.address, c.typ, err)
			continue
		}
		a, err := parseAddress(c.address, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, word := range c.want {
			if got := uint16(b.registers[int(a.offset)+i].Load()); got != word {
				t.Errorf("%s %s %s: register %d holds %04X, want %04X", c.address, c.typ, c.v, i, got, word)
			}
		}
		got, err := w.Read(t.Context(), c.address, c.typ)
		n, _ := got.Number()
		m, _ := c.v.Number()
		if err != nil || n != m {
			t.Errorf("%s %s: reads back %s, %v; want %s", c.address, c.typ, got, err, c.v)
		}
	}
	if !h.IsUp() {
		t.Error("the writer is not up")
	}
}

func TestWriteRefusesBeforeTheWire(t *testing.T) {
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	w, _ := newWriter(t, testConfig(sim))
	for _, c := range []struct {
		address, typ string
		v            sample.Value
		want         string
	}{
		{"holding:1", "uint16", sample.IntValue(70000), "outside of uint16, 0 to 65535"},
		{"holding:1", "uint16", sample.IntValue(-1), "outside of uint16"},
		{"holding:1", "int16", sample.IntValue(32768), "-32768 to 32767"},
		{"holding:1", "uint32", sample.IntValue(1 << 32), "outside of uint32"},
		{"holding:1", "int32", sample.FloatValue(1 << 31), "outside of int32"},
		{"holding:1", "uint64", sample.IntValue(-1), "outside of uint64"},
		{"holding:1", "uint64", sample.FloatValue(1 << 64), "outside of uint64"},
		{"holding:1", "int64", sample.FloatValue(1 << 63), "outside of int64"},
		{"holding:1", "uint16", sample.FloatValue(1.5), "whole numbers only"},
		{"holding:1", "uint16", sample.FloatValue(math.NaN()), "whole numbers only"},
		{"holding:1", "uint16", sample.FloatValue(math.Inf(1)), "outside"},
		{"holding:1", "float32", sample.FloatValue(math.NaN()), "not a number"},
		{"holding:1", "float32", sample.FloatValue(1e39), "beyond the range"},
		{"holding:1", "float32", sample.IntValue(16777217), "exactly"},
		{"holding:1", "float64", sample.IntValue(1<<53 + 1), "exactly"},
		{"holding:1", "float64", sample.IntValue(math.MaxInt64), "exactly"},
		{"holding:1", "uint16", sample.StringValue("1"), "string cannot be written"},
		{"holding:1", "uint16", sample.BoolValue(true), "bool cannot be written"},
		{"holding:1", "uint16", sample.Value{}, "null cannot be written"},
		{"holding:1", "string", sample.StringValue("a"), "string cannot be written"},
		{"holding:1.2", "bool", sample.BoolValue(true), "write the whole register"},
		{"input:1", "uint16", sample.IntValue(1), "can only be read"},
		{"discrete:1", "bool", sample.BoolValue(true), "can only be read"},
		{"coil:1", "bool", sample.IntValue(2), "true or false"},
		{"40001", "uint16", sample.IntValue(2), "write holding:0"},
		{"holding:1", "uint15", sample.IntValue(2), "not known"},
		{"holding:1", "uint16 big big", sample.IntValue(2), "not known"},
		{"holding:65535", "float32", sample.FloatValue(1), "beyond offset 65535"},
	} {
		err := w.Write(t.Context(), c.address, c.typ, c.v)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %s: %v, want %q", c.address, c.typ, c.v, err, c.want)
		}
	}
	if n := sim.Requests(); n != 0 {
		t.Errorf("%d requests reached the device", n)
	}
}

// The device knows the functions for several values only.
func TestWriteFallsBackToTheOtherFunction(t *testing.T) {
	b := &bank{}
	var seen []byte
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write, OnReply: func(r modbussim.Reply) { seen = append(seen, r.Function) }})
	w, _ := newWriter(t, testConfig(sim))
	sim.SetFaults(modbussim.Faults{Functions: map[byte]modbussim.Exception{5: modbussim.IllegalFunction, 6: modbussim.IllegalFunction}})
	if err := w.Write(t.Context(), "holding:9", "uint16", sample.IntValue(77)); err != nil {
		t.Error(err)
	}
	if err := w.Write(t.Context(), "coil:9", "", sample.BoolValue(true)); err != nil {
		t.Error(err)
	}
	if b.registers[9].Load() != 77 || b.coils[9].Load() != 1 {
		t.Error("the values did not arrive")
	}
	sim.Stop() // the last reply is reported by then
	if string(seen) != "\x06\x10\x05\x0F" {
		t.Errorf("functions % x", seen)
	}
}

func TestWriteWithoutAnswerIsNotRepeated(t *testing.T) {
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	w, h := newWriter(t, testConfig(sim))
	if _, err := w.Read(t.Context(), "holding:1", ""); err != nil {
		t.Fatal(err)
	}
	for _, f := range []modbussim.Faults{{Drop: -1}, {Truncate: -1}} {
		sim.SetFaults(f)
		before := sim.Requests()
		err := w.Write(t.Context(), "holding:1", "uint16", sample.IntValue(5))
		if err == nil || !strings.Contains(err.Error(), "is not known; read it back") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", f, err)
		}
		if n := sim.Requests() - before; n != 1 {
			t.Errorf("%+v: the write was sent %d times", f, n)
		}
		if !h.IsDown() {
			t.Error("the writer is not down")
		}
	}
	sim.Stop()
	err := w.Write(t.Context(), "holding:1", "uint16", sample.IntValue(5))
	if err == nil || strings.Contains(err.Error(), "is not known") {
		t.Errorf("nothing was sent, and the error says %v", err)
	}
}

func TestWriteHearsItsContext(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Drop: -1})
	cfg := testConfig(sim)
	cfg.Timeout = 30 * time.Second
	w, _ := newWriter(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := w.Write(ctx, "holding:1", "uint16", sample.IntValue(5)); err == nil {
		t.Error("a write without an answer succeeded")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}
