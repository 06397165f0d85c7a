package strictyaml

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Pair is one entry of a mapping.
type Pair struct {
	Key, Value *yaml.Node
	Merged     bool // by <<
}

// Pairs lists a mapping's entries: its own, then those that << takes over from
// anchors and that it does not set itself (https://yaml.org/type/merge.html; an
// anchor that is named first wins). It reports keys that stand twice and keys
// that are no words.
func (d *Decoder) Pairs(n *yaml.Node, path string) []Pair {
	m := &merger{Decoder: d, path: path, lines: map[string]int{}, inside: map[*yaml.Node]bool{}}
	m.add(n, false)
	return m.pairs
}

// merger collects the entries of one mapping.
type merger struct {
	*Decoder
	path   string
	pairs  []Pair
	lines  map[string]int      // of the keys so far
	inside map[*yaml.Node]bool // mappings that are being merged, to end at a cycle
}

func (m *merger) add(n *yaml.Node, merged bool) {
	if m.inside[n] {
		m.Fail(n, m.path, "an anchor takes itself over by <<", "name another one")
		return
	}
	m.inside[n] = true
	defer delete(m.inside, n)
	var sources []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := Resolve(n.Content[i]), n.Content[i+1]
		if key.Tag == "!!merge" {
			sources = append(sources, value)
			continue
		}
		if key.Kind != yaml.ScalarNode || key.Value == "" {
			m.Fail(n.Content[i], m.path, "a key is expected here, not "+KindName(key), "write key: value")
			continue
		}
		line, twice := m.lines[key.Value]
		switch {
		case twice && merged: // set nearer by
		case twice:
			m.Fail(key, Join(m.path, key.Value), fmt.Sprintf("the key stands here twice, first in line %d", line), "keep one of them")
		default:
			m.lines[key.Value] = key.Line
			m.pairs = append(m.pairs, Pair{key, value, merged})
		}
	}
	for _, s := range sources {
		m.merge(s)
	}
}

// merge takes over an anchor's entries, or those of a list of anchors.
func (m *merger) merge(n *yaml.Node) {
	list := []*yaml.Node{n}
	if Resolve(n).Kind == yaml.SequenceNode {
		list = Resolve(n).Content
	}
	for _, s := range list {
		if m.values++; m.Exhausted() {
			return
		}
		if target := Resolve(s); target.Kind == yaml.MappingNode {
			m.add(target, true)
		} else {
			m.Fail(s, m.path, "<< takes anchors that hold keys, not "+KindName(target), "write <<: *name or <<: [*first, *second]")
		}
	}
}
