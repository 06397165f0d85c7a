package config

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"millrace/gateway/pipeline"
	"millrace/internal/bytesize"
	"millrace/internal/strictyaml"
	"millrace/protocols"
	"millrace/sample"
)

func (c *checker) source(i int, n *yaml.Node) {
	path := fmt.Sprintf("sources[%d]", i)
	raw := defaultSource()
	c.Decode(n, path, reflect.ValueOf(&raw).Elem())
	if n.Kind != yaml.MappingNode || c.Exhausted() {
		return // reported
	}
	src := Source{
		Name: raw.Name, Type: raw.Type, Device: raw.Device, ScanRate: raw.ScanRate, Batch: raw.Batch, MaxTags: raw.MaxTags, WhenFull: raw.WhenFull,
	}
	c.name(path, raw.Name, "source")
	if src.Device == "" {
		src.Device = src.Name
	}
	if err := sample.CheckName(src.Device); err != nil && src.Name != "" {
		c.Wrong(path+".device", err.Error(), "it is the middle part of the tag names")
	}
	c.sourceLimits(path, &src)
	types := make([]string, 0, len(c.registry.Protocols))
	for _, p := range c.registry.Protocols {
		if _, none := p.NewConfig().(protocols.Sourceless); !none {
			types = append(types, p.Type())
		}
		if p.Type() == raw.Type {
			src.Protocol = p
		}
	}
	spec := &protocols.SourceConfig{Name: src.Name, Device: src.Device, ScanRate: src.ScanRate, MaxTags: src.MaxTags}
	for k := range raw.Tags {
		c.tag(fmt.Sprintf("%s.tags[%d]", path, k), &src, spec, &raw.Tags[k])
	}
	src.Spec = spec
	if src.Protocol == nil {
		c.unknownType(path, raw.Type, types)
	} else {
		c.connection(path, &src, &raw)
	}
	for k := range raw.Tags {
		c.counter(fmt.Sprintf("%s.tags[%d]", path, k), &src, &spec.Tags[k], &src.Tags[k], &raw.Tags[k])
	}
	c.cfg.Sources = append(c.cfg.Sources, src)
}

func (c *checker) sourceLimits(path string, src *Source) {
	if src.ScanRate < time.Millisecond || src.ScanRate > 24*time.Hour {
		c.Wrong(path+".scan_rate", fmt.Sprintf("%s is not between 1ms and 24h", src.ScanRate), "")
	}
	if src.Batch.MaxAge < c.cfg.Spool.CommitInterval || src.Batch.MaxAge > time.Hour {
		c.Wrong(path+".batch.max_age", fmt.Sprintf("%s is not between spool.commit_interval (%s) and 1h", src.Batch.MaxAge, c.cfg.Spool.CommitInterval), "60s is good; 5s costs about twice the bytes and ten times the requests")
	}
	if src.Batch.MaxBytes < bytesize.KiB || src.Batch.MaxBytes > 512*bytesize.KiB {
		c.Wrong(path+".batch.max_bytes", fmt.Sprintf("%s is not between 1KiB and 512KiB", src.Batch.MaxBytes), "180KiB is good; a DynamoDB item holds at most 400KB")
	}
	if src.MaxTags < 1 || src.MaxTags > 1_000_000 {
		c.Wrong(path+".max_tags", fmt.Sprintf("%d is not between 1 and 1000000", src.MaxTags), "")
	}
	c.OneOf(path+".when_full", src.WhenFull, DropOldest, Refuse, ThinOldest)
}

// name checks the name of a source or sink against those before it.
func (c *checker) name(path, name, what string) {
	if name == "" {
		c.Wrong(path+".name", "is missing", "each "+what+" needs a name of its own")
		return
	}
	if err := sample.CheckName(name); err != nil {
		c.Wrong(path+".name", err.Error(), "use letters, digits, - and _")
	}
	if first, ok := c.names[what+" "+name]; ok {
		c.Wrong(path+".name", fmt.Sprintf("%s %q stands in line %d already", what, name, c.At(first).Line), "give each a name of its own")
		return
	}
	c.names[what+" "+name] = path + ".name"
}

func (c *checker) unknownType(path, typ string, known []string) {
	if typ == "" {
		c.Wrong(path+".type", "is missing", "known types: "+strings.Join(known, ", "))
		return
	}
	hint := "known types: " + strings.Join(known, ", ")
	if near := strictyaml.Nearest(typ, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	c.Wrong(path+".type", fmt.Sprintf("there is no type %q", typ), hint)
}

// connection decodes and validates the part that belongs to the protocol.
func (c *checker) connection(path string, src *Source, raw *fileSource) {
	src.Connection = src.Protocol.NewConfig()
	if s, ok := src.Connection.(protocols.Sourceless); ok {
		c.Wrong(path+".type", fmt.Sprintf("%s has no source: nothing can be read from it", src.Type), "put it under mirror.devices:"+map[bool]string{true: ", where it shows tags and targets"}[s.Serves()])
		return
	}
	if raw.Connection.Kind != 0 {
		c.Decode(&raw.Connection, path+".connection", reflect.ValueOf(src.Connection).Elem())
	}
	faults := src.Connection.Validate(src.Spec)
	for _, f := range faults {
		c.Wrong(path+"."+f.Path, f.Problem, f.Hint)
	}
	if len(faults) > 0 {
		return
	}
	c.keys[src.Name] = c.link(path, src.Connection, false)
}

// link checks a connection against the others of the same link, and returns the
// link's key. A server is one connection and is not shared.
func (c *checker) link(path string, conn protocols.Config, server bool) string {
	key := conn.LinkKey()
	if first, ok := c.links[key]; !ok {
		c.links[key] = link{path + ".connection", conn}
	} else if server {
		c.Wrong(path+".connection", fmt.Sprintf("%s is that of %s already", key, first.path), "let one device show the tags and targets of both, or give each an address of its own")
	} else if !reflect.DeepEqual(first.config, conn) {
		c.Wrong(path+".connection", fmt.Sprintf("%s is the link of %s too, with other settings", key, first.path), "sources that share a link need the same connection settings")
	}
	return key
}

func (c *checker) tag(path string, src *Source, spec *protocols.SourceConfig, raw *fileTag) {
	site := c.cfg.Gateway.Site
	if site == "" {
		site = "SITE" // reported already
	}
	full := sample.JoinTag(site, src.Device, raw.Name)
	if raw.Name == "" {
		c.Wrong(path+".name", "is missing", "write the name that readers of the data will see")
	} else if err := sample.CheckTag(full); err != nil && src.Device != "" {
		c.Wrong(path+".name", err.Error(), "write name, or device/name")
	} else if first, ok := c.tags[full]; ok {
		c.Wrong(path+".name", fmt.Sprintf("tag %s stands in line %d already (%s)", full, c.At(first).Line, first), "give each a name of its own")
	} else {
		c.tags[full] = path + ".name"
	}
	t := Tag{Name: full, Address: raw.Address, Type: raw.Type, Unit: raw.Unit, Description: raw.Description, Urgent: raw.Urgent, Counter: raw.Counter}
	r := pipeline.Rule{Scale: 1, Offset: raw.Offset, Deadband: raw.Deadband, MaxSilence: raw.MaxSilence}
	if raw.Scale != nil {
		r.Scale = *raw.Scale
		if r.Scale == 0 {
			c.Wrong(path+".scale", "0 would make every value 0", "leave it out for 1")
		}
	}
	if raw.Min != nil {
		r.HasMin, r.Min = true, *raw.Min
	}
	if raw.Max != nil {
		r.HasMax, r.Max = true, *raw.Max
	}
	if r.HasMin && r.HasMax && r.Min > r.Max {
		c.Wrong(path+".min", fmt.Sprintf("min %v is above max %v", r.Min, r.Max), "exchange them")
	}
	if raw.MaxSilence < 0 || raw.MaxSilence > 24*time.Hour {
		c.Wrong(path+".max_silence", fmt.Sprintf("%s is not between 0s and 24h", raw.MaxSilence), "")
	}
	if raw.MaxSilence > 0 && raw.Deadband.Kind == pipeline.NoDeadband {
		c.Wrong(path+".max_silence", "has no meaning without a deadband: every sample is reported", "add a deadband, or leave it out")
	}
	if raw.ScanRate < 0 || raw.ScanRate > 24*time.Hour || raw.ScanRate > 0 && raw.ScanRate < time.Millisecond {
		c.Wrong(path+".scan_rate", fmt.Sprintf("%s is not between 1ms and 24h", raw.ScanRate), "leave it out for the source's")
	}
	scaled := r.Scale != 1 || r.Offset != 0
	if numeric := scaled || r.HasMin || r.HasMax || raw.Deadband.Kind != pipeline.NoDeadband; numeric && (raw.Type == "string" || raw.Type == "bool" && raw.Deadband.Kind == pipeline.NoDeadband) {
		c.Wrong(path+".type", "scale, offset, min, max and deadband have no meaning for a "+raw.Type, "leave them out")
	}
	t.Rule = r
	src.Tags = append(src.Tags, t)
	spec.Tags = append(spec.Tags, protocols.Tag{
		Name: full, Address: raw.Address, Type: raw.Type, Length: raw.Length, Order: raw.Order, ScanRate: raw.ScanRate, Scaled: scaled,
		Unit: raw.Unit, Description: raw.Description,
	})
}

// counter finds where a counter starts again: as the file says, else at the end
// of what its type holds on the device.
func (c *checker) counter(path string, src *Source, spec *protocols.Tag, t *Tag, raw *fileTag) {
	if raw.Counter && (raw.Type == "string" || raw.Type == "bool") {
		c.Wrong(path+".counter", "has no meaning for a "+raw.Type, "leave it out")
		return
	}
	limit := 0.0 // of the type, in the tag's unit
	if s, ok := src.Connection.(protocols.Spanned); ok && t.Rule.Scale > 0 && t.Rule.Offset == 0 {
		raw, state := sample.Sample{Value: sample.FloatValue(s.Highest(spec))}, pipeline.NewState(&pipeline.Rule{Scale: t.Rule.Scale})
		state.Apply(&raw)
		limit = raw.Value.Float()
	}
	if raw.CounterMax == nil {
		if raw.Counter {
			t.CounterMax = limit
		}
		return
	}
	t.CounterMax = *raw.CounterMax
	switch {
	case !raw.Counter:
		c.Wrong(path+".counter_max", "has no meaning without counter: true", "add it, or leave counter_max out; the bound of a measurement is max")
	case !(t.CounterMax > 0) || t.CounterMax > math.MaxFloat64:
		c.Wrong(path+".counter_max", fmt.Sprintf("%v is not above 0", t.CounterMax), "write the highest reading before the meter starts again at 0, in the tag's unit: 999999")
	case t.Rule.Offset != 0:
		c.Wrong(path+".counter_max", "a counter with an offset starts again at the offset, and not at 0", "leave out one of the two")
	case limit > 0 && t.CounterMax > limit:
		c.Wrong(path+".counter_max", fmt.Sprintf("%v is more than the type holds, which is %v in the tag's unit", t.CounterMax, limit), "leave it out: the counter starts again after what its type holds")
	}
}
