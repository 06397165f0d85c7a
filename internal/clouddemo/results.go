package clouddemo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
)

// row is one row of a result: string, int64, float64 or time.Time by column;
// null ones are left out.
type row map[string]any

// readResults reads all rows of one result.
func (w *world) readResults(ctx context.Context, res result.Result) (rows []row, err error) {
	err = w.archive.List(ctx, result.Prefix+res.Name+"/", func(key string, _ int64) error {
		if _, _, _, ok := result.ParseKey(key); !ok {
			return nil
		}
		data, err := objects.Read(ctx, w.archive, key, 0)
		if err != nil {
			return err
		}
		list, err := readRows(data, res)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		rows = append(rows, list...)
		return nil
	})
	return rows, err
}

func readRows(data []byte, res result.Result) (rows []row, err error) {
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	r := parquet.NewReader(file)
	defer func() { err = errors.Join(err, r.Close()) }()
	buffer := make([]parquet.Row, 256)
	for {
		n, err := r.ReadRows(buffer)
		for _, values := range buffer[:n] {
			if len(values) != len(res.Columns) {
				return nil, fmt.Errorf("a row has %d values, not %d", len(values), len(res.Columns))
			}
			out := row{}
			for i, c := range res.Columns {
				if v := values[i]; !v.IsNull() {
					out[c.Name] = valueOf(v, c.Type)
				}
			}
			rows = append(rows, out)
		}
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func valueOf(v parquet.Value, t result.Type) any {
	switch t {
	case result.Timestamp:
		return time.UnixMicro(v.Int64()).UTC()
	case result.Double:
		return v.Double()
	case result.Integer:
		return v.Int64()
	}
	return string(v.ByteArray())
}

// hourOf names an hour of a tag.
type hourOf struct {
	tag  string
	hour time.Time
}

// instant is a number and its time; of two at once the smaller one comes first.
type instant struct {
	ns     int64
	number float64
}

func (a instant) before(b instant) bool {
	return a.ns < b.ns || a.ns == b.ns && a.number < b.number
}

// hours computes anew, from the archive's samples, what the analysis should have
// made of each tag and hour.
func hours(rows []lake.Row) map[hourOf]row {
	type sums struct {
		samples, good, uncertain, bad int64
		numbers                       []float64
		first, last                   instant
	}
	all := map[hourOf]*sums{}
	for i := range rows {
		s := &rows[i].Sample
		if strings.Contains(s.Tag, "/$") {
			continue
		}
		key := hourOf{s.Tag, time.Unix(0, s.PrimaryTime()).UTC().Truncate(time.Hour)}
		h := all[key]
		if h == nil {
			h = &sums{}
			all[key] = h
		}
		h.samples++
		switch {
		case s.Quality.IsBad():
			h.bad++
		case !s.Quality.IsGood():
			h.uncertain++
		default:
			h.good++
			if v, ok := number(s.Value); ok {
				at := instant{s.PrimaryTime(), v}
				if len(h.numbers) == 0 {
					h.first, h.last = at, at
				}
				if at.before(h.first) {
					h.first = at
				}
				if h.last.before(at) {
					h.last = at
				}
				h.numbers = append(h.numbers, v)
			}
		}
	}
	out := map[hourOf]row{}
	for key, h := range all {
		r := row{"site": Site, "tag": key.tag, "hour": key.hour, "samples": h.samples, "good": h.good, "uncertain": h.uncertain, "bad": h.bad}
		if n := float64(len(h.numbers)); n > 0 {
			least, most, sum, squares := math.Inf(1), math.Inf(-1), 0.0, 0.0
			for _, v := range h.numbers {
				least, most, sum = min(least, v), max(most, v), sum+v
			}
			mean := sum / n
			for _, v := range h.numbers {
				squares += (v - mean) * (v - mean)
			}
			r["minimum"], r["maximum"], r["mean"], r["first"], r["last"] = least, most, mean, h.first.number, h.last.number
			if n > 1 {
				r["standard_deviation"] = math.Sqrt(squares / (n - 1))
			}
		}
		out[key] = r
	}
	return out
}

// number is a value as the analysis counts with it.
func number(v sample.Value) (float64, bool) {
	switch v.Kind() {
	case sample.Float64:
		return v.Float(), true
	case sample.Int64:
		return float64(v.Int()), true
	case sample.Bool:
		if v.Bool() {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// same compares two values; numbers to nine digits, since sums depend on their
// order, and to slack.
func same(a, b any, slack float64) bool {
	x, isFloat := a.(float64)
	y, both := b.(float64)
	if isFloat && both {
		return math.Abs(x-y) <= 1e-9*max(math.Abs(x), math.Abs(y), 1)+slack
	}
	at, isTime := a.(time.Time)
	bt, both := b.(time.Time)
	if isTime && both {
		return at.Equal(bt)
	}
	return a == b
}

// unlike says in which columns two rows differ.
func unlike(got, want row, res result.Result) (out []string) {
	mean, _ := want["mean"].(float64)
	for _, c := range res.Columns {
		slack := 0.0
		if c.Name == "standard_deviation" { // of large numbers that lie close together it has fewer digits
			slack = 1e-14 * math.Abs(mean)
		}
		if !same(got[c.Name], want[c.Name], slack) {
			out = append(out, fmt.Sprintf("%s is %v, it should be %v", c.Name, got[c.Name], want[c.Name]))
		}
	}
	return out
}

// hourlyAccount holds the hourly rows against the archive's samples, and returns
// how many of these the rows count of the plant.
func (r *Report) hourlyAccount(got []row, samples []lake.Row) (plant int) {
	const name = "hourly"
	res, err := result.Named(name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	want := hours(samples)
	var faults []string
	seen := map[hourOf]bool{}
	for _, g := range got {
		tag, _ := g["tag"].(string)
		hour, _ := g["hour"].(time.Time)
		key := hourOf{tag, hour}
		if seen[key] {
			faults = append(faults, fmt.Sprintf("%s at %s is there twice", tag, hour.Format(time.RFC3339)))
			continue
		}
		if !strings.HasPrefix(tag, Site+"/mirror/") {
			n, _ := g["samples"].(int64)
			plant += int(n)
		}
		seen[key] = true
		w, ok := want[key]
		if !ok {
			faults = append(faults, fmt.Sprintf("%s at %s: there are no samples for it", tag, hour.Format(time.RFC3339)))
			continue
		}
		for _, text := range unlike(g, w, res) {
			faults = append(faults, fmt.Sprintf("%s at %s: %s", tag, hour.Format(time.RFC3339), text))
		}
	}
	for key := range want {
		if !seen[key] {
			faults = append(faults, fmt.Sprintf("%s at %s is missing", key.tag, key.hour.Format(time.RFC3339)))
		}
	}
	r.find("results, "+name, faults...)
	return plant
}

// resultsAccount holds all results against the archive's samples and against
// what the logger recorded.
func (w *world) resultsAccount(ctx context.Context) error {
	samples, _, err := w.readArchive(ctx)
	if err != nil {
		return err
	}
	for _, res := range w.results() {
		rows, err := w.readResults(ctx, res)
		if err != nil {
			return err
		}
		stage := Stage{Name: "rows of the result " + res.Name, Count: len(rows), Plant: -1}
		name := "results, " + res.Name
		if len(rows) == 0 {
			w.report.find(name, "there are none")
		}
		switch res.Name {
		case "hourly":
			stage.Plant = w.report.hourlyAccount(rows, samples)
			w.expect(name, rows, powerTag, row{"mean": w.logger.mean(), "good": int64(time.Hour / loggerEvery), "bad": int64(0)})
		case "energy":
			w.expect(name, rows, energyTag, row{"used": w.logger.used(), "readings": int64(time.Hour / loggerEvery), "rollovers": int64(1), "resets": int64(0), "unit": "kWh"})
		case "availability":
			w.expect(name, rows, powerTag, row{"good_seconds": 3600.0, "bad_seconds": 0.0, "gap_seconds": 0.0, "availability": 1.0})
		}
		w.report.Stages = append(w.report.Stages, stage)
	}
	return nil
}

// expect holds the row of a tag in the logger's hour against what it recorded.
func (w *world) expect(name string, rows []row, tag string, want row) {
	for _, r := range rows {
		hour, _ := r["hour"].(time.Time)
		if r["tag"] != tag || !hour.Equal(w.logger.hour) {
			continue
		}
		for _, column := range slices.Sorted(maps.Keys(want)) {
			if !same(r[column], want[column], 0) {
				w.report.find(name, fmt.Sprintf("%s of %s is %v, the logger recorded %v", column, tag, r[column], want[column]))
			}
		}
		return
	}
	w.report.find(name, fmt.Sprintf("%s has no row for the hour at %s", tag, w.logger.hour.Format(time.RFC3339)))
}
