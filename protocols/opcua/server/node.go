package server

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// The server's namespaces: OPC UA's own, and the gateway's.
const (
	nsOPC     = 0
	nsGateway = 1
)

// nodeKey names a node. Numeric ids have no text, ids of the gateway's own
// namespace are text.
type nodeKey struct {
	ns   uint16
	num  uint32
	text string
}

func opcKey(n uint32) nodeKey    { return nodeKey{ns: nsOPC, num: n} }
func ownKey(text string) nodeKey { return nodeKey{ns: nsGateway, text: text} }

// keyOf returns the key of an id that a client sent. Those of a kind that no
// node here has get a key that is not found.
func keyOf(n *ua.NodeID) nodeKey {
	switch n.Type() {
	case ua.NodeIDTypeTwoByte, ua.NodeIDTypeFourByte, ua.NodeIDTypeNumeric:
		return nodeKey{ns: n.Namespace(), num: n.IntID()}
	case ua.NodeIDTypeString:
		return nodeKey{ns: n.Namespace(), text: n.StringID()}
	}
	return nodeKey{ns: 0xffff}
}

// id returns the node id for a message.
func (k nodeKey) id() *ua.NodeID {
	switch {
	case k.text != "":
		return ua.NewStringNodeID(k.ns, k.text)
	case k.ns == 0 && k.num < 256:
		return ua.NewTwoByteNodeID(uint8(k.num))
	case k.ns < 256 && k.num < 65536:
		return ua.NewFourByteNodeID(uint8(k.ns), uint16(k.num))
	}
	return ua.NewNumericNodeID(k.ns, k.num)
}

// reading is a value with what belongs to it, before it is in a message.
type reading struct {
	value  *ua.Variant // nil for null
	status ua.StatusCode
	source time.Time // zero where there is none
}

// node is one node of the address space, OPC 10000-3, 5.
type node struct {
	key         nodeKey
	class       ua.NodeClass
	browse      string
	display     string
	description string
	refs        []reference
	browseNS    uint16 // namespace of the browse name
	abstract    bool   // of types
	inverse     string // name of a reference type read backwards; empty where symmetric

	// Of variables. read returns the value at a time and is cheap; what it says
	// may change at any time unless constant.
	dataType func() uint32 // number of the type's node
	rank     int32         // -1 scalar, 1 array
	read     func(now time.Time) reading
	constant bool
}

// reference leads to another node.
type reference struct {
	typ     uint32 // number of the reference type
	inverse bool
	to      *node
}

// space is the address space. Nodes are added before it is served, and by
// targets that are opened later.
type space struct {
	mu    sync.RWMutex
	nodes map[nodeKey]*node
}

func (s *space) get(k nodeKey) *node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.nodes[k]
}

// references returns those of a node as they are now.
func (s *space) references(n *node) []reference {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return n.refs
}

// add puts a node below another, by a reference of a type, with its type
// definition where it has one.
func (s *space) add(n *node, parent nodeKey, by, definition uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[n.key] != nil {
		return fmt.Errorf("node %s is there already: give it another address", n.key.id())
	}
	if definition != 0 {
		def := s.nodes[opcKey(definition)]
		if def == nil {
			return fmt.Errorf("BUG: no type i=%d", definition)
		}
		n.refs = append(n.refs, reference{typ: id.HasTypeDefinition, to: def})
	}
	if by != 0 {
		p := s.nodes[parent]
		if p == nil {
			return fmt.Errorf("BUG: no node %s", parent.id())
		}
		// A copy, since a browse may be reading the old one.
		p.refs = append(p.refs[:len(p.refs):len(p.refs)], reference{typ: by, to: n})
		n.refs = append(n.refs, reference{typ: by, inverse: true, to: p})
	}
	s.nodes[n.key] = n
	return nil
}

// isSubtype reports whether a reference type is another or below it.
func (s *space) isSubtype(typ, of uint32) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for range maxDepth {
		if typ == of {
			return true
		}
		n := s.nodes[opcKey(typ)]
		if n == nil {
			return false
		}
		up := uint32(0)
		for _, r := range n.refs {
			if r.typ == id.HasSubtype && r.inverse {
				up = r.to.key.num
			}
		}
		if up == 0 {
			return false
		}
		typ = up
	}
	return false
}

// Bounds of a node's text id: OPC 10000-3, 8.2.4, lets it have 4096 characters.
const maxNodeText = 1024

func checkNode(text string) error {
	switch {
	case text == "":
		return errors.New("the node id is empty")
	case len(text) > maxNodeText:
		return fmt.Errorf("the node id has more than %d bytes", maxNodeText)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("node id %q has control characters in it", text)
	case strings.HasPrefix(text, folderPrefix):
		return fmt.Errorf("node ids that begin with %s are the server's own", folderPrefix)
	}
	return nil
}

// checkAddress checks what is written as address: s=name, or nothing.
func checkAddress(address, node string) error {
	if address != "" && !strings.HasPrefix(address, "s=") {
		return fmt.Errorf("address %q does not begin with s=", address)
	}
	return checkNode(node)
}
