//go:build duckdb

package duckdb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
	"millrace/sample"
)

// day is the one that is computed.
var day = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

// at is a time of the day: "10:30" or "10:30:00.000000001", "-1 23:59" on the day
// before.
func at(t *testing.T, text string) time.Time {
	t.Helper()
	offset := 0
	if before, clock, ok := strings.Cut(text, " "); ok {
		if _, err := fmt.Sscan(before, &offset); err != nil {
			t.Fatal(err)
		}
		text = clock
	}
	layout := "15:04"
	if strings.Count(text, ":") == 2 {
		layout = "15:04:05"
	}
	c, err := time.Parse(layout, text)
	if err != nil {
		t.Fatal(err)
	}
	return day.AddDate(0, 0, offset).Add(c.Sub(c.Truncate(24 * time.Hour)))
}

// reading is a sample of a hand-made archive.
type reading struct {
	tag, at string
	value   any // nil, float64, int, bool or string
	quality sample.Quality
}

func rows(t *testing.T, readings []reading) []lake.Row {
	t.Helper()
	var out []lake.Row
	for _, r := range readings {
		row := lake.Row{Gateway: "gw1", Stream: "s1", Sample: sample.Sample{Tag: r.tag, Quality: r.quality, Time: at(t, r.at).UnixNano()}}
		switch v := r.value.(type) {
		case float64:
			row.Value = sample.FloatValue(v)
		case int:
			row.Value = sample.IntValue(int64(v))
		case bool:
			row.Value = sample.BoolValue(v)
		case string:
			row.Value = sample.StringValue(v)
		}
		out = append(out, row)
	}
	slices.SortStableFunc(out, func(a, b lake.Row) int {
		if c := strings.Compare(a.Tag, b.Tag); c != 0 {
			return c
		}
		return int(a.Time - b.Time)
	})
	return out
}

// folder writes files of a hand-made archive, one for each site, and knows them
// as the inputs of a query.
type folder struct {
	t     *testing.T
	dir   string
	files map[analysis.View][]analysis.Source
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	return &folder{t: t, dir: t.TempDir(), files: map[analysis.View][]analysis.Source{}}
}

func (f *folder) add(v analysis.View, site string, write func(*os.File) error) {
	f.t.Helper()
	path := filepath.Join(f.dir, fmt.Sprintf("%s-%d.parquet", v, len(f.files[v])))
	file, err := os.Create(path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	if err := write(file); err != nil {
		f.t.Fatal(err)
	}
	f.files[v] = append(f.files[v], analysis.Source{Site: site, Path: path})
}

func (f *folder) samples(readings []reading) {
	f.t.Helper()
	f.samplesOf("gw1", readings)
}

func (f *folder) samplesOf(gateway string, readings []reading) {
	f.t.Helper()
	f.add(analysis.Samples, "s", func(file *os.File) error {
		w := lake.NewWriter(file)
		for _, r := range rows(f.t, readings) {
			r.Gateway = gateway
			if err := w.Write(&r); err != nil {
				return err
			}
		}
		return w.Close()
	})
}

func (f *folder) gaps(gaps ...lake.Gap) {
	f.t.Helper()
	f.add(analysis.Gaps, "s", func(file *os.File) error { return lake.WriteGaps(file, gaps) })
}

func (f *folder) catalogue(entries ...lake.Entry) {
	f.t.Helper()
	f.add(analysis.Catalogue, "s", func(file *os.File) error { return lake.WriteCatalogue(file, entries) })
}

func start(t *testing.T) *Engine {
	t.Helper()
	e, err := New(context.Background(), Options{Memory: 256 << 20, Threads: 2, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// compute runs a result's text on the folder and returns its rows, a line for
// each. The output is kept, as an input of what is computed next.
func (f *folder) compute(e *Engine, name string, d time.Time) []string {
	f.t.Helper()
	r, err := result.Named(name)
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := analysis.Text(name)
	if err != nil {
		f.t.Fatal(err)
	}
	out := filepath.Join(f.dir, name+d.Format(time.DateOnly)+".parquet")
	n, err := e.Compute(context.Background(), analysis.Query{Result: r, Day: d, Text: text, Files: f.files, Out: out})
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
	lines := read(f.t, e, out)
	if int(n) != len(lines) {
		f.t.Errorf("%s: %d rows, and the file has %d", name, n, len(lines))
	}
	f.files[analysis.View(name)] = append(f.files[analysis.View(name)], analysis.Source{Path: out})
	return lines
}

// read prints a result's file: its columns by '|', a null as '-', an hour as in
// "10h".
func read(t *testing.T, e *Engine, path string) (lines []string) {
	t.Helper()
	all, err := e.conn.QueryContext(context.Background(), "SELECT * FROM read_parquet("+quote(path)+")")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	cols, err := all.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for all.Next() {
		cells := make([]any, len(cols))
		into := make([]any, len(cols))
		for i := range cells {
			into[i] = &cells[i]
		}
		if err := all.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var line []string
		for _, c := range cells {
			switch v := c.(type) {
			case nil:
				line = append(line, "-")
			case time.Time:
				line = append(line, fmt.Sprintf("%dh", int(v.Sub(day).Hours())))
			case float64:
				line = append(line, fmt.Sprintf("%.10g", v))
			default:
				line = append(line, fmt.Sprint(v))
			}
		}
		lines = append(lines, strings.Join(line, " | "))
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func expect(t *testing.T, got []string, want string) {
	t.Helper()
	var lines []string
	for line := range strings.SplitSeq(want, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if !slices.Equal(got, lines) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
	}
}

const bad, uncertain = sample.BadTimeout, sample.Uncertain

func TestHourly(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.samples([]reading{
		{"s/d/a", "00:00", 1.0, 0},
		{"s/d/a", "00:59:59.999999999", 4.0, 0},
		{"s/d/a", "00:30", 100.0, bad},
		{"s/d/a", "00:31", 100.0, uncertain},
		{"s/d/a", "00:32", nil, bad},
		{"s/d/a", "00:40", 1.0, 0},
		// An hour without data, then one with Bad samples only.
		{"s/d/a", "02:00", nil, bad},
		// One instant twice: the highest counts as the last.
		{"s/d/a", "03:00", 7, 0},
		{"s/d/a", "03:00", 9, 0},
		// A duplicate without an identity is two.
		{"s/d/a", "04:00", 5, 0},
		{"s/d/a", "04:00", 5, 0},
		// The last nanosecond of the day.
		{"s/d/a", "23:59:59.999999999", true, 0},
		{"s/d/text", "05:00", "runs", 0},
		{"s/d/text", "05:01", "stands", bad},
		// No number: beyond what is one.
		{"s/d/wild", "06:00", 1e300, 0},
		{"s/d/wild", "06:01", 3.0, 0},
		{"s/gw1/$heartbeat", "06:01", "{}", 0},
		{"s/d/$x/deep", "06:01", 1, 0},
	})
	expect(t, f.compute(e, "hourly", day), `
		s | s/d/a | 0h | 6 | 3 | 1 | 2 | 1 | 4 | 2 | 1 | 4 | 1.732050808
		s | s/d/a | 2h | 1 | 0 | 0 | 1 | - | - | - | - | - | -
		s | s/d/a | 3h | 2 | 2 | 0 | 0 | 7 | 9 | 8 | 7 | 9 | 1.414213562
		s | s/d/a | 4h | 2 | 2 | 0 | 0 | 5 | 5 | 5 | 5 | 5 | 0
		s | s/d/a | 23h | 1 | 1 | 0 | 0 | 1 | 1 | 1 | 1 | 1 | -
		s | s/d/text | 5h | 2 | 1 | 0 | 1 | - | - | - | - | - | -
		s | s/d/wild | 6h | 2 | 2 | 0 | 0 | 3 | 3 | 3 | 3 | 3 | -
	`)
}

func TestEnergy(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.catalogue(
		lake.Entry{Gateway: "gw1", Tag: "s/d/narrow", Stream: "s1", Source: "m", Unit: "kWh", Counter: true, CounterMax: 65535},
		lake.Entry{Gateway: "gw1", Tag: "s/d/open", Stream: "s1", Source: "m", Counter: true},
		lake.Entry{Gateway: "gw1", Tag: "s/d/scaled", Stream: "s1", Source: "m", Unit: "m³", Counter: true, CounterMax: 6553.5},
		lake.Entry{Gateway: "gw1", Tag: "s/d/text", Stream: "s1", Source: "m", Counter: true, CounterMax: 65535},
		lake.Entry{Gateway: "gw1", Tag: "s/d/level", Stream: "s1", Source: "m", Unit: "%"},
		// Once a counter, no more.
		lake.Entry{Gateway: "gw1", Tag: "s/d/was", Stream: "s1", Source: "m", Counter: true, Since: day.AddDate(-1, 0, 0)},
		lake.Entry{Gateway: "gw1", Tag: "s/d/was", Stream: "s2", Source: "m", Since: day.AddDate(0, -1, 0)},
	)
	f.samples([]reading{
		{"s/d/narrow", "-7 12:00", 1, 0}, // seven days before, and not the last before the day
		{"s/d/narrow", "-1 23:59", 65500, 0},
		{"s/d/open", "-6 08:00", 10.5, 0},
	})
	f.samples([]reading{
		// The last of the day before was 65500. Rollover at 65535.
		{"s/d/narrow", "00:10", 65530, 0}, // +30
		{"s/d/narrow", "00:20", 0, bad},   // passed over
		{"s/d/narrow", "00:21", nil, bad},
		{"s/d/narrow", "00:22", 1, uncertain},
		{"s/d/narrow", "00:30", 65535, 0}, // +5
		{"s/d/narrow", "00:40", 0, 0},     // +1: 65535 → 0 is one step
		{"s/d/narrow", "00:40", 0, 0},     // a duplicate
		{"s/d/narrow", "00:50", 9, 0},     // +9
		{"s/d/narrow", "00:51", 70000, 0}, // more than 16 bits can say: no reading
		{"s/d/narrow", "00:52", -1, 0},
		// An hour without data. Then the step over it.
		{"s/d/narrow", "02:30", 209, 0}, // +200
		{"s/d/narrow", "03:00", 40000, 0},
		// Set back: from 40000 the wrap would be 25546, within half of the range
		// and fast, but not faster than what was seen: it is a rollover.
		{"s/d/narrow", "03:30", 10, 0},
		{"s/d/narrow", "04:00", 20, 0},
		// From 20 to 5 the wrap would be more than half of the range: a reset.
		{"s/d/narrow", "04:30", 5, 0},
		{"s/d/narrow", "04:31", 8, 0}, // +3
		// No counter_max: each step down is a reset. 10.5 was six days before.
		{"s/d/open", "10:00", 12.0, 0},
		{"s/d/open", "10:10", 2.0, 0},
		{"s/d/open", "10:20", 2.25, 0},
		// Scaled by 0.1: 6553.5 → 0 counts as 0, and one step of 0.1 is missed.
		{"s/d/scaled", "11:00", 6553.0, 0},
		{"s/d/scaled", "11:10", 6553.5, 0},
		{"s/d/scaled", "11:20", 0.0, 0},
		{"s/d/scaled", "11:30", 0.5, 0},
		{"s/d/text", "12:00", "65535", 0},
		{"s/d/level", "12:00", 5, 0},
		{"s/d/was", "12:00", 5, 0},
	})
	expect(t, f.compute(e, "energy", day), `
		s | s/d/narrow | 0h | kWh | 45 | 5 | 1 | 0
		s | s/d/narrow | 2h | kWh | 200 | 1 | 0 | 0
		s | s/d/narrow | 3h | kWh | 65337 | 2 | 1 | 0
		s | s/d/narrow | 4h | kWh | 13 | 3 | 0 | 1
		s | s/d/open | 10h | - | 1.75 | 3 | 0 | 1
		s | s/d/scaled | 11h | m³ | 1 | 4 | 1 | 0
	`)
}

// TestEnergyReset: a counter that is set back from high up, where the wrap would
// be less than half of the range, is told from a rollover by its rate.
func TestEnergyReset(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.catalogue(lake.Entry{Gateway: "gw1", Tag: "s/d/n", Stream: "s1", Source: "m", Unit: "kWh", Counter: true, CounterMax: 65535})
	f.samples([]reading{
		{"s/d/n", "00:00", 60000, 0}, // nothing before
		{"s/d/n", "00:01", 60010, 0}, // +10
		{"s/d/n", "00:02", 60020, 0}, // +10
		{"s/d/n", "00:03", 3, 0},     // 5519 in a minute: a reset
		{"s/d/n", "00:04", 13, 0},    // +10
		// Eight hours of silence, with a rollover in it: 57,000 → 200 is 8,736 at 10
		// a minute for 14 hours and more.
		{"s/d/n", "01:00", 57000, 0}, // +56987, a wild step
		{"s/d/n", "20:00", 200, 0},   // +8736
	})
	expect(t, f.compute(e, "energy", day), `
		s | s/d/n | 0h | kWh | 30 | 5 | 0 | 1
		s | s/d/n | 1h | kWh | 56987 | 1 | 0 | 0
		s | s/d/n | 20h | kWh | 8736 | 1 | 1 | 0
	`)
}
