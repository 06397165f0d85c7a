package mqtt

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

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

// fit returns a value as one of the kind, exactly.
func fit(v sample.Value, kind sample.Kind) (sample.Value, error) {
	switch {
	case v.Kind() == sample.Null:
		return v, errors.New("null cannot be written")
	case v.Kind() == sample.Float64 && v.Float()-v.Float() != 0:
		return v, errors.New("NaN and infinity cannot be written")
	case v.Kind() == sample.String && !utf8.ValidString(v.Str()):
		return v, errors.New("the text is not UTF-8")
	case kind == sample.Null, v.Kind() == kind:
		return v, nil
	case kind == sample.Float64 && v.Kind() == sample.Int64:
		if f := float64(v.Int()); f < 1<<63 && int64(f) == v.Int() {
			return sample.FloatValue(f), nil
		}
	case kind == sample.Int64 && v.Kind() == sample.Float64:
		if f := v.Float(); f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
			return sample.IntValue(int64(f)), nil
		}
	}
	return v, fmt.Errorf("%s %s is not exactly a %s", v.Kind(), v, kind)
}

// appendText appends a value as plain text. Numbers of common size have no
// exponent: devices that read text often know none.
func appendText(b []byte, v sample.Value) []byte {
	switch v.Kind() {
	case sample.String:
		return append(b, v.Str()...)
	case sample.Float64:
		f, form := v.Float(), byte('f')
		if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e15) {
			form = 'g'
		}
		return strconv.AppendFloat(b, f, form, -1, 64)
	}
	return append(b, v.String()...)
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
		b = appendText(b, n.value)
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
