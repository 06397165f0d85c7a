package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/clock"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
)

// What the configuration says of the clock is what the gateway does, and the
// status tells of it.
func TestTheClockAsConfigured(t *testing.T) {
	for section, want := range map[string]struct {
		service bool
		left    time.Duration // that samples wait for the clock; 0 where they do not
	}{
		"{}":                        {},
		"{sync: auto}":              {service: true, left: 10 * time.Minute},
		"{sync: ignore}":            {service: true},
		"{sync: require, hold: 1m}": {left: time.Minute},
	} {
		dir := t.TempDir()
		cfg, err := config.Parse("millrace.yaml", fmt.Appendf(nil, `
gateway: {site: plant1, id: gw1}
clock: %s
spool: {dir: %s}
control: {socket: %s}
sources:
  - {name: web, type: http, connection: {listen: "127.0.0.1:0"}}
sinks:
  - {name: files, type: file, dir: %s}
`, section, filepath.Join(dir, "spool"), filepath.Join(dir, "c.sock"), filepath.Join(dir, "out")),
			config.Registry{Protocols: protocols.List(), Sinks: uploader.List()})
		if err != nil {
			t.Fatal(err)
		}
		f := clock.NewFake(time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC))
		f.SetSync(clock.Unsynchronised)
		m := &manager{fed: make(chan struct{}, 1)}
		g, err := gateway.New(t.Context(), gateway.Options{
			Config: cfg, Log: slog.New(slog.DiscardHandler), Clock: f, ExpectSync: want.service, Notify: m, StateDir: dir,
		})
		if err != nil {
			t.Fatal(err)
		}
		st := g.Status()
		if st.Clock.Holding != (want.left > 0) || st.Clock.HoldLeft != want.left || st.Clock.State != "free" {
			t.Errorf("%s: clock %+v", section, st.Clock)
		}
		if strings.Contains(st.Line, "samples wait for the clock") != st.Clock.Holding {
			t.Errorf("%s: status line %q", section, st.Line)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		<-m.fed
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
