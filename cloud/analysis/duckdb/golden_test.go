//go:build duckdb

package duckdb

import (
	"context"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/analysistest"
	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

var update = flag.Bool("update", false, "write the golden results anew")

// TestGolden computes all results of a generated archive of a million samples,
// and holds them against what they were when they were looked at.
func TestGolden(t *testing.T) {
	if testing.Short() {
		t.Skip("a million samples")
	}
	ctx := context.Background()
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	plant := analysistest.Plant{First: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Days: 9, Sites: []string{"007", "north"}, Devices: 4, Every: 40 * time.Second}
	samples, err := plant.Write(ctx, place)
	if err != nil {
		t.Fatal(err)
	}
	local, err := New(ctx, Options{Memory: 256 << 20, Threads: 2, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	m := &analysis.Machine{Place: place, Local: local, Dir: t.TempDir()}
	defer m.Close()
	begun := time.Now()
	if _, err := analysis.Run(ctx, analysis.Options{Place: place, Engine: m, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d samples in %v", samples, time.Since(begun).Round(10*time.Millisecond))
	var b strings.Builder
	for _, r := range result.All() {
		var tables []*analysistest.Table
		for d := range plant.Days {
			table, err := analysistest.Read(ctx, place, result.Key(r.Name, plant.First.AddDate(0, 0, d), 0))
			if err != nil {
				t.Fatal(err)
			}
			tables = append(tables, table)
		}
		b.WriteString(analysistest.Summary(r, tables) + "\n")
	}
	golden := filepath.Join("testdata", "golden.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// TestSpills: what does not fit into the memory goes to files of the work
// directory, and the result is the same.
func TestSpills(t *testing.T) {
	if testing.Short() {
		t.Skip("a million samples")
	}
	ctx := context.Background()
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	plant := analysistest.Plant{First: day, Days: 1, Sites: []string{"north"}, Devices: 12, Every: 6 * time.Second}
	if _, err := plant.Write(ctx, place); err != nil {
		t.Fatal(err)
	}
	var tables []*analysistest.Table
	for _, memory := range []int64{1 << 30, 48 << 20} {
		dir := t.TempDir()
		local, err := New(ctx, Options{Memory: memory, Threads: 1, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		m := &analysis.Machine{Place: place, Local: local, Dir: dir}
		watch, spilled := make(chan struct{}), make(chan bool)
		go func() { spilled <- sees(dir, watch) }()
		_, err = analysis.Run(ctx, analysis.Options{Place: place, Engine: m, Results: []string{"availability"}, Log: slog.New(slog.DiscardHandler)})
		close(watch)
		if beside := <-spilled; beside != (memory < 1<<30) {
			t.Errorf("%d MiB: files beside it: %v", memory>>20, beside)
		}
		if err != nil {
			t.Fatal(err)
		}
		table, err := analysistest.Read(ctx, place, result.Key("availability", day, 0))
		if err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table)
		if err := local.Close(); err != nil {
			t.Error(err)
		}
		if err := place.Delete(ctx, result.Key("availability", day, 0)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := result.Named("availability")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range analysistest.Differences(r, tables[0], tables[1]) {
		t.Error(d)
	}
}

// sees reports whether DuckDB made a file of its own in dir before end.
func sees(dir string, end <-chan struct{}) bool {
	found := false
	for {
		select {
		case <-end:
			return found
		case <-time.After(5 * time.Millisecond):
		}
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
			found = found || strings.Contains(filepath.Base(path), "duckdb_temp")
			return nil
		})
		if err != nil {
			return found
		}
	}
}
