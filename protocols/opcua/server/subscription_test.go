package server

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// subscriber collects what a client is told.
type subscriber struct {
	mu   sync.Mutex
	got  []*ua.MonitoredItemNotification
	errs []error
	sub  *opcua.Subscription
}

func subscribe(t testing.TB, c *opcua.Client, p *opcua.SubscriptionParameters, nodes ...string) *subscriber {
	t.Helper()
	ch := make(chan *opcua.PublishNotificationData, 100)
	sub, err := c.Subscribe(ctxOf(t), p, ch)
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{sub: sub}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case n := <-ch:
				s.mu.Lock()
				if n.Error != nil {
					s.errs = append(s.errs, n.Error)
				}
				if d, ok := n.Value.(*ua.DataChangeNotification); ok {
					s.got = append(s.got, d.MonitoredItems...)
				}
				s.mu.Unlock()
			}
		}
	}()
	for i, n := range nodes {
		req := opcua.NewMonitoredItemCreateRequestWithDefaults(ua.MustParseNodeID(n), ua.AttributeIDValue, uint32(i+1))
		req.RequestedParameters.SamplingInterval = 10
		resp, err := sub.Monitor(ctxOf(t), ua.TimestampsToReturnBoth, req)
		if err != nil || resp.Results[0].StatusCode != ua.StatusOK {
			t.Fatalf("monitor %s: %v, %+v", n, err, resp)
		}
	}
	return s
}

func (s *subscriber) list(handle uint32) []*ua.MonitoredItemNotification {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*ua.MonitoredItemNotification
	for _, n := range s.got {
		if n.ClientHandle == handle {
			out = append(out, n)
		}
	}
	return out
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happens: %s", what)
		}
	}
}

// A subscribed client gets each change by itself: a value, its mark as stale,
// and the end of its validity, for which nobody sends anything.
func TestSubscribedClientIsToldWhenAValueEnds(t *testing.T) {
	var target protocols.Target
	r := start(t, plain(t), func(r *rig) { target = r.mirror("sp1", sample.Float64, "kW") })
	s := subscribe(t, r.client(), &opcua.SubscriptionParameters{Interval: 10 * time.Millisecond}, "ns=1;s=mirror/sp1", "ns=1;s=north/meter1/state")
	last := func(status ua.StatusCode, v any) func() bool {
		return func() bool {
			got := s.list(1)
			return len(got) > 0 && got[len(got)-1].Value.Status == status && (v == nil) == (got[len(got)-1].Value.Value == nil || got[len(got)-1].Value.Value.Value() == nil) &&
				(v == nil || got[len(got)-1].Value.Value.Value() == v)
		}
	}
	eventually(t, "waiting for initial data", last(ua.StatusBadWaitingForInitialData, nil))
	now := r.clock.Now()
	if err := target.Write(ctxOf(t), protocols.Command{Value: sample.FloatValue(41.5), Time: now, Version: 1, ValidUntil: now.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value", last(ua.StatusOK, 41.5))
	if err := target.Tell(ctxOf(t), protocols.State{Valid: false}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "stale", last(ua.StatusBadOutOfService, nil))
	if err := target.Tell(ctxOf(t), protocols.State{Valid: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value again", last(ua.StatusOK, 41.5))
	r.clock.Advance(time.Minute)
	eventually(t, "the end of its validity", last(ua.StatusBadNoCommunication, nil))
	if got := s.list(2); len(got) != 1 || got[0].Value.Value.Value() != "running" {
		t.Errorf("a value that does not change comes %d times", len(got))
	}
	if len(s.errs) > 0 {
		t.Errorf("errors %v", s.errs)
	}
}
