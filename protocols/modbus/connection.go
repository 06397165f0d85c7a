package modbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"millrace/internal/clock"
	"millrace/protocols"
)

// connection implements protocols.Connection, protocols.Checker and
// protocols.TargetOpener.
type connection struct {
	cfg   Config
	link  *link
	log   *slog.Logger
	clock clock.Clock
}

func newConnection(cfg Config, host string, s protocols.Settings) *connection {
	return &connection{cfg: cfg, link: newLink(cfg, host, s.Clock), log: s.Log, clock: s.Clock}
}

// points parses the tags of src. Its error joins every fault.
func (c *connection) points(src *protocols.SourceConfig) ([]point, error) {
	points := make([]point, 0, len(src.Tags))
	var errs []error
	for i, tag := range src.Tags {
		p, faults := makePoint(tag, i, &c.cfg, src.ScanRate)
		for _, f := range faults {
			errs = append(errs, fmt.Errorf("tags[%d].%s: %s; %s", i, f.Path, f.Problem, f.Hint))
		}
		if p.rate <= 0 {
			errs = append(errs, fmt.Errorf("tags[%d]: no scan rate; set scan_rate", i))
		}
		points = append(points, p)
	}
	return points, errors.Join(errs...)
}

// OpenSource implements protocols.Connection.
func (c *connection) OpenSource(src *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	points, err := c.points(src)
	if err != nil {
		return nil, fmt.Errorf("open source %s: %w", src.Name, err)
	}
	return newSource(c, src, points, h), nil
}

// Close implements protocols.Connection.
func (c *connection) Close() error {
	c.link.close()
	return nil
}

// Check implements protocols.Checker. Requests that were joined and fail are
// tried tag by tag, so that each address that cannot be read is named.
func (c *connection) Check(ctx context.Context, src *protocols.SourceConfig) []error {
	points, err := c.points(src)
	if err != nil {
		return []error{err}
	}
	var (
		errs []error
		buf  [maxADU]byte
		away [256]bool
	)
	try := func(g *group) error {
		_, _, err := c.link.read(ctx, g.slave, g.table, g.start, g.count, buf[:])
		return err
	}
	for _, g := range plan(points, c.cfg.limits()) {
		if away[g.slave] {
			continue // said once for the slave
		}
		err := try(&g)
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return append(errs, fmt.Errorf("%s: the check was stopped: %w", c.link.name, context.Cause(ctx)))
		case isAway(err):
			away[g.slave] = true
			errs = append(errs, explain(c.link.name, "read "+g.String(), err))
			var lost *lostError
			if errors.As(err, &lost) {
				return errs // nothing else on this link can be reached either
			}
			continue
		}
		failed := 0
		for i := range g.points {
			p := &g.points[i]
			single := groupOf(g.points[i : i+1])
			if err := try(&single); err != nil {
				failed++
				errs = append(errs, explain(c.link.name, fmt.Sprintf("tag %s: read %s", p.tag, single.String()), err))
			}
		}
		if failed == 0 {
			// Not a fault: the source halves the request by itself.
			c.log.Info("the device refuses a joined read; the source will split it", "read", g.String(), "error", err)
		}
	}
	return errs
}
