package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/cloud/config"
	"millrace/internal/bytesize"
	"millrace/sample"
)

const root = "../.."

// TestBadConfigurations holds the exact messages of each file in testdata/bad
// against the text beside it. UPDATE_GOLDEN=1 writes the texts anew: read them.
func TestBadConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse(name, data)
			if err == nil {
				t.Fatal("the file was taken")
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".txt"
			got := err.Error() + "\n"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			for line := range strings.Lines(got) {
				if !strings.HasPrefix(line, name+":") || strings.Contains(line, "hunter2") {
					t.Errorf("a message without its file, or with a secret: %q", line)
				}
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := config.Load(path); err == nil || err.Error() != path+": cannot be opened: no such file or directory; name the configuration with --config FILE" {
		t.Error(err)
	}
	if _, err := config.Load(filepath.Join(root, config.Example)); err != nil {
		t.Error(err)
	}
}

func TestValues(t *testing.T) {
	cfg, err := config.Parse("x.yaml", []byte(`
prefix: plant
archive: {place: /srv/archive}
results:
  unsigned: true
  queues: {north: "http://127.0.0.1:9324/000000000000/north"}
  targets:
    - &t {site: north, target: a, result: kpi, of: north/m1, column: oee, type: int64, unit: "%", scale: 100, offset: -1, validity: 26h, at_least: {availability: 0.5}}
    - {<<: *t, target: b, type: float64, scale: 1, at_least: {}}
export: [{name: a, what: [hourly], to: /srv/out}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Tables.RetentionWeeks != 53 || cfg.Tables.Retire || cfg.Warehouse.Configured() || cfg.Pipeline.Every != 24*time.Hour || cfg.Analyze.Memory != bytesize.GiB ||
		cfg.Export[0].Format != "csv" || cfg.Export[0].Days != 1 {
		t.Errorf("%+v", cfg)
	}
	rules := cfg.Results.Rules()
	a, b := rules[0], rules[1]
	if a.Type != sample.Int64 || a.Scale != 100 || a.Offset != -1 || a.Unit != "%" || a.AtLeast["availability"] != 0.5 || a.Queue != "http://127.0.0.1:9324/000000000000/north" ||
		b.Target != "b" || b.Type != sample.Float64 || b.Scale != 1 || len(b.AtLeast) != 0 || b.Validity != 26*time.Hour {
		t.Errorf("%+v", rules)
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

// TestCommentedKeys reads the example with its commented-out keys switched on: a
// key that is only shown must be right too.
func TestCommentedKeys(t *testing.T) {
	text := read(t, config.Example)
	example := regexp.MustCompile(`(?m)^(\s*)# (\s*[a-z0-9_]+:.*)$`).ReplaceAllString(text, "$1$2")
	if n := strings.Count(text, "# ") - strings.Count(example, "# "); n < 15 {
		t.Fatalf("%d keys switched on", n)
	}
	_, err := config.Parse("example", []byte(example))
	want := []string{ // the example cannot show both of two that exclude each other
		"tables.read_units: has no meaning with billing: on_demand; leave it out", "tables.write_units: has no meaning with billing: on_demand; leave it out",
		"warehouse: names more than one warehouse; keep one of workgroup, cluster and postgres",
	}
	for line := range strings.Lines(fmt.Sprint(err)) {
		if !slices.ContainsFunc(want, func(w string) bool { return strings.Contains(line, ": "+w) }) {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// TestEveryKeyIsDocumented holds the configuration's structs, the reference and
// the commented example against each other: keys, and defaults.
func TestEveryKeyIsDocumented(t *testing.T) {
	reference := parseReference(t)
	example := read(t, config.Example)
	for what, v := range config.Shapes() {
		keys := keysOf(reflect.ValueOf(v), "")
		for key, deflt := range reference[what] {
			is, ok := keys[key]
			if !ok {
				t.Errorf("docs/cloud-configuration.md has %s of %s, which there is not", key, what)
			} else if deflt != "" && !sameValue(is, deflt) {
				t.Errorf("docs/cloud-configuration.md gives %s of %s the default %s, it is %v", key, what, deflt, is)
			}
		}
		for key := range keys {
			if _, ok := reference[what][key]; !ok {
				t.Errorf("docs/cloud-configuration.md does not mention %s of %s", key, what)
			}
			last := key[strings.LastIndex(key, ".")+1:]
			if !regexp.MustCompile(`(?m)(^|[\s{,#-])` + last + ":").MatchString(example) {
				t.Errorf("%s does not show %s of %s", config.Example, key, what)
			}
		}
		if len(keys) < 5 {
			t.Errorf("%s has %d keys", what, len(keys))
		}
	}
}

// parseReference reads the tables of docs/cloud-configuration.md: keys, and
// defaults where they are given as literals.
func parseReference(t *testing.T) map[string]map[string]string {
	out := map[string]map[string]string{"the file": {}, "a target": {}, "an export": {}}
	row := regexp.MustCompile("^\\| `([a-z0-9_.]+)` \\| (?:`([^`]*)`)?[^|]* \\|")
	thing, prefix := "the file", ""
	for line := range strings.Lines(read(t, "docs/cloud-configuration.md")) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			switch heading = strings.TrimSpace(heading); heading {
			case "results: targets":
				thing, prefix = "a target", ""
			case "export":
				thing, prefix = "an export", ""
			case "The first lines":
				thing, prefix = "the file", ""
			default:
				thing, prefix = "the file", heading+"."
			}
			continue
		}
		if m := row.FindStringSubmatch(line); m != nil {
			out[thing][prefix+m[1]] = m[2]
		}
	}
	return out
}

// keysOf lists the YAML keys of a struct and of those in it, with their values.
// A list's own keys are another thing's.
func keysOf(v reflect.Value, prefix string) map[string]any {
	keys := map[string]any{}
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Tag.Get("yaml"), v.Field(i)
		section := f.Kind() == reflect.Struct && f.NumField() > 0 && f.Type().Field(0).Tag.Get("yaml") != ""
		switch {
		case section:
			for key, value := range keysOf(f, prefix+name+".") {
				keys[key] = value
			}
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
		default:
			keys[prefix+name] = f.Interface()
		}
	}
	return keys
}

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

// TestNoPasswordInTheFile, wherever it stands in the URL.
func TestNoPasswordInTheFile(t *testing.T) {
	for url, wrong := range map[string]bool{"postgres://l@127.0.0.1/p": false, "postgres://l:x@127.0.0.1/p": true, "postgres://l@127.0.0.1/p?password=x": true} {
		_, err := config.Parse("c", []byte("warehouse:\n  postgres: "+url+"\n"))
		if got := strings.Contains(fmt.Sprint(err), "warehouse.postgres: holds a password"); got != wrong {
			t.Errorf("%s: %v", url, err)
		}
	}
}
