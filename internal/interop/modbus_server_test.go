//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/modbus"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// question is what modbus_client.py asks, with the answer that is due: a value
// as Python prints it, or an exception.
type question struct {
	Slave   int    `json:"slave"`
	Table   string `json:"table,omitempty"`
	Address int    `json:"address"`
	Type    string `json:"type,omitempty"`
	Order   string `json:"order,omitempty"`
	Count   int    `json:"count,omitempty"`
	Write   string `json:"write,omitempty"`

	value     string
	exception int
}

// ask has pymodbus ask the server on port.
func ask(t *testing.T, port int, questions []question) {
	t.Helper()
	input, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, installed(t, "PYTHON"), script(t, "modbus_client.py"), strconv.Itoa(port))
	var printed bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &printed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pymodbus: %v\n%s", err, printed.String())
	}
	var answers []struct {
		Value     string `json:"value"`
		Exception int    `json:"exception"`
	}
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(questions) {
		t.Fatalf("pymodbus printed %s: %v", out, err)
	}
	for i, q := range questions {
		if a := answers[i]; a.Value != q.value || a.Exception != q.exception {
			t.Errorf("%+v: pymodbus got %q, exception %d", q, a.Value, a.Exception)
		}
	}
}

// serveModbus opens the gateway's own server and runs it until the test ends.
func serveModbus(t *testing.T, cfg *modbus.ServerConfig) (srv protocols.Server, port int, serve func()) {
	t.Helper()
	port = freePort(t)
	cfg.Listen = address(port)
	for _, f := range cfg.Validate(&protocols.SourceConfig{}) {
		t.Fatalf("%s: %s", f.Path, f.Problem)
	}
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	srv = conn.(protocols.Server)
	return srv, port, func() {
		ctx, cancel := context.WithCancel(context.Background())
		h := &protocolstest.HealthRecorder{}
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(ctx, h) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		ready(t, "the server listens", h.IsUp)
	}
}

// pymodbus reads from the gateway's own server every type in every order, and
// every exception.
func TestModbusServerIsReadByPymodbus(t *testing.T) {
	cfg := modbus.ServerProtocol{}.NewConfig().(*modbus.ServerConfig)
	cfg.Slaves = []int{1, 17}
	cfg.HeartbeatAddress = "17/input:7"
	srv, port, serve := serveModbus(t, cfg)
	until := time.Now().Add(time.Hour)
	var questions []question
	open := func(kind sample.Kind, set func(*modbus.ServerTargetConfig)) protocols.Target {
		t.Helper()
		tc := cfg.NewTarget().(*modbus.ServerTargetConfig)
		set(tc)
		for _, f := range tc.Validate(kind) {
			t.Fatalf("%s: %s", f.Path, f.Problem)
		}
		target, err := srv.OpenTarget(tc, &protocolstest.HealthRecorder{})
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	write := func(target protocols.Target, c protocols.Command) {
		t.Helper()
		c.ValidUntil = until
		if err := target.Write(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	at := 0
	for _, table := range []string{"holding", "input"} {
		for _, order := range []string{"", "ABCD", "CDAB", "BADC", "DCBA"} {
			for _, n := range []struct {
				typ   string
				size  int
				value sample.Value
				want  string
			}{
				{"int16", 1, sample.IntValue(math.MinInt16), "-32768"},
				{"uint16", 1, sample.IntValue(0x0102), "258"},
				{"int32", 2, sample.IntValue(-2), "-2"},
				{"uint32", 2, sample.IntValue(0x01020304), "16909060"},
				{"int64", 4, sample.IntValue(math.MinInt64 + 1), "-9223372036854775807"},
				{"uint64", 4, sample.IntValue(math.MaxInt64), "9223372036854775807"},
				{"float32", 2, sample.FloatValue(-1.5), "-1.5"},
				{"float64", 4, sample.FloatValue(math.Pi), "3.141592653589793"},
			} {
				target := open(n.value.Kind(), func(c *modbus.ServerTargetConfig) {
					c.Address, c.Type, c.Order = fmt.Sprintf("%s:%d", table, at), n.typ, order
				})
				write(target, protocols.Command{Value: n.value})
				questions = append(questions, question{Slave: 1, Table: table, Address: at, Type: n.typ, Order: order, value: n.want})
				at += n.size
			}
		}
	}
	var bits []protocols.Target
	for i := range 10 {
		target := open(sample.Bool, func(c *modbus.ServerTargetConfig) { c.Address = fmt.Sprintf("17/coil:%d", 5+i) })
		write(target, protocols.Command{Value: sample.BoolValue(i%3 == 0)})
		bits = append(bits, target)
	}
	block := open(sample.Float64, func(c *modbus.ServerTargetConfig) {
		c.Address, c.Type, c.VersionAddress = "17/holding:100", "float32", "17/holding:102"
		c.ValidityAddress, c.HeartbeatAddress, c.StatusAddress = "17/holding:104", "17/holding:105", "17/holding:106"
	})
	if err := srv.Show([]protocols.Tag{
		{Name: "plant/m/power", Address: "17/input:0 status=17/input:2", Type: "float32", Order: "CDAB"},
		{Name: "plant/m/run", Address: "17/discrete:3"},
		{Name: "plant/m/lost", Address: "17/discrete:4"},
	}, func(tag string) (protocols.Reading, bool) {
		r, ok := map[string]protocols.Reading{
			"plant/m/power": {Value: sample.FloatValue(12.25)},
			"plant/m/run":   {Value: sample.BoolValue(true)},
			"plant/m/lost":  {Quality: sample.BadTimeout},
		}[tag]
		return r, ok
	}); err != nil {
		t.Fatal(err)
	}
	serve()
	ask(t, port, append(questions,
		question{Slave: 17, Table: "coil", Address: 5, Count: 10, value: "1001001001"},
		question{Slave: 17, Table: "input", Address: 0, Type: "float32", Order: "CDAB", value: "12.25"},
		question{Slave: 17, Table: "input", Address: 2, Type: "uint16", value: "0"},
		question{Slave: 17, Table: "discrete", Address: 3, value: "1"},
		question{Slave: 17, Table: "discrete", Address: 4, exception: 4},
		question{Slave: 17, Table: "discrete", Address: 3, Count: 2, exception: 4},
		question{Slave: 17, Table: "holding", Address: 100, Type: "float32", exception: 4},
		question{Slave: 17, Table: "holding", Address: 106, Type: "uint16", value: "2"},
		question{Slave: 17, Table: "holding", Address: 99, Type: "uint16", exception: 2},
		question{Slave: 17, Table: "holding", Address: 101, Type: "uint16", exception: 2},
		question{Slave: 3, Table: "holding", Address: 100, Type: "uint16", exception: 11},
		question{Slave: 17, Write: "coil", Address: 5, exception: 1},
		question{Slave: 17, Write: "coils", Address: 5, exception: 1},
		question{Slave: 17, Write: "register", Address: 100, exception: 1},
		question{Slave: 17, Write: "registers", Address: 100, exception: 1},
		question{Slave: 17, Write: "mask", Address: 100, exception: 1},
	))
	write(block, protocols.Command{Value: sample.FloatValue(41.5), Version: 70000})
	if err := block.Tell(t.Context(), protocols.State{Valid: true, Heartbeat: 513}); err != nil {
		t.Fatal(err)
	}
	ask(t, port, []question{
		{Slave: 17, Table: "holding", Address: 100, Type: "float32", value: "41.5"},
		{Slave: 17, Table: "holding", Address: 102, Type: "uint32", value: "70000"},
		{Slave: 17, Table: "holding", Address: 104, Type: "uint16", value: "1"},
		{Slave: 17, Table: "holding", Address: 105, Type: "uint16", value: "513"},
		{Slave: 17, Table: "holding", Address: 106, Type: "uint16", value: "0"},
		{Slave: 17, Table: "input", Address: 7, Type: "uint16", value: "513"},
	})
	until = time.Now() // over, as it is written
	write(block, protocols.Command{Value: sample.FloatValue(42), Version: 70001})
	write(bits[3], protocols.Command{Value: sample.BoolValue(true)})
	ask(t, port, []question{
		{Slave: 17, Table: "holding", Address: 100, Type: "float32", exception: 4},
		{Slave: 17, Table: "holding", Address: 104, Type: "uint16", value: "0"},
		{Slave: 17, Table: "holding", Address: 106, Type: "uint16", value: "3"},
		{Slave: 17, Table: "coil", Address: 5, Count: 3, value: "100"},
		{Slave: 17, Table: "coil", Address: 5, Count: 10, exception: 4},
	})
}
