//go:build interop && duckdb

package interop

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/analysistest"
	"millrace/cloud/analysis/duckdb"
	"millrace/cloud/analysis/result"
	"millrace/cloud/analysis/spark"
	"millrace/cloud/objects"
)

// TestCloudAnalysisSpark runs the texts on DuckDB and on Spark over the same
// archive, and compares every row.
func TestCloudAnalysisSpark(t *testing.T) {
	python := installed(t, "SPARK")
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	// Sites that are no plain words: one looks like a number.
	plant := analysistest.Plant{First: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Days: 10, Sites: []string{"007", "a b%c=d"}, Devices: 3, Every: 5 * time.Minute}
	place := func() objects.Place {
		p, err := objects.Parse(t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plant.Write(ctx, p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	byDuck, bySpark := place(), place()
	// Two days, and of the nine before what these are made of.
	from := plant.First.AddDate(0, 0, plant.Days-2)

	local, err := duckdb.New(ctx, duckdb.Options{Memory: 512 << 20, Threads: 2, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	machine := &analysis.Machine{Place: byDuck, Local: local, Dir: t.TempDir()}
	defer machine.Close()
	engines := map[objects.Place]analysis.Engine{
		byDuck:  machine,
		bySpark: &spark.Engine{Place: bySpark, Runner: &spark.Machine{Python: python, Master: "local[2]"}},
	}
	for place, engine := range engines {
		begun := time.Now()
		report, err := analysis.Run(ctx, analysis.Options{Place: place, Engine: engine, From: from, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%T: %v, %+v", engine, time.Since(begun).Round(time.Second), report.Counts)
	}
	for _, r := range result.All() {
		rows := 0
		for n := range plant.Days {
			day := plant.First.AddDate(0, 0, n)
			if day.Before(from) && r.Name != "hourly" && r.Name != "energy" {
				continue
			}
			key := result.Key(r.Name, day, 0)
			a, errA := analysistest.Read(ctx, byDuck, key)
			b, errB := analysistest.Read(ctx, bySpark, key)
			if err := errors.Join(errA, errB); err != nil {
				t.Errorf("%s: %v", key, err)
				continue
			}
			for _, d := range analysistest.Differences(r, a, b) {
				t.Errorf("%s: DuckDB and Spark: %s", key, d)
			}
			rows += len(a.Rows)
		}
		t.Logf("%s: %d rows compared", r.Name, rows)
		if rows == 0 {
			t.Errorf("%s has no rows", r.Name)
		}
	}
	// What Spark has made is not due for either engine.
	report, err := analysis.Run(ctx, analysis.Options{Place: bySpark, Engine: engines[bySpark], From: from, Log: slog.New(slog.DiscardHandler)})
	if err != nil || report.Counts[0].Computed != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
