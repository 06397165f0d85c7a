package mqttsim

import (
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

func connect(t *testing.T, b *Broker, user, password string, got chan<- paho.Message) (paho.Client, error) {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker(b.URL()).SetClientID("c").SetUsername(user).SetPassword(password).
		SetCleanSession(false).SetAutoReconnect(false).SetProtocolVersion(4).SetAutoAckDisabled(true).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { got <- m }))
	token := c.Connect()
	token.Wait()
	return c, token.Error()
}

func TestBroker(t *testing.T) {
	var mu sync.Mutex
	var sent []Sent
	var acks []Ack
	b, err := Start(Options{User: "u", Password: "p",
		OnSent: func(s Sent) { mu.Lock(); defer mu.Unlock(); sent = append(sent, s) },
		OnAck:  func(a Ack) { mu.Lock(); defer mu.Unlock(); acks = append(acks, a) }})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan paho.Message, 10)
	if _, err := connect(t, b, "u", "wrong", got); err == nil {
		t.Error("a wrong password is let in")
	}
	c, err := connect(t, b, "u", "p", got)
	if err != nil {
		t.Fatal(err)
	}
	b.RefuseSubscription("no", true)
	token := c.SubscribeMultiple(map[string]byte{"yes": 1, "no": 1}, nil).(*paho.SubscribeToken)
	token.Wait()
	if r := token.Result(); r["yes"] != 1 || r["no"] != 0x80 {
		t.Errorf("the subscriptions are answered with %v", r)
	}
	before := time.Now()
	if err := b.Publish("yes", []byte("1"), 1, false); err != nil {
		t.Fatal(err)
	}
	first := <-got
	until(t, "logged", func() bool { mu.Lock(); defer mu.Unlock(); return len(sent) == 1 })
	if s := sent[0]; s.Client != "c" || s.Topic != "yes" || string(s.Payload) != "1" || s.QoS != 1 || s.Dup || s.ID != first.MessageID() || s.At.Before(before) {
		t.Errorf("logged %+v", s)
	}
	// It stops with a message in flight, and sends it again on the same port.
	url := b.URL()
	b.Stop()
	until(t, "disconnected", func() bool { return len(b.Clients()) == 0 && !c.IsConnectionOpen() })
	if _, err := connect(t, b, "u", "p", got); err == nil {
		t.Error("a stopped broker lets a client in")
	}
	if err := b.Resume(); err != nil || b.URL() != url {
		t.Fatalf("resumed at %s, not %s: %v", b.URL(), url, err)
	}
	if c, err = connect(t, b, "u", "p", got); err != nil {
		t.Fatal(err)
	}
	again := <-got
	if !again.Duplicate() || b.InFlight("c") != 1 {
		t.Errorf("the message that came again has DUP %t, and %d are in flight", again.Duplicate(), b.InFlight("c"))
	}
	again.Ack()
	until(t, "acknowledged", func() bool { mu.Lock(); defer mu.Unlock(); return len(acks) == 1 && b.InFlight("c") == 0 })
	if acks[0].ID != first.MessageID() || acks[0].Client != "c" {
		t.Errorf("logged %+v", acks[0])
	}
	// A dropped client may come back at once; a forgotten one has no session.
	b.Drop()
	until(t, "dropped", func() bool { return !c.IsConnectionOpen() })
	b.Stop()
	b.Forget()
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err = connect(t, b, "u", "p", got); err != nil {
		t.Fatal(err)
	}
	if n := len(b.Subscriptions("c")); n != 0 {
		t.Errorf("a forgotten client has %d subscriptions", n)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
