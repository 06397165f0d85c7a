package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"millrace/internal/strictyaml"
	"millrace/protocols"
	"millrace/sample"
)

// Target is one place that the mirror writes to, ready to be opened.
type Target struct {
	Name string
	// Class is MirrorTag or Setpoint.
	Class string
	// Mode is ModeOff, ModeDryRun or ModeArmed.
	Mode  string
	Feeds []string
	// Type is the kind of the target's values: Float64, Int64, Bool or String.
	Type sample.Kind
	Unit string
	// Min, Max and MaxStep bound a number, and are of the target's kind; nil is
	// no bound.
	Min, Max, MaxStep *sample.Value
	// Clamp brings a value that is out of range to the limit instead of refusing it.
	Clamp bool
	// MinInterval is the shortest time between two writes. MaxAge is how old a
	// result may be since it was computed, and StaleAfter how long none may come;
	// 0 is no bound.
	MinInterval, MaxAge, StaleAfter time.Duration
	// WhenStale is StaleMark, StaleHold or StaleFallback.
	WhenStale string
	// Fallback is of the target's kind, and nil but with StaleFallback.
	Fallback *sample.Value
	// Enable is the full name of the tag that must read true, or "", and
	// EnableMaxAge how old its reading may be; 0 is any age.
	Enable       string
	EnableMaxAge time.Duration
	// VerifyWithin is how long a written value may take to be read back.
	VerifyWithin time.Duration
	// Heartbeat is how often the target's counter counts; 0 is never.
	Heartbeat time.Duration
	// To is the source or device that is written to, Link the connection's
	// settings and Write the place there.
	To    string
	Link  protocols.Config
	Write protocols.TargetConfig
}

// The words of a target.
const (
	MirrorTag = "mirror_tag" // a tag that the SCADA logic may use
	Setpoint  = "setpoint"   // what the plant follows directly

	ModeOff    = "off"
	ModeDryRun = "dry_run" // everything but the write
	ModeArmed  = "armed"

	StaleMark     = "mark"     // the value stays and is marked as not valid
	StaleHold     = "hold"     // the value stays as it is
	StaleFallback = "fallback" // another value is written
)

// StatusTag is the tag that carries the target's outcomes.
func (t *Target) StatusTag(site string) string { return statusTag(site, t.Name) }

type fileTarget struct {
	Name         string        `yaml:"name"`
	Class        string        `yaml:"class"`
	Mode         string        `yaml:"mode"`
	Feeds        []string      `yaml:"feeds"`
	Type         string        `yaml:"type"`
	Unit         string        `yaml:"unit"`
	Min          *string       `yaml:"min"`
	Max          *string       `yaml:"max"`
	MaxStep      *string       `yaml:"max_step"`
	Clamp        bool          `yaml:"clamp"`
	MinInterval  time.Duration `yaml:"min_interval"`
	MaxAge       time.Duration `yaml:"max_age"`
	StaleAfter   time.Duration `yaml:"stale_after"`
	WhenStale    string        `yaml:"when_stale"`
	Fallback     *string       `yaml:"fallback"`
	Enable       string        `yaml:"enable"`
	EnableMaxAge time.Duration `yaml:"enable_max_age"`
	VerifyWithin time.Duration `yaml:"verify_within"`
	Heartbeat    time.Duration `yaml:"heartbeat"`
	Write        yaml.Node     `yaml:"write"`
}

// fileWrite is what every `write:` holds beside the protocol's keys.
type fileWrite struct {
	To string `yaml:"to"`
}

func defaultTarget() fileTarget {
	return fileTarget{
		Class: MirrorTag, Mode: ModeOff, MinInterval: time.Second, WhenStale: StaleMark, VerifyWithin: 2 * time.Second, Heartbeat: time.Second,
	}
}

// longest is the longest time that a target can name: results of a plant that
// are older are of no use.
const longest = 7 * 24 * time.Hour

func (c *checker) target(path string, n *yaml.Node) {
	raw := defaultTarget()
	c.Decode(n, path, reflect.ValueOf(&raw).Elem())
	if n.Kind != yaml.MappingNode || c.Exhausted() {
		return // reported
	}
	t := Target{
		Name: raw.Name, Class: raw.Class, Mode: raw.Mode, Feeds: raw.Feeds, Unit: raw.Unit, Clamp: raw.Clamp,
		MinInterval: raw.MinInterval, MaxAge: raw.MaxAge, StaleAfter: raw.StaleAfter, WhenStale: raw.WhenStale, Enable: raw.Enable,
		EnableMaxAge: raw.EnableMaxAge, VerifyWithin: raw.VerifyWithin, Heartbeat: raw.Heartbeat,
	}
	c.targetName(path, raw.Name)
	c.OneOf(path+".class", raw.Class, MirrorTag, Setpoint)
	c.OneOf(path+".mode", raw.Mode, ModeOff, ModeDryRun, ModeArmed)
	c.targetFeeds(path, &raw)
	switch raw.Type {
	case "":
		c.Wrong(path+".type", "is missing", "write float64, int64, bool or string: what the results bring")
	case "float64":
		t.Type = sample.Float64
	case "int64":
		t.Type = sample.Int64
	case "bool":
		t.Type = sample.Bool
	case "string":
		t.Type = sample.String
	default:
		c.OneOf(path+".type", raw.Type, "float64", "int64", "bool", "string")
	}
	if t.Type != sample.Null {
		c.targetLimits(path, &t, &raw)
		c.targetClass(path, &t)
	}
	c.targetTimes(path, &t)
	c.targetEnable(path, &t)
	c.targetWrite(path, &t, &raw.Write)
	c.cfg.Mirror.Targets = append(c.cfg.Mirror.Targets, t)
}

func (c *checker) targetName(path, name string) {
	c.name(path, name, "target")
	site := c.cfg.Gateway.Site
	if name == "" || site == "" {
		return
	}
	tag := statusTag(site, name)
	if err := sample.CheckTag(tag); err != nil {
		if sample.CheckName(name) == nil { // else reported
			c.Wrong(path+".name", err.Error(), "shorten it: it is part of the tag of its outcomes")
		}
	} else if first, ok := c.tags[tag]; ok {
		c.Wrong(path+".name", fmt.Sprintf("tag %s, which carries the target's outcomes, stands in line %d already (%s)", tag, c.At(first).Line, first), "rename one of them")
	}
}

func (c *checker) targetFeeds(path string, raw *fileTarget) {
	if len(raw.Feeds) == 0 {
		c.Wrong(path+".feeds", "there is no feed, so no result would ever come", "name one of mirror.feeds, as in feeds: [results]")
	}
	seen := map[string]bool{}
	for i, name := range raw.Feeds {
		at := fmt.Sprintf("%s.feeds[%d]", path, i)
		if !c.mirrors.feeds[name] {
			hint := "name one that stands under mirror.feeds:"
			if near := strictyaml.Nearest(name, sortedKeys(c.mirrors.feeds)); near != "" {
				hint = "did you mean " + near + "?"
			}
			c.Wrong(at, fmt.Sprintf("there is no feed %q", name), hint)
		} else if seen[name] {
			c.Wrong(at, fmt.Sprintf("feed %q stands here twice", name), "keep one of them")
		}
		seen[name] = true
	}
}

// number reads a limit in the target's kind: an int64 exactly, however large.
func (c *checker) number(path string, kind sample.Kind, text *string) *sample.Value {
	if text == nil {
		return nil
	}
	v, problem, hint := valueOf(kind, *text)
	if problem != "" {
		c.Wrong(path, problem, hint)
		return nil
	}
	return &v
}

// valueOf reads a value of a kind.
func valueOf(kind sample.Kind, text string) (v sample.Value, problem, hint string) {
	switch kind {
	case sample.Int64:
		i, err := strconv.ParseInt(text, 0, 64)
		if err != nil || strictyaml.LeadingZero(text) {
			return v, strictyaml.Quoted(text) + " is not a whole number, and the target is an int64", "write it without a point, unit or leading zeros"
		}
		return sample.IntValue(i), "", ""
	case sample.Bool:
		if text != "true" && text != "false" {
			return v, strictyaml.Quoted(text) + " is not true or false, and the target is a bool", ""
		}
		return sample.BoolValue(text == "true"), "", ""
	case sample.String:
		return sample.StringValue(text), "", ""
	case sample.Float64, sample.Null:
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return v, strictyaml.Quoted(text) + " is not a number", "write it as in 0.1 or -40"
	}
	return sample.FloatValue(f), "", ""
}

// exact reports whether a limit is the same as a float64, which the guards
// compare with: an int64 beyond 2^53 may not be.
func exact(v sample.Value) bool {
	if v.Kind() != sample.Int64 {
		return true
	}
	f := float64(v.Int())
	return f < 1<<63 && int64(f) == v.Int()
}

// less compares two values of one numeric kind, int64 exactly.
func less(a, b sample.Value) bool {
	if a.Kind() == sample.Int64 {
		return a.Int() < b.Int()
	}
	return a.Float() < b.Float()
}

func (c *checker) targetLimits(path string, t *Target, raw *fileTarget) {
	numeric := t.Type == sample.Float64 || t.Type == sample.Int64
	for _, l := range []struct {
		key  string
		text *string
		into **sample.Value
	}{{".min", raw.Min, &t.Min}, {".max", raw.Max, &t.Max}, {".max_step", raw.MaxStep, &t.MaxStep}} {
		if l.text != nil && !numeric {
			c.Wrong(path+l.key, "has no meaning for a "+t.Type.String(), "leave it out")
			continue
		}
		v := c.number(path+l.key, t.Type, l.text)
		if v != nil && !exact(*v) {
			f, _ := v.Number()
			if f >= 1<<63 { // which no int64 is
				f = math.Nextafter(f, 0)
			}
			c.Wrong(path+l.key, fmt.Sprintf("%s cannot be kept exactly as a limit", v), fmt.Sprintf("beyond 9007199254740992 take a neighbour that can, such as %.0f", f))
			continue
		}
		*l.into = v
	}
	if t.Min != nil && t.Max != nil && less(*t.Max, *t.Min) {
		c.Wrong(path+".min", fmt.Sprintf("min %s is above max %s", t.Min, t.Max), "exchange them")
	}
	if s := t.MaxStep; s != nil {
		if v, _ := s.Number(); v <= 0 {
			c.Wrong(path+".max_step", fmt.Sprintf("%s is not above 0, so no value could ever change", s), "write the largest change from one value to the next, or leave it out")
		}
	}
	if t.Clamp && (!numeric || raw.Min == nil && raw.Max == nil) {
		c.Wrong(path+".clamp", "has no meaning without min or max", "leave it out: what is out of range is refused then")
	}
	c.targetFallback(path, t, raw)
}

func (c *checker) targetFallback(path string, t *Target, raw *fileTarget) {
	c.OneOf(path+".when_stale", raw.WhenStale, StaleMark, StaleHold, StaleFallback)
	switch {
	case raw.WhenStale == StaleFallback && raw.Fallback == nil:
		c.Wrong(path+".fallback", "is missing, and when_stale is fallback", "write the value that is written when results stop")
		return
	case raw.WhenStale != StaleFallback && raw.Fallback != nil:
		c.Wrong(path+".fallback", "has no meaning without when_stale: fallback", "write when_stale: fallback beside it, or leave it out")
		return
	}
	v := c.number(path+".fallback", t.Type, raw.Fallback)
	if v == nil {
		return
	}
	if t.Min != nil && less(*v, *t.Min) || t.Max != nil && less(*t.Max, *v) {
		c.Wrong(path+".fallback", fmt.Sprintf("%s is not between min and max", v), "the fallback is held to the limits like every value")
		return
	}
	t.Fallback = v
}

// targetClass checks what a setpoint needs beyond a mirror tag.
func (c *checker) targetClass(path string, t *Target) {
	if t.Class != Setpoint {
		return
	}
	need := func(missing bool, key, hint string) {
		if missing && c.Nodes[path+"."+key] == nil {
			c.Wrong(path+"."+key, "is missing, and a setpoint needs it", hint)
		}
	}
	if t.Type == sample.Float64 || t.Type == sample.Int64 {
		need(t.Min == nil, "min", "write the least value that the plant may get")
		need(t.Max == nil, "max", "write the greatest value that the plant may get")
		need(t.MaxStep == nil, "max_step", "write the largest change from one value to the next")
	}
	need(t.MaxAge == 0, "max_age", "write how old a result may be, as in 15m")
	if c.mirrors.signature != Required {
		c.Wrong(path+".class", "a setpoint needs signed results, and mirror.signature is "+strictyaml.Quoted(c.mirrors.signature), "write signature: required, or class: mirror_tag")
	}
}

func (c *checker) targetTimes(path string, t *Target) {
	between := func(key string, d, least, most time.Duration, zero bool, hint string) {
		if zero && d == 0 || d >= least && d <= most {
			return
		}
		or := ""
		if zero {
			or = "0s or "
		}
		c.Wrong(path+"."+key, fmt.Sprintf("%s is not %sbetween %s and %s", d, or, least, most), hint)
	}
	between("min_interval", t.MinInterval, 100*time.Millisecond, 24*time.Hour, true, "of results that come faster the newest is written")
	between("max_age", t.MaxAge, time.Second, longest, t.Class != Setpoint || c.Nodes[path+".max_age"] == nil, "it is how old a result may be since it was computed")
	between("stale_after", t.StaleAfter, time.Second, longest, true, "it is how long no result may come; leave it out to go by valid_until of each result alone")
	between("verify_within", t.VerifyWithin, 100*time.Millisecond, time.Minute, false, "it is how long a written value may take to be read back; 2s is good")
	between("heartbeat", t.Heartbeat, 100*time.Millisecond, time.Minute, true, "1s is good; 0s is none")
	if t.StaleAfter > 0 && t.StaleAfter < t.MinInterval {
		c.Wrong(path+".stale_after", fmt.Sprintf("%s is shorter than min_interval (%s), so the value would be stale most of the time", t.StaleAfter, t.MinInterval), "write a time in which several results come")
	}
}

func (c *checker) targetEnable(path string, t *Target) {
	if t.Enable == "" {
		if t.EnableMaxAge != 0 {
			c.Wrong(path+".enable_max_age", "has no meaning without enable", "name the tag under enable, or leave it out")
		}
		return
	}
	if d := t.EnableMaxAge; d < 0 || d > 24*time.Hour {
		c.Wrong(path+".enable_max_age", fmt.Sprintf("%s is not between 0s and 24h", d), "a few times the scan rate of the tag is good")
	}
	if tag := c.configured(t.Enable); tag == nil {
		c.Wrong(path+".enable", fmt.Sprintf("there is no tag %s, so nothing would ever be written", t.Enable), c.nearTag(t.Enable))
	} else if !isBool(tag.Type) {
		c.Wrong(path+".enable", fmt.Sprintf("tag %s is of type %s, and it must read true or false", t.Enable, tag.Type), "name a tag of type bool: a coil, a discrete input or one bit of a register")
	}
}

// targetWrite decodes the part that belongs to the protocol, and looks that no
// two targets write the same place.
func (c *checker) targetWrite(path string, t *Target, n *yaml.Node) {
	path += ".write"
	const form = "write for example write: {to: meter1, address: \"holding:100\"}"
	if n.Kind == 0 || strictyaml.IsNull(n) {
		c.Wrong(path, "is missing, so nothing says where the values go", form)
		return
	}
	if n.Kind != yaml.MappingNode {
		c.Unreadable(n, path, "keys are expected here, not "+strictyaml.KindName(n), form)
		return
	}
	var own fileWrite
	pairs := c.Pairs(n, path)
	for _, p := range pairs { // it says which keys there are
		if p.Key.Value == "to" {
			c.Decode(p.Value, path+".to", reflect.ValueOf(&own.To).Elem())
		}
	}
	if own.To == "" {
		c.Wrong(path+".to", "is missing", "name a source, or one of mirror.devices")
		return
	}
	to := c.mirrors.to[own.To]
	if to == nil {
		hint := "name a source, or one of mirror.devices"
		if near := strictyaml.Nearest(own.To, sortedKeys(c.mirrors.to)); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.Wrong(path+".to", fmt.Sprintf("there is no source or device %q", own.To), hint)
		return
	}
	if to.config == nil {
		return // its type is reported
	}
	w, ok := to.config.(protocols.Writable)
	if !ok {
		c.Wrong(path+".to", fmt.Sprintf("%s is of type %s, which takes no values", to.what, to.typ), "types that do: "+strings.Join(c.writable(), ", "))
		return
	}
	t.To, t.Link, t.Write = own.To, to.config, w.NewTarget()
	c.Fields(pairs, path, reflect.ValueOf(&own).Elem(), reflect.ValueOf(t.Write).Elem())
	if d, ok := t.Write.(protocols.Described); ok {
		d.Describe(protocols.TargetInfo{Name: t.Name, Kind: t.Type, Unit: t.Unit})
	}
	if t.Type == sample.Null {
		return // its type is reported
	}
	faults := t.Write.Validate(t.Type)
	for _, f := range faults {
		c.Wrong(path+"."+f.Path, f.Problem, f.Hint)
	}
	if len(faults) > 0 || to.key == "" {
		return
	}
	at := to.key
	if l, ok := to.config.(protocols.Located); ok {
		at = l.Location()
	}
	for _, p := range t.Write.Places() {
		key := at + " " + p
		if first, ok := c.mirrors.places[key]; ok {
			if first != path {
				c.Wrong(path, fmt.Sprintf("%s of %s is written by %s too", p, to.what, strings.TrimSuffix(first, ".write")), "give each target a place of its own")
			}
			continue
		}
		c.mirrors.places[key] = path
	}
}

// writable lists the types of protocols that targets can write to.
func (c *checker) writable() (types []string) {
	for _, p := range c.registry.Protocols {
		if _, ok := p.NewConfig().(protocols.Writable); ok {
			types = append(types, p.Type())
		}
	}
	return types
}
