// Package mirror brings results of the cloud back into the SCADA system: it
// takes them from feeds, asks the guards, writes to targets, reads back, and
// records every decision before the feed may forget the message.
package mirror

import (
	"context"
	"errors"
	"time"
)

// Mirror is the engine. Its methods are safe for concurrent use.
type Mirror struct {
	cfg Config
	s   Settings
}

// New opens the audit log and takes up what it says. It constructs the feeds
// and the targets whose mode is not off, and connects to nothing.
func New(cfg Config, s Settings) (*Mirror, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Mirror{cfg: cfg, s: s}, nil
}

// Run works until ctx is done, and returns after all that it started has ended.
// No failing feed or device ends it.
func (m *Mirror) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

var errNotReady = errors.New("the mirror does not run")

// Arm raises a target from dry_run to armed for d, at most MaxArming. With
// d = Configured it gives a target that was disarmed by hand its configured
// mode back. who is the caller, for the audit log, which has it first.
func (m *Mirror) Arm(target string, d time.Duration, who string) error { return errNotReady }

// Disarm takes a target down to dry_run. When it returns, no write is under way
// and none will begin. It holds across restarts, until Arm.
func (m *Mirror) Disarm(target, who string) error { return errNotReady }

// Status shows the mirror's state.
func (m *Mirror) Status() Status { return Status{} }

// Close closes the targets, the feeds and the audit log. It is called after Run
// has returned.
func (m *Mirror) Close() error { return nil }
