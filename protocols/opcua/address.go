package opcua

import (
	"fmt"
	"strings"

	"github.com/gopcua/opcua/ua"
)

// address is a tag's node id. Where it names its namespace by URI (nsu=), the
// index is looked up at each connection, since servers may renumber.
type address struct {
	text string
	uri  string // of the namespace; empty where the index stands in id
	rest string // the identifier behind nsu=URI;
	id   *ua.NodeID
}

// parseAddress reads a node id: OPC 10000-6, 5.3.1.10.
func parseAddress(text string) (address, error) {
	a := address{text: text}
	if text == "" {
		return a, fmt.Errorf("the address is missing")
	}
	if rest, ok := strings.CutPrefix(text, "nsu="); ok {
		uri, id, ok := strings.Cut(rest, ";")
		if !ok || uri == "" {
			return a, fmt.Errorf("address %q: a semicolon and an identifier follow the namespace's URI", text)
		}
		if _, err := ua.ParseNodeID("ns=1;" + id); err != nil || !hasType(id) {
			return a, fmt.Errorf("address %q: %q is not an identifier", text, id)
		}
		a.uri, a.rest = uri, id
		return a, nil
	}
	last := text[strings.LastIndex(text, ";")+1:]
	if i := strings.Index(text, ";"); i >= 0 {
		last = text[i+1:]
	}
	if !hasType(last) {
		return a, fmt.Errorf("address %q is not a node id", text)
	}
	id, err := ua.ParseNodeID(text)
	if err != nil {
		return a, fmt.Errorf("address %q is not a node id: %w", text, err)
	}
	a.id = id
	return a, nil
}

func hasType(id string) bool {
	return len(id) > 2 && id[1] == '=' && strings.ContainsRune("isgb", rune(id[0]))
}

// resolve returns the node id under a server's namespace array.
func (a *address) resolve(namespaces []string) (*ua.NodeID, error) {
	if a.uri == "" {
		return a.id, nil
	}
	for i, uri := range namespaces {
		if uri == a.uri {
			return ua.ParseNodeID(fmt.Sprintf("ns=%d;%s", i, a.rest))
		}
	}
	return nil, fmt.Errorf("the server has no namespace %s", a.uri)
}
