package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/internal/sim/mqttsim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

func startBroker(t testing.TB, o mqttsim.Options) *mqttsim.Broker {
	t.Helper()
	b, err := mqttsim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func testConfig(url string) *Config {
	c := Protocol{}.NewConfig().(*Config)
	c.URL = url
	return c
}

// quick makes a source connect again at once.
func quick(src protocols.Source) protocols.Source {
	src.(*source).wait = backoff.Policy{Base: 20 * time.Millisecond, Max: 100 * time.Millisecond}
	return src
}

func settings(t testing.TB) protocols.Settings {
	return protocols.Settings{Site: "plant", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: clock.System{}}
}

// until waits for what happens in other goroutines.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

const clientOfPump = "millrace-plant-pump"

func startDevice(t *testing.T) *protocolstest.Device {
	b := startBroker(t, mqttsim.Options{})
	tags := []protocols.Tag{
		{Name: "plant/pump/pressure", Address: "pump/pressure"},
		{Name: "plant/pump/run", Address: "pump/run", Type: "bool"},
		{Name: "plant/pump/mode", Address: "pump/mode", Type: "string"},
		{Name: "plant/pump/temp", Address: "pump/state#t.in", Type: "float"},
		{Name: "plant/pump/speed", Address: "pump/state#/t/rpm", Type: "int"},
		{Name: "plant/pump/count", Address: "pump/count", Type: "int"},
	}
	messages := map[string]string{
		"pump/pressure": "21.5", "pump/run": "true", "pump/mode": "auto {1}", "pump/state": `{"t":{"in":7,"rpm":1450}}`,
		"pump/count": `{"value": 1000}`, "hall/lamp/power": "60",
	}
	cfg := testConfig(b.URL())
	cfg.Topics = []Topic{{Filter: "hall/#"}}
	acknowledged := func(ctx context.Context) error {
		for b.InFlight(clientOfPump) > 0 {
			if !backoff.Sleep(ctx, time.Millisecond) {
				return fmt.Errorf("%d messages are not acknowledged", b.InFlight(clientOfPump))
			}
		}
		return nil
	}
	return &protocolstest.Device{
		Config: cfg,
		Source: &protocols.SourceConfig{Name: "pump", Device: "pump", Tags: tags, MaxTags: 100},
		Want: map[string]sample.Value{
			"plant/pump/pressure": sample.FloatValue(21.5),
			"plant/pump/run":      sample.BoolValue(true),
			"plant/pump/mode":     sample.StringValue("auto {1}"),
			"plant/pump/temp":     sample.FloatValue(7),
			"plant/pump/speed":    sample.IntValue(1450),
			"plant/pump/count":    sample.IntValue(1000),
			"plant/lamp/power":    sample.IntValue(60),
		},
		Publish: func(ctx context.Context) error {
			for topic, payload := range messages {
				if err := b.Publish(topic, []byte(payload), 1, false); err != nil {
					return err
				}
			}
			return acknowledged(ctx)
		},
		Counter: "plant/pump/count",
		Send: func(ctx context.Context, n int64) error {
			if err := b.Publish("pump/count", []byte(fmt.Sprint(n)), 1, false); err != nil {
				return err
			}
			return acknowledged(ctx)
		},
		Stop: b.Stop,
		Resume: func() {
			if err := b.Resume(); err != nil {
				panic(fmt.Sprintf("the test's port is gone: %v", err))
			}
		},
	}
}

func TestSuite(t *testing.T) {
	protocolstest.Run(t, protocolstest.Harness{
		Protocol:   Protocol{},
		Mode:       protocolstest.Acknowledged,
		Start:      startDevice,
		StopWithin: drainTime + 2*time.Second,
		Faulty: func() (protocols.Config, *protocols.SourceConfig, []string) {
			c := testConfig("http://broker")
			c.QoS = 2
			c.Topics = []Topic{{Filter: "a/#/b"}}
			return c, &protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/a/b", Address: "a/+/b"}}},
				[]string{"connection.url", "connection.qos", "connection.topics[0].filter", "tags[0].address"}
		},
		IgnoreGoroutines: []string{"mochi-mqtt/server"},
	})
}
