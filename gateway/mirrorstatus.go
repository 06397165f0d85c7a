package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/pipeline"
	"millrace/protocols"
	"millrace/sample"
)

const (
	// statusWaiting is how many status samples wait for the spool at most.
	statusWaiting = 4096
	// statusBatch is how many go in at once.
	statusBatch = 256
	// statusSource is the source that the spool knows them by.
	statusSource = "mirror"
	// maxStatusBytes bounds a status text, so that what waits is bounded too.
	maxStatusBytes = 16 << 10
	// drainWithin is how long the last of them may wait for the spool at a stop.
	drainWithin = 2 * time.Second
)

// statusSamples carries the outcomes of the mirror into the spool. The engine
// never waits for it: what does not fit is counted, and stands in the audit log
// all the same.
type statusSamples struct {
	g     *Gateway
	port  *batch.Port
	tags  map[string]string // by target
	queue chan sample.Sample
	lost  atomic.Uint64

	mu      sync.Mutex
	holds   int           // samples that were put and are not in the spool
	emptied chan struct{} // closed once holds is 0, where somebody waits
}

// openStatus registers the tags of the targets' outcomes: urgent, in a stream
// with room of its own.
func (g *Gateway) openStatus() (*statusSamples, error) {
	s := &statusSamples{g: g, tags: map[string]string{}, queue: make(chan sample.Sample, statusWaiting)}
	info := batch.SourceInfo{
		Name: statusSource, MaxTags: len(g.cfg.Mirror.Targets), Beat: func() {},
		Class: batch.Class{ScanRate: time.Second, MaxAge: time.Second, MaxBytes: 180 << 10},
	}
	for i := range g.cfg.Mirror.Targets {
		t := &g.cfg.Mirror.Targets[i]
		tag := t.StatusTag(g.cfg.Gateway.Site)
		s.tags[t.Name] = tag
		info.Tags = append(info.Tags, batch.TagInfo{
			Name: tag, Type: sample.String.String(), Urgent: true, Counter: true, Rule: pipeline.Rule{Scale: 1},
			Description: "outcomes of mirror target " + t.Name + ", as JSON",
		})
	}
	var err error
	s.port, err = g.batch.Open(info)
	return s, err
}

// put takes a status sample of a target. It does not block.
func (s *statusSamples) put(target string, v sample.Sample) {
	tag, ok := s.tags[target]
	if !ok || len(v.Value.Str()) > maxStatusBytes {
		s.lost.Add(1)
		return
	}
	v.Tag = tag
	// Samples are stamped on the timeline, and the engine by the right time.
	v.Time = s.g.times.Now().UnixNano() - max(0, s.g.batch.Now().UnixNano()-v.Time)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.queue <- v:
		s.holds++
	default:
		s.lost.Add(1)
	}
}

// run hands what waits to the spool, until ctx is done.
func (s *statusSamples) run(ctx context.Context) {
	list := make([]sample.Sample, 0, statusBatch)
	for {
		select {
		case <-ctx.Done():
			s.lost.Add(uint64(len(s.queue)))
			return
		case v := <-s.queue:
			list = append(list[:0], v)
		}
		for more := true; more && len(list) < statusBatch; {
			select {
			case v := <-s.queue:
				list = append(list, v)
			default:
				more = false
			}
		}
		if !s.emit(ctx, list) {
			s.lost.Add(uint64(len(list)))
		}
		s.went(len(list))
	}
}

// emit hands a batch in, again while the spool has no room. It asks for an
// acknowledgement, which commits at once, and does not wait for it.
func (s *statusSamples) emit(ctx context.Context, list []sample.Sample) bool {
	n := uint64(len(list))
	for {
		err := s.port.Emit(ctx, list, func(err error) {
			if err != nil {
				s.lost.Add(n)
			}
		})
		if err == nil {
			return true
		}
		var refused *protocols.RefusedError
		if !errors.As(err, &refused) || refused.RetryAfter == 0 {
			s.g.log.Warn("outcomes of the mirror do not go up; they stand in the audit log: "+err.Error(), "part", "mirror", "samples", len(list))
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(refused.RetryAfter):
		}
	}
}

func (s *statusSamples) went(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds -= n; s.holds == 0 && s.emptied != nil {
		close(s.emptied)
		s.emptied = nil
	}
}

// drain waits until all that was put is in the spool, for drainWithin.
func (s *statusSamples) drain() {
	s.mu.Lock()
	if s.holds == 0 {
		s.mu.Unlock()
		return
	}
	if s.emptied == nil {
		s.emptied = make(chan struct{})
	}
	done := s.emptied
	s.mu.Unlock()
	select {
	case <-done:
	case <-time.After(drainWithin):
		s.mu.Lock()
		left := s.holds
		s.mu.Unlock()
		s.g.log.Warn(fmt.Sprintf("%d outcomes of the mirror do not go up, since the spool does not take them; they stand in the audit log", left), "part", "mirror")
	}
}
