package opcua

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"

	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/sample"
)

const (
	// itemsPerCall bounds one CreateMonitoredItems request; servers limit it.
	itemsPerCall = 500
	// retryItems is how often nodes that could not be monitored are tried again.
	retryItems = 10 * time.Minute
	beatEvery  = 10 * time.Second
	// stopWithin bounds an orderly stop.
	stopWithin = 2 * time.Second
	// settle is how long the library gets to hand over what it has received.
	settle = 200 * time.Millisecond
	// watchHandle is the client handle of the server's clock.
	watchHandle = 0
	// currentTime is Server_ServerStatus_CurrentTime, OPC 10000-6, annex A.
	currentTime = 2258
	// lifetimeCount is how many publishing intervals without a publish request
	// make the server drop the subscription; at least three keep-alives:
	// OPC 10000-4, 5.13.2.
	lifetimeCount  = 600
	keepAliveCount = 10
)

// source subscribes to the nodes of one SourceConfig.
type source struct {
	conn     *connection
	name     string
	health   protocols.Health
	interval time.Duration // publishing
	items    []*item

	batch    []sample.Sample
	toldBad  bool // the tags' last samples say that there is no connection
	overflow uint64
}

// item is one monitored node.
type item struct {
	tag      string
	address  address
	sampling time.Duration
	failed   bool  // could not be monitored
	odd      bool  // a value could not be converted, and that was said
	err      error // what is wrong with the node; nil when it is monitored
}

// Run implements protocols.Source.
func (s *source) Run(ctx context.Context, emit protocols.Emit) error {
	for attempt := 0; ; attempt++ {
		s.health.Beat()
		began := time.Now()
		err := s.session(ctx, emit)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > time.Minute {
			attempt = 0
		}
		s.health.Down(err)
		if err := s.tellBad(ctx, emit); err != nil {
			return s.stopped(ctx, err)
		}
		if !s.wait(ctx, (backoff.Policy{Base: time.Second, Max: 30 * time.Second}).Wait(attempt)) {
			return nil
		}
	}
}

// stopped hides an error that only says that the source is being stopped.
func (s *source) stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// wait waits and beats. It reports false when ctx ended.
func (s *source) wait(ctx context.Context, d time.Duration) bool {
	for d > 0 {
		step := min(d, beatEvery)
		if !backoff.Sleep(ctx, step) {
			return false
		}
		s.health.Beat()
		d -= step
	}
	return ctx.Err() == nil
}

// tellBad emits one Bad sample per tag when the connection is lost, so that
// its silence is not taken for a constant value.
func (s *source) tellBad(ctx context.Context, emit protocols.Emit) error {
	if s.toldBad {
		return nil
	}
	s.toldBad = true
	now := s.conn.clock.Now().UnixNano()
	s.batch = s.batch[:0]
	for _, it := range s.items {
		s.batch = append(s.batch, sample.Sample{Tag: it.tag, Quality: sample.BadNotConnected, Time: now})
	}
	return emit(ctx, s.batch, nil)
}

// session connects, subscribes and emits until the connection is lost or ctx
// is done.
func (s *source) session(ctx context.Context, emit protocols.Emit) error {
	lost, once := make(chan struct{}), new(sync.Once)
	client, err := s.conn.dial(ctx, func() { once.Do(func() { close(lost) }) })
	if err != nil {
		return err
	}
	// What the library still wants to hand over while it is closed must not
	// block it.
	notices := make(chan *opcua.PublishNotificationData, 64)
	var sub *opcua.Subscription
	closed := make(chan struct{})
	hangUp := sync.OnceFunc(func() {
		go func() {
			defer close(closed)
			if sub != nil && ctx.Err() != nil { // an orderly stop
				deleteSubscription(client, sub.SubscriptionID)
			}
			s.conn.hangUp(client)
		}()
	})
	defer func() {
		hangUp()
		for {
			select {
			case <-notices:
			case <-closed:
				return
			}
		}
	}()

	s.health.Beat()
	limited, cancel := context.WithTimeout(ctx, s.conn.cfg.Timeout)
	defer cancel()
	namespaces, err := client.NamespaceArray(limited)
	if err != nil {
		return s.conn.explain("read the namespaces of", err)
	}
	sub, err = client.Subscribe(limited, &opcua.SubscriptionParameters{
		Interval: s.interval, LifetimeCount: lifetimeCount, MaxKeepAliveCount: keepAliveCount,
	}, notices)
	if err != nil {
		return s.conn.explain("subscribe at", err)
	}
	if err := s.monitor(ctx, client, sub, namespaces, emit); err != nil {
		return err
	}
	l := &listening{client: client, sub: sub, notices: notices, lost: lost, closed: closed, hangUp: hangUp, namespaces: namespaces}
	err = s.listen(ctx, l, emit)
	// However the session ends: what was received before is emitted, since the
	// next subscription begins with the values of its own time.
	s.finish(ctx, l, emit)
	return err
}

// deleteSubscription makes the server end its subscription and waits for what
// is on its way. The library's own way forgets the subscription first and then
// throws away what still arrives.
func deleteSubscription(client *link, id uint32) {
	limited, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	// The session's end deletes the subscription as well, so an error changes
	// nothing.
	_ = client.Send(limited, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: []uint32{id}}, func(ua.Response) error { return nil })
	// All that the server published is here before its answer; the library
	// hands it over from another goroutine.
	time.Sleep(settle)
}

// monitor creates the monitored items, the server's clock first. Nodes that
// cannot be monitored go Bad with the server's code; the others go on.
func (s *source) monitor(ctx context.Context, client *link, sub *opcua.Subscription, namespaces []string, emit protocols.Emit) error {
	watch := s.request(ua.NewNumericNodeID(0, currentTime), watchHandle, max(s.interval, time.Second))
	watch.RequestedParameters.QueueSize = 1
	if _, err := sub.Monitor(ctx, ua.TimestampsToReturnSource, watch); err != nil {
		return s.conn.explain("monitor the clock of", err)
	}
	for _, it := range s.items {
		it.failed = true
	}
	return s.retry(ctx, sub, namespaces, emit)
}

// retry creates the items that are not monitored yet.
func (s *source) retry(ctx context.Context, sub *opcua.Subscription, namespaces []string, emit protocols.Emit) error {
	var requests []*ua.MonitoredItemCreateRequest
	var asked []*item
	now := s.conn.clock.Now().UnixNano()
	s.batch = s.batch[:0]
	bad := func(it *item, code ua.StatusCode, err error) {
		s.batch = append(s.batch, sample.Sample{Tag: it.tag, Quality: sample.Quality(uint32(code)), Time: now})
		it.err = err
	}
	flush := func() error {
		if len(requests) == 0 {
			return nil
		}
		limited, cancel := context.WithTimeout(ctx, s.conn.cfg.Timeout)
		defer cancel()
		resp, err := sub.Monitor(limited, ua.TimestampsToReturnSource, requests...)
		if err != nil {
			return s.conn.explain("monitor nodes of", err)
		}
		if len(resp.Results) != len(requests) {
			return fmt.Errorf("server %s answers %d of %d nodes: ask its vendor", s.conn.url, len(resp.Results), len(requests))
		}
		for i, r := range resp.Results {
			it := asked[i]
			it.err = nil
			it.failed = uint32(r.StatusCode)&0x80000000 != 0
			if it.failed {
				bad(it, r.StatusCode, nodeError(it.address.text, r.StatusCode))
			}
		}
		requests, asked = requests[:0], asked[:0]
		s.health.Beat()
		return nil
	}
	for i, it := range s.items {
		if !it.failed {
			continue
		}
		id, err := it.address.resolve(namespaces)
		if err != nil {
			bad(it, ua.StatusBadNodeIDUnknown, err)
			continue
		}
		requests, asked = append(requests, s.request(id, uint32(i+1), it.sampling)), append(asked, it)
		if len(requests) == itemsPerCall {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	failed := s.report()
	if len(s.batch) > 0 {
		if err := emit(ctx, s.batch, nil); err != nil {
			return err
		}
	}
	s.toldBad = failed == len(s.items)
	return nil
}

// report tells the health of all nodes and returns how many fail.
func (s *source) report() int {
	var failed []error
	for _, it := range s.items {
		if it.err != nil {
			failed = append(failed, fmt.Errorf("tag %s: %w", it.tag, it.err))
		}
	}
	if len(failed) == 0 {
		s.health.Up()
	} else {
		s.health.Down(partly(failed, len(s.items)))
	}
	return len(failed)
}

// partly names the tags that fail, up to three of them.
func partly(failed []error, of int) error {
	const most = 3
	var b strings.Builder
	for i, err := range failed {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(failed)-most)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return fmt.Errorf("partly: %d of %d tags: %s", len(failed), of, b.String())
}

func (s *source) request(id *ua.NodeID, handle uint32, sampling time.Duration) *ua.MonitoredItemCreateRequest {
	return &ua.MonitoredItemCreateRequest{
		ItemToMonitor:  &ua.ReadValueID{NodeID: id, AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}},
		MonitoringMode: ua.MonitoringModeReporting,
		RequestedParameters: &ua.MonitoringParameters{
			ClientHandle: handle, DiscardOldest: true, QueueSize: uint32(s.conn.cfg.QueueSize), SamplingInterval: float64(sampling) / float64(time.Millisecond),
		},
	}
}

// listening is what a session works with once it is subscribed.
type listening struct {
	client     *link
	sub        *opcua.Subscription
	notices    chan *opcua.PublishNotificationData
	lost       chan struct{}
	closed     chan struct{}
	hangUp     func()
	namespaces []string
	ticks      int  // of the server's clock
	heard      bool // anything
}

// missing reports whether a status says that the node itself is no good, not
// that its device is away.
func missing(code ua.StatusCode) bool {
	switch code {
	case ua.StatusBadNodeIDUnknown, ua.StatusBadNodeIDInvalid, ua.StatusBadAttributeIDInvalid, ua.StatusBadNotReadable:
		return true
	}
	return false
}

var errSilent = errors.New("the server is connected and says nothing any more; a fresh connection is made")

// listen emits what the server publishes. The library can lose its
// subscription without a word, so silence is watched: of the server's clock,
// which is subscribed to, and where a server does not report that, by reading.
func (s *source) listen(ctx context.Context, l *listening, emit protocols.Emit) error {
	most := max(3*s.interval, s.conn.silence)
	silence := time.NewTimer(most)
	defer silence.Stop()
	beat := time.NewTicker(min(beatEvery, most))
	defer beat.Stop()
	again := time.NewTicker(retryItems)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.lost:
			if cause := l.client.guard.err(); cause != nil {
				return cause
			}
			return fmt.Errorf("server %s: the connection was lost", s.conn.url)
		case n := <-l.notices:
			l.heard = true
			if err := s.notice(ctx, l, n, emit); err != nil {
				return err
			}
			silence.Reset(most)
		case <-beat.C:
			s.health.Beat()
		case <-again.C:
			if err := s.retry(ctx, l.sub, l.namespaces, emit); err != nil {
				return err
			}
		case <-silence.C:
			if err := s.probe(ctx, l); err != nil {
				return err
			}
			silence.Reset(most)
		}
	}
}

// probe decides whether a silent server is dead.
func (s *source) probe(ctx context.Context, l *listening) error {
	// A server that reports its clock would have spoken. The first message of a
	// subscription comes in any case (OPC 10000-4, 5.13.1.1). Where none did, the
	// library does not ask for any: on a busy machine it may see the pause that it
	// begins with after the end of it, and then pauses for ever.
	first := !l.heard && slices.ContainsFunc(s.items, func(it *item) bool { return !it.failed })
	if l.ticks > 1 || first {
		return fmt.Errorf("server %s: %w", s.conn.url, errSilent)
	}
	limited, cancel := context.WithTimeout(ctx, s.conn.cfg.Timeout)
	defer cancel()
	clock := address{text: "i=2258", id: ua.NewNumericNodeID(0, currentTime)}
	if _, err := s.conn.readOne(limited, l.client, &clock, nil); err != nil {
		return fmt.Errorf("server %s: %w: %w", s.conn.url, errSilent, err)
	}
	return nil
}

// finish ends a session in order: what the server has published is emitted.
// Errors that come with the closing are expected and end nothing.
func (s *source) finish(ctx context.Context, l *listening, emit protocols.Emit) {
	l.hangUp()
	for open := true; open; {
		select {
		case n := <-l.notices:
			if n.Error == nil && s.notice(ctx, l, n, emit) != nil {
				return // the gateway takes no more
			}
		case <-l.closed:
			open = false
		}
	}
	for {
		select {
		case n := <-l.notices:
			if n.Error == nil && s.notice(ctx, l, n, emit) != nil {
				return
			}
		default:
			return
		}
	}
}

// notice emits one notification.
func (s *source) notice(ctx context.Context, l *listening, n *opcua.PublishNotificationData, emit protocols.Emit) error {
	if n.Error != nil {
		return s.conn.explain("read from", n.Error)
	}
	if end, ok := n.Value.(*ua.StatusChangeNotification); ok && uint32(end.Status)&0x80000000 != 0 {
		return fmt.Errorf("server %s ended the subscription: %w: a fresh connection is made", s.conn.url, end.Status) // OPC 10000-4, 7.25.4
	}
	change, ok := n.Value.(*ua.DataChangeNotification)
	if !ok {
		return nil
	}
	now := s.conn.clock.Now()
	s.batch = s.batch[:0]
	changed := false
	for _, m := range change.MonitoredItems {
		if m.ClientHandle == watchHandle {
			l.ticks++
			continue
		}
		if int(m.ClientHandle) > len(s.items) || m.Value == nil {
			continue // not ours
		}
		it := s.items[m.ClientHandle-1]
		s.take(it, m.Value, now)
		// Some servers take an item for a node that they do not have, and say
		// so only with its first value. It stays monitored.
		switch gone := missing(m.Value.Status); {
		case gone && it.err == nil:
			it.err, changed = nodeError(it.address.text, m.Value.Status), true
		case !gone && it.err != nil:
			it.err, changed = nil, true
		}
	}
	if changed {
		s.report()
	}
	if len(s.batch) == 0 {
		return nil
	}
	return emit(ctx, s.batch, nil)
}

// take appends one value to the batch.
func (s *source) take(it *item, dv *ua.DataValue, now time.Time) {
	v, err := toSample(it.tag, dv, now)
	if err != nil && !it.odd {
		it.odd = true
		s.conn.log.Warn("a value cannot be used; it goes up as Bad: choose another node or change its type on the server",
			"tag", it.tag, "node", it.address.text, "why", err.Error())
	}
	if err == nil {
		it.odd = false
	}
	if uint32(dv.Status)&overflowBits == overflowBits {
		if s.overflow == 0 {
			s.conn.log.Warn("the server dropped values before we read them: raise connection.queue_size or lower publishing_interval",
				"tag", it.tag, "node", it.address.text)
		}
		s.overflow++
	}
	s.batch = append(s.batch, v)
}
