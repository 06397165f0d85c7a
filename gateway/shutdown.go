package gateway

import (
	"sync"
	"time"

	"millrace/gateway/config"
)

const (
	// sourceGrace is how long sources may finish the requests on the wire.
	// Together with config.MaxDeadline it stays below the unit's TimeoutStopSec.
	sourceGrace = 15 * time.Second
)

// shutdownTimes returns how long deliveries go on at a stop, and how long
// requests that are under way then may take beyond that.
func (o *Options) shutdownTimes() (grace, beyond time.Duration) {
	s := o.Config.Shutdown
	if s.Deadline == 0 { // a configuration made by a program
		s = config.DefaultShutdown()
	}
	grace, beyond = s.Grace, s.Deadline-s.Grace
	if o.DeliveryGrace > 0 {
		grace = o.DeliveryGrace
	}
	return grace, beyond
}

// hurried reports whether the operator asked to stop at once.
func (o *Options) hurried() bool {
	select {
	case <-o.Hurry:
		return true
	default:
		return false
	}
}

// flush delivers what is queued in two stages: deliveries go on for the grace,
// or until the queues are empty; then requests under way are awaited until the
// deadline. Where the operator hurries, or the spool is unusable, both end at
// once. Nothing is deleted but on a positive answer, as ever.
func (g *Gateway) flush(delivering *sync.WaitGroup, stop func(), failed bool) {
	grace, _ := g.o.shutdownTimes()
	for _, s := range g.sinks {
		s.loop.Flush()
	}
	done := make(chan struct{})
	go func() { delivering.Wait(); close(done) }()
	t := time.NewTimer(grace)
	defer t.Stop()
	hurry := g.o.Hurry
	if failed {
		hurry = closed()
	}
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-t.C:
			stop()
			t.Stop()
		case <-hurry:
			if !failed {
				g.log.Warn("a second signal ends the flush; what is under way is cut off, and sent again after the next start")
			}
			hurry = nil
			stop()
			for _, s := range g.sinks {
				s.loop.Abort()
			}
		}
	}
	stop()
	g.tellWhatIsLeft()
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// tellWhatIsLeft logs what each sink did not get.
func (g *Gateway) tellWhatIsLeft() {
	st := g.spool.Stats()
	for _, s := range g.sinks {
		p := st.Sinks[s.name]
		if p.PendingBlocks == 0 {
			continue
		}
		why := s.loop.Stats().LastError
		if why == "" {
			why = "the time for it ran out"
		}
		g.log.Info("what is not delivered stays in the spool and goes up after the next start",
			"sink", s.name, "blocks", p.PendingBlocks, "samples", p.PendingSamples, "why", why)
	}
}
