package server

import (
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// baseNode is a line of the part of OPC UA's own namespace that clients need:
// OPC 10000-5. Its node hangs below parent by a reference.
type baseNode struct {
	num      uint32
	class    ua.NodeClass
	name     string
	parent   uint32
	by       uint32
	def      uint32
	abstract bool
	inverse  string
}

const (
	object  = ua.NodeClassObject
	refType = ua.NodeClassReferenceType
	objType = ua.NodeClassObjectType
	varType = ua.NodeClassVariableType
	datType = ua.NodeClassDataType
	// analogUnitType is the type of a variable with a unit, OPC 10000-8, 5.3.2.4.
	analogUnitType = 17497
)

// baseNodes lists objects and types, parents first.
func baseNodes() []baseNode {
	const sub, org, comp = id.HasSubtype, id.Organizes, id.HasComponent
	return []baseNode{
		// The types that others are defined by come first.
		{num: 58, class: objType, name: "BaseObjectType"},
		{num: 61, class: objType, name: "FolderType", parent: 58, by: sub},
		{num: 84, class: object, name: "Root", def: 61},
		{num: 85, class: object, name: "Objects", parent: 84, by: org, def: 61},
		{num: 86, class: object, name: "Types", parent: 84, by: org, def: 61},
		{num: 87, class: object, name: "Views", parent: 84, by: org, def: 61},
		{num: 88, class: object, name: "ObjectTypes", parent: 86, by: org, def: 61},
		{num: 89, class: object, name: "VariableTypes", parent: 86, by: org, def: 61},
		{num: 90, class: object, name: "DataTypes", parent: 86, by: org, def: 61},
		{num: 91, class: object, name: "ReferenceTypes", parent: 86, by: org, def: 61},

		{num: 31, class: refType, name: "References", parent: 91, by: org, abstract: true},
		{num: 33, class: refType, name: "HierarchicalReferences", parent: 31, by: sub, abstract: true, inverse: "InverseHierarchicalReferences"},
		{num: 32, class: refType, name: "NonHierarchicalReferences", parent: 31, by: sub, abstract: true},
		{num: 34, class: refType, name: "HasChild", parent: 33, by: sub, abstract: true, inverse: "ChildOf"},
		{num: 35, class: refType, name: "Organizes", parent: 33, by: sub, inverse: "OrganizedBy"},
		{num: 36, class: refType, name: "HasEventSource", parent: 33, by: sub, inverse: "EventSourceOf"},
		{num: 48, class: refType, name: "HasNotifier", parent: 36, by: sub, inverse: "NotifierOf"},
		{num: 44, class: refType, name: "Aggregates", parent: 34, by: sub, abstract: true, inverse: "AggregatedBy"},
		{num: 45, class: refType, name: "HasSubtype", parent: 34, by: sub, inverse: "SubtypeOf"},
		{num: 46, class: refType, name: "HasProperty", parent: 44, by: sub, inverse: "PropertyOf"},
		{num: 47, class: refType, name: "HasComponent", parent: 44, by: sub, inverse: "ComponentOf"},
		{num: 49, class: refType, name: "HasOrderedComponent", parent: 47, by: sub, inverse: "OrderedComponentOf"},
		{num: 37, class: refType, name: "HasModellingRule", parent: 32, by: sub, inverse: "ModellingRuleOf"},
		{num: 38, class: refType, name: "HasEncoding", parent: 32, by: sub, inverse: "EncodingOf"},
		{num: 39, class: refType, name: "HasDescription", parent: 32, by: sub, inverse: "DescriptionOf"},
		{num: 40, class: refType, name: "HasTypeDefinition", parent: 32, by: sub, inverse: "TypeDefinitionOf"},
		{num: 41, class: refType, name: "GeneratesEvent", parent: 32, by: sub, inverse: "GeneratedBy"},

		{num: 2004, class: objType, name: "ServerType", parent: 58, by: sub},
		{num: 2013, class: objType, name: "ServerCapabilitiesType", parent: 58, by: sub},
		{num: 2020, class: objType, name: "ServerDiagnosticsType", parent: 58, by: sub},
		{num: 2033, class: objType, name: "VendorServerInfoType", parent: 58, by: sub},
		{num: 2034, class: objType, name: "ServerRedundancyType", parent: 58, by: sub},
		{num: 11564, class: objType, name: "OperationLimitsType", parent: 61, by: sub},

		{num: 62, class: varType, name: "BaseVariableType", parent: 89, by: org, abstract: true},
		{num: 63, class: varType, name: "BaseDataVariableType", parent: 62, by: sub},
		{num: 68, class: varType, name: "PropertyType", parent: 62, by: sub},
		{num: 2138, class: varType, name: "ServerStatusType", parent: 63, by: sub},
		{num: 3051, class: varType, name: "BuildInfoType", parent: 63, by: sub},
		{num: 2365, class: varType, name: "DataItemType", parent: 63, by: sub},
		{num: 15318, class: varType, name: "BaseAnalogType", parent: 2365, by: sub},
		{num: analogUnitType, class: varType, name: "AnalogUnitType", parent: 15318, by: sub},

		{num: 24, class: datType, name: "BaseDataType", parent: 90, by: org, abstract: true},
		{num: 1, class: datType, name: "Boolean", parent: 24, by: sub},
		{num: 26, class: datType, name: "Number", parent: 24, by: sub, abstract: true},
		{num: 27, class: datType, name: "Integer", parent: 26, by: sub, abstract: true},
		{num: 28, class: datType, name: "UInteger", parent: 26, by: sub, abstract: true},
		{num: 2, class: datType, name: "SByte", parent: 27, by: sub},
		{num: 4, class: datType, name: "Int16", parent: 27, by: sub},
		{num: 6, class: datType, name: "Int32", parent: 27, by: sub},
		{num: 8, class: datType, name: "Int64", parent: 27, by: sub},
		{num: 3, class: datType, name: "Byte", parent: 28, by: sub},
		{num: 5, class: datType, name: "UInt16", parent: 28, by: sub},
		{num: 7, class: datType, name: "UInt32", parent: 28, by: sub},
		{num: 9, class: datType, name: "UInt64", parent: 28, by: sub},
		{num: 10, class: datType, name: "Float", parent: 26, by: sub},
		{num: 11, class: datType, name: "Double", parent: 26, by: sub},
		{num: 290, class: datType, name: "Duration", parent: 11, by: sub},
		{num: 12, class: datType, name: "String", parent: 24, by: sub},
		{num: 295, class: datType, name: "LocaleId", parent: 12, by: sub},
		{num: 13, class: datType, name: "DateTime", parent: 24, by: sub},
		{num: 294, class: datType, name: "UtcTime", parent: 13, by: sub},
		{num: 14, class: datType, name: "Guid", parent: 24, by: sub},
		{num: 15, class: datType, name: "ByteString", parent: 24, by: sub},
		{num: 16, class: datType, name: "XmlElement", parent: 24, by: sub},
		{num: 17, class: datType, name: "NodeId", parent: 24, by: sub},
		{num: 18, class: datType, name: "ExpandedNodeId", parent: 24, by: sub},
		{num: 19, class: datType, name: "StatusCode", parent: 24, by: sub},
		{num: 20, class: datType, name: "QualifiedName", parent: 24, by: sub},
		{num: 21, class: datType, name: "LocalizedText", parent: 24, by: sub},
		{num: 22, class: datType, name: "Structure", parent: 24, by: sub, abstract: true},
		{num: 338, class: datType, name: "BuildInfo", parent: 22, by: sub},
		{num: 862, class: datType, name: "ServerStatusDataType", parent: 22, by: sub},
		{num: 887, class: datType, name: "EUInformation", parent: 22, by: sub},
		{num: 29, class: datType, name: "Enumeration", parent: 24, by: sub, abstract: true},
		{num: 851, class: datType, name: "RedundancySupport", parent: 29, by: sub},
		{num: 852, class: datType, name: "ServerState", parent: 29, by: sub},

		{num: id.Server, class: object, name: "Server", parent: 85, by: org, def: 2004},
		{num: id.Server_ServerCapabilities, class: object, name: "ServerCapabilities", parent: id.Server, by: comp, def: 2013},
		{num: id.Server_ServerCapabilities_OperationLimits, class: object, name: "OperationLimits", parent: id.Server_ServerCapabilities, by: comp, def: 11564},
		{num: id.Server_ServerDiagnostics, class: object, name: "ServerDiagnostics", parent: id.Server, by: comp, def: 2020},
		{num: id.Server_VendorServerInfo, class: object, name: "VendorServerInfo", parent: id.Server, by: comp, def: 2033},
		{num: id.Server_ServerRedundancy, class: object, name: "ServerRedundancy", parent: id.Server, by: comp, def: 2034},
	}
}

// baseVariable is a variable or property of the Server object.
type baseVariable struct {
	num      uint32
	name     string
	parent   uint32
	by       uint32
	def      uint32
	dataType uint32
	value    any // or a func(now time.Time) any
}

// baseVariables are those of the Server object, OPC 10000-5, 6.3.
func (s *Server) baseVariables() []baseVariable {
	const comp, prop, data, property = id.HasComponent, id.HasProperty, 63, 68
	const status, build, caps, limits = id.Server_ServerStatus, id.Server_ServerStatus_BuildInfo, id.Server_ServerCapabilities, id.Server_ServerCapabilities_OperationLimits
	info := buildInfo()
	return []baseVariable{
		{id.Server_ServerArray, "ServerArray", id.Server, prop, property, 12, func(time.Time) any { return []string{s.identity.URI} }},
		{id.Server_NamespaceArray, "NamespaceArray", id.Server, prop, property, 12, func(time.Time) any { return []string{"http://opcfoundation.org/UA/", s.identity.URI} }},
		{id.Server_ServiceLevel, "ServiceLevel", id.Server, prop, property, 3, uint8(255)},
		{id.Server_Auditing, "Auditing", id.Server, prop, property, 1, false},
		{status, "ServerStatus", id.Server, comp, 2138, 862, func(now time.Time) any {
			return ua.NewExtensionObject(&ua.ServerStatusDataType{StartTime: s.started, CurrentTime: now, State: ua.ServerStateRunning, BuildInfo: info, ShutdownReason: ua.NewLocalizedText("")})
		}},
		{id.Server_ServerStatus_StartTime, "StartTime", status, comp, data, 294, func(time.Time) any { return s.started }},
		{id.Server_ServerStatus_CurrentTime, "CurrentTime", status, comp, data, 294, func(now time.Time) any { return now }},
		{id.Server_ServerStatus_State, "State", status, comp, data, 852, int32(ua.ServerStateRunning)},
		{build, "BuildInfo", status, comp, 3051, 338, ua.NewExtensionObject(info)},
		{id.Server_ServerStatus_BuildInfo_ProductName, "ProductName", build, comp, data, 12, info.ProductName},
		{id.Server_ServerStatus_BuildInfo_ProductURI, "ProductUri", build, comp, data, 12, info.ProductURI},
		{id.Server_ServerStatus_BuildInfo_ManufacturerName, "ManufacturerName", build, comp, data, 12, info.ManufacturerName},
		{id.Server_ServerStatus_BuildInfo_SoftwareVersion, "SoftwareVersion", build, comp, data, 12, info.SoftwareVersion},
		{id.Server_ServerStatus_BuildInfo_BuildNumber, "BuildNumber", build, comp, data, 12, info.BuildNumber},
		{id.Server_ServerStatus_BuildInfo_BuildDate, "BuildDate", build, comp, data, 294, info.BuildDate},
		{id.Server_ServerStatus_SecondsTillShutdown, "SecondsTillShutdown", status, comp, data, 7, uint32(0)},
		{id.Server_ServerStatus_ShutdownReason, "ShutdownReason", status, comp, data, 21, ua.NewLocalizedText("")},
		{id.Server_ServerCapabilities_ServerProfileArray, "ServerProfileArray", caps, prop, property, 12, []string{"http://opcfoundation.org/UA-Profile/Server/EmbeddedUA2017"}},
		{id.Server_ServerCapabilities_LocaleIDArray, "LocaleIdArray", caps, prop, property, 295, []string{"en"}},
		{id.Server_ServerCapabilities_MinSupportedSampleRate, "MinSupportedSampleRate", caps, prop, property, 290, milliseconds(s.cfg.MinSampling)},
		{id.Server_ServerCapabilities_MaxBrowseContinuationPoints, "MaxBrowseContinuationPoints", caps, prop, property, 5, uint16(maxContinuations)},
		{id.Server_ServerCapabilities_MaxQueryContinuationPoints, "MaxQueryContinuationPoints", caps, prop, property, 5, uint16(0)},
		{id.Server_ServerCapabilities_MaxHistoryContinuationPoints, "MaxHistoryContinuationPoints", caps, prop, property, 5, uint16(0)},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead, "MaxNodesPerRead", limits, prop, property, 7, uint32(maxOperations)},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite, "MaxNodesPerWrite", limits, prop, property, 7, uint32(maxOperations)},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse, "MaxNodesPerBrowse", limits, prop, property, 7, uint32(maxOperations)},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRegisterNodes, "MaxNodesPerRegisterNodes", limits, prop, property, 7, uint32(maxOperations)},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIDs, "MaxNodesPerTranslateBrowsePathsToNodeIds", limits, prop, property, 7, uint32(maxOperations)},
		{id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall, "MaxMonitoredItemsPerCall", limits, prop, property, 7, uint32(maxOperations)},
		{id.Server_ServerDiagnostics_EnabledFlag, "EnabledFlag", id.Server_ServerDiagnostics, prop, property, 1, false},
		{id.Server_ServerRedundancy_RedundancySupport, "RedundancySupport", id.Server_ServerRedundancy, prop, property, 851, int32(0)},
	}
}

// buildBase makes the nodes of OPC UA's own namespace.
func (s *Server) buildBase() error {
	for _, b := range baseNodes() {
		n := &node{key: opcKey(b.num), class: b.class, browse: b.name, display: b.name, abstract: b.abstract, inverse: b.inverse}
		if err := s.space.add(n, opcKey(b.parent), b.by, b.def); err != nil {
			return err
		}
	}
	// BaseObjectType was needed before there was a folder for it.
	s.space.link(opcKey(88), opcKey(58), id.Organizes)
	for _, v := range s.baseVariables() {
		n := &node{key: opcKey(v.num), class: ua.NodeClassVariable, browse: v.name, display: v.name, rank: -1}
		n.dataType = func() uint32 { return v.dataType }
		if v.num == id.Server_ServerArray || v.num == id.Server_NamespaceArray {
			n.rank = 1
		}
		if live, ok := v.value.(func(time.Time) any); ok {
			n.read = func(now time.Time) reading { return reading{value: variant(live(now)), source: now} }
		} else {
			fixed := variant(v.value)
			n.constant = true
			n.read = func(time.Time) reading { return reading{value: fixed, source: s.started} }
			if fixed.Has(ua.VariantArrayValues) {
				n.rank = 1
			}
		}
		if err := s.space.add(n, opcKey(v.parent), v.by, v.def); err != nil {
			return err
		}
	}
	return nil
}

// link adds a reference between two nodes that are there.
func (s *space) link(from, to nodeKey, by uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, b := s.nodes[from], s.nodes[to]
	a.refs = append(a.refs[:len(a.refs):len(a.refs)], reference{typ: by, to: b})
	b.refs = append(b.refs[:len(b.refs):len(b.refs)], reference{typ: by, inverse: true, to: a})
}
