package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// bench is a session without a network whose time a test sets.
type bench struct {
	*rig
	t      *testing.T
	s      *session
	now    time.Time
	values map[string]protocols.Reading
	handle uint32
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, now: time.Now(), values: map[string]protocols.Reading{}}
	b.rig = start(t, plain(t), func(r *rig) {
		r.latest = func(tag string) (protocols.Reading, bool) { v, ok := b.values[tag]; return v, ok }
	})
	c := b.offline()
	b.s = &session{srv: b.Server, token: []byte{1}, timeout: time.Hour, activated: true, conn: c, seen: time.Now(), subs: map[uint32]*subscription{}, over: make(chan struct{}), wake: make(chan struct{}, 1)}
	return b
}

const meter = "north/meter1/power"

func (b *bench) set(v sample.Value, q sample.Quality) {
	b.values[meter] = protocols.Reading{Value: v, Quality: q, Time: time.Unix(int64(len(b.values)), 0)}
}

// subscribe makes a subscription with a cycle of a second.
func (b *bench) subscribe(change func(*ua.CreateSubscriptionRequest)) *subscription {
	b.t.Helper()
	req := &ua.CreateSubscriptionRequest{RequestedPublishingInterval: 1000, RequestedLifetimeCount: 30, RequestedMaxKeepAliveCount: 3, PublishingEnabled: true}
	if change != nil {
		change(req)
	}
	resp, err := b.call().createSubscription(req)
	if err != nil {
		b.t.Fatal(err)
	}
	sub := b.s.subs[resp.(*ua.CreateSubscriptionResponse).SubscriptionID]
	sub.next = b.now.Add(sub.interval)
	return sub
}

func (b *bench) call() *call {
	b.handle++
	return &call{conn: b.s.conn, session: b.s, requestID: b.handle, header: &ua.RequestHeader{RequestHandle: b.handle}}
}

func (b *bench) monitor(sub *subscription, change func(*ua.MonitoredItemCreateRequest)) *item {
	b.t.Helper()
	req := &ua.MonitoredItemCreateRequest{
		ItemToMonitor: &ua.ReadValueID{NodeID: ua.NewStringNodeID(1, meter), AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}}, MonitoringMode: ua.MonitoringModeReporting,
		RequestedParameters: &ua.MonitoringParameters{ClientHandle: 7, SamplingInterval: 100, QueueSize: 5, DiscardOldest: true, Filter: &ua.ExtensionObject{}},
	}
	if change != nil {
		change(req)
	}
	resp, err := b.call().createItems(&ua.CreateMonitoredItemsRequest{SubscriptionID: sub.id, TimestampsToReturn: ua.TimestampsToReturnBoth, ItemsToCreate: []*ua.MonitoredItemCreateRequest{req}})
	if err != nil {
		b.t.Fatal(err)
	}
	r := resp.(*ua.CreateMonitoredItemsResponse).Results[0]
	if r.StatusCode != ua.StatusOK {
		b.t.Fatal(r.StatusCode)
	}
	m := sub.items[r.MonitoredItemID]
	m.next = b.now
	return m
}

// publish adds a request to answer; what it is answered with at once is shown.
func (b *bench) publish(acks ...uint32) string {
	p := &pending{call: b.call()}
	for _, a := range acks {
		for id := range b.s.subs {
			p.results = append(p.results, b.s.acknowledge([]*ua.SubscriptionAcknowledgement{{SubscriptionID: id, SequenceNumber: a}})...)
		}
	}
	b.s.publishes = append(b.s.publishes, p)
	return shownOf(b.s.serveLate(b.now))
}

// after lets time pass in steps of the sampling and returns what is published.
func (b *bench) after(d time.Duration) string {
	var out []string
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(100 * time.Millisecond)
		got, _ := b.s.step(b.now)
		if s := shownOf(got); s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

// shownOf writes answers in short: "#1:41.5" is a value in message 1, "#2:" a
// keep-alive that announces 2.
func shownOf(out []outgoing) string {
	var all []string
	for _, o := range out {
		if o.err != nil {
			all = append(all, statusOf(o.err).Error())
			continue
		}
		r := o.resp.(*ua.PublishResponse)
		s := fmt.Sprintf("#%d:", r.NotificationMessage.SequenceNumber)
		var values []string
		for _, n := range r.NotificationMessage.NotificationData {
			switch d := n.Value.(type) {
			case *ua.DataChangeNotification:
				for _, v := range d.MonitoredItems {
					text := "null"
					if v.Value.Value != nil {
						text = fmt.Sprint(v.Value.Value.Value())
					}
					if v.Value.Status != ua.StatusOK {
						text += fmt.Sprintf("/%08X", uint32(v.Value.Status))
					}
					values = append(values, text)
				}
			case *ua.StatusChangeNotification:
				values = append(values, "ended")
			}
		}
		if s += strings.Join(values, ","); r.MoreNotifications {
			s += "+"
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func (b *bench) expect(what, got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestPublishing(t *testing.T) {
	b := newBench(t)
	b.set(sample.FloatValue(1), sample.Good)
	sub := b.subscribe(nil)
	b.monitor(sub, nil)
	for range 3 {
		b.publish()
	}
	b.expect("the first cycle", b.after(time.Second), "#1:1")
	b.expect("no change", b.after(2*time.Second), "")
	b.expect("a keep-alive after three cycles", b.after(time.Second), "#2:")
	b.set(sample.FloatValue(2), sample.Good)
	b.expect("a change", b.after(time.Second), "#2:2")
	b.set(sample.FloatValue(2), sample.BadDeviceFailure)
	b.expect("no request to answer", b.after(3*time.Second), "")
	b.set(sample.FloatValue(4), sample.Good)
	b.expect("nor now", b.after(time.Second), "")
	b.expect("answered at once, with all that has happened", b.publish(), "#3:null/808B0000,4")
	if got := sub.available(); !slices.Equal(got, []uint32{1, 2, 3}) {
		t.Errorf("kept: %v", got)
	}
	b.publish(1, 2, 9)
	if got := b.s.publishes[0].results; !slices.Equal(got, []ua.StatusCode{ua.StatusOK, ua.StatusOK, ua.StatusBadSequenceNumberUnknown}) {
		t.Errorf("acknowledged: %v", got)
	}
	again := func(n uint32) (string, error) {
		resp, err := b.call().republish(&ua.RepublishRequest{SubscriptionID: sub.id, RetransmitSequenceNumber: n})
		if err != nil {
			return "", err
		}
		return shownOf([]outgoing{{resp: &ua.PublishResponse{NotificationMessage: resp.(*ua.RepublishResponse).NotificationMessage}}}), nil
	}
	if got, err := again(3); err != nil || got != "#3:null/808B0000,4" {
		t.Errorf("republished: %q, %v", got, err)
	}
	if _, err := again(2); statusOf(err) != ua.StatusBadMessageNotAvailable {
		t.Errorf("one that was acknowledged: %v", err)
	}
	b.s.subs[sub.id].enabled = false
	b.set(sample.FloatValue(5), sample.Good)
	b.expect("switched off, only keep-alives", b.after(3*time.Second), "#4:")
	sub.enabled = true
	b.publish()
	b.expect("switched on", b.after(time.Second), "#4:5")
}

func TestMessagesAreBounded(t *testing.T) {
	b := newBench(t)
	b.set(sample.FloatValue(0), sample.Good)
	sub := b.subscribe(func(r *ua.CreateSubscriptionRequest) { r.MaxNotificationsPerPublish = 2 })
	for range 5 {
		b.monitor(sub, nil)
	}
	for range 3 {
		b.publish()
	}
	b.expect("in pieces of two", b.after(time.Second), "#1:0,0+ #2:0,0+ #3:0")
	for i := range 200 {
		b.set(sample.FloatValue(float64(i+1)), sample.Good)
		for range 3 {
			b.publish()
		}
		b.after(time.Second)
	}
	if n := len(sub.retain); n > maxRetained || n < maxRetained/2 {
		t.Errorf("%d messages are kept", n)
	}
	if n := sub.retain[len(sub.retain)-1].SequenceNumber; n != sub.seq {
		t.Errorf("the newest is kept as %d, sent as %d", n, sub.seq)
	}
}

func TestQueues(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   uint32
		oldest bool
		want   string
	}{
		{"the oldest go", 3, true, "#1:4/00000480,5,6"},
		{"the newest go", 3, false, "#1:1,2,6/00000480"},
		{"only the newest", 1, true, "#1:6"},
		{"only the newest, whatever goes", 1, false, "#1:6"},
		{"0 is 1", 0, true, "#1:6"},
		{"room enough", 100, true, "#1:1,2,3,4,5,6"},
	} {
		b := newBench(t)
		sub := b.subscribe(nil)
		b.set(sample.FloatValue(1), sample.Good)
		m := b.monitor(sub, func(r *ua.MonitoredItemCreateRequest) {
			r.RequestedParameters.QueueSize, r.RequestedParameters.DiscardOldest = c.size, c.oldest
		})
		if m.size > maxQueue {
			t.Errorf("%s: a queue of %d", c.name, m.size)
		}
		b.publish()
		var got string
		for i := range 6 {
			b.set(sample.FloatValue(float64(i+1)), sample.Good)
			got += b.after(100 * time.Millisecond)
		}
		b.expect(c.name, got+b.after(time.Second), c.want)
	}
}

func TestFilters(t *testing.T) {
	filter := func(trigger ua.DataChangeTrigger, deadband float64) *ua.ExtensionObject {
		f := &ua.DataChangeFilter{Trigger: trigger}
		if deadband > 0 {
			f.DeadbandType, f.DeadbandValue = uint32(ua.DeadbandTypeAbsolute), deadband
		}
		return ua.NewExtensionObject(f)
	}
	for _, c := range []struct {
		name   string
		filter *ua.ExtensionObject
		want   string
	}{
		{"none", &ua.ExtensionObject{}, "#1:10,10.5,12,12/40000000,12"},
		{"a deadband of 1", filter(ua.DataChangeTriggerStatusValue, 1), "#1:10,12,12/40000000,12"},
		{"status only", filter(ua.DataChangeTriggerStatus, 0), "#1:10,12/40000000,12"},
		{"time as well", filter(ua.DataChangeTriggerStatusValueTimestamp, 0), "#1:10,10.5,12,12/40000000,12,12"},
	} {
		b := newBench(t)
		sub := b.subscribe(nil)
		at := time.Unix(1, 0)
		set := func(f float64, q sample.Quality) {
			b.values[meter] = protocols.Reading{Value: sample.FloatValue(f), Quality: q, Time: at}
		}
		set(10, sample.Good)
		b.monitor(sub, func(r *ua.MonitoredItemCreateRequest) {
			r.RequestedParameters.Filter, r.RequestedParameters.QueueSize = c.filter, 20
		})
		b.publish()
		got := b.after(100 * time.Millisecond)
		set(10.5, sample.Good)
		got += b.after(100 * time.Millisecond)
		set(12, sample.Good)
		got += b.after(100 * time.Millisecond)
		set(12, sample.Uncertain)
		got += b.after(100 * time.Millisecond)
		set(12, sample.Good)
		got += b.after(100 * time.Millisecond)
		at = at.Add(time.Second)
		set(12, sample.Good)
		b.expect(c.name, got+b.after(time.Second), c.want)
	}
}

func TestItemsThatAreRefused(t *testing.T) {
	b := newBench(t)
	sub := b.subscribe(nil)
	deadband := func(kind uint32, v float64) *ua.ExtensionObject {
		return ua.NewExtensionObject(&ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue, DeadbandType: kind, DeadbandValue: v})
	}
	for _, c := range []struct {
		name   string
		change func(*ua.MonitoredItemCreateRequest)
		want   ua.StatusCode
	}{
		{"a node that is not there", func(r *ua.MonitoredItemCreateRequest) { r.ItemToMonitor.NodeID = ua.NewStringNodeID(1, "x") }, ua.StatusBadNodeIDUnknown},
		{"an attribute that is not there", func(r *ua.MonitoredItemCreateRequest) { r.ItemToMonitor.AttributeID = 99 }, ua.StatusBadAttributeIDInvalid},
		{"events", func(r *ua.MonitoredItemCreateRequest) {
			r.ItemToMonitor.NodeID, r.ItemToMonitor.AttributeID = ua.NewNumericNodeID(0, 2253), ua.AttributeIDEventNotifier
		}, ua.StatusBadAttributeIDInvalid},
		{"an index range", func(r *ua.MonitoredItemCreateRequest) { r.ItemToMonitor.IndexRange = "x" }, ua.StatusBadIndexRangeInvalid},
		{"an encoding", func(r *ua.MonitoredItemCreateRequest) { r.ItemToMonitor.DataEncoding.Name = "Default JSON" }, ua.StatusBadDataEncodingInvalid},
		{"a mode", func(r *ua.MonitoredItemCreateRequest) { r.MonitoringMode = 3 }, ua.StatusBadMonitoringModeInvalid},
		{"a percentage", func(r *ua.MonitoredItemCreateRequest) { r.RequestedParameters.Filter = deadband(2, 1) }, ua.StatusBadDeadbandFilterInvalid},
		{"a deadband below 0", func(r *ua.MonitoredItemCreateRequest) { r.RequestedParameters.Filter = deadband(1, -1) }, ua.StatusBadDeadbandFilterInvalid},
		{"a deadband of a bool", func(r *ua.MonitoredItemCreateRequest) {
			r.ItemToMonitor.NodeID, r.RequestedParameters.Filter = ua.NewStringNodeID(1, "pump.on"), deadband(1, 1)
		}, ua.StatusBadFilterNotAllowed},
		{"a filter of a name", func(r *ua.MonitoredItemCreateRequest) {
			r.ItemToMonitor.AttributeID, r.RequestedParameters.Filter = ua.AttributeIDDisplayName, deadband(0, 0)
		}, ua.StatusBadFilterNotAllowed},
		{"an event filter", func(r *ua.MonitoredItemCreateRequest) {
			r.RequestedParameters.Filter = &ua.ExtensionObject{EncodingMask: ua.ExtensionObjectBinary, TypeID: ua.NewFourByteExpandedNodeID(0, 727)}
		}, ua.StatusBadMonitoredItemFilterUnsupported},
	} {
		r := &ua.MonitoredItemCreateRequest{
			ItemToMonitor: &ua.ReadValueID{NodeID: ua.NewStringNodeID(1, meter), AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}}, MonitoringMode: ua.MonitoringModeReporting,
			RequestedParameters: &ua.MonitoringParameters{Filter: &ua.ExtensionObject{}},
		}
		c.change(r)
		resp, err := b.call().createItems(&ua.CreateMonitoredItemsRequest{SubscriptionID: sub.id, ItemsToCreate: []*ua.MonitoredItemCreateRequest{r}})
		if err != nil || resp.(*ua.CreateMonitoredItemsResponse).Results[0].StatusCode != c.want {
			t.Errorf("%s: %v, %+v", c.name, err, resp)
		}
	}
	if n := b.items.Load(); n != 0 {
		t.Errorf("%d items are counted", n)
	}
}

func TestModes(t *testing.T) {
	b := newBench(t)
	b.set(sample.FloatValue(1), sample.Good)
	sub := b.subscribe(nil)
	m := b.monitor(sub, func(r *ua.MonitoredItemCreateRequest) { r.MonitoringMode = ua.MonitoringModeDisabled })
	for range 10 {
		b.publish()
	}
	b.expect("disabled", b.after(time.Second), "#1:")
	m.setMode(ua.MonitoringModeSampling, b.now)
	b.expect("sampled and not reported", b.after(time.Second), "")
	m.setMode(ua.MonitoringModeReporting, b.now)
	b.expect("reported", b.after(time.Second), "#1:1")
	if _, err := b.call().deleteItems(&ua.DeleteMonitoredItemsRequest{SubscriptionID: sub.id, MonitoredItemIDs: []uint32{m.id}}); err != nil || b.items.Load() != 0 || len(sub.order) != 0 {
		t.Errorf("deleted: %v, %d left", err, len(sub.order))
	}
	b.set(sample.FloatValue(2), sample.Good)
	b.expect("deleted", b.after(2*time.Second), "")
}

// A client that asks for nothing any more does not keep its subscriptions, and
// one that listens is told.
func TestLifetime(t *testing.T) {
	b := newBench(t)
	b.set(sample.FloatValue(1), sample.Good)
	sub := b.subscribe(func(r *ua.CreateSubscriptionRequest) { r.RequestedLifetimeCount = 1 })
	if sub.lifetime != 9 {
		t.Errorf("a lifetime of %d for a keep-alive of 3", sub.lifetime)
	}
	b.monitor(sub, nil)
	b.after(9 * time.Second)
	if len(b.s.subs) != 1 {
		t.Fatal("it ends early")
	}
	b.after(time.Second)
	if len(b.s.subs) != 0 || b.subscriptions.Load() != 0 || b.items.Load() != 0 {
		t.Errorf("%d subscriptions are left, %d and %d items counted", len(b.s.subs), b.subscriptions.Load(), b.items.Load())
	}
	if _, err := b.call().publish(new(ua.PublishRequest)); statusOf(err) != ua.StatusBadNoSubscription {
		t.Errorf("publish: %v", err)
	}
}

func TestRequestsThatWait(t *testing.T) {
	b := newBench(t)
	sub := b.subscribe(nil)
	b.after(time.Second)
	b.publish() // answers the late first message
	for range maxPublishes + 5 {
		if _, err := b.call().publish(new(ua.PublishRequest)); !errors.Is(err, errLater) {
			t.Fatal(err)
		}
	}
	if n := len(b.s.publishes); n != maxPublishes {
		t.Errorf("%d wait", n)
	}
	b.s.publishes = []*pending{{call: b.call(), until: b.now.Add(time.Second)}}
	b.expect("its time is over", b.after(time.Second), "The operation timed out. StatusBadTimeout (0x800A0000)")
	b.publish()
	b.s.conn = b.offline()
	b.after(time.Second)
	if len(b.s.publishes) != 0 {
		t.Error("a request of a channel that has ended waits on")
	}
	_ = sub
}

func TestRevision(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		ms                 float64
		life, keep         uint32
		interval           time.Duration
		wantLife, wantKeep uint32
		sampling           float64
		wantSampling       time.Duration
	}{
		{1000, 30, 3, time.Second, 30, 3, 250, 250 * time.Millisecond},
		{0, 0, 0, 10 * time.Millisecond, 30, 10, -1, 10 * time.Millisecond},
		{-5, 1, 100, 10 * time.Millisecond, 300, 100, 0, 10 * time.Millisecond},
		{1e12, 1, 100, time.Hour, 3, 1, 1e12, time.Hour},
		{1000, 4e9, 4e9, time.Second, 36000, 3600, 100, 100 * time.Millisecond},
	} {
		sub := b.subscribe(func(r *ua.CreateSubscriptionRequest) {
			r.RequestedPublishingInterval, r.RequestedLifetimeCount, r.RequestedMaxKeepAliveCount = c.ms, c.life, c.keep
		})
		m := b.monitor(sub, func(r *ua.MonitoredItemCreateRequest) { r.RequestedParameters.SamplingInterval = c.sampling })
		if sub.interval != c.interval || sub.lifetime != c.wantLife || sub.keepAlive != c.wantKeep || m.sampling != c.wantSampling {
			t.Errorf("%+v: %s, lifetime %d, keep-alive %d, sampling %s", c, sub.interval, sub.lifetime, sub.keepAlive, m.sampling)
		}
	}
}
