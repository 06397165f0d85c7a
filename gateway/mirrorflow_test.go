package gateway_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/audit"
	"millrace/internal/sim/modbussim"
	"millrace/sample"
)

// plc is a simulated PLC: holding registers and an enable coil.
type plc struct {
	mu     sync.Mutex
	regs   [200]uint16
	enable uint16
	writes int // that touched the value
}

func (p *plc) read(_ uint8, t modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t == modbussim.Coil {
		values[0] = p.enable
		return 0
	}
	copy(values, p.regs[address:])
	return 0
}

func (p *plc) write(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	p.mu.Lock()
	defer p.mu.Unlock()
	if address <= 100 && int(address)+len(values) > 100 {
		p.writes++
	}
	copy(p.regs[address:], values)
	return 0
}

func (p *plc) set(enable uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enable = enable
}

// block is what stands at holding:100: value, version, validity, heartbeat.
func (p *plc) block() (value float64, version uint32, valid, beat uint16, writes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.regs[100:]
	return float64(math.Float32frombits(uint32(r[0])<<16 | uint32(r[1]))), uint32(r[2])<<16 | uint32(r[3]), r[4], r[5], p.writes
}

// TestAResultIsMirrored with real parts: from an SQS queue into a PLC over the
// connection by which it is read, and its outcomes up to a file.
func TestAResultIsMirrored(t *testing.T) {
	dir := t.TempDir()
	queue := startResults(t, dir)
	device := &plc{enable: 1}
	sim, err := modbussim.Start(modbussim.Options{Read: device.read, Write: device.write})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	key, forger := ed25519.NewKeyFromSeed(make([]byte, 32)), ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))
	scada := freeAddr(t)
	cfg := parseAll(t, fmt.Sprintf(`
gateway: {site: north, id: gw1}
clock: {sync: ignore}
spool: {dir: %[1]s/spool, commit_interval: 20ms}
control: {socket: %[1]s/c.sock}
sources:
  - {name: plc, type: modbus, scan_rate: 50ms, connection: {url: "%[2]s"}, tags: [{name: mirror_ok, address: "coil:20", type: bool}]}
sinks: [{name: out, type: file, dir: %[1]s/out, format: jsonl}]
mirror:
  enabled: true
  dir: %[1]s/mirror
  keys: [{name: cloud, ed25519: "%[3]s"}]
  feeds: [%[4]s]
  devices: [{name: scada, type: modbus_server, connection: {listen: "%[5]s"}, tags: [{tag: north/plc/mirror_ok, address: "discrete:0"}]}]
  targets:
    - {name: sp1, mode: dry_run, feeds: [results], type: float64, unit: kW, min: 0, max: 500, max_step: 50, min_interval: 0s, heartbeat: 100ms, enable: north/plc/mirror_ok, enable_max_age: 5s,
       write: {to: plc, address: "holding:100", type: float32, version_address: "holding:102", validity_address: "holding:104", heartbeat_address: "holding:105"}}
    - {name: shown, mode: armed, feeds: [results], type: int64, write: {to: scada, address: "holding:0", type: int32}}
`, dir, sim.URL(), base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)), queue.feed, scada))
	if faults := gateway.Check(t.Context(), cfg, 5*time.Second, func(what, well string, errs []error) {
		if want := what != "server scada"; (well == "answers") != want {
			t.Errorf("check --connect says of %s: %s", what, well)
		}
		for _, err := range errs {
			t.Errorf("check --connect: %s: %v", what, err)
		}
	}); faults > 0 {
		t.Errorf("check --connect finds %d faults", faults)
	}
	g := runGateway(t, cfg, dir)
	until := func(what string, ok func() bool) { t.Helper(); g.until(t, what, ok) }
	send := func(target string, version uint64, v sample.Value, with ed25519.PrivateKey) {
		t.Helper()
		r := fresh(target, version, v, time.Hour)
		if target == "sp1" {
			r.Unit = "kW"
		}
		queue.send(t, r, with)
	}
	post := func(path string, args url.Values) {
		t.Helper()
		if err := control.Post(t.Context(), filepath.Join(dir, "c.sock"), path, args, nil); err != nil {
			t.Fatal(err)
		}
	}
	send("sp1", 1, sample.FloatValue(10), key)
	until("the dry run", g.had(0, mirror.DryRun, 1))
	if _, _, _, beat, writes := device.block(); beat != 0 || writes != 0 {
		t.Errorf("a dry run wrote: %d times, heartbeat %d", writes, beat)
	}
	post("/v1/mirror/arm", url.Values{"target": {"sp1"}, "for": {"1h"}})
	send("sp1", 2, sample.FloatValue(41.5), key)
	until("the write", g.had(0, mirror.Written, 1))
	if v, version, valid, _, writes := device.block(); v != 41.5 || version != 2 || valid != 1 || writes != 1 {
		t.Errorf("the PLC holds %v, version %d, validity %d after %d writes", v, version, valid, writes)
	}
	until("a heartbeat", func() bool { _, _, _, beat, _ := device.block(); return beat > 1 })
	send("sp1", 3, sample.FloatValue(900), key)
	until("the refusal", g.refused(0, "above_max"))
	send("sp1", 4, sample.FloatValue(50), forger)
	until("the refusal", g.refused(0, "bad_signature"))
	send("sp1", 2, sample.FloatValue(42), key)
	until("the refusal", g.refused(0, "not_newer"))
	device.set(0)
	until("the enable tag is read as false", func() bool { return g.Status().Sources["plc"].In > 0 && enabledShown(t, scada) == 0 })
	send("sp1", 5, sample.FloatValue(50), key)
	until("the refusal", g.refused(0, "not_enabled"))
	device.set(1)
	until("the enable tag is read as true", func() bool { return enabledShown(t, scada) == 1 })
	send("shown", 1, sample.IntValue(-7), key)
	until("the value is shown", g.had(1, mirror.Written, 1))
	if got := modbusRead(t, scada, 3, 0, 2); got != "fffffff9" {
		t.Errorf("the gateway's own server shows %s", got)
	}
	post("/v1/mirror/disarm", url.Values{"target": {"sp1"}})
	send("sp1", 6, sample.FloatValue(60), key)
	until("the dry run", g.had(0, mirror.DryRun, 2))
	if v, _, _, _, writes := device.block(); v != 41.5 || writes != 1 {
		t.Errorf("the PLC holds %v after %d writes", v, writes)
	}
	until("the queue is empty", func() bool { return queue.empty(t.Context()) })
	g.stop(t)
	checkRecord(t, dir)
}

// checkRecord looks at what is left after the stop: the audit log, and the
// status samples that were delivered.
func checkRecord(t *testing.T, dir string) {
	t.Helper()
	rep, err := audit.Verify(filepath.Join(dir, "mirror"), nil, nil)
	if err != nil || !rep.Whole() {
		t.Errorf("the audit log: %+v, %v", rep, err)
	}
	counted := map[string]int{}
	who := map[string]string{}
	if err := audit.Show(filepath.Join(dir, "mirror"), audit.Filter{}, func(r *audit.Record) error {
		what := r.Kind
		if r.Outcome != "" {
			what = strings.TrimSpace(r.Target + " " + r.Outcome + " " + r.Reason)
		}
		counted[what]++
		who[r.Kind] = r.Who
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	delivered := readFiles(t, filepath.Join(dir, "out", "*"))
	for what, n := range map[string]int{
		"sp1 dry_run": 2, "sp1 written": 1, "shown written": 1, "arm": 1, "disarm": 1, "start": 1, "stop": 1, "intent": 2,
		"sp1 refused above_max": 1, "sp1 refused bad_signature": 1, "sp1 refused not_newer": 1, "sp1 refused not_enabled": 1,
	} {
		if counted[what] != n {
			t.Errorf("the audit log has %d of %q, want %d: %v", counted[what], what, n, counted)
		}
		target, outcome, isOutcome := strings.Cut(what, " ")
		if !isOutcome {
			continue
		}
		outcome, reason, _ := strings.Cut(outcome, " ")
		sent := 0
		for line := range strings.Lines(delivered) {
			if strings.Contains(line, `"tag":"north/mirror/`+target+`/status"`) && strings.Contains(line, `\"outcome\":\"`+outcome+`\"`) &&
				(reason == "" || strings.Contains(line, `\"reason\":\"`+reason+`\"`)) {
				sent++
			}
		}
		if sent != n {
			t.Errorf("%d status samples of %q were delivered, want %d", sent, what, n)
		}
	}
	if me := fmt.Sprintf("(uid %d, pid %d)", os.Getuid(), os.Getpid()); !strings.Contains(who["arm"], me) || !strings.Contains(who["disarm"], me) {
		t.Errorf("armed by %q, disarmed by %q", who["arm"], who["disarm"])
	}
}

func readFiles(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// enabledShown reads the enable tag as the gateway's own server shows it: 0, 1,
// or -1 where it cannot be read.
func enabledShown(t *testing.T, addr string) int {
	switch modbusRead(t, addr, 2, 0, 1) {
	case "00":
		return 0
	case "01":
		return 1
	}
	return -1
}

// modbusRead asks a Modbus server by hand, and returns the data as hexadecimal
// digits, or "" where there is none.
func modbusRead(t *testing.T, addr string, function byte, address, count uint16) string {
	t.Helper()
	c, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", addr)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // it fails on a closed connection only
	request := []byte{0, 1, 0, 0, 0, 6, 1, function, byte(address >> 8), byte(address), byte(count >> 8), byte(count)}
	if _, err := c.Write(request); err != nil {
		return ""
	}
	answer := make([]byte, 260)
	n, err := c.Read(answer)
	if err != nil || n < 10 || answer[7] != function {
		return ""
	}
	return hex.EncodeToString(answer[9:n])
}
