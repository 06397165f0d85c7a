package gateway

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"time"

	"millrace/gateway/batch"
	"millrace/gateway/control"
	"millrace/gateway/forecast"
	"millrace/gateway/health"
	"millrace/internal/bytesize"
	"millrace/sample/block"
	"millrace/spool"
	"millrace/uploader"
)

// maxListed bounds how many blocks one listing shows.
const maxListed = 10_000

// Status is what a running gateway says of itself.
type Status struct {
	Version    string                    `json:"version"`
	Site       string                    `json:"site"`
	Gateway    string                    `json:"gateway"`
	Started    time.Time                 `json:"started"`
	Uptime     time.Duration             `json:"uptime_ns"` // by the monotonic clock
	Line       string                    `json:"line"`      // the status line of the service manager
	Components []health.Status           `json:"components"`
	Sources    map[string]batch.Counters `json:"sources"`
	Sinks      map[string]uploader.Stats `json:"sinks"`
	Spool      spool.Stats               `json:"spool"`
	Forecast   forecast.Forecast         `json:"forecast"`
	Clock      batch.ClockStatus         `json:"clock"`
	// Mirror is nil where the mirror is not enabled.
	Mirror *MirrorStatus `json:"mirror,omitempty"`
}

// Status reports the gateway's state.
func (g *Gateway) Status() Status {
	s := Status{
		Version: g.o.Version, Site: g.cfg.Gateway.Site, Gateway: g.cfg.Gateway.ID, Started: g.started, Uptime: time.Since(g.began),
		Line: g.statusLine(), Components: g.health.Snapshot(), Sources: g.batch.Counters(),
		Sinks: map[string]uploader.Stats{}, Spool: g.spool.Stats(), Clock: g.batch.Clock(),
		Mirror: g.mirrorStatus(),
	}
	for _, k := range g.sinks {
		s.Sinks[k.name] = k.loop.Stats()
	}
	return s
}

// statusLine is the one line that the service manager shows: sources up,
// backlog, last delivery.
func (g *Gateway) statusLine() string {
	up := map[health.Kind]int{}
	all := map[health.Kind]int{}
	for _, c := range g.health.Snapshot() {
		all[c.Kind]++
		if c.State == health.Up {
			up[c.Kind]++
		}
	}
	st := g.spool.Stats()
	var blocks, bytes int64
	for _, s := range st.Sinks {
		blocks = max(blocks, int64(s.PendingBlocks))
		bytes = max(bytes, s.PendingBytes)
	}
	last := "none yet"
	var newest time.Time
	for _, s := range g.sinks {
		if t := s.loop.Stats().LastDelivery; t.After(newest) {
			newest = t
		}
	}
	if !newest.IsZero() {
		last = g.o.Clock.Now().Sub(newest).Round(time.Second).String() + " ago"
	}
	waits := ""
	if c := g.batch.Clock(); c.Holding {
		waits = fmt.Sprintf(", samples wait for the clock to be synchronised, %s at most", c.HoldLeft.Round(time.Second))
	}
	return fmt.Sprintf("%d/%d sources up, %d/%d sinks up, backlog %d blocks (%s), last delivery %s%s%s",
		up[health.Source], all[health.Source], up[health.Sink], all[health.Sink], blocks, bytesize.Size(bytes), last, waits, g.mirrorStatus().line())
}

// handlers are the local socket's paths.
func (g *Gateway) handlers() map[string]control.Handler {
	out := map[string]control.Handler{
		"/v1/status":      func(context.Context, url.Values) (any, error) { return g.Status(), nil },
		"/v1/spool/stats": func(context.Context, url.Values) (any, error) { return g.spool.Stats(), nil },
		"/v1/spool/ls": func(_ context.Context, args url.Values) (any, error) {
			most, err := strconv.Atoi(args.Get("max"))
			if err != nil || most < 1 || most > maxListed {
				return nil, fmt.Errorf("max=%q is not a number from 1 to %d", args.Get("max"), maxListed)
			}
			return ListSpool(g.spool, most)
		},
		"/v1/spool/peek": func(_ context.Context, args url.Values) (any, error) {
			n, err := strconv.ParseUint(args.Get("number"), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("number=%q is not a block's number", args.Get("number"))
			}
			b, err := g.spool.Peek(n)
			if err != nil {
				return nil, err
			}
			return b.Data, nil
		},
	}
	maps.Copy(out, auditHandlers(g.spool))
	maps.Copy(out, g.spoolHandlers())
	maps.Copy(out, g.metricsHandlers())
	maps.Copy(out, g.mirrorHandlers())
	return out
}

// SpoolReader is a spool, running or read from its files.
type SpoolReader interface {
	List(most int) ([]spool.Info, error)
	Peek(number uint64) (spool.Block, error)
}

// Listed is one block of the spool as `millrace spool ls` shows it.
type Listed struct {
	Number uint64    `json:"number"`
	Stream string    `json:"stream"`
	Seq    uint64    `json:"seq"`
	Count  uint32    `json:"count"`
	Bytes  int       `json:"bytes"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	// Waiting names the sinks that do not have it yet.
	Waiting []string `json:"waiting"`
}

// ListSpool lists blocks, oldest first.
func ListSpool(s SpoolReader, most int) ([]Listed, error) {
	infos, err := s.List(most)
	if err != nil {
		return nil, err
	}
	out := make([]Listed, 0, len(infos))
	for _, i := range infos {
		out = append(out, Listed{
			Number: i.Number, Stream: batch.StreamName(i.Stream), Seq: i.Seq, Count: i.Count, Bytes: i.Bytes,
			First: time.Unix(0, i.First).UTC(), Last: time.Unix(0, i.Last).UTC(), Waiting: i.Waiting,
		})
	}
	return out, nil
}

// DecodeBlock decodes a block's bytes for people and tools.
func DecodeBlock(data []byte) (*block.Block, error) {
	d, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	return d.Decode(data)
}
