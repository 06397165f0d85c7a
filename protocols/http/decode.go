package http

import (
	"errors"
	"fmt"
	"strconv"

	"millrace/internal/strictjson"
	"millrace/protocols"
	"millrace/sample"
)

// maxFaults is how many faults of one body are told.
const maxFaults = 100

// Fault is one thing that is wrong with a body.
type Fault struct {
	// Index is the sample's place in the body, from 0; -1 for the body itself.
	Index   int    `json:"index"`
	Field   string `json:"field,omitempty"`
	Problem string `json:"problem"`
}

// decoder turns a body into samples. It keeps its memory from body to body and
// serves one request at a time.
type decoder struct {
	names   *names
	most    int               // samples in a body
	tags    map[string]string // names that were seen, and their full names
	r       strictjson.Reader
	samples []sample.Sample
	faults  []Fault
	index   int
}

// maxKnown bounds the names that a decoder remembers.
const maxKnown = 10000

func newDecoder(n *names, most int) *decoder {
	return &decoder{names: n, most: most, tags: map[string]string{}}
}

func (d *decoder) reset(body []byte) {
	d.r.Reset(body)
	d.samples, d.faults, d.index = d.samples[:0], nil, -1
}

func (d *decoder) fault(field, format string, args ...any) {
	if len(d.faults) < maxFaults {
		d.faults = append(d.faults, Fault{Index: d.index, Field: field, Problem: fmt.Sprintf(format, args...)})
	}
}

// finish returns the samples, or what is wrong with the body: all of it, or up
// to where it stops being JSON.
func (d *decoder) finish(err error) ([]sample.Sample, []Fault) {
	if err == nil {
		err = d.r.End()
	}
	if err != nil {
		d.fault("", "%v", err)
	}
	if len(d.samples) == 0 && len(d.faults) == 0 {
		d.index = -1
		d.fault("", "there are no samples")
	}
	if len(d.faults) > 0 {
		return nil, d.faults
	}
	return d.samples, nil
}

// errTooMany ends the reading of a body.
var errTooMany = errors.New("too many samples in one body")

func (d *decoder) next() error {
	d.index++
	if d.index >= d.most {
		return fmt.Errorf("%w: the most is %d", errTooMany, d.most)
	}
	return nil
}

// tag returns the full tag name. Names come again and again, so they are
// remembered.
func (d *decoder) tag(field string, name []byte) string {
	if full, ok := d.tags[string(name)]; ok {
		return full
	}
	full, err := d.names.full(name)
	if err != nil {
		d.fault(field, "%v", err)
		return ""
	}
	if len(d.tags) < maxKnown {
		d.tags[string(name)] = full
	}
	return full
}

// set marks a member as seen. It reports a fault when it was seen before.
func (d *decoder) set(seen *uint, bit uint, field string) {
	if *seen&(1<<bit) != 0 {
		d.fault(field, "it stands twice")
	}
	*seen |= 1 << bit
}

// wrong reports a value of the wrong kind and goes past it.
func (d *decoder) wrong(field, want string) error {
	d.fault(field, "it is %s, not %s", d.r.Kind(), want)
	return d.r.Skip()
}

// The members of a body and of its samples.
const (
	memberProducer = iota
	memberSamples
	memberTag
	memberValue
	memberTime
	memberSeq
	memberQuality
)

// json reads {"producer": "...", "samples": [{"tag", "value", "time", "seq",
// "quality"}]}. now is the gateway's time, in ns.
func (d *decoder) json(body []byte, now int64) ([]sample.Sample, []Fault) {
	d.reset(body)
	return d.finish(d.body(now))
}

func (d *decoder) body(now int64) error {
	if err := d.r.OpenObject(); err != nil {
		return err
	}
	var seen uint
	producer := ""
	for {
		name, more, err := d.r.Member()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch string(name) {
		case "producer":
			d.set(&seen, memberProducer, "producer")
			if producer, err = d.producer(); err != nil {
				return err
			}
		case "samples":
			d.set(&seen, memberSamples, "samples")
			if d.r.Kind() != strictjson.Array {
				err = d.wrong("samples", "an array")
			} else {
				err = d.list(now)
			}
			if err != nil {
				return err
			}
			d.index = -1
		default:
			if err := d.unknown(name, "a body has producer and samples"); err != nil {
				return err
			}
		}
	}
	if seen&(1<<memberSamples) == 0 {
		d.fault("samples", "it is missing")
	}
	d.identify(producer)
	return nil
}

// identify gives the samples their producer, without which a seq means nothing.
func (d *decoder) identify(producer string) {
	for i := range d.samples {
		s := &d.samples[i]
		if s.Producer == "" {
			continue // it has no seq
		}
		if producer == "" {
			d.index = i
			d.fault("seq", "a seq counts within a producer, and the body has no producer")
			return
		}
		s.Producer = producer
	}
}

// hasSeq stands in a sample's Producer until the body's producer is known.
const hasSeq = "?"

func (d *decoder) producer() (string, error) {
	if d.r.Kind() != strictjson.String {
		return "", d.wrong("producer", "a string")
	}
	text, err := d.r.Text()
	if len(text) > sample.MaxTagBytes {
		d.fault("producer", "it is longer than %d bytes", sample.MaxTagBytes)
		return "", err
	}
	return string(text), err
}

func (d *decoder) unknown(name []byte, hint string) error {
	d.fault(clip(name), "it is not known: %s", hint)
	return d.r.Skip()
}

func (d *decoder) list(now int64) error {
	if err := d.r.OpenArray(); err != nil {
		return err
	}
	for {
		more, err := d.r.Element()
		if !more {
			return err
		}
		if err := d.next(); err != nil {
			return err
		}
		if d.r.Kind() != strictjson.Object {
			err = d.wrong("", "an object")
		} else {
			err = d.sample(now)
		}
		if err != nil {
			return err
		}
	}
}

func (d *decoder) sample(now int64) error {
	if err := d.r.OpenObject(); err != nil {
		return err
	}
	s := sample.Sample{Time: now}
	var seen uint
	for {
		name, more, err := d.r.Member()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch string(name) {
		case "tag":
			d.set(&seen, memberTag, "tag")
			if d.r.Kind() != strictjson.String {
				err = d.wrong("tag", "a string")
				break
			}
			var text []byte
			if text, err = d.r.Text(); err == nil {
				s.Tag = d.tag("tag", text)
			}
		case "value":
			d.set(&seen, memberValue, "value")
			s.Value, err = d.value("value")
		case "time":
			d.set(&seen, memberTime, "time")
			s.SourceTime, err = d.time()
		case "seq":
			d.set(&seen, memberSeq, "seq")
			if s.Seq, err = d.seq(); err == nil {
				s.Producer = hasSeq
			}
		case "quality":
			d.set(&seen, memberQuality, "quality")
			s.Quality, err = d.quality()
		default:
			err = d.unknown(name, "a sample has tag, value, time, seq and quality")
		}
		if err != nil {
			return err
		}
	}
	if seen&(1<<memberTag) == 0 {
		d.fault("tag", "it is missing")
	}
	d.judge(&s, seen&(1<<memberValue) != 0, seen&(1<<memberQuality) != 0)
	d.samples = append(d.samples, s)
	return nil
}

// judge holds value and quality against each other: what is Bad has no value,
// and what has no value is Bad.
func (d *decoder) judge(s *sample.Sample, hasValue, hasQuality bool) {
	switch {
	case s.Quality.IsBad():
		s.Value = sample.Value{}
	case s.Value.Kind() != sample.Null:
	case !hasValue:
		d.fault("value", "it is missing, and the quality is not Bad")
	case hasQuality:
		d.fault("value", "it is null, and the quality is not Bad")
	default:
		s.Quality = sample.Bad
	}
}

// notNull stands for a value whose fault is told already.
var notNull = sample.BoolValue(false)

func (d *decoder) value(field string) (sample.Value, error) {
	switch d.r.Kind() {
	case strictjson.Null:
		return sample.Value{}, d.r.Null()
	case strictjson.Bool:
		b, err := d.r.Bool()
		return sample.BoolValue(b), err
	case strictjson.Number:
		lit, err := d.r.Number()
		if err != nil {
			return sample.Value{}, err
		}
		v, problem := protocols.NumberOf(lit)
		if problem != nil {
			d.fault(field, "%s: %v", clip(lit), problem)
			return notNull, nil
		}
		return v, nil
	case strictjson.String:
		text, err := d.r.Text()
		return sample.StringValue(string(text)), err
	}
	return notNull, d.wrong(field, "a number, a boolean, a string or null")
}

// time reads an RFC 3339 string or milliseconds since the Unix epoch.
func (d *decoder) time() (int64, error) {
	var ns int64
	var problem error
	switch d.r.Kind() {
	case strictjson.Null:
		return 0, d.r.Null()
	case strictjson.String:
		text, err := d.r.Text()
		if err != nil {
			return 0, err
		}
		ns, problem = strictjson.Time(text)
	case strictjson.Number:
		lit, err := d.r.Number()
		if err != nil {
			return 0, err
		}
		ns, problem = strictjson.Nanos(lit, 1e6)
	default:
		return 0, d.wrong("time", "an RFC 3339 string or a number of milliseconds since 1970")
	}
	if problem != nil {
		d.fault("time", "%v", problem)
	}
	return ns, nil
}

func (d *decoder) seq() (uint64, error) {
	if d.r.Kind() != strictjson.Number {
		return 0, d.wrong("seq", "a number")
	}
	lit, err := d.r.Number()
	if err != nil {
		return 0, err
	}
	n, problem := strconv.ParseUint(string(lit), 10, 64)
	if problem != nil {
		d.fault("seq", "%s is not an integer from 0 to 18446744073709551615", clip(lit))
	}
	return n, nil
}

func (d *decoder) quality() (sample.Quality, error) {
	var q sample.Quality
	var problem error
	switch d.r.Kind() {
	case strictjson.Null:
		return 0, d.r.Null()
	case strictjson.String:
		text, err := d.r.Text()
		if err != nil {
			return 0, err
		}
		q, problem = protocols.QualityOfName(text)
	case strictjson.Number:
		lit, err := d.r.Number()
		if err != nil {
			return 0, err
		}
		q, problem = protocols.QualityOfCode(lit)
	default:
		return 0, d.wrong("quality", "a string or a number")
	}
	if problem != nil {
		d.fault("quality", "%v", problem)
	}
	return q, nil
}
