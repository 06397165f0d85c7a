package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/gateway/config"
	"millrace/internal/bytesize"
	contract "millrace/protocols"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
)

const root = "../.."

// TestExamples loads every file under configs/ that is a gateway's; that of the
// cloud half is held by cloud/config.
func TestExamples(t *testing.T) {
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "configs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" || filepath.Base(path) == "millrace-cloud.example.yaml" {
			return err
		}
		n++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := config.Parse(filepath.Base(path), data, registry()); err != nil {
			t.Errorf("%v", err)
		}
		return nil
	})
	if err != nil || n < 8 {
		t.Errorf("%d examples, %v", n, err)
	}
}

// TestCommentedKeys reads the example with its commented-out keys switched on:
// a key that is only shown must be right too.
func TestCommentedKeys(t *testing.T) {
	example := regexp.MustCompile(`(?m)^(\s+)# (\s*[a-z_]+:.*)$`).ReplaceAllString(read(t, "configs/millrace.example.yaml"), "$1$2")
	if n := strings.Count(read(t, "configs/millrace.example.yaml"), "# ") - strings.Count(example, "# "); n < 20 {
		t.Fatalf("%d keys switched on", n)
	}
	_, err := config.Parse("example", []byte(example), registry())
	var all config.Errors
	errors.As(err, &all)
	for _, e := range all {
		// The example cannot show both kinds of billing at once.
		if e.Path != "sinks[1].read_capacity" && e.Path != "sinks[1].write_capacity" {
			t.Error(e)
		}
	}
}

// TestEveryKeyIsDocumented walks the configuration's structs and looks for each
// key in its section of the reference and in its part of the commented example.
// A key that the reference has and the structs have not, or another default,
// fails too.
func TestEveryKeyIsDocumented(t *testing.T) {
	reference := parseReference(t)
	example := read(t, "configs/millrace.example.yaml")
	parts := regexp.MustCompile(`(?m)^  # ---- .*$|^sinks:$|^mirror:.*$`).Split(example, -1)
	check := func(what, typ string, v any) {
		want := keysOf(reflect.TypeOf(v))
		if len(want) == 0 {
			t.Errorf("%s has no keys", what)
		}
		part := example
		for _, p := range parts {
			if typ != "" && strings.Contains(p, "type: "+typ+"\n") {
				part = p
			}
		}
		for key, deflt := range reference[what] {
			if !slices.Contains(want, key) {
				t.Errorf("docs/configuration.md has %s of %s, which there is not", key, what)
			} else if is, ok := valueAt(reflect.ValueOf(v), key); ok && deflt != "" && !sameValue(is, deflt) {
				t.Errorf("docs/configuration.md gives %s of %s the default %s, it is %v", key, what, deflt, is)
			}
		}
		for _, key := range want {
			if what == "a source" && strings.HasPrefix(key, "tags.") {
				continue // of "a tag"
			}
			documented := false
			for k := range reference[what] {
				documented = documented || k == key || strings.HasPrefix(k, key+".")
			}
			if !documented {
				t.Errorf("docs/configuration.md does not mention %s of %s", key, what)
			}
			last := key[strings.LastIndex(key, ".")+1:]
			if !regexp.MustCompile(`(?m)(^|[\s{,#])` + last + ":").MatchString(part) {
				t.Errorf("configs/millrace.example.yaml does not show %s of %s", key, what)
			}
		}
	}
	for what, v := range config.Shapes() {
		check(what, "", v)
	}
	for _, p := range protocols.List() {
		check("type "+p.Type(), p.Type(), reflect.ValueOf(p.NewConfig()).Elem().Interface())
	}
	for _, p := range protocols.List() {
		if w, ok := p.NewConfig().(contract.Writable); ok {
			check("write "+p.Type(), "", reflect.ValueOf(w.NewTarget()).Elem().Interface())
		}
	}
	for _, k := range registry().Feeds {
		check("feed "+k.Type(), "", reflect.ValueOf(k.NewConfig()).Elem().Interface())
	}
	for _, k := range uploader.List() {
		check("type "+k.Type(), k.Type(), reflect.ValueOf(k.NewConfig()).Elem().Interface())
	}
}

// parseReference reads the tables of docs/configuration.md: the keys of each
// thing, and the default where the table gives it as a literal.
func parseReference(t *testing.T) map[string]map[string]string {
	out := map[string]map[string]string{}
	literal := regexp.MustCompile("`([^`]*)`")
	literals := func(cell string) (words []string, only bool) {
		for _, m := range literal.FindAllStringSubmatch(cell, -1) {
			words = append(words, m[1])
		}
		return words, strings.Trim(literal.ReplaceAllString(cell, ""), ", ") == ""
	}
	var things []string
	prefix := ""
	for line := range strings.Lines(read(t, "docs/configuration.md")) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			heading := strings.TrimLeft(line, "# ")
			things, prefix = nil, ""
			for _, m := range regexp.MustCompile("`type: ([a-z_]+)`").FindAllStringSubmatch(heading, -1) {
				things = append(things, role(heading)+m[1])
			}
			switch heading {
			case "gateway", "clock", "spool", "log", "control", "shutdown", "metrics", "mirror":
				things, prefix = []string{"the file"}, heading+"."
			case "sources":
				things = []string{"a source"}
			case "tags":
				things = []string{"a tag"}
			case "sinks":
				things = []string{"a sink"}
			case "mirror: feeds":
				things = []string{"a feed"}
			case "mirror: devices":
				things = []string{"a device"}
			case "mirror: targets":
				things = []string{"a target"}
			}
			if strings.HasPrefix(line, "## ") {
				put(out, "the file", heading, "")
			}
			continue
		}
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") || len(cells) < 4 {
			continue
		}
		keys, _ := literals(cells[1])
		defaults, only := literals(cells[2])
		for i, key := range keys {
			deflt := ""
			if only && len(defaults) == len(keys) {
				deflt = defaults[i]
			} else if only && len(defaults) == 1 {
				deflt = defaults[0]
			}
			for _, thing := range things {
				put(out, thing, prefix+key, deflt)
			}
		}
	}
	return out
}

// role says what a section on a type is of: the same word stands for a sink, a
// feed, and a place that is written to.
func role(heading string) string {
	switch {
	case strings.HasPrefix(heading, "feed of"):
		return "feed "
	case strings.HasPrefix(heading, "write of"):
		return "write "
	}
	return "type "
}

func put(m map[string]map[string]string, thing, key, deflt string) {
	if m[thing] == nil {
		m[thing] = map[string]string{}
	}
	m[thing][key] = deflt
}

// valueAt returns what stands at a YAML key of a struct; not in a list.
func valueAt(v reflect.Value, key string) (any, bool) {
	first, rest, nested := strings.Cut(key, ".")
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		f := v.Field(i)
		if options == "inline" {
			if is, ok := valueAt(f, key); ok {
				return is, true
			}
		}
		if name != first {
			continue
		}
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		if nested && f.Kind() == reflect.Struct {
			return valueAt(f, rest)
		}
		return f.Interface(), !nested
	}
	return nil, false
}

// sameValue reports whether a default is what the reference writes.
func sameValue(is any, text string) bool {
	switch is := is.(type) {
	case time.Duration:
		want, err := time.ParseDuration(text)
		return err == nil && is == want
	case bytesize.Size:
		want, err := bytesize.Parse(text)
		return err == nil && is == want
	}
	return fmt.Sprint(is) == text
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// keysOf lists the YAML keys of a struct and of those in it.
func keysOf(t reflect.Type) (keys []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == "" && options == "" {
			continue
		}
		inner := keysOf(t.Field(i).Type)
		switch {
		case options == "inline":
			keys = append(keys, inner...)
		default:
			keys = append(keys, name)
			for _, k := range inner {
				keys = append(keys, name+"."+k)
			}
		}
	}
	return keys
}
