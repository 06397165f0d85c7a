package modbus

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"testing"
	"time"

	mb "github.com/goburrow/modbus"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

func TestTargetSuite(t *testing.T) {
	protocolstest.RunTarget(t, protocolstest.TargetHarness{
		Protocol: Protocol{},
		Start:    startTargets,
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			c := Protocol{}.NewConfig().(*Config).NewTarget().(*TargetConfig)
			c.Address, c.VersionAddress, c.VersionType = "input:1", "40003", "float32"
			return c, sample.Float64, []string{"address", "version_address", "version_type"}
		},
		Limit: 200 * time.Millisecond,
	})
}

// held is what the registers of a block say.
func held(l *layout, registers func(p *point) words) func() (sample.Value, error) {
	return func() (sample.Value, error) {
		v, _ := l.decodeValue(registers(&l.points[roleValue]))
		return v, nil
	}
}

func startTargets(t *testing.T) *protocolstest.TargetDevice {
	b := &bank{}
	var writes atomic.Int32
	sim := startSim(t, modbussim.Options{Read: b.read, Write: func(slave uint8, tab modbussim.Table, address uint16, values []uint16) modbussim.Exception {
		writes.Add(1)
		return b.write(slave, tab, address, values)
	}})
	cfg := testConfig(sim)
	place := func(kind sample.Kind, set func(*TargetConfig), good, unsuited []sample.Value) protocolstest.TargetPlace {
		tc := cfg.NewTarget().(*TargetConfig)
		set(tc)
		for _, f := range tc.Validate(kind) {
			t.Fatalf("%s: %s", f.Path, f.Problem)
		}
		l, _ := tc.layout(cfg, kind, "")
		registers := func(p *point) words {
			w := room(p)
			if p.table == coil {
				w[0] = byte(b.coils[p.offset].Load())
				return w
			}
			for i := range p.size {
				binary.BigEndian.PutUint16(w[2*i:], uint16(b.registers[int(p.offset)+i].Load()))
			}
			return w
		}
		p := protocolstest.TargetPlace{Config: tc, Kind: kind, Good: good, Unsuited: unsuited, Held: held(&l, registers)}
		if l.has(roleValidity) {
			p.Valid = func() (bool, error) { return b.registers[l.points[roleValidity].offset].Load() == 1, nil }
		}
		if l.has(roleHeartbeat) {
			p.Heartbeat = func() (uint16, error) { return uint16(b.registers[l.points[roleHeartbeat].offset].Load()), nil }
		}
		return p
	}
	floats := []sample.Value{sample.FloatValue(41.5), sample.FloatValue(0.1)}
	text := sample.StringValue("1")
	return &protocolstest.TargetDevice{
		Config: cfg,
		Places: []protocolstest.TargetPlace{
			place(sample.Float64, side, floats, []sample.Value{sample.FloatValue(1e39), text, sample.BoolValue(true)}),
			place(sample.Int64, at("holding:200", "uint16"), []sample.Value{sample.IntValue(65535), sample.IntValue(0)},
				[]sample.Value{sample.IntValue(70000), sample.IntValue(-1), text}),
			place(sample.Float64, at("holding:201", "uint16"), []sample.Value{sample.FloatValue(41), sample.FloatValue(0)},
				[]sample.Value{sample.FloatValue(41.5), sample.FloatValue(70000), text}),
			place(sample.Bool, at("coil:7", ""), []sample.Value{sample.BoolValue(true), sample.BoolValue(false)},
				[]sample.Value{sample.IntValue(1), text}),
		},
		Source: &protocols.SourceConfig{Name: "plc", Device: "plc", ScanRate: 5 * time.Millisecond,
			Tags: []protocols.Tag{{Name: "plant/plc/back", Address: "holding:100", Type: "float32"}}},
		Writes: func() int { return int(writes.Load()) },
		Stop:   sim.Stop,
		Resume: func() {
			if err := sim.Resume(); err != nil {
				panic("the test's port is gone: " + err.Error())
			}
		},
		LoseAnswers: func(on bool) {
			f := modbussim.Faults{}
			if on {
				f.Truncate = -1
			}
			sim.SetFaults(f)
		},
		Reject: func(on bool) {
			f := modbussim.Faults{}
			if on {
				no := modbussim.IllegalDataValue
				f.Functions = map[byte]modbussim.Exception{5: no, 6: no, 15: no, 16: no}
			}
			sim.SetFaults(f)
		},
	}
}

func TestServerTargetSuite(t *testing.T) {
	protocolstest.RunTarget(t, protocolstest.TargetHarness{
		Protocol: ServerProtocol{},
		Start:    startServerTargets,
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			c := ServerProtocol{}.NewConfig().(*ServerConfig).NewTarget().(*ServerTargetConfig)
			c.Address, c.StatusAddress, c.HeartbeatAddress = "9/input:1", "coil:1", "40001"
			return c, sample.Float64, []string{"address", "status_address", "heartbeat_address"}
		},
	})
}

// servingConfig serves as long as its connection is open, and keeps the server
// for the test to look into.
type servingConfig struct {
	*ServerConfig
	server *server
	at     string
}

type servingConn struct {
	*server
	stop  context.CancelFunc
	ended chan error
}

func (c *servingConfig) Open(s protocols.Settings) (protocols.Connection, error) {
	conn, err := c.ServerConfig.Open(s)
	if err != nil {
		return nil, err
	}
	x := conn.(*server)
	ctx, cancel := context.WithCancel(context.Background())
	bound, ended := make(chan net.Addr, 1), make(chan error, 1)
	x.bound = func(a net.Addr) { bound <- a }
	go func() { ended <- x.Serve(ctx, &protocolstest.HealthRecorder{}) }()
	c.server, c.at = x, (<-bound).String()
	return &servingConn{server: x, stop: cancel, ended: ended}, nil
}

func (c *servingConn) Close() error {
	c.stop()
	return <-c.ended
}

func startServerTargets(t *testing.T) *protocolstest.TargetDevice {
	c := ServerProtocol{}.NewConfig().(*ServerConfig)
	c.Listen = "127.0.0.1:0"
	cfg := &servingConfig{ServerConfig: c}
	register := func(p *point) (uint16, error) {
		handler := mb.NewTCPClientHandler(cfg.at)
		handler.SlaveId = p.slave
		defer handler.Close()
		data, err := mb.NewClient(handler).ReadHoldingRegisters(p.offset, 1)
		if err != nil {
			return 0, err
		}
		return binary.BigEndian.Uint16(data), nil
	}
	place := func(kind sample.Kind, set func(*ServerTargetConfig), good, unsuited []sample.Value) protocolstest.TargetPlace {
		tc := c.NewTarget().(*ServerTargetConfig)
		set(tc)
		for _, f := range tc.Validate(kind) {
			t.Fatalf("%s: %s", f.Path, f.Problem)
		}
		l, _ := tc.layout(c.addressing(), kind, tc.StatusAddress)
		p := protocolstest.TargetPlace{Config: tc, Kind: kind, Good: good, Unsuited: unsuited, Held: held(&l, func(p *point) words {
			cfg.server.regs.mu.Lock()
			defer cfg.server.regs.mu.Unlock()
			for _, x := range cfg.server.targets {
				if x.points[roleValue].address == p.address && x.written {
					return x.value
				}
			}
			return room(p)
		})}
		if l.has(roleValidity) {
			p.Valid = func() (bool, error) {
				n, err := register(&l.points[roleValidity])
				return n == 1, err
			}
			p.Heartbeat = func() (uint16, error) { return register(&l.points[roleHeartbeat]) }
		}
		return p
	}
	text := sample.StringValue("1")
	return &protocolstest.TargetDevice{
		Config: cfg,
		Places: []protocolstest.TargetPlace{
			place(sample.Float64, block, []sample.Value{sample.FloatValue(41.5), sample.FloatValue(0.1)},
				[]sample.Value{sample.FloatValue(1e39), text, sample.BoolValue(true)}),
			place(sample.Int64, func(c *ServerTargetConfig) { c.Address = "input:200" }, []sample.Value{sample.IntValue(65535), sample.IntValue(0)},
				[]sample.Value{sample.IntValue(70000), sample.IntValue(-1), text}),
			place(sample.Bool, func(c *ServerTargetConfig) { c.Address = "discrete:7" }, []sample.Value{sample.BoolValue(true), sample.BoolValue(false)},
				[]sample.Value{sample.IntValue(1), text}),
		},
		// A command that was taken has its version in the server.
		Writes: func() int {
			cfg.server.regs.mu.Lock()
			defer cfg.server.regs.mu.Unlock()
			n := 0
			for _, x := range cfg.server.targets {
				n += int(x.last.Version)
			}
			return n
		},
	}
}
