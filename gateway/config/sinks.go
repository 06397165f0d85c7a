package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"millrace/internal/bytesize"
	"millrace/internal/strictyaml"
	"millrace/uploader"
)

// Sink is one sink, ready to be opened.
type Sink struct {
	Name, Type string
	Kind       uploader.Kind
	Config     uploader.Config
	// BacklogShare is the part of the sink that the backlog has after an outage
	// while live blocks come too, above 0 and below 1.
	BacklogShare float64
	// MaxBandwidth caps what is sent; 0 is no cap.
	MaxBandwidth bytesize.Rate
}

type fileSink struct {
	Name         string        `yaml:"name"`
	Type         string        `yaml:"type"`
	BacklogShare percent       `yaml:"backlog_share"`
	MaxBandwidth bytesize.Rate `yaml:"max_bandwidth"`
}

// defaultSink is a sink in which nothing is set.
func defaultSink() fileSink { return fileSink{BacklogShare: 50} }

// percent is written as 50%.
type percent float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *percent) UnmarshalText(text []byte) error {
	digits, ok := strings.CutSuffix(string(text), "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if !ok || err != nil {
		return fmt.Errorf("%q is not a percentage, such as 50%%", text)
	}
	*p = percent(v)
	return nil
}

// String prints the percentage as it is written.
func (p percent) String() string { return strconv.FormatFloat(float64(p), 'f', -1, 64) + "%" }

// minBandwidth lets the largest block through within the time limit of a
// request, in bytes a second.
const minBandwidth = 32 * bytesize.KiB

func (c *checker) sink(i int, n *yaml.Node) {
	path := fmt.Sprintf("sinks[%d]", i)
	c.Nodes[path] = n
	if strictyaml.IsNull(n) {
		return // reported
	}
	if n.Kind != yaml.MappingNode {
		c.Unreadable(n, path, "keys are expected here, not "+strictyaml.KindName(n), "write - name: …, and type: … below it")
		return
	}
	raw := defaultSink()
	pairs := c.Pairs(n, path)
	for _, p := range pairs { // the type says which keys there are
		if p.Key.Value == "type" {
			c.Decode(p.Value, path+".type", reflect.ValueOf(&raw.Type).Elem())
		}
	}
	s := Sink{Type: raw.Type}
	var types []string
	for _, k := range c.registry.Sinks {
		types = append(types, k.Type())
		if k.Type() == raw.Type {
			s.Kind, s.Config = k, k.NewConfig()
		}
	}
	if s.Kind == nil {
		c.unknownType(path, raw.Type, types)
		return
	}
	c.Fields(pairs, path, reflect.ValueOf(&raw).Elem(), reflect.ValueOf(s.Config).Elem())
	s.Name, s.BacklogShare, s.MaxBandwidth = raw.Name, float64(raw.BacklogShare)/100, raw.MaxBandwidth
	c.name(path, raw.Name, "sink")
	if raw.BacklogShare < 1 || raw.BacklogShare > 99 {
		c.Wrong(path+".backlog_share", fmt.Sprintf("%s is not between 1%% and 99%%", raw.BacklogShare), "50% is good; neither live data nor the backlog may starve")
	}
	if raw.MaxBandwidth != 0 && raw.MaxBandwidth < bytesize.Rate(minBandwidth) {
		c.Wrong(path+".max_bandwidth", fmt.Sprintf("%s is less than %s/s", raw.MaxBandwidth, minBandwidth), "leave it out for no cap; below that a single large block takes longer than live data may be late")
	}
	for _, f := range s.Config.Validate() {
		c.Wrong(path+"."+f.Path, f.Problem, f.Hint)
	}
	c.cfg.Sinks = append(c.cfg.Sinks, s)
}
