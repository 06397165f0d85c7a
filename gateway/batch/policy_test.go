package batch

import (
	"maps"
	"testing"
	"time"

	"millrace/spool"
)

// policies are those that the spool knows after these commits.
func (s *store) policies() map[uint32]spool.Policy {
	out := map[uint32]spool.Policy{}
	for _, c := range s.commits {
		for _, p := range c.Policies {
			out[p.Stream] = p.Policy
		}
	}
	return out
}

// Tags with different policies do not share a stream, and a tag keeps its
// stream when its source gets another policy.
func TestPolicyOfStreams(t *testing.T) {
	s := &store{}
	st := &spool.State{Epoch: 7}
	configured := func(name string, p spool.Policy) SourceInfo {
		info := source("s/"+name+"/a", "s/"+name+"/alarm")
		info.Name, info.Class.Policy = name, p
		info.Tags[1].Urgent = true
		return info
	}
	run := func(infos ...SourceInfo) *Batcher {
		t.Helper()
		b := open(t, s, st)
		for _, info := range infos {
			_, err := b.Open(info)
			must(t, err)
		}
		must(t, b.commit(t.Context(), sealDue))
		st = s.state(7)
		st.Policies = s.policies()
		return b
	}
	b := run(configured("d", spool.DropOldest), configured("r", spool.Refuse), configured("t", spool.ThinOldest))
	stream := func(tag string) uint32 { return b.slots[tag].stream }
	want := map[uint32]spool.Policy{
		systemStream: spool.Reserved, stream("s/d/alarm"): spool.Reserved, stream("s/r/a"): spool.Refuse,
		stream("s/r/alarm"): spool.ReservedRefuse, stream("s/t/a"): spool.ThinOldest, stream("s/t/alarm"): spool.Reserved,
	}
	if got := s.policies(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	slots := maps.Clone(b.slots)
	commits := len(s.commits)
	b = run(configured("d", spool.DropOldest), configured("r", spool.Refuse), configured("t", spool.ThinOldest))
	for _, c := range s.commits[commits:] {
		if len(c.Policies) > 0 {
			t.Errorf("policies are told again: %v", c.Policies)
		}
	}
	b = run(configured("d", spool.Refuse), configured("r", spool.DropOldest))
	if !maps.Equal(b.slots, slots) {
		t.Error("tags have left their streams")
	}
	want[stream("s/d/a")], want[stream("s/d/alarm")] = spool.Refuse, spool.ReservedRefuse
	want[stream("s/r/a")], want[stream("s/r/alarm")] = spool.DropOldest, spool.Reserved
	if got := s.policies(); !maps.Equal(got, want) {
		t.Errorf("after a change: got %v, want %v", got, want)
	}
	// A stream of two sources that differ loses as little as one of them asks.
	b = run(configured("d", spool.DropOldest), configured("x", spool.DropOldest))
	b = run(configured("d", spool.DropOldest), configured("x", spool.Refuse))
	if got := s.policies()[stream("s/d/a")]; got != spool.Refuse || stream("s/x/a") != stream("s/d/a") {
		t.Errorf("of a refusing and a dropping source: %v", got)
	}
	// Alarms beside other tags have no room of their own: those would fill it.
	mixed := configured("m", spool.DropOldest)
	mixed.Class.MaxAge = time.Second
	mixed.Tags[1].Urgent = false
	run(mixed)
	mixed.Tags[1].Urgent = true
	b = run(mixed)
	if got := s.policies()[stream("s/m/alarm")]; got != spool.DropOldest || !b.streams[stream("s/m/alarm")].urgent {
		t.Errorf("an alarm beside others: %v", got)
	}
}
