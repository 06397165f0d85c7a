package http

import (
	"strconv"

	"millrace/internal/strictjson"
	"millrace/sample"
)

// senmlVersion is the version of SenML that is read: RFC 8428, 4.4.
const senmlVersion = 10

// relativeBelow is the number of seconds, 2^28, below which a time counts from
// now: RFC 8428, 4.5.3.
const relativeBelow = int64(1<<28) * 1e9

// base holds the base fields of a pack, which stay in force from record to
// record: RFC 8428, 4.1.
type base struct {
	name  []byte
	time  int64 // ns
	value sample.Value
}

// record is one record as it was read: RFC 8428, 4.2.
type record struct {
	name     []byte
	value    sample.Value
	isNumber bool
	time     int64 // ns
	values   int   // how many value fields it has
	based    bool  // it has base fields
	seen     uint
}

// The labels of a record: RFC 8428, 4.3, table 1.
var senmlLabels = map[string]uint{
	"bn": 0, "bt": 1, "bu": 2, "bv": 3, "bs": 4, "bver": 5,
	"n": 6, "u": 7, "v": 8, "vs": 9, "vb": 10, "vd": 11, "s": 12, "t": 13, "ut": 14,
}

// senml reads a SenML pack in JSON. now is the gateway's time, in ns. Units,
// update times and base sums are read past; sums and data are refused, since
// they would be lost.
func (d *decoder) senml(body []byte, now int64) ([]sample.Sample, []Fault) {
	d.reset(body)
	return d.finish(d.pack(now))
}

func (d *decoder) pack(now int64) error {
	if err := d.r.OpenArray(); err != nil {
		return err
	}
	var b base
	for {
		more, err := d.r.Element()
		if !more {
			d.index = -1
			return err
		}
		if err := d.next(); err != nil {
			return err
		}
		if d.r.Kind() != strictjson.Object {
			err = d.wrong("", "an object")
		} else {
			err = d.record(&b, now)
		}
		if err != nil {
			return err
		}
	}
}

func (d *decoder) record(b *base, now int64) error {
	if err := d.r.OpenObject(); err != nil {
		return err
	}
	var rec record
	for {
		label, more, err := d.r.Member()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		bit, known := senmlLabels[string(label)]
		if known {
			name := string(label)
			d.set(&rec.seen, bit, name)
			err = d.field(name, b, &rec)
		} else if len(label) > 0 && label[len(label)-1] == '_' {
			// Such a label must be understood or its record refused: 4.4.
			err = d.unknown(label, "a label that ends with _ must be understood")
		} else {
			err = d.r.Skip()
		}
		if err != nil {
			return err
		}
	}
	d.resolve(b, &rec, now)
	return nil
}

// field reads one label's value.
func (d *decoder) field(label string, b *base, rec *record) (err error) {
	switch label {
	case "bn":
		rec.based = true
		var text []byte
		if text, err = d.text(label); err == nil {
			b.name = append(b.name[:0], text...)
		}
	case "n":
		var text []byte
		if text, err = d.text(label); err == nil {
			rec.name = append(rec.name, text...)
		}
	case "bt":
		rec.based = true
		b.time, err = d.seconds(label)
	case "t":
		rec.time, err = d.seconds(label)
	case "bv":
		rec.based = true
		b.value, err = d.number(label)
	case "v":
		rec.values++
		rec.isNumber = true
		rec.value, err = d.number(label)
	case "vs":
		rec.values++
		var text []byte
		if text, err = d.text(label); err == nil {
			rec.value = sample.StringValue(string(text))
		}
	case "vb":
		rec.values++
		if d.r.Kind() != strictjson.Bool {
			return d.wrong(label, "a boolean")
		}
		var v bool
		v, err = d.r.Bool()
		rec.value = sample.BoolValue(v)
	case "vd", "s":
		d.fault(label, "data and sums are not taken: send v, vs or vb")
		err = d.r.Skip()
	case "bver":
		var v sample.Value
		if v, err = d.number(label); err == nil {
			if n, ok := v.Number(); ok && n != senmlVersion {
				d.fault(label, "version %s is not known, only %s", v, strconv.Itoa(senmlVersion))
			}
		}
		rec.based = true
	case "bu", "bs":
		rec.based = true
		err = d.r.Skip()
	default: // u, ut
		err = d.r.Skip()
	}
	return err
}

func (d *decoder) text(field string) ([]byte, error) {
	if d.r.Kind() != strictjson.String {
		return nil, d.wrong(field, "a string")
	}
	return d.r.Text()
}

func (d *decoder) number(field string) (sample.Value, error) {
	if d.r.Kind() != strictjson.Number {
		return sample.Value{}, d.wrong(field, "a number")
	}
	return d.value(field)
}

// seconds reads a number of seconds, in ns.
func (d *decoder) seconds(field string) (int64, error) {
	if d.r.Kind() != strictjson.Number {
		return 0, d.wrong(field, "a number")
	}
	lit, err := d.r.Number()
	if err != nil {
		return 0, err
	}
	ns, problem := strictjson.Nanos(lit, 1e9)
	if problem != nil {
		d.fault(field, "%v", problem)
	}
	return ns, nil
}

// resolve makes the sample of a record: RFC 8428, 4.6.
func (d *decoder) resolve(b *base, rec *record, now int64) {
	switch {
	case rec.values == 0 && rec.based && len(rec.name) == 0:
		return // base fields alone
	case rec.values != 1:
		if rec.seen&(1<<senmlLabels["vd"]|1<<senmlLabels["s"]) == 0 {
			d.fault("", "a record has one of v, vs and vb; this one has %s", strconv.Itoa(rec.values))
		}
		return
	}
	name := append(b.name[:len(b.name):len(b.name)], rec.name...)
	if !senmlName(name) {
		d.fault("n", "name %q is not one of SenML: letters, digits and -:./_, of which the first is a letter or digit", clip(name))
		return
	}
	s := sample.Sample{Tag: d.tag("n", name), Value: rec.value, Time: now}
	if rec.isNumber && b.value.Kind() != sample.Null {
		var ok bool
		if s.Value, ok = sum(b.value, rec.value); !ok {
			d.fault("v", "bv and v together are too large")
		}
	}
	at, ok := addInt(b.time, rec.time)
	if ok && at < relativeBelow {
		// Seconds from now are seconds on the gateway's clock, and move with it.
		s.Time, ok = addInt(now, at)
		at = 0
	}
	if !ok {
		d.fault("t", "bt and t together are out of range")
	}
	s.SourceTime = at
	d.samples = append(d.samples, s)
}

// senmlName checks a name that base and record make together: RFC 8428, 4.5.1.
func senmlName(name []byte) bool {
	for i, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '-' || c == ':' || c == '.' || c == '/' || c == '_'):
		default:
			return false
		}
	}
	return len(name) > 0
}

// sum adds two numbers; integers stay integers.
func sum(a, b sample.Value) (sample.Value, bool) {
	if a.Kind() == sample.Int64 && b.Kind() == sample.Int64 {
		n, ok := addInt(a.Int(), b.Int())
		return sample.IntValue(n), ok
	}
	x, _ := a.Number()
	y, _ := b.Number()
	f := x + y
	return sample.FloatValue(f), f-f == 0
}

func addInt(a, b int64) (int64, bool) {
	c := a + b
	return c, (c > a) == (b > 0)
}
