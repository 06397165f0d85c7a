package server

import (
	"encoding/base64"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

const (
	// maxContinuations is how many browses of a session can be under way.
	maxContinuations = 20
	// maxReferences is how many references one answer has for a node at most.
	maxReferences = 1000
	// maxFollowed is how many references one request can ask for, with those that
	// are left for later. One node may have more.
	maxFollowed = 50_000
	// maxPathElements bounds a browse path.
	maxPathElements = 32
)

// continuations are browses of a session that are not at their end.
type continuations struct {
	byPoint map[string]*continuation
}

type continuation struct {
	rest []*ua.ReferenceDescription
	max  int
}

// keep keeps what is left, and returns its continuation point: nil where all
// are in use.
func (c *continuations) keep(left *continuation) []byte {
	if len(c.byPoint) >= maxContinuations {
		return nil
	}
	if c.byPoint == nil {
		c.byPoint = map[string]*continuation{}
	}
	point := newNonce()[:16]
	c.byPoint[base64.StdEncoding.EncodeToString(point)] = left
	return point
}

// take returns what is left and forgets it.
func (c *continuations) take(point []byte) *continuation {
	key := base64.StdEncoding.EncodeToString(point)
	out := c.byPoint[key]
	delete(c.byPoint, key)
	return out
}

// browse answers OPC 10000-4, 5.8.2.
func (cl *call) browse(r *ua.BrowseRequest) (ua.Response, error) {
	if err := operations(len(r.NodesToBrowse)); err != nil {
		return nil, err
	}
	if v := keyOf(r.View.ViewID); v != opcKey(0) {
		return nil, ua.StatusBadViewIDUnknown
	}
	limit := int(min(r.RequestedMaxReferencesPerNode, maxReferences))
	if limit == 0 {
		limit = maxReferences
	}
	resp := &ua.BrowseResponse{Results: make([]*ua.BrowseResult, len(r.NodesToBrowse))}
	followed := 0
	for i, b := range r.NodesToBrowse {
		if followed > maxFollowed {
			return nil, ua.StatusBadResponseTooLarge
		}
		refs, code := cl.conn.srv.space.follow(b)
		if code != ua.StatusOK {
			resp.Results[i] = &ua.BrowseResult{StatusCode: code}
			continue
		}
		followed += len(refs)
		resp.Results[i] = cl.session.part(&continuation{rest: refs, max: limit})
	}
	return resp, nil
}

// part returns as much as one answer has room for, and keeps the rest.
func (s *session) part(c *continuation) *ua.BrowseResult {
	if len(c.rest) <= c.max {
		return &ua.BrowseResult{References: c.rest}
	}
	now := c.rest[:c.max]
	s.mu.Lock()
	defer s.mu.Unlock()
	point := s.browses.keep(&continuation{rest: c.rest[c.max:], max: c.max})
	if point == nil {
		return &ua.BrowseResult{StatusCode: ua.StatusBadNoContinuationPoints}
	}
	return &ua.BrowseResult{References: now, ContinuationPoint: point}
}

// browseNext answers OPC 10000-4, 5.8.3.
func (cl *call) browseNext(r *ua.BrowseNextRequest) (ua.Response, error) {
	if err := operations(len(r.ContinuationPoints)); err != nil {
		return nil, err
	}
	resp := &ua.BrowseNextResponse{Results: make([]*ua.BrowseResult, len(r.ContinuationPoints))}
	for i, p := range r.ContinuationPoints {
		cl.session.mu.Lock()
		c := cl.session.browses.take(p)
		cl.session.mu.Unlock()
		switch {
		case c == nil:
			resp.Results[i] = &ua.BrowseResult{StatusCode: ua.StatusBadContinuationPointInvalid}
		case r.ReleaseContinuationPoints:
			resp.Results[i] = new(ua.BrowseResult)
		default:
			resp.Results[i] = cl.session.part(c)
		}
	}
	return resp, nil
}

// follow lists the references of a node that a browse asks for.
func (s *space) follow(b *ua.BrowseDescription) ([]*ua.ReferenceDescription, ua.StatusCode) {
	n := s.get(keyOf(b.NodeID))
	if n == nil {
		return nil, ua.StatusBadNodeIDUnknown
	}
	if b.BrowseDirection < ua.BrowseDirectionForward || b.BrowseDirection > ua.BrowseDirectionBoth {
		return nil, ua.StatusBadBrowseDirectionInvalid
	}
	wanted, code := s.wanted(b.ReferenceTypeID, b.IncludeSubtypes)
	if code != ua.StatusOK {
		return nil, code
	}
	var out []*ua.ReferenceDescription
	for _, r := range s.references(n) {
		if r.inverse && b.BrowseDirection == ua.BrowseDirectionForward || !r.inverse && b.BrowseDirection == ua.BrowseDirectionInverse {
			continue
		}
		if !wanted(r.typ) || b.NodeClassMask != 0 && b.NodeClassMask&uint32(r.to.class) == 0 {
			continue
		}
		out = append(out, s.describe(r, b.ResultMask))
	}
	return out, ua.StatusOK
}

// wanted tells which reference types are meant; a null one means all.
func (s *space) wanted(typ *ua.NodeID, subtypes bool) (func(uint32) bool, ua.StatusCode) {
	k := keyOf(typ)
	if k == opcKey(0) {
		return func(uint32) bool { return true }, ua.StatusOK
	}
	if n := s.get(k); n == nil || n.class != refType {
		return nil, ua.StatusBadReferenceTypeIDInvalid
	}
	return func(t uint32) bool { return t == k.num || subtypes && s.isSubtype(t, k.num) }, ua.StatusOK
}

// describe fills in what the mask asks for: OPC 10000-4, 5.8.2.2.
func (s *space) describe(r reference, mask uint32) *ua.ReferenceDescription {
	out := &ua.ReferenceDescription{NodeID: expanded(r.to.key)}
	if mask&uint32(ua.BrowseResultMaskReferenceTypeID) != 0 {
		out.ReferenceTypeID = opcKey(r.typ).id()
	}
	if mask&uint32(ua.BrowseResultMaskIsForward) != 0 {
		out.IsForward = !r.inverse
	}
	if mask&uint32(ua.BrowseResultMaskNodeClass) != 0 {
		out.NodeClass = r.to.class
	}
	if mask&uint32(ua.BrowseResultMaskBrowseName) != 0 {
		out.BrowseName = r.to.browseName()
	}
	if mask&uint32(ua.BrowseResultMaskDisplayName) != 0 {
		out.DisplayName = ua.NewLocalizedText(r.to.display)
	}
	if mask&uint32(ua.BrowseResultMaskTypeDefinition) != 0 {
		for _, t := range s.references(r.to) {
			if t.typ == id.HasTypeDefinition && !t.inverse {
				out.TypeDefinition = expanded(t.to.key)
			}
		}
	}
	return out
}

func expanded(k nodeKey) *ua.ExpandedNodeID { return &ua.ExpandedNodeID{NodeID: k.id()} }

// translate answers OPC 10000-4, 5.8.4.
func (cl *call) translate(r *ua.TranslateBrowsePathsToNodeIDsRequest) (ua.Response, error) {
	if err := operations(len(r.BrowsePaths)); err != nil {
		return nil, err
	}
	resp := &ua.TranslateBrowsePathsToNodeIDsResponse{Results: make([]*ua.BrowsePathResult, len(r.BrowsePaths))}
	for i, p := range r.BrowsePaths {
		targets, code := cl.conn.srv.space.path(p)
		resp.Results[i] = &ua.BrowsePathResult{StatusCode: code}
		for _, n := range targets {
			resp.Results[i].Targets = append(resp.Results[i].Targets, &ua.BrowsePathTarget{TargetID: expanded(n.key), RemainingPathIndex: 0xffffffff})
		}
	}
	return resp, nil
}

// path follows the names of a browse path.
func (s *space) path(p *ua.BrowsePath) ([]*node, ua.StatusCode) {
	start := s.get(keyOf(p.StartingNode))
	switch {
	case start == nil:
		return nil, ua.StatusBadNodeIDUnknown
	case len(p.RelativePath.Elements) == 0:
		return nil, ua.StatusBadNothingToDo
	case len(p.RelativePath.Elements) > maxPathElements:
		return nil, ua.StatusBadTooManyOperations
	}
	at := []*node{start}
	for _, e := range p.RelativePath.Elements {
		if e.TargetName.Name == "" {
			return nil, ua.StatusBadBrowseNameInvalid
		}
		wanted, code := s.wanted(e.ReferenceTypeID, e.IncludeSubtypes)
		if code != ua.StatusOK {
			return nil, ua.StatusBadNoMatch
		}
		var next []*node
		seen := map[*node]bool{}
		for _, n := range at {
			for _, r := range s.references(n) {
				if r.inverse == e.IsInverse && wanted(r.typ) && !seen[r.to] && *r.to.browseName() == *e.TargetName {
					seen[r.to] = true
					next = append(next, r.to)
				}
			}
		}
		if len(next) == 0 {
			return nil, ua.StatusBadNoMatch
		}
		at = next
	}
	return at, ua.StatusOK
}

// registerNodes answers OPC 10000-4, 5.8.5: every node is as quick as it gets.
func (cl *call) registerNodes(r *ua.RegisterNodesRequest) (ua.Response, error) {
	if err := operations(len(r.NodesToRegister)); err != nil {
		return nil, err
	}
	return &ua.RegisterNodesResponse{RegisteredNodeIDs: r.NodesToRegister}, nil
}

func (cl *call) unregisterNodes(r *ua.UnregisterNodesRequest) (ua.Response, error) {
	if err := operations(len(r.NodesToUnregister)); err != nil {
		return nil, err
	}
	return new(ua.UnregisterNodesResponse), nil
}
