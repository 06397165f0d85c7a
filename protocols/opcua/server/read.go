package server

import (
	"strconv"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"
)

// maxOperations bounds what one request may ask for.
const maxOperations = 5000

// maxTexts bounds the texts of one answer together, in bytes: a small request
// may name a long one many times.
const maxTexts = 16 << 20

// attrAccessLevelEx is one that the library does not name, OPC 10000-3, 5.6.2.
const attrAccessLevelEx = ua.AttributeID(27)

// operations checks how many there are.
func operations(n int) error {
	switch {
	case n == 0:
		return ua.StatusBadNothingToDo
	case n > maxOperations:
		return ua.StatusBadTooManyOperations
	}
	return nil
}

// read answers OPC 10000-4, 5.10.2. Values are taken anew for each request, so
// whatever age is asked for is kept.
func (cl *call) read(r *ua.ReadRequest) (ua.Response, error) {
	if err := operations(len(r.NodesToRead)); err != nil {
		return nil, err
	}
	if !(r.MaxAge >= 0) { // NaN as well
		return nil, ua.StatusBadMaxAgeInvalid
	}
	if !timestampsValid(r.TimestampsToReturn) {
		return nil, ua.StatusBadTimestampsToReturnInvalid
	}
	srv := cl.conn.srv
	now := srv.now()
	resp := &ua.ReadResponse{Results: make([]*ua.DataValue, len(r.NodesToRead))}
	texts := 0
	for i, n := range r.NodesToRead {
		v := srv.attribute(n, now)
		if text, ok := valueOf(v).(string); ok {
			if texts += len(text); texts > maxTexts {
				return nil, ua.StatusBadResponseTooLarge
			}
		}
		resp.Results[i] = dataValue(v, n.AttributeID, r.TimestampsToReturn, now)
	}
	return resp, nil
}

func timestampsValid(t ua.TimestampsToReturn) bool {
	return t >= ua.TimestampsToReturnSource && t <= ua.TimestampsToReturnNeither
}

// dataValue makes what goes into a message. Only values have times.
func dataValue(r reading, attribute ua.AttributeID, t ua.TimestampsToReturn, now time.Time) *ua.DataValue {
	out := &ua.DataValue{Value: r.value, Status: r.status}
	if attribute == ua.AttributeIDValue {
		if t == ua.TimestampsToReturnSource || t == ua.TimestampsToReturnBoth {
			out.SourceTimestamp = r.source
		}
		if t == ua.TimestampsToReturnServer || t == ua.TimestampsToReturnBoth {
			out.ServerTimestamp = now
		}
	}
	out.UpdateMask()
	return out
}

// attribute reads one attribute of one node: OPC 10000-3, 5.
func (s *Server) attribute(r *ua.ReadValueID, now time.Time) reading {
	n := s.space.get(keyOf(r.NodeID))
	if n == nil {
		return reading{status: ua.StatusBadNodeIDUnknown}
	}
	if r.DataEncoding != nil && r.DataEncoding.Name != "" {
		if r.AttributeID != ua.AttributeIDValue || r.DataEncoding.NamespaceIndex != 0 || r.DataEncoding.Name != "Default Binary" {
			return reading{status: ua.StatusBadDataEncodingInvalid}
		}
	}
	if r.AttributeID == ua.AttributeIDValue && n.class == ua.NodeClassVariable {
		return ranged(n.read(now), r.IndexRange)
	}
	v, ok := n.attribute(r.AttributeID)
	if !ok {
		return reading{status: ua.StatusBadAttributeIDInvalid}
	}
	if r.IndexRange != "" {
		return reading{status: ua.StatusBadIndexRangeNoData}
	}
	return reading{value: variant(v)}
}

// attribute returns any attribute but the value; false where a node of that
// class has none of the kind.
func (n *node) attribute(a ua.AttributeID) (any, bool) {
	variable := n.class == ua.NodeClassVariable
	switch a {
	case ua.AttributeIDNodeID:
		return n.key.id(), true
	case ua.AttributeIDNodeClass:
		return int32(n.class), true
	case ua.AttributeIDBrowseName:
		return n.browseName(), true
	case ua.AttributeIDDisplayName:
		return ua.NewLocalizedText(n.display), true
	case ua.AttributeIDDescription:
		return ua.NewLocalizedText(n.description), true
	case ua.AttributeIDWriteMask, ua.AttributeIDUserWriteMask:
		return uint32(0), true
	case ua.AttributeIDIsAbstract:
		return n.abstract, n.class == refType || n.class == objType || n.class == varType || n.class == datType
	case ua.AttributeIDSymmetric:
		return n.inverse == "", n.class == refType
	case ua.AttributeIDInverseName:
		return ua.NewLocalizedText(n.inverse), n.class == refType && n.inverse != ""
	case ua.AttributeIDEventNotifier:
		return uint8(0), n.class == object
	case ua.AttributeIDDataType:
		if n.class == varType {
			return opcKey(anyType).id(), true
		}
		if !variable {
			return nil, false
		}
		return opcKey(n.dataType()).id(), true
	case ua.AttributeIDValueRank:
		if n.class == varType {
			return int32(-2), true // any
		}
		return n.rank, variable
	case ua.AttributeIDArrayDimensions:
		return []uint32{0}, variable && n.rank == 1
	case ua.AttributeIDAccessLevel, ua.AttributeIDUserAccessLevel:
		return uint8(ua.AccessLevelTypeCurrentRead), variable
	case attrAccessLevelEx:
		return uint32(ua.AccessLevelTypeCurrentRead), variable
	case ua.AttributeIDMinimumSamplingInterval:
		return float64(0), variable
	case ua.AttributeIDHistorizing:
		return false, variable
	}
	return nil, false
}

func (n *node) browseName() *ua.QualifiedName {
	return &ua.QualifiedName{NamespaceIndex: n.browseNS, Name: n.browse}
}

// ranged takes part of an array of texts. Other values have no parts.
func ranged(r reading, within string) reading {
	if within == "" {
		return r
	}
	low, high, ok := indexRange(within)
	if !ok {
		return reading{status: ua.StatusBadIndexRangeInvalid}
	}
	if r.value == nil {
		return r
	}
	list, isList := r.value.Value().([]string)
	if !isList || low >= len(list) {
		return reading{status: ua.StatusBadIndexRangeNoData}
	}
	r.value = variant(list[low:min(high+1, len(list))])
	return r
}

// indexRange reads "2" or "2:5", OPC 10000-4, 7.27.
func indexRange(text string) (low, high int, ok bool) {
	number := func(s string) (int, bool) {
		if s == "" || len(s) > 9 || strings.Trim(s, "0123456789") != "" {
			return 0, false
		}
		n, err := strconv.Atoi(s)
		return n, err == nil
	}
	a, b, pair := strings.Cut(text, ":")
	if low, ok = number(a); !ok {
		return 0, 0, false
	}
	if !pair {
		return low, low, true
	}
	high, ok = number(b)
	return low, high, ok && low < high
}

// write refuses each value: the server is read-only.
func (cl *call) write(r *ua.WriteRequest) (ua.Response, error) {
	if err := operations(len(r.NodesToWrite)); err != nil {
		return nil, err
	}
	resp := &ua.WriteResponse{Results: make([]ua.StatusCode, len(r.NodesToWrite))}
	for i, w := range r.NodesToWrite {
		switch {
		case cl.conn.srv.space.get(keyOf(w.NodeID)) == nil:
			resp.Results[i] = ua.StatusBadNodeIDUnknown
		default:
			resp.Results[i] = ua.StatusBadNotWritable
		}
	}
	return resp, nil
}
