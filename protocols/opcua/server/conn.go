package server

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// conn is one connection with its channel. Its requests are answered one after
// the other, but Publish, which waits for a subscription.
type conn struct {
	srv  *Server
	wire *wire
	ch   *channel
	peer string // address of the client, without port
	url  string // that the client dialled
	ctx  context.Context
	// active is set while there is a session that somebody has logged in to, and
	// since when there has been none.
	active atomic.Bool
	since  time.Time
}

func newConn(s *Server, c net.Conn) *conn {
	w := newWire(c, s.times.chunk)
	n := s.channels.Add(1)
	if n == 0 {
		n = s.channels.Add(1)
	}
	return &conn{srv: s, wire: w, peer: host(c.RemoteAddr()), since: time.Now(), ch: &channel{srv: s, wire: w, id: n, max: maxStranger}}
}

// run serves until the connection ends. A *wireError is to be told to the client.
func (c *conn) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx = ctx
	defer c.srv.sessions.lost(c)
	var err error
	if c.url, err = c.wire.hello(c.until()); err != nil {
		return err
	}
	for {
		f, err := c.wire.next(c.until())
		if err != nil {
			return err
		}
		switch f.kind {
		case "OPN":
			err = c.ch.open(f)
		case "MSG":
			var requestID uint32
			var message []byte
			var whole bool
			if requestID, message, whole, err = c.ch.read(f); err == nil && whole {
				err = c.serve(requestID, message)
			}
		case "CLO":
			if _, _, _, err = c.ch.read(f); err == nil {
				return nil
			}
		default:
			err = wireErrorf(ua.StatusBadTCPMessageTypeInvalid, "a second Hello")
		}
		if err != nil {
			return err
		}
	}
}

// until is when the connection ends unless something comes.
func (c *conn) until() time.Time {
	expires := c.ch.expires()
	if expires.IsZero() {
		return c.since.Add(c.srv.times.open)
	}
	if idle := c.since.Add(c.srv.times.stranger); !c.active.Load() && idle.Before(expires) {
		return idle
	}
	return expires
}

// call is one request under way.
type call struct {
	conn      *conn
	requestID uint32
	header    *ua.RequestHeader
	session   *session // nil for services that need none
}

// errLater is returned for a request that is answered later.
var errLater = errors.New("answered later")

// serve answers one request. Its error ends the connection.
func (c *conn) serve(requestID uint32, message []byte) error {
	d := newDecoder(message)
	typ := d.expandedNodeID()
	if d.err != nil || typ.NodeID.Namespace() != nsOPC {
		return wireErrorf(ua.StatusBadDecodingError, "a request that does not read")
	}
	// The header is read first by itself, so that whatever comes after it gets
	// an answer with its handle.
	peek := *d
	header := new(ua.RequestHeader)
	if err := peek.decodeInto(header); err != nil {
		return wireErrorf(ua.StatusBadDecodingError, "a request whose header does not read")
	}
	cl := &call{conn: c, requestID: requestID, header: header}
	resp, err := cl.dispatch(typ.NodeID.IntID(), d)
	if errors.Is(err, errLater) {
		return nil
	}
	return c.answer(cl, resp, err)
}

// statusOf is the code of a fault.
func statusOf(err error) ua.StatusCode {
	var code ua.StatusCode
	switch {
	case err == nil:
		return ua.StatusOK
	case errors.As(err, &code):
		return code
	case errors.Is(err, errMalformed):
		return ua.StatusBadDecodingError
	}
	return ua.StatusBadInternalError
}

// answer sends a response, or a ServiceFault: OPC 10000-4, 7.34.
func (c *conn) answer(cl *call, resp ua.Response, err error) error {
	header := &ua.ResponseHeader{Timestamp: c.srv.now(), RequestHandle: cl.header.RequestHandle, ServiceResult: statusOf(err)}
	if err != nil || resp == nil {
		resp = &ua.ServiceFault{}
	}
	resp.SetHeader(header)
	b, err := encodeService(resp)
	if err != nil {
		return err
	}
	if !c.ch.fits(len(b)) || cl.session != nil && !cl.session.fits(len(b)) {
		header.ServiceResult = ua.StatusBadResponseTooLarge
		if b, err = encodeService(&ua.ServiceFault{ResponseHeader: header}); err != nil {
			return err
		}
	}
	return c.ch.send(cl.requestID, b)
}

// dispatch finds the service of a request. Discovery is for everybody, sessions
// are made on channels that may have one, and all else needs a session that is
// activated on this channel.
func (cl *call) dispatch(typ uint32, d *decoder) (ua.Response, error) {
	req := newRequest(typ)
	if req == nil {
		return nil, ua.StatusBadServiceUnsupported
	}
	if err := d.decodeInto(req); err != nil {
		return nil, err
	}
	switch r := req.(type) {
	case *ua.FindServersRequest:
		return cl.findServers(r)
	case *ua.GetEndpointsRequest:
		return cl.getEndpoints(r)
	case *ua.CreateSessionRequest:
		return cl.createSession(r)
	case *ua.ActivateSessionRequest:
		return cl.activateSession(r)
	}
	s, err := cl.conn.srv.sessions.find(cl.header.AuthenticationToken, cl.conn)
	if err != nil {
		return nil, err
	}
	cl.session = s
	if r, ok := req.(*ua.CloseSessionRequest); ok {
		return cl.closeSession(r)
	}
	if err := s.touch(time.Now()); err != nil {
		return nil, err
	}
	switch r := req.(type) {
	case *ua.CancelRequest:
		return cl.cancel(r)
	case *ua.ReadRequest:
		return cl.read(r)
	case *ua.WriteRequest:
		return cl.write(r)
	case *ua.BrowseRequest:
		return cl.browse(r)
	case *ua.BrowseNextRequest:
		return cl.browseNext(r)
	case *ua.TranslateBrowsePathsToNodeIDsRequest:
		return cl.translate(r)
	case *ua.RegisterNodesRequest:
		return cl.registerNodes(r)
	case *ua.UnregisterNodesRequest:
		return cl.unregisterNodes(r)
	case *ua.PublishRequest:
		return cl.publish(r)
	case *ua.RepublishRequest:
		return cl.republish(r)
	case *ua.CreateSubscriptionRequest:
		return cl.createSubscription(r)
	case *ua.ModifySubscriptionRequest:
		return cl.modifySubscription(r)
	case *ua.SetPublishingModeRequest:
		return cl.setPublishingMode(r)
	case *ua.DeleteSubscriptionsRequest:
		return cl.deleteSubscriptions(r)
	case *ua.CreateMonitoredItemsRequest:
		return cl.createItems(r)
	case *ua.ModifyMonitoredItemsRequest:
		return cl.modifyItems(r)
	case *ua.SetMonitoringModeRequest:
		return cl.setMonitoringMode(r)
	case *ua.DeleteMonitoredItemsRequest:
		return cl.deleteItems(r)
	}
	return nil, ua.StatusBadServiceUnsupported
}

// newRequest returns a request of a type, or nil for one that is not served.
func newRequest(typ uint32) any {
	switch typ {
	case id.FindServersRequest_Encoding_DefaultBinary:
		return new(ua.FindServersRequest)
	case id.GetEndpointsRequest_Encoding_DefaultBinary:
		return new(ua.GetEndpointsRequest)
	case id.CreateSessionRequest_Encoding_DefaultBinary:
		return new(ua.CreateSessionRequest)
	case id.ActivateSessionRequest_Encoding_DefaultBinary:
		return new(ua.ActivateSessionRequest)
	case id.CloseSessionRequest_Encoding_DefaultBinary:
		return new(ua.CloseSessionRequest)
	case id.CancelRequest_Encoding_DefaultBinary:
		return new(ua.CancelRequest)
	case id.ReadRequest_Encoding_DefaultBinary:
		return new(ua.ReadRequest)
	case id.WriteRequest_Encoding_DefaultBinary:
		return new(ua.WriteRequest)
	case id.BrowseRequest_Encoding_DefaultBinary:
		return new(ua.BrowseRequest)
	case id.BrowseNextRequest_Encoding_DefaultBinary:
		return new(ua.BrowseNextRequest)
	case id.TranslateBrowsePathsToNodeIDsRequest_Encoding_DefaultBinary:
		return new(ua.TranslateBrowsePathsToNodeIDsRequest)
	case id.RegisterNodesRequest_Encoding_DefaultBinary:
		return new(ua.RegisterNodesRequest)
	case id.UnregisterNodesRequest_Encoding_DefaultBinary:
		return new(ua.UnregisterNodesRequest)
	case id.PublishRequest_Encoding_DefaultBinary:
		return new(ua.PublishRequest)
	case id.RepublishRequest_Encoding_DefaultBinary:
		return new(ua.RepublishRequest)
	case id.CreateSubscriptionRequest_Encoding_DefaultBinary:
		return new(ua.CreateSubscriptionRequest)
	case id.ModifySubscriptionRequest_Encoding_DefaultBinary:
		return new(ua.ModifySubscriptionRequest)
	case id.SetPublishingModeRequest_Encoding_DefaultBinary:
		return new(ua.SetPublishingModeRequest)
	case id.DeleteSubscriptionsRequest_Encoding_DefaultBinary:
		return new(ua.DeleteSubscriptionsRequest)
	case id.CreateMonitoredItemsRequest_Encoding_DefaultBinary:
		return new(ua.CreateMonitoredItemsRequest)
	case id.ModifyMonitoredItemsRequest_Encoding_DefaultBinary:
		return new(ua.ModifyMonitoredItemsRequest)
	case id.SetMonitoringModeRequest_Encoding_DefaultBinary:
		return new(ua.SetMonitoringModeRequest)
	case id.DeleteMonitoredItemsRequest_Encoding_DefaultBinary:
		return new(ua.DeleteMonitoredItemsRequest)
	}
	return nil
}
