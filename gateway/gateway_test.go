package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/clock"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
)

// manager stands for the service manager. It holds the stop up until the
// watchdog was fed twice, so that a status line would come in between.
type manager struct {
	fed chan struct{}

	mu    sync.Mutex
	lines []string
}

func (m *manager) say(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, line)
}

func (m *manager) Ready(string)                    { m.say("ready") }
func (m *manager) Status(string)                   { m.say("status") }
func (m *manager) WatchdogInterval() time.Duration { return 20 * time.Millisecond }

func (m *manager) Watchdog() {
	select {
	case m.fed <- struct{}{}:
	default:
	}
}

func (m *manager) Stopping(status string) {
	m.say(status)
	for range 3 { // the first may have been fed before
		<-m.fed
	}
}

func TestTheStopIsNotHiddenByAStatusLine(t *testing.T) {
	dir := t.TempDir()
	cfg, err := config.Parse("millrace.yaml", fmt.Appendf(nil, `
gateway: {site: plant1, id: gw1}
spool: {dir: %s}
control: {socket: %s}
sources:
  - {name: web, type: http, connection: {listen: "127.0.0.1:0"}}
sinks:
  - {name: files, type: file, dir: %s}
`, filepath.Join(dir, "spool"), filepath.Join(dir, "c.sock"), filepath.Join(dir, "out")),
		config.Registry{Protocols: protocols.List(), Sinks: uploader.List()})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{fed: make(chan struct{}, 1)}
	g, err := gateway.New(t.Context(), gateway.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Notify: m, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	for range 3 {
		<-m.fed
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	var stops int
	for _, line := range m.lines {
		switch {
		case line == "ready":
		case line != "status":
			stops++
		case stops > 0:
			t.Fatalf("a status line follows the stop: %q", m.lines)
		}
	}
	if stops != 2 || m.lines[0] != "ready" || m.lines[1] != "status" {
		t.Errorf("the service manager was told %q", m.lines)
	}
}
