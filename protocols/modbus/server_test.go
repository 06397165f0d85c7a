package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// logBuffer collects what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

// testServer is a server with a clock of its own.
type testServer struct {
	*server
	clock *clock.Fake
	logs  *logBuffer
}

func newServer(t testing.TB, set func(*ServerConfig)) *testServer {
	t.Helper()
	c := ServerProtocol{}.NewConfig().(*ServerConfig)
	c.Listen = "127.0.0.1:0"
	if set != nil {
		set(c)
	}
	for _, f := range c.Validate(&protocols.SourceConfig{}) {
		t.Fatalf("%s: %s", f.Path, f.Problem)
	}
	x := &testServer{clock: clock.NewFake(time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)), logs: &logBuffer{}}
	s := protocols.Settings{Site: "plant", Log: slog.New(slog.NewTextHandler(x.logs, nil)), Clock: clock.NewTimeline(x.clock)}
	conn, err := c.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	x.server = conn.(*server)
	return x
}

// serve starts the server and returns its address.
func (x *testServer) serve(t testing.TB) string {
	t.Helper()
	bound := make(chan net.Addr, 1)
	x.bound = func(a net.Addr) { bound <- a }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	h := &protocolstest.HealthRecorder{}
	go func() { ended <- x.Serve(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-bound:
		return a.String()
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
		return ""
	}
}

func (x *testServer) target(t testing.TB, kind sample.Kind, set func(*ServerTargetConfig)) protocols.Target {
	t.Helper()
	tc := x.cfg.NewTarget().(*ServerTargetConfig)
	set(tc)
	for _, f := range tc.Validate(kind) {
		t.Fatalf("%s: %s", f.Path, f.Problem)
	}
	target, err := x.OpenTarget(tc, &protocolstest.HealthRecorder{})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// ask answers one request without a connection: the answer's PDU in hex.
func (x *testServer) ask(unit byte, pdu string) string {
	data, err := hex.DecodeString(strings.ReplaceAll(pdu, " ", ""))
	if err != nil {
		panic(err)
	}
	request := append([]byte{0x12, 0x34, 0, 0, 0, byte(1 + len(data)), unit}, data...)
	out := x.reply(request, make([]byte, 0, maxADU))
	if string(out[:4]) != "\x12\x34\x00\x00" || int(binary.BigEndian.Uint16(out[4:])) != len(out)-6 || out[6] != unit {
		return fmt.Sprintf("a bad header % X", out)
	}
	return fmt.Sprintf("%X", out[headerLen:])
}

func (x *testServer) expect(t *testing.T, what string, pdu, want string) {
	t.Helper()
	if got := x.ask(1, pdu); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("%s: %s answers %s, want %s", what, pdu, got, want)
	}
}

// block is a target with everything: value 100, version 102, validity 104,
// heartbeat 105, status 106.
func block(c *ServerTargetConfig) {
	c.Address, c.Type = "holding:100", "float32"
	c.VersionAddress, c.ValidityAddress, c.HeartbeatAddress, c.StatusAddress = "holding:102", "holding:104", "holding:105", "holding:106"
}

func TestServerShowsATarget(t *testing.T) {
	x := newServer(t, func(c *ServerConfig) { c.HeartbeatAddress = "input:9" })
	target := x.target(t, sample.Float64, block)
	start := x.clock.Now()
	cmd := protocols.Command{Value: sample.FloatValue(1), Version: 7, Time: start, ValidUntil: start.Add(10 * time.Minute)}
	tell := func(s protocols.State) {
		t.Helper()
		if err := target.Tell(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	write := func(c protocols.Command) {
		t.Helper()
		if err := target.Write(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what, value, rest, beat string) {
		t.Helper()
		x.expect(t, what, "03 0064 0002", value)
		x.expect(t, what+", beside", "03 0066 0005", "03 0A"+rest)
		x.expect(t, what+", server's heartbeat", "04 0009 0001", "0402"+beat)
		r, err := target.Read(t.Context())
		if good := value[:2] == "03"; err != nil || r.Quality.IsBad() == good {
			t.Errorf("%s: reads %+v, %v", what, r, err)
		}
	}
	expect("before the first write", "8304", "00000000 0000 0000 0002", "0000")
	tell(protocols.State{Valid: true, Heartbeat: 3})
	expect("told before the first write", "8304", "00000000 0000 0003 0002", "0003")
	write(cmd)
	expect("written", "0304 3F800000", "00000007 0001 0003 0000", "0003")
	x.expect(t, "the block as a whole", "03 0064 0007", "03 0E 3F800000 00000007 0001 0003 0000")
	tell(protocols.State{Valid: false, Heartbeat: 4})
	expect("marked", "8304", "00000007 0000 0004 0004", "0004")
	x.expect(t, "the block as a whole, marked", "03 0064 0007", "8304")
	tell(protocols.State{Valid: true, Heartbeat: 65535})
	expect("valid again", "0304 3F800000", "00000007 0001 FFFF 0000", "FFFF")
	x.clock.Advance(10*time.Minute - 1)
	expect("just before its end", "0304 3F800000", "00000007 0001 FFFF 0000", "FFFF")
	x.clock.Advance(1)
	expect("at its end", "8304", "00000007 0000 FFFF 0003", "FFFF")
	tell(protocols.State{Valid: true, Heartbeat: 0})
	expect("told valid past its end", "8304", "00000007 0000 0000 0003", "0000")

	now := x.clock.Now()
	cmd = protocols.Command{Value: sample.FloatValue(2), Version: 8, Time: now, ValidUntil: now.Add(time.Minute), Quality: sample.Uncertain}
	write(cmd)
	expect("uncertain", "0304 40000000", "00000008 0001 0000 0001", "0000")
	cmd.Quality, cmd.Version = sample.BadDeviceFailure, 9
	write(cmd)
	expect("bad", "8304", "00000009 0000 0000 0005", "0000")
	cmd.Quality, cmd.Version = sample.Good, 10
	write(cmd)
	x.clock.Step(-time.Hour)
	x.clock.Advance(59 * time.Second)
	expect("the clock was set back", "0304 40000000", "0000000A 0001 0000 0000", "0000")
	x.clock.Advance(time.Second)
	expect("the clock was set back, and the time is over", "8304", "0000000A 0000 0000 0003", "0000")
	cmd.ValidUntil, cmd.Version = x.clock.Now().Add(time.Minute), 11
	write(cmd)
	expect("written by the new clock", "0304 40000000", "0000000B 0001 0000 0000", "0000")
	x.clock.Step(time.Hour)
	expect("the clock was set ahead", "8304", "0000000B 0000 0000 0003", "0000")

	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	x.expect(t, "closed", "03 0064 0002", "8302")
}

func TestServerTargetAfterARestart(t *testing.T) {
	x := newServer(t, nil)
	target := x.target(t, sample.Float64, block)
	now := x.clock.Now()
	cmd := protocols.Command{Value: sample.FloatValue(1), Version: 7, Time: now.Add(-time.Minute), ValidUntil: now.Add(time.Minute)}
	target.(protocols.Restorer).Restore(cmd)
	x.expect(t, "restored", "03 0064 0005", "03 0A 3F800000 00000007 0001")
	x.clock.Advance(time.Minute)
	x.expect(t, "over", "03 0064 0002", "8304")
	target.(protocols.Restorer).Restore(cmd)
	x.expect(t, "restored too late", "03 0064 0002", "8304")
	target.(protocols.Restorer).Restore(protocols.Command{Value: sample.StringValue("x"), ValidUntil: now.Add(time.Hour)})
	x.expect(t, "what does not fit", "03 0064 0002", "8304")
}

func TestServerTargetPrepares(t *testing.T) {
	x := newServer(t, nil)
	for i, c := range []struct {
		typ  string
		kind sample.Kind
		v    sample.Value
		want sample.Value
	}{
		{"uint16", sample.Int64, sample.IntValue(70000), sample.Value{}},
		{"uint16", sample.Float64, sample.FloatValue(41.5), sample.Value{}},
		{"uint16", sample.Float64, sample.FloatValue(41), sample.FloatValue(41)},
		{"float32", sample.Float64, sample.FloatValue(math.Pi), sample.FloatValue(3.1415927)},
		{"float32", sample.Float64, sample.StringValue("1"), sample.Value{}},
	} {
		target := x.target(t, c.kind, func(tc *ServerTargetConfig) { tc.Address, tc.Type = fmt.Sprintf("input:%d", 4*i), c.typ })
		held, err := target.Prepare(t.Context(), c.v)
		if held != c.want || (err == nil) != (c.want.Kind() != sample.Null) || err != nil && protocols.OutcomeOf(err) != protocols.Unsuited {
			t.Errorf("%s into %s: %s, %v", c.v, c.typ, held, err)
		}
		cmd := protocols.Command{Value: c.v, ValidUntil: x.clock.Now().Add(time.Hour)}
		if werr := target.Write(t.Context(), cmd); (werr == nil) != (err == nil) || werr != nil && protocols.OutcomeOf(werr) != protocols.Unsuited {
			t.Errorf("%s into %s: write: %v", c.v, c.typ, werr)
		}
	}
}

// readings is a source of live tags.
type readings map[string]protocols.Reading

func (r readings) latest(tag string) (protocols.Reading, bool) {
	x, ok := r[tag]
	return x, ok
}

func TestServerShowsLiveTags(t *testing.T) {
	x := newServer(t, func(c *ServerConfig) { c.Slaves = []int{1, 7}; c.WordOrder = "little" })
	r := readings{}
	tags := []protocols.Tag{
		{Name: "p/m/power", Address: "input:0 status=input:10", Type: "float32"},
		{Name: "p/m/count", Address: "holding:2", Type: "uint16"},
		{Name: "p/m/run", Address: "discrete:3"},
		{Name: "p/m/fault", Address: "coil:4"},
		{Name: "p/m/power", Address: "7/input:0", Type: "int32", Order: "ABCD"},
	}
	if err := x.Show(tags, r.latest); err != nil {
		t.Fatal(err)
	}
	x.expect(t, "no reading yet", "04 0000 0002", "8404")
	x.expect(t, "no reading yet", "04 000A 0001", "0402 0002")
	x.expect(t, "no reading yet", "02 0003 0001", "8204")
	r["p/m/power"] = protocols.Reading{Value: sample.FloatValue(1)}
	r["p/m/count"] = protocols.Reading{Value: sample.IntValue(513)}
	r["p/m/run"] = protocols.Reading{Value: sample.BoolValue(true), Quality: sample.Uncertain}
	r["p/m/fault"] = protocols.Reading{Value: sample.BoolValue(false)}
	x.expect(t, "float32", "04 0000 0002", "0404 0000 3F80")
	x.expect(t, "uint16", "03 0002 0001", "0302 0201")
	x.expect(t, "discrete", "02 0003 0001", "0201 01")
	x.expect(t, "coil", "01 0004 0001", "0101 00")
	x.expect(t, "good", "04 000A 0001", "0402 0000")
	if got := x.ask(7, "04 0000 0002"); got != "040400000001" {
		t.Errorf("slave 7 answers %s", got)
	}
	r["p/m/power"] = protocols.Reading{Value: sample.FloatValue(1), Quality: sample.BadTimeout}
	r["p/m/count"] = protocols.Reading{Value: sample.IntValue(70000)}
	x.expect(t, "bad", "04 0000 0002", "8404")
	x.expect(t, "bad", "04 000A 0001", "0402 0005")
	for range 3 {
		x.expect(t, "too large", "03 0002 0001", "8304")
		x.logLive()
	}
	r["p/m/count"] = protocols.Reading{Value: sample.IntValue(7)}
	for range 3 {
		x.expect(t, "fits again", "03 0002 0001", "0302 0007")
		x.logLive()
	}
	if lines := x.logs.lines(); len(lines) != 2 || !strings.Contains(lines[0], "70000") || !strings.Contains(lines[1], "shown again") {
		t.Errorf("logged %q", lines)
	}
}

func TestServerExceptions(t *testing.T) {
	x := newServer(t, nil)
	target := x.target(t, sample.Float64, block)
	neighbour := x.target(t, sample.Int64, func(c *ServerTargetConfig) { c.Address = "holding:107" })
	edge := x.target(t, sample.Int64, func(c *ServerTargetConfig) { c.Address, c.Type = "input:65535", "int16" })
	bit := x.target(t, sample.Bool, func(c *ServerTargetConfig) { c.Address = "coil:65535" })
	until := x.clock.Now().Add(time.Hour)
	for _, w := range []struct {
		target protocols.Target
		v      sample.Value
	}{{target, sample.FloatValue(1)}, {edge, sample.IntValue(-1)}, {bit, sample.BoolValue(true)}} {
		if err := w.target.Write(t.Context(), protocols.Command{Value: w.v, ValidUntil: until}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ what, pdu, want string }{
		{"write one coil", "05 FFFF FF00", "8501"},
		{"write one register", "06 0064 0001", "8601"},
		{"write coils", "0F FFFF 0001 01 01", "8F01"},
		{"write registers", "10 0064 0002 04 00000000", "9001"},
		{"mask write", "16 0064 0000 0000", "9601"},
		{"read and write", "17 0064 0002 0064 0001 02 0000", "9701"},
		{"read the identity", "2B 0E 01 00", "AB01"},
		{"function 0", "00", "8001"},
		{"an exception as a request", "83 04", "8301"},
		{"nothing there", "03 0063 0001", "8302"},
		{"another table", "04 0064 0002", "8402"},
		{"reaching behind", "03 0064 0009", "8302"},
		{"the first half of a value", "03 0064 0001", "8302"},
		{"the second half of a value", "03 0065 0001", "8302"},
		{"half of a value at the end", "03 0064 0003", "8302"},
		{"none", "03 0064 0000", "8303"},
		{"too many", "03 0064 007E", "8303"},
		{"too many bits", "01 0000 07D1", "8103"},
		{"cut off", "03 0064 00", "8303"},
		{"too long", "03 0064 0001 00", "8303"},
		{"function alone", "03", "8303"},
		{"beyond the end", "04 FFFF 0002", "8402"},
		{"at the end", "04 FFFF 0001", "0402 FFFF"},
		{"a bit at the end", "01 FFFF 0001", "0101 01"},
		{"one that was not written among others", "03 0064 0008", "8304"},
	} {
		x.expect(t, c.what, c.pdu, c.want)
	}
	if got := x.ask(2, "03 0064 0002"); got != "830B" {
		t.Errorf("another slave answers %s", got)
	}
	if err := neighbour.Write(t.Context(), protocols.Command{Value: sample.IntValue(9), ValidUntil: until}); err != nil {
		t.Fatal(err)
	}
	x.expect(t, "all of them", "03 0064 0008", "0310 3F800000 00000000 0001 0000 0000 0009")
}

func TestServerRefusesAConfiguration(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*ServerConfig)
		tags []protocols.Tag
		path string
		want string
	}{
		{"no port", func(c *ServerConfig) { c.Listen = "127.0.0.1" }, nil, "connection.listen", "host:port"},
		{"name", func(c *ServerConfig) { c.Listen = "scada:502" }, nil, "connection.listen", "not an IP address"},
		{"open", func(c *ServerConfig) { c.Listen = "0.0.0.0:502" }, nil, "connection.insecure", "neither passwords nor encryption"},
		{"open to all", func(c *ServerConfig) { c.Listen = ":502"; c.Insecure = true }, nil, "connection.allow", "nothing says which"},
		{"port 0", func(c *ServerConfig) { c.Listen = "192.0.2.1:0" }, nil, "connection.listen", "port of 0"},
		{"allow", func(c *ServerConfig) { c.Allow = []string{"192.0.2.0/33"} }, nil, "connection.allow", "not a network"},
		{"no slaves", func(c *ServerConfig) { c.Slaves = nil }, nil, "connection.slaves", "no unit id"},
		{"slave", func(c *ServerConfig) { c.Slaves = []int{250} }, nil, "connection.slaves", "not a unit id"},
		{"slave twice", func(c *ServerConfig) { c.Slaves = []int{1, 1} }, nil, "connection.slaves", "twice"},
		{"connections", func(c *ServerConfig) { c.MaxConnections = 0 }, nil, "connection.max_connections", "1 to 1000"},
		{"idle", func(c *ServerConfig) { c.IdleTimeout = time.Millisecond }, nil, "connection.idle_timeout", "1s to 1h"},
		{"order", func(c *ServerConfig) { c.WordOrder = "middle" }, nil, "connection.word_order", "big or little"},
		{"base", func(c *ServerConfig) { c.AddressBase = 2 }, nil, "connection.address_base", "0 or 1"},
		{"heartbeat", func(c *ServerConfig) { c.HeartbeatAddress = "coil:1" }, nil, "connection.heartbeat_address", "one bit"},
		{"tag's slave", nil, []protocols.Tag{{Name: "a", Address: "2/input:0"}}, "tags[0].address", "does not answer for"},
		{"tag's type", nil, []protocols.Tag{{Name: "a", Address: "input:0", Type: "string"}}, "tags[0].type", "string"},
		{"tag's bit", nil, []protocols.Tag{{Name: "a", Address: "input:0.1"}}, "tags[0].address", "single bit"},
		{"tag's words", nil, []protocols.Tag{{Name: "a", Address: "input:0 at input:2"}}, "tags[0].address", "status=table:offset"},
		{"tag's status", nil, []protocols.Tag{{Name: "a", Address: "input:0 status=coil:2"}}, "tags[0].address", "one bit"},
		{"tags overlap", nil, []protocols.Tag{{Name: "a", Address: "input:0", Type: "float32"}, {Name: "b", Address: "input:1"}}, "tags[1].address", "lies on 1/input:0"},
		{"status overlaps", nil, []protocols.Tag{{Name: "a", Address: "input:0 status=input:1", Type: "float32"}}, "tags[0].address", "lies on"},
		{"on the heartbeat", func(c *ServerConfig) { c.HeartbeatAddress = "input:0" }, []protocols.Tag{{Name: "a", Address: "input:0"}}, "tags[0].address", "the server's heartbeat"},
	} {
		cfg := ServerProtocol{}.NewConfig().(*ServerConfig)
		if c.set != nil {
			c.set(cfg)
		}
		faults := cfg.Validate(&protocols.SourceConfig{Tags: c.tags})
		if !slices.ContainsFunc(faults, func(f protocols.Fault) bool {
			return f.Path == c.path && strings.Contains(f.Problem, c.want) && f.Hint != ""
		}) && !slices.ContainsFunc(faults, func(f protocols.Fault) bool { return f.Path == c.path && strings.Contains(f.Hint, c.want) }) {
			t.Errorf("%s: %+v, want %s: %s", c.name, faults, c.path, c.want)
		}
	}
	cfg := ServerProtocol{}.NewConfig().(*ServerConfig)
	cfg.Listen, cfg.Insecure, cfg.Allow = "0.0.0.0:502", true, []string{"192.0.2.7", "2001:db8::/64"}
	if faults := cfg.Validate(&protocols.SourceConfig{}); len(faults) > 0 {
		t.Errorf("a right configuration: %+v", faults)
	}
	cfg = ServerProtocol{}.NewConfig().(*ServerConfig)
	cfg.HeartbeatAddress = "holding:103"
	cfg.Validate(&protocols.SourceConfig{Tags: []protocols.Tag{{Name: "a", Address: "holding:99", Type: "float32"}}})
	shadowed := cfg.NewTarget().(*ServerTargetConfig)
	block(shadowed)
	if faults := shadowed.Validate(sample.Float64); len(faults) != 2 || faults[0].Path != "address" || !strings.Contains(faults[0].Problem, "which is tag a") ||
		faults[1].Path != "version_address" || !strings.Contains(faults[1].Problem, "the server's heartbeat") {
		t.Errorf("a target on a tag and the heartbeat: %+v", faults)
	}
	x := newServer(t, nil)
	x.target(t, sample.Float64, block)
	tc := x.cfg.NewTarget().(*ServerTargetConfig)
	tc.Address = "holding:101"
	if _, err := x.OpenTarget(tc, &protocolstest.HealthRecorder{}); err == nil || !strings.Contains(err.Error(), "lies on 1/holding:100") {
		t.Errorf("two targets on one register: %v", err)
	}
	if err := x.Show([]protocols.Tag{{Name: "a", Address: "holding:106"}}, nil); err == nil || !strings.Contains(err.Error(), "lies on") {
		t.Errorf("a tag on a target's status: %v", err)
	}
	if _, err := x.OpenSource(nil, nil); !errors.Is(err, protocols.ErrNoSource) {
		t.Errorf("a source: %v", err)
	}
	if got := strings.Join(x.cfg.NewTarget().Places(), ""); got != "" {
		t.Errorf("places of nothing: %s", got)
	}
	block(tc)
	if got := tc.Places(); len(got) != 7 || got[6] != "1/holding:106" {
		t.Errorf("places %s", got)
	}
}
