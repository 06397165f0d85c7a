package opcuasim

import (
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
)

const patience = 20 * time.Second

// recorder keeps what the tap reports.
type recorder struct {
	mu   sync.Mutex
	list []Sent
}

func (r *recorder) add(s Sent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, s)
}

func (r *recorder) all() []Sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Sent(nil), r.list...)
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// subscribe connects a client of the library's and subscribes to ids; the
// client handle is the place in ids.
func subscribe(t *testing.T, s *Server, ids []string) chan *opcua.PublishNotificationData {
	t.Helper()
	client, err := opcua.NewClient(s.URL(), opcua.AutoReconnect(false), opcua.SecurityMode(ua.MessageSecurityModeNone))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		limited, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = client.Close(limited) // it may be cut
	})
	notices := make(chan *opcua.PublishNotificationData, 10_000)
	sub, err := client.Subscribe(ctx, &opcua.SubscriptionParameters{Interval: 10 * time.Millisecond}, notices)
	if err != nil {
		t.Fatal(err)
	}
	var requests []*ua.MonitoredItemCreateRequest
	for i, id := range ids {
		n, err := ua.ParseNodeID(id)
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, opcua.NewMonitoredItemCreateRequestWithDefaults(n, ua.AttributeIDValue, uint32(i)))
	}
	if _, err := sub.Monitor(ctx, ua.TimestampsToReturnSource, requests...); err != nil {
		t.Fatal(err)
	}
	return notices
}

// hear subscribes and returns what is received first. A client of the library
// begins with a pause; where its loop is so late on a busy machine that it sees
// the end of the pause before its begin, it never asks to be told: then another
// one does.
func hear(t *testing.T, s *Server, ids []string) (chan *opcua.PublishNotificationData, []Sent) {
	t.Helper()
	some := func(l []Sent) bool { return len(l) > 0 }
	for range 3 {
		notices := subscribe(t, s, ids)
		if got := receiveWithin(t, patience/4, notices, ids, some); len(got) > 0 {
			return notices, got
		}
	}
	notices := subscribe(t, s, ids)
	return notices, receive(t, notices, ids, some)
}

// receive turns notices into Sent, without their moment, until done says so.
func receive(t *testing.T, notices chan *opcua.PublishNotificationData, ids []string, done func([]Sent) bool) []Sent {
	t.Helper()
	out := receiveWithin(t, patience, notices, ids, done)
	if !done(out) {
		t.Fatalf("only %d values arrived", len(out))
	}
	return out
}

// receiveWithin is receive that returns what arrived until then.
func receiveWithin(t *testing.T, limit time.Duration, notices chan *opcua.PublishNotificationData, ids []string, done func([]Sent) bool) []Sent {
	t.Helper()
	var out []Sent
	deadline := time.After(limit)
	for !done(out) {
		select {
		case n := <-notices:
			if n.Error != nil {
				t.Fatal(n.Error)
			}
			change, ok := n.Value.(*ua.DataChangeNotification)
			if !ok {
				continue
			}
			for _, m := range change.MonitoredItems {
				out = append(out, Sent{Node: ids[m.ClientHandle], Value: m.Value.Value.Value(), Status: uint32(m.Value.Status), SourceTime: m.Value.SourceTimestamp})
			}
		case <-deadline:
			return out
		}
	}
	return out
}

// compare checks that the tap reported exactly what the client received.
func compare(t *testing.T, r *recorder, got []Sent) {
	t.Helper()
	// A report comes after the write, so the last may be a moment late.
	deadline := time.Now().Add(patience)
	for len(r.all()) < len(got) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	reported := r.all()
	if len(reported) != len(got) {
		t.Fatalf("%d values are reported, %d received", len(reported), len(got))
	}
	for i, s := range reported {
		if s.At.IsZero() || time.Since(s.At) > time.Minute {
			t.Fatalf("value %d went out at %s", i, s.At)
		}
		s.At = time.Time{}
		if !reflect.DeepEqual(s, got[i]) {
			t.Fatalf("value %d: reported %+v, received %+v", i, s, got[i])
		}
	}
}

func TestTheTapReportsWhatAClientReceives(t *testing.T) {
	r := new(recorder)
	s := start(t, Options{OnSent: r.add})
	a, err := s.Add("a", int32(0))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Add("b", "nought")
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{a, b}
	notices := subscribe(t, s, ids)
	all := receive(t, notices, ids, func(l []Sent) bool { return len(l) >= 2 })
	at := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	for n := int32(1); n <= 50; n++ {
		s.Set("a", n, at.Add(time.Duration(n)*time.Millisecond))
		s.Set("b", fmt.Sprint(n), at)
		time.Sleep(3 * time.Millisecond) // several publishes
	}
	all = append(all, receive(t, notices, ids, func(l []Sent) bool {
		seen := 0
		for _, v := range l {
			if v.Value == int32(50) || v.Value == "50" {
				seen++
			}
		}
		return seen == 2
	})...)
	compare(t, r, all)
	var last int32
	for _, v := range all {
		if n, ok := v.Value.(int32); ok {
			if n < last || n > 0 && !v.SourceTime.Equal(at.Add(time.Duration(n)*time.Millisecond)) {
				t.Errorf("%d after %d, source time %s", n, last, v.SourceTime)
			}
			last = n
		}
	}
}

// One publish response of several hundred kilobytes goes out in chunks.
func TestTheTapJoinsChunks(t *testing.T) {
	text := strings.Repeat("x", 4_000)
	var r *recorder
	var ids []string
	var all []Sent
	// On a busy machine the library's server now and then forgets a client that
	// asks to be told: it says nothing at all then, and another one is started.
	for try := 0; len(all) == 0; try++ {
		r, ids = new(recorder), nil
		s := start(t, Options{OnSent: r.add})
		for i := range 60 {
			id, err := s.Add(fmt.Sprint("n", i), fmt.Sprint(i, text))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		wait := patience
		if try < 3 {
			wait = patience / 4
		}
		all = receiveWithin(t, wait, subscribe(t, s, ids), ids, func(l []Sent) bool { return len(l) >= len(ids) })
		if len(all) == 0 && (try == 3 || len(r.all()) > 0) {
			t.Fatalf("nothing arrived, and the tap saw %d values", len(r.all()))
		}
	}
	compare(t, r, all)
	seen := map[string]bool{}
	for _, v := range all {
		seen[v.Node] = true
		if want := v.Node[strings.Index(v.Node, "s=n")+3:] + text; v.Value != want {
			t.Errorf("%s: %.20v", v.Node, v.Value)
		}
	}
	if len(seen) != len(ids) {
		t.Errorf("%d nodes of %d", len(seen), len(ids))
	}
}

// The chunks of two messages may alternate; an aborted one gives nothing.
func TestAssembly(t *testing.T) {
	frame := func(kind byte, request uint32, body string) []byte {
		f := append([]byte("MSG"), kind)
		f = append(f, make([]byte, frameHeader-4+symmetricHeader)...)
		binary.LittleEndian.PutUint32(f[frameHeader+12:], request)
		return append(f, body...)
	}
	var a assembly
	for i, step := range []struct {
		frame []byte
		want  string
	}{
		{frame('F', 1, "whole"), "whole"},
		{frame('C', 2, "a"), ""}, {frame('C', 3, "x"), ""}, {frame('C', 2, "b"), ""}, {frame('F', 3, "y"), "xy"}, {frame('F', 2, "c"), "abc"},
		{frame('C', 4, "lost"), ""}, {frame('A', 4, ""), ""}, {frame('F', 4, "new"), "new"},
		{[]byte("HELF1234"), ""}, {[]byte("MSGF"), ""},
	} {
		if got := string(a.add(step.frame)); got != step.want {
			t.Errorf("step %d: got %q, want %q", i, got, step.want)
		}
	}
	if len(a) != 0 {
		t.Errorf("%d messages are kept", len(a))
	}
}

func TestReadFrameBoundsTheSize(t *testing.T) {
	for _, size := range []uint32{0, 7, maxFrame + 1, 1<<32 - 1} {
		head := binary.LittleEndian.AppendUint32([]byte("MSGF"), size)
		if _, err := readFrame(strings.NewReader(string(head) + "rest")); err == nil || !strings.Contains(err.Error(), fmt.Sprint(size)) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestStopResumeAndSilence(t *testing.T) {
	r := new(recorder)
	s := start(t, Options{OnSent: r.add})
	id, err := s.Add("a", int32(1))
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{id}
	notices, got := hear(t, s, ids)
	// The tap reports what it has written when the client may have it already.
	for deadline := time.Now().Add(patience); len(r.all()) < len(got); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the tap does not report what was received")
		}
	}
	s.Silence(true)
	before := len(r.all())
	s.Set("a", int32(2), time.Now())
	time.Sleep(100 * time.Millisecond) // ten publishes
	if len(r.all()) != before || len(notices) > 0 {
		t.Error("values go out in the silence")
	}
	s.Silence(false)
	s.Stop()
	client, err := opcua.NewClient(s.URL(), opcua.AutoReconnect(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Connect(t.Context()); err == nil {
		t.Error("a stopped server takes a connection")
	}
	url := s.URL()
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url {
		t.Errorf("it is back at %s, not at %s", s.URL(), url)
	}
	if _, got = hear(t, s, ids); got[0].Value != int32(2) {
		t.Errorf("got %+v", got)
	}
}

func TestAddRefusesANameTwice(t *testing.T) {
	s := start(t, Options{})
	if _, err := s.Add("a", int32(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add("a", int32(1)); err == nil {
		t.Error("the second one is taken")
	}
	if _, err := s.Add("b", struct{}{}); err == nil {
		t.Error("a type that OPC UA does not have is taken")
	}
}
