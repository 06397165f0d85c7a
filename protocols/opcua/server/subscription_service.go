package server

import (
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
)

// createSubscription answers OPC 10000-4, 5.13.2.
func (cl *call) createSubscription(r *ua.CreateSubscriptionRequest) (ua.Response, error) {
	s, srv := cl.session, cl.conn.srv
	if srv.subscriptions.Add(1) > int64(srv.cfg.MaxSubscriptions) {
		srv.subscriptions.Add(-1)
		srv.warned.say(srv.log, "subscriptions", "OPC UA server has all subscriptions in use, and refuses more", "limit", srv.cfg.MaxSubscriptions, "remedy", "close other clients, or raise max_subscriptions")
		return nil, ua.StatusBadTooManySubscriptions
	}
	b := &subscription{id: srv.lastSubscription.Add(1), enabled: r.PublishingEnabled, items: map[uint32]*item{}}
	b.revise(srv, r.RequestedPublishingInterval, r.RequestedLifetimeCount, r.RequestedMaxKeepAliveCount, r.MaxNotificationsPerPublish, r.Priority)
	b.next = time.Now().Add(b.interval)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		srv.subscriptions.Add(-1)
		return nil, ua.StatusBadSessionClosed
	}
	if s.subs == nil {
		s.subs = map[uint32]*subscription{}
		srv.sessions.running.Go(s.run)
	}
	s.subs[b.id] = b
	s.wakeUp()
	return &ua.CreateSubscriptionResponse{SubscriptionID: b.id, RevisedPublishingInterval: milliseconds(b.interval), RevisedLifetimeCount: b.lifetime, RevisedMaxKeepAliveCount: b.keepAlive}, nil
}

// modifySubscription answers OPC 10000-4, 5.13.3.
func (cl *call) modifySubscription(r *ua.ModifySubscriptionRequest) (ua.Response, error) {
	s := cl.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.subs[r.SubscriptionID]
	if b == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	b.revise(s.srv, r.RequestedPublishingInterval, r.RequestedLifetimeCount, r.RequestedMaxKeepAliveCount, r.MaxNotificationsPerPublish, r.Priority)
	b.next, b.life = time.Now().Add(b.interval), 0
	s.wakeUp()
	return &ua.ModifySubscriptionResponse{RevisedPublishingInterval: milliseconds(b.interval), RevisedLifetimeCount: b.lifetime, RevisedMaxKeepAliveCount: b.keepAlive}, nil
}

// setPublishingMode answers OPC 10000-4, 5.13.4.
func (cl *call) setPublishingMode(r *ua.SetPublishingModeRequest) (ua.Response, error) {
	if err := operations(len(r.SubscriptionIDs)); err != nil {
		return nil, err
	}
	s := cl.session
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &ua.SetPublishingModeResponse{Results: make([]ua.StatusCode, len(r.SubscriptionIDs))}
	for i, n := range r.SubscriptionIDs {
		b := s.subs[n]
		if b == nil {
			resp.Results[i] = ua.StatusBadSubscriptionIDInvalid
			continue
		}
		b.enabled, b.life = r.PublishingEnabled, 0
	}
	return resp, nil
}

// deleteSubscriptions answers OPC 10000-4, 5.13.8. Requests that nothing is left
// to answer for are answered with that.
func (cl *call) deleteSubscriptions(r *ua.DeleteSubscriptionsRequest) (ua.Response, error) {
	if err := operations(len(r.SubscriptionIDs)); err != nil {
		return nil, err
	}
	s := cl.session
	resp := &ua.DeleteSubscriptionsResponse{Results: make([]ua.StatusCode, len(r.SubscriptionIDs))}
	return resp, s.answering(func() ([]outgoing, error) {
		for i, n := range r.SubscriptionIDs {
			if b := s.subs[n]; b != nil {
				s.dropSubscription(b)
			} else {
				resp.Results[i] = ua.StatusBadSubscriptionIDInvalid
			}
		}
		if len(s.subs) > 0 {
			return nil, nil
		}
		return s.refusePending(ua.StatusBadNoSubscription), nil
	})
}

// refusePending answers all requests that wait. Callers hold s.mu.
func (s *session) refusePending(code ua.StatusCode) []outgoing {
	var out []outgoing
	for _, p := range s.publishes {
		out = append(out, outgoing{to: p, err: code})
	}
	s.publishes = nil
	return out
}

// createItems answers OPC 10000-4, 5.12.2.
func (cl *call) createItems(r *ua.CreateMonitoredItemsRequest) (ua.Response, error) {
	if err := operations(len(r.ItemsToCreate)); err != nil {
		return nil, err
	}
	if !timestampsValid(r.TimestampsToReturn) {
		return nil, ua.StatusBadTimestampsToReturnInvalid
	}
	s := cl.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.subs[r.SubscriptionID]
	if b == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	now := time.Now()
	resp := &ua.CreateMonitoredItemsResponse{Results: make([]*ua.MonitoredItemCreateResult, len(r.ItemsToCreate))}
	for i, c := range r.ItemsToCreate {
		m, code := s.srv.newItem(c, b.interval, now)
		if code != ua.StatusOK {
			resp.Results[i] = &ua.MonitoredItemCreateResult{StatusCode: code}
			continue
		}
		b.lastID++
		m.id, m.timestamps = b.lastID, r.TimestampsToReturn
		b.items[m.id] = m
		b.order = append(b.order, m)
		resp.Results[i] = &ua.MonitoredItemCreateResult{MonitoredItemID: m.id, RevisedSamplingInterval: milliseconds(m.sampling), RevisedQueueSize: uint32(m.size)}
	}
	s.wakeUp()
	return resp, nil
}

// newItem checks what is to be monitored, and counts it.
func (s *Server) newItem(c *ua.MonitoredItemCreateRequest, publishing time.Duration, now time.Time) (*item, ua.StatusCode) {
	of := c.ItemToMonitor
	n := s.space.get(keyOf(of.NodeID))
	if n == nil {
		return nil, ua.StatusBadNodeIDUnknown
	}
	if _, ok := n.attribute(of.AttributeID); !ok && !(of.AttributeID == ua.AttributeIDValue && n.class == ua.NodeClassVariable) || of.AttributeID == ua.AttributeIDEventNotifier {
		return nil, ua.StatusBadAttributeIDInvalid // events are not there
	}
	if _, _, ok := indexRange(of.IndexRange); of.IndexRange != "" && !ok {
		return nil, ua.StatusBadIndexRangeInvalid
	}
	if of.DataEncoding.Name != "" && (of.DataEncoding.Name != "Default Binary" || of.AttributeID != ua.AttributeIDValue) {
		return nil, ua.StatusBadDataEncodingInvalid
	}
	if c.MonitoringMode > ua.MonitoringModeReporting {
		return nil, ua.StatusBadMonitoringModeInvalid
	}
	m := &item{of: of, node: n, mode: c.MonitoringMode}
	if code := m.set(s, c.RequestedParameters, publishing, now); code != ua.StatusOK {
		return nil, code
	}
	if s.items.Add(1) > int64(s.cfg.MaxItems) {
		s.items.Add(-1)
		s.warned.say(s.log, "items", "OPC UA server has all monitored items in use, and refuses more", "limit", s.cfg.MaxItems, "remedy", "close other clients, or raise max_items")
		return nil, ua.StatusBadTooManyMonitoredItems
	}
	return m, ua.StatusOK
}

// modifyItems answers OPC 10000-4, 5.12.3.
func (cl *call) modifyItems(r *ua.ModifyMonitoredItemsRequest) (ua.Response, error) {
	if err := operations(len(r.ItemsToModify)); err != nil {
		return nil, err
	}
	if !timestampsValid(r.TimestampsToReturn) {
		return nil, ua.StatusBadTimestampsToReturnInvalid
	}
	s := cl.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.subs[r.SubscriptionID]
	if b == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	resp := &ua.ModifyMonitoredItemsResponse{Results: make([]*ua.MonitoredItemModifyResult, len(r.ItemsToModify))}
	for i, c := range r.ItemsToModify {
		m := b.items[c.MonitoredItemID]
		if m == nil {
			resp.Results[i] = &ua.MonitoredItemModifyResult{StatusCode: ua.StatusBadMonitoredItemIDInvalid}
			continue
		}
		code := m.set(s.srv, c.RequestedParameters, b.interval, time.Now())
		if code == ua.StatusOK {
			m.timestamps = r.TimestampsToReturn
		}
		resp.Results[i] = &ua.MonitoredItemModifyResult{StatusCode: code, RevisedSamplingInterval: milliseconds(m.sampling), RevisedQueueSize: uint32(m.size)}
	}
	s.wakeUp()
	return resp, nil
}

// setMonitoringMode answers OPC 10000-4, 5.12.4.
func (cl *call) setMonitoringMode(r *ua.SetMonitoringModeRequest) (ua.Response, error) {
	if r.MonitoringMode > ua.MonitoringModeReporting {
		return nil, ua.StatusBadMonitoringModeInvalid
	}
	results, err := cl.eachItem(r.SubscriptionID, r.MonitoredItemIDs, func(_ *subscription, m *item) { m.setMode(r.MonitoringMode, time.Now()) })
	return &ua.SetMonitoringModeResponse{Results: results}, err
}

// deleteItems answers OPC 10000-4, 5.12.6.
func (cl *call) deleteItems(r *ua.DeleteMonitoredItemsRequest) (ua.Response, error) {
	gone := map[*item]bool{}
	var of *subscription
	results, err := cl.eachItem(r.SubscriptionID, r.MonitoredItemIDs, func(b *subscription, m *item) {
		of, gone[m] = b, true
		delete(b.items, m.id)
	})
	if of != nil {
		cl.session.mu.Lock()
		of.order = slices.DeleteFunc(of.order, func(m *item) bool { return gone[m] })
		of.turn = 0
		cl.session.mu.Unlock()
		cl.conn.srv.items.Add(-int64(len(gone)))
	}
	return &ua.DeleteMonitoredItemsResponse{Results: results}, err
}

// eachItem does something to items of a subscription.
func (cl *call) eachItem(subscriptionID uint32, ids []uint32, do func(*subscription, *item)) ([]ua.StatusCode, error) {
	if err := operations(len(ids)); err != nil {
		return nil, err
	}
	s := cl.session
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.subs[subscriptionID]
	if b == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	out := make([]ua.StatusCode, len(ids))
	for i, n := range ids {
		if m := b.items[n]; m != nil {
			do(b, m)
		} else {
			out[i] = ua.StatusBadMonitoredItemIDInvalid
		}
	}
	s.wakeUp()
	return out, nil
}
