//go:build duckdb

package duckdb

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/analysistest"
	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
)

// TestAvailabilityUntilMidnight: a tag's last sample before midnight holds to the
// end of the day once its gateway has delivered of the next day, and that makes
// the day due, once. gw1 has a logger of every 10 s, gw2 one that is Bad.
func TestAvailabilityUntilMidnight(t *testing.T) {
	ctx := context.Background()
	f, e := newFolder(t), start(t)
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(d time.Time, part int, gateway string, readings ...reading) {
		t.Helper()
		f.files[analysis.Samples] = nil
		f.samplesOf(gateway, readings)
		if err := place.PutFile(ctx, lake.SamplesKey("s", d, part), f.files[analysis.Samples][0].Path); err != nil {
			t.Fatal(err)
		}
	}
	var logged []reading
	for at := 23 * time.Hour; at < 24*time.Hour; at += 10 * time.Second {
		logged = append(logged, reading{"s/d/a", "0 " + time.Time{}.Add(at).Format(time.TimeOnly), 1, sample.Good})
	}
	// old is of 24 hours and holds until 23:30 in any case.
	put(day.AddDate(0, 0, -1), 0, "gw1", reading{"s/d/old", "-1 23:30", 1, sample.Good})
	put(day, 0, "gw1", logged...)
	put(day, 1, "gw2", reading{"s/d/b", "23:15", nil, bad}, reading{"s/d/b", "23:45", nil, bad})
	tomorrow := day.AddDate(0, 0, 1)

	machine := &analysis.Machine{Place: place, Local: e, Dir: t.TempDir()}
	run := func() (computed int) {
		t.Helper()
		r, err := analysis.Run(ctx, analysis.Options{Place: place, Engine: machine, From: day, Results: []string{"availability"}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return r.Counts[0].Computed
	}
	last := func(d time.Time) (out []string) { // the last hour's rows of the day, or the first's of the next
		t.Helper()
		table, err := analysistest.Read(ctx, place, result.Key("availability", d, 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range table.Rows {
			us, _ := row[2].(int64)
			if hour := time.UnixMicro(us).UTC(); hour.Hour() == 23 || hour.Hour() == 0 && d.Equal(tomorrow) {
				out = append(out, fmt.Sprintf("%v | %v | %v | %v | %v | %.10g", row[0], row[1], row[3], row[4], row[5], row[6]))
			}
		}
		return out
	}
	for _, c := range []struct {
		what     string
		put      func()
		computed int
		want     string
	}{
		{"the next day is absent", func() {}, 1, `
			s | s/d/a | 3590 | 0 | 0 | 1
			s | s/d/b | 0 | 1800 | 0 | 0
			s | s/d/old | 1800 | 0 | 0 | 1`},
		{"of gw1 there is a heartbeat", func() { put(tomorrow, 0, "gw1", reading{"s/gw1/$heartbeat", "1 00:00:07", "{}", sample.Good}) }, 2, `
			s | s/d/a | 3600 | 0 | 0 | 1
			s | s/d/b | 0 | 1800 | 0 | 0
			s | s/d/old | 1800 | 0 | 0 | 1`},
		{"there is more of it", func() { put(tomorrow, 1, "gw1", reading{"s/d/a", "1 00:00:10", 1, sample.Good}) }, 1, `
			s | s/d/a | 3600 | 0 | 0 | 1
			s | s/d/b | 0 | 1800 | 0 | 0
			s | s/d/old | 1800 | 0 | 0 | 1`},
		{"gw2 comes late", func() { put(tomorrow, 2, "gw2", reading{"s/d/b", "1 12:00", 1, sample.Good}) }, 2, `
			s | s/d/a | 3600 | 0 | 0 | 1
			s | s/d/b | 0 | 2700 | 0 | 0
			s | s/d/old | 1800 | 0 | 0 | 1`},
		{"a gap over midnight", func() {
			f.gaps(lake.Gap{Gateway: "gw1", ID: "1", Cause: "gateway_down", Tag: "s/d/a", From: at(t, "23:59:54"), To: at(t, "1 00:00:04")})
			if err := place.PutFile(ctx, lake.GapsKey("s", day, 0), f.files[analysis.Gaps][0].Path); err != nil {
				t.Fatal(err)
			}
		}, 2, `
			s | s/d/a | 3594 | 0 | 6 | 0.9983333333
			s | s/d/b | 0 | 2700 | 0 | 0
			s | s/d/old | 1800 | 0 | 0 | 1`},
	} {
		c.put()
		if n := run(); n != c.computed {
			t.Errorf("%s: %d days computed, want %d", c.what, n, c.computed)
		}
		t.Log(c.what)
		expect(t, last(day), c.want)
		if n := run(); n != 0 {
			t.Errorf("%s: %d days are due again", c.what, n)
		}
	}
	// The morning: a's state is the evening's, but for the gap. It ends with its
	// gateway's last sample; so does b's, at noon.
	got := last(tomorrow)
	got = slices.DeleteFunc(got, func(line string) bool { return line[:9] == "s | s/gw1" })
	expect(t, got, `
		s | s/d/a | 6 | 0 | 4 | 0.6
		s | s/d/b | 0 | 3600 | 0 | 0
	`)
}
