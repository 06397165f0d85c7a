package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/gateway/config"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
)

func registry() config.Registry {
	return config.Registry{Protocols: protocols.List(), Sinks: uploader.List()}
}

// TestBadConfigurations holds the exact messages of each file in testdata/bad
// against the text beside it. UPDATE_GOLDEN=1 writes the texts anew: read them.
func TestBadConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse(name+".yaml", data, registry())
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
				if !strings.HasPrefix(line, name+".yaml:") {
					t.Errorf("a message without its file: %q", line)
				}
			}
			if strings.Contains(got, "hunter2") {
				t.Error("a message repeats a secret")
			}
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
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): ": cannot be opened: no such file or directory; name the configuration with --config FILE",
		dir:                        ": cannot be read: is a directory; is it a file?",
		binary:                     ": is not a YAML file: it holds bytes that are no text; is it the right file?",
		large:                      ": is larger than 8MiB; is it a configuration?",
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
sinks:
  - {name: out, type: file, dir: /tmp/out}
`), registry())
	if err != nil {
		t.Fatal(err)
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
