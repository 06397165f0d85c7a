package mqtt

import (
	"errors"
	"strconv"
	"time"

	"millrace/internal/strictjson"
	"millrace/protocols"
	"millrace/sample"
)

// typeOf is the type of payload that a kind of value has; auto for Null, where
// the kind is not known.
func typeOf(k sample.Kind) valueType {
	switch k {
	case sample.Float64:
		return typeFloat
	case sample.Int64:
		return typeInt
	case sample.Bool:
		return typeBool
	case sample.String:
		return typeString
	case sample.Null:
	}
	return typeAuto
}

// note is what a target's JSON message says.
type note struct {
	value      sample.Value
	valid      bool
	quality    sample.Quality
	time       time.Time
	version    uint64
	validUntil time.Time
}

func noteOf(c protocols.Command) note {
	return note{value: c.Value, valid: true, quality: c.Quality, time: c.Time, version: c.Version, validUntil: c.ValidUntil}
}

// append appends the message:
//
//	{"value":41.5,"valid":true,"quality":"Good","time":"2026-11-28T12:00:00Z","version":17,"valid_until":"2026-11-28T12:10:00Z"}
//
// A value that is not valid any more has quality Bad.
func (n note) append(b []byte) []byte {
	b = append(b, `{"value":`...)
	if n.value.Kind() == sample.String {
		b = sample.AppendJSONText(b, n.value.Str())
	} else {
		b = protocols.AppendPlain(b, n.value)
	}
	quality := n.quality
	if !n.valid && !quality.IsBad() {
		quality = sample.Bad
	}
	b = strconv.AppendBool(append(b, `,"valid":`...), n.valid)
	b = append(append(append(b, `,"quality":"`...), quality.String()...), '"')
	stamp := func(key string, t time.Time) {
		if !t.IsZero() {
			b = append(append(append(b, `,"`...), key...), `":"`...)
			b = append(t.UTC().AppendFormat(b, time.RFC3339Nano), '"')
		}
	}
	stamp("time", n.time)
	b = strconv.AppendUint(append(b, `,"version":`...), n.version, 10)
	stamp("valid_until", n.validUntil)
	return append(b, '}')
}

// parseNote reads such a message, or a device's confirmation with fewer
// members; others are let pass. The value is of the kind.
func parseNote(payload []byte, kind sample.Kind) (note, error) {
	n := note{valid: true}
	var d decoder
	d.reader.Reset(payload)
	r := &d.reader
	if err := r.OpenObject(); err != nil {
		return n, err
	}
	found := false
	for {
		name, more, err := r.Member()
		if err != nil {
			return n, err
		}
		if !more {
			break
		}
		switch string(name) {
		case "value":
			if found {
				return n, errors.New("the message has the value twice")
			}
			v, odd, broken := d.value(typeOf(kind))
			if err = errors.Join(broken, odd); broken != nil {
				err = broken
			}
			n.value, found = v, true
		case "valid":
			n.valid, err = r.Bool()
		case "quality":
			err = d.field(roleQuality)
		case "time":
			n.time, err = readTime(r)
		case "valid_until":
			n.validUntil, err = readTime(r)
		case "version":
			var lit []byte
			if lit, err = r.Number(); err == nil {
				n.version, err = strconv.ParseUint(string(lit), 10, 64)
			}
		default:
			err = r.Skip()
		}
		if err != nil {
			return n, err
		}
	}
	if err := r.End(); err != nil {
		return n, err
	}
	if n.quality = d.meta.quality; !n.valid && !n.quality.IsBad() {
		n.quality = sample.Bad
	}
	if !found {
		return n, errAbsent
	}
	return n, nil
}

func readTime(r *strictjson.Reader) (time.Time, error) {
	text, err := r.Text()
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strictjson.Time(text)
	return time.Unix(0, ns).UTC(), err
}
