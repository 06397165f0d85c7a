package gateway

import (
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/config"
	"millrace/protocols"
	"millrace/sample"
)

// liveTag is a tag of the gateway whose newest value somebody asks for.
type liveTag struct {
	value  *batch.Watched
	health *sourceHealth // of its source
	// maxAge bounds its age as an enable tag; 0 is none.
	maxAge time.Duration
}

// newest returns the newest reading: Bad where it is older than maxAge, or where
// nothing is taken of the source, so that nobody knows what the device says.
func (t *liveTag) newest(maxAge time.Duration) (protocols.Reading, bool) {
	r, ok := t.value.Newest(maxAge)
	if ok && t.health.isFull() {
		r.Quality = sample.BadNoCommunication
	}
	return r, ok
}

// watch begins to keep the newest values of what targets and servers ask for.
func (m *mirrored) watch() {
	cfg := &m.g.cfg.Mirror
	for i := range cfg.Targets {
		t := &cfg.Targets[i]
		if t.Enable == "" || t.Mode == config.ModeOff {
			continue
		}
		known := m.live[t.Enable] != nil
		live := m.watchTag(t.Enable)
		if !known {
			m.enables = append(m.enables, t.Enable)
		}
		if t.EnableMaxAge > 0 && (live.maxAge == 0 || t.EnableMaxAge < live.maxAge) {
			live.maxAge = t.EnableMaxAge
		}
	}
	for i := range cfg.Devices {
		for k := range cfg.Devices[i].Spec.Tags {
			m.watchTag(cfg.Devices[i].Spec.Tags[k].Name)
		}
	}
}

func (m *mirrored) watchTag(tag string) *liveTag {
	t := m.live[tag]
	if t == nil {
		t = &liveTag{value: m.g.batch.Watch(tag), health: m.g.healthOf(tag)}
		m.live[tag] = t
	}
	return t
}

// healthOf returns the health of the source that has a configured tag.
func (g *Gateway) healthOf(tag string) *sourceHealth {
	for _, s := range g.sources {
		for i := range s.cfg.Tags {
			if s.cfg.Tags[i].Name == tag {
				return s.health
			}
		}
	}
	panic("BUG: no source has the tag " + tag + ", which the configuration has checked")
}

// latest returns the newest reading of an enable tag.
func (m *mirrored) latest(tag string) (protocols.Reading, bool) {
	t := m.live[tag]
	if t == nil {
		return protocols.Reading{}, false
	}
	return t.newest(t.maxAge)
}
