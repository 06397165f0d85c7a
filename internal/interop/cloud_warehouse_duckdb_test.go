//go:build interop && duckdb

package interop

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/duckdb"
	"millrace/cloud/lake"
	"millrace/cloud/warehouse"
	"millrace/sample"
)

// TestCloudWarehouseTakesTheAnalysis: the files that DuckDB writes are loaded as
// they are, and the views say what the samples do.
func TestCloudWarehouseTakesTheAnalysis(t *testing.T) {
	db := openWarehouse(t, postgres(t))
	p := folderPlace(t)
	plantArchive(t, p, 1) // its results are written over
	// Two days of a counter that goes on by 0.5 kWh a minute and wraps once, and of
	// a power that is the minute of its hour.
	reading := int64(65000)
	for day := range 2 {
		var b bytes.Buffer
		w := lake.NewWriter(&b)
		for _, tag := range []string{energy, power} {
			for minute := range 24 * 60 {
				s := sample.Sample{Tag: tag, Time: loadedDay.AddDate(0, 0, day).Add(time.Duration(minute) * time.Minute).UnixNano(), Value: sample.FloatValue(float64(minute % 60))}
				if tag == energy {
					s.Value = sample.IntValue(reading)
					if reading++; reading > 65535 {
						reading = 0
					}
				}
				if err := w.Write(&lake.Row{Sample: s, Gateway: "gw1", Stream: "s1"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(w.Close(), p.Put(t.Context(), lake.SamplesKey("north", loadedDay.AddDate(0, 0, day), 0), b.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Delete(t.Context(), lake.SamplesKey("north", loadedDay, 1)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	local, err := duckdb.New(t.Context(), duckdb.Options{Memory: 256 << 20, Threads: 1, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	compute := func() *analysis.Report {
		r, err := analysis.Run(t.Context(), analysis.Options{Place: p, Engine: &analysis.Machine{Place: p, Local: local, Dir: dir}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	made := compute()
	o := loadOptions(t, p, db)
	loaded, err := warehouse.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range made.Counts {
		if loaded.Targets[i].Name != n.Result || loaded.Targets[i].Rows != n.Rows {
			t.Errorf("%s: computed %d rows, loaded %+v", n.Result, n.Rows, loaded.Targets[i])
		}
		answers(t, db, "SELECT COUNT(*) FROM millrace."+n.Result, fmt.Sprint(n.Rows))
	}
	answers(t, db, `SELECT COUNT(*), MIN("samples"), MAX("mean"), MIN("mean"), MIN("last"), MIN("hour"), MAX("hour"), MIN("unit") FROM millrace.good_hourly_values WHERE "tag" = '`+power+`'`,
		"48 60 29.5 29.5 59 2026-11-28 00:00:00 2026-11-29 23:00:00 kW")
	answers(t, db, `SELECT SUM("used"), SUM("rollovers"), MIN("unit") FROM millrace.daily_energy WHERE "tag" = '`+energy+`'`, "2879 1 kWh")
	compute()
	if got := loadNow(t, o); got != "" {
		t.Errorf("nothing has changed, and it loads %s", got)
	}
}
