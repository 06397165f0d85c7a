//go:build interop

package interop

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/internal/secret"
	"millrace/protocols"
	"millrace/protocols/mqtt"
	"millrace/sample"
)

// publisher is a device that publishes to a broker.
type publisher struct {
	t      *testing.T
	client paho.Client
}

func publish(t *testing.T, url string, change ...func(*paho.ClientOptions)) *publisher {
	t.Helper()
	o := paho.NewClientOptions().AddBroker(url).SetClientID(fmt.Sprintf("device-%d", time.Now().UnixNano())).SetAutoReconnect(false)
	for _, f := range change {
		f(o)
	}
	p := &publisher{t: t, client: paho.NewClient(o)}
	token := p.client.Connect()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("the device cannot connect: %v", token.Error())
	}
	t.Cleanup(func() { p.client.Disconnect(100) })
	return p
}

func (p *publisher) send(topic string, qos byte, payload string) {
	p.t.Helper()
	token := p.client.Publish(topic, qos, false, payload)
	if !token.WaitTimeout(patience) || token.Error() != nil {
		p.t.Errorf("publish to %s: %v", topic, token.Error())
	}
}

func mqttConfig(url string) *mqtt.Config {
	cfg := mqtt.Protocol{}.NewConfig().(*mqtt.Config)
	cfg.URL = url
	return cfg
}

func (b *broker) url(scheme string) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, b.port) }

func TestMQTTReadsValuesFromMosquitto(t *testing.T) {
	b := startBroker(t, "allow_anonymous true")
	for qos := range 2 {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			cfg := mqttConfig(b.url("tcp"))
			cfg.QoS = qos
			cfg.Topics = []mqtt.Topic{{Filter: "sensors/+/+"}}
			src := &protocols.SourceConfig{Name: fmt.Sprintf("mosquitto-%d", qos), Device: "boiler", MaxTags: 100, Tags: []protocols.Tag{
				{Name: "plant/boiler/float", Address: "boiler/float"},
				{Name: "plant/boiler/int", Address: "boiler/int", Type: "int"},
				{Name: "plant/boiler/bool", Address: "boiler/bool", Type: "bool"},
				{Name: "plant/boiler/string", Address: "boiler/string", Type: "string"},
				{Name: "plant/boiler/temp", Address: "boiler/state#data.temp", Type: "float"},
				{Name: "plant/boiler/mode", Address: "boiler/state#data.mode", Type: "string"},
			}}
			r := run(t, cfg, src)
			ready(t, "the source is subscribed", r.Health.IsUp)
			device := publish(t, b.url("tcp"))
			device.send("boiler/float", byte(qos), "-12.5e-3")
			device.send("boiler/int", byte(qos), "9223372036854775807")
			device.send("boiler/bool", byte(qos), "true")
			device.send("boiler/string", byte(qos), "Kessel läuft")
			device.send("boiler/state", byte(qos), `{"data": {"temp": 71.25, "mode": "auto"}, "more": [1, 2]}`)
			device.send("sensors/hall/humidity", byte(qos), `{"value": 55.5, "time": "2026-11-23T10:00:00.25Z"}`)
			device.send("sensors/hall/door", byte(qos), "7.5")
			r.expect(t, map[string]sample.Value{
				"plant/boiler/float":  sample.FloatValue(-12.5e-3),
				"plant/boiler/int":    sample.IntValue(9223372036854775807),
				"plant/boiler/bool":   sample.BoolValue(true),
				"plant/boiler/string": sample.StringValue("Kessel läuft"),
				"plant/boiler/temp":   sample.FloatValue(71.25),
				"plant/boiler/mode":   sample.StringValue("auto"),
				"plant/hall/humidity": sample.FloatValue(55.5),
				"plant/hall/door":     sample.FloatValue(7.5),
			})
			at := time.Date(2026, 11, 23, 10, 0, 0, 250e6, time.UTC).UnixNano()
			for _, s := range r.Samples() {
				if s.Tag == "plant/hall/humidity" && s.SourceTime != at {
					t.Errorf("the device's time is %d, want %d", s.SourceTime, at)
				}
			}
		})
	}
}

func TestMQTTSpeaksTLSWithAPasswordToMosquitto(t *testing.T) {
	id := selfSigned(t, "127.0.0.1", "urn:millrace:interop:broker")
	b := startBroker(t, "allow_anonymous false", "password_file "+passwords(t, "gateway", "pass word:ü"), "certfile "+id.Cert, "keyfile "+id.Key)
	source := func(password, ca string) *running {
		cfg := mqttConfig(b.url("ssl"))
		cfg.TLS.CA = ca
		cfg.Username = "gateway"
		var ref secret.Ref
		if err := ref.UnmarshalText([]byte("file:" + write(t, "password", "%s\n", password))); err != nil {
			t.Fatal(err)
		}
		cfg.Password = ref
		return run(t, cfg, &protocols.SourceConfig{Name: "tls", Device: "d", Tags: []protocols.Tag{{Name: "plant/d/v", Address: "d/v", Type: "float"}}})
	}

	wrong := source("wrong", id.Cert)
	ready(t, "a wrong password is reported", wrong.Health.IsDown)
	wrong.stop()
	stranger := selfSigned(t, "127.0.0.1", "urn:millrace:interop:stranger")
	untrusted := source("pass word:ü", stranger.Cert)
	ready(t, "an authority that is not trusted is reported", untrusted.Health.IsDown)
	untrusted.stop()

	r := source("pass word:ü", id.Cert)
	ready(t, "the source is subscribed", r.Health.IsUp)
	pem, err := os.ReadFile(id.Cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	device := publish(t, b.url("ssl"), func(o *paho.ClientOptions) {
		o.SetUsername("gateway").SetPassword("pass word:ü").SetTLSConfig(&tls.Config{RootCAs: pool})
	})
	device.send("d/v", 1, "42.5")
	r.expect(t, map[string]sample.Value{"plant/d/v": sample.FloatValue(42.5)})
}

// sessionSource is a source with a persistent session.
func sessionSource(t *testing.T, b *broker) *running {
	return run(t, mqttConfig(b.url("tcp")), &protocols.SourceConfig{Name: "session", Device: "d",
		Tags: []protocols.Tag{{Name: "plant/d/n", Address: "d/n", Type: "int"}}})
}

// numbers lists the values of the Good samples in their order, each once.
func numbers(list []sample.Sample) []int64 {
	var out []int64
	seen := map[int64]bool{}
	for i := range list {
		if n := list[i].Value.Int(); list[i].Quality.IsGood() && !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

func (r *running) expectNumbers(t *testing.T, from, to int64) {
	t.Helper()
	r.Wait(patience, func(list []sample.Sample) bool { return int64(len(numbers(list))) >= to-from+1 })
	got := map[int64]bool{}
	for _, n := range numbers(r.Samples()) {
		got[n] = true
	}
	for n := from; n <= to; n++ {
		if !got[n] {
			t.Errorf("message %d did not arrive", n)
		}
	}
}

// What is published while the gateway is stopped waits at the broker.
func TestMQTTSessionSurvivesAStopOfTheGateway(t *testing.T) {
	b := startBroker(t, "allow_anonymous true")
	first := sessionSource(t, b)
	ready(t, "the source is subscribed", first.Health.IsUp)
	device := publish(t, b.url("tcp"))
	device.send("d/n", 1, "1")
	first.expectNumbers(t, 1, 1)
	first.stop()
	for n := 2; n <= 50; n++ {
		device.send("d/n", 1, fmt.Sprint(n))
	}
	second := sessionSource(t, b)
	second.expectNumbers(t, 2, 50)
	for _, n := range numbers(second.Samples()) {
		if n == 1 {
			t.Error("a message that was acknowledged came again")
		}
	}
}

// A message is acknowledged only once it is durable: what was not comes again,
// after a stop of the gateway and after one of the broker.
func TestMQTTUnacknowledgedMessagesComeAgainFromMosquitto(t *testing.T) {
	b := startBroker(t, "allow_anonymous true")
	first := sessionSource(t, b)
	ready(t, "the source is subscribed", first.Health.IsUp)
	first.Hold() // nothing becomes durable, and what comes after it waits
	device := publish(t, b.url("tcp"))
	for n := 1; n <= 10; n++ {
		device.send("d/n", 1, fmt.Sprint(n))
	}
	first.expectNumbers(t, 1, 1)
	first.stop()

	second := sessionSource(t, b)
	second.Hold()
	second.expectNumbers(t, 1, 1)
	b.restart()
	ready(t, "the source is subscribed again", func() bool {
		c := second.Health.Changes()
		return len(c) >= 3 && c[len(c)-1] == nil
	})
	// The broker has sent what is held again. It is recognised, so it is not
	// stored twice, and is acknowledged on the new connection.
	second.Confirm()
	second.expectNumbers(t, 1, 10)
	if n := len(numbers(second.Samples())); n != 10 {
		t.Errorf("ten messages were stored as %d samples", n)
	}
	third := publish(t, b.url("tcp"))
	third.send("d/n", 1, "11")
	second.expectNumbers(t, 1, 11)
	time.Sleep(time.Second) // for the last acknowledgements to reach the broker
	second.stop()

	last := sessionSource(t, b)
	ready(t, "the source is subscribed", last.Health.IsUp)
	again := publish(t, b.url("tcp"))
	again.send("d/n", 1, "12")
	last.expectNumbers(t, 12, 12)
	for _, n := range numbers(last.Samples()) {
		if n < 12 {
			t.Errorf("message %d came again after it was acknowledged", n)
		}
	}
}

// While the broker is away the tags are Bad, and they are Good after it.
func TestMQTTReconnectsToMosquitto(t *testing.T) {
	b := startBroker(t, "allow_anonymous true")
	r := sessionSource(t, b)
	ready(t, "the source is subscribed", r.Health.IsUp)
	b.kill()
	ready(t, "the broker is reported away", r.Health.IsDown)
	if !r.Wait(patience, func(list []sample.Sample) bool { return len(list) > 0 && list[len(list)-1].Quality.IsBad() }) {
		t.Error("no Bad sample while the broker is away")
	}
	b.start()
	ready(t, "the source is subscribed again", r.Health.IsUp)
	publish(t, b.url("tcp")).send("d/n", 1, "5")
	r.expectNumbers(t, 5, 5)
}

// What a target publishes another client gets, now and later; the broker's
// retained message is what is read back, across a restart of the broker.
func TestMQTTTargetPublishesToMosquitto(t *testing.T) {
	b := startBroker(t, "allow_anonymous true")
	device := publish(t, b.url("tcp"))
	got := make(chan paho.Message, 100)
	listen := func(topic string) {
		t.Helper()
		token := device.client.Subscribe(topic, 1, func(_ paho.Client, m paho.Message) { got <- m })
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	receives := func(topic, want string) {
		t.Helper()
		for {
			select {
			case m := <-got:
				if m.Topic() == topic && string(m.Payload()) == want {
					return
				}
			case <-time.After(patience):
				t.Errorf("the device does not get %q on %s", want, topic)
				return
			}
		}
	}
	r := sessionSource(t, b)
	cfg := mqttConfig(b.url("tcp"))
	target := func(kind sample.Kind, change func(*mqtt.Target)) protocols.Target {
		own := cfg.NewTarget().(*mqtt.Target)
		change(own)
		return openTarget(t, r, own, kind)
	}
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	command := func(v sample.Value) protocols.Command {
		return protocols.Command{Value: v, Time: at, Version: 17, ValidUntil: at.Add(time.Minute)}
	}
	const (
		good  = `{"value":41.5,"valid":true,"quality":"Good","time":"2026-11-28T12:00:00Z","version":17,"valid_until":"2026-11-28T12:01:00Z"}`
		stale = `{"value":41.5,"valid":false,"quality":"Bad","time":"2026-11-28T12:00:00Z","version":17,"valid_until":"2026-11-28T12:01:00Z"}`
	)

	listen("sp/#")
	json := target(sample.Float64, func(o *mqtt.Target) { o.Topic, o.HeartbeatTopic = "sp/json", "sp/beat" })
	if read, err := json.Read(t.Context()); err != nil || !read.Quality.IsBad() {
		t.Errorf("before the first write it reads %+v, %v", read, err)
	}
	if err := json.Write(t.Context(), command(sample.FloatValue(41.5))); err != nil {
		t.Fatal(err)
	}
	receives("sp/json", good)
	b.restart() // its state is on its disk
	var read protocols.Reading
	ready(t, "the broker's retained message is read back", func() (ok bool) {
		var err error
		read, err = json.Read(t.Context())
		return err == nil && read.Value == sample.FloatValue(41.5)
	})
	if read.Quality.IsBad() || read.Version != 17 || !read.SourceTime.Equal(at) {
		t.Errorf("it reads %+v", read)
	}
	device = publish(t, b.url("tcp"))
	listen("sp/#")
	receives("sp/json", good)
	if err := json.Tell(t.Context(), protocols.State{Heartbeat: 65535}); err != nil {
		t.Fatal(err)
	}
	receives("sp/beat", "65535")
	receives("sp/json", stale)
	if read, err := json.Read(t.Context()); err != nil || !read.Quality.IsBad() {
		t.Errorf("stale, it reads %+v, %v", read, err)
	}

	plain := target(sample.Int64, func(o *mqtt.Target) { o.Topic, o.Format = "sp/plain", "value" })
	if err := plain.Write(t.Context(), command(sample.IntValue(1<<62+1))); err != nil {
		t.Fatal(err)
	}
	receives("sp/plain", "4611686018427387905")
	if read, err := plain.Read(t.Context()); err != nil || read.Value != sample.IntValue(1<<62+1) {
		t.Errorf("it reads %+v, %v", read, err)
	}
	if err := plain.Tell(t.Context(), protocols.State{}); err != nil {
		t.Fatal(err)
	}
	receives("sp/plain", "")
	if read, err := plain.Read(t.Context()); err != nil || !read.Quality.IsBad() || read.Value.Kind() != sample.Null {
		t.Errorf("taken away, it reads %+v, %v", read, err)
	}

	confirmed := target(sample.Float64, func(o *mqtt.Target) { o.Topic, o.Retain, o.ConfirmTopic = "sp/live", false, "is/live" })
	if err := confirmed.Write(t.Context(), command(sample.FloatValue(7))); err != nil {
		t.Fatal(err)
	}
	device.send("is/live", 1, "7.0")
	ready(t, "the device's confirmation is read", func() bool {
		read, err := confirmed.Read(t.Context())
		return err == nil && read.Value == sample.FloatValue(7)
	})
}

// Mosquitto acknowledges what its access list forbids, and drops it: only
// reading back tells.
func TestMQTTTargetAgainstTheAccessListOfMosquitto(t *testing.T) {
	for _, list := range []string{"topic write sp/json", "topic read sp/json"} {
		b := startBroker(t, "allow_anonymous true", "acl_file "+write(t, "acl", "topic read d/n\n%s\n", list))
		r := sessionSource(t, b)
		own := mqttConfig(b.url("tcp")).NewTarget().(*mqtt.Target)
		own.Topic = "sp/json"
		target := openTarget(t, r, own, sample.Float64)
		if err := target.Write(t.Context(), protocols.Command{Value: sample.FloatValue(1), Version: 1}); err != nil {
			continue // another version may say so
		}
		if read, err := target.Read(t.Context()); err == nil && !read.Quality.IsBad() {
			t.Errorf("%s: it reads %+v", list, read)
		}
	}
}
