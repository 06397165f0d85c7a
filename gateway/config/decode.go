package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"millrace/internal/bytesize"
)

// maxValues bounds the values of a file, those that aliases repeat counted each
// time: a few lines of aliases can stand for billions.
const maxValues = 1 << 19

// decoder reads YAML nodes into structs, strictly, and goes on after an error
// so that all are reported at once.
type decoder struct {
	file   string
	errors Errors
	nodes  map[string]*yaml.Node // by path, to locate later findings
	// broken holds the paths that did not read, and those that an unknown key
	// was probably meant for: what is found missing there only follows.
	broken map[string]bool
	values int
}

func newDecoder(file string) *decoder {
	return &decoder{file: file, nodes: map[string]*yaml.Node{}, broken: map[string]bool{}}
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	nodeType     = reflect.TypeFor[yaml.Node]()
	sizeType     = reflect.TypeFor[bytesize.Size]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// fail reports a fault that leaves what stands at and below the path usable.
func (d *decoder) fail(n *yaml.Node, path, problem, hint string) {
	e := &Error{File: d.file, Path: path, Problem: oneLine(problem), Hint: oneLine(hint)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	d.errors = append(d.errors, e)
}

// unreadable reports a fault after which nothing is known of the path.
func (d *decoder) unreadable(n *yaml.Node, path, problem, hint string) {
	d.fail(n, path, problem, hint)
	d.broken[path] = true
}

// follows reports whether a fault at the path follows from one that is
// reported already, there or above.
func (d *decoder) follows(path string) bool {
	for path != "" {
		if d.broken[path] {
			return true
		}
		path = parent(path)
	}
	return false
}

// exhausted reports whether the file holds more values than any can.
func (d *decoder) exhausted() bool { return d.values > maxValues }

// at locates a path, or the nearest of its parents that was written.
func (d *decoder) at(path string) *yaml.Node {
	for {
		if n := d.nodes[path]; n != nil {
			return n
		}
		if path == "" {
			return nil
		}
		path = parent(path)
	}
}

// parent cuts the last step off a path; the root's is "".
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// decode reads n into v, which must be settable.
func (d *decoder) decode(n *yaml.Node, path string, v reflect.Value) {
	if d.exhausted() {
		return
	}
	n = resolve(n)
	if d.values++; d.exhausted() {
		d.unreadable(n, path, fmt.Sprintf("aliases make this file hold more than %d values", maxValues), "write the entries out, or split the plant over several gateways")
		return
	}
	d.nodes[path] = n
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(*n))
		return
	}
	if isNull(n) {
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
		d.unreadable(n, path, "one value is expected here, not "+kindName(n), "")
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		hint := ""
		if v.Type() == sizeType {
			hint = likelySize(n.Value)
		}
		d.unreadable(n, path, err.Error(), hint)
	}
}

// structure reads a mapping into the fields of one struct or several.
func (d *decoder) structure(n *yaml.Node, path string, structs ...reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.unreadable(n, path, "keys are expected here, not "+kindName(n), "write key: value, one per line and indented alike")
		return
	}
	d.fields(d.pairs(n, path), path, structs...)
}

// fields reads the entries of a mapping into the fields of structs.
func (d *decoder) fields(pairs []pair, path string, structs ...reflect.Value) {
	fields := map[string]reflect.Value{}
	var known []string
	for _, v := range structs {
		collectFields(v, fields, &known)
	}
	for _, p := range pairs {
		child := join(path, p.key.Value)
		if f, ok := fields[p.key.Value]; ok {
			d.decode(p.value, child, f)
			continue
		}
		problem, hint := "unknown key", "known keys: "+strings.Join(known, ", ")
		if near := nearest(p.key.Value, known); near != "" {
			hint = "did you mean " + near + "?"
			d.broken[join(path, near)] = true
		}
		if p.merged {
			problem += ", taken over by << from an anchor"
		}
		d.fail(p.key, child, problem, hint)
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
		d.unreadable(n, path, "a list is expected here, not "+kindName(n), "begin each entry with a dash")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		item := fmt.Sprintf("%s[%d]", path, i)
		d.decode(c, item, out.Index(i))
		if isNull(resolve(c)) {
			d.unreadable(c, item, "the entry is empty", "write it, or take its dash away")
		}
	}
	v.Set(out)
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.unreadable(n, path, "keys are expected here, not "+kindName(n), "")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range d.pairs(n, path) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.decode(p.value, join(path, p.key.Value), item)
		v.SetMapIndex(reflect.ValueOf(p.key.Value).Convert(v.Type().Key()), item)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.unreadable(n, path, "one value is expected here, not "+kindName(n), "")
		return
	}
	if v.Type() == durationType {
		d.duration(n, path, v)
		return
	}
	bad := func(want, hint string) {
		d.unreadable(n, path, quoted(n.Value)+" is not "+want, hint)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Tag != "!!bool" {
			bad("true or false", "")
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Int16, reflect.Int8:
		i, err := strconv.ParseInt(n.Value, 0, v.Type().Bits())
		if err != nil || leadingZero(n.Value) {
			bad("a whole number", wholeNumber(n.Value))
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		i, err := strconv.ParseUint(n.Value, 0, v.Type().Bits())
		if err != nil || leadingZero(n.Value) {
			bad("a whole number of 0 or more", wholeNumber(n.Value))
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

// duration reads a time. A number alone is refused: nobody can tell whether its
// writer thought of seconds or of milliseconds.
func (d *decoder) duration(n *yaml.Node, path string, v reflect.Value) {
	t, err := time.ParseDuration(n.Value)
	if _, number := strconv.ParseFloat(n.Value, 64); number == nil {
		d.unreadable(n, path, quoted(n.Value)+" is a number without a unit", likelyTime(n.Value)+"times are written as in 500ms, 1s, 5m or 2h")
	} else if err != nil {
		d.unreadable(n, path, quoted(n.Value)+" is not a time with a unit", likelyTime(n.Value)+"write it as in 500ms, 1s, 5m or 2h")
	} else {
		v.SetInt(int64(t))
	}
}

func wholeNumber(text string) string {
	if leadingZero(text) {
		return "write it without leading zeros"
	}
	return "write it without a unit"
}

// leadingZero reports whether a number begins with a zero that old YAML takes
// for octal, new YAML for nothing, and its writer for either.
func leadingZero(text string) bool {
	text = strings.TrimLeft(text, "+-")
	return len(text) > 1 && text[0] == '0' && (text[1] >= '0' && text[1] <= '9' || text[1] == '_')
}

func join(path, key string) string {
	for _, r := range key {
		if r == '.' || r == '[' || r == ':' || r <= ' ' || r == 0x7f {
			key = strconv.Quote(key)
			break
		}
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// kindName says what a node holds. It does not repeat a value, which may be a
// secret that stands in the wrong place.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// resolve follows an alias to the node that it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
