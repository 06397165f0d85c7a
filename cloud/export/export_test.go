package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/format"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/cloud/query"
	"millrace/sample"
	"millrace/sample/weektable"
)

var day = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// archive is a place with two days of two sites, archived whole.
type archive struct {
	*testing.T
	place objects.Place
	files map[string][]manifest.File // by table
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{T: t, place: place, files: map[string][]manifest.File{}}
	for _, site := range []string{"north", "a b"} {
		for d := range 2 {
			a.samples(site, day.AddDate(0, 0, d), 5)
		}
		var b bytes.Buffer
		if err := lake.WriteCatalogue(&b, []lake.Entry{{Gateway: "gw1", Tag: site + "/m/power", Stream: "s0001", Source: "plc", Unit: "kW"}}); err != nil {
			t.Fatal(err)
		}
		a.put(lake.CatalogueKey(site, 0), b.Bytes())
	}
	return a
}

func (a *archive) put(key string, data []byte) {
	a.Helper()
	if err := a.place.Put(context.Background(), key, data); err != nil {
		a.Fatal(err)
	}
}

// samples stores a day's n samples of a site, and has its manifest vouch for them.
func (a *archive) samples(site string, day time.Time, n int) {
	a.Helper()
	var b bytes.Buffer
	w := lake.NewWriter(&b)
	for _, tag := range []string{site + "/gw1/$gap", site + "/m/power"} {
		for i := range n {
			row := lake.Row{Sample: sample.Sample{Tag: tag, Time: day.Add(time.Duration(i) * time.Hour).UnixNano(), Value: sample.FloatValue(float64(i))}, Gateway: "gw1", Stream: "s0001"}
			if err := w.Write(&row); err != nil {
				a.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		a.Fatal(err)
	}
	key, table := lake.SamplesKey(site, day, 0), weektable.Table("plant", day)
	a.put(key, b.Bytes())
	a.files[table] = slices.DeleteFunc(a.files[table], func(f manifest.File) bool { return f.Key == key })
	a.files[table] = append(a.files[table], manifest.File{Key: key, Bytes: int64(b.Len()), Rows: w.Rows(), SHA256: hashOf(b.Bytes())})
	if err := manifest.Write(context.Background(), a.place, manifest.New(table, day, manifest.NewSum(), a.files[table], nil)); err != nil {
		a.Fatal(err)
	}
}

// counting counts what is written to a place, and may fail.
type counting struct {
	objects.Place
	puts  []string
	fails func(key string) error
}

func (c *counting) PutFile(ctx context.Context, key, path string) error {
	if c.fails != nil {
		if err := c.fails(key); err != nil {
			return err
		}
	}
	c.puts = append(c.puts, key)
	return c.Place.PutFile(ctx, key, path)
}

func (c *counting) Put(ctx context.Context, key string, data []byte) error {
	c.puts = append(c.puts, key)
	return c.Place.Put(ctx, key, data)
}

func target(t *testing.T) *counting {
	t.Helper()
	p, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return &counting{Place: p}
}

func (a *archive) options(to objects.Place) Options {
	return Options{Store: query.Store{Archive: a.place, Prefix: "plant"}, To: to, What: []string{Samples}, Format: format.CSV, From: day, Until: day.AddDate(0, 0, 2),
		Dir: a.TempDir(), Problem: func(line string) { a.Error(line) }}
}

func get(t *testing.T, p objects.Place, key string) []byte {
	t.Helper()
	r, err := p.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOnlyWhatChangedIsWritten(t *testing.T) {
	a, to := newArchive(t), target(t)
	o := a.options(to)
	report, err := Run(t.Context(), o)
	if err != nil || report.Written != 4 || report.Kept != 0 || report.Rows != 20 {
		t.Fatalf("%+v, %v", report, err)
	}
	want := []string{"exports/samples/site=a b/date=2026-11-20.csv", "exports/samples/site=a b/date=2026-11-21.csv", "exports/samples/site=north/date=2026-11-20.csv",
		"exports/samples/site=north/date=2026-11-21.csv", "exports/samples/index.json"}
	if !slices.Equal(to.puts, want) {
		t.Errorf("written %q, want %q", to.puts, want)
	}
	text := string(get(t, to, want[2]))
	if strings.Count(text, "\r\n") != 6 || !strings.Contains(text, "2026-11-20T04:00:00Z,north/m/power,4,kW,good,Good,float64,,gw1,s0001,,\r\n") || strings.Contains(text, "$gap") {
		t.Errorf("%s", text)
	}
	// Again: nothing.
	to.puts = nil
	if report, err = Run(t.Context(), o); err != nil || report.Written != 0 || report.Kept != 4 || report.Rows != 20 || len(to.puts) > 0 {
		t.Errorf("%+v, %v, written %q", report, err, to.puts)
	}
	// Late data of one day: that day and the index.
	a.samples("north", day, 6)
	if report, err = Run(t.Context(), o); err != nil || report.Written != 1 || !slices.Equal(to.puts, []string{want[2], want[4]}) {
		t.Errorf("%+v, %v, written %q", report, err, to.puts)
	}
	// The index says what is there.
	var index Index
	if err := json.Unmarshal(get(t, to, want[4]), &index); err != nil || len(index.Objects) != 4 {
		t.Fatal(err, index)
	}
	for _, x := range index.Objects {
		if data := get(t, to, x.Key); hashOf(data) != x.SHA256 || int64(len(data)) != x.Bytes || x.Rows != int64(bytes.Count(data, []byte("\r\n")))-1 {
			t.Errorf("the index says %+v", x)
		}
	}
	// One day alone leaves the others in the index.
	o.Until, o.Sites = day.AddDate(0, 0, 1), []string{"north"}
	a.samples("north", day, 7)
	if _, err = Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(get(t, to, want[4]), &index); err != nil || len(index.Objects) != 4 {
		t.Errorf("%d objects are in the index, %v", len(index.Objects), err)
	}
}

// TestGoesOn ends a run at each object, by an error and as a kill does it, and has
// another go on: what is there is not written twice, and the end is the same.
func TestGoesOn(t *testing.T) {
	a := newArchive(t)
	whole := target(t)
	if _, err := Run(t.Context(), a.options(whole)); err != nil {
		t.Fatal(err)
	}
	for _, killed := range []bool{false, true} {
		for _, n := range []int{0, 2} {
			to := target(t)
			stop := errors.New("no room")
			to.fails = func(string) error {
				if len(to.puts) == n {
					return stop
				}
				return nil
			}
			if _, err := Run(t.Context(), a.options(to)); err == nil {
				t.Fatal("it did not stop")
			}
			if killed {
				if err := to.Delete(t.Context(), IndexKey(Prefix, Samples)); err != nil { // which a kill would not have written
					t.Fatal(err)
				}
			}
			to.fails, to.puts = nil, nil
			report, err := Run(t.Context(), a.options(to))
			if err != nil || report.Written != 4-n || report.Kept != n {
				t.Errorf("stopped after %d, killed %v: %+v, %v", n, killed, report, err)
			}
			for _, key := range whole.puts {
				if !bytes.Equal(get(t, to, key), get(t, whole, key)) {
					t.Errorf("stopped after %d, killed %v: %s differs", n, killed, key)
				}
			}
		}
	}
}

func TestCancelled(t *testing.T) {
	a, to := newArchive(t), target(t)
	ctx, cancel := context.WithCancel(t.Context())
	o := a.options(to)
	o.Done = func(int64) { cancel() }
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// What was done is in the index.
	var index Index
	if err := json.Unmarshal(get(t, to, IndexKey(Prefix, Samples)), &index); err != nil || len(index.Objects) != 1 {
		t.Errorf("%+v, %v", index, err)
	}
}

// A day of which a file is lost is told and left out: the object that is there stays.
func TestLostFile(t *testing.T) {
	a, to := newArchive(t), target(t)
	var lines []string
	o := a.options(to)
	o.Until, o.Sites, o.Problem = day.AddDate(0, 0, 1), []string{"north"}, func(line string) { lines = append(lines, line) }
	if report, err := Run(t.Context(), o); err != nil || report.Written != 1 || len(lines) != 0 {
		t.Fatalf("%+v, %v, %q", report, err, lines)
	}
	before := get(t, to, "exports/samples/site=north/date=2026-11-20.csv")
	key := lake.SamplesKey("north", day, 0)
	if err := a.place.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	report, err := Run(t.Context(), o)
	if err != nil || report.Written != 0 || report.Problems != 1 || !strings.Contains(lines[0], key+" is not there, and the manifest names it") {
		t.Errorf("%+v, %v, %q", report, err, lines)
	}
	if !bytes.Equal(get(t, to, "exports/samples/site=north/date=2026-11-20.csv"), before) {
		t.Error("the object was replaced")
	}
}

func TestForms(t *testing.T) {
	a := newArchive(t)
	for _, k := range []format.Kind{format.CSV, format.JSON, format.SenML, format.Parquet} {
		for _, zip := range []bool{false, true} {
			to := target(t)
			o := a.options(to)
			o.Format, o.Gzip = k, zip
			if k == format.Parquet && zip {
				if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "packed by itself") {
					t.Error(err)
				}
				continue
			}
			if _, err := Run(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			key := "exports/samples/site=north/date=2026-11-20" + k.Extension()
			if zip {
				key += ".gz"
			}
			data := get(t, to, key)
			if zip {
				r, err := gzip.NewReader(bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				if data, err = io.ReadAll(r); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Contains(data, []byte("north/m/")) {
				t.Errorf("%s: %.100q", key, data)
			}
			again := target(t)
			o.To = again
			if _, err := Run(t.Context(), o); err != nil || !bytes.Equal(get(t, again, key), get(t, to, key)) {
				t.Errorf("%s: another run makes other bytes; %v", key, err)
			}
		}
	}
}

// A week without its manifest, and a file that is half written: a line each, and
// the rest.
func TestBadInput(t *testing.T) {
	a, to := newArchive(t), target(t)
	table := weektable.Table("plant", day)
	a.put(lake.SamplesKey("north", day, 1), []byte("half of it"))
	if err := a.place.Delete(t.Context(), manifest.Key(table)); err != nil {
		t.Fatal(err)
	}
	var lines []string
	o := a.options(to)
	o.Until, o.Sites, o.Problem = day.AddDate(0, 0, 1), []string{"north"}, func(line string) { lines = append(lines, line) }
	report, err := Run(t.Context(), o)
	if err != nil || report.Written != 1 || report.Problems != 2 || len(lines) != 2 || !strings.Contains(lines[0], "2026-11-20 of site north is not archived whole") || !strings.Contains(lines[1], "part-00001.parquet cannot be read to its end") {
		t.Errorf("%+v, %v, %q", report, err, lines)
	}
	a.put("exports/samples/index.json", []byte("{"))
	o.To = a.place
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is no index of an export: remove it") {
		t.Error(err)
	}
	a.put("exports/samples/index.json", []byte(`{"version":2}`))
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "update millrace-cloud") {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.What = []string{"weekly"} }, `there is no result "weekly"; there are hourly, energy, availability, kpi, anomaly, and samples`},
		{func(o *Options) { o.What = nil }, "say what to export"},
		{func(o *Options) { o.To = nil }, "say where to export to"},
		{func(o *Options) { o.Until = o.From }, "range of days is empty"},
		{func(o *Options) { o.Format, o.BOM = format.JSON, true }, "byte order mark is for CSV"},
		{func(o *Options) { o.What, o.Store.Archive = []string{"hourly"}, nil }, "hourly comes from the archive"},
	} {
		o := a.options(to)
		c.change(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// hourly and energy are rows as analyze writes them.
type energy struct {
	Site      string   `parquet:"site"`
	Tag       string   `parquet:"tag"`
	Hour      int64    `parquet:"hour,timestamp(microsecond)"`
	Unit      *string  `parquet:"unit,optional"`
	Used      *float64 `parquet:"used,optional"`
	Readings  int64    `parquet:"readings"`
	Rollovers int64    `parquet:"rollovers"`
	Resets    int64    `parquet:"resets"`
}

func TestResults(t *testing.T) {
	a := newArchive(t)
	kwh, used := "kWh", 1.25
	var b bytes.Buffer
	w := parquet.NewGenericWriter[energy](&b)
	_, err := w.Write([]energy{{"north", "=north/m/energy", day.UnixMicro(), &kwh, &used, 60, 1, 0}, {"north", "north/m/energy", day.Add(time.Hour).UnixMicro(), nil, nil, 0, 0, 0}})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	a.put(result.Key("energy", day, 0), b.Bytes())
	want := map[format.Kind]string{
		format.CSV: "site,tag,hour,unit,used,readings,rollovers,resets\r\nnorth,'=north/m/energy,2026-11-20T00:00:00Z,kWh,1.25,60,1,0\r\nnorth,north/m/energy,2026-11-20T01:00:00Z,,,0,0,0\r\n",
		format.JSON: `{"site":"north","tag":"=north/m/energy","hour":"2026-11-20T00:00:00Z","unit":"kWh","used":1.25,"readings":60,"rollovers":1,"resets":0}
{"site":"north","tag":"north/m/energy","hour":"2026-11-20T01:00:00Z","unit":null,"used":null,"readings":0,"rollovers":0,"resets":0}
`,
		format.SenML: fmt.Sprintf(`[
{"bn":"0::3Dnorth/m/energy:energy:","bt":%d,"n":"used","u":"J","v":4.5e+06},
{"n":"readings","v":60},
{"n":"rollovers","v":1},
{"n":"resets","v":0},
{"bn":"north/m/energy:energy:","n":"readings","t":3600,"v":0},
{"n":"rollovers","t":3600,"v":0},
{"n":"resets","t":3600,"v":0}
]
`, day.Unix()),
		format.Parquet: b.String(),
	}
	for k, text := range want {
		to := target(t)
		o := a.options(to)
		o.What, o.Format = []string{"energy"}, k
		report, err := Run(t.Context(), o)
		if err != nil || report.Written != 1 || report.Rows != 2 {
			t.Fatalf("%s: %+v, %v", k, report, err)
		}
		if got := string(get(t, to, "exports/energy/date=2026-11-20"+k.Extension())); got != text {
			t.Errorf("%s:\n%s\nwant\n%s", k, got, text)
		}
		if report, err = Run(t.Context(), o); err != nil || report.Written != 0 || report.Kept != 1 {
			t.Errorf("%s again: %+v, %v", k, report, err)
		}
	}
	// A file of other columns is refused.
	a.put(result.Key("hourly", day, 0), b.Bytes())
	o := a.options(target(t))
	o.What = []string{"hourly"}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "date=2026-11-20/part-00000.parquet: it has 8 columns, and hourly has 13; analyze that day again") {
		t.Error(err)
	}
}
