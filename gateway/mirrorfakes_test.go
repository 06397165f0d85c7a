package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"millrace/feeds"
	"millrace/protocols"
	"millrace/sample"
	"millrace/uploader"
)

// desk is a mirror's world without a network: feeds and devices that count who
// builds and uses them.
type desk struct {
	mu sync.Mutex
	// counts is how often what was done.
	counts   map[string]int
	messages []feeds.Message // that wait in every feed
	arrived  chan struct{}   // some have come
	value    sample.Value    // at every place
	version  uint64
	fail     error // of the next Serve
	hang     bool  // a write waits until the link is closed, whatever it is told
	unplug   chan struct{}
	latest   func(tag string) (protocols.Reading, bool)
	shown    []protocols.Tag
}

func newDesk() *desk {
	return &desk{counts: map[string]int{}, arrived: make(chan struct{}, 1), unplug: make(chan struct{})}
}

func (d *desk) did(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[what]++
}

func (d *desk) count(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[what]
}

type tray struct{ d *desk }

func (tray) Type() string              { return "tray" }
func (k tray) NewConfig() feeds.Config { return &trayConfig{d: k.d} }

type trayConfig struct{ d *desk }

func (*trayConfig) Validate() []uploader.Fault { return nil }
func (c *trayConfig) Open(feeds.Settings) (feeds.Feed, error) {
	c.d.did("feed opened")
	return &trayFeed{c.d}, nil
}

type trayFeed struct{ d *desk }

func (f *trayFeed) Receive(ctx context.Context) ([]feeds.Message, error) {
	f.d.did("received")
	select {
	case <-f.d.arrived:
	case <-ctx.Done():
		return nil, nil
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	out := f.d.messages
	f.d.messages = nil
	return out, nil
}
func (f *trayFeed) Done(context.Context, []feeds.Message) error { f.d.did("done"); return nil }
func (f *trayFeed) Check(context.Context) error                 { f.d.did("feed checked"); return nil }
func (f *trayFeed) Close() error                                { f.d.did("feed closed"); return nil }

// panel is a device that is written to, or a server.
type panel struct {
	d      *desk
	server bool
}

func (p panel) Type() string {
	if p.server {
		return "panel_server"
	}
	return "panel"
}
func (p panel) NewConfig() protocols.Config {
	if p.server {
		return &panelServer{panelConfig{d: p.d, typ: p.Type()}}
	}
	return &panelConfig{d: p.d, typ: p.Type()}
}

type panelConfig struct {
	d   *desk
	typ string
	URL string `yaml:"url"`
}

func (c *panelConfig) Validate(*protocols.SourceConfig) []protocols.Fault { return nil }
func (c *panelConfig) LinkKey() string                                    { return c.typ + " " + c.URL }
func (c *panelConfig) NewTarget() protocols.TargetConfig                  { return &panelTarget{} }
func (c *panelConfig) Open(protocols.Settings) (protocols.Connection, error) {
	c.d.did(c.typ + " opened")
	return &panelLink{d: c.d}, nil
}

type panelServer struct {
	panelConfig `yaml:",inline"`
}

func (*panelServer) Serves() bool { return true }

type panelTarget struct {
	Address string `yaml:"address"`
}

func (*panelTarget) Validate(sample.Kind) []protocols.Fault { return nil }
func (t *panelTarget) Places() []string                     { return []string{t.Address} }

type panelLink struct {
	protocols.Connection // nil: what is not below is not used
	d                    *desk
}

func (l *panelLink) OpenSource(*protocols.SourceConfig, protocols.Health) (protocols.Source, error) {
	return idleSource{}, nil
}
func (l *panelLink) OpenTarget(protocols.TargetConfig, protocols.Health) (protocols.Target, error) {
	l.d.did("target opened")
	return &panelPlace{l.d}, nil
}
func (l *panelLink) Close() error {
	l.d.did("link closed")
	if l.d.hang {
		close(l.d.unplug)
	}
	return nil
}

func (l *panelLink) Show(tags []protocols.Tag, latest func(string) (protocols.Reading, bool)) error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.d.shown, l.d.latest = tags, latest
	return nil
}

func (l *panelLink) Serve(ctx context.Context, h protocols.Health) error {
	l.d.did("served")
	l.d.mu.Lock()
	fail := l.d.fail
	l.d.fail = nil
	l.d.mu.Unlock()
	if fail != nil {
		if errors.Is(fail, errPanic) {
			panic(fail)
		}
		return fail
	}
	h.Up()
	<-ctx.Done()
	return nil
}

// errPanic makes a server panic.
var errPanic = errors.New("panic")

type idleSource struct{}

func (idleSource) Run(ctx context.Context, _ protocols.Emit) error { <-ctx.Done(); return nil }

type panelPlace struct{ d *desk }

func (p *panelPlace) Prepare(_ context.Context, v sample.Value) (sample.Value, error) {
	p.d.did("prepared")
	return v, nil
}
func (p *panelPlace) Write(_ context.Context, c protocols.Command) error {
	p.d.did("written")
	if p.d.hang {
		<-p.d.unplug
		return errors.New("the link is closed")
	}
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	p.d.value, p.d.version = c.Value, c.Version
	return nil
}
func (p *panelPlace) Read(context.Context) (protocols.Reading, error) {
	p.d.did("read")
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	return protocols.Reading{Value: p.d.value, Version: p.d.version}, nil
}
func (p *panelPlace) Tell(context.Context, protocols.State) error { p.d.did("told"); return nil }
func (p *panelPlace) Close() error                                { p.d.did("target closed"); return nil }

// did lists all that was done, for messages.
func (d *desk) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprint(d.counts)
}
