package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/strictjson"
	"millrace/protocols"
	"millrace/sample"
)

// point is one tag that a topic feeds.
type point struct {
	tag    string
	typ    valueType
	form   string // payloadAuto, payloadValue or payloadJSON; empty for a path
	absent bool   // the last document did not have its path
}

// route is what is done with the messages of one topic.
type route struct {
	points   []point
	envelope *node // of points whose form is auto or json
	paths    *node // of points with a path; nil where there is none
	dynamic  bool
	seen     bool // a dynamic route gave a value
	producer string

	bad        bool  // the last message could not be read
	unread     int   // how many of them in a row
	refused    bool  // the gateway refuses its tag
	refusedTil int64 // until then it is not asked again, in ns
}

// router finds the route of each topic. It serves one goroutine.
type router struct {
	cfg      *Config
	site     string
	src      *protocols.SourceConfig
	log      *slog.Logger
	dec      decoder
	routes   map[string]*route
	topics   []dynamicTopic
	most     int // routes that dynamic topics may make
	made     int
	overflow bool
	unrouted int
}

// dynamicTopic is a parsed Topic.
type dynamicTopic struct {
	filter string
	name   *template
	form   string
	path   []string
	typ    valueType
}

var timeUnits = map[string]int64{"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1}

// newRouter compiles a configuration that Validate has found good.
func newRouter(cfg *Config, site string, src *protocols.SourceConfig, log *slog.Logger) (*router, error) {
	r := &router{cfg: cfg, site: site, src: src, log: log, routes: map[string]*route{}}
	r.dec.unit = timeUnits[cfg.TimeFormat]
	// Several topics may feed one tag, so there may be more of them.
	r.most = 4*src.MaxTags + 1000
	for i := range src.Tags {
		t := &src.Tags[i]
		topic, path, err := parseAddress(t.Address)
		if err != nil {
			return nil, err
		}
		typ, err := parseType(t.Type)
		if err != nil {
			return nil, err
		}
		rt := r.routes[topic]
		if rt == nil {
			rt = &route{}
			r.routes[topic] = rt
		}
		p := point{tag: t.Name, typ: typ}
		if path == nil {
			p.form = cfg.Payload
			path = []string{"value"}
		}
		if err := r.attach(rt, p, path); err != nil {
			return nil, err
		}
	}
	for i := range cfg.Topics {
		t := &cfg.Topics[i]
		name, err := parseTemplate(t.Tag)
		if err != nil {
			return nil, err
		}
		typ, err := parseType(t.Type)
		if err != nil {
			return nil, err
		}
		d := dynamicTopic{filter: unshared(t.Filter), name: name, form: t.Payload, typ: typ, path: []string{"value"}}
		if d.form == "" {
			d.form = cfg.Payload
		}
		if t.Path != "" {
			if d.path, err = parsePath(t.Path); err != nil {
				return nil, err
			}
			d.form = ""
		}
		r.topics = append(r.topics, d)
	}
	return r, nil
}

// attach adds a point to a route, with its place in the documents.
func (r *router) attach(rt *route, p point, path []string) error {
	rt.points = append(rt.points, p)
	tree := &rt.paths
	if p.form != "" {
		tree = &rt.envelope
	}
	if *tree == nil {
		*tree = &node{}
		if err := r.addFields(*tree, p.form != ""); err != nil {
			return err
		}
	}
	(*tree).add(path, target{role: roleValue, point: len(rt.points) - 1})
	return nil
}

// addFields adds to a tree where time, quality, seq and producer stand.
func (r *router) addFields(tree *node, envelope bool) error {
	if envelope {
		tree.add([]string{"time"}, target{role: roleTime})
		tree.add([]string{"ts"}, target{role: roleTime})
		tree.add([]string{"quality"}, target{role: roleQuality})
		tree.add([]string{"seq"}, target{role: roleSeq})
		tree.add([]string{"producer"}, target{role: roleProducer})
		return nil
	}
	for _, f := range []struct {
		path string
		role role
	}{{r.cfg.TimePath, roleTime}, {r.cfg.QualityPath, roleQuality}, {r.cfg.SeqPath, roleSeq}, {r.cfg.ProducerPath, roleProducer}} {
		if f.path == "" {
			continue
		}
		path, err := parsePath(f.path)
		if err != nil {
			return err
		}
		tree.add(path, target{role: f.role})
	}
	return nil
}

// names returns the topics of the configured tags.
func (r *router) names() []string {
	var names []string
	for i := range r.src.Tags {
		if topic, _, err := parseAddress(r.src.Tags[i].Address); err == nil {
			names = append(names, topic)
		}
	}
	return names
}

// find returns the route of a topic, nil where there is none.
func (r *router) find(topic string) *route {
	if rt, ok := r.routes[topic]; ok {
		return rt
	}
	for i := range r.topics {
		d := &r.topics[i]
		if !matches(d.filter, topic) {
			continue
		}
		if r.made >= r.most {
			if !r.overflow {
				r.overflow = true
				r.log.Warn("there are more topics than this source may have; messages of new ones are not taken: narrow connection.topics or raise max_tags",
					"topics", r.made, "topic", topic)
			}
			return nil
		}
		rt := &route{dynamic: true}
		device := r.src.Device
		if device == "" {
			device = r.src.Name
		}
		tag, err := d.name.tag(r.site, device, topic)
		if err == nil {
			err = r.attach(rt, point{tag: tag, typ: d.typ, form: d.form}, d.path)
		}
		if err != nil {
			r.log.Warn("a topic makes no tag name; its messages are not taken: set tag of this filter", "topic", topic, "filter", d.filter, "error", err)
			rt = nil
		}
		r.made++
		r.routes[topic] = rt
		return rt
	}
	if r.unrouted++; r.unrouted == 1 {
		r.log.Warn("a message came for a topic that is not configured; such messages are dropped: the broker still has a subscription of an earlier configuration, set another client_id to be rid of it",
			"topic", topic)
	}
	return nil
}

// decode appends the samples of a message. at is the gateway's time in ns.
func (r *router) decode(topic string, payload []byte, retained bool, at int64, out []sample.Sample) []sample.Sample {
	if retained && r.cfg.Retained == retainedIgnore {
		return out
	}
	rt := r.find(topic)
	if rt == nil || at < rt.refusedTil {
		return out
	}
	start := len(out)
	out, err := r.read(rt, topic, payload, at, out)
	if retained {
		// A retained message tells the last value, not when it was measured.
		for i := start; i < len(out); i++ {
			if out[i].SourceTime == 0 && out[i].Quality.IsGood() {
				out[i].Quality = sample.UncertainLastUsableValue
			}
		}
	}
	r.note(rt, topic, err)
	if err != nil && rt.dynamic && !rt.seen {
		return out[:start] // no tag is made for what never had a value
	}
	rt.seen = rt.seen || err == nil
	return out
}

// note logs a change between messages that can be read and that cannot.
func (r *router) note(rt *route, topic string, err error) {
	switch {
	case err != nil:
		if rt.unread++; !rt.bad {
			rt.bad = true
			r.log.Warn("a message cannot be read; its tags are Bad until one can", "topic", topic, "error", err)
		}
	case rt.bad:
		r.log.Info("messages can be read again", "topic", topic, "unreadable", rt.unread)
		rt.bad, rt.unread = false, 0
	}
}

// asObject reports whether a point takes a payload as a JSON object with value,
// time and the rest. Text that starts with a brace is neither a number nor a
// boolean, so auto is no guess there.
func (p *point) asObject(isObject bool) bool {
	return p.form == payloadJSON || p.form == payloadAuto && isObject && p.typ != typeString
}

func (r *router) read(rt *route, topic string, payload []byte, at int64, out []sample.Sample) ([]sample.Sample, error) {
	var problem error
	isObject := firstByte(payload) == '{'
	objects := false
	for i := range rt.points {
		p := &rt.points[i]
		switch {
		case p.form == "":
		case p.asObject(isObject):
			objects = true
		default:
			s := sample.Sample{Tag: p.tag, Time: at}
			var err error
			if s.Value, err = plain(payload, p.typ); err != nil {
				problem = err
				s.Quality = qualityOf(err)
			}
			out = append(out, s)
		}
	}
	if objects {
		var err error
		if out, err = r.document(rt, rt.envelope, isObject, topic, payload, at, out); err != nil {
			problem = err
		}
	}
	if rt.paths != nil {
		var err error
		if out, err = r.document(rt, rt.paths, isObject, topic, payload, at, out); err != nil {
			problem = err
		}
	}
	return out, problem
}

// document reads the points of one tree from a JSON document.
func (r *router) document(rt *route, tree *node, isObject bool, topic string, payload []byte, at int64, out []sample.Sample) ([]sample.Sample, error) {
	problem := r.dec.document(payload, tree, rt.points)
	broken := problem != nil
	for i := range rt.points {
		p := &rt.points[i]
		switch inPaths := p.form == ""; {
		case inPaths != (tree == rt.paths), !inPaths && !p.asObject(isObject):
		case broken:
			out = append(out, sample.Sample{Tag: p.tag, Quality: qualityOf(problem), Time: at})
		default:
			s, take, err := r.sample(rt, p, &r.dec.found[i], topic, at)
			if err != nil {
				problem = err
			}
			if take {
				out = append(out, s)
			}
		}
	}
	return out, problem
}

func firstByte(b []byte) byte {
	if b = bytes.TrimLeft(b, " \t\r\n"); len(b) > 0 {
		return b[0]
	}
	return 0
}

// refuseFor is how long a message that the gateway refuses for good keeps the
// topic's later ones from being offered: each refusal costs the batch it is in
// several commits.
const refuseFor = time.Minute

// refuse notes that the gateway will never take a message of the topic.
func (r *router) refuse(topic string, at int64, err error) {
	rt := r.routes[topic]
	if rt == nil {
		return
	}
	rt.refusedTil = at + int64(refuseFor)
	if !rt.refused {
		rt.refused = true
		r.log.Warn("the gateway refuses a topic's messages; they are acknowledged and dropped, and one is tried again each minute", "topic", topic, "error", err)
	}
}

var errTooLarge = errors.New("it is larger than connection.max_message")

// large appends the samples of a message whose payload was too large.
func (r *router) large(topic string, at int64, out []sample.Sample) []sample.Sample {
	rt := r.find(topic)
	if rt == nil {
		return out
	}
	r.note(rt, topic, errTooLarge)
	for i := range rt.points {
		if !rt.dynamic || rt.seen {
			out = append(out, sample.Sample{Tag: rt.points[i].tag, Quality: sample.BadOutOfRange, Time: at})
		}
	}
	return out
}

var errAbsent = errors.New("the document does not have the value")

// sample makes the sample of one point of a document.
func (r *router) sample(rt *route, p *point, f *found, topic string, at int64) (s sample.Sample, take bool, err error) {
	m := &r.dec.meta
	s = sample.Sample{Tag: p.tag, Value: f.value, Quality: m.quality, Time: at, SourceTime: m.time}
	if len(m.producer) > 0 && m.has[roleSeq] {
		if rt.producer != string(m.producer) {
			rt.producer = string(m.producer)
		}
		s.Producer, s.Seq = rt.producer, m.seq
	}
	absent := f.times == 0
	if absent != p.absent {
		p.absent = absent
		if absent && r.cfg.Missing == missingSkip {
			r.log.Info("a document comes without the value of a tag", "topic", topic, "tag", p.tag)
		}
	}
	switch {
	case absent && m.quality.IsBad():
		// The device says by itself that it has no value.
	case absent && r.cfg.Missing == missingSkip && p.form == "":
		return s, false, nil
	case absent:
		err = fmt.Errorf("tag %s: %w", p.tag, errAbsent)
	case f.times > 1:
		err = fmt.Errorf("tag %s: the document has the value twice", p.tag)
	case f.err != nil:
		err = fmt.Errorf("tag %s: %w", p.tag, f.err)
	case f.value.Kind() == sample.Null && !m.quality.IsBad():
		s.Quality = sample.Bad
	}
	if err != nil {
		s.Quality = qualityOf(err)
	}
	if s.Quality.IsBad() {
		s.Value = sample.Value{}
	}
	return s, true, err
}

// qualityOf returns the quality of what could not be read.
func qualityOf(err error) sample.Quality {
	if errors.Is(err, strictjson.ErrRange) {
		return sample.BadOutOfRange
	}
	return sample.BadTypeMismatch
}
