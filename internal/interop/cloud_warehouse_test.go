//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/cloud/warehouse"
	"millrace/sample"
)

var loadedDay = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

// hourRow, energyRow and availabilityRow are rows of results as any writer of
// Parquet could make them; the columns' order is the fields'.
type hourRow struct {
	Site      string    `parquet:"site,optional"`
	Tag       string    `parquet:"tag,optional"`
	Hour      time.Time `parquet:"hour,optional,timestamp(microsecond)"`
	Samples   int64     `parquet:"samples,optional"`
	Good      int64     `parquet:"good"`
	Uncertain int64     `parquet:"uncertain"`
	Bad       int64     `parquet:"bad"`
	Minimum   *float64  `parquet:"minimum,optional"`
	Maximum   *float64  `parquet:"maximum,optional"`
	Mean      *float64  `parquet:"mean,optional"`
	First     *float64  `parquet:"first,optional"`
	Last      *float64  `parquet:"last,optional"`
	Deviation *float64  `parquet:"standard_deviation,optional"`
}

type energyRow struct {
	Site      string    `parquet:"site"`
	Tag       string    `parquet:"tag"`
	Hour      time.Time `parquet:"hour,timestamp(microsecond)"`
	Unit      *string   `parquet:"unit,optional"`
	Used      float64   `parquet:"used"`
	Readings  int64     `parquet:"readings"`
	Rollovers int64     `parquet:"rollovers"`
	Resets    int64     `parquet:"resets"`
}

type availabilityRow struct {
	Site         string    `parquet:"site"`
	Tag          string    `parquet:"tag"`
	Hour         time.Time `parquet:"hour,timestamp(microsecond)"`
	Good         float64   `parquet:"good_seconds"`
	Bad          float64   `parquet:"bad_seconds"`
	Gap          float64   `parquet:"gap_seconds"`
	Availability float64   `parquet:"availability"`
}

func putRows[T any](t *testing.T, p objects.Place, key string, rows []T) {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), p.Put(t.Context(), key, b.Bytes())); err != nil {
		t.Fatal(err)
	}
}

const (
	power  = "north/meter07/power"
	energy = "north/meter07/energy"
)

func hourOf(tag string, at time.Time, last float64, bad int64) hourRow {
	site, _, _ := strings.Cut(tag, "/")
	return hourRow{Site: site, Tag: tag, Hour: at, Samples: 60, Good: 60 - bad, Bad: bad, Minimum: &last, Maximum: &last, Mean: &last, First: &last, Last: &last}
}

// plantArchive is an archive of one site: two days of results, one of samples
// and gaps, and the catalogue. last is the last value of its power.
func plantArchive(t *testing.T, p objects.Place, last float64) {
	t.Helper()
	var hours []hourRow
	var used []energyRow
	var available []availabilityRow
	unit := "kWh"
	for day := range 2 {
		at := loadedDay.AddDate(0, 0, day)
		hours, used, available = nil, nil, nil
		for h := range 24 {
			hour := at.Add(time.Duration(h) * time.Hour)
			hours = append(hours, hourOf(power, hour, last+float64(h), int64(h%2)))
			used = append(used, energyRow{Site: "north", Tag: energy, Hour: hour, Unit: &unit, Used: 1.5, Readings: 60})
			available = append(available, availabilityRow{Site: "north", Tag: power, Hour: hour, Good: 2700, Bad: 600, Gap: 300, Availability: 0.75})
		}
		putRows(t, p, result.Key("hourly", at, 0), hours)
		putRows(t, p, result.Key("energy", at, 0), used)
		putRows(t, p, result.Key("availability", at, 0), available)
	}
	at := func(s int) int64 { return loadedDay.Add(time.Duration(s) * time.Second).UnixNano() }
	put := func(part int, rows ...sample.Sample) {
		var b bytes.Buffer
		w := lake.NewWriter(&b)
		for _, s := range rows {
			if err := w.Write(&lake.Row{Sample: s, Gateway: "gw1", Stream: "s1"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), p.Put(t.Context(), lake.SamplesKey("north", loadedDay, part), b.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	put(0, sample.Sample{Tag: "north/gw1/$heartbeat", Value: sample.StringValue(`{"a":"b\\c'"}`), Time: at(0)},
		sample.Sample{Tag: energy, Value: sample.IntValue(1<<60 + 1), Time: at(1), Producer: "p", Seq: 1<<63 + 5})
	put(1, sample.Sample{Tag: power, Value: sample.FloatValue(1.5), Time: at(1)}, sample.Sample{Tag: power, Value: sample.FloatValue(1.5), Time: at(1)},
		sample.Sample{Tag: power, Value: sample.FloatValue(2.5), Time: at(2), Quality: 0x40000000},
		sample.Sample{Tag: power, Time: at(3) + 789, Quality: 0x80000000}, sample.Sample{Tag: power, Value: sample.StringValue("a\x00b"), Time: at(2), SourceTime: at(4)})
	var b bytes.Buffer
	count := int64(7)
	err := lake.WriteGaps(&b, []lake.Gap{{Gateway: "gw1", ID: "e/1", Cause: "evicted", Source: "meters", Stream: "s1", FromSeq: 3, ToSeq: 4,
		From: loadedDay.Add(time.Hour), To: loadedDay.Add(time.Hour + 90*time.Second), Count: &count, Declared: loadedDay.Add(2 * time.Hour)}})
	if err := errors.Join(err, p.Put(t.Context(), lake.GapsKey("north", loadedDay, 0), b.Bytes())); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	err = lake.WriteCatalogue(&b, []lake.Entry{
		{Gateway: "gw1", Tag: energy, Stream: "s1", Source: "meters", Type: "int64", Unit: "kWh", Counter: true, CounterMax: 65535, Since: loadedDay},
		{Gateway: "gw1", Tag: power, Stream: "s1", Source: "meters", Type: "float64", Unit: "W", Description: "former", Since: loadedDay},
		{Gateway: "gw1", Tag: power, Stream: "s2", Source: "meters", Type: "float64", Unit: "kW", Description: "power of the press", Since: loadedDay.Add(time.Hour)}})
	if err := errors.Join(err, p.Put(t.Context(), lake.CatalogueKey("north", 0), b.Bytes())); err != nil {
		t.Fatal(err)
	}
}

func folderPlace(t *testing.T) objects.Place {
	t.Helper()
	p, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// openWarehouse connects and makes tables and views.
func openWarehouse(t *testing.T, url string) *warehouse.Postgres {
	t.Helper()
	db, err := warehouse.OpenPostgres(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	for range 2 { // what exists stays as it is
		if err := errors.Join(warehouse.Apply(t.Context(), db, "ddl", warehouse.Script(warehouse.PostgreSQL, warehouse.DefaultSchema)),
			warehouse.Apply(t.Context(), db, "views", warehouse.Views(warehouse.PostgreSQL, warehouse.DefaultSchema))); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func loadOptions(t *testing.T, p objects.Place, db warehouse.Database) warehouse.Options {
	return warehouse.Options{Archive: p, DB: db, Schema: warehouse.DefaultSchema, History: true, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

func loadNow(t *testing.T, o warehouse.Options) string {
	t.Helper()
	r, err := warehouse.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, x := range r.Targets {
		if x.Folders > 0 {
			out = append(out, fmt.Sprintf("%s %d/%d", x.Name, x.Folders, x.Rows))
		}
	}
	return strings.Join(out, ", ")
}

// answers checks what a query returns: fields by spaces, rows by semicolons.
func answers(t *testing.T, db warehouse.Database, sql, want string) {
	t.Helper()
	rows, err := db.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, strings.Join(r, " "))
	}
	if got := strings.Join(out, "; "); got != want {
		t.Errorf("%s\ngot  %s\nwant %s", sql, got, want)
	}
}

// checkWarehouse asks every view about plantArchive.
func checkWarehouse(t *testing.T, db warehouse.Database, last float64) {
	t.Helper()
	answers(t, db, `SELECT COUNT(*), COUNT(DISTINCT "hour"), MIN("unit"), MIN("description"), MIN("device"), MIN("name") FROM millrace.hourly_values`,
		"48 48 kW power of the press meter07 power")
	answers(t, db, `SELECT COUNT(*), MIN("last"), MAX("hour") FROM millrace.good_hourly_values`, fmt.Sprintf("24 %v 2026-11-29 22:00:00", last))
	answers(t, db, `SELECT "tag", "hour", "value", "unit" FROM millrace.latest_values`, fmt.Sprintf("%s 2026-11-29 23:00:00 %v kW", power, last+23))
	answers(t, db, `SELECT "day", "used", "unit", "readings", "hours" FROM millrace.daily_energy ORDER BY "day"`, "2026-11-28 36 kWh 1440 24; 2026-11-29 36 kWh 1440 24")
	answers(t, db, `SELECT COUNT(*), SUM("used") FROM millrace.hourly_energy`, "48 72")
	answers(t, db, `SELECT "month", "availability", "gap_seconds" FROM millrace.monthly_availability`, "2026-11-01 0.75 14400")
	answers(t, db, `SELECT COUNT(*), MIN("unit") FROM millrace.hourly_availability`, "48 kW")
	answers(t, db, `SELECT (SELECT COUNT(*) FROM millrace.daily_kpi), (SELECT COUNT(*) FROM millrace.anomalies)`, "0 0")
	answers(t, db, `SELECT "tag", "unit", "counter", "counter_max", "stream" FROM millrace.tags ORDER BY "tag"`, energy+" kWh t 65535 s1; "+power+" kW f  s2")
	answers(t, db, `SELECT COUNT(*), COUNT(DISTINCT "tag") FROM millrace.samples`, "7 3")
	answers(t, db, `SELECT "value", "text", "quality", "time", "time_nanos", "gateway_time" IS NULL FROM millrace.history WHERE "tag" = '`+power+`' ORDER BY "time", "value"`,
		"1.5  good 2026-11-28 00:00:01 0 t; 1.5  good 2026-11-28 00:00:01 0 t; 2.5  uncertain 2026-11-28 00:00:02 0 t;   bad 2026-11-28 00:00:03 789 t;  a\uFFFDb good 2026-11-28 00:00:04 0 f")
	answers(t, db, `SELECT "integer" FROM millrace.good_history WHERE "tag" = '`+energy+`'`, "1152921504606846977")
	answers(t, db, `SELECT "seq", "producer" FROM millrace.samples WHERE "tag" = '`+energy+`'`, "-9223372036854775803 p")
	answers(t, db, `SELECT "text" FROM millrace.samples WHERE "tag" LIKE '%heartbeat'`, `{"a":"b\\c'"}`)
	answers(t, db, `SELECT "tag", "quality" FROM millrace.latest_history ORDER BY "tag"`, energy+" good; "+power+" good")
	answers(t, db, `SELECT "cause", "seconds", "count" FROM millrace.gap_list`, "evicted 90 7")
}

const firstLoad = "hourly 2/48, energy 2/48, availability 2/48, samples 1/7, gaps 1/1, catalogue 1/3"

func TestCloudWarehouseOnPostgres(t *testing.T) {
	db := openWarehouse(t, postgres(t))
	p := folderPlace(t)
	plantArchive(t, p, 100)
	o := loadOptions(t, p, db)
	if got := loadNow(t, o); got != firstLoad {
		t.Errorf("loaded %s", got)
	}
	checkWarehouse(t, db, 100)
	answers(t, db, `SELECT COUNT(*), SUM("rows"), MAX("version"), MAX("loaded_at") > (CURRENT_TIMESTAMP AT TIME ZONE 'UTC') - INTERVAL '10 minutes' FROM millrace.loads`, "10 155 1 t")
	if got := loadNow(t, o); got != "" {
		t.Errorf("a second time: %s", got)
	}

	// A day is analyzed again: one row is another, one is gone, one is new.
	rows := []hourRow{hourOf(power, loadedDay, 7, 0), hourOf("north/meter08/power", loadedDay.Add(time.Hour), 8, 0)}
	putRows(t, p, result.Key("hourly", loadedDay, 0), rows)
	if got := loadNow(t, o); got != "hourly 1/2" {
		t.Errorf("after a change: %s", got)
	}
	answers(t, db, `SELECT "tag", "last" FROM millrace.hourly WHERE "hour" < '2026-11-29' ORDER BY "hour"`, power+" 7; north/meter08/power 8")
	answers(t, db, `SELECT COUNT(*) FROM millrace.hourly`, "26")
	answers(t, db, `SELECT "version", "rows", "folder_rows" FROM millrace.loads WHERE "folder" = 'results/hourly/date=2026-11-28/'`, "2 2 2")

	// A day has no rows any more.
	if err := errors.Join(p.Delete(t.Context(), result.Key("energy", loadedDay, 0)),
		p.Put(t.Context(), "results/state/energy/2026-11.json", []byte(`{"version": 1, "days": {"2026-11-28": {"rows": 0}}}`))); err != nil {
		t.Fatal(err)
	}
	if got := loadNow(t, o); got != "energy 1/0" {
		t.Errorf("after a day without rows: %s", got)
	}
	answers(t, db, `SELECT COUNT(*), MIN("hour") FROM millrace.energy`, "24 2026-11-29 00:00:00")

	// A table is dropped and made anew.
	if _, err := db.Query(t.Context(), `DROP TABLE millrace.energy CASCADE`); err != nil {
		t.Fatal(err)
	}
	if _, err := warehouse.Load(t.Context(), o); !errors.Is(err, warehouse.ErrTables) {
		t.Errorf("without its table: %v", err)
	}
	if err := errors.Join(warehouse.Apply(t.Context(), db, "ddl", warehouse.Script(warehouse.PostgreSQL, warehouse.DefaultSchema)),
		warehouse.Apply(t.Context(), db, "views", warehouse.Views(warehouse.PostgreSQL, warehouse.DefaultSchema))); err != nil {
		t.Fatal(err)
	}
	if got := loadNow(t, o); got != "energy 1/24" {
		t.Errorf("after a table was made anew: %s", got)
	}

	// Fewer files of samples, and one of them is the same.
	if err := p.Delete(t.Context(), lake.SamplesKey("north", loadedDay, 1)); err != nil {
		t.Fatal(err)
	}
	if got := loadNow(t, o); got != "samples 1/2" {
		t.Errorf("after a file is gone: %s", got)
	}
	answers(t, db, `SELECT COUNT(*) FROM millrace.samples`, "2")
	answers(t, db, `SELECT COUNT(*) FROM millrace.loads WHERE "target" = 'samples'`, "1")
	for _, table := range []string{"hourly", "energy", "availability", "samples", "gaps", "catalogue"} {
		answers(t, db, "SELECT COUNT(*) FROM millrace.staging_"+table, "0")
	}
}

// TestCloudWarehouseRefusesWrongRows: what does not add up changes nothing.
func TestCloudWarehouseRefusesWrongRows(t *testing.T) {
	db := openWarehouse(t, postgres(t))
	for name, c := range map[string]struct {
		rows []hourRow
		want string
	}{
		"a row of another day": {[]hourRow{hourOf(power, loadedDay, 2, 0), hourOf(power, loadedDay.AddDate(0, 0, 5), 2, 0)}, `"folder_rows"`},
		"a key twice":          {[]hourRow{hourOf(power, loadedDay, 2, 0), hourOf(power, loadedDay, 3, 0)}, "two rows of the file have the same key"},
		"a key that is null":   {[]hourRow{{Site: "north", Tag: power}}, `"hour"`},
	} {
		p := folderPlace(t)
		putRows(t, p, result.Key("hourly", loadedDay, 0), []hourRow{hourOf(power, loadedDay, 1, 0)})
		o := loadOptions(t, p, db)
		o.Results, o.History = []string{"hourly"}, false
		if _, err := warehouse.Load(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		putRows(t, p, result.Key("hourly", loadedDay, 0), c.rows)
		_, err := warehouse.Load(t.Context(), o)
		var failed *warehouse.StatementError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
		answers(t, db, `SELECT "last" FROM millrace.hourly`, "1")
		answers(t, db, `SELECT "rows" FROM millrace.loads`, "1")
	}
}

// TestCloudWarehouseSeesAKeyTwice: also where no primary key is enforced, as on
// Redshift.
func TestCloudWarehouseSeesAKeyTwice(t *testing.T) {
	db := openWarehouse(t, postgres(t))
	if _, err := db.Query(t.Context(), `ALTER TABLE millrace.hourly DROP CONSTRAINT hourly_pkey`); err != nil {
		t.Fatal(err)
	}
	p := folderPlace(t)
	putRows(t, p, result.Key("hourly", loadedDay, 0), []hourRow{hourOf(power, loadedDay, 2, 0), hourOf(power, loadedDay, 3, 0)})
	o := loadOptions(t, p, db)
	if _, err := warehouse.Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), `"folder_rows"`) || !strings.Contains(err.Error(), "or a key twice") {
		t.Error(err)
	}
	answers(t, db, `SELECT COUNT(*) FROM millrace.hourly`, "0")
}

// TestCloudWarehouseLoadIsInterrupted: wherever it stops, the next load ends up
// with the same tables.
func TestCloudWarehouseLoadIsInterrupted(t *testing.T) {
	url := postgres(t)
	look := openWarehouse(t, url)
	p := folderPlace(t)
	plantArchive(t, p, 100)
	done, stop := false, 1
	for ; !done; stop++ {
		db, err := warehouse.OpenPostgres(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err = warehouse.Load(ctx, loadOptions(t, p, &stopping{Postgres: db, after: stop, stop: cancel}))
		done = err == nil
		cancel()
		db.Close(context.Background())
		if stop > 100 {
			t.Fatal("it never ends: ", err)
		}
		for _, table := range []string{"hourly", "energy", "availability", "samples", "gaps", "catalogue"} {
			answers(t, look, fmt.Sprintf(`SELECT (SELECT COUNT(*) FROM millrace.%s) = (SELECT COALESCE(SUM("rows"), 0) FROM millrace.loads WHERE "target" = '%s')`, table, table), "t")
		}
	}
	// What is loaded before an interruption need not be loaded again, so it is not
	// as many as there are statements; but each of a batch was the last once.
	if stop < 12 {
		t.Errorf("it was interrupted %d times only", stop-2)
	}
	checkWarehouse(t, look, 100)
	answers(t, look, `SELECT COUNT(*), MAX("version") FROM millrace.loads`, "10 1")
}

// stopping loses its connection after so many statements of a load.
type stopping struct {
	*warehouse.Postgres
	after int
	stop  func()
}

func (s *stopping) Run(ctx context.Context, b warehouse.Batch) error {
	if s.after <= len(b.Statements) {
		b.Statements = append(b.Statements[:s.after:s.after], warehouse.Statement{SQL: "SELECT pg_terminate_backend(pg_backend_pid())"})
		err := s.Postgres.Run(ctx, b)
		s.stop()
		if err == nil {
			return errors.New("the connection is there still")
		}
		return err
	}
	s.after -= len(b.Statements)
	return s.Postgres.Run(ctx, b)
}

// TestCloudWarehouseTwoLoadsAtOnce: they wait for each other.
func TestCloudWarehouseTwoLoadsAtOnce(t *testing.T) {
	url := postgres(t)
	db := openWarehouse(t, url)
	p := folderPlace(t)
	plantArchive(t, p, 100)
	var wg sync.WaitGroup
	for range 3 {
		other, err := warehouse.OpenPostgres(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close(context.Background())
		o := loadOptions(t, p, other)
		wg.Go(func() {
			if _, err := warehouse.Load(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkWarehouse(t, db, 100)
}

// TestCloudWarehouseSpeaksRedshift holds the texts against a grammar of Redshift
// that others wrote. It knows the reserved words, too.
func TestCloudWarehouseSpeaksRedshift(t *testing.T) {
	fluff := installed(t, "SQLFLUFF")
	dir := t.TempDir()
	files := map[string]string{"ddl.sql": warehouse.Script(warehouse.Redshift, warehouse.DefaultSchema), "views.sql": warehouse.Views(warehouse.Redshift, warehouse.DefaultSchema),
		"wrong.sql": "SELECT tag FROM millrace.hourly;\n"}
	for name, text := range files {
		place, err := objects.Parse(dir, nil)
		if err := errors.Join(err, place.Put(t.Context(), name, []byte(text))); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := filepath.Abs("../../cloud/warehouse/testdata/load.redshift.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "ddl.sql"), filepath.Join(dir, "views.sql"), golden, filepath.Join(dir, "wrong.sql")} {
		cmd := exec.Command(fluff, "parse", "--dialect", "redshift", "--nocolor", path)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if wrong := strings.HasSuffix(path, "wrong.sql"); (err != nil) != wrong {
			t.Errorf("%s: %v\n%s", path, err, out[max(0, len(out)-2000):])
		}
	}
}

// TestCloudWarehouseByJDBC reads the views as docs/cloud-warehouse.md says.
func TestCloudWarehouseByJDBC(t *testing.T) {
	jars, url := installed(t, "JDBC"), postgres(t)
	db := openWarehouse(t, url)
	p := folderPlace(t)
	plantArchive(t, p, 100)
	loadNow(t, loadOptions(t, p, db))
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("java", "-cp", filepath.Join(jars, "*"), script(t, "WarehouseQuery.java"),
		fmt.Sprintf("jdbc:postgresql://127.0.0.1:%d/postgres", cfg.Port), "loader", "", energy).CombinedOutput()
	if want := "2026-11-28 36.0 kWh\n2026-11-29 36.0 kWh\n"; err != nil || string(out) != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, out, want)
	}
}
