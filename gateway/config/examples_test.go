package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"millrace/gateway/config"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
)

const root = "../.."

// TestExamples loads every file under configs/.
func TestExamples(t *testing.T) {
	n := 0
	err := filepath.WalkDir(filepath.Join(root, "configs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
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

// TestEveryKeyIsDocumented walks the configuration's structs and looks for each
// key in the reference and in the commented example.
func TestEveryKeyIsDocumented(t *testing.T) {
	reference := read(t, "docs/configuration.md")
	example := read(t, "configs/millrace.example.yaml")
	check := func(what string, keys []string) {
		if len(keys) == 0 {
			t.Errorf("%s has no keys", what)
		}
		for _, key := range keys {
			last := key[strings.LastIndex(key, ".")+1:]
			if !regexp.MustCompile("(?m)`([a-z_]+\\.)*" + last + "[`.]|^## " + last + "$").MatchString(reference) {
				t.Errorf("docs/configuration.md does not mention %s of %s", key, what)
			}
			if !regexp.MustCompile(`(?m)(^|[\s{,#])` + last + ":").MatchString(example) {
				t.Errorf("configs/millrace.example.yaml does not show %s of %s", key, what)
			}
		}
	}
	for what, v := range config.Shapes() {
		check(what, keysOf(reflect.TypeOf(v)))
	}
	for _, p := range protocols.List() {
		check(p.Type(), keysOf(reflect.TypeOf(p.NewConfig()).Elem()))
	}
	for _, k := range uploader.List() {
		check(k.Type(), keysOf(reflect.TypeOf(k.NewConfig()).Elem()))
	}
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
