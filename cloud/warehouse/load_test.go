package warehouse

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/lake"
)

func TestLoadsWhatHasChanged(t *testing.T) {
	p, db := archive(t), newMemory()
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2), hour("north/m1/power", day28, 1, 3))
	putHours(t, p, day28.AddDate(0, 0, 1), hour("north/m1/power", day28, 24, 4))
	put(t, p, "results/state.json", []byte("{}"))
	put(t, p, "results/hourly/date=2026-11-28/.part-123", []byte("half"))

	if got := load(t, options(p, db)).Rows(); got != 3 {
		t.Errorf("%d rows", got)
	}
	if got := db.names(); got != "load hourly of 2026-11-28 to 2026-11-29" {
		t.Errorf("loaded: %s", got)
	}
	if got := lines(load(t, options(p, db))); db.names() != "" || got != "hourly: loaded 0 rows of 0 files in 0 folders; 2 folders are as they were\n" {
		t.Errorf("again: %s", got)
	}
	// The same size and another content.
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 7), hour("north/m1/power", day28, 1, 3))
	load(t, options(p, db))
	if len(db.batches) != 1 || !strings.Contains(db.batches[0].Statements[6].SQL, "CAST('results/hourly/date=2026-11-28/' AS VARCHAR(1024)), 2, ") {
		t.Errorf("the second version of a day: %+v", db.batches)
	}
	if got := db.names(); got != "load hourly of 2026-11-28" {
		t.Errorf("loaded: %s", got)
	}
}

// TestDayWithoutRows: a day that was analyzed again and has no rows any more has no
// file, and its rows go; a day whose file is gone otherwise keeps them.
func TestDayWithoutRows(t *testing.T) {
	p, db := archive(t), newMemory()
	for i := range 2 {
		putHours(t, p, day28.AddDate(0, 0, i), hour("north/m1/power", day28, 24*i, 2))
	}
	load(t, options(p, db))
	db.names()
	for i := range 2 {
		if err := p.Delete(t.Context(), result.Key("hourly", day28.AddDate(0, 0, i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, p, "results/state/hourly/2026-11.json", []byte(`{"version": 1, "days": {"2026-11-28": {"inputs": "a", "rows": 0}, "2026-11-29": {"inputs": "b", "rows": 1, "sha256": "c"}}}`))
	if states, err := Status(t.Context(), options(p, db)); err != nil || states[0].Pending != 1 || states[0].Gone != 1 || states[0].Folders != 2 {
		t.Errorf("%+v, %v", states[0], err)
	}
	if got := lines(load(t, options(p, db))); got != "hourly: loaded 0 rows of 1 files in 1 folders; 0 folders are as they were; 1 that are loaded are not in the archive any more\n" {
		t.Error(got)
	}
	if len(db.batches) != 1 || len(db.batches[0].Statements) != 7 {
		t.Errorf("%+v", db.batches)
	}
	db.names()
	if load(t, options(p, db)); db.names() != "" {
		t.Error("it is emptied twice")
	}
	if states, err := Status(t.Context(), options(p, db)); err != nil || states[0].Pending != 0 || states[0].Folders != 1 || states[0].Rows != 1 {
		t.Errorf("%+v, %v", states[0], err)
	}
	// With rows again, it is another version of the day, so another token.
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2))
	load(t, options(p, db))
	if row := db.ledger[result.Key("hourly", day28, 0)]; row[2] != "3" {
		t.Errorf("%v", row)
	}
}

// TestATableThatWasMadeAnew is filled again, though the ledger is still there.
func TestATableThatWasMadeAnew(t *testing.T) {
	p, db := archive(t), newMemory()
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2))
	load(t, options(p, db))
	db.names()
	db.dropped = "hourly"
	load(t, options(p, db))
	if row := db.ledger[result.Key("hourly", day28, 0)]; db.names() != "load hourly of 2026-11-28" || row[2] != "2" {
		t.Errorf("%v", row)
	}
	db.dropped = ""
	if load(t, options(p, db)); db.names() != "" {
		t.Error("it is loaded a third time")
	}
}

// TestComputedResultsAreNotRead: the state beside the results has their hashes.
func TestComputedResultsAreNotRead(t *testing.T) {
	p, db := archive(t), newMemory()
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2))
	load(t, options(p, db))
	state := func(hash string) {
		put(t, p, "results/state/hourly/2026-11.json", []byte(`{"version": 1, "days": {"2026-11-28": {"inputs": "a", "rows": 1, "sha256": "`+hash+`"}}}`))
	}
	read := int64(0)
	o := options(p, db)
	o.Progress = func(done, _ int64) { read = done }
	state(db.ledger[result.Key("hourly", day28, 0)][4])
	if load(t, o); read != 0 {
		t.Errorf("read %d bytes", read)
	}
	state("another")
	if load(t, o); read == 0 {
		t.Error("a file that is said to be another was not read")
	}
}

func TestLoadKeepsToItsBounds(t *testing.T) {
	p, db := archive(t), newMemory()
	for i := range 4 {
		putHours(t, p, day28.AddDate(0, 0, i), hour("north/m1/power", day28, 24*i, 1))
	}
	o := options(p, db)
	o.From, o.To = day28.AddDate(0, 0, 1), day28.AddDate(0, 0, 3)
	load(t, o)
	if got := db.names(); got != "load hourly of 2026-11-29 to 2026-11-30" {
		t.Error(got)
	}
	o.Results = []string{"energy"}
	if got := lines(load(t, o)); got != "" {
		t.Error(got)
	}
	o.Results = []string{"hurly"}
	if _, err := Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), "hourly, energy") {
		t.Error(err)
	}
}

// TestManyDaysGoTogether: and no batch is beyond what the Data API takes.
func TestManyDaysGoTogether(t *testing.T) {
	p, db := archive(t), newMemory()
	for i := range 2*daysTogether + 1 {
		putHours(t, p, day28.AddDate(0, 0, i), hour("north/m1/power", day28, 24*i, 1))
	}
	load(t, options(p, db))
	if len(db.batches) != 3 {
		t.Errorf("%d batches", len(db.batches))
	}
	for _, b := range db.batches {
		if len(b.Statements) > maxStatements {
			t.Errorf("%s has %d statements", b.Name, len(b.Statements))
		}
	}
}

// TestHistory: each site's day is a transaction, and files that a manifest names
// and that are loaded are not read.
func TestHistory(t *testing.T) {
	p, db := archive(t), newMemory()
	sample := []any{"north/m1/power", day28, 0, nil, nil, 1, 1.5, nil, nil, 0, "gw1", "s1", nil, nil}
	m := &manifest.Manifest{}
	for _, site := range []string{"north", "o'south"} {
		for part := range 2 {
			put(t, p, lake.SamplesKey(site, day28, part), file(t, targetOf(t, "samples").file, sample))
		}
	}
	put(t, p, lake.CatalogueKey("north", 0), file(t, targetOf(t, "catalogue").file,
		[]any{"gw1", "north/m1/power", "s1", "meters", "float64", "kW", nil, false, nil, nil}))
	load(t, options(p, db))
	if got := db.names(); got != "load catalogue of site north" {
		t.Errorf("without history: %s", got)
	}
	o := options(p, db)
	o.History = true
	load(t, o)
	if got := db.names(); got != "load samples of site north, 2026-11-28; load samples of site o'south, 2026-11-28" {
		t.Errorf("with history: %s", got)
	}
	for key, row := range db.ledger {
		if strings.HasPrefix(key, "samples/") {
			m.Files = append(m.Files, manifest.File{Key: key, SHA256: row[4], Bytes: 1, Rows: 1})
		}
	}
	read := int64(0)
	o.Progress = func(done, _ int64) { read = done }
	load(t, o)
	if read == 0 || db.names() != "" {
		t.Error("without a manifest the files have to be read")
	}
	m.Table, m.Week, m.Version = "p-samples-2026-w48", "2026-w48", manifest.Version
	written := manifest.New(m.Table, day28, manifest.NewSum(), m.Files, nil)
	if err := manifest.Write(t.Context(), p, written); err != nil {
		t.Fatal(err)
	}
	read = 0
	o.Results = []string{"kpi"} // the catalogue is in no manifest
	load(t, o)
	if size := int64(len(file(t, targetOf(t, "catalogue").file, []any{"gw1", "north/m1/power", "s1", "meters", "float64", "kW", nil, false, nil, nil}))); read != size {
		t.Errorf("read %d bytes, the catalogue has %d", read, size)
	}
}

func TestAFailedLoadLeavesNothingBehind(t *testing.T) {
	p, db := archive(t), newMemory()
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2))
	o := options(p, db)
	o.Dir = t.TempDir()
	db.fail = errors.New("no space")
	if r, err := Load(t.Context(), o); !errors.Is(err, db.fail) || r.Rows() != 0 {
		t.Error(r, err)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	db.fail = nil
	load(t, o)
	if db.names() != "load hourly of 2026-11-28" {
		t.Error("a second try does not load")
	}
}

// TestFilesThatCopyWouldTakeWrongly are refused before anything is sent.
func TestFilesThatCopyWouldTakeWrongly(t *testing.T) {
	columns := targetOf(t, "hourly").file
	swapped := append([]column(nil), columns...)
	swapped[4], swapped[6] = swapped[6], swapped[4]
	asText := append([]column(nil), columns...)
	asText[3].kind = text
	for want, data := range map[string][]byte{
		"its columns are site, tag, hour, samples, bad, uncertain, good": file(t, swapped),
		"column samples: it is BYTE_ARRAY, and INT64 is wanted":          file(t, asText),
		"its columns are site":  file(t, columns[:1]),
		"it is no Parquet file": []byte("PAR1 not at all"),
	} {
		p, db := archive(t), newMemory()
		put(t, p, result.Key("hourly", day28, 0), data)
		_, err := Load(t.Context(), options(p, db))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "date=2026-11-28/part-00000.parquet") || len(db.batches) > 0 {
			t.Errorf("%q: %v", want, err)
		}
	}
	p, db := archive(t), newMemory()
	row := []any{"gw1", "north/m1/power", "s1", "meters", nil, nil, strings.Repeat("x", someText+1), false, nil, nil}
	put(t, p, lake.CatalogueKey("north", 0), file(t, targetOf(t, "catalogue").file, row))
	if _, err := Load(t.Context(), options(p, db)); err == nil || !strings.Contains(err.Error(), "column description: a text of 4097 bytes") {
		t.Error(err)
	}
}

// TestNanosecondsAreRefused: Redshift would load them as dates of another age.
func TestNanosecondsAreRefused(t *testing.T) {
	p := archive(t)
	put(t, p, lake.CatalogueKey("north", 0), nanoseconds(t))
	_, err := Load(t.Context(), options(p, newMemory()))
	if err == nil || !strings.Contains(err.Error(), "column since: it is no timestamp in microseconds") {
		t.Error(err)
	}
}

func TestTablesOfAnotherVersion(t *testing.T) {
	p := archive(t)
	db := newMemory()
	db.tables["energy"] = db.tables["energy"][1:]
	if _, err := Load(t.Context(), options(p, db)); !errors.Is(err, ErrTables) || !strings.Contains(err.Error(), "millrace.energy has the columns tag,") {
		t.Error(err)
	}
	db = newMemory()
	delete(db.tables, "staging_hourly")
	if _, err := Load(t.Context(), options(p, db)); !errors.Is(err, ErrTables) || !strings.Contains(err.Error(), "staging_hourly is missing; run `millrace-cloud warehouse ddl --apply`") {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	p, db := archive(t), newMemory()
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2))
	putHours(t, p, day28.AddDate(0, 0, 1), hour("north/m1/power", day28, 24, 2))
	load(t, options(p, db))
	putHours(t, p, day28, hour("north/m1/power", day28, 0, 2), hour("north/m1/power", day28, 1, 2))
	putHours(t, p, day28.AddDate(0, 0, 2), hour("north/m1/power", day28, 48, 2))
	if err := p.Delete(t.Context(), result.Key("hourly", day28.AddDate(0, 0, 1), 0)); err != nil {
		t.Fatal(err)
	}
	states, err := Status(t.Context(), options(p, db))
	if err != nil {
		t.Fatal(err)
	}
	want := State{Name: "hourly", Folders: 2, Rows: 2, Newest: day28.AddDate(0, 0, 1), LoadedAt: "2026-11-29 01:02:03", Pending: 2, Gone: 1}
	if states[0] != want {
		t.Errorf("got  %+v\nwant %+v", states[0], want)
	}
	if _, err := time.Parse(time.DateTime, states[0].LoadedAt); err != nil {
		t.Error(err)
	}
}
