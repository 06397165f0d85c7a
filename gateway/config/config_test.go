package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	feeds "millrace/feeds/all"
	"millrace/gateway/config"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
	"millrace/uploader/file"
)

func registry() config.Registry {
	return config.Registry{Protocols: protocols.List(), Sinks: uploader.List(), Feeds: feeds.List()}
}

// TestBadConfigurations holds the exact messages of each file in testdata/bad
// against the text beside it. UPDATE_GOLDEN=1 writes the texts anew: read them.
func TestBadConfigurations(t *testing.T) {
	bad(t, "testdata/bad/*.yaml", 25, registry(), func(t *testing.T, name, got string) {
		for line := range strings.Lines(got) {
			if !strings.HasPrefix(line, name+".yaml:") {
				t.Errorf("a message without its file: %q", line)
			}
		}
		if strings.Contains(got, "hunter2") {
			t.Error("a message repeats a secret")
		}
	})
}

// bad parses at least so many files, none of which may be taken, and compares
// the messages with the texts beside them. check looks at each further.
func bad(t *testing.T, pattern string, least int, r config.Registry, check func(t *testing.T, name, got string)) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) < least {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse(name+".yaml", data, r)
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
			check(t, name, got)
		})
	}
}

func TestLoadNamesWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "binary")
	if err := os.WriteFile(binary, []byte("\x7fELF\x00\x01\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("# x\n"), 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	wide := filepath.Join(dir, "wide")
	if err := os.WriteFile(wide, []byte("\xff\xfeg\x00:\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		wide:                       ": is text in UTF-16; save it as UTF-8",
		pipe:                       ": is empty; start from configs/millrace.example.yaml", // and nobody writes to it
		filepath.Join(dir, "none"): ": cannot be opened: no such file or directory; name the configuration with --config FILE",
		dir:                        ": cannot be read: is a directory; is it a file?",
		binary:                     ": is not a YAML file: it holds bytes that are no text; is it the right file, and saved as UTF-8?",
		large:                      ": is larger than 4MiB; is it a configuration?",
	} {
		if _, err := config.Load(path, registry()); err == nil || err.Error() != path+want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestValues(t *testing.T) {
	cfg, err := config.Parse("x.yaml", []byte(`
gateway: {site: north, id: gw1}
spool: {max_size: 64MiB, commit_interval: 500ms}
sources:
  - &first
    name: m1
    type: modbus
    scan_rate: 2s
    batch: {max_age: 30s}
    connection: {url: "tcp://127.0.0.1:502"}
    tags:
      - {name: power, address: "holding:0", type: float32, scale: 0.1, min: 0, deadband: 1%, unit: kW}
      - {name: other/x, address: "coil:3", type: bool, urgent: true}
  - <<: *first
    name: m2
    connection: {url: "tcp://127.0.0.2:502"}
    tags: [{name: a, address: "holding:0", type: uint16}]
  - <<: [{scan_rate: 5s}, *first]
    name: m3
    connection: {url: "tcp://127.0.0.3:502"}
    tags: [{name: b, address: "holding:0", type: uint16}]
sinks:
  - &out {name: out, type: file, dir: /tmp/out}
  - {<<: *out, name: out2, dir: /tmp/out2}
`), registry())
	if err != nil {
		t.Fatal(err)
	}
	if m3 := cfg.Sources[2]; m3.ScanRate != 5*time.Second || m3.Type != "modbus" || m3.Batch.MaxAge != 30*time.Second {
		t.Errorf("source merged from two %+v", m3)
	}
	if s := cfg.Sinks[1]; s.Name != "out2" || s.Type != "file" || s.Config.(*file.Config).Dir != "/tmp/out2" || cfg.Sinks[0].Config.(*file.Config).Dir != "/tmp/out" {
		t.Errorf("sinks %+v", cfg.Sinks)
	}
	if cfg.Spool.SegmentSize != 16<<20 || cfg.Spool.CommitInterval != 500*time.Millisecond || cfg.Control.Socket != "/run/millrace/control.sock" {
		t.Errorf("spool %+v, control %+v", cfg.Spool, cfg.Control)
	}
	s := cfg.Sources[0]
	if s.Tags[0].Name != "north/m1/power" || s.Tags[1].Name != "north/other/x" || s.Spec.Tags[0].Name != "north/m1/power" || !s.Spec.Tags[0].Scaled {
		t.Errorf("tags %+v, %+v", s.Tags, s.Spec.Tags)
	}
	if r := s.Tags[0].Rule; r.Scale != 0.1 || !r.HasMin || r.HasMax || r.Deadband.Size != 1 {
		t.Errorf("rule %+v", r)
	}
	if m2 := cfg.Sources[1]; m2.ScanRate != 2*time.Second || m2.Batch.MaxAge != 30*time.Second || m2.Tags[0].Name != "north/m2/a" || m2.Tags[0].Rule.Scale != 1 {
		t.Errorf("merged source %+v", m2)
	}
}

// A counter's turning point is the file's, else that of the type, in the unit of
// the tag.
func TestCounters(t *testing.T) {
	cfg, err := config.Parse("x.yaml", []byte(`
gateway: {site: north, id: gw1}
sources:
  - name: m1
    type: modbus
    connection: {url: "tcp://127.0.0.1:502"}
    tags:
      - {name: "65535", address: "holding:0", counter: true}
      - {name: "6553.5", address: "holding:1", type: uint16, counter: true, scale: 0.1}
      - {name: "131070", address: "holding:2", type: uint16, counter: true, scale: 2}
      - {name: "32767", address: "holding:3", type: int16, counter: true}
      - {name: "4294967295", address: "holding:4", type: uint32, counter: true}
      - {name: "999999", address: "holding:6", type: uint32, counter: true, counter_max: 999999}
      - {name: "99999.9", address: "holding:8", type: float32, counter: true, counter_max: 99999.9}
      - {name: "0", address: "holding:10", type: float64, counter: true}
      - {name: other/0, address: "holding:14", type: uint32, counter: true, offset: 5}
      - {name: third/0, address: "holding:16", type: uint32, counter: true, scale: -1}
      - {name: fourth/0, address: "holding:18", type: uint32}
  - name: p1
    type: opcua
    connection: {url: "opc.tcp://127.0.0.1:4840", security: None}
    tags:
      - {name: "255", address: "ns=2;i=1", type: byte, counter: true}
      - {name: "4.294967295e+06", address: "ns=2;i=2", type: uint32, counter: true, scale: 0.001}
      - {name: "0", address: "ns=2;i=3", counter: true}
      - {name: "1e+06", address: "ns=2;i=4", counter: true, counter_max: 1e6}
  - name: mq
    type: mqtt
    connection: {url: "mqtt://127.0.0.1:1883", client_id: x}
    tags:
      - {name: "9999", address: "meter/energy", type: float, counter: true, counter_max: 9999}
      - {name: "0", address: "meter/other", type: float, counter: true}
sinks: [{name: out, type: file, dir: /tmp/out}]
`), registry())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range cfg.Sources {
		for _, tag := range s.Tags {
			want, err := strconv.ParseFloat(tag.Name[strings.LastIndexByte(tag.Name, '/')+1:], 64)
			if err != nil || tag.CounterMax != want {
				t.Errorf("%s: the counter ends at %v; %v", tag.Name, tag.CounterMax, err)
			}
			n++
		}
	}
	if n != 17 {
		t.Errorf("%d tags", n)
	}
}

// TestAliasesAreBounded: a few lines of aliases can stand for billions of
// values. The file is refused, with one message, before it takes memory.
func TestAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("gateway: {site: north, id: gw1}\nsources:\n  - name: m\n    type: modbus\n    connection: {url: 'tcp://127.0.0.1:1'}\n    tags: &t\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "      - {name: a%d, address: 'holding:%d', type: uint16}\n", i, i)
	}
	for i := range 20_000 {
		fmt.Fprintf(&b, "  - {name: m%d, type: modbus, connection: {url: 'tcp://127.0.0.1:1'}, tags: *t}\n", i)
	}
	_, err := config.Parse("bomb.yaml", []byte(b.String()), registry())
	if err == nil {
		t.Fatal("100,000,000 tags were taken")
	}
	var all config.Errors
	if !errors.As(err, &all) || len(all) != 2 { // no sinks, and this
		t.Fatalf("%d errors: %.300s", len(all), err)
	}
	if want := "aliases make this file hold more than 524288 values"; all[1].Problem != want || all[1].Line == 0 {
		t.Errorf("%v", all[1])
	}
}

// TestManyErrorsAreAllReported, and in a time that grows with the file and not
// with its square.
func TestManyErrorsAreAllReported(t *testing.T) {
	const tags = 10_000
	var b strings.Builder
	b.WriteString("gateway: {site: north, id: gw1}\nsources:\n  - name: m\n    type: modbus\n    connection: {url: 'tcp://127.0.0.1:1'}\n    tags:\n")
	for i := range tags {
		fmt.Fprintf(&b, "      - {name: a%d, address: 'holding:%d', type: uint16, scal: 1, min: 2, max: 1}\n", i, i)
	}
	b.WriteString("sinks: [{name: out, type: file, dir: /tmp/out}]\n")
	start := time.Now()
	_, err := config.Parse("many.yaml", []byte(b.String()), registry())
	var all config.Errors
	if !errors.As(err, &all) || len(all) != 2*tags {
		t.Fatalf("%d errors", len(all))
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}
