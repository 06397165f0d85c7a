//go:build duckdb

package duckdb

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/lake"
	"millrace/sample"
)

// TestAvailability has one gateway that delivers until 06:00 and one that is
// silent from 04:00.
func TestAvailability(t *testing.T) {
	f, e := newFolder(t), start(t)
	gap := func(from, to string) lake.Gap {
		return lake.Gap{Gateway: "gw1", ID: from + to, Cause: "gateway_down", From: at(t, from), To: at(t, to)}
	}
	with := func(g lake.Gap, source, sources, stream, tag string) lake.Gap {
		g.Source, g.Sources, g.Stream, g.Tag = source, sources, stream, tag
		return g
	}
	f.catalogue(
		lake.Entry{Gateway: "gw1", Tag: "s/d/a", Stream: "s1", Source: "m1"},
		lake.Entry{Gateway: "gw1", Tag: "s/d/b", Stream: "s1", Source: "m2"},
		lake.Entry{Gateway: "gw1", Tag: "s/d/never", Stream: "s9", Source: "m9"},
	)
	f.samples([]reading{
		{"s/d/old", "-1 01:00", 1, 0}, // of stream s1; holds until 01:00 of the day: 24 hours
		{"s/d/a", "-1 20:00", 1, bad},
		{"s/d/a", "-1 23:00", 1, 0},
	})
	f.samples([]reading{
		{"s/d/a", "00:30", nil, bad},
		{"s/d/a", "00:40", 1, 0},
		{"s/d/a", "00:40", nil, bad}, // of two at one instant the worse one holds
		{"s/d/a", "00:45", 1, uncertain},
		{"s/d/a", "00:50", "text", 0},
		{"s/d/a", "00:50", "text", 0}, // a duplicate
		// Nothing until 05:30, which is as before but for the gaps.
		{"s/d/a", "05:30", 1, bad},
		{"s/d/b", "03:00", 1, 0},
		{"s/gw1/$heartbeat", "06:00", "{}", 0}, // the last that was delivered
	})
	f.gaps(
		with(gap("01:00", "01:30"), "m1", "", "", ""),    // source m1: a
		with(gap("01:15", "02:00"), "", "m3,m1", "", ""), // sources, overlapping the one before: a
		with(gap("01:10", "01:20"), "m1", "", "", ""),    // within both
		with(gap("03:30", "03:45"), "m1", "", "s1", ""),  // stream s1, whatever its source: a and b
		with(gap("04:00", "04:15"), "m1", "", "s1", "s/d/b"),
		with(gap("05:00", "05:00"), "", "", "", "s/d/b"),                                                                    // of no length
		with(gap("07:00", "07:30"), "m9", "", "", ""),                                                                       // a tag that never had a sample
		lake.Gap{Gateway: "gw2", ID: "x", Cause: "gateway_down", Source: "m1", From: at(t, "-9 00:00"), To: at(t, "23:00")}, // another gateway's
	)
	expect(t, f.compute(e, "availability", day), `
		s | s/d/a | 0h | 2400 | 1200 | 0 | 0.6666666667
		s | s/d/a | 1h | 0 | 0 | 3600 | 0
		s | s/d/a | 2h | 3600 | 0 | 0 | 1
		s | s/d/a | 3h | 2700 | 0 | 900 | 0.75
		s | s/d/a | 4h | 3600 | 0 | 0 | 1
		s | s/d/a | 5h | 1800 | 1800 | 0 | 0.5
		s | s/d/b | 3h | 2700 | 0 | 900 | 0.75
		s | s/d/b | 4h | 2700 | 0 | 900 | 0.75
		s | s/d/b | 5h | 3600 | 0 | 0 | 1
		s | s/d/never | 7h | 0 | 0 | 1800 | 0
		s | s/d/old | 0h | 3600 | 0 | 0 | 1
		s | s/d/old | 3h | 0 | 0 | 900 | 0
	`)
}

// TestAvailabilityOverDays: a gap of days is seen by each of them, and a tag
// that is only in yesterday's files has its state from there.
func TestAvailabilityOverDays(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.samples([]reading{{"s/d/a", "-1 23:59", 1, 0}, {"s/d/b", "-1 23:59:59.5", nil, bad}})
	f.samples([]reading{{"s/d/b", "00:00:00.5", 1, 0}, {"s/d/b", "00:00:01", 1, 0}})
	f.gaps(lake.Gap{Gateway: "gw1", ID: "1", Source: "", Tag: "s/d/a", From: at(t, "-3 12:00"), To: at(t, "00:00:00.25")})
	expect(t, f.compute(e, "availability", day), `
		s | s/d/a | 0h | 0.75 | 0 | 0.25 | 0.75
		s | s/d/b | 0h | 0.5 | 0.5 | 0 | 0.5
	`)
}

// TestAvailabilityOfOneSink: a record that names sinks is no gap where the samples
// of its stream are here. The record's ends may be those of its neighbours.
func TestAvailabilityOfOneSink(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.catalogue(
		lake.Entry{Gateway: "gw1", Tag: "s/d/a", Stream: "s1", Source: "m"},
		lake.Entry{Gateway: "gw1", Tag: "s/d/slow", Stream: "s1", Source: "m"},
		lake.Entry{Gateway: "gw1", Tag: "s/d/other", Stream: "s2", Source: "m"},
	)
	f.samples([]reading{
		{"s/d/slow", "00:00", 1, 0},
		{"s/d/a", "00:00", 1, 0},
		{"s/d/a", "00:10", 1, 0}, // within the first record
		{"s/d/a", "00:20", 1, 0},
		{"s/d/a", "00:30", 1, 0}, // nothing within the second
		{"s/d/a", "01:00", 1, 0},
	})
	one := func(stream, sinks, from, to string) lake.Gap {
		return lake.Gap{Gateway: "gw1", ID: from, Cause: "evicted", Source: "m", Stream: stream, Sinks: sinks, From: at(t, from), To: at(t, to)}
	}
	f.gaps(
		one("s1", "files", "00:00", "00:20"),
		one("s1", "files,sqs", "00:20", "00:30"),
		one("s1", "", "00:30", "00:31"),         // all sinks lack it
		one("s1", "", "00:05", "00:06"),         // within the first, and all lack it
		one("s2", "sqs", "00:05", "00:10"),      // what is here is of another stream
		one("s1", "files", "-1 23:00", "01:30"), // of the day before and on
	)
	expect(t, f.compute(e, "availability", day), `
		s | s/d/a | 0h | 2880 | 0 | 720 | 0.8
		s | s/d/other | 0h | 0 | 0 | 300 | 0
		s | s/d/slow | 0h | 2880 | 0 | 720 | 0.8
	`)
}

// TestKPI: two days before, the counter ran at its best.
func TestKPI(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.catalogue(
		lake.Entry{Gateway: "gw1", Tag: "s/press/strokes", Stream: "s1", Source: "m", Counter: true, CounterMax: 1e9},
		lake.Entry{Gateway: "gw1", Tag: "s/press/temperature", Stream: "s1", Source: "m"},
		lake.Entry{Gateway: "gw1", Tag: "s/tank/level", Stream: "s1", Source: "m"},
	)
	// 100 an hour for 24 hours the day before; 50 an hour for two hours of the day.
	var before []reading
	for h := range 24 {
		for _, minute := range []int{0, 30} {
			before = append(before, reading{"s/press/strokes", fmt.Sprintf("-1 %02d:%02d", h, minute), 50 * (2*h + minute/30), 0})
		}
	}
	f.samples(before)
	f.compute(e, "energy", day.AddDate(0, 0, -1))
	f.samples([]reading{
		{"s/press/strokes", "00:00", 2350, 0}, // no step over midnight: 2350 was at 23:30
		{"s/press/strokes", "00:30", 2400, 0},
		{"s/press/strokes", "01:00", 2425, 0},
		{"s/press/strokes", "01:30", 2450, 0},
		{"s/press/temperature", "00:00", 60.5, 0},
		{"s/press/temperature", "01:00", 60.5, bad},
		{"s/press/temperature", "02:00", 60.5, 0},
		{"s/tank/level", "00:00", 2.0, 0},
		{"s/gw1/$heartbeat", "02:00", "{}", 0},
	})
	f.gaps(lake.Gap{Gateway: "gw1", ID: "1", Tag: "s/press/temperature", From: at(t, "00:30"), To: at(t, "01:00")})
	f.files["energy"] = f.files["energy"][:1]
	expect(t, f.compute(e, "energy", day), `
		s | s/press/strokes | 0h | - | 50 | 2 | 0 | 0
		s | s/press/strokes | 1h | - | 50 | 2 | 0 | 0
	`)
	f.compute(e, "availability", day)
	// The press: two tags of two hours; 30 min gap, 60 min Bad. strokes: the 95th
	// percentile of 24 hours (the first had 50, the others 100) and of the two of
	// the day is 100, so the pace is a half.
	// availability 3.5/4, quality 2.5/3.5, oee 0.875 × 0.5 × 0.714285… = 0.3125.
	expect(t, f.compute(e, "kpi", day), `
		s | s/press | 0h | 0.875 | 0.5 | 0.7142857143 | 0.3125
		s | s/tank | 0h | 1 | - | 1 | -
	`)
}

// hours writes samples of a tag, one an hour, and computes the hours of the
// day.
func (f *folder) hours(e *Engine, d time.Time, tags map[string]func(hour int) float64) {
	f.t.Helper()
	f.files[analysis.Samples] = nil
	var all []reading
	for tag, value := range tags {
		for h := range 24 {
			all = append(all, reading{tag, fmt.Sprintf("%d %02d:30", int(d.Sub(day).Hours()/24), h), value(h), sample.Good})
		}
	}
	f.samples(all)
	f.compute(e, "hourly", d)
}

func TestAnomaly(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.catalogue(lake.Entry{Gateway: "gw1", Tag: "s/d/count", Stream: "s1", Source: "m", Counter: true})
	// Ten days. daily has its own height in each hour, and differs by the day:
	// -2 … +2, so that the median is the hour and MAD is 1.
	for n := -10; n < 0; n++ {
		f.hours(e, day.AddDate(0, 0, n), map[string]func(int) float64{
			"s/d/daily":  func(h int) float64 { return float64(100*h + (n+10)%5 - 2) },
			"s/d/even":   func(int) float64 { return 21.7 },
			"s/d/mostly": func(int) float64 { return map[bool]float64{true: 7, false: 5}[n == -1 || n == -2] },
			"s/d/count":  func(h int) float64 { return float64(1000*(n+10) + h) },
		})
	}
	// even is 21.7 all the time, and once 22; daily is 10 too high at 05 and as it
	// was at 06.
	f.hours(e, day, map[string]func(int) float64{
		"s/d/daily":  func(h int) float64 { return map[int]float64{5: 510, 6: 600}[h] },
		"s/d/even":   func(h int) float64 { return map[bool]float64{true: 22, false: 21.7}[h == 5] },
		"s/d/mostly": func(int) float64 { return 6 },
		"s/d/count":  func(h int) float64 { return float64(h) },
		"s/d/new":    func(int) float64 { return 1 },
	})
	var got []string
	for _, line := range f.compute(e, "anomaly", day) {
		for _, want := range []string{" | 5h | ", " | 6h | "} {
			if strings.Contains(line, want) {
				got = append(got, line)
			}
		}
	}
	// mostly: 8 times 5 and twice 7: MAD is 0, the mean deviation 0.4, so the spread
	// is 0.50132 and the score of 6 1.9947.
	expect(t, got, `
		s | s/d/daily | 5h | 510 | 500 | 1.4826 | 6.744907595
		s | s/d/daily | 6h | 600 | 600 | 1.4826 | 0
		s | s/d/even | 5h | 22 | 21.7 | 0 | 100
		s | s/d/even | 6h | 21.7 | 21.7 | 0 | 0
		s | s/d/mostly | 5h | 6 | 5 | 0.50132 | 1.994733902
		s | s/d/mostly | 6h | 6 | 5 | 0.50132 | 1.994733902
		s | s/d/new | 5h | 1 | - | - | -
		s | s/d/new | 6h | 1 | - | - | -
	`)
}

// TestAnomalyFewData: with less than seven days the hours of all of them are
// compared with; with less than 24 hours nothing is.
func TestAnomalyFewData(t *testing.T) {
	f, e := newFolder(t), start(t)
	ramp := map[string]func(int) float64{"s/d/a": func(h int) float64 { return float64(h) }}
	f.hours(e, day, ramp)
	if got := f.compute(e, "anomaly", day); len(got) != 24 || got[23] != "s | s/d/a | 23h | 23 | - | - | -" {
		t.Error(got)
	}
	f.files["hourly"], f.files["anomaly"] = nil, nil
	f.hours(e, day.AddDate(0, 0, -2), ramp)
	f.hours(e, day, ramp)
	// The median of 0 … 23 is 11.5, that of the distances 0.5 … 11.5 is 6.
	if got := f.compute(e, "anomaly", day); len(got) != 24 || got[23] != "s | s/d/a | 23h | 23 | 11.5 | 8.8956 | 1.292773956" {
		t.Error(got)
	}
}

// TestAnomalyOfCounters: of a counter, what it counted in the hour is looked at,
// and not where it stands.
func TestAnomalyOfCounters(t *testing.T) {
	f, e := newFolder(t), start(t)
	f.catalogue(lake.Entry{Gateway: "gw1", Tag: "s/d/n", Stream: "s1", Source: "m", Counter: true})
	for n := -2; n <= 0; n++ {
		d := day.AddDate(0, 0, n)
		f.files[analysis.Samples] = nil
		var all []reading
		for h := range 24 {
			from := 100 * (24*(n+2) + h)
			all = append(all, reading{"s/d/n", fmt.Sprintf("%d %02d:00", n, h), from, 0}, reading{"s/d/n", fmt.Sprintf("%d %02d:59", n, h), from + 100, 0})
		}
		f.samples(all)
		f.compute(e, "hourly", d)
		f.compute(e, "energy", d)
	}
	if got := f.compute(e, "anomaly", day); len(got) != 24 || got[7] != "s | s/d/n | 7h | 100 | 100 | 0 | 0" {
		t.Error(got)
	}
}
