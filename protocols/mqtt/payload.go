package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"millrace/internal/strictjson"
	"millrace/protocols"
	"millrace/sample"
)

// valueType is what a tag's values are.
type valueType uint8

const (
	typeAuto valueType = iota
	typeFloat
	typeInt
	typeBool
	typeString
)

var typeWords = [...]string{"auto", "float", "int", "bool", "string"}

// String returns the word of the configuration.
func (t valueType) String() string { return typeWords[t] }

func parseType(s string) (valueType, error) {
	if s == "" {
		return typeAuto, nil
	}
	for t, word := range typeWords {
		if s == word {
			return valueType(t), nil
		}
	}
	return 0, fmt.Errorf("type %q is not known", s)
}

// plain reads a payload that is one value. White space around a number, true
// or false is let pass, as many devices end it with a line feed.
func plain(payload []byte, typ valueType) (sample.Value, error) {
	if typ == typeString {
		if !utf8.Valid(payload) {
			return sample.Value{}, errors.New("the text is not UTF-8")
		}
		return sample.StringValue(string(payload)), nil
	}
	text := bytes.Trim(payload, " \t\r\n")
	switch {
	case strictjson.IsNumber(text):
		return number(text, typ)
	case string(text) == "true", string(text) == "false":
		if typ == typeAuto || typ == typeBool {
			return sample.BoolValue(text[0] == 't'), nil
		}
		return sample.Value{}, mismatch(strictjson.Bool, typ)
	case typ == typeAuto:
		return sample.Value{}, fmt.Errorf("%s is neither a number nor true or false; set type: string to take any text", quote(payload))
	}
	return sample.Value{}, fmt.Errorf("%s is not a %s", quote(payload), typ)
}

func mismatch(k strictjson.Kind, typ valueType) error {
	return fmt.Errorf("there is %s where type %s is configured", k, typ)
}

// quote returns the start of a payload for a message.
func quote(payload []byte) string {
	const most = 40
	if len(payload) == 0 {
		return "an empty payload"
	}
	if len(payload) > most {
		return strconv.Quote(string(payload[:most])) + "..."
	}
	return strconv.Quote(string(payload))
}

// number turns a JSON literal into a value of the type.
func number(lit []byte, typ valueType) (sample.Value, error) {
	switch typ {
	case typeAuto:
		return protocols.NumberOf(lit)
	case typeFloat:
		f, err := strconv.ParseFloat(string(lit), 64)
		if err != nil {
			return sample.Value{}, strictjson.ErrRange
		}
		return sample.FloatValue(f), nil
	case typeInt:
		v, err := protocols.NumberOf(lit)
		if err != nil || v.Kind() == sample.Int64 {
			return v, err
		}
		// 3.0 and 2e3 are integers; beyond 2^53 a float is no count any more.
		if f := v.Float(); f == math.Trunc(f) && math.Abs(f) <= 1<<53 {
			return sample.IntValue(int64(f)), nil
		}
		return sample.Value{}, fmt.Errorf("%s is not an int", lit)
	case typeBool:
		if string(lit) == "0" || string(lit) == "1" {
			return sample.BoolValue(lit[0] == '1'), nil
		}
	}
	return sample.Value{}, mismatch(strictjson.Number, typ)
}

// role is what a place in a document holds.
type role uint8

const (
	roleValue role = iota
	roleTime
	roleQuality
	roleSeq
	roleProducer
)

// target is something that is looked for in a document.
type target struct {
	role  role
	point int // of roleValue: index of the point
}

// node is a place in a document that is a target, or that leads to one.
type node struct {
	children map[string]*node
	targets  []target
}

func (n *node) add(path []string, t target) {
	for _, step := range path {
		child := n.children[step]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[step] = child
		}
		n = child
	}
	n.targets = append(n.targets, t)
}

// found is the value of one point in the document that is being read.
type found struct {
	value sample.Value
	err   error
	times int // how often the path was there
}

// meta is what a document says of all its values.
type meta struct {
	time     int64
	quality  sample.Quality
	seq      uint64
	producer []byte
	has      [roleProducer + 1]bool
}

// decoder reads documents. It serves one goroutine.
type decoder struct {
	unit   int64 // ns that 1 stands for in a time that is a number; 0: none
	reader strictjson.Reader
	found  []found
	meta   meta
}

// document reads a JSON document along the tree, once. The points' values are
// in d.found and the rest in d.meta.
func (d *decoder) document(payload []byte, tree *node, points []point) error {
	d.found = d.found[:0]
	for range points {
		d.found = append(d.found, found{})
	}
	d.meta = meta{producer: d.meta.producer[:0]}
	d.reader.Reset(payload)
	if err := d.walk(tree, points); err != nil {
		return err
	}
	return d.reader.End()
}

func (d *decoder) walk(n *node, points []point) error {
	r := &d.reader
	if len(n.targets) > 0 {
		start := *r
		if err := d.take(n.targets, points); err != nil || n.children == nil {
			return err
		}
		*r = start // other values are within this one
	}
	switch {
	case n.children == nil:
		return r.Skip()
	case r.Kind() == strictjson.Object:
		if err := r.OpenObject(); err != nil {
			return err
		}
		for {
			name, more, err := r.Member()
			if !more {
				return err
			}
			if err := d.step(n.children[string(name)], points); err != nil {
				return err
			}
		}
	case r.Kind() == strictjson.Array:
		if err := r.OpenArray(); err != nil {
			return err
		}
		var digits [20]byte
		for i := int64(0); ; i++ {
			more, err := r.Element()
			if !more {
				return err
			}
			if err := d.step(n.children[string(strconv.AppendInt(digits[:0], i, 10))], points); err != nil {
				return err
			}
		}
	}
	return r.Skip()
}

func (d *decoder) step(child *node, points []point) error {
	if child == nil {
		return d.reader.Skip()
	}
	return d.walk(child, points)
}

// take reads the value at a place that is wanted. Several targets may want the
// same; a value's own faults are kept with its point.
func (d *decoder) take(targets []target, points []point) error {
	start := d.reader // a copy to go back to
	for i, t := range targets {
		if i > 0 {
			d.reader = start
		}
		if t.role == roleValue {
			f := &d.found[t.point]
			f.times++
			v, err, broken := d.value(points[t.point].typ)
			if broken != nil {
				return broken
			}
			f.value, f.err = v, err
			continue
		}
		if d.meta.has[t.role] {
			return fmt.Errorf("the document has its %s twice", roleNames[t.role])
		}
		if err := d.field(t.role); err != nil {
			return err
		}
		d.meta.has[t.role] = true
	}
	return nil
}

var roleNames = [...]string{"value", "time", "quality", "seq", "producer"}

// value reads the next value as one of the type. err says that it is another;
// broken that the document is none.
func (d *decoder) value(typ valueType) (v sample.Value, err, broken error) {
	r := &d.reader
	switch k := r.Kind(); k {
	case strictjson.Null:
		return sample.Value{}, nil, r.Null()
	case strictjson.Bool:
		b, broken := r.Bool()
		if typ != typeAuto && typ != typeBool {
			err = mismatch(k, typ)
		}
		return sample.BoolValue(b), err, broken
	case strictjson.Number:
		lit, broken := r.Number()
		if broken != nil {
			return v, nil, broken
		}
		v, err = number(lit, typ)
		return v, err, nil
	case strictjson.String:
		text, broken := r.Text()
		if broken != nil {
			return v, nil, broken
		}
		if typ == typeAuto || typ == typeString {
			return sample.StringValue(string(text)), nil, nil
		}
		v, err = plain(text, typ) // many devices put their numbers in quotes
		return v, err, nil
	default:
		return v, mismatch(k, typ), r.Skip()
	}
}

// field reads the time, quality, seq or producer of a document.
func (d *decoder) field(what role) error {
	r := &d.reader
	k := r.Kind()
	if k == strictjson.Null {
		return r.Null()
	}
	var err error
	switch {
	case what == roleTime && k == strictjson.String:
		text, broken := r.Text()
		if broken != nil {
			return broken
		}
		d.meta.time, err = strictjson.Time(text)
	case what == roleTime && k == strictjson.Number:
		lit, broken := r.Number()
		if broken != nil {
			return broken
		}
		if d.unit == 0 {
			return fmt.Errorf("the time %s is a number; set connection.time_format to s, ms, us or ns", lit)
		}
		d.meta.time, err = strictjson.Nanos(lit, d.unit)
	case what == roleQuality && k == strictjson.String:
		text, broken := r.Text()
		if broken != nil {
			return broken
		}
		d.meta.quality, err = protocols.QualityOfName(text)
	case what == roleQuality && k == strictjson.Number:
		lit, broken := r.Number()
		if broken != nil {
			return broken
		}
		d.meta.quality, err = protocols.QualityOfCode(lit)
	case what == roleSeq && k == strictjson.Number:
		lit, broken := r.Number()
		if broken != nil {
			return broken
		}
		if d.meta.seq, err = strconv.ParseUint(string(lit), 10, 64); err != nil {
			err = fmt.Errorf("the seq %s is not an integer from 0 to 2^64-1", lit)
		}
	case what == roleProducer && k == strictjson.String:
		text, broken := r.Text()
		if broken != nil {
			return broken
		}
		d.meta.producer = append(d.meta.producer, text...)
	default:
		return fmt.Errorf("the %s is %s", roleNames[what], k)
	}
	return err
}
