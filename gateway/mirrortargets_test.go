package gateway_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/gateway/mirror"
	"millrace/internal/sim/modbussim"
	"millrace/internal/sim/mqttsim"
	"millrace/internal/sim/opcuasim"
	"millrace/sample"
	"millrace/sample/result"
)

// TestAResultReachesEachKindOfTarget with real parts: an OPC UA node, an MQTT
// topic and a file get the value, are called stale when its validity ends, and
// get nothing that expired while they were away.
func TestAResultReachesEachKindOfTarget(t *testing.T) {
	dir := t.TempDir()
	queue := startResults(t, dir)
	server, err := opcuasim.Start(opcuasim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	node, err := server.AddNode(opcuasim.Node{Name: "setpoint", Value: uint16(0), Access: opcuasim.Writable | opcuasim.WriteStatus | opcuasim.WriteTime})
	if err != nil {
		t.Fatal(err)
	}
	broker, err := mqttsim.Start(mqttsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	drop := filepath.Join(dir, "drop")
	if err := os.Mkdir(drop, 0o700); err != nil {
		t.Fatal(err)
	}
	g := runGateway(t, parseAll(t, fmt.Sprintf(`
gateway: {site: north, id: gw1}
clock: {sync: ignore}
spool: {dir: %[1]s/spool}
control: {socket: %[1]s/c.sock}
sources: [{name: press, type: opcua, scan_rate: 100ms, connection: {url: "%[2]s", security: None}, tags: [{name: setpoint, address: "%[3]s"}]}]
sinks: [{name: out, type: file, dir: %[1]s/out}]
mirror:
  enabled: true
  dir: %[1]s/mirror
  signature: optional
  feeds: [%[4]s]
  devices:
    - {name: hall, type: mqtt, connection: {url: "%[5]s"}}
    - {name: drop, type: csv, connection: {dir: %[1]s/drop, delimiter: ";", decimal: ","}}
  targets:
    - {name: node, mode: armed, feeds: [results], type: int64, min_interval: 0s, write: {to: press, address: "%[3]s"}}
    - {name: topic, mode: armed, feeds: [results], type: float64, min_interval: 0s, write: {to: hall, topic: plant/sp, heartbeat_topic: plant/beat}}
    - {name: file, mode: armed, feeds: [results], type: float64, min_interval: 0s, write: {to: drop}}
`, dir, server.URL(), node, queue.feed, broker.URL())), dir)
	until := func(what string, ok func() bool) { t.Helper(); g.until(t, what, ok) }
	send := func(target string, version uint64, v sample.Value, valid time.Duration) {
		t.Helper()
		queue.send(t, fresh(target, version, v, valid), nil)
	}
	retained := func(piece string) func() bool {
		return func() bool {
			payload, _ := broker.Retained("plant/sp")
			return strings.Contains(string(payload), piece)
		}
	}
	line := func(piece string) func() bool {
		return func() bool {
			data, err := os.ReadFile(filepath.Join(drop, "file.csv"))
			return err == nil && strings.Contains(string(data), piece)
		}
	}

	const valid = 1500 * time.Millisecond
	send("node", 1, sample.IntValue(415), valid)
	send("topic", 1, sample.FloatValue(41.5), valid)
	send("file", 1, sample.FloatValue(41.5), valid)
	for i := range 3 {
		until("the write", g.had(i, mirror.Written, 1))
	}
	if v := server.Value("setpoint"); v.Value.Value() != uint16(415) || v.Status != 0 {
		t.Errorf("the node holds %v, %v", v.Value.Value(), v.Status)
	}
	if !retained(`{"value":41.5,"valid":true,"quality":"Good",`)() || !line("\r\nfile;41,5;;Good;")() {
		t.Error("the topic or the file does not show the value")
	}
	until("the node is called stale", func() bool {
		v := server.Value("setpoint")
		return v.Status == 0x808D0000 && v.Value.Value() == uint16(415)
	})
	until("the topic is called stale", retained(`{"value":41.5,"valid":false,"quality":"Bad",`))
	until("the file is called stale", line("\r\nfile;41,5;;Bad;"))

	send("node", 2, sample.IntValue(70000), time.Hour)
	until("it does not fit", g.had(0, mirror.Unsuited, 1))
	if v := server.Value("setpoint"); v.Value.Value() != uint16(415) {
		t.Errorf("the node holds %v", v.Value.Value())
	}

	broker.Stop()
	if err := os.Rename(drop, drop+".away"); err != nil {
		t.Fatal(err)
	}
	send("topic", 2, sample.FloatValue(99), valid)
	send("file", 2, sample.FloatValue(99), valid)
	until("the topic's result expires", g.had(1, mirror.ExpiredHeld, 1))
	until("the file's result expires", g.had(2, mirror.ExpiredHeld, 1))
	if err := broker.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(drop+".away", drop); err != nil {
		t.Fatal(err)
	}
	send("topic", 3, sample.FloatValue(7), time.Hour)
	send("file", 3, sample.FloatValue(7), time.Hour)
	until("the next write", g.had(1, mirror.Written, 2))
	until("the next write", g.had(2, mirror.Written, 2))
	if !retained(`{"value":7,"valid":true,`)() || !line("\r\nfile;7;;Good;")() {
		t.Error("the topic or the file does not show the next value")
	}
	for _, p := range broker.Published() {
		if strings.Contains(string(p.Payload), `"value":99`) {
			t.Errorf("what expired was published: %s", p.Payload)
		}
	}
	g.stop(t)
}

// TestWhatDoesNotFitIsRefusedBeforeTheWire: a string for a Float64 node, a
// fraction and 70000 for 16-bit registers, and a setpoint that waited in the
// queue for two hours. The devices see no write.
func TestWhatDoesNotFitIsRefusedBeforeTheWire(t *testing.T) {
	dir := t.TempDir()
	queue := startResults(t, dir)
	var writes atomic.Int64
	device := &plc{}
	sim, err := modbussim.Start(modbussim.Options{Read: device.read, Write: func(slave uint8, table modbussim.Table, address uint16, values []uint16) modbussim.Exception {
		writes.Add(1)
		return device.write(slave, table, address, values)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	server, err := opcuasim.Start(opcuasim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	node, err := server.AddNode(opcuasim.Node{Name: "setpoint", Value: 1.5, Access: opcuasim.Writable})
	if err != nil {
		t.Fatal(err)
	}
	old := fresh("queued", 1, sample.FloatValue(7), 10*time.Hour)
	old.ComputedAt, old.ValidFrom = old.ComputedAt.Add(-2*time.Hour), old.ValidFrom.Add(-2*time.Hour)
	gone := fresh("queued", 2, sample.FloatValue(7), time.Hour)
	gone.ComputedAt, gone.ValidFrom, gone.ValidUntil = old.ComputedAt, old.ValidFrom, old.ValidFrom.Add(10*time.Minute)
	for _, r := range []result.Result{
		fresh("node", 1, sample.StringValue("41.5"), time.Hour), fresh("fraction", 1, sample.FloatValue(41.5), time.Hour),
		fresh("large", 1, sample.IntValue(70000), time.Hour), old, gone,
	} {
		queue.send(t, r, nil)
	}
	g := runGateway(t, parseAll(t, fmt.Sprintf(`
gateway: {site: north, id: gw1}
clock: {sync: ignore}
spool: {dir: %[1]s/spool}
control: {socket: %[1]s/c.sock}
sources:
  - {name: plc, type: modbus, connection: {url: "%[2]s"}, tags: [{name: a, address: "holding:0", type: uint16}]}
  - {name: press, type: opcua, connection: {url: "%[3]s", security: None}, tags: [{name: setpoint, address: "%[4]s"}]}
sinks: [{name: out, type: file, dir: %[1]s/out}]
mirror:
  enabled: true
  dir: %[1]s/mirror
  signature: optional
  feeds: [%[5]s]
  targets:
    - {name: node, mode: armed, feeds: [results], type: string, heartbeat: 0s, write: {to: press, address: "%[4]s"}}
    - {name: fraction, mode: armed, feeds: [results], type: float64, heartbeat: 0s, write: {to: plc, address: "holding:10", type: uint16}}
    - {name: large, mode: armed, feeds: [results], type: int64, heartbeat: 0s, write: {to: plc, address: "holding:11", type: uint16}}
    - {name: queued, mode: armed, feeds: [results], type: float64, max_age: 1h, heartbeat: 0s, write: {to: plc, address: "holding:12", type: float32}}
`, dir, sim.URL(), server.URL(), node, queue.feed)), dir)
	for i := range 3 {
		g.until(t, "it does not fit", g.had(i, mirror.Unsuited, 1))
	}
	g.until(t, "it is too old", g.refused(3, "too_old"))
	g.until(t, "it has expired", g.refused(3, "expired"))
	g.until(t, "the queue is empty", func() bool { return queue.empty(t.Context()) })
	g.stop(t)
	if n, v := writes.Load(), server.Value("setpoint"); n != 0 || v.Value.Value() != 1.5 {
		t.Errorf("the PLC saw %d writes, and the node holds %v", n, v.Value.Value())
	}
}
