package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder reads YAML nodes into structs, strictly, and goes on after an error
// so that all are reported at once.
type decoder struct {
	file   string
	errors Errors
	nodes  map[string]*yaml.Node // by path, to locate later findings
	// mistyped lists the paths that an unknown key was probably meant for.
	mistyped []string
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	nodeType     = reflect.TypeFor[yaml.Node]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *decoder) fail(n *yaml.Node, path, problem, hint string) {
	e := &Error{File: d.file, Path: path, Problem: problem, Hint: hint}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	d.errors = append(d.errors, e)
}

// at locates a path, or the nearest of its parents that was written.
func (d *decoder) at(path string) *yaml.Node {
	for {
		if n := d.nodes[path]; n != nil {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return d.nodes[""]
		}
		path = path[:i]
	}
}

// decode reads n into v, which must be settable.
func (d *decoder) decode(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes[path] = n
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(*n))
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value keeps its default
	}
	if v.Kind() != reflect.Pointer && v.Type() != durationType && v.Addr().Type().Implements(textType) {
		d.text(n, path, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.decode(n, path, v.Elem())
	case reflect.Struct:
		d.structure(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	case reflect.Map:
		d.mapping(n, path, v)
	default:
		d.scalar(n, path, v)
	}
}

func (d *decoder) text(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "one value is expected here, not "+kindName(n), "")
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		d.fail(n, path, err.Error(), "")
	}
}

// structure reads a mapping into the fields of one struct or several.
func (d *decoder) structure(n *yaml.Node, path string, structs ...reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "keys are expected here, not "+kindName(n), "write key: value, one per line and indented alike")
		return
	}
	fields := map[string]reflect.Value{}
	var known []string
	for _, v := range structs {
		collectFields(v, fields, &known)
	}
	seen := map[string]int{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		child := join(path, key.Value)
		if line, twice := seen[key.Value]; twice {
			d.fail(key, child, fmt.Sprintf("the key stands here twice, first in line %d", line), "keep one of them")
			continue
		}
		seen[key.Value] = key.Line
		f, ok := fields[key.Value]
		if !ok {
			hint := "known keys: " + strings.Join(known, ", ")
			if near := nearest(key.Value, known); near != "" {
				hint = "did you mean " + near + "?"
				d.mistyped = append(d.mistyped, join(path, near))
			}
			d.fail(key, child, "unknown key", hint)
			continue
		}
		d.decode(value, child, f)
	}
	for _, m := range merged {
		d.merge(m, path, fields, seen)
	}
}

// merge takes over the keys of an anchor (<<: *name) that do not stand in the
// mapping itself.
func (d *decoder) merge(n *yaml.Node, path string, fields map[string]reflect.Value, seen map[string]int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "<< takes one anchor with keys", "write <<: *name")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if _, ok := seen[key.Value]; ok {
			continue
		}
		seen[key.Value] = key.Line
		f, ok := fields[key.Value]
		if !ok {
			d.fail(key, join(path, key.Value), "unknown key", "it comes from an anchor")
			continue
		}
		d.decode(value, join(path, key.Value), f)
	}
}

// collectFields lists a struct's YAML keys, those of inlined structs too.
func collectFields(v reflect.Value, fields map[string]reflect.Value, known *[]string) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			collectFields(v.Field(i), fields, known)
		case name != "" && name != "-":
			fields[name] = v.Field(i)
			*known = append(*known, name)
		}
	}
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "a list is expected here, not "+kindName(n), "begin each entry with a dash")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		d.decode(c, fmt.Sprintf("%s[%d]", path, i), out.Index(i))
	}
	v.Set(out)
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "keys are expected here, not "+kindName(n), "")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content); i += 2 {
		item := reflect.New(v.Type().Elem()).Elem()
		d.decode(n.Content[i+1], join(path, n.Content[i].Value), item)
		v.SetMapIndex(reflect.ValueOf(n.Content[i].Value).Convert(v.Type().Key()), item)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "one value is expected here, not "+kindName(n), "")
		return
	}
	if v.Type() == durationType {
		t, err := time.ParseDuration(n.Value)
		if err != nil {
			d.fail(n, path, fmt.Sprintf("%q is not a time with a unit", n.Value), "write it as in 500ms, 1s, 5m or 2h")
			return
		}
		v.SetInt(int64(t))
		return
	}
	bad := func(want, hint string) {
		d.fail(n, path, fmt.Sprintf("%q is not %s", n.Value, want), hint)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Tag != "!!bool" {
			bad("true or false", "")
			return
		}
		v.SetBool(n.Value == "true" || n.Value == "True" || n.Value == "TRUE")
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Int16, reflect.Int8:
		i, err := strconv.ParseInt(n.Value, 0, v.Type().Bits())
		if err != nil {
			bad("a whole number", "write it without a unit")
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		i, err := strconv.ParseUint(n.Value, 0, v.Type().Bits())
		if err != nil {
			bad("a whole number of 0 or more", "write it without a unit")
			return
		}
		v.SetUint(i)
	case reflect.Float64, reflect.Float32:
		f, err := strconv.ParseFloat(n.Value, v.Type().Bits())
		if err != nil || f != f || f-f != 0 {
			bad("a number", "write it as in 0.1 or -40")
			return
		}
		v.SetFloat(f)
	default:
		panic("BUG: configuration field " + path + " of kind " + v.Kind().String())
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", n.Value)
}
