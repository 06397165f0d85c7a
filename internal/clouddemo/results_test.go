package clouddemo

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/analysis/result"
	"millrace/cloud/catalogue"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
	"millrace/sample/weektable"
)

// someRows are samples of two hours of a tag with all that may come, and of one
// with text.
func someRows() (rows []lake.Row, hour time.Time) {
	hour = time.Date(2026, 11, 28, 22, 0, 0, 0, time.UTC)
	add := func(tag string, minute int, v sample.Value, q sample.Quality) {
		at := hour.Add(time.Duration(minute) * time.Minute).UnixNano()
		rows = append(rows, lake.Row{Sample: sample.Sample{Tag: Site + "/" + tag, Time: at, Value: v, Quality: q}})
	}
	add("m/a", 1, sample.FloatValue(2), sample.Good)
	add("m/a", 1, sample.IntValue(4), sample.Good)
	add("m/a", 5, sample.Value{}, sample.Bad)
	add("m/a", 30, sample.BoolValue(true), sample.Good)
	add("m/a", 31, sample.FloatValue(99), sample.Uncertain)
	add("m/a", 60, sample.FloatValue(7), sample.Good)
	add("m/t", 2, sample.StringValue("on"), sample.Good)
	add("gw1/$heartbeat", 2, sample.StringValue("{}"), sample.Good)
	return rows, hour
}

// TestHours holds what is computed anew against figures made by hand.
func TestHours(t *testing.T) {
	rows, hour := someRows()
	got := hours(rows)
	want := map[hourOf]row{
		{Site + "/m/a", hour}: {"site": Site, "tag": Site + "/m/a", "hour": hour, "samples": int64(5), "good": int64(3), "uncertain": int64(1), "bad": int64(1),
			"minimum": 1.0, "maximum": 4.0, "mean": 7.0 / 3, "first": 2.0, "last": 1.0, "standard_deviation": math.Sqrt(7.0 / 3)},
		{Site + "/m/a", hour.Add(time.Hour)}: {"site": Site, "tag": Site + "/m/a", "hour": hour.Add(time.Hour), "samples": int64(1), "good": int64(1),
			"uncertain": int64(0), "bad": int64(0), "minimum": 7.0, "maximum": 7.0, "mean": 7.0, "first": 7.0, "last": 7.0},
		{Site + "/m/t", hour}: {"site": Site, "tag": Site + "/m/t", "hour": hour, "samples": int64(1), "good": int64(1), "uncertain": int64(0), "bad": int64(0)},
	}
	res, err := result.Named("hourly")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d hours, not %d: %v", len(got), len(want), got)
	}
	for key, w := range want {
		for _, text := range unlike(got[key], w, res) {
			t.Errorf("%v: %s", key, text)
		}
	}
}

// TestHourlyNotices changes one thing at a time in rows that are right.
func TestHourlyNotices(t *testing.T) {
	samples, hour := someRows()
	for name, c := range map[string]struct {
		change func(rows []row) []row
		want   string
	}{
		"nothing":         {func(rows []row) []row { return rows }, ""},
		"a row is gone":   {func(rows []row) []row { return rows[1:] }, "is missing"},
		"a row is twice":  {func(rows []row) []row { return append(rows, rows[0]) }, "is there twice"},
		"a row of nobody": {func(rows []row) []row { return append(rows, row{"tag": "demo/m/x", "hour": hour}) }, "there are no samples for it"},
		"another mean":    {func(rows []row) []row { rows[0]["mean"] = rows[0]["mean"].(float64) + 0.0001; return rows }, "mean is "},
		"no last":         {func(rows []row) []row { delete(rows[0], "last"); return rows }, "last is <nil>"},
		"one sample more": {func(rows []row) []row { rows[0]["samples"] = rows[0]["samples"].(int64) + 1; return rows }, "samples is "},
		"another hour":    {func(rows []row) []row { rows[0]["hour"] = hour.Add(-time.Hour); return rows }, "there are no samples for it"},
	} {
		var rows []row
		for key, r := range hours(samples) {
			if key.tag == Site+"/m/a" && key.hour.Equal(hour) {
				rows = append([]row{maps.Clone(r)}, rows...)
			} else {
				rows = append(rows, r)
			}
		}
		r := &Report{}
		r.hourlyAccount(c.change(rows), samples)
		if said := strings.Join(r.Findings, "; "); (said == "") != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("%s: %q; want %q", name, said, c.want)
		}
	}
}

// TestLogger sees that the recorded hour is one: whole, with one turn of the
// counter, and with what it should show.
func TestLogger(t *testing.T) {
	now := time.Date(2026, 11, 30, 0, 5, 0, 0, time.UTC) // the hour lies in another day and week
	g, err := newLogger(now)
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 11, 29, 23, 0, 0, 0, time.UTC); !g.hour.Equal(want) {
		t.Errorf("the hour is %s, not %s", g.hour, want)
	}
	turns, n := 0, 0
	last := 0.0
	for _, r := range g.readings {
		if r.tag != energyTag {
			continue
		}
		n++
		if r.value < last {
			turns++
			if !r.at.Truncate(time.Hour).Equal(g.hour) {
				t.Errorf("the counter starts again at %s, out of the hour", r.at)
			}
		}
		last = r.value
	}
	if turns != 1 || n != (10+60+5)*6 {
		t.Errorf("%d readings of energy, %d turns", n, turns)
	}
	if mean, used := g.mean(), g.used(); math.Abs(mean-800) > 1 || math.Abs(used-800) > 2 {
		t.Errorf("a mean of %v kW, %v kWh used", mean, used)
	}
}

// rewrite runs check while a file of the archive has other contents.
func (w *world) rewrite(t *testing.T, key string, data []byte, check func()) {
	t.Helper()
	before, err := objects.Read(t.Context(), w.archive, key, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.archive.Put(t.Context(), key, data); err != nil {
		t.Fatal(err)
	}
	check()
	if err := w.archive.Put(t.Context(), key, before); err != nil {
		t.Fatal(err)
	}
}

// aKey finds the archive's largest file below a prefix.
func (w *world) aKey(t *testing.T, prefix string) (found string) {
	t.Helper()
	most := int64(0)
	err := w.archive.List(t.Context(), prefix, func(key string, size int64) error {
		if size > most && strings.HasSuffix(key, ".parquet") {
			found, most = key, size
		}
		return nil
	})
	if err != nil || found == "" {
		t.Fatalf("no file %s: %v", prefix, err)
	}
	return found
}

// testArchive changes one row of the archive at a time.
func testArchive(t *testing.T, w *world) {
	key := w.aKey(t, "samples/")
	data, err := objects.Read(t.Context(), w.archive, key, 0)
	if err != nil {
		t.Fatal(err)
	}
	var rows []lake.Row
	err = lake.Read(bytes.NewReader(data), int64(len(data)), lake.Filter{}, func(r *lake.Row) error {
		rows = append(rows, *r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mid := 1 + slices.IndexFunc(rows, func(r lake.Row) bool { return r.Tag == Site+"/meter01/reg00" })
	if mid == 0 {
		t.Fatalf("%s has no row of a meter", key)
	}
	for name, c := range map[string]struct {
		change func(l []lake.Row) []lake.Row
		want   string
	}{
		"nothing":             {func(l []lake.Row) []lake.Row { return l }, ""},
		"a row is gone":       {func(l []lake.Row) []lake.Row { return slices.Delete(l, mid, mid+1) }, "1 times in the tables, 0 times here"},
		"a row is twice":      {func(l []lake.Row) []lake.Row { return slices.Insert(l, mid, l[mid]) }, "1 times in the tables, 2 times here"},
		"another value":       {func(l []lake.Row) []lake.Row { l[mid].Value = sample.FloatValue(1); return l }, "1 are wrong"},
		"another time":        {func(l []lake.Row) []lake.Row { l[mid].Time++; return l }, "in no table, 1 times here"},
		"another stream":      {func(l []lake.Row) []lake.Row { l[mid].Stream = "s9999"; return l }, "in no table, 1 times here"},
		"the gateway's own":   {func(l []lake.Row) []lake.Row { return slices.DeleteFunc(l, isHeartbeat) }, "times in the tables, 0 times here: demo/gw1/$heartbeat"},
		"a tag of the site's": {func(l []lake.Row) []lake.Row { l[mid].Tag = Site + "/meter01/reg000"; return l }, "was never sent"},
	} {
		var out bytes.Buffer
		pw := lake.NewWriter(&out)
		for _, r := range c.change(slices.Clone(rows)) {
			if err := pw.Write(&r); err != nil {
				t.Fatal(err)
			}
		}
		if err := pw.Close(); err != nil {
			t.Fatal(err)
		}
		w.rewrite(t, key, out.Bytes(), func() {
			said := strings.Join(w.again(t, w.archiveAccount), "\n")
			if (said == "") != (c.want == "") || !strings.Contains(said, c.want) {
				t.Errorf("%s: the account says %q, not %q", name, said, c.want)
			}
		})
	}
}

func isHeartbeat(r lake.Row) bool { return strings.HasSuffix(r.Tag, "/$heartbeat") }

// testResults changes the file of the hourly results.
func testResults(t *testing.T, w *world) {
	res, err := result.Named("hourly")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.readResults(t.Context(), res)
	if err != nil {
		t.Fatal(err)
	}
	day := w.logger.hour.Truncate(24 * time.Hour)
	data, err := writeHourly(slices.DeleteFunc(rows, func(r row) bool {
		return r["tag"] == powerTag || !r["hour"].(time.Time).Truncate(24*time.Hour).Equal(day)
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.rewrite(t, result.Key("hourly", w.logger.hour, 0), data, func() {
		said := strings.Join(w.again(t, w.resultsAccount), "\n")
		for _, want := range []string{powerTag + " at ", "is missing", powerTag + " has no row for the hour"} {
			if !strings.Contains(said, want) {
				t.Errorf("the power's rows are gone, and the account says %q, not %q", said, want)
			}
		}
	})
	if said := w.again(t, w.resultsAccount); len(said) > 0 {
		t.Errorf("mended: %q", said)
	}
}

// testExport changes one line of what was exported at a time.
func testExport(t *testing.T, w *world) {
	day := w.truth.Now()
	samples := fmt.Sprintf("exports/samples/site=%s/date=%s.jsonl", Site, day.UTC().Format(time.DateOnly))
	results := fmt.Sprintf("exports/hourly/date=%s.jsonl", day.UTC().Format(time.DateOnly))
	for name, c := range map[string]struct {
		key    string
		line   string // begins the line that is changed
		change func(line string) string
		want   string
	}{
		"nothing":          {samples, `{"tag":"demo/meter01/reg00"`, func(l string) string { return l }, ""},
		"a sample is gone": {samples, `{"tag":"demo/meter01/reg00"`, func(string) string { return "" }, "export: 1 values of the devices are missing"},
		"a sample twice":   {samples, `{"tag":"demo/meter01/reg00"`, func(l string) string { return l + l }, "1 are there twice"},
		"another value": {samples, `{"tag":"demo/meter01/reg00"`, func(l string) string {
			return regexp.MustCompile(`"value":[0-9.]+`).ReplaceAllString(l, `"value":1.5`)
		}, "are wrong"},
		"a row is gone": {results, `{"site":"demo","tag":"demo/meter01/reg00"`, func(string) string { return "" }, "rows, and the result has"},
		"another mean": {results, `{"site":"demo","tag":"demo/meter01/reg00"`, func(l string) string {
			return regexp.MustCompile(`"mean":[0-9.]+`).ReplaceAllString(l, `"mean":1.5`)
		}, "mean is 1.5"},
	} {
		before, err := objects.Read(t.Context(), w.exports, c.key, 0)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		changed := false
		for line := range strings.Lines(string(before)) {
			if !changed && strings.HasPrefix(line, c.line) {
				changed = true
				line = c.change(line)
			}
			out.WriteString(line)
		}
		if !changed {
			t.Fatalf("%s: no line begins with %s", name, c.line)
		}
		if err := w.exports.Put(t.Context(), c.key, []byte(out.String())); err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(w.again(t, w.exportAccount), "\n"); (said == "") != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("%s: the account says %q, not %q", name, said, c.want)
		}
		if err := w.exports.Put(t.Context(), c.key, before); err != nil {
			t.Fatal(err)
		}
	}
}

// testCatalogue takes a tag out of the catalogue.
func testCatalogue(t *testing.T, w *world) {
	table := catalogue.Table(prefix)
	out, err := w.db.Scan(t.Context(), &dynamodb.ScanInput{TableName: &table})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range out.Items {
		if sk := item[weektable.AttrSort].(*types.AttributeValueMemberS).Value; !strings.HasPrefix(sk, energyTag) {
			continue
		}
		remove(t, w.db, table, item)
		if said := strings.Join(w.again(t, w.catalogueAccount), "\n"); !strings.Contains(said, energyTag+" is missing") || !strings.Contains(said, "it should be a counter") {
			t.Errorf("the counter is gone, and the account says %q", said)
		}
		put(t, w.db, table, item)
		if said := w.again(t, w.catalogueAccount); len(said) > 0 {
			t.Errorf("mended: %q", said)
		}
		return
	}
	t.Error("the counter is not in the catalogue")
}
