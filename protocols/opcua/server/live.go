package server

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

const liveFolder = "live"

// liveNode is the text of a live tag's node id.
func liveNode(t protocols.Tag) string {
	if t.Address != "" {
		return strings.TrimPrefix(t.Address, "s=")
	}
	return t.Name
}

// Show implements protocols.Server.
func (s *Server) Show(tags []protocols.Tag, latest func(tag string) (protocols.Reading, bool)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.build(); err != nil {
		return err
	}
	for _, t := range tags {
		if err := s.addLive(t, latest); err != nil {
			return errors.New("tag " + t.Name + ": " + err.Error())
		}
	}
	return nil
}

// addLive adds a tag below a folder for each of its parts but the last.
func (s *Server) addLive(t protocols.Tag, latest func(tag string) (protocols.Reading, bool)) error {
	parts := strings.Split(t.Name, "/")
	parent := ownKey(folderPrefix + liveFolder)
	for _, part := range parts[:len(parts)-1] {
		below := ownKey(parent.text + "/" + part)
		if s.space.get(below) == nil {
			if err := s.addFolder(below, part, parent); err != nil {
				return err
			}
		}
		parent = below
	}
	typ, _ := dataTypes(t.Type)
	if typ == 0 && t.Scaled {
		typ = uint32(ua.TypeIDDouble)
	}
	// Without a word for it, the type is that of the newest value.
	var seen atomic.Uint32
	seen.Store(anyType)
	if typ != 0 {
		seen.Store(typ)
	}
	key, name := ownKey(liveNode(t)), parts[len(parts)-1]
	n := &node{key: key, class: ua.NodeClassVariable, browse: name, browseNS: nsGateway, display: name, description: t.Description, rank: -1}
	n.read = func(time.Time) reading {
		r, ok := latest(t.Name)
		out := liveReading(r, ok, typ)
		if typ == 0 && out.value != nil {
			seen.Store(kindType(r.Value.Kind()))
		}
		return out
	}
	n.dataType = func() uint32 {
		if typ == 0 {
			n.read(time.Time{})
		}
		return seen.Load()
	}
	definition := uint32(63)
	if t.Unit != "" {
		definition = analogUnitType
	}
	if err := s.space.add(n, parent, id.HasComponent, definition); err != nil {
		return err
	}
	return s.addUnit(key, t.Unit)
}

func (s *Server) addFolder(key nodeKey, name string, parent nodeKey) error {
	return s.space.add(&node{key: key, class: ua.NodeClassObject, browse: name, browseNS: nsGateway, display: name}, parent, id.Organizes, id.FolderType)
}

// addOwn adds the folders, and the two counters beside them.
func (s *Server) addOwn() error {
	objects := opcKey(id.ObjectsFolder)
	counter := func(name, what string, read func(time.Time) reading) error {
		n := &node{key: ownKey(name), class: ua.NodeClassVariable, browse: name, browseNS: nsGateway, display: name, description: what, rank: -1, read: read}
		n.dataType = func() uint32 { return uint32(ua.TypeIDUint16) }
		return s.space.add(n, objects, id.Organizes, 63)
	}
	return errors.Join(
		s.addFolder(ownKey(folderPrefix+mirrorFolder), "Mirror", objects),
		s.addFolder(ownKey(folderPrefix+liveFolder), "Live", objects),
		counter("Alive", "seconds that this server runs, from 0 to 65535 and again", func(now time.Time) reading {
			return reading{value: variant(uint16(time.Since(s.born) / time.Second)), source: now}
		}),
		counter("Heartbeat", "counts while the mirror lives, from 0 to 65535 and again", func(now time.Time) reading {
			n := s.heartbeat.Load()
			if n < 0 {
				return reading{status: codeWaiting}
			}
			return reading{value: variant(uint16(n)), source: now}
		}),
	)
}

// beat counts a heartbeat of the mirror. Every target has its own counter; here
// any of them counts one further.
func (s *Server) beat() {
	for {
		n := s.heartbeat.Load()
		if s.heartbeat.CompareAndSwap(n, (n+1)&0xffff) {
			return
		}
	}
}
