package opcua

import (
	"context"
	"fmt"
	"time"

	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// node is one variable that is written, with what the server says of it.
type node struct {
	address address

	session *session // that the rest was learned in; nil before
	learned time.Time
	id      *ua.NodeID
	typ     ua.TypeID
	status  bool // a StatusCode may be written
	stamp   bool // a SourceTimestamp may be written
}

// relearn is after how long the types and rights are read anew: they may have
// been changed on the server. It tells also whether a connection that nothing
// went over is still there.
const relearn = 30 * time.Second

const (
	// hasSubtype is the reference type HasSubtype, OPC 10000-5, 11.13.
	hasSubtype = 45
	// baseDataType and what follows it up to enumeration are abstract: any value,
	// number, integer or unsigned one. The data types before have the numbers of
	// their built-in types: OPC 10000-6, 5.1.2 and OPC 10000-5, 12.2.
	baseDataType = 24
	enumeration  = 29
	// depth bounds the way from a data type to a built-in one.
	depth = 16
)

// The value ranks that a single value has or may have: OPC 10000-3, 5.6.2.
const (
	rankScalarOrOneDimension = -3
	rankAny                  = -2
	rankScalar               = -1
)

// learn reads type, rank and rights of nodes, in one request, where they are
// not known in this session. What makes a node unfit for being written is an
// Unsuited error.
func (t *target) learn(ctx context.Context, s *session, fresh bool) error {
	now := t.conn.clock.Now()
	var ask []*node
	for _, n := range t.nodes {
		if n.session != s || fresh && now.Sub(n.learned) > relearn {
			ask = append(ask, n)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	attributes := []ua.AttributeID{
		ua.AttributeIDDataType, ua.AttributeIDValueRank, ua.AttributeIDAccessLevel, ua.AttributeIDUserAccessLevel, ua.AttributeIDValue,
	}
	req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
	for _, n := range ask {
		var err error
		if n.id, err = n.address.resolve(s.namespaces); err != nil {
			return protocols.Unsuitedf("node %s: %w: correct the address", n.address.text, err)
		}
		for _, a := range attributes {
			req.NodesToRead = append(req.NodesToRead, &ua.ReadValueID{NodeID: n.id, AttributeID: a})
		}
	}
	resp, err := s.client.Read(ctx, req)
	if err == nil && len(resp.Results) != len(req.NodesToRead) {
		err = fmt.Errorf("it answers %d of %d attributes: ask its vendor", len(resp.Results), len(req.NodesToRead))
	}
	if err != nil {
		return t.conn.explain("read the type of node "+ask[0].address.text+" from", err)
	}
	for i, n := range ask {
		if err := t.understand(ctx, s, n, resp.Results[i*len(attributes):]); err != nil {
			return err
		}
		n.session, n.learned = s, now
	}
	return nil
}

// understand takes the answers for one node, in the order of learn.
func (t *target) understand(ctx context.Context, s *session, n *node, got []*ua.DataValue) error {
	dataType, rank, access, userAccess, value := got[0], got[1], got[2], got[3], got[4]
	at := n.address.text
	if missing(dataType.Status) {
		return protocols.Unsuitedf("%w", nodeError(at, dataType.Status))
	}
	both := byte(0xff)
	for _, level := range []*ua.DataValue{access, userAccess} {
		// Both are mandatory, OPC 10000-3, 5.6.2; where a server does not tell, its
		// answer to the write decides.
		if b, ok := scalarOf(level).(byte); ok {
			both &= b
		}
	}
	switch {
	case both&byte(ua.AccessLevelTypeCurrentWrite) == 0:
		return protocols.Unsuitedf("node %s is not writable for our user: give it the right on the server", at)
	case both&byte(ua.AccessLevelTypeCurrentRead) == 0:
		return protocols.Unsuitedf("node %s cannot be read by our user, so no write could be verified: give it the right on the server", at)
	}
	// What a server does not tell is not allowed.
	_, told := scalarOf(access).(byte)
	n.status = told && both&byte(ua.AccessLevelTypeStatusWrite) != 0
	n.stamp = told && both&byte(ua.AccessLevelTypeTimestampWrite) != 0
	if r, ok := scalarOf(rank).(int32); ok && (r < rankScalarOrOneDimension || r > rankScalar) {
		return protocols.Unsuitedf("node %s is an array (ValueRank %d), and one value is to be written: choose another node", at, r)
	}
	holds := ua.TypeIDNull
	if value.Value != nil && value.Value.Value() != nil {
		if value.Value.Has(ua.VariantArrayValues) {
			return protocols.Unsuitedf("node %s holds an array, and one value is to be written: choose another node", at)
		}
		holds = value.Value.Type()
	}
	id, _ := scalarOf(dataType).(*ua.NodeID)
	typ, err := t.builtIn(ctx, s, id)
	if err != nil {
		return err
	}
	switch {
	case typ == ua.TypeIDNull && holds == ua.TypeIDNull:
		return protocols.Unsuitedf("node %s has data type %s, which is no single number, bool or text, and holds no value yet: choose another node", at, id)
	case typ == ua.TypeIDNull:
		typ = holds // an abstract type takes what it holds
	}
	n.typ = typ
	return nil
}

// scalarOf returns an attribute's value, nil where the server gave none.
func scalarOf(dv *ua.DataValue) any {
	if uint32(dv.Status)&0x80000000 != 0 || dv.Value == nil {
		return nil
	}
	return dv.Value.Value()
}

// builtIn returns the built-in type that values of a data type are sent as,
// Null where it is abstract: the type itself or the first built-in one above
// it, OPC 10000-3, 5.8.3.
func (t *target) builtIn(ctx context.Context, s *session, id *ua.NodeID) (ua.TypeID, error) {
	for range depth {
		if id == nil {
			break
		}
		if n := id.IntID(); id.Namespace() == 0 && n > 0 {
			switch {
			case n < baseDataType:
				return ua.TypeID(n), nil
			case n < enumeration:
				return ua.TypeIDNull, nil
			case n == enumeration:
				return ua.TypeIDInt32, nil // OPC 10000-6, 5.2.4
			}
		}
		resp, err := s.client.Browse(ctx, &ua.BrowseRequest{
			View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)},
			NodesToBrowse: []*ua.BrowseDescription{{
				NodeID: id, BrowseDirection: ua.BrowseDirectionInverse, ReferenceTypeID: ua.NewNumericNodeID(0, hasSubtype), ResultMask: uint32(ua.BrowseResultMaskNone),
			}},
		})
		if err != nil {
			return 0, t.conn.explain("look up a data type of", err)
		}
		id = nil
		if len(resp.Results) == 1 && len(resp.Results[0].References) > 0 {
			id = resp.Results[0].References[0].NodeID.NodeID
		}
	}
	return ua.TypeIDNull, nil
}
