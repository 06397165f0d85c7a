//go:build duckdb

package clouddemo

import (
	"cmp"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/duckdb"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
)

// TestResultsAtAnyTime: what is expected of the results does not depend on when
// the demo is started, be that about an hour's or a day's end.
func TestResultsAtAnyTime(t *testing.T) {
	engine, err := duckdb.New(t.Context(), duckdb.Options{Memory: 256 << 20, Threads: 1, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	// A Sunday evening, and the Monday.
	for _, clock := range []string{"29 23:59:58", "30 00:00:00", "30 00:00:03", "30 00:59:59", "30 01:00:00", "30 01:05:00", "30 12:30:00"} {
		now, err := time.Parse("2006-01-02 15:04:05", "2026-11-"+clock)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{report: &Report{}}
		if w.archive, err = objects.Parse(t.TempDir(), nil); err != nil {
			t.Fatal(err)
		}
		if w.logger, err = newLogger(now); err != nil {
			t.Fatal(err)
		}
		w.fill(t, now.Add(10*time.Second))
		_, err = analysis.Run(t.Context(), analysis.Options{Place: w.archive, Log: slog.New(slog.DiscardHandler),
			Engine: &analysis.Machine{Place: w.archive, Local: engine, Dir: t.TempDir()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.resultsAccount(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range w.report.Findings {
			t.Errorf("started on the %s: %s", clock, f)
		}
	}
}

// fill puts the logger's readings and a heartbeat into the archive.
func (w *world) fill(t *testing.T, beat time.Time) {
	t.Helper()
	days := map[time.Time][]lake.Row{}
	add := func(tag string, at time.Time, v sample.Value) {
		day := at.Truncate(24 * time.Hour)
		days[day] = append(days[day], lake.Row{Gateway: Gateway, Stream: "s", Sample: sample.Sample{Tag: tag, Time: at.UnixNano(), Value: v}})
	}
	for _, r := range w.logger.readings {
		add(r.tag, r.at, sample.FloatValue(r.value))
	}
	add(Site+"/"+Gateway+"/$heartbeat", beat, sample.StringValue("{}"))
	put := func(key string, write func(*os.File) error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := cmp.Or(write(f), f.Close(), w.archive.PutFile(t.Context(), key, path)); err != nil {
			t.Fatal(err)
		}
	}
	for day, rows := range days {
		slices.SortStableFunc(rows, func(a, b lake.Row) int { return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Time, b.Time)) })
		put(lake.SamplesKey(Site, day, 0), func(f *os.File) error {
			p := lake.NewWriter(f)
			for i := range rows {
				if err := p.Write(&rows[i]); err != nil {
					return err
				}
			}
			return p.Close()
		})
	}
	put(lake.CatalogueKey(Site, 0), func(f *os.File) error {
		return lake.WriteCatalogue(f, []lake.Entry{
			{Gateway: Gateway, Tag: powerTag, Stream: "s", Unit: "kW"},
			{Gateway: Gateway, Tag: energyTag, Stream: "s", Unit: "kWh", Counter: true, CounterMax: counterMax},
		})
	})
}
