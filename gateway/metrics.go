package gateway

import (
	"bytes"
	"context"
	"net/url"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/control"
	"millrace/gateway/metrics"
	"millrace/internal/histogram"
	"millrace/spool"
	"millrace/uploader"
)

// timedStore is the spool with a watch on its commits.
type timedStore struct {
	*spool.Spool
	took *histogram.Histogram
}

var _ batch.Store = timedStore{}

func newTimedStore(s *spool.Spool) timedStore {
	return timedStore{s, histogram.New(
		time.Millisecond, 2*time.Millisecond, 5*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond,
		100*time.Millisecond, 200*time.Millisecond, 500*time.Millisecond, time.Second, 5*time.Second, 30*time.Second,
	)}
}

// Commit implements batch.Store.
func (s timedStore) Commit(c *spool.Commit) error {
	began := time.Now()
	err := s.Spool.Commit(c)
	if err == nil {
		now := time.Now()
		s.took.Observe(now, now.Sub(began))
	}
	return err
}

// measure reads everything that the metrics expose.
func (g *Gateway) measure() metrics.Snapshot {
	s := metrics.Snapshot{
		Version: g.o.Version, Site: g.cfg.Gateway.Site, Gateway: g.cfg.Gateway.ID, Uptime: time.Since(g.began),
		Components: g.health.Snapshot(), Sources: g.batch.Counters(), Gaps: g.batch.Gaps(), Refusals: g.batch.Refusals(), Thinned: g.batch.Thinned(), Clock: g.batch.Clock(),
		Sinks: map[string]uploader.Stats{}, Spool: g.spool.Stats(), Commits: g.store.took.Snapshot(), Forecast: g.foresee(),
	}
	for _, k := range g.sinks {
		s.Sinks[k.name] = k.loop.Stats()
	}
	if m := g.mirrorStatus(); m != nil {
		s.Mirror, s.LostStatus = &m.Status, m.LostStatus
	}
	return s
}

// serveMetrics listens where the configuration says so. Without metrics the
// gateway does its work all the same.
func (g *Gateway) serveMetrics() *metrics.Server {
	listen := g.cfg.Metrics.Listen
	if listen == "" {
		return nil
	}
	s, err := g.metrics.Serve(listen, g.log)
	if err != nil {
		g.log.Error("metrics cannot be served: "+err.Error(), "listen", listen)
		return nil
	}
	g.log.Info("metrics are served", "url", "http://"+s.Addr().String()+"/metrics")
	return s
}

// metricsHandlers are the local socket's path for the metrics.
func (g *Gateway) metricsHandlers() map[string]control.Handler {
	return map[string]control.Handler{
		"/v1/metrics": func(context.Context, url.Values) (any, error) {
			var text bytes.Buffer
			err := g.metrics.Write(&text)
			return text.String(), err
		},
	}
}
