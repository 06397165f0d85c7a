package modbus

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// startSim starts a device and stops it with the test.
func startSim(t testing.TB, opts modbussim.Options) *modbussim.Server {
	t.Helper()
	sim, err := modbussim.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

// testConfig returns a configuration for sim with short times.
func testConfig(sim *modbussim.Server) *Config {
	c := Protocol{}.NewConfig().(*Config)
	c.URL = sim.URL()
	c.Timeout = 500 * time.Millisecond
	return c
}

// bank is a device whose registers are set by the test. Coils and discrete
// inputs are true at odd addresses.
type bank struct {
	registers [65536]atomic.Uint32
	coils     [65536]atomic.Uint32
}

func (b *bank) read(_ uint8, t modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	for i := range values {
		at := address + uint16(i)
		switch t {
		case modbussim.Discrete:
			values[i] = at & 1
		case modbussim.Coil:
			values[i] = uint16(b.coils[at].Load())
		default:
			values[i] = uint16(b.registers[at].Load())
		}
	}
	return 0
}

func (b *bank) write(_ uint8, t modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	for i, v := range values {
		if t == modbussim.Coil {
			b.coils[address+uint16(i)].Store(uint32(v))
		} else {
			b.registers[address+uint16(i)].Store(uint32(v))
		}
	}
	return 0
}

// set puts registers at address.
func (b *bank) set(address int, registers ...uint16) {
	for i, r := range registers {
		b.registers[address+i].Store(uint32(r))
	}
}

func (b *bank) setFloat32(address int, f float32) {
	n := math.Float32bits(f)
	b.set(address, uint16(n>>16), uint16(n))
}

func TestSuite(t *testing.T) {
	protocolstest.Run(t, protocolstest.Harness{
		Protocol: Protocol{},
		Mode:     protocolstest.Polled,
		Start:    startSuiteDevice,
		Faulty: func() (protocols.Config, *protocols.SourceConfig, []string) {
			c := Protocol{}.NewConfig().(*Config)
			c.URL = "serial:/dev/ttyS0"
			c.MaxRegisters = 200
			return c, &protocols.SourceConfig{ScanRate: time.Second, Tags: []protocols.Tag{
				{Name: "plant/a/b", Address: "40001", Type: "float"},
			}}, []string{"connection.url", "connection.max_registers", "tags[0].address", "tags[0].type"}
		},
	})
}

func startSuiteDevice(t *testing.T) *protocolstest.Device {
	b := &bank{}
	b.setFloat32(0, 0.1)
	b.set(2, 0xFFFE)
	b.set(3, 0x0001, 0x86A0)
	b.set(7, 0x0008)
	b.set(20, 'O'<<8|'K', 0)
	b.set(100, 1000)
	b.coils[4].Store(1)
	sim := startSim(t, modbussim.Options{Read: b.read})
	tags := []protocols.Tag{
		{Name: "plant/pump/pressure", Address: "holding:0", Type: "float32"},
		{Name: "plant/pump/trim", Address: "input:2", Type: "int16"},
		{Name: "plant/pump/total", Address: "holding:3", Type: "uint32"},
		{Name: "plant/pump/alarm", Address: "holding:7.3"},
		{Name: "plant/pump/model", Address: "holding:20", Type: "string", Length: 4},
		{Name: "plant/pump/run", Address: "coil:4"},
		{Name: "plant/pump/door", Address: "2/discrete:0x11", Type: "bool"},
		{Name: "plant/pump/count", Address: "holding:100", ScanRate: 15 * time.Millisecond},
	}
	return &protocolstest.Device{
		Config: testConfig(sim),
		Source: &protocols.SourceConfig{Name: "pump", Device: "pump", ScanRate: 20 * time.Millisecond, Tags: tags},
		Want: map[string]sample.Value{
			"plant/pump/pressure": sample.FloatValue(0.1),
			"plant/pump/trim":     sample.IntValue(-2),
			"plant/pump/total":    sample.IntValue(100000),
			"plant/pump/alarm":    sample.BoolValue(true),
			"plant/pump/model":    sample.StringValue("OK"),
			"plant/pump/run":      sample.BoolValue(true),
			"plant/pump/door":     sample.BoolValue(true),
			"plant/pump/count":    sample.IntValue(1000),
		},
		Counter: "plant/pump/count",
		Send: func(_ context.Context, n int64) error {
			b.set(100, uint16(n))
			return nil
		},
		Stop: sim.Stop,
		Resume: func() {
			if err := sim.Resume(); err != nil {
				panic(fmt.Sprintf("the test's port is gone: %v", err))
			}
		},
	}
}
