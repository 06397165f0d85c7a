// Package config reads the gateway's YAML file: strictly, with every error at
// once, each with its file, line, YAML path and what to do.
package config

import (
	"fmt"
	"net"
	"reflect"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"millrace/feeds"
	"millrace/gateway/pipeline"
	"millrace/internal/bytesize"
	"millrace/internal/strictyaml"
	"millrace/protocols"
	"millrace/sample"
	"millrace/uploader"
)

// maxHold is the longest that samples wait for the clock.
const maxHold = 10 * time.Minute

// Error is one thing that is wrong with a configuration.
type Error = strictyaml.Error

// Errors are all that is wrong, by line.
type Errors = strictyaml.Errors

// Registry lists what a configuration can name.
type Registry struct {
	Protocols []protocols.Protocol
	Sinks     []uploader.Kind
	Feeds     []feeds.Kind
}

// Config is a checked configuration.
type Config struct {
	Gateway  Gateway
	Clock    Clock
	Spool    Spool
	Log      Log
	Control  Control
	Shutdown Shutdown
	Metrics  Metrics
	Sources  []Source
	Sinks    []Sink
	Mirror   Mirror
}

// Gateway names the gateway. Both names are part of every block's identity.
type Gateway struct {
	Site string `yaml:"site"`
	ID   string `yaml:"id"`
}

// Clock says what is done while the wall clock is not synchronised.
type Clock struct {
	Sync string        `yaml:"sync"`
	Hold time.Duration `yaml:"hold"`
}

// Spool is where samples wait.
type Spool struct {
	Dir            string        `yaml:"dir"`
	MaxSize        bytesize.Size `yaml:"max_size"`
	SegmentSize    bytesize.Size `yaml:"segment_size"`
	CommitInterval time.Duration `yaml:"commit_interval"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Control is the daemon's local socket.
type Control struct {
	Socket string `yaml:"socket"`
	Group  string `yaml:"group"`
}

// Shutdown says how long a stop waits for deliveries.
type Shutdown struct {
	// Grace is how long deliveries go on after the sources have stopped.
	Grace time.Duration `yaml:"grace"`
	// Deadline is when requests that are under way are cut off, from the same
	// moment; not before Grace.
	Deadline time.Duration `yaml:"deadline"`
}

// MaxDeadline bounds Shutdown.Deadline, so that a stop fits the unit's
// TimeoutStopSec.
const MaxDeadline = time.Minute

// DefaultShutdown is what holds where nothing is set.
func DefaultShutdown() Shutdown {
	return Shutdown{Grace: 10 * time.Second, Deadline: 15 * time.Second}
}

// Metrics says where metrics are served.
type Metrics struct {
	// Listen is host:port; empty is nowhere but the local socket.
	Listen string `yaml:"listen"`
	// Insecure allows an address beyond this machine, where whoever reaches it
	// can read names and counts.
	Insecure bool `yaml:"insecure"`
}

// Batch says when a batch is sealed.
type Batch struct {
	MaxAge   time.Duration `yaml:"max_age"`
	MaxBytes bytesize.Size `yaml:"max_bytes"`
}

// Source is one source, ready to be opened.
type Source struct {
	Name, Type, Device string
	ScanRate           time.Duration
	Batch              Batch
	MaxTags            int
	// WhenFull is what becomes of the source's samples while the spool is full:
	// drop_oldest, refuse or thin_oldest.
	WhenFull   string
	Tags       []Tag
	Protocol   protocols.Protocol
	Connection protocols.Config
	Spec       *protocols.SourceConfig
}

// The words of Source.WhenFull.
const (
	DropOldest = "drop_oldest" // the oldest blocks go, declared
	Refuse     = "refuse"      // what is taken stays; no more is taken until there is room
	ThinOldest = "thin_oldest" // the oldest blocks are thinned out, and then go
)

// Tag is one configured tag.
type Tag struct {
	Name        string // full: site/device/name
	Address     string
	Type        string
	Unit        string
	Description string
	Urgent      bool
	// Counter says that the value only rises, so that every reading of it counts:
	// none is thinned out.
	Counter bool
	// CounterMax is a counter's highest reading before it starts again at 0, in
	// the tag's unit; 0 where it is not known.
	CounterMax float64
	Rule       pipeline.Rule
}

// file is the YAML file's own shape.
type file struct {
	Gateway  Gateway     `yaml:"gateway"`
	Clock    Clock       `yaml:"clock"`
	Spool    Spool       `yaml:"spool"`
	Log      Log         `yaml:"log"`
	Control  Control     `yaml:"control"`
	Shutdown Shutdown    `yaml:"shutdown"`
	Metrics  Metrics     `yaml:"metrics"`
	Sources  []yaml.Node `yaml:"sources"`
	Sinks    []yaml.Node `yaml:"sinks"`
	Mirror   fileMirror  `yaml:"mirror"`
}

type fileSource struct {
	Name       string        `yaml:"name"`
	Type       string        `yaml:"type"`
	Device     string        `yaml:"device"`
	ScanRate   time.Duration `yaml:"scan_rate"`
	Batch      Batch         `yaml:"batch"`
	MaxTags    int           `yaml:"max_tags"`
	WhenFull   string        `yaml:"when_full"`
	Connection yaml.Node     `yaml:"connection"`
	Tags       []fileTag     `yaml:"tags"`
}

type fileTag struct {
	Name        string            `yaml:"name"`
	Address     string            `yaml:"address"`
	Type        string            `yaml:"type"`
	Length      int               `yaml:"length"`
	Order       string            `yaml:"order"`
	ScanRate    time.Duration     `yaml:"scan_rate"`
	Scale       *float64          `yaml:"scale"`
	Offset      float64           `yaml:"offset"`
	Unit        string            `yaml:"unit"`
	Min         *float64          `yaml:"min"`
	Max         *float64          `yaml:"max"`
	Deadband    pipeline.Deadband `yaml:"deadband"`
	MaxSilence  time.Duration     `yaml:"max_silence"`
	Urgent      bool              `yaml:"urgent"`
	Counter     bool              `yaml:"counter"`
	CounterMax  *float64          `yaml:"counter_max"`
	Description string            `yaml:"description"`
}

// defaults is a file in which nothing is set.
func defaults() file {
	return file{
		Clock:    Clock{Sync: "auto", Hold: maxHold},
		Spool:    Spool{Dir: "/var/lib/millrace/spool", MaxSize: 2 * bytesize.GiB, CommitInterval: time.Second},
		Log:      Log{Level: "info", Format: "auto"},
		Control:  Control{Socket: "/run/millrace/control.sock"},
		Shutdown: DefaultShutdown(),
		Mirror:   defaultMirror(),
	}
}

// defaultSource is a source in which nothing is set.
func defaultSource() fileSource {
	return fileSource{ScanRate: time.Second, Batch: Batch{MaxAge: time.Minute, MaxBytes: 180 * bytesize.KiB}, MaxTags: 10_000, WhenFull: DropOldest}
}

// Load reads and checks a file. Its error is of type Errors.
func Load(path string, r Registry) (*Config, error) {
	data, err := strictyaml.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, r)
}

// Parse checks a configuration. The name stands in its errors.
func Parse(name string, data []byte, r Registry) (*Config, error) {
	d := strictyaml.New(name, "configs/millrace.example.yaml", "split the plant over several gateways")
	root := d.Parse(data)
	if root == nil {
		return nil, d.Errors
	}
	raw := defaults()
	d.Decode(root, "", reflect.ValueOf(&raw).Elem())
	cfg := &Config{Gateway: raw.Gateway, Clock: raw.Clock, Spool: raw.Spool, Log: raw.Log, Control: raw.Control, Shutdown: raw.Shutdown, Metrics: raw.Metrics}
	c := &checker{Decoder: d, cfg: cfg, registry: r, tags: map[string]string{}, names: map[string]string{}, links: map[string]link{}, keys: map[string]string{}}
	c.general()
	for i := range raw.Sources {
		if !d.Exhausted() {
			c.source(i, &raw.Sources[i])
		}
	}
	for i := range raw.Sinks {
		if !d.Exhausted() {
			c.sink(i, &raw.Sinks[i])
		}
	}
	if d.Nodes["mirror"] != nil && !d.Exhausted() {
		c.mirror(&raw.Mirror)
	}
	if len(d.Errors) > 0 {
		d.Errors.Sort()
		return nil, d.Errors
	}
	return cfg, nil
}

// checker turns the decoded file into a Config.
type checker struct {
	*strictyaml.Decoder
	cfg      *Config
	registry Registry
	tags     map[string]string // full name to path
	names    map[string]string // "source NAME", "sink NAME" and so on to path
	links    map[string]link
	keys     map[string]string // source to the key of its link, where that is right
	mirrors  *mirrors
}

type link struct {
	path   string
	config protocols.Config
}

func (c *checker) general() {
	for _, n := range []struct{ path, value string }{{"gateway.site", c.cfg.Gateway.Site}, {"gateway.id", c.cfg.Gateway.ID}} {
		if n.value == "" {
			c.Wrong(n.path, "is missing", "every block carries it; write for example gateway: {site: north, id: gw1}")
		} else if err := sample.CheckName(n.value); err != nil {
			c.Wrong(n.path, err.Error(), "use letters, digits, - and _")
		}
	}
	s := &c.cfg.Spool
	if s.Dir == "" {
		c.Wrong("spool.dir", "is empty", "name a folder on a disk that survives a power cut")
	}
	if s.MaxSize < 4*bytesize.MiB {
		c.Wrong("spool.max_size", fmt.Sprintf("%s is too small", s.MaxSize), "the least is 4MiB; a day of 200 tags at 1s takes about 10MiB")
	}
	explicit := s.SegmentSize != 0
	if !explicit {
		s.SegmentSize = min(64*bytesize.MiB, s.MaxSize/4)
	}
	if explicit && (s.SegmentSize < bytesize.MiB || s.SegmentSize > s.MaxSize/4) {
		c.Wrong("spool.segment_size", fmt.Sprintf("%s is not between 1MiB and a quarter of max_size", s.SegmentSize), "leave it out")
	}
	if s.CommitInterval < 10*time.Millisecond || s.CommitInterval > time.Minute {
		c.Wrong("spool.commit_interval", fmt.Sprintf("%s is not between 10ms and 1m", s.CommitInterval), "it is what a power cut can take from polled sources; 1s is good")
	}
	c.OneOf("clock.sync", c.cfg.Clock.Sync, "auto", "require", "ignore")
	if h := c.cfg.Clock.Hold; h < time.Second || h > maxHold {
		c.Wrong("clock.hold", fmt.Sprintf("%s is not between 1s and %s", h, maxHold), "it is how long samples wait for the clock; where they are not to wait, write sync: ignore")
	}
	c.OneOf("log.level", c.cfg.Log.Level, "debug", "info", "warn", "error")
	c.OneOf("log.format", c.cfg.Log.Format, "auto", "text", "json", "journal")
	if c.cfg.Control.Socket == "" {
		c.Wrong("control.socket", "is empty", "leave it out for /run/millrace/control.sock")
	}
	c.metrics()
	if d := c.cfg.Shutdown.Deadline; d < time.Second || d > MaxDeadline {
		c.Wrong("shutdown.deadline", fmt.Sprintf("%s is not between 1s and %s", d, MaxDeadline), "systemd allows 90s for the whole stop; what is not delivered stays in the spool")
	} else if g := c.cfg.Shutdown.Grace; g < 0 || g > d {
		c.Wrong("shutdown.grace", fmt.Sprintf("%s is not between 0s and shutdown.deadline (%s)", g, d), "deliveries go on for the grace, and what is under way then has until the deadline")
	}
	if n := c.Nodes["sources"]; n == nil || len(n.Content) == 0 {
		c.Wrong("sources", "there is no source, so nothing would be read", "add one; configs/ has an example for each protocol")
	}
	if n := c.Nodes["sinks"]; n == nil || len(n.Content) == 0 {
		c.Wrong("sinks", "there is no sink, so nothing would be delivered", "add one; configs/ has an example for each")
	}
}

func (c *checker) metrics() {
	m := &c.cfg.Metrics
	if m.Listen == "" {
		return
	}
	host, port, err := net.SplitHostPort(m.Listen)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 && port != "0" {
		c.Wrong("metrics.listen", fmt.Sprintf("%q is not host:port", m.Listen), "write for example 127.0.0.1:9180")
		return
	}
	ip := net.ParseIP(host)
	if local := host == "localhost" || ip != nil && ip.IsLoopback(); !local && !m.Insecure {
		c.Wrong("metrics.listen", fmt.Sprintf("%s can be reached from other machines, without a password or encryption", m.Listen),
			"listen on 127.0.0.1, or write insecure: true beside it where the network is trusted")
	}
}

// Shapes returns the structs whose yaml keys a file may hold besides those of
// protocols and sinks, filled with the defaults, for a test that every key and
// its default is documented.
func Shapes() map[string]any {
	one := 1.0
	return map[string]any{
		"the file": defaults(), "a source": defaultSource(), "a sink": defaultSink(),
		"a tag":  fileTag{Scale: &one, MaxSilence: pipeline.DefaultMaxSilence},
		"a feed": fileFeed{}, "a device": fileDevice{}, "a target": defaultTarget(),
	}
}
