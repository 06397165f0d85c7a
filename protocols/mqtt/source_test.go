package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/sim/mqttsim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// wireLog keeps what the broker sent and what was acknowledged, in order.
type wireLog struct {
	mu   sync.Mutex
	sent []mqttsim.Sent
	acks []mqttsim.Ack
}

func (l *wireLog) options() mqttsim.Options {
	return mqttsim.Options{
		OnSent: func(s mqttsim.Sent) { l.mu.Lock(); defer l.mu.Unlock(); l.sent = append(l.sent, s) },
		OnAck:  func(a mqttsim.Ack) { l.mu.Lock(); defer l.mu.Unlock(); l.acks = append(l.acks, a) },
	}
}

func (l *wireLog) acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

func (l *wireLog) count(sent func(mqttsim.Sent) bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, s := range l.sent {
		if sent(s) {
			n++
		}
	}
	return n
}

// running is a source that runs.
type running struct {
	*protocolstest.Collector
	health *protocolstest.HealthRecorder
	stop   func() error
}

var pumpTags = []protocols.Tag{{Name: "plant/pump/a", Address: "pump/a"}, {Name: "plant/pump/b", Address: "pump/b"}}

func run(t *testing.T, cfg *Config, emit protocols.Emit) *running {
	t.Helper()
	conn, err := cfg.Open(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Collector: &protocolstest.Collector{}, health: &protocolstest.HealthRecorder{}}
	src, err := conn.OpenSource(&protocols.SourceConfig{Name: "pump", MaxTags: 100, Tags: pumpTags}, r.health)
	if err != nil {
		t.Fatal(err)
	}
	if emit == nil {
		emit = r.Emit
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- quick(src).Run(ctx, emit) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return r
}

func publish(t testing.TB, b *mqttsim.Broker, topic, payload string, qos byte) {
	t.Helper()
	if err := b.Publish(topic, []byte(payload), qos, false); err != nil {
		t.Fatal(err)
	}
}

func TestAcknowledgedOnlyWhenDurable(t *testing.T) {
	var log wireLog
	b := startBroker(t, log.options())
	r := run(t, testConfig(b.URL()), nil)
	until(t, "up", r.health.IsUp)
	r.Hold()
	for i := range 5 {
		publish(t, b, "pump/a", fmt.Sprint(i), 1)
	}
	until(t, "emitted", func() bool { return len(r.Samples()) > 0 })
	time.Sleep(50 * time.Millisecond) // an acknowledgement that comes too early would come now
	if n := log.acked(); n != 0 {
		t.Fatalf("%d messages are acknowledged before their samples are durable", n)
	}
	r.Confirm()
	until(t, "all are acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 })
	log.mu.Lock()
	defer log.mu.Unlock()
	var order []uint16
	for _, a := range log.acks {
		order = append(order, a.ID)
	}
	for i := range order {
		if order[i] != log.sent[i].ID {
			t.Errorf("acknowledged in the order %v, sent %d as number %d", order, log.sent[i].ID, i)
		}
	}
}

// TestRefusedIsKeptAndTriedAgain also keeps the order of what waits.
func TestRefusedIsKeptAndTriedAgain(t *testing.T) {
	for _, late := range []bool{false, true} {
		var log wireLog
		b := startBroker(t, log.options())
		r := run(t, testConfig(b.URL()), nil)
		until(t, "up", r.health.IsUp)
		r.Refuse(&protocols.RefusedError{Reason: "the spool is full", RetryAfter: 20 * time.Millisecond}, late)
		for i := range 20 {
			publish(t, b, "pump/a", fmt.Sprint(i), 1)
		}
		time.Sleep(100 * time.Millisecond) // several tries
		if n := log.acked(); n != 0 {
			t.Fatalf("late %t: %d messages are acknowledged although they are refused", late, n)
		}
		r.Refuse(nil, false)
		until(t, "all are acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 })
		got := r.Samples()
		for i := range got {
			if got[i].Value != sample.IntValue(int64(i)) {
				t.Fatalf("late %t: sample %d is %s", late, i, got[i].Value)
			}
		}
		if len(got) != 20 || log.count(func(s mqttsim.Sent) bool { return s.Dup }) != 0 {
			t.Errorf("late %t: %d samples, want 20 that were sent once", late, len(got))
		}
	}
}

// TestOneRefusedForGood has one message among many that is never taken.
func TestOneRefusedForGood(t *testing.T) {
	var log wireLog
	b := startBroker(t, log.options())
	cfg := testConfig(b.URL())
	cfg.Topics = []Topic{{Filter: "dyn/#"}}
	var taken protocolstest.Collector
	gate := make(chan struct{})
	r := run(t, cfg, func(ctx context.Context, batch []sample.Sample, done func(error)) error {
		<-gate
		for _, s := range batch {
			if s.Tag == "plant/dyn/bad" {
				return &protocols.RefusedError{Reason: "too many tags"}
			}
		}
		return taken.Emit(ctx, batch, done)
	})
	until(t, "up", r.health.IsUp)
	for i := range 40 {
		topic := "pump/a"
		if i%7 == 3 {
			topic = "dyn/bad"
		}
		publish(t, b, topic, fmt.Sprint(i), 1)
	}
	close(gate)
	until(t, "all are acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 })
	last := int64(-1)
	for _, s := range taken.Samples() {
		if n := s.Value.Int(); n%7 == 3 || n <= last {
			t.Errorf("value %d is out of place after %d", n, last)
		} else {
			last = n
		}
	}
	if n := len(taken.Samples()); n != 34 {
		t.Errorf("%d samples were taken, want 34", n)
	}
}

// TestBrokerRestart has messages that wait at the broker while it is away for
// the source, and messages that are in the source while it is away.
func TestBrokerRestart(t *testing.T) {
	var log wireLog
	b := startBroker(t, log.options())
	r := run(t, testConfig(b.URL()), nil)
	until(t, "up", r.health.IsUp)
	r.Hold()
	publish(t, b, "pump/a", "1", 1)
	until(t, "emitted", func() bool { return len(r.Samples()) == 1 })
	publish(t, b, "pump/a", "2", 1)
	until(t, "the second was sent", func() bool { return log.count(func(mqttsim.Sent) bool { return true }) == 2 })
	b.Stop()
	until(t, "down", r.health.IsDown)
	publish(t, b, "pump/a", "3", 1)
	r.Confirm() // the first is durable, and cannot be acknowledged
	until(t, "Bad", func() bool {
		bad := 0
		for _, s := range r.Samples() {
			if s.Quality == sample.BadNotConnected {
				bad++
			}
		}
		return bad == 2
	})
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	until(t, "all are acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 })
	var got []string
	for _, s := range r.Samples() {
		if s.Quality.IsGood() {
			got = append(got, s.Value.String())
		}
	}
	if strings.Join(got, " ") != "1 2 3" {
		t.Errorf("the values are %v, want each of 1, 2 and 3 once", got)
	}
	if n := log.count(func(s mqttsim.Sent) bool { return s.Dup }); n < 2 {
		t.Errorf("%d messages came again, want 2 at least", n)
	}
	until(t, "up again", r.health.IsUp)
	if n := len(r.health.Changes()); n != 3 {
		t.Errorf("the changes of state are %v", r.health.Changes())
	}
}

// TestSecondStart keeps the session while the source is stopped.
func TestSecondStart(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	r := run(t, testConfig(b.URL()), nil)
	until(t, "up", r.health.IsUp)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	until(t, "disconnected", func() bool { return len(b.Clients()) == 0 })
	publish(t, b, "pump/a", "7", 1)
	again := run(t, testConfig(b.URL()), nil)
	until(t, "the message came", func() bool { return len(again.Samples()) == 1 })
	// A broker that forgets is subscribed to anew.
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	b.Forget()
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	third := run(t, testConfig(b.URL()), nil)
	until(t, "up", third.health.IsUp)
	publish(t, b, "pump/b", "8", 1)
	until(t, "the message came", func() bool { return len(third.Samples()) == 1 })
}

func TestStopWhileACommitHangs(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	r := run(t, testConfig(b.URL()), nil)
	until(t, "up", r.health.IsUp)
	r.Hold()
	publish(t, b, "pump/a", "1", 1)
	until(t, "emitted", func() bool { return len(r.Samples()) == 1 })
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if d := time.Since(began); d < drainTime || d > drainTime+time.Second {
		t.Errorf("it stopped after %s, want %s", d, drainTime)
	}
	if b.InFlight(clientOfPump) != 1 {
		t.Error("a message whose samples may not be durable was acknowledged")
	}
	r.Confirm()
}

func TestQoS0(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	cfg := testConfig(b.URL())
	cfg.QoS = 0
	var mu sync.Mutex
	var withDone, without int
	var taken protocolstest.Collector
	r := run(t, cfg, func(ctx context.Context, batch []sample.Sample, done func(error)) error {
		mu.Lock()
		if done != nil {
			withDone++
		} else {
			without++
		}
		mu.Unlock()
		return taken.Emit(ctx, batch, done)
	})
	until(t, "up", r.health.IsUp)
	if f := b.Subscriptions(clientOfPump); f["pump/a"] != 0 || len(f) != 2 {
		t.Errorf("subscribed to %v", f)
	}
	publish(t, b, "pump/a", "1", 1)
	until(t, "the message came", func() bool { return len(taken.Samples()) == 1 })
	mu.Lock()
	defer mu.Unlock()
	if withDone != 0 || without != 1 {
		t.Errorf("emitted %d times with a callback and %d times without", withDone, without)
	}
}

// TestTooManyAtOnce has more messages than the source may hold.
func TestTooManyAtOnce(t *testing.T) {
	var log wireLog
	b := startBroker(t, log.options())
	cfg := testConfig(b.URL())
	cfg.MaxInflight = 20
	r := run(t, cfg, nil)
	until(t, "up", r.health.IsUp)
	r.Hold()
	const n = 100
	for i := range n {
		publish(t, b, "pump/a", fmt.Sprint(i), 1)
	}
	until(t, "all were sent", func() bool { return log.count(func(s mqttsim.Sent) bool { return true }) >= n })
	r.Confirm()
	go func() { // later batches are held as well
		for r.health.Beats() < 1<<20 {
			r.Confirm()
			time.Sleep(time.Millisecond)
			if b.InFlight(clientOfPump) == 0 {
				return
			}
		}
	}()
	until(t, "all are acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 })
	seen := map[int64]int{}
	for _, s := range r.Samples() {
		if s.Quality.IsGood() {
			seen[s.Value.Int()]++
		}
	}
	for i := range int64(n) {
		if seen[i] != 1 {
			t.Errorf("value %d came %d times", i, seen[i])
		}
	}
	if len(r.health.Changes()) != 1 {
		t.Errorf("the changes of state are %v", r.health.Changes())
	}
}

// TestPoison has messages that no tag can take.
func TestPoison(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	cfg := testConfig(b.URL())
	cfg.MaxMessage = 1024
	r := run(t, cfg, nil)
	until(t, "up", r.health.IsUp)
	publish(t, b, "pump/a", "no number", 1)
	publish(t, b, "pump/a", strings.Repeat("9", 100_000), 1)
	publish(t, b, "pump/b", strings.Repeat("9", 5000), 0)
	publish(t, b, "pump/a", "3", 1)
	until(t, "all are acknowledged", func() bool { return b.InFlight(clientOfPump) == 0 && len(r.Samples()) == 4 })
	want := "pump/a=null:null BadTypeMismatch\npump/a=null:null BadOutOfRange\npump/b=null:null BadOutOfRange\npump/a=int64:3 Good"
	if got := show(r.Samples()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRefusedSubscription(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	b.RefuseSubscription("pump/a", true)
	cfg := testConfig(b.URL())
	cfg.Topics = []Topic{{Filter: "dyn/#"}}
	cfg.Username = "u"
	r := run(t, cfg, nil)
	until(t, "down", r.health.IsDown)
	want := "mqtt " + b.URL() + `: partly: the broker refuses 1 of 3 subscriptions: pump/a; allow user "u" to read these topics in the broker's access list`
	if got := r.health.Changes()[0].Error(); got != want {
		t.Errorf("Down says\n%s\nwant\n%s", got, want)
	}
	publish(t, b, "pump/b", "1", 1)
	until(t, "both came", func() bool { return len(r.Samples()) == 2 })
	if got := show(r.Samples()); got != "pump/a=null:null BadConfigurationError\npump/b=int64:1 Good" {
		t.Errorf("got %s", got)
	}
	b.RefuseSubscription("pump/a", false)
	until(t, "it is tried again", r.health.IsUp)
	conn, err := cfg.Open(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	b.RefuseSubscription("dyn/#", true)
	errs := conn.(protocols.Checker).Check(t.Context(), &protocols.SourceConfig{Name: "pump", Tags: pumpTags})
	want = "mqtt " + b.URL() + `: the broker refuses a subscription to dyn/#; allow user "u" to read it in the broker's access list`
	if len(errs) != 1 || errs[0].Error() != want {
		t.Errorf("Check says %v, want %s", errs, want)
	}
	if !r.health.IsUp() {
		t.Error("the check disturbed the running source")
	}
}

func TestRetainedAtSubscribe(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	if err := b.Publish("pump/a", []byte("7"), 1, true); err != nil {
		t.Fatal(err)
	}
	r := run(t, testConfig(b.URL()), nil)
	until(t, "it came", func() bool { return len(r.Samples()) == 1 })
	publish(t, b, "pump/a", "8", 1)
	until(t, "the next came", func() bool { return len(r.Samples()) == 2 })
	if got := show(r.Samples()); got != "pump/a=int64:7 UncertainLastUsableValue\npump/a=int64:8 Good" {
		t.Errorf("got %s", got)
	}
}

func TestTwoSourcesUnderOneClientID(t *testing.T) {
	cfg := testConfig("tcp://broker")
	cfg.ClientID = "one"
	conn, err := cfg.Open(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	health := &protocolstest.HealthRecorder{}
	for range 2 { // a source that is started again is no second one
		if _, err := conn.OpenSource(&protocols.SourceConfig{Name: "a"}, health); err != nil {
			t.Fatal(err)
		}
	}
	want := `open source b: client_id "one" is source a's already, and a broker disconnects the one for the other; give each source a client_id of its own, or leave it out`
	if _, err := conn.OpenSource(&protocols.SourceConfig{Name: "b"}, health); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	other := *cfg
	other.QoS = 0
	if cfg.LinkKey() == other.LinkKey() {
		t.Error("sources with other settings share a connection")
	}
}

// TestDeliveryThatFails restarts the source by returning the error.
func TestDeliveryThatFails(t *testing.T) {
	b := startBroker(t, mqttsim.Options{})
	conn, err := testConfig(b.URL()).Open(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	health := &protocolstest.HealthRecorder{}
	src, err := conn.OpenSource(&protocols.SourceConfig{Name: "pump", Tags: pumpTags}, health)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	ended := make(chan error, 1)
	go func() {
		ended <- src.Run(t.Context(), func(context.Context, []sample.Sample, func(error)) error { return broken })
	}()
	until(t, "up", health.IsUp)
	publish(t, b, "pump/a", "1", 1)
	if err := <-ended; !errors.Is(err, broken) || err.Error() != "hand over messages of source pump: broken" {
		t.Errorf("Run returned %v", err)
	}
	if b.InFlight(clientOfPump) != 1 {
		t.Error("a message that was not handed over was acknowledged")
	}
}

func BenchmarkMessages(b *testing.B) {
	broker := startBroker(b, mqttsim.Options{})
	cfg := testConfig(broker.URL())
	cfg.MaxInflight = 65535
	conn, err := cfg.Open(settings(b))
	if err != nil {
		b.Fatal(err)
	}
	health := &protocolstest.HealthRecorder{}
	src, err := conn.OpenSource(&protocols.SourceConfig{Name: "pump", Tags: pumpTags}, health)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- src.Run(ctx, func(_ context.Context, _ []sample.Sample, done func(error)) error {
			if done != nil {
				go done(nil)
			}
			return nil
		})
	}()
	until(b, "up", health.IsUp)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		publish(b, broker, "pump/a", "1234.5", 1)
		for i%100 == 99 && broker.InFlight(clientOfPump) > 1000 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	until(b, "all are acknowledged", func() bool { return broker.InFlight(clientOfPump) == 0 })
	cancel()
	<-ended
}
