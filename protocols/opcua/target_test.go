package opcua

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/internal/sim/opcuasim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

func addNode(t testing.TB, sim *opcuasim.Server, n opcuasim.Node) string {
	t.Helper()
	if n.Access == 0 {
		n.Access = opcuasim.Writable
	}
	id, err := sim.AddNode(n)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// held is what a simulated node holds, worked out without the code under test.
func held(sim *opcuasim.Server, name string) (sample.Value, error) {
	dv := sim.Value(name)
	switch x := dv.Value.Value().(type) {
	case bool:
		return sample.BoolValue(x), nil
	case string:
		return sample.StringValue(x), nil
	case float64:
		return sample.FloatValue(x), nil
	case float32:
		f, err := strconv.ParseFloat(strconv.FormatFloat(float64(x), 'g', -1, 32), 64)
		return sample.FloatValue(f), err
	case uint16:
		return sample.IntValue(int64(x)), nil
	case int32:
		return sample.IntValue(int64(x)), nil
	case int64:
		return sample.IntValue(x), nil
	}
	return sample.Value{}, fmt.Errorf("node %s holds a %T", name, dv.Value.Value())
}

// targetDevice makes nodes of their own on a server.
func targetDevice(t *testing.T, sim *opcuasim.Server, nth int) *protocolstest.TargetDevice {
	cfg := testConfig(sim.URL())
	cfg.Timeout = 300 * time.Millisecond
	d := &protocolstest.TargetDevice{
		Config: cfg, Writes: sim.WriteRequests, LoseAnswers: sim.Silence, Stop: sim.Stop,
		Resume: func() {
			if err := sim.Resume(); err != nil {
				panic(fmt.Sprintf("the test's port is gone: %v", err))
			}
		},
		Reject: func(on bool) {
			if on {
				sim.Answer(ua.StatusBadNotWritable)
			} else {
				sim.Answer(0)
			}
		},
	}
	floats := []sample.Value{sample.FloatValue(41.5), sample.FloatValue(0.1), sample.IntValue(3)}
	notNumbers := []sample.Value{sample.StringValue("41.5"), sample.BoolValue(true), {}}
	for _, p := range []struct {
		name     string
		value    any
		access   opcuasim.Access
		kind     sample.Kind
		good     []sample.Value
		unsuited []sample.Value
	}{
		{"double", 0.0, opcuasim.Writable | opcuasim.WriteStatus | opcuasim.WriteTime, sample.Float64, floats, append(notNumbers, sample.IntValue(1<<53+1))},
		{"float", float32(0), opcuasim.Writable | opcuasim.WriteStatus, sample.Float64, floats, append(notNumbers, sample.FloatValue(1e300), sample.IntValue(1<<24+1))},
		{"uint16", uint16(0), opcuasim.Writable, sample.Int64, []sample.Value{sample.IntValue(65535), sample.FloatValue(7)},
			append(notNumbers, sample.IntValue(70000), sample.IntValue(-1), sample.FloatValue(41.5))},
		{"int64", int64(0), opcuasim.Writable, sample.Int64, []sample.Value{sample.IntValue(1<<62 + 1), sample.IntValue(-5)}, append(notNumbers, sample.FloatValue(1e300))},
		{"boolean", false, opcuasim.Writable, sample.Bool, []sample.Value{sample.BoolValue(true), sample.BoolValue(false)}, []sample.Value{sample.IntValue(1), sample.StringValue("true")}},
		{"string", "", opcuasim.Writable, sample.String, []sample.Value{sample.StringValue("Süd"), sample.StringValue("")}, []sample.Value{sample.FloatValue(1), sample.StringValue("\xff")}},
	} {
		p.name += fmt.Sprint(nth)
		id := addNode(t, sim, opcuasim.Node{Name: p.name, Value: p.value, Access: p.access})
		target := cfg.NewTarget().(*Target)
		target.Address = id
		place := protocolstest.TargetPlace{
			Config: target, Kind: p.kind, Good: p.good, Unsuited: p.unsuited,
			Held: func() (sample.Value, error) { return held(sim, p.name) },
		}
		if p.access&opcuasim.WriteStatus != 0 {
			place.Valid = func() (bool, error) { return uint32(sim.Value(p.name).Status)&0x80000000 == 0, nil }
		} else {
			target.ValidityAddress = addNode(t, sim, opcuasim.Node{Name: p.name + " valid", Value: false})
			place.Valid = func() (bool, error) { return sim.Value(p.name + " valid").Value.Bool(), nil }
		}
		beat := any(uint16(0))
		if p.kind == sample.Bool {
			beat = uint32(0)
		}
		target.HeartbeatAddress = addNode(t, sim, opcuasim.Node{Name: p.name + " beat", Value: beat})
		place.Heartbeat = func() (uint16, error) { return uint16(sim.Value(p.name + " beat").Value.Uint()), nil }
		d.Places = append(d.Places, place)
	}
	d.Source = source1(map[string]string{"plant/line/double": d.Places[0].Config.(*Target).Address})
	return d
}

func TestTargets(t *testing.T) {
	l := &lab{Server: startSim(t, opcuasim.Options{})} // starting a server takes long
	protocolstest.RunTarget(t, protocolstest.TargetHarness{
		Protocol: Protocol{}, Limit: 150 * time.Millisecond,
		Start: func(t *testing.T) *protocolstest.TargetDevice {
			l.nth++
			return targetDevice(t, l.Server, l.nth)
		},
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			return &Target{Address: "s=", ValidityAddress: "ns=1;s=a", HeartbeatAddress: "ns=1;s=a", SourceTime: "always"}, sample.Float64,
				[]string{"address", "heartbeat_address", "source_time"}
		},
		IgnoreGoroutines: []string{"gopcua/opcua/server.", "opcuasim."},
	})
	for _, c := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"status and time go along where they may", testStatusAndTime},
		{"a server that claims too much", testClaims},
		{"what the server answers", testAnswers},
		{"a server that falls silent", testSilent},
		{"a connection that is lost in between", testLostInBetween},
		{"nodes that cannot be written", testUnfitNodes},
		{"a node that holds nothing yet", testEmptyNode},
		{"tell leaves what is not ours", testNotOurs},
		{"a value that cannot be called stale", testNoPlaceForValidity},
		{"rights are read anew", testRelearn},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, l) })
	}
}

// lab is a server on which each test has nodes of its own.
type lab struct {
	*opcuasim.Server
	nth int
}

// onSim is one target on a simulated node.
type onSim struct {
	protocols.Target
	*lab
	name   string // of the node
	health protocolstest.HealthRecorder
	log    logs
}

// target opens a target on a new node. change, where set, alters its settings.
func (l *lab) target(t *testing.T, n opcuasim.Node, change func(*Target)) *onSim {
	t.Helper()
	x := &onSim{lab: l}
	cfg := testConfig(l.URL())
	cfg.Timeout = 500 * time.Millisecond
	own := cfg.NewTarget().(*Target)
	own.Address, x.name = l.node(t, n)
	if change != nil {
		change(own)
	}
	l.ForgetWrites()
	conn := open(t, cfg, &x.log)
	var err error
	if x.Target, err = conn.OpenTarget(own, &x.health); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// node adds a node and returns its address and name.
func (l *lab) node(t *testing.T, n opcuasim.Node) (address, name string) {
	t.Helper()
	l.nth++
	n.Name = fmt.Sprint("n", l.nth)
	return addNode(t, l.Server, n), n.Name
}

func command(v sample.Value) protocols.Command {
	at := time.Date(2026, 2, 28, 12, 0, 0, 250e6, time.UTC)
	return protocols.Command{Value: v, Time: at, Version: 1, ValidUntil: at.Add(time.Hour)}
}

// fails checks a write that fails: how, and that one line says it.
func fails(t *testing.T, err error, outcome protocols.WriteOutcome, text string) {
	t.Helper()
	if err == nil || protocols.OutcomeOf(err) != outcome || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v: %v, want %v: %q", protocols.OutcomeOf(err), err, outcome, text)
	}
}

func testStatusAndTime(t *testing.T, l *lab) {
	for _, c := range []struct {
		access     opcuasim.Access
		sourceTime string
		status     bool
		stamp      bool
	}{
		{0, "auto", false, false},
		{opcuasim.WriteStatus, "auto", true, false},
		{opcuasim.WriteTime, "auto", false, true},
		{opcuasim.WriteStatus | opcuasim.WriteTime, "auto", true, true},
		{opcuasim.WriteStatus | opcuasim.WriteTime, "never", true, false},
	} {
		x := l.target(t, opcuasim.Node{Value: 1.0, Access: opcuasim.Writable | c.access}, func(o *Target) { o.SourceTime = c.sourceTime })
		cmd := command(sample.FloatValue(41.5))
		cmd.Quality = sample.Uncertain
		if err := x.Write(t.Context(), cmd); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		got := x.Written()
		if len(got) != 1 {
			t.Fatalf("%+v: %d values were written", c, len(got))
		}
		v := got[0].Value
		if status := v.EncodingMask&ua.DataValueStatusCode != 0; status != c.status || status && v.Status != ua.StatusUncertain {
			t.Errorf("%+v: status %v", c, v.Status)
		}
		if stamp := v.EncodingMask&ua.DataValueSourceTimestamp != 0; stamp != c.stamp || stamp && !v.SourceTimestamp.Equal(cmd.Time) {
			t.Errorf("%+v: time %v", c, v.SourceTimestamp)
		}
		r, err := x.Read(t.Context())
		if err != nil || r.Value != cmd.Value || r.SourceTime.Equal(cmd.Time) != c.stamp || r.Quality.IsUncertain() != c.status {
			t.Errorf("%+v: reads %+v, %v", c, r, err)
		}
	}
}

// A server that claims to take times and refuses them gets plain values, is
// asked once in a session, and that is said once.
func testClaims(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0, Access: opcuasim.Writable | opcuasim.WriteStatus | opcuasim.WriteTime, Plain: true}, nil)
	for i := range 3 {
		if err := x.Write(t.Context(), command(sample.FloatValue(float64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(x.Written()); got != 4 {
		t.Errorf("%d values were written, want 3 and the one that was refused", got)
	}
	if err := x.Tell(t.Context(), protocols.State{}); err != nil {
		t.Error(err)
	}
	if got := len(x.Written()); got != 4 {
		t.Errorf("a status is written that is not taken")
	}
	x.Stop()
	if err := x.Resume(); err != nil {
		t.Fatal(err)
	}
	retry(t, func() error { return x.Write(t.Context(), command(sample.FloatValue(9))) })
	if got := len(x.Written()); got != 6 {
		t.Errorf("%d values were written, want one more try in a new session", got)
	}
	said := 0
	for _, line := range x.log.all() {
		if strings.Contains(line, "refuses them") {
			said++
		}
	}
	if said != 1 {
		t.Errorf("it was said %d times", said)
	}
}

// retry does what may meet the end of a connection first.
func retry(t *testing.T, do func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = do(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func testAnswers(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0}, nil)
	for _, c := range []struct {
		code ua.StatusCode
		want protocols.WriteOutcome
	}{
		{ua.StatusBadTimeout, protocols.Unknown}, {ua.StatusBadCommunicationError, protocols.Unknown}, {ua.StatusBadDeviceFailure, protocols.Unknown},
		{ua.StatusGoodClamped, protocols.Unknown}, {ua.StatusUncertain, protocols.Unknown},
		{ua.StatusBadNotWritable, protocols.Rejected}, {ua.StatusBadTypeMismatch, protocols.Rejected}, {ua.StatusBadOutOfRange, protocols.Rejected},
		{ua.StatusBadWriteNotSupported, protocols.Rejected}, {ua.StatusBadNodeIDUnknown, protocols.Rejected}, {ua.StatusBadNotConnected, protocols.Rejected},
	} {
		x.Answer(c.code)
		fails(t, x.Write(t.Context(), command(sample.FloatValue(2))), c.want, "write node ")
	}
	x.Answer(ua.StatusGoodCompletesAsynchronously)
	if err := x.Write(t.Context(), command(sample.FloatValue(2))); err != nil {
		t.Error(err)
	}
	x.Answer(0)
	for _, c := range []struct {
		code ua.StatusCode
		want protocols.WriteOutcome
	}{
		{ua.StatusBadTooManyOperations, protocols.Rejected}, {ua.StatusBadServiceUnsupported, protocols.Rejected},
		{ua.StatusBadTimeout, protocols.Unknown}, {ua.StatusBadInternalError, protocols.Unknown}, {ua.StatusBadSessionIDInvalid, protocols.Unsent},
	} {
		x.Fault(c.code, 2) // of which the second is met where it is tried once more
		fails(t, x.Write(t.Context(), command(sample.FloatValue(2))), c.want, "write node ")
	}
	// A session that the server has ended is opened again at once, since nothing
	// was carried out.
	x.Fault(ua.StatusBadSessionIDInvalid, 1)
	if err := x.Write(t.Context(), command(sample.FloatValue(3))); err != nil {
		t.Error(err)
	}
	if v, err := held(x.Server, x.name); err != nil || v != sample.FloatValue(3) {
		t.Errorf("the node holds %v, %v", v, err)
	}
}

func testUnfitNodes(t *testing.T, l *lab) {
	beside := func(n opcuasim.Node) string {
		id, _ := l.node(t, n)
		return id
	}
	for _, c := range []struct {
		node   opcuasim.Node
		change func(*Target)
		v      sample.Value
		want   string
	}{
		{opcuasim.Node{Value: 1.0, Access: opcuasim.Readable}, nil, sample.FloatValue(1), "is not writable for our user: give it the right"},
		{opcuasim.Node{Value: 1.0, UserAccess: opcuasim.Readable}, nil, sample.FloatValue(1), "is not writable for our user: give it the right"},
		{opcuasim.Node{Value: []float64{1, 2}}, nil, sample.FloatValue(1), "is an array (ValueRank 1)"},
		{opcuasim.Node{Value: time.Now()}, nil, sample.StringValue("2026-01-01T00:00:00Z"), "does not fit a node of type DateTime"},
		{opcuasim.Node{DataType: 26}, nil, sample.FloatValue(1), "holds no value yet"},
		{opcuasim.Node{Value: 1.0}, func(o *Target) { o.Address += "x" }, sample.FloatValue(1), "the server has no such node"},
		{opcuasim.Node{Value: 1.0}, func(o *Target) { o.Address = "nsu=urn:x;s=a" }, sample.FloatValue(1), "the server has no namespace urn:x"},
		{opcuasim.Node{Value: 1.0}, func(o *Target) { o.ValidityAddress = beside(opcuasim.Node{Value: int32(1)}) }, sample.FloatValue(1), "is of type Int32 and no Boolean"},
		{opcuasim.Node{Value: 1.0}, func(o *Target) { o.ValidityAddress = beside(opcuasim.Node{Value: true, Access: opcuasim.Readable}) }, sample.FloatValue(1), "is not writable"},
		{opcuasim.Node{Value: 1.0}, func(o *Target) { o.HeartbeatAddress = beside(opcuasim.Node{Value: 1.0}) }, sample.FloatValue(1), "is of type Double and neither UInt16 nor UInt32"},
	} {
		x := l.target(t, c.node, c.change)
		_, err := x.Prepare(t.Context(), c.v)
		fails(t, err, protocols.Unsuited, c.want)
		fails(t, x.Write(t.Context(), command(c.v)), protocols.Unsuited, c.want)
		if n := x.WriteRequests(); n != 0 {
			t.Errorf("%s: %d requests have reached the server", c.want, n)
		}
	}
}

// A server that is connected and says nothing any more: the library ends the
// waiting, not the caller. What was carried out is read by a new session.
func testSilent(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0, Access: opcuasim.Writable | opcuasim.WriteStatus}, nil)
	if err := x.Write(t.Context(), command(sample.FloatValue(2))); err != nil {
		t.Fatal(err)
	}
	x.Silence(true)
	err := x.Write(t.Context(), command(sample.FloatValue(3)))
	x.Silence(false)
	fails(t, err, protocols.Unknown, "write node ")
	if !x.health.IsDown() {
		t.Errorf("health %v", x.health.Changes())
	}
	if r, err := x.Read(t.Context()); err != nil || r.Value != sample.FloatValue(3) {
		t.Errorf("reads %+v, %v", r, err)
	}
	if n := x.WriteRequests(); n != 2 || !x.health.IsUp() {
		t.Errorf("%d requests, health %v", n, x.health.Changes())
	}
	// What may have been written is ours to call stale.
	if err := x.Tell(t.Context(), protocols.State{}); err != nil {
		t.Fatal(err)
	}
	if v := x.Value(x.name); v.Status != ua.StatusBadOutOfService || v.Value.Value() != 3.0 {
		t.Errorf("stale, the node holds %v, %v", v.Value.Value(), v.Status)
	}
}

// A connection that breaks once the request is out, and before its answer.
func testLostInBetween(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0}, nil)
	if _, err := x.Prepare(t.Context(), sample.FloatValue(2)); err != nil {
		t.Fatal(err)
	}
	x.Silence(true)
	ended := make(chan error, 1)
	go func() { ended <- x.Write(t.Context(), command(sample.FloatValue(2))) }()
	for end := time.Now().Add(patience); x.WriteRequests() == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	x.Stop()
	err := <-ended
	x.Silence(false)
	fails(t, err, protocols.Unknown, "write node ")
	fails(t, x.Write(t.Context(), command(sample.FloatValue(3))), protocols.Unsent, "check that the server runs")
	if err := x.Resume(); err != nil {
		t.Fatal(err)
	}
	if r, err := x.Read(t.Context()); err != nil || r.Value != sample.FloatValue(2) || x.WriteRequests() != 1 {
		t.Errorf("reads %+v, %v, after %d requests", r, err, x.WriteRequests())
	}
}

// A node without a value is written by its data type.
func testEmptyNode(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{DataType: 3}, nil) // Byte
	_, err := x.Prepare(t.Context(), sample.IntValue(256))
	fails(t, err, protocols.Unsuited, "int64 256 does not fit a node of type Byte")
	if err := x.Write(t.Context(), command(sample.IntValue(200))); err != nil {
		t.Fatal(err)
	}
	if v := x.Value(x.name).Value.Value(); v != byte(200) {
		t.Errorf("it holds %v", v)
	}
}

// The validity is not told again and again; a status that a node has for
// reasons of its own, and a value that another one wrote, are left alone.
func testNotOurs(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0, Access: opcuasim.Writable | opcuasim.WriteStatus | opcuasim.WriteTime}, nil)
	tell := func(valid bool) {
		t.Helper()
		if err := x.Tell(t.Context(), protocols.State{Valid: valid}); err != nil {
			t.Fatal(err)
		}
	}
	// After a restart it is not known what was written: what stands there is stale.
	tell(false)
	tell(false)
	if n, s := x.WriteRequests(), x.Value(x.name).Status; n != 1 || s != ua.StatusBadOutOfService {
		t.Errorf("%d requests, status %v", n, s)
	}
	if err := x.Write(t.Context(), command(sample.FloatValue(2))); err != nil {
		t.Fatal(err)
	}
	tell(true)
	if n, s := x.WriteRequests(), x.Value(x.name).Status; n != 2 || s != 0 {
		t.Errorf("%d requests, status %v", n, s)
	}
	tell(false)
	if v := x.Value(x.name); !v.SourceTimestamp.Equal(command(sample.Value{}).Time) || v.Value.Value() != 2.0 {
		t.Errorf("marked stale it is %v of %s", v.Value.Value(), v.SourceTimestamp)
	}
	doubtful := command(sample.FloatValue(3))
	doubtful.Quality = sample.Uncertain
	if err := x.Write(t.Context(), doubtful); err != nil {
		t.Fatal(err)
	}
	tell(false)
	tell(true)
	if v := x.Value(x.name); v.Status != ua.StatusUncertain || v.Value.Value() != 3.0 {
		t.Errorf("valid again, it is %v, %v", v.Value.Value(), v.Status)
	}
	x.Set(x.name, 77.0, time.Now()) // an operator
	tell(true)
	tell(false)
	if v := x.Value(x.name); v.Value.Value() != 77.0 || v.Status != 0 {
		t.Errorf("the operator's value is %v, %v", v.Value.Value(), v.Status)
	}
	if lines := x.log.all(); len(lines) != 1 || !strings.Contains(lines[0], "another one has written the node") {
		t.Errorf("logged: %q", lines)
	}
}

// Where there is no place for it, that is said once, and nothing is written.
func testNoPlaceForValidity(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0}, nil)
	for _, valid := range []bool{true, false, true, false} {
		if err := x.Tell(t.Context(), protocols.State{Valid: valid}); err != nil {
			t.Error(err)
		}
	}
	if lines := x.log.all(); x.WriteRequests() != 0 || len(lines) != 1 || !strings.Contains(lines[0], "cannot see that the value is stale") {
		t.Errorf("%d requests, logged %q", x.WriteRequests(), lines)
	}
}

// Rights that are taken away on the server are seen before the next write.
func testRelearn(t *testing.T, l *lab) {
	x := l.target(t, opcuasim.Node{Value: 1.0}, nil)
	if _, err := x.Prepare(t.Context(), sample.FloatValue(1)); err != nil {
		t.Fatal(err)
	}
	own := x.Target.(*target)
	own.value.typ = ua.TypeIDString // as if the server had changed it
	if _, err := x.Prepare(t.Context(), sample.FloatValue(1)); err == nil {
		t.Error("what is known of the node is not kept")
	}
	own.value.learned = own.value.learned.Add(-relearn - time.Second)
	if _, err := x.Prepare(t.Context(), sample.FloatValue(1)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := x.Read(ctx)
	fails(t, err, protocols.Unsent, "nothing was sent")
	if !x.health.IsUp() {
		t.Errorf("a caller that gives up is no fault of the server: %v", x.health.Changes())
	}
}
