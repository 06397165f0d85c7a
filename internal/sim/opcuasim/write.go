package opcuasim

import (
	"fmt"
	"reflect"
	"time"

	"github.com/gopcua/opcua/server"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uasc"
)

// writeRequest is the number of WriteRequest's binary encoding, OPC 10000-6,
// annex A.
const writeRequest = 673

// Access says what a client may do with a node: bits of the AccessLevel,
// OPC 10000-3, 8.57.
type Access = ua.AccessLevelType

// The access levels.
const (
	Readable     = ua.AccessLevelTypeCurrentRead
	Writable     = ua.AccessLevelTypeCurrentRead | ua.AccessLevelTypeCurrentWrite
	WriteStatus  = ua.AccessLevelTypeStatusWrite
	WriteTime    = ua.AccessLevelTypeTimestampWrite
	WriteOnly    = ua.AccessLevelTypeCurrentWrite
	scalar       = int32(-1) // OPC 10000-3, 5.6.2
	oneDimension = int32(1)
)

// Node is a variable that clients may write, as it is at first.
type Node struct {
	Name  string
	Value any // nil where there is none yet
	// DataType is the number of a built-in type, where Value is nil; 0: Value's.
	DataType uint32
	Access   Access
	// UserAccess is Access where 0.
	UserAccess Access
	// Plain makes the server refuse a value with status or time, with
	// BadWriteNotSupported, whatever Access says.
	Plain bool
}

// Written is one value that a client wrote and the server took or refused.
type Written struct {
	Node   string
	Value  ua.DataValue
	Answer ua.StatusCode
}

// AddNode adds a variable that can be written and returns its node id.
func (s *Server) AddNode(n Node) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[n.Name] != nil {
		return "", fmt.Errorf("node %s is there already", n.Name)
	}
	v := &variable{id: ua.NewStringNodeID(s.space.ID(), n.Name), plain: n.Plain}
	if n.UserAccess == 0 {
		n.UserAccess = n.Access
	}
	v.access = n.Access & n.UserAccess
	rank := scalar
	if n.Value != nil {
		if err := v.set(n.Value, time.Now(), 0); err != nil {
			return "", err
		}
		n.DataType = uint32(v.value.Value.Type()) // OPC 10000-6, 5.1.2: they have the same numbers
		if reflect.TypeOf(n.Value).Kind() == reflect.Slice {
			rank = oneDimension
		}
	}
	v.typ = ua.TypeID(n.DataType)
	attribute := func(x any) *ua.DataValue {
		return &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(x)}
	}
	s.nodes[n.Name], s.byID[v.id.String()] = v, v
	s.space.AddNode(server.NewNode(v.id, server.Attributes{
		ua.AttributeIDNodeClass:       attribute(uint32(ua.NodeClassVariable)),
		ua.AttributeIDBrowseName:      attribute(&ua.QualifiedName{NamespaceIndex: s.space.ID(), Name: n.Name}),
		ua.AttributeIDDataType:        attribute(ua.NewNumericNodeID(0, n.DataType)),
		ua.AttributeIDValueRank:       attribute(rank),
		ua.AttributeIDAccessLevel:     attribute(byte(n.Access)),
		ua.AttributeIDUserAccessLevel: attribute(byte(n.UserAccess)),
	}, nil, v.get))
	return v.id.String(), nil
}

// Value returns what a variable holds. It panics on a name that was not added.
func (s *Server) Value(name string) ua.DataValue {
	s.mu.Lock()
	v := s.nodes[name]
	s.mu.Unlock()
	if v == nil {
		panic("BUG: simulated node " + name + " was not added")
	}
	return *v.get()
}

// Written returns what clients have written so far, refused values too.
func (s *Server) Written() []Written {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Written(nil), s.written...)
}

// WriteRequests returns how many requests to write have come.
func (s *Server) WriteRequests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

// ForgetWrites makes Written and WriteRequests begin anew.
func (s *Server) ForgetWrites() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written, s.writes = nil, 0
}

// Answer makes the server answer each value that is written with a status and
// not take it; 0 ends that.
func (s *Server) Answer(status ua.StatusCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = status
}

// Fault makes the server answer as many requests to write as times says with a
// ServiceFault.
func (s *Server) Fault(status ua.StatusCode, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.faults = status, times
}

// write is the Write service: OPC 10000-4, 5.10.4.
func (s *Server) write(_ *uasc.SecureChannel, r ua.Request, _ uint32) (ua.Response, error) {
	req, ok := r.(*ua.WriteRequest)
	if !ok {
		return nil, ua.StatusBadRequestTypeInvalid
	}
	s.mu.Lock()
	s.writes++
	fault := s.faults > 0
	if fault {
		s.faults--
	}
	status := s.fault
	s.mu.Unlock()
	if fault {
		return nil, status
	}
	resp := &ua.WriteResponse{ResponseHeader: &ua.ResponseHeader{
		Timestamp: time.Now(), RequestHandle: req.RequestHeader.RequestHandle, ServiceDiagnostics: &ua.DiagnosticInfo{}, AdditionalHeader: ua.NewExtensionObject(nil),
	}}
	for _, w := range req.NodesToWrite {
		status := s.take(w)
		s.mu.Lock()
		s.written = append(s.written, Written{Node: w.NodeID.String(), Value: *w.Value, Answer: status})
		s.mu.Unlock()
		resp.Results = append(resp.Results, status)
	}
	return resp, nil
}

// take gives a variable the value that a client writes, or says why not.
func (s *Server) take(w *ua.WriteValue) ua.StatusCode {
	s.mu.Lock()
	v, answer := s.byID[w.NodeID.String()], s.answer
	s.mu.Unlock()
	const beside = ua.DataValueStatusCode | ua.DataValueSourceTimestamp
	switch {
	case v == nil:
		return ua.StatusBadNodeIDUnknown
	case answer != 0:
		return answer
	case w.AttributeID != ua.AttributeIDValue || v.access&ua.AccessLevelTypeCurrentWrite == 0:
		return ua.StatusBadNotWritable
	case w.Value.Value == nil || w.Value.Value.Type() != v.typ || w.Value.Value.Has(ua.VariantArrayValues):
		return ua.StatusBadTypeMismatch
	case v.plain && w.Value.EncodingMask&beside != 0,
		v.access&WriteStatus == 0 && w.Value.EncodingMask&ua.DataValueStatusCode != 0,
		v.access&WriteTime == 0 && w.Value.EncodingMask&ua.DataValueSourceTimestamp != 0:
		return ua.StatusBadWriteNotSupported
	}
	at := time.Now()
	if w.Value.EncodingMask&ua.DataValueSourceTimestamp != 0 {
		at = w.Value.SourceTimestamp
	}
	if err := v.set(w.Value.Value.Value(), at, w.Value.Status); err != nil {
		return ua.StatusBadTypeMismatch
	}
	s.server.ChangeNotification(v.id)
	return ua.StatusOK
}
