package opcua

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/internal/sim/opcuasim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

const patience = time.Minute

// startSim starts a server and stops it with the test.
func startSim(t testing.TB, o opcuasim.Options) *opcuasim.Server {
	t.Helper()
	sim, err := opcuasim.Start(o)
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

// add adds a variable and returns its address.
func add(t testing.TB, sim *opcuasim.Server, name string, v any) string {
	t.Helper()
	id, err := sim.Add(name, v)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// testConfig returns a configuration without security and with short times.
func testConfig(url string) *Config {
	c := Protocol{}.NewConfig().(*Config)
	c.URL = url
	c.Security = securityNone
	c.Timeout = 2 * time.Second
	return c
}

// running is a source that runs until stop is called or the test ends.
type running struct {
	protocolstest.Collector
	Health protocolstest.HealthRecorder
	conn   *connection
	stop   func()
	log    *logs
}

// logs keeps the messages that are logged.
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logs) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

// open opens a connection; before, where set, changes it first.
func open(t testing.TB, cfg *Config, l *logs) *connection {
	t.Helper()
	conn, err := cfg.Open(protocols.Settings{Site: "plant", Log: slog.New(slog.NewTextHandler(l, nil)), Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*connection)
}

func source1(addresses map[string]string) *protocols.SourceConfig {
	src := &protocols.SourceConfig{Name: "line", Device: "line", ScanRate: 20 * time.Millisecond}
	for name, a := range addresses {
		src.Tags = append(src.Tags, protocols.Tag{Name: name, Address: a})
	}
	return src
}

// run opens a source and runs it. change, where set, alters the connection
// before it runs.
func run(t testing.TB, cfg *Config, src *protocols.SourceConfig, change func(*connection)) *running {
	t.Helper()
	for _, f := range cfg.Validate(src) {
		t.Fatalf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	r := &running{log: new(logs)}
	r.conn = open(t, cfg, r.log)
	if change != nil {
		change(r.conn)
	}
	s, err := r.conn.OpenSource(src, &r.Health)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, r.Emit) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

// until waits for a sample that ok takes.
func (r *running) until(t testing.TB, what string, ok func(sample.Sample) bool) sample.Sample {
	t.Helper()
	var found sample.Sample
	if !r.Wait(patience, func(list []sample.Sample) bool {
		for _, s := range list {
			if ok(s) {
				found = s
				return true
			}
		}
		return false
	}) {
		t.Fatalf("%s: did not come within %s; health %v, samples %v", what, patience, r.Health.Changes(), r.Samples())
	}
	return found
}

func isValue(tag string, v sample.Value) func(sample.Sample) bool {
	return func(s sample.Sample) bool { return s.Tag == tag && s.Value == v && !s.Quality.IsBad() }
}

func TestSuite(t *testing.T) {
	protocolstest.Run(t, protocolstest.Harness{
		Protocol: Protocol{},
		Mode:     protocolstest.Subscribed,
		Start:    startSuiteDevice,
		Faulty: func() (protocols.Config, *protocols.SourceConfig, []string) {
			c := Protocol{}.NewConfig().(*Config)
			c.URL = "http://plc"
			c.Security = "Basic128Rsa15"
			c.QueueSize = 0
			return c, &protocols.SourceConfig{ScanRate: time.Second, Tags: []protocols.Tag{
				{Name: "plant/a/b", Address: "s=", Type: "real", Order: "ABCD"},
			}}, []string{"connection.url", "connection.security", "connection.queue_size", "tags[0].address", "tags[0].type", "tags[0].order"}
		},
		StopWithin: 5 * time.Second,
		// The simulated server's; our client leaves none.
		IgnoreGoroutines: []string{"gopcua/opcua/server.", "opcuasim."},
	})
}

func startSuiteDevice(t *testing.T) *protocolstest.Device {
	var sent atomic.Int64 // of the counter
	sim := startSim(t, opcuasim.Options{OnSent: func(v opcuasim.Sent) {
		if n, ok := v.Value.(int32); ok && strings.HasSuffix(v.Node, "s=count") {
			sent.Store(int64(n))
		}
	}})
	at := time.Now()
	initial := map[string]any{
		"bool": true, "sbyte": int8(-128), "byte": uint8(255), "int16": int16(-2), "uint16": uint16(65535), "int32": int32(-100000),
		"uint32": uint32(4294967295), "int64": int64(-9007199254740993), "uint64": uint64(9223372036854775807), "float": float32(0.1), "double": 230.1,
		"string": "Pumpe Süd", "time": time.Date(2024, 2, 29, 12, 0, 0, 500, time.UTC), "count": int32(1000),
	}
	want := map[string]sample.Value{
		"bool": sample.BoolValue(true), "sbyte": sample.IntValue(-128), "byte": sample.IntValue(255), "int16": sample.IntValue(-2), "uint16": sample.IntValue(65535),
		"int32": sample.IntValue(-100000), "uint32": sample.IntValue(4294967295), "int64": sample.IntValue(-9007199254740993),
		"uint64": sample.IntValue(9223372036854775807), "float": sample.FloatValue(0.1), "double": sample.FloatValue(230.1),
		"string": sample.StringValue("Pumpe Süd"), "time": sample.StringValue("2024-02-29T12:00:00.0000005Z"), "count": sample.IntValue(1000),
	}
	d := &protocolstest.Device{
		Config: testConfig(sim.URL()),
		Source: &protocols.SourceConfig{Name: "line", Device: "line", ScanRate: 20 * time.Millisecond},
		Want:   map[string]sample.Value{}, Counter: "plant/line/count",
	}
	for name, v := range initial {
		d.Source.Tags = append(d.Source.Tags, protocols.Tag{Name: "plant/line/" + name, Address: add(t, sim, name, v)})
		d.Want["plant/line/"+name] = want[name]
	}
	d.Publish = func(context.Context) error {
		at = at.Add(time.Millisecond)
		for name, v := range initial {
			sim.Set(name, v, at)
		}
		return nil
	}
	// The simulated server keeps one value per node between publishes, so the
	// next one waits until this one is out.
	d.Send = func(ctx context.Context, n int64) error {
		sim.Set("count", int32(n), time.Now())
		for sent.Load() != n {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		return nil
	}
	d.Stop = sim.Stop
	d.Resume = func() {
		if err := sim.Resume(); err != nil {
			panic(fmt.Sprintf("the test's port is gone: %v", err))
		}
	}
	return d
}

// startPlain returns the URL of a server that speaks None only.
func startPlain(t testing.TB) string { return startSim(t, opcuasim.Options{}).URL() }
