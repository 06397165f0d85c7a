// Package strictyaml reads YAML files of settings: strictly, and with every
// fault at once, each with its file, line, path and what to do next.
package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"millrace/internal/bytesize"
)

// maxValues bounds the values of a file, those that aliases repeat counted each
// time: a few lines of aliases can stand for billions.
const maxValues = 1 << 19

// Decoder reads YAML nodes into structs, strictly, and goes on after a fault so
// that all are reported at once. Fields are found by their yaml tags; beside
// the plain kinds it reads time.Duration, bytesize.Size and what implements
// encoding.TextUnmarshaler, and leaves a yaml.Node as it is.
type Decoder struct {
	File    string // stands in the faults
	Example string // the file to start from, for who has written none
	// Split says what to do with a file that holds too much.
	Split  string
	Errors Errors
	Nodes  map[string]*yaml.Node // by path, to locate later findings
	// broken holds the paths that did not read, and those that an unknown key
	// was probably meant for: what is found missing there only follows.
	broken map[string]bool
	values int
}

// Defaulter is a struct, such as the entry of a list, that sets its defaults
// itself before it is read.
type Defaulter interface{ Defaults() }

// New returns a decoder of one file.
func New(file, example, split string) *Decoder {
	return &Decoder{File: file, Example: example, Split: split, Nodes: map[string]*yaml.Node{}, broken: map[string]bool{}}
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	nodeType     = reflect.TypeFor[yaml.Node]()
	sizeType     = reflect.TypeFor[bytesize.Size]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// Fail reports a fault that leaves what stands at and below the path usable.
func (d *Decoder) Fail(n *yaml.Node, path, problem, hint string) {
	e := &Error{File: d.File, Path: path, Problem: oneLine(problem), Hint: oneLine(hint)}
	if n != nil {
		e.Line, e.Column = n.Line, n.Column
	}
	d.Errors = append(d.Errors, e)
}

// Unreadable reports a fault after which nothing is known of the path.
func (d *Decoder) Unreadable(n *yaml.Node, path, problem, hint string) {
	d.Fail(n, path, problem, hint)
	d.broken[path] = true
}

// Follows reports whether a fault at the path follows from one that is
// reported already, there or above.
func (d *Decoder) Follows(path string) bool {
	for path != "" {
		if d.broken[path] {
			return true
		}
		path = parent(path)
	}
	return false
}

// Exhausted reports whether the file holds more values than any can.
func (d *Decoder) Exhausted() bool { return d.values > maxValues }

// Wrong reports a fault at a path, unless it only follows from one that is
// reported already: a value that did not read, a key that was mistyped.
func (d *Decoder) Wrong(path, problem, hint string) {
	if !d.Follows(path) {
		d.Fail(d.At(path), path, problem, hint)
	}
}

// OneOf checks a value that is one of a few words.
func (d *Decoder) OneOf(path, value string, words ...string) {
	if !slices.Contains(words, value) {
		d.Wrong(path, fmt.Sprintf("%q is not one of %s", value, strings.Join(words, ", ")), "")
	}
}

// At locates a path, or the nearest of its parents that was written.
func (d *Decoder) At(path string) *yaml.Node {
	for {
		if n := d.Nodes[path]; n != nil {
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

// Decode reads n into v, which must be settable.
func (d *Decoder) Decode(n *yaml.Node, path string, v reflect.Value) {
	if d.Exhausted() {
		return
	}
	n = Resolve(n)
	if d.values++; d.Exhausted() {
		d.Unreadable(n, path, fmt.Sprintf("aliases make this file hold more than %d values", maxValues), "write the entries out, or "+d.Split)
		return
	}
	d.Nodes[path] = n
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(*n))
		return
	}
	if IsNull(n) {
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
		d.Decode(n, path, v.Elem())
	case reflect.Struct:
		if v, ok := v.Addr().Interface().(Defaulter); ok {
			v.Defaults()
		}
		d.structure(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	case reflect.Map:
		d.mapping(n, path, v)
	default:
		d.scalar(n, path, v)
	}
}

func (d *Decoder) text(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.Unreadable(n, path, "one value is expected here, not "+KindName(n), "")
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
		hint := ""
		if v.Type() == sizeType {
			hint = likelySize(n.Value)
		}
		d.Unreadable(n, path, err.Error(), hint)
	}
}

// structure reads a mapping into the fields of one struct or several.
func (d *Decoder) structure(n *yaml.Node, path string, structs ...reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.Unreadable(n, path, "keys are expected here, not "+KindName(n), "write key: value, one per line and indented alike")
		return
	}
	d.Fields(d.Pairs(n, path), path, structs...)
}

// Fields reads the entries of a mapping into the fields of structs.
func (d *Decoder) Fields(pairs []Pair, path string, structs ...reflect.Value) {
	fields := map[string]reflect.Value{}
	var known []string
	for _, v := range structs {
		collectFields(v, fields, &known)
	}
	for _, p := range pairs {
		child := Join(path, p.Key.Value)
		if f, ok := fields[p.Key.Value]; ok {
			d.Decode(p.Value, child, f)
			continue
		}
		problem, hint := "unknown key", "known keys: "+strings.Join(known, ", ")
		if near := Nearest(p.Key.Value, known); near != "" {
			hint = "did you mean " + near + "?"
			d.broken[Join(path, near)] = true
		}
		if p.Merged {
			problem += ", taken over by << from an anchor"
		}
		d.Fail(p.Key, child, problem, hint)
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

func (d *Decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.Unreadable(n, path, "a list is expected here, not "+KindName(n), "begin each entry with a dash")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		item := fmt.Sprintf("%s[%d]", path, i)
		d.Decode(c, item, out.Index(i))
		if IsNull(Resolve(c)) {
			d.Unreadable(c, item, "the entry is empty", "write it, or take its dash away")
		}
	}
	v.Set(out)
}

func (d *Decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.Unreadable(n, path, "keys are expected here, not "+KindName(n), "")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range d.Pairs(n, path) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.Decode(p.Value, Join(path, p.Key.Value), item)
		v.SetMapIndex(reflect.ValueOf(p.Key.Value).Convert(v.Type().Key()), item)
	}
}

func (d *Decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.Unreadable(n, path, "one value is expected here, not "+KindName(n), "")
		return
	}
	if v.Type() == durationType {
		d.duration(n, path, v)
		return
	}
	bad := func(want, hint string) {
		d.Unreadable(n, path, Quoted(n.Value)+" is not "+want, hint)
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
		if err != nil || LeadingZero(n.Value) {
			bad("a whole number", wholeNumber(n.Value))
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		i, err := strconv.ParseUint(n.Value, 0, v.Type().Bits())
		if err != nil || LeadingZero(n.Value) {
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
func (d *Decoder) duration(n *yaml.Node, path string, v reflect.Value) {
	t, err := time.ParseDuration(n.Value)
	if _, number := strconv.ParseFloat(n.Value, 64); number == nil {
		d.Unreadable(n, path, Quoted(n.Value)+" is a number without a unit", likelyTime(n.Value)+"times are written as in 500ms, 1s, 5m or 2h")
	} else if err != nil {
		d.Unreadable(n, path, Quoted(n.Value)+" is not a time with a unit", likelyTime(n.Value)+"write it as in 500ms, 1s, 5m or 2h")
	} else {
		v.SetInt(int64(t))
	}
}

func wholeNumber(text string) string {
	if LeadingZero(text) {
		return "write it without leading zeros"
	}
	return "write it without a unit"
}

// LeadingZero reports whether a number begins with a zero that old YAML takes
// for octal, new YAML for nothing, and its writer for either.
func LeadingZero(text string) bool {
	text = strings.TrimLeft(text, "+-")
	return len(text) > 1 && text[0] == '0' && (text[1] >= '0' && text[1] <= '9' || text[1] == '_')
}

// Join adds a key to a path, quoted where it could be taken for more.
func Join(path, key string) string {
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

// KindName says what a node holds. It does not repeat a value, which may be a
// secret that stands in the wrong place.
func KindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// IsNull reports whether a node is a key without a value.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// Resolve follows an alias to the node that it stands for.
func Resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
