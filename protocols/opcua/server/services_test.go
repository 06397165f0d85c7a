package server

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
	"millrace/sample"
)

// all browses forward, hierarchically, from a node, in pieces of n references.
func all(t testing.TB, c *opcua.Client, node *ua.NodeID, n uint32) []*ua.ReferenceDescription {
	t.Helper()
	resp, err := c.Browse(ctxOf(t), &ua.BrowseRequest{
		View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, RequestedMaxReferencesPerNode: n,
		NodesToBrowse: []*ua.BrowseDescription{{NodeID: node, ReferenceTypeID: ua.NewNumericNodeID(0, id.HierarchicalReferences), IncludeSubtypes: true, ResultMask: uint32(ua.BrowseResultMaskAll)}},
	})
	if err != nil {
		t.Fatalf("browse %s: %v", node, err)
	}
	out := resp.Results[0].References
	for point := resp.Results[0].ContinuationPoint; len(point) > 0; {
		if n > 0 && len(resp.Results[0].References) > int(n) {
			t.Fatalf("%d references where %d were asked for", len(resp.Results[0].References), n)
		}
		next, err := c.BrowseNext(ctxOf(t), &ua.BrowseNextRequest{ContinuationPoints: [][]byte{point}})
		if err != nil || next.Results[0].StatusCode != ua.StatusOK {
			t.Fatalf("browse on: %v, %+v", err, next)
		}
		out = append(out, next.Results[0].References...)
		point = next.Results[0].ContinuationPoint
	}
	return out
}

// tree walks the address space and returns the paths of its nodes.
func tree(t testing.TB, c *opcua.Client, node *ua.NodeID, path string, n uint32, into map[string]*ua.ReferenceDescription) {
	t.Helper()
	for _, r := range all(t, c, node, n) {
		p := path + "/" + r.BrowseName.Name
		if into[p] == nil {
			into[p] = r
			tree(t, c, r.NodeID.NodeID, p, n, into)
		}
	}
}

func TestAddressSpace(t *testing.T) {
	r := start(t, plain(t), func(r *rig) { r.mirror("sp1", sample.Float64, "kW") })
	c := r.client()
	found := map[string]*ua.ReferenceDescription{}
	tree(t, c, ua.NewNumericNodeID(0, id.RootFolder), "", 0, found)
	for path, want := range map[string]string{
		"/Objects/Server/ServerStatus/CurrentTime":                                "i=2258",
		"/Objects/Server/NamespaceArray":                                          "i=2255",
		"/Objects/Server/ServerCapabilities/OperationLimits/MaxNodesPerRead":      "i=11705",
		"/Objects/Mirror/sp1":                                                     "ns=1;s=mirror/sp1",
		"/Objects/Mirror/sp1/Version":                                             "ns=1;s=mirror/sp1.Version",
		"/Objects/Mirror/sp1/ValidUntil":                                          "ns=1;s=mirror/sp1.ValidUntil",
		"/Objects/Mirror/sp1/ComputedAt":                                          "ns=1;s=mirror/sp1.ComputedAt",
		"/Objects/Mirror/sp1/EngineeringUnits":                                    "ns=1;s=mirror/sp1.EngineeringUnits",
		"/Objects/Live/north/meter1/power":                                        "ns=1;s=north/meter1/power",
		"/Objects/Live/north/meter1/power/EngineeringUnits":                       "ns=1;s=north/meter1/power.EngineeringUnits",
		"/Objects/Live/north/pump/on":                                             "ns=1;s=pump.on",
		"/Objects/Heartbeat":                                                      "ns=1;s=Heartbeat",
		"/Objects/Alive":                                                          "ns=1;s=Alive",
		"/Types/ObjectTypes/BaseObjectType/FolderType":                            "i=61",
		"/Types/DataTypes/BaseDataType/Number/Double":                             "i=11",
		"/Types/ReferenceTypes/References/HierarchicalReferences/Organizes":       "i=35",
		"/Types/VariableTypes/BaseVariableType/BaseDataVariableType/DataItemType": "i=2365",
	} {
		if got := found[path]; got == nil || got.NodeID.NodeID.String() != want {
			t.Errorf("%s: got %v, want %s", path, got, want)
		}
	}
	// Every node can be read, and has a definition that is there.
	for path, n := range found {
		if (n.NodeClass == ua.NodeClassVariable || n.NodeClass == ua.NodeClassObject) && n.TypeDefinition.NodeID.IntID() == 0 {
			t.Errorf("%s has no type", path)
		}
		for _, a := range []ua.AttributeID{ua.AttributeIDNodeID, ua.AttributeIDNodeClass, ua.AttributeIDBrowseName, ua.AttributeIDDisplayName, ua.AttributeIDDescription, ua.AttributeIDWriteMask, ua.AttributeIDUserWriteMask} {
			if v := attribute(t, c, n.NodeID.NodeID.String(), a); v.Status != ua.StatusOK {
				t.Errorf("%s: attribute %d: %v", path, a, v.Status)
			}
		}
		if n.NodeClass == ua.NodeClassVariable {
			typ := attribute(t, c, n.NodeID.NodeID.String(), ua.AttributeIDDataType)
			if v := attribute(t, c, typ.Value.NodeID().String(), ua.AttributeIDBrowseName); v.Status != ua.StatusOK {
				t.Errorf("%s: its data type %s is not there", path, typ.Value.NodeID())
			}
		}
	}
	pieces := map[string]*ua.ReferenceDescription{}
	tree(t, c, ua.NewNumericNodeID(0, id.RootFolder), "", 2, pieces)
	if len(pieces) != len(found) {
		t.Errorf("in pieces of two, %d of %d nodes are found", len(pieces), len(found))
	}
}

func TestAttributes(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	power := "ns=1;s=north/meter1/power"
	for _, x := range []struct {
		node string
		a    ua.AttributeID
		want any // a ua.StatusCode where it is none
	}{
		{power, ua.AttributeIDNodeClass, int32(2)},
		{power, ua.AttributeIDDescription, "active power"},
		{power, ua.AttributeIDDataType, "i=11"},
		{power, ua.AttributeIDValueRank, int32(-1)},
		{power, ua.AttributeIDAccessLevel, byte(1)},
		{power, ua.AttributeIDUserAccessLevel, byte(1)},
		{power, ua.AttributeIDHistorizing, false},
		{power, ua.AttributeIDMinimumSamplingInterval, 0.0},
		{power, ua.AttributeIDEventNotifier, ua.StatusBadAttributeIDInvalid},
		{power, ua.AttributeIDArrayDimensions, ua.StatusBadAttributeIDInvalid},
		{power, 99, ua.StatusBadAttributeIDInvalid},
		{power + "x", ua.AttributeIDValue, ua.StatusBadNodeIDUnknown},
		{"ns=7;s=x", ua.AttributeIDValue, ua.StatusBadNodeIDUnknown},
		{"ns=1;g=11111111-2222-3333-4444-555555555555", ua.AttributeIDValue, ua.StatusBadNodeIDUnknown},
		{"i=85", ua.AttributeIDValue, ua.StatusBadAttributeIDInvalid},
		{"i=85", ua.AttributeIDEventNotifier, byte(0)},
		{"i=35", ua.AttributeIDSymmetric, false},
		{"i=35", ua.AttributeIDInverseName, "OrganizedBy"},
		{"i=31", ua.AttributeIDIsAbstract, true},
		{"ns=1;s=north/meter1/state", ua.AttributeIDDataType, "i=12"},
		{"ns=1;s=pump.on", ua.AttributeIDDataType, "i=1"},
		{"ns=1;s=north/pump/speed", ua.AttributeIDDataType, "i=11"},
		{"ns=1;s=north/pump/speed", ua.AttributeIDValue, ua.StatusBadWaitingForInitialData},
		{"ns=1;s=Heartbeat", ua.AttributeIDValue, ua.StatusBadWaitingForInitialData},
		{"i=2255", ua.AttributeIDValueRank, int32(1)},
		{"i=2267", ua.AttributeIDValue, byte(255)},
		{"i=2259", ua.AttributeIDValue, int32(0)},
	} {
		v := attribute(t, c, x.node, x.a)
		var got any = v.Status
		if v.Status == ua.StatusOK && v.Value != nil {
			got = v.Value.Value()
		}
		switch g := got.(type) {
		case *ua.LocalizedText:
			got = g.Text
		case *ua.NodeID:
			got = g.String()
		}
		if got != x.want {
			t.Errorf("%s attribute %d: got %v (%T), want %v", x.node, x.a, got, got, x.want)
		}
	}
	v := value(t, c, "ns=1;s=pump.on")
	if v.Status != ua.StatusCode(sample.Uncertain) || v.Value.Value() != true {
		t.Errorf("an uncertain value: %v %v", v.Status, v.Value.Value())
	}
	namespaces := value(t, c, "i=2255").Value.Value().([]string)
	if len(namespaces) != 2 || namespaces[0] != "http://opcfoundation.org/UA/" || !strings.HasSuffix(namespaces[1], ":millrace:north") {
		t.Errorf("namespaces %q", namespaces)
	}
	status := value(t, c, "i=2256").Value.Value().(*ua.ExtensionObject).Value.(*ua.ServerStatusDataType)
	if status.State != ua.ServerStateRunning || status.BuildInfo.ProductName != "millrace" || status.CurrentTime.Before(status.StartTime) {
		t.Errorf("status %+v", status)
	}
	unit := value(t, c, power+".EngineeringUnits").Value.Value().(*ua.ExtensionObject).Value.(*ua.EUInformation)
	if unit.DisplayName.Text != "kW" || unit.UnitID != 0x4b5754 {
		t.Errorf("unit %+v", unit)
	}
}

func TestReadRequests(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	one := func(change func(*ua.ReadRequest)) (*ua.DataValue, error) {
		req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnBoth, NodesToRead: []*ua.ReadValueID{{NodeID: ua.MustParseNodeID("ns=1;s=north/meter1/power"), AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}}}}
		change(req)
		resp, err := c.Read(ctxOf(t), req)
		if err != nil {
			return nil, err
		}
		return resp.Results[0], nil
	}
	for _, x := range []struct {
		name   string
		change func(*ua.ReadRequest)
		fault  ua.StatusCode
		status ua.StatusCode
	}{
		{"as it is", func(*ua.ReadRequest) {}, 0, 0},
		{"an age", func(q *ua.ReadRequest) { q.MaxAge = 1e9 }, 0, 0},
		{"a negative age", func(q *ua.ReadRequest) { q.MaxAge = -1 }, ua.StatusBadMaxAgeInvalid, 0},
		{"an age that is no number", func(q *ua.ReadRequest) { q.MaxAge = math.NaN() }, ua.StatusBadMaxAgeInvalid, 0},
		{"odd timestamps", func(q *ua.ReadRequest) { q.TimestampsToReturn = 4 }, ua.StatusBadTimestampsToReturnInvalid, 0},
		{"nothing", func(q *ua.ReadRequest) { q.NodesToRead = nil }, ua.StatusBadNothingToDo, 0},
		{"too much", func(q *ua.ReadRequest) { q.NodesToRead = slices.Repeat(q.NodesToRead, maxOperations+1) }, ua.StatusBadTooManyOperations, 0},
		{"part of a number", func(q *ua.ReadRequest) { q.NodesToRead[0].IndexRange = "0" }, 0, ua.StatusBadIndexRangeNoData},
		{"a range that does not read", func(q *ua.ReadRequest) { q.NodesToRead[0].IndexRange = "2:1" }, 0, ua.StatusBadIndexRangeInvalid},
		{"a range of rubbish", func(q *ua.ReadRequest) { q.NodesToRead[0].IndexRange = "-1" }, 0, ua.StatusBadIndexRangeInvalid},
		{"an encoding", func(q *ua.ReadRequest) { q.NodesToRead[0].DataEncoding.Name = "Default XML" }, 0, ua.StatusBadDataEncodingInvalid},
	} {
		v, err := one(x.change)
		if x.fault != 0 && !errors.Is(err, x.fault) || x.fault == 0 && (err != nil || v.Status != x.status) {
			t.Errorf("%s: %v, %+v", x.name, err, v)
		}
	}
	for which, want := range map[ua.TimestampsToReturn][2]bool{ua.TimestampsToReturnSource: {true, false}, ua.TimestampsToReturnServer: {false, true}, ua.TimestampsToReturnBoth: {true, true}, ua.TimestampsToReturnNeither: {}} {
		v, err := one(func(q *ua.ReadRequest) { q.TimestampsToReturn = which })
		if err != nil || !v.SourceTimestamp.IsZero() != want[0] || !v.ServerTimestamp.IsZero() != want[1] {
			t.Errorf("%v: %v, %+v", which, err, v)
		}
	}
	v, err := one(func(q *ua.ReadRequest) {
		q.NodesToRead[0].NodeID, q.NodesToRead[0].IndexRange = ua.NewNumericNodeID(0, id.Server_NamespaceArray), "0:5"
	})
	if err != nil || len(v.Value.Value().([]string)) != 2 {
		t.Errorf("part of an array: %v, %+v", err, v)
	}
}

// A small request may name one long text many times.
func TestAnswersAreBounded(t *testing.T) {
	r := start(t, plain(t), func(r *rig) {
		r.latest = func(string) (protocols.Reading, bool) {
			return protocols.Reading{Value: sample.StringValue(strings.Repeat("x", maxText)), Time: r.clock.Now()}, true
		}
	})
	c := r.client()
	for n, want := range map[int]error{100: nil, maxOperations: ua.StatusBadResponseTooLarge} {
		req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
		for range n {
			req.NodesToRead = append(req.NodesToRead, &ua.ReadValueID{NodeID: ua.NewStringNodeID(1, "north/meter1/state"), AttributeID: ua.AttributeIDValue})
		}
		if _, err := c.Read(ctxOf(t), req); !errors.Is(err, want) {
			t.Errorf("%d times %d bytes: %v, want %v", n, maxText, err, want)
		}
	}
}

func TestReadOnly(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	resp, err := c.Write(ctxOf(t), &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{
		{NodeID: ua.MustParseNodeID("ns=1;s=north/meter1/power"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(1.0)}},
		{NodeID: ua.MustParseNodeID("ns=1;s=nowhere"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(1.0)}},
	}})
	if err != nil || !slices.Equal(resp.Results, []ua.StatusCode{ua.StatusBadNotWritable, ua.StatusBadNodeIDUnknown}) {
		t.Errorf("%v, %+v", err, resp)
	}
	if _, err := c.Call(ctxOf(t), &ua.CallMethodRequest{ObjectID: ua.NewNumericNodeID(0, id.Server), MethodID: ua.NewNumericNodeID(0, 11492)}); !errors.Is(err, ua.StatusBadServiceUnsupported) {
		t.Errorf("a method: %v", err)
	}
}

func TestBrowseRequests(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	browse := func(change func(*ua.BrowseRequest)) (*ua.BrowseResult, error) {
		req := &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, NodesToBrowse: []*ua.BrowseDescription{{NodeID: ua.NewNumericNodeID(0, id.ObjectsFolder), ReferenceTypeID: ua.NewTwoByteNodeID(0), ResultMask: uint32(ua.BrowseResultMaskAll)}}}
		change(req)
		resp, err := c.Browse(ctxOf(t), req)
		if err != nil {
			return nil, err
		}
		return resp.Results[0], nil
	}
	b0 := func(q *ua.BrowseRequest) *ua.BrowseDescription { return q.NodesToBrowse[0] }
	for _, x := range []struct {
		name   string
		change func(*ua.BrowseRequest)
		fault  ua.StatusCode
		status ua.StatusCode
		n      int
	}{
		{"forward, all", func(*ua.BrowseRequest) {}, 0, 0, 6}, // type, Server, Mirror, Live, Alive, Heartbeat
		{"inverse", func(q *ua.BrowseRequest) { b0(q).BrowseDirection = ua.BrowseDirectionInverse }, 0, 0, 1},
		{"both", func(q *ua.BrowseRequest) { b0(q).BrowseDirection = ua.BrowseDirectionBoth }, 0, 0, 7},
		{"variables", func(q *ua.BrowseRequest) { b0(q).NodeClassMask = uint32(ua.NodeClassVariable) }, 0, 0, 2},
		{"organizes", func(q *ua.BrowseRequest) { b0(q).ReferenceTypeID = ua.NewNumericNodeID(0, id.Organizes) }, 0, 0, 5},
		{"hierarchical without subtypes", func(q *ua.BrowseRequest) { b0(q).ReferenceTypeID = ua.NewNumericNodeID(0, id.HierarchicalReferences) }, 0, 0, 0},
		{"an odd direction", func(q *ua.BrowseRequest) { b0(q).BrowseDirection = 3 }, 0, ua.StatusBadBrowseDirectionInvalid, 0},
		{"a node that is not there", func(q *ua.BrowseRequest) { b0(q).NodeID = ua.NewStringNodeID(1, "x") }, 0, ua.StatusBadNodeIDUnknown, 0},
		{"a reference type that is none", func(q *ua.BrowseRequest) { b0(q).ReferenceTypeID = ua.NewNumericNodeID(0, id.ObjectsFolder) }, 0, ua.StatusBadReferenceTypeIDInvalid, 0},
		{"a view", func(q *ua.BrowseRequest) { q.View.ViewID = ua.NewNumericNodeID(0, 87) }, ua.StatusBadViewIDUnknown, 0, 0},
		{"nothing", func(q *ua.BrowseRequest) { q.NodesToBrowse = nil }, ua.StatusBadNothingToDo, 0, 0},
	} {
		got, err := browse(x.change)
		if x.fault != 0 && !errors.Is(err, x.fault) || x.fault == 0 && (err != nil || got.StatusCode != x.status || len(got.References) != x.n) {
			t.Errorf("%s: %v, %+v", x.name, err, got)
		}
	}
	first, err := browse(func(q *ua.BrowseRequest) { q.RequestedMaxReferencesPerNode = 1 })
	if err != nil || len(first.ContinuationPoint) == 0 {
		t.Fatalf("%v, %+v", err, first)
	}
	next := func(release bool) ua.StatusCode {
		resp, err := c.BrowseNext(ctxOf(t), &ua.BrowseNextRequest{ReleaseContinuationPoints: release, ContinuationPoints: [][]byte{first.ContinuationPoint}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Results[0].StatusCode
	}
	if code := next(true); code != ua.StatusOK {
		t.Errorf("release: %v", code)
	}
	if code := next(false); code != ua.StatusBadContinuationPointInvalid {
		t.Errorf("after the release: %v", code)
	}
	for i := range maxContinuations + 1 {
		got, err := browse(func(q *ua.BrowseRequest) { q.RequestedMaxReferencesPerNode = 1 })
		if want := map[bool]ua.StatusCode{true: ua.StatusBadNoContinuationPoints}[i == maxContinuations]; err != nil || got.StatusCode != want {
			t.Errorf("browse %d: %v, %v", i, err, got.StatusCode)
		}
	}
}

// One request does not have the server gather without end.
func TestBrowsesAreBounded(t *testing.T) {
	var many []protocols.Tag
	for i := range 2000 {
		many = append(many, protocols.Tag{Name: fmt.Sprintf("north/big/t%d", i)})
	}
	r := start(t, plain(t), func(r *rig) {
		if err := errors.Join(r.build(), func() (err error) {
			for _, tag := range many {
				err = errors.Join(err, r.addLive(tag, r.latest))
			}
			return err
		}()); err != nil {
			t.Fatal(err)
		}
	})
	c := r.client()
	if n := len(all(t, c, ua.NewStringNodeID(1, "folder:live/north/big"), 0)); n != len(many) {
		t.Errorf("%d of %d", n, len(many))
	}
	b := &ua.BrowseDescription{NodeID: ua.NewStringNodeID(1, "folder:live/north/big"), ReferenceTypeID: ua.NewTwoByteNodeID(0), ResultMask: uint32(ua.BrowseResultMaskAll)}
	_, err := c.Browse(ctxOf(t), &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, NodesToBrowse: slices.Repeat([]*ua.BrowseDescription{b}, maxOperations)})
	if !errors.Is(err, ua.StatusBadResponseTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestBrowsePathsAndRegisteredNodes(t *testing.T) {
	r := start(t, plain(t), nil)
	c := r.client()
	path := func(names ...string) *ua.BrowsePath {
		p := &ua.BrowsePath{StartingNode: ua.NewNumericNodeID(0, id.ObjectsFolder), RelativePath: new(ua.RelativePath)}
		for _, n := range names {
			p.RelativePath.Elements = append(p.RelativePath.Elements, &ua.RelativePathElement{
				ReferenceTypeID: ua.NewNumericNodeID(0, id.HierarchicalReferences), IncludeSubtypes: true, TargetName: &ua.QualifiedName{NamespaceIndex: 1, Name: n},
			})
		}
		return p
	}
	for want, p := range map[string]*ua.BrowsePath{
		"ns=1;s=north/meter1/power": path("Live", "north", "meter1", "power"),
		"BadNoMatch":                path("Live", "south"),
		"BadNothingToDo":            path(),
		"BadBrowseNameInvalid":      path(""),
		"BadNodeIdUnknown":          {StartingNode: ua.NewStringNodeID(1, "x"), RelativePath: path("Live").RelativePath},
	} {
		var resp *ua.TranslateBrowsePathsToNodeIDsResponse
		err := c.Send(ctxOf(t), &ua.TranslateBrowsePathsToNodeIDsRequest{BrowsePaths: []*ua.BrowsePath{p}}, func(v ua.Response) error {
			resp = v.(*ua.TranslateBrowsePathsToNodeIDsResponse)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got := sample.Quality(resp.Results[0].StatusCode).String()
		if len(resp.Results[0].Targets) == 1 {
			got = resp.Results[0].Targets[0].TargetID.NodeID.String()
		}
		if code, ok := map[string]ua.StatusCode{"BadNoMatch": ua.StatusBadNoMatch, "BadNothingToDo": ua.StatusBadNothingToDo, "BadBrowseNameInvalid": ua.StatusBadBrowseNameInvalid}[want]; ok {
			want = sample.Quality(code).String()
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	nodes := []*ua.NodeID{ua.MustParseNodeID("ns=1;s=north/meter1/power")}
	reg, err := c.RegisterNodes(ctxOf(t), &ua.RegisterNodesRequest{NodesToRegister: nodes})
	if err != nil || !reg.RegisteredNodeIDs[0].Equal(nodes[0]) {
		t.Errorf("%v, %+v", err, reg)
	}
	if _, err := c.UnregisterNodes(ctxOf(t), &ua.UnregisterNodesRequest{NodesToUnregister: nodes}); err != nil {
		t.Error(err)
	}
}

func TestDiscovery(t *testing.T) {
	r := start(t, secure(t), nil)
	c, err := opcua.NewClient(r.url, opcua.AutoReconnect(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Dial(ctxOf(t)); err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctxOf(t))
	servers, err := c.FindServers(ctxOf(t))
	if err != nil || len(servers.Servers) != 1 || servers.Servers[0].ApplicationURI != "urn:test:gateway" || servers.Servers[0].DiscoveryURLs[0] != r.url {
		t.Errorf("%v, %+v", err, servers)
	}
	list, err := c.GetEndpoints(ctxOf(t))
	if err != nil || len(list.Endpoints) != 4 {
		t.Fatalf("%v, %+v", err, list)
	}
	for i, e := range list.Endpoints {
		if e.EndpointURL != r.url || e.SecurityPolicyURI == ua.SecurityPolicyURINone || i > 0 && e.SecurityLevel > list.Endpoints[i-1].SecurityLevel {
			t.Errorf("endpoint %d: %+v", i, e)
		}
	}
}

func TestEndpointURL(t *testing.T) {
	for _, c := range []struct{ listen, hosts, dialled, want string }{
		{"127.0.0.1:4840", "", "", "opc.tcp://127.0.0.1:4840"},
		{"0.0.0.0:4840", "gw.plant", "", "opc.tcp://gw.plant:4840"},
		{"0.0.0.0:4840", "gw.plant", "opc.tcp://10.0.0.5:4841/x", "opc.tcp://10.0.0.5:4841"},
		{"0.0.0.0:4840", "", "opc.tcp://gw", "opc.tcp://gw:4840"},
		{"[::1]:4840", "", "opc.tcp://[fe80::1]:4840", "opc.tcp://[fe80::1]:4840"},
		{"127.0.0.1:4840", "", "http://evil/", "opc.tcp://127.0.0.1:4840"},
	} {
		s := &Server{cfg: Config{Listen: c.listen}}
		if c.hosts != "" {
			s.cfg.Hosts = []string{c.hosts}
		}
		if got := s.endpointURL(c.dialled); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

func TestConvert(t *testing.T) {
	for _, c := range []struct {
		v    sample.Value
		typ  string
		want any
	}{
		{sample.FloatValue(1.5), "", 1.5}, {sample.IntValue(7), "", int64(7)}, {sample.BoolValue(true), "", true}, {sample.StringValue("a"), "", "a"},
		{sample.FloatValue(1.5), "Float", float32(1.5)}, {sample.FloatValue(1e300), "Float", ua.StatusBadOutOfRange},
		{sample.FloatValue(7), "Int32", int32(7)}, {sample.FloatValue(7.5), "Int32", ua.StatusBadOutOfRange}, {sample.IntValue(1 << 40), "Int32", ua.StatusBadOutOfRange},
		{sample.IntValue(1<<53 + 1), "Int64", int64(1<<53 + 1)}, {sample.IntValue(7), "Double", 7.0}, {sample.BoolValue(true), "Int64", int64(1)},
		{sample.StringValue("7"), "Int64", ua.StatusBadTypeMismatch}, {sample.IntValue(1), "Boolean", ua.StatusBadTypeMismatch}, {sample.IntValue(1), "String", ua.StatusBadTypeMismatch},
	} {
		typ, ok := dataTypes(c.typ)
		v, code := convert(c.v, typ)
		var got any = code
		if v != nil {
			got = v.Value()
		}
		if !ok || got != c.want {
			t.Errorf("%s as %q: got %v, want %v", c.v, c.typ, got, c.want)
		}
	}
	if r := liveReading(protocols.Reading{Value: sample.FloatValue(3), Quality: sample.BadDeviceFailure, Time: time.Now()}, true, 0); r.value != nil || r.status != ua.StatusBadDeviceFailure {
		t.Errorf("a Bad value is shown: %+v", r)
	}
	if got := fmt.Sprint(unitInfo("furlong").UnitID); got != "-1" {
		t.Errorf("an unknown unit has number %s", got)
	}
}
