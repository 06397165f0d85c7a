package mqtt

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/internal/sim/mqttsim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// described returns settings of a target as the gateway hands them over.
func described(kind sample.Kind, change func(*Target)) *Target {
	o := new(Config).NewTarget().(*Target)
	o.Topic = "plant/setpoint"
	change(o)
	o.Describe(protocols.TargetInfo{Name: "sp", Kind: kind})
	return o
}

// shown is what a message on a topic shows, worked out without the code under
// test: the value of kind, and the validity of a JSON message.
func shown(payload []byte, format string, kind sample.Kind) (v sample.Value, valid bool, err error) {
	text := string(payload)
	if format == payloadJSON && len(payload) > 0 {
		var m struct {
			Value   json.RawMessage
			Valid   bool
			Quality string
			Version uint64
		}
		if err := json.Unmarshal(payload, &m); err != nil {
			return v, false, err
		}
		if m.Valid != (m.Quality == "Good") || m.Version == 0 {
			return v, false, fmt.Errorf("%s does not hold together", payload)
		}
		text, valid = string(m.Value), m.Valid
		if kind == sample.String {
			err = json.Unmarshal(m.Value, &text)
		}
	}
	var f float64
	var i int64
	var b bool
	switch {
	case len(payload) == 0:
	case kind == sample.Float64:
		err = json.Unmarshal([]byte(text), &f)
		v = sample.FloatValue(f)
	case kind == sample.Int64:
		err = json.Unmarshal([]byte(text), &i)
		v = sample.IntValue(i)
	case kind == sample.Bool:
		err = json.Unmarshal([]byte(text), &b)
		v = sample.BoolValue(b)
	default:
		v = sample.StringValue(text)
	}
	return v, valid, err
}

// ear is what devices have heard on topics.
type ear struct {
	mu   sync.Mutex
	last map[string][]byte
}

func (e *ear) hear(t *testing.T, b *mqttsim.Broker, topic string, answer func(payload []byte)) {
	if err := b.Watch(topic, func(payload []byte) {
		e.mu.Lock()
		e.last[topic] = append([]byte(nil), payload...)
		e.mu.Unlock()
		if answer != nil {
			answer(payload)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func (e *ear) heard(topic string) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last[topic]
}

func startTargets(t *testing.T) *protocolstest.TargetDevice {
	b := startBroker(t, mqttsim.Options{})
	cfg := testConfig(b.URL())
	d := &protocolstest.TargetDevice{
		Config: cfg, LoseAnswers: b.Silence, Stop: b.Stop,
		Writes: func() int { return len(b.Published()) },
		Resume: func() {
			if err := b.Resume(); err != nil {
				panic(fmt.Sprintf("the test's port is gone: %v", err))
			}
		},
		Source: &protocols.SourceConfig{Name: "pump", Device: "pump", Tags: []protocols.Tag{{Name: "plant/pump/sp", Address: "plant/0", Type: "float"}}},
	}
	devices := &ear{last: map[string][]byte{}}
	floats := []sample.Value{sample.FloatValue(41.5), sample.IntValue(3), sample.FloatValue(1e21), sample.FloatValue(-1e-9), sample.FloatValue(1_000_000)}
	for i, p := range []struct {
		kind     sample.Kind
		change   func(*Target)
		good     []sample.Value
		unsuited []sample.Value
	}{
		{sample.Float64, func(*Target) {}, floats, []sample.Value{sample.StringValue("41.5"), sample.BoolValue(true), sample.IntValue(1<<53 + 1), {}}},
		{sample.Float64, func(o *Target) { o.Format, o.ValidityTopic = payloadValue, "plant/valid" }, floats, []sample.Value{sample.StringValue("1")}},
		{sample.Int64, func(o *Target) { o.Retain, o.ConfirmTopic = false, "plant/confirm" },
			[]sample.Value{sample.IntValue(1<<62 + 1), sample.FloatValue(-5)}, []sample.Value{sample.FloatValue(41.5), sample.FloatValue(1e300)}},
		{sample.String, func(o *Target) { o.Format, o.QoS = payloadValue, 1 },
			[]sample.Value{sample.StringValue("Süd {1}"), sample.StringValue("{}")}, []sample.Value{sample.StringValue(""), sample.StringValue("\xff"), sample.IntValue(1)}},
		{sample.Bool, func(*Target) {}, []sample.Value{sample.BoolValue(true), sample.BoolValue(false)}, []sample.Value{sample.IntValue(1)}},
		{sample.String, func(*Target) {}, []sample.Value{sample.StringValue("\"a\"\n"), sample.StringValue("")}, []sample.Value{sample.StringValue("\xff")}},
	} {
		own := described(p.kind, func(o *Target) {
			o.Topic, o.HeartbeatTopic = fmt.Sprint("plant/", i), fmt.Sprint("plant/beat/", i)
			p.change(o)
		})
		var answer func([]byte)
		if own.ConfirmTopic != "" {
			answer = func(payload []byte) {
				if err := b.Publish(own.ConfirmTopic, payload, 1, true); err != nil {
					t.Error(err)
				}
			}
		}
		devices.hear(t, b, own.Topic, answer)
		devices.hear(t, b, own.HeartbeatTopic, nil)
		stands := func() []byte {
			if payload, ok := b.Retained(own.Topic); ok || own.Retain {
				return payload
			}
			return devices.heard(own.Topic)
		}
		place := protocolstest.TargetPlace{
			Config: own, Kind: p.kind, Good: p.good, Unsuited: p.unsuited,
			Held: func() (sample.Value, error) {
				v, _, err := shown(stands(), own.Format, p.kind)
				return v, err
			},
			Heartbeat: func() (n uint16, err error) {
				_, err = fmt.Sscan(string(devices.heard(own.HeartbeatTopic)), &n)
				return n, err
			},
			Emptied: own.Format == payloadValue && own.ValidityTopic == "",
		}
		switch {
		case own.ValidityTopic != "":
			place.Valid = func() (v bool, err error) {
				payload, _ := b.Retained(own.ValidityTopic)
				_, err = fmt.Sscan(string(payload), &v)
				return v, err
			}
		case own.Format == payloadJSON:
			place.Valid = func() (bool, error) {
				_, valid, err := shown(stands(), own.Format, p.kind)
				return valid, err
			}
		}
		d.Places = append(d.Places, place)
	}
	return d
}

func TestTargets(t *testing.T) {
	protocolstest.RunTarget(t, protocolstest.TargetHarness{
		Protocol: Protocol{}, Start: startTargets, Limit: 150 * time.Millisecond,
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			return &Target{Topic: "a/+", Format: "sparkplug", QoS: 2, ValidityTopic: "v", HeartbeatTopic: "v"}, sample.Float64,
				[]string{"topic", "format", "qos", "heartbeat_topic", "confirm_topic"}
		},
		IgnoreGoroutines: []string{"mochi-mqtt/server"},
	})
}

// onBroker is one target at a broker.
type onBroker struct {
	protocols.Target
	b      *mqttsim.Broker
	health protocolstest.HealthRecorder
	log    strings.Builder
}

func openTarget(t *testing.T, b *mqttsim.Broker, own *Target) *onBroker {
	t.Helper()
	x := &onBroker{b: b}
	conn, err := testConfig(b.URL()).Open(protocols.Settings{Site: "plant", Log: slog.New(slog.NewTextHandler(&x.log, nil)), Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	if x.Target, err = conn.(protocols.TargetOpener).OpenTarget(own, &x.health); err != nil {
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

func command(v sample.Value) protocols.Command {
	at := time.Date(2026, 11, 28, 12, 0, 0, 250e6, time.UTC)
	return protocols.Command{Value: v, Time: at, Version: 17, ValidUntil: at.Add(10 * time.Minute)}
}

func (x *onBroker) tell(t *testing.T, valid bool) {
	t.Helper()
	if err := x.Tell(t.Context(), protocols.State{Valid: valid}); err != nil {
		t.Fatal(err)
	}
}

const (
	goodMessage  = `{"value":41.5,"valid":true,"quality":"Good","time":"2026-11-28T12:00:00.25Z","version":17,"valid_until":"2026-11-28T12:10:00.25Z"}`
	staleMessage = `{"value":41.5,"valid":false,"quality":"Bad","time":"2026-11-28T12:00:00.25Z","version":17,"valid_until":"2026-11-28T12:10:00.25Z"}`
)

// What is retained must not look good once it is stale, also when the mirror
// was started anew in between.
func TestWhatIsRetainedGoesStale(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	x := openTarget(t, b, described(sample.Float64, func(*Target) {}))
	if r, err := x.Read(t.Context()); err != nil || !r.Quality.IsBad() || r.Value.Kind() != sample.Null {
		t.Errorf("before the first write: %+v, %v", r, err)
	}
	if err := x.Write(t.Context(), command(sample.FloatValue(41.5))); err != nil {
		t.Fatal(err)
	}
	retained := func(want string) {
		t.Helper()
		if got, _ := b.Retained("plant/setpoint"); string(got) != want {
			t.Errorf("retained:\n%s, want\n%s", got, want)
		}
	}
	retained(goodMessage)
	for _, p := range b.Published() {
		if p.QoS != 1 || !p.Retain {
			t.Errorf("published with QoS %d, retain %t", p.QoS, p.Retain)
		}
	}
	if r, err := x.Read(t.Context()); err != nil || r.Version != 17 || !r.SourceTime.Equal(command(sample.Value{}).Time) {
		t.Errorf("reads %+v, %v", r, err)
	}
	again := openTarget(t, b, described(sample.Float64, func(*Target) {}))
	again.tell(t, false)
	retained(staleMessage)
	if r, err := again.Read(t.Context()); err != nil || !r.Quality.IsBad() || r.Value != sample.FloatValue(41.5) {
		t.Errorf("stale, it reads %+v, %v", r, err)
	}
	n := len(b.Published())
	again.tell(t, false)
	if got := len(b.Published()); got != n {
		t.Errorf("the same validity is published again, %d messages", got-n)
	}
	x.tell(t, true) // it wrote last, and has said so already
	retained(staleMessage)
	x.tell(t, false)
	x.tell(t, true)
	retained(goodMessage)
	// What another one publishes is left alone.
	if err := b.Publish("plant/setpoint", []byte(`{"value":1}`), 1, true); err != nil {
		t.Fatal(err)
	}
	openTarget(t, b, described(sample.Float64, func(*Target) {})).tell(t, false)
	retained(`{"value":1}`)
}

// A write whose outcome is not known leaves open what stands at the broker: the
// value before it must not come back when the validity ends.
func TestAnUnknownWriteIsNotUndone(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	x := openTarget(t, b, described(sample.Float64, func(*Target) {}))
	if err := x.Write(t.Context(), command(sample.FloatValue(1))); err != nil {
		t.Fatal(err)
	}
	b.Silence(true)
	limited, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := x.Write(limited, command(sample.FloatValue(41.5))); protocols.OutcomeOf(err) != protocols.Unknown || err == nil {
		t.Errorf("got %v", err)
	}
	b.Silence(false)
	x.tell(t, false)
	if got, _ := b.Retained("plant/setpoint"); string(got) != staleMessage {
		t.Errorf("retained: %s", got)
	}
}

// A connection that breaks once the message is out, and before its
// acknowledgement.
func TestAConnectionThatIsLostInBetween(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	x := openTarget(t, b, described(sample.Float64, func(*Target) {}))
	if _, err := x.Read(t.Context()); err != nil { // it connects
		t.Fatal(err)
	}
	b.Silence(true)
	ended := make(chan error, 1)
	go func() { ended <- x.Write(t.Context(), command(sample.FloatValue(41.5))) }()
	until(t, "the message is out", func() bool { return len(b.Published()) == 1 })
	b.Drop()
	err := <-ended
	b.Silence(false)
	if protocols.OutcomeOf(err) != protocols.Unknown || err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if r, err := x.Read(t.Context()); err != nil || r.Value != sample.FloatValue(41.5) || len(b.Published()) != 1 {
		t.Errorf("reads %+v, %v, after %d messages", r, err, len(b.Published()))
	}
}

// A broker that does not let the topic be read makes writes unverifiable.
func TestATopicThatMayNotBeRead(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	b.RefuseSubscription("plant/setpoint", true)
	x := openTarget(t, b, described(sample.Float64, func(*Target) {}))
	err := x.Write(t.Context(), command(sample.FloatValue(1)))
	if protocols.OutcomeOf(err) != protocols.Unsent || !strings.Contains(errText(err), "so no write could be verified; allow user") || len(b.Published()) != 0 {
		t.Errorf("got %v, %d messages", err, len(b.Published()))
	}
	if !x.health.IsDown() {
		t.Errorf("health %v", x.health.Changes())
	}
}

// Plain values that are not retained have no place for their validity.
func TestAPlainValueThatCannotBeCalledStale(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	x := openTarget(t, b, described(sample.Float64, func(o *Target) { o.Format, o.Retain, o.ConfirmTopic = payloadValue, false, "plant/is" }))
	if err := x.Write(t.Context(), command(sample.FloatValue(1))); err != nil {
		t.Fatal(err)
	}
	for _, confirmed := range []string{"7", " 7.0\n", `{"value":7}`, `{"value":"7"}`} {
		if err := b.Publish("plant/is", []byte(confirmed), 1, false); err != nil {
			t.Fatal(err)
		}
		until(t, "it is read", func() bool {
			r, err := x.Read(t.Context())
			return err == nil && r.Value == sample.FloatValue(7)
		})
		if err := b.Publish("plant/is", []byte("8"), 1, false); err != nil {
			t.Fatal(err)
		}
		until(t, "the next one is read", func() bool {
			r, err := x.Read(t.Context())
			return err == nil && r.Value == sample.FloatValue(8)
		})
	}
	if err := b.Publish("plant/is", []byte("warm"), 1, false); err != nil {
		t.Fatal(err)
	}
	until(t, "it is refused", func() bool {
		_, err := x.Read(t.Context())
		return strings.Contains(errText(err), `topic plant/is: the message there cannot be read: "warm" is not a float`)
	})
	x.tell(t, false)
	x.tell(t, true)
	x.tell(t, false)
	if n := strings.Count(x.log.String(), "cannot see that it is stale"); n != 1 || len(b.Published()) != 1 {
		t.Errorf("%d messages, logged %d times", len(b.Published()), n)
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add([]byte(goodMessage))
	f.Add([]byte(`{"value":"x","valid":false}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parseNote(data, sample.Null)
		if err != nil || n.value.Kind() == sample.Null {
			return
		}
		again, err := parseNote(n.append(nil), n.value.Kind())
		if err != nil || again.value != n.value || again.version != n.version || again.valid != n.valid || !again.time.Equal(n.time) {
			t.Errorf("%s becomes %s: %+v, %v", data, n.append(nil), again, err)
		}
	})
}

// At QoS 0 nobody acknowledges, and only reading back tells.
func TestTargetAtQoSZero(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	x := openTarget(t, b, described(sample.Float64, func(o *Target) { o.QoS = 0 }))
	if err := x.Write(t.Context(), command(sample.FloatValue(41.5))); err != nil {
		t.Fatal(err)
	}
	until(t, "it is read back", func() bool {
		r, err := x.Read(t.Context())
		return err == nil && r.Value == sample.FloatValue(41.5)
	})
	if p := b.Published(); len(p) != 1 || p[0].QoS != 0 || !p[0].Retain {
		t.Errorf("published: %+v", p)
	}
	b.Stop()
	until(t, "that nothing can be sent", func() bool {
		return protocols.OutcomeOf(x.Write(t.Context(), command(sample.FloatValue(1)))) == protocols.Unsent
	})
}
