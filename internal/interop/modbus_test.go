//go:build interop

package interop

import (
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus"
	"millrace/sample"
)

// point is one value of the pymodbus device; see servers/modbus_device.py.
type point struct {
	Slave   int    `json:"slave"`
	Table   string `json:"table"`
	Address int    `json:"address"`
	Type    string `json:"type"`
	Order   string `json:"order,omitempty"`
	Value   any    `json:"value"` // numbers as text, so that JSON does not round them
}

// plan lays every type in every order into holding and input registers of two
// slaves, and bits into coils and discrete inputs.
func plan() (points []point, want []sample.Value) {
	add := func(p point, v sample.Value) {
		points, want = append(points, p), append(want, v)
	}
	numbers := []struct {
		typ    string
		size   int
		values []any
	}{
		{"int16", 1, []any{int64(math.MinInt16), int64(0x0102)}},
		{"uint16", 1, []any{int64(math.MaxUint16), int64(0x0102)}},
		{"int32", 2, []any{int64(math.MinInt32), int64(0x01020304), int64(-2)}},
		{"uint32", 2, []any{int64(math.MaxUint32), int64(0x01020304)}},
		{"int64", 4, []any{int64(math.MinInt64), int64(math.MaxInt64), int64(0x0102030405060708)}},
		{"uint64", 4, []any{int64(math.MaxInt64), int64(0x0102030405060708)}},
		{"float32", 2, []any{float64(float32(230.1)), -1.5, math.MaxFloat32, math.SmallestNonzeroFloat32}},
		{"float64", 4, []any{230.1, -math.Pi, math.MaxFloat64, math.SmallestNonzeroFloat64}},
	}
	for i, table := range []string{"holding", "input"} {
		slave, at := 1+i*16, 3
		for _, n := range numbers {
			for _, order := range []string{"", "ABCD", "CDAB", "BADC", "DCBA"} {
				for _, v := range n.values {
					p := point{Slave: slave, Table: table, Address: at, Type: n.typ, Order: order}
					switch x := v.(type) {
					case int64:
						p.Value = strconv.FormatInt(x, 10)
						add(p, sample.IntValue(x))
					case float64:
						p.Value = strconv.FormatFloat(x, 'g', -1, 64)
						if n.typ == "float32" {
							x = shortest(float32(x))
						}
						add(p, sample.FloatValue(x))
					}
					at += n.size
				}
			}
		}
	}
	add(point{Slave: 1, Table: "holding", Address: 480, Type: "string", Value: "Pumpe Süd"}, sample.StringValue("Pumpe Süd"))
	for i := range 20 {
		on := i%3 == 0
		add(point{Slave: 1, Table: "coil", Address: 7 + i, Type: "bool", Value: on}, sample.BoolValue(on))
		add(point{Slave: 1, Table: "discrete", Address: 30 + i, Type: "bool", Value: !on}, sample.BoolValue(!on))
	}
	return points, want
}

// shortest is the float64 with the fewest decimal digits that tell f from its
// neighbours: what a float32 register is read as (230.1, not 230.10000610351562).
func shortest(f float32) float64 {
	x, err := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
	if err != nil {
		panic("BUG: a number does not read back: " + err.Error())
	}
	return x
}

func modbusSource(t *testing.T, port int, points []point) (*modbus.Config, *protocols.SourceConfig) {
	t.Helper()
	cfg := modbus.Protocol{}.NewConfig().(*modbus.Config)
	cfg.URL = "tcp://" + address(port)
	cfg.Timeout = 5 * time.Second
	src := &protocols.SourceConfig{Name: "pymodbus", Device: "device", ScanRate: 200 * time.Millisecond}
	for i, p := range points {
		tag := protocols.Tag{
			Name:    modbusTag(i),
			Address: fmt.Sprintf("%d/%s:%d", p.Slave, p.Table, p.Address),
			Type:    p.Type, Order: p.Order,
		}
		if p.Type == "string" {
			tag.Length = 10 // bytes
		}
		src.Tags = append(src.Tags, tag)
	}
	return cfg, src
}

func modbusTag(i int) string { return fmt.Sprintf("plant/device/p%03d", i) }

func TestModbusReadsEveryTypeAndOrderFromPymodbus(t *testing.T) {
	points, values := plan()
	_, port := python(t, "modbus_device.py", points)
	cfg, src := modbusSource(t, port, points)
	r := run(t, cfg, src)
	want := map[string]sample.Value{}
	for i, v := range values {
		want[modbusTag(i)] = v
	}
	r.expect(t, want)
}

// A device that is killed gives Bad samples, and good ones once it is back.
func TestModbusSurvivesARestartOfPymodbus(t *testing.T) {
	points, values := plan()
	points, values = points[:10], values[:10]
	device, port := python(t, "modbus_device.py", points)
	cfg, src := modbusSource(t, port, points)
	r := run(t, cfg, src)
	want := map[string]sample.Value{}
	for i, v := range values {
		want[modbusTag(i)] = v
	}
	r.expect(t, want)
	device.kill()
	r.Reset()
	ready(t, "the device is reported down", r.Health.IsDown)
	if !r.Wait(patience, func(list []sample.Sample) bool { return len(list) > 0 && list[len(list)-1].Quality.IsBad() }) {
		t.Error("no Bad sample while the device is away")
	}
	again := pythonAt(t, "modbus_device.py", points, port)
	defer again.stop()
	r.Reset()
	r.expect(t, want)
	if !r.Health.IsUp() {
		t.Error("the device is not reported up again")
	}
}

// A register that the device does not have is Bad; its neighbours are not.
func TestModbusAddressThatPymodbusDoesNotHave(t *testing.T) {
	points, values := plan()
	points, values = points[:10], values[:10]
	_, port := python(t, "modbus_device.py", points)
	cfg, src := modbusSource(t, port, points)
	src.Tags = append(src.Tags, protocols.Tag{Name: "plant/device/missing", Address: "holding:600", Type: "int16"})
	r := run(t, cfg, src)
	want := map[string]sample.Value{}
	for i, v := range values {
		want[modbusTag(i)] = v
	}
	r.expect(t, want)
	if !r.Wait(patience, func(list []sample.Sample) bool {
		for i := range list {
			if list[i].Tag == "plant/device/missing" {
				return list[i].Quality.IsBad()
			}
		}
		return false
	}) {
		t.Error("the missing register is not Bad")
	}
}

// What a target writes, pymodbus gives back in a read of its own.
func TestModbusTargetWritesToPymodbus(t *testing.T) {
	points, _ := plan()
	_, port := python(t, "modbus_device.py", points)
	cfg, src := modbusSource(t, port, points)
	r := run(t, cfg, src)
	for _, tt := range []struct {
		address, typ, order string
		value               sample.Value
	}{
		{"holding:500", "uint16", "", sample.IntValue(0xBEEF)},
		{"holding:502", "float32", "CDAB", sample.FloatValue(-12.25)},
		{"holding:504", "int64", "", sample.IntValue(math.MinInt64)},
		{"17/holding:508", "float64", "DCBA", sample.FloatValue(math.Pi)},
		{"coil:100", "bool", "", sample.BoolValue(true)},
	} {
		tc := cfg.NewTarget().(*modbus.TargetConfig)
		tc.Address, tc.Type, tc.Order = tt.address, tt.typ, tt.order
		target := openTarget(t, r, tc, tt.value.Kind())
		if err := target.Write(t.Context(), protocols.Command{Value: tt.value, Version: 1}); err != nil {
			t.Errorf("write %s: %v", tt.address, err)
			continue
		}
		if got, err := target.Read(t.Context()); err != nil || got.Value != tt.value {
			t.Errorf("%s reads back as %+v, %v; want %s", tt.address, got, err, tt.value)
		}
	}
}

// A block with its version, validity and heartbeat arrives whole, whether its
// places stand side by side or not.
func TestModbusTargetBlockOnPymodbus(t *testing.T) {
	points, _ := plan()
	_, port := python(t, "modbus_device.py", points)
	cfg, src := modbusSource(t, port, points)
	r := run(t, cfg, src)
	for _, at := range [][4]string{
		{"holding:490", "holding:492", "holding:496", "holding:497"},
		{"holding:486", "holding:498", "holding:502", "holding:504"},
	} {
		tc := cfg.NewTarget().(*modbus.TargetConfig)
		tc.Type, tc.VersionType, tc.Order = "float32", "uint64", "CDAB"
		tc.Address, tc.VersionAddress, tc.ValidityAddress, tc.HeartbeatAddress = at[0], at[1], at[2], at[3]
		target := openTarget(t, r, tc, sample.Float64)
		if err := target.Write(t.Context(), protocols.Command{Value: sample.FloatValue(41.5), Version: 1<<40 + 3}); err != nil {
			t.Errorf("write %v: %v", at, err)
			continue
		}
		got, err := target.Read(t.Context())
		if err != nil || got.Value != sample.FloatValue(41.5) || got.Version != 1<<40+3 || !got.Quality.IsGood() {
			t.Errorf("%v reads back as %+v, %v", at, got, err)
		}
		if err := target.Tell(t.Context(), protocols.State{Heartbeat: 9}); err != nil {
			t.Errorf("tell %v: %v", at, err)
		}
		if got, err := target.Read(t.Context()); err != nil || !got.Quality.IsBad() {
			t.Errorf("%v, not valid any more, reads back as %+v, %v", at, got, err)
		}
	}
}

// openTarget opens a target on the connection of a source that runs.
func openTarget(t *testing.T, r *running, tc protocols.TargetConfig, kind sample.Kind) protocols.Target {
	t.Helper()
	if d, ok := tc.(protocols.Described); ok {
		d.Describe(protocols.TargetInfo{Name: "target", Kind: kind})
	}
	for _, f := range tc.Validate(kind) {
		t.Fatalf("%s: %s", f.Path, f.Problem)
	}
	target, err := r.Conn.(protocols.TargetOpener).OpenTarget(tc, r.Health)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target
}
