package gateway

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/config"
	"millrace/gateway/health"
	"millrace/internal/backoff"
	"millrace/protocols"
	"millrace/spool"
)

// stuckAfter is how long a loop may be silent beyond its own period.
const stuckAfter = 60 * time.Second

// source is one source with what supervises it.
type source struct {
	g      *Gateway
	cfg    *config.Source
	link   protocols.Connection
	emit   protocols.Emit
	health *sourceHealth
}

func (g *Gateway) openSource(cfg *config.Source) (*source, error) {
	link, err := g.openLink(cfg.Connection, "source", cfg.Name)
	if err != nil {
		return nil, err
	}
	h := &sourceHealth{Component: g.health.Add(health.Source, cfg.Name, 2*cfg.ScanRate+stuckAfter)}
	info := sourceInfo(cfg)
	info.Beat, info.Full = h.Beat, h.Full
	port, err := g.batch.Open(info)
	if err != nil {
		return nil, err
	}
	s := &source{g: g, cfg: cfg, link: link, emit: port.Emit, health: h}
	if g.o.WrapEmit != nil {
		s.emit = g.o.WrapEmit(cfg.Name, s.emit)
	}
	return s, nil
}

// openLink returns the connection to a link, and opens it where nobody has yet:
// what, a source or a device, and name say for whom.
func (g *Gateway) openLink(cfg protocols.Config, what, name string) (protocols.Connection, error) {
	key := cfg.LinkKey()
	if link := g.links[key]; link != nil {
		return link, nil
	}
	link, err := cfg.Open(protocols.Settings{Site: g.cfg.Gateway.Site, Log: g.log.With(what, name), Clock: g.times})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, name, err)
	}
	g.links[key] = link
	return link, nil
}

func sourceInfo(cfg *config.Source) batch.SourceInfo {
	info := batch.SourceInfo{
		Name: cfg.Name, MaxTags: cfg.MaxTags,
		Class: batch.Class{
			ScanRate: cfg.ScanRate, MaxAge: cfg.Batch.MaxAge, MaxBytes: int(cfg.Batch.MaxBytes), Policy: policyOf(cfg.WhenFull),
		},
	}
	for i := range cfg.Tags {
		t := &cfg.Tags[i]
		info.Tags = append(info.Tags, batch.TagInfo{
			Name: t.Name, Type: t.Type, Unit: t.Unit, Description: t.Description, Urgent: t.Urgent, Counter: t.Counter, CounterMax: t.CounterMax, Rule: t.Rule,
		})
	}
	return info
}

func policyOf(whenFull string) spool.Policy {
	switch whenFull {
	case config.Refuse:
		return spool.Refuse
	case config.ThinOldest:
		return spool.ThinOldest
	}
	return spool.DropOldest
}

// run keeps the source going until ctx is done. A source that fails is started
// again with a back-off and is reported meanwhile.
func (s *source) run(ctx context.Context) {
	defer s.health.Stopped()
	var wait backoff.Policy
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			if err != nil {
				s.g.log.Warn("source ended with an error at the stop", "source", s.cfg.Name, "error", err)
			}
			return
		}
		if time.Since(began) > time.Minute {
			attempt = 0
		}
		s.health.Down(fmt.Errorf("%w; it is started again by itself", err))
		backoff.Sleep(ctx, wait.Wait(attempt))
	}
}

var errEnded = errors.New("it ended without being told to")

// once opens and runs the source. A panic of its goroutine is an error of this
// source and of no other.
func (s *source) once(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("BUG: panic: %v", p)
			s.g.log.Error("a source panicked; please report this", "source", s.cfg.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	src, err := s.link.OpenSource(s.cfg.Spec, s.health)
	if err != nil {
		return err
	}
	if err := src.Run(ctx, s.emit); err != nil || ctx.Err() != nil {
		return err
	}
	return errEnded
}
