package batch

import (
	"maps"
	"slices"

	"millrace/spool"
)

// demands are what the tags of a stream ask for, of this run's configuration.
// Tags whose source got another policy keep their stream, which others may
// share: all of it then has the policy that loses least.
type demands struct {
	refuse, thin bool
	ordinary     bool // some tag is not urgent
}

// policy is that of a stream with these tags. Room of their own is for alarms
// alone: other samples would fill it.
func (d *demands) policy() spool.Policy {
	p := spool.DropOldest
	switch {
	case d.refuse:
		p = spool.Refuse
	case d.thin && d.ordinary:
		p = spool.ThinOldest
	}
	if !d.ordinary {
		p |= spool.Reserved
	}
	return p
}

// demand notes what a tag's class asks of its stream. A stream none of whose
// tags is configured any more keeps the policy that it had. Callers hold b.mu.
func (b *Batcher) demand(s *stream, c *Class) {
	s.demands.refuse = s.demands.refuse || c.Policy == spool.Refuse
	s.demands.thin = s.demands.thin || c.Policy == spool.ThinOldest
	s.demands.ordinary = s.demands.ordinary || !c.Urgent
	s.urgent = s.urgent || c.Urgent
	b.give(s, s.demands.policy())
}

// give has the spool learn a stream's policy with the next commit, where it is
// another one. Callers hold b.mu.
func (b *Batcher) give(s *stream, p spool.Policy) {
	if s.policy == p {
		return
	}
	s.policy = p
	b.newPolicies[s.id] = p
}

// takePolicies lists the policies that the spool is to learn. Callers hold b.mu.
func (b *Batcher) takePolicies() (list []spool.StreamPolicy) {
	for _, id := range slices.Sorted(maps.Keys(b.newPolicies)) {
		list = append(list, spool.StreamPolicy{Stream: id, Policy: b.newPolicies[id]})
	}
	clear(b.newPolicies)
	return list
}
