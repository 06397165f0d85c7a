package modbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// openTarget opens a target to the device of cfg. Set changes its settings.
func openTarget(t testing.TB, cfg *Config, kind sample.Kind, set func(*TargetConfig)) (protocols.Target, *protocolstest.HealthRecorder) {
	t.Helper()
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return openTargetOn(t, conn, cfg, kind, set)
}

func openTargetOn(t testing.TB, conn protocols.Connection, cfg *Config, kind sample.Kind, set func(*TargetConfig)) (protocols.Target, *protocolstest.HealthRecorder) {
	t.Helper()
	tc := cfg.NewTarget().(*TargetConfig)
	set(tc)
	for _, f := range tc.Validate(kind) {
		t.Fatalf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	h := &protocolstest.HealthRecorder{}
	target, err := conn.(protocols.TargetOpener).OpenTarget(tc, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target, h
}

// opened is the target behind the interface.
func opened(t protocols.Target) *target { return t.(*target) }

// at is a target with a value only.
func at(address, typ string) func(*TargetConfig) {
	return func(c *TargetConfig) {
		c.Address = address
		c.Type, c.Order, _ = strings.Cut(typ, " ")
	}
}

func command(v sample.Value, version uint64) protocols.Command {
	now := time.Now()
	return protocols.Command{Value: v, Time: now, Version: version, ValidUntil: now.Add(time.Hour)}
}

func TestTargetWritesAndReadsBack(t *testing.T) {
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	cfg := testConfig(sim)
	for _, c := range []struct {
		address, typ string
		v            sample.Value
		want         []uint16     // from the address on
		reads        sample.Value // v where null
	}{
		{"holding:1", "uint16", sample.IntValue(65535), []uint16{0xFFFF}, sample.Value{}},
		{"holding:1", "uint16", sample.FloatValue(41), []uint16{41}, sample.Value{}},
		{"holding:1", "int16", sample.FloatValue(-2), []uint16{0xFFFE}, sample.Value{}},
		{"holding:2", "float32", sample.FloatValue(123.45), []uint16{0x42F6, 0xE666}, sample.Value{}},
		{"holding:2", "float32", sample.FloatValue(math.Pi), []uint16{0x4049, 0x0FDB}, sample.FloatValue(3.1415927)},
		{"holding:2", "float32 CDAB", sample.FloatValue(123.45), []uint16{0xE666, 0x42F6}, sample.Value{}},
		{"holding:4", "float32", sample.IntValue(3), []uint16{0x4040, 0}, sample.Value{}},
		{"holding:6", "uint32", sample.IntValue(math.MaxUint32), []uint16{0xFFFF, 0xFFFF}, sample.Value{}},
		{"holding:8", "int64 DCBA", sample.IntValue(math.MinInt64), []uint16{0, 0, 0, 0x80}, sample.Value{}},
		{"holding:8", "int64", sample.IntValue(math.MaxInt64), []uint16{0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF}, sample.Value{}},
		{"holding:8", "uint64", sample.IntValue(math.MaxInt64), []uint16{0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF}, sample.Value{}},
		{"holding:8", "uint64", sample.FloatValue(1 << 63), []uint16{0x8000, 0, 0, 0}, sample.Value{}},
		{"holding:12", "float64", sample.FloatValue(-123.456), []uint16{0xC05E, 0xDD2F, 0x1A9F, 0xBE77}, sample.Value{}},
		{"7/holding:16", "uint16", sample.IntValue(7), []uint16{7}, sample.Value{}},
		{"coil:3", "bool", sample.BoolValue(true), nil, sample.Value{}},
		{"coil:3", "", sample.BoolValue(false), nil, sample.Value{}},
	} {
		target, h := openTarget(t, cfg, c.v.Kind(), at(c.address, c.typ))
		name := fmt.Sprintf("%s %s %s", c.address, c.typ, c.v)
		want := c.reads
		if want.Kind() == sample.Null {
			want = c.v
		}
		if held, err := target.Prepare(t.Context(), c.v); err != nil || held != want {
			t.Errorf("%s: prepared as %s, %v; want %s", name, held, err, want)
		}
		if err := target.Write(t.Context(), command(c.v, 1)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, err := parseAddress(c.address, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, word := range c.want {
			if got := uint16(b.registers[int(a.offset)+i].Load()); got != word {
				t.Errorf("%s: register %d holds %04X, want %04X", name, i, got, word)
			}
		}
		if a.table == coil && b.coils[3].Load() != uint32(c.v.Bits()) {
			t.Errorf("%s: the coil is %d", name, b.coils[3].Load())
		}
		if got, err := target.Read(t.Context()); err != nil || got.Value != want || !got.Quality.IsGood() || got.Time.IsZero() {
			t.Errorf("%s: reads back %+v, %v; want %s", name, got, err, want)
		}
		if !h.IsUp() {
			t.Errorf("%s: the target is not up", name)
		}
	}
}

func TestTargetRefusesBeforeTheWire(t *testing.T) {
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	cfg := testConfig(sim)
	for _, c := range []struct {
		address, typ string
		kind         sample.Kind
		v            sample.Value
		want         string
	}{
		{"holding:1", "uint16", sample.Int64, sample.IntValue(70000), "outside of uint16, 0 to 65535"},
		{"holding:1", "uint16", sample.Int64, sample.IntValue(-1), "outside of uint16"},
		{"holding:1", "int16", sample.Int64, sample.IntValue(32768), "-32768 to 32767"},
		{"holding:1", "uint32", sample.Int64, sample.IntValue(1 << 32), "outside of uint32"},
		{"holding:1", "int32", sample.Float64, sample.FloatValue(1 << 31), "outside of int32"},
		{"holding:1", "uint64", sample.Int64, sample.IntValue(-1), "outside of uint64"},
		{"holding:1", "uint64", sample.Float64, sample.FloatValue(1 << 64), "outside of uint64"},
		{"holding:1", "int64", sample.Float64, sample.FloatValue(1 << 63), "outside of int64"},
		{"holding:1", "uint16", sample.Float64, sample.FloatValue(41.5), "whole numbers only"},
		{"holding:1", "uint16", sample.Float64, sample.FloatValue(math.NaN()), "whole numbers only"},
		{"holding:1", "uint16", sample.Float64, sample.FloatValue(math.Inf(1)), "outside"},
		{"holding:1", "float32", sample.Float64, sample.FloatValue(math.NaN()), "not a number"},
		{"holding:1", "float32", sample.Float64, sample.FloatValue(1e39), "beyond the range"},
		{"holding:1", "float32", sample.Int64, sample.IntValue(16777217), "exactly"},
		{"holding:1", "float64", sample.Int64, sample.IntValue(1<<53 + 1), "exactly"},
		{"holding:1", "float64", sample.Int64, sample.IntValue(math.MaxInt64), "exactly"},
		{"holding:1", "uint16", sample.Int64, sample.StringValue("1"), "it is string"},
		{"holding:1", "uint16", sample.Int64, sample.BoolValue(true), "it is bool"},
		{"holding:1", "uint16", sample.Int64, sample.Value{}, "it is null"},
		{"coil:1", "bool", sample.Bool, sample.IntValue(1), "it is int64"},
	} {
		target, _ := openTarget(t, cfg, c.kind, at(c.address, c.typ))
		name := fmt.Sprintf("%s %s %s", c.address, c.typ, c.v)
		err := target.Write(t.Context(), command(c.v, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) || protocols.OutcomeOf(err) != protocols.Unsuited {
			t.Errorf("write %s: %v, want %q", name, err, c.want)
		}
		if _, err := target.Prepare(t.Context(), c.v); err == nil || protocols.OutcomeOf(err) != protocols.Unsuited {
			t.Errorf("prepare %s: %v, want it unsuited", name, err)
		}
	}
	target, _ := openTarget(t, cfg, sample.Float64, side)
	if err := target.Write(t.Context(), command(sample.FloatValue(1), 1<<32)); protocols.OutcomeOf(err) != protocols.Unsuited || !strings.Contains(err.Error(), "version_type: uint64") {
		t.Errorf("a version beyond uint32: %v", err)
	}
	if n := sim.Requests(); n != 0 {
		t.Errorf("%d requests reached the device", n)
	}
}

func TestTargetFaults(t *testing.T) {
	cfg := Protocol{}.NewConfig().(*Config)
	cfg.URL = "tcp://192.0.2.1"
	for _, c := range []struct {
		name string
		kind sample.Kind
		set  func(*TargetConfig)
		path string
		want string
	}{
		{"nothing", sample.Float64, func(*TargetConfig) {}, "address", "missing"},
		{"input", sample.Int64, at("input:1", ""), "address", "only be read"},
		{"discrete", sample.Bool, at("discrete:1", ""), "address", "only be read"},
		{"bit", sample.Bool, at("holding:1.2", ""), "address", "single bit"},
		{"string type", sample.Int64, at("holding:1", "string"), "type", "string cannot be written"},
		{"string", sample.String, at("holding:1", ""), "address", "string cannot be written"},
		{"bool register", sample.Bool, at("holding:1", ""), "address", "is a register"},
		{"number into a coil", sample.Float64, at("coil:1", ""), "address", "is one bit"},
		{"classic", sample.Int64, at("40001", ""), "address", "reference number"},
		{"type", sample.Int64, at("holding:1", "uint15"), "type", "not known"},
		{"order", sample.Int64, at("holding:1", "uint16 up"), "order", "not known"},
		{"end", sample.Float64, at("holding:65535", "float32"), "address", "beyond offset 65535"},
		{"version type", sample.Float64, func(c *TargetConfig) { side(c); c.VersionType = "int32" }, "version_type", "not uint32 or uint64"},
		{"overlap", sample.Float64, func(c *TargetConfig) { side(c); c.ValidityAddress = "holding:103" }, "validity_address", "lies on"},
		{"slave", sample.Float64, func(c *TargetConfig) { side(c); c.HeartbeatAddress = "2/holding:9" }, "heartbeat_address", "another slave"},
		{"bit beside", sample.Float64, func(c *TargetConfig) { side(c); c.HeartbeatAddress = "holding:9.1" }, "heartbeat_address", ""},
		{"coil beside", sample.Float64, func(c *TargetConfig) { side(c); c.ValidityAddress = "coil:9" }, "validity_address", ""},
		{"input beside", sample.Float64, func(c *TargetConfig) { side(c); c.VersionAddress = "input:9" }, "version_address", "only be read"},
	} {
		tc := cfg.NewTarget().(*TargetConfig)
		c.set(tc)
		faults := tc.Validate(c.kind)
		if !slices.ContainsFunc(faults, func(f protocols.Fault) bool {
			return f.Path == c.path && strings.Contains(f.Problem, c.want) && f.Hint != ""
		}) {
			t.Errorf("%s: %+v, want %s: %s", c.name, faults, c.path, c.want)
		}
	}
	tc := cfg.NewTarget().(*TargetConfig)
	side(tc)
	if got := strings.Join(tc.Places(), " "); got != "1/holding:100 1/holding:101 1/holding:102 1/holding:103 1/holding:104 1/holding:105" {
		t.Errorf("places %s", got)
	}
}

// side is a block whose places stand side by side.
func side(c *TargetConfig) {
	c.Address, c.Type = "holding:100", "float32"
	c.VersionAddress, c.ValidityAddress, c.HeartbeatAddress = "holding:102", "holding:104", "holding:105"
}

// apart is a block whose places do not.
func apart(c *TargetConfig) {
	c.Address, c.Type = "holding:100", "float32"
	c.VersionAddress, c.ValidityAddress, c.HeartbeatAddress = "holding:110", "holding:120", "holding:130"
}

func wide(c *TargetConfig) { apart(c); c.VersionType = "uint64" }

// plc is a device with blocks of the layouts side and apart. It notes each
// write, and every state in which it would use a value.
type plc struct {
	bank
	mu     sync.Mutex
	writes []string
	used   []string
	// before is called before each write, with its number, and may refuse it.
	before func(n int) modbussim.Exception
}

func (p *plc) write(slave uint8, t modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		if e := p.before(len(p.writes)); e != 0 {
			p.writes = append(p.writes, "refused")
			return e
		}
	}
	p.bank.write(slave, t, address, values)
	p.writes = append(p.writes, fmt.Sprintf("%s %d %X", t, address, values))
	p.look(100, 102, 104)
	p.look(100, 110, 120)
	return 0
}

// look notes what the block says where it is marked as valid.
func (p *plc) look(value, version, validity int) {
	if p.registers[validity].Load() == 1 {
		state := fmt.Sprintf("%04X%04X version %d", p.registers[value].Load(), p.registers[value+1].Load(), p.registers[version].Load()<<16|p.registers[version+1].Load())
		if n := len(p.used); n == 0 || p.used[n-1] != state {
			p.used = append(p.used, state)
		}
	}
}

func (p *plc) report() (writes, used string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.writes, ", "), strings.Join(p.used, ", ")
}

func TestTargetBlock(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*TargetConfig)
		want string
	}{
		{"side by side, four registers at most", func(c *TargetConfig) { side(c); c.conn.MaxRegisters = 4 },
			"holding 104 [0], holding 100 [3F80 0 0 7], holding 104 [1], holding 104 [0], holding 100 [4000 0 0 8], holding 104 [1]"},
		{"side by side", side, "holding 100 [3F80 0 0 7 1], holding 100 [4000 0 0 8 1]"},
		{"apart", apart, "holding 120 [0], holding 100 [3F80 0], holding 110 [0 7], holding 120 [1], " +
			"holding 120 [0], holding 100 [4000 0], holding 110 [0 8], holding 120 [1]"},
		{"validity apart", func(c *TargetConfig) { side(c); c.ValidityAddress = "holding:120" },
			"holding 120 [0], holding 100 [3F80 0 0 7], holding 120 [1], holding 120 [0], holding 100 [4000 0 0 8], holding 120 [1]"},
		{"no validity", func(c *TargetConfig) { apart(c); c.ValidityAddress = "" },
			"holding 100 [3F80 0], holding 110 [0 7], holding 100 [4000 0], holding 110 [0 8]"},
		{"no version", func(c *TargetConfig) { side(c); c.VersionAddress = ""; c.ValidityAddress = "holding:102" },
			"holding 100 [3F80 0 1], holding 100 [4000 0 1]"},
		{"wide version before the value, swapped", func(c *TargetConfig) {
			wide(c)
			c.VersionAddress, c.ValidityAddress, c.Order = "holding:96", "holding:102", "CDAB"
		}, "holding 96 [7 0 0 0 0 3F80 1], holding 96 [8 0 0 0 0 4000 1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &plc{}
			sim := startSim(t, modbussim.Options{Read: p.read, Write: p.write})
			target, _ := openTarget(t, testConfig(sim), sample.Float64, c.set)
			for version := range uint64(2) {
				if err := target.Write(t.Context(), command(sample.FloatValue(float64(version+1)), version+7)); err != nil {
					t.Fatal(err)
				}
			}
			if writes, _ := p.report(); writes != c.want {
				t.Errorf("wrote\n%s, want\n%s", writes, c.want)
			}
			r, err := target.Read(t.Context())
			if want := uint64(8); c.name != "no version" && r.Version != want || r.Value != sample.FloatValue(2) || !r.Quality.IsGood() || err != nil {
				t.Errorf("reads %+v, %v", r, err)
			}
		})
	}
}

// Whatever fails at whatever step of a write, the PLC never finds a mix that
// is marked as valid; nor after the target has told it that the value is valid.
func TestTargetNeverShowsAMix(t *testing.T) {
	t.Parallel()
	const old, fresh = "3F800000 version 7", "40000000 version 8"
	faults := []struct {
		name string
		code modbussim.Exception
		set  modbussim.Faults
	}{
		{"exception 2", modbussim.IllegalDataAddress, modbussim.Faults{}},
		{"exception 4", modbussim.DeviceFailure, modbussim.Faults{}},
		{"exception 11", modbussim.TargetNoResponse, modbussim.Faults{}},
		{"answer lost", 0, modbussim.Faults{Truncate: 1}},
		{"request lost", 0, modbussim.Faults{Drop: 1}},
	}
	for _, shape := range []struct {
		name  string
		set   func(*TargetConfig)
		steps int
	}{{"side by side", side, 1}, {"apart", apart, 4}} {
		for _, f := range faults {
			for step := range shape.steps {
				name := fmt.Sprintf("%s, %s at step %d", shape.name, f.name, step)
				p := &plc{}
				sim := startSim(t, modbussim.Options{Read: p.read, Write: p.write})
				cfg := testConfig(sim)
				cfg.Timeout = 30 * time.Millisecond
				target, _ := openTarget(t, cfg, sample.Float64, shape.set)
				l := opened(target).conn.link
				l.retry.Base, l.retry.Max = time.Microsecond, time.Microsecond
				if err := target.Write(t.Context(), command(sample.FloatValue(1), 7)); err != nil {
					t.Fatal(err)
				}
				p.mu.Lock()
				first := len(p.writes)
				p.before = func(n int) modbussim.Exception {
					if f.code == 0 && n == first+step-1 {
						sim.SetFaults(f.set) // of the next request
					}
					if f.code != 0 && n == first+step {
						return f.code
					}
					return 0
				}
				p.mu.Unlock()
				if f.code == 0 && step == 0 {
					sim.SetFaults(f.set)
				}
				err := target.Write(t.Context(), command(sample.FloatValue(2), 8))
				want := protocols.Unknown
				switch {
				case shape.steps == 4 && step == 0 && f.code != modbussim.IllegalDataAddress:
					want = protocols.Unsent // validity alone was written, if anything
				case f.code == modbussim.IllegalDataAddress && (shape.steps == 1 || step < 2):
					want = protocols.Rejected
				}
				if err == nil || protocols.OutcomeOf(err) != want || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %v (%s), want %s", name, err, protocols.OutcomeOf(err), want)
				}
				var we *protocols.WriteError
				if !errors.As(err, &we) {
					t.Errorf("%s: the error is a %T", name, err)
				}
				p.mu.Lock()
				p.before = nil
				p.mu.Unlock()
				sim.SetFaults(modbussim.Faults{})
				if err = target.Tell(t.Context(), protocols.State{Valid: true, Heartbeat: 1}); err != nil {
					t.Errorf("%s: tell: %v", name, err)
				}
				if _, used := p.report(); used != old && used != old+", "+fresh {
					t.Errorf("%s: the PLC used %s", name, used)
				}
				sim.Stop()
			}
		}
	}
}

func TestTargetTells(t *testing.T) {
	p := &plc{}
	sim := startSim(t, modbussim.Options{Read: p.read, Write: p.write})
	target, _ := openTarget(t, testConfig(sim), sample.Float64, side)
	tell := func(valid bool, beat uint16) {
		t.Helper()
		if err := target.Tell(t.Context(), protocols.State{Valid: valid, Heartbeat: beat}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, validity, beat uint32) {
		t.Helper()
		if v, b := p.registers[104].Load(), p.registers[105].Load(); v != validity || b != beat {
			t.Errorf("%s: validity %d, heartbeat %d; want %d, %d", what, v, b, validity, beat)
		}
	}
	tell(true, 1)
	expect("nothing was written yet", 0, 1)
	if err := target.Write(t.Context(), command(sample.FloatValue(1), 7)); err != nil {
		t.Fatal(err)
	}
	expect("after the write", 1, 1)
	tell(false, 2)
	expect("not valid any more", 0, 2)
	if r, err := target.Read(t.Context()); err != nil || !r.Quality.IsBad() || r.Value != sample.FloatValue(1) || r.Version != 7 {
		t.Errorf("reads %+v, %v; want it Bad", r, err)
	}
	tell(true, 65535)
	expect("valid again", 1, 65535)
	for i := range uint16(6) {
		p.registers[100+i].Store(0)
	}
	tell(true, 0)
	expect("the PLC has lost its memory", 0, 0)
	tell(false, 1)
	tell(true, 2)
	expect("the PLC has lost its memory, and validity was taken away", 0, 2)
	if writes, _ := p.report(); !strings.Contains(writes, "holding 104 [0 2]") {
		t.Errorf("validity and heartbeat side by side are not written together: %s", writes)
	}
}

// The device knows one function of each pair only.
func TestTargetFallsBackToTheOtherFunction(t *testing.T) {
	b := &bank{}
	var seen []byte
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write, OnReply: func(r modbussim.Reply) { seen = append(seen, r.Function) }})
	cfg := testConfig(sim)
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	register, _ := openTargetOn(t, conn, cfg, sample.Int64, at("holding:9", "uint16"))
	bit, _ := openTargetOn(t, conn, cfg, sample.Bool, at("coil:9", ""))
	block, _ := openTargetOn(t, conn, cfg, sample.Float64, side)
	sim.SetFaults(modbussim.Faults{Functions: map[byte]modbussim.Exception{5: modbussim.IllegalFunction, 6: modbussim.IllegalFunction}})
	for n := range int64(2) { // the second write knows
		if err := register.Write(t.Context(), command(sample.IntValue(76+n), 1)); err != nil {
			t.Error(err)
		}
		if err := bit.Write(t.Context(), command(sample.BoolValue(n == 1), 1)); err != nil {
			t.Error(err)
		}
	}
	sim.SetFaults(modbussim.Faults{Functions: map[byte]modbussim.Exception{15: modbussim.IllegalFunction, 16: modbussim.IllegalFunction}})
	if err := block.Tell(t.Context(), protocols.State{Heartbeat: 3}); err != nil {
		t.Error(err)
	}
	if err := block.Write(t.Context(), command(sample.FloatValue(1), 1)); protocols.OutcomeOf(err) != protocols.Rejected {
		t.Errorf("a block without function 16: %v", err)
	}
	if b.registers[9].Load() != 77 || b.coils[9].Load() != 1 || b.registers[105].Load() != 3 {
		t.Error("the values did not arrive")
	}
	sim.Stop() // the last reply is reported by then
	if string(seen) != "\x06\x10\x05\x0F\x10\x0F\x10\x06\x06\x10" {
		t.Errorf("functions % x", seen)
	}
}

func TestTargetDoesNotRepeatAWrite(t *testing.T) {
	t.Parallel()
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	cfg := testConfig(sim)
	cfg.Timeout = 100 * time.Millisecond
	target, h := openTarget(t, cfg, sample.Int64, at("holding:1", "uint16"))
	if _, err := target.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range []modbussim.Faults{{Drop: -1}, {Truncate: -1}} {
		sim.SetFaults(f)
		before := sim.Requests()
		err := target.Write(t.Context(), command(sample.IntValue(5), 1))
		if protocols.OutcomeOf(err) != protocols.Unknown || err == nil || !strings.Contains(err.Error(), "is not known; read it back") {
			t.Errorf("%+v: %v", f, err)
		}
		if n := sim.Requests() - before; n != 1 {
			t.Errorf("%+v: the write was sent %d times", f, n)
		}
		if !h.IsDown() {
			t.Error("the target is not down")
		}
	}
	sim.Stop()
	err := target.Write(t.Context(), command(sample.IntValue(5), 1))
	if protocols.OutcomeOf(err) != protocols.Unsent || err == nil || strings.Contains(err.Error(), "is not known") {
		t.Errorf("nothing was sent, and the error says %v", err)
	}
}

// A device that closes idle connections loses no write.
func TestTargetWritesAfterTheDeviceHungUp(t *testing.T) {
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	target, _ := openTarget(t, testConfig(sim), sample.Int64, at("holding:1", "uint16"))
	for n := range int64(5) {
		if err := target.Write(t.Context(), command(sample.IntValue(n), uint64(n))); err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		sim.Disconnect()
	}
	if n := sim.Requests(); n != 5 || b.registers[1].Load() != 4 {
		t.Errorf("%d requests, register %d", n, b.registers[1].Load())
	}
}

// A slave that is silent is not waited for again and again: its heartbeats
// would take the time of the others on the line.
func TestTargetLeavesASilentUnitAlone(t *testing.T) {
	t.Parallel()
	b := &bank{}
	sim := startSim(t, modbussim.Options{Read: b.read, Write: b.write})
	sim.SetFaults(modbussim.Faults{Silent: map[uint8]bool{9: true}})
	cfg := testConfig(sim)
	cfg.Timeout = 50 * time.Millisecond
	silent, _ := openTarget(t, cfg, sample.Int64, at("9/holding:1", "uint16"))
	l := opened(silent).conn.link
	l.retry.Base, l.retry.Max = time.Hour, 2*time.Hour
	for n, want := range []protocols.WriteOutcome{protocols.Unknown, protocols.Unknown, protocols.Unsent, protocols.Unsent} {
		if err := silent.Write(t.Context(), command(sample.IntValue(1), 1)); protocols.OutcomeOf(err) != want {
			t.Errorf("write %d: %v", n, err)
		}
	}
	if n := sim.Requests(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestTargetHearsItsContext(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Drop: -1})
	cfg := testConfig(sim)
	cfg.Timeout = 30 * time.Second
	target, _ := openTarget(t, cfg, sample.Int64, at("holding:1", "uint16"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := target.Write(ctx, command(sample.IntValue(5), 1)); protocols.OutcomeOf(err) != protocols.Unknown || err == nil {
		t.Errorf("a write without an answer: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	if err := target.Write(ctx, command(sample.IntValue(5), 1)); protocols.OutcomeOf(err) != protocols.Unsent || err == nil {
		t.Errorf("a write after its time: %v", err)
	}
}
