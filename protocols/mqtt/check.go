package mqtt

import (
	"context"
	"fmt"

	"millrace/protocols"
)

// Check implements protocols.Checker: it logs in and subscribes, under a
// client id of its own, so that a running gateway keeps its session. Whether
// anything is published on a topic cannot be asked of a broker.
func (c *connection) Check(ctx context.Context, src *protocols.SourceConfig) []error {
	r, err := newRouter(&c.cfg, c.site, src, c.log)
	if err != nil {
		return []error{err}
	}
	s, err := c.connect(ctx, c.cfg.clientID(c.site, src.Name)+"-check", true, func(*session, *message) {})
	if err != nil {
		return []error{err}
	}
	defer s.close()
	refused, err := s.subscribe(ctx, filtersOf(&c.cfg, r), byte(c.cfg.QoS))
	if err != nil {
		return []error{c.explain("subscribe", err)}
	}
	var errs []error
	for _, f := range refused {
		errs = append(errs, fmt.Errorf("mqtt %s: the broker refuses a subscription to %s; allow user %q to read it in the broker's access list", c.cfg.URL, f, c.cfg.Username))
	}
	return errs
}
