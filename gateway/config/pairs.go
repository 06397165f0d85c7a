package config

import (
	"fmt"

	"go.yaml.in/yaml/v3"
)

// pair is one entry of a mapping.
type pair struct {
	key, value *yaml.Node
	merged     bool // by <<
}

// pairs lists a mapping's entries: its own, then those that << takes over from
// anchors and that it does not set itself (https://yaml.org/type/merge.html; an
// anchor that is named first wins). It reports keys that stand twice and keys
// that are no words.
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	m := &merger{decoder: d, path: path, lines: map[string]int{}, inside: map[*yaml.Node]bool{}}
	m.add(n, false)
	return m.pairs
}

// merger collects the entries of one mapping.
type merger struct {
	*decoder
	path   string
	pairs  []pair
	lines  map[string]int      // of the keys so far
	inside map[*yaml.Node]bool // mappings that are being merged, to end at a cycle
}

func (m *merger) add(n *yaml.Node, merged bool) {
	if m.inside[n] {
		m.fail(n, m.path, "an anchor takes itself over by <<", "name another one")
		return
	}
	m.inside[n] = true
	defer delete(m.inside, n)
	var sources []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		if key.Tag == "!!merge" {
			sources = append(sources, value)
			continue
		}
		if key.Kind != yaml.ScalarNode || key.Value == "" {
			m.fail(n.Content[i], m.path, "a key is expected here, not "+kindName(key), "write key: value")
			continue
		}
		line, twice := m.lines[key.Value]
		switch {
		case twice && merged: // set nearer by
		case twice:
			m.fail(key, join(m.path, key.Value), fmt.Sprintf("the key stands here twice, first in line %d", line), "keep one of them")
		default:
			m.lines[key.Value] = key.Line
			m.pairs = append(m.pairs, pair{key, value, merged})
		}
	}
	for _, s := range sources {
		m.merge(s)
	}
}

// merge takes over an anchor's entries, or those of a list of anchors.
func (m *merger) merge(n *yaml.Node) {
	list := []*yaml.Node{n}
	if resolve(n).Kind == yaml.SequenceNode {
		list = resolve(n).Content
	}
	for _, s := range list {
		if m.values++; m.exhausted() {
			return
		}
		if target := resolve(s); target.Kind == yaml.MappingNode {
			m.add(target, true)
		} else {
			m.fail(s, m.path, "<< takes anchors that hold keys, not "+kindName(target), "write <<: *name or <<: [*first, *second]")
		}
	}
}
