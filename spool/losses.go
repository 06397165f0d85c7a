package spool

import (
	"slices"
	"time"
)

// Losses returns those that no commit has settled, by rising ID.
func (s *Spool) Losses() []Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	return lossesOnly(s.losses)
}

func lossesOnly(list []storedLoss) []Loss {
	out := make([]Loss, len(list))
	for i := range list {
		out[i] = list[i].Loss
		out[i].Sinks = slices.Clone(out[i].Sinks)
	}
	return out
}

// DueLosses returns the losses that are to be settled by the next commit, by
// rising ID. One by eviction grows with the next evictions, and is not due
// before some sink that lacks it acknowledges anything: a record of it could
// reach nobody before, and in a long outage the many records of one gap would
// evict each other. Once returned it does not grow any more.
func (s *Spool) DueLosses() []Loss {
	s.commitMu.Lock() // an eviction under way may make one grow
	defer s.commitMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []storedLoss
	for i := range s.losses {
		l := &s.losses[i]
		n, some := s.progressOf(&l.Loss)
		l.taken = l.taken || l.Cause != CauseEvicted || n != l.progress || !some
		if l.taken {
			due = append(due, *l)
		}
	}
	return lossesOnly(due)
}

// progressOf rises with the acknowledgements of the sinks that lack what a loss
// declares; some reports whether there still is one of them. Callers hold mu.
func (s *Spool) progressOf(l *Loss) (n uint64, some bool) {
	for name, k := range s.sinks {
		if len(l.Sinks) == 0 || slices.Contains(l.Sinks, name) {
			n, some = n+k.progress, true
		}
	}
	return n, some
}

// follows makes memory follow a loss that is durable. Callers hold mu.
func (s *Spool) follows(l *storedLoss) {
	l.progress, _ = s.progressOf(&l.Loss)
	if i := slices.IndexFunc(s.losses, func(o storedLoss) bool { return o.ID == l.ID }); i >= 0 {
		s.losses[i] = *l
		return
	}
	s.losses = append(s.losses, *l)
}

// addLoss declares a loss with the change.
func (c *change) addLoss(l Loss, cause Cause, at time.Time) {
	l.ID, l.Cause, l.At = c.counters.loss, cause, at.UTC()
	c.counters.loss++
	c.losses = append(c.losses, storedLoss{Loss: l})
}

// addEvicted declares with the change what is evicted, as part of the loss that
// it continues where there is one.
func (s *Spool) addEvicted(c *change, l Loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(c.losses) - 1; i >= 0; i-- {
		if c.losses[i].grow(&l, s.now()) {
			return
		}
	}
	for i := len(s.losses) - 1; i >= 0; i-- {
		o := s.losses[i]
		changed := slices.ContainsFunc(c.losses, func(x storedLoss) bool { return x.ID == o.ID })
		if !changed && o.grow(&l, s.now()) {
			c.losses = append(c.losses, o)
			return
		}
	}
	c.addLoss(l, CauseEvicted, s.now())
}

// grow adds what was evicted next to the loss, and reports whether it is next
// to it.
func (o *storedLoss) grow(l *Loss, at time.Time) bool {
	next := o.ToSeq+1 == l.FromSeq
	if l.Stream == NoStream { // it names no sequences
		next = o.FromSeq == 0 && l.FromSeq == 0
	}
	if o.taken || !next || o.Cause != CauseEvicted || o.Stream != l.Stream || o.Earlier != l.Earlier || o.Unknown || l.Unknown || !slices.Equal(o.Sinks, l.Sinks) {
		return false
	}
	o.ToSeq = l.ToSeq
	o.First, o.Last = min(o.First, l.First), max(o.Last, l.Last)
	o.Count += l.Count
	o.At = at.UTC()
	return true
}
