package query

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/format"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// plantRig has two tags in one stream over the turn of a week, and one of another.
func plantRig(t *testing.T) (*rig, *catalogue.Store) {
	r := newRig(t, awssim.Options{})
	r.weeks(sunday, monday)
	c := r.catalogue()
	r.told(c, "s0001", "plc", "kW", power, flow)
	r.told(c, "s0002", "meters", "", "north/gate/open")
	minute := time.Minute
	r.put(r.pack("s0001", block.Header{}, reading(power, sunday.Add(50*minute), 1), reading(flow, sunday.Add(50*minute), 10), reading(power, sunday.Add(70*minute), 2)))
	r.put(r.pack("s0001", block.Header{}, reading(power, sunday.Add(80*minute), 3), reading(flow, sunday.Add(80*minute), 30)))
	r.put(r.pack("s0001", block.Header{}, reading(power, monday, 4), reading(power, monday.Add(minute), 5)))
	r.put(r.pack("s0002", block.Header{}, reading("north/gate/open", sunday.Add(75*minute), 1)))
	return r, c
}

func TestAcrossWeeks(t *testing.T) {
	r, c := plantRig(t)
	s := Store{Tables: r.db, Prefix: prefix, Catalogue: c}
	// The first block begins before the range and reaches into it.
	a := ask(t, s, Request{Tags: []string{power}, From: sunday.Add(time.Hour), To: monday.Add(time.Minute)})
	expect(t, a, "23:10:00 boiler/power 2", "23:20:00 boiler/power 3", "00:00:00 boiler/power 4")
	if a.Problems != 0 || a.rows[0].Unit != "kW" || a.rows[0].Gateway != "gw1" || a.rows[0].Stream != "s0001" || !slices.Equal(a.Tags, []Tag{{power, "kW", "of " + power}}) {
		t.Errorf("%+v, %+v, %q", a.rows[0], a.Report, a.problems)
	}
	a = ask(t, s, Request{Tags: []string{"north/*"}, From: sunday, To: monday.Add(time.Hour)})
	expect(t, a, "22:50:00 boiler/flow 10", "22:50:00 boiler/power 1", "23:10:00 boiler/power 2", "23:15:00 gate/open 1", "23:20:00 boiler/flow 30",
		"23:20:00 boiler/power 3", "00:00:00 boiler/power 4", "00:01:00 boiler/power 5")
	a = ask(t, s, Request{Tags: []string{"north/boiler/*"}, From: sunday, To: monday.Add(time.Hour), ByTag: true, Limit: 4})
	expect(t, a, "22:50:00 boiler/flow 10", "23:20:00 boiler/flow 30", "22:50:00 boiler/power 1", "23:10:00 boiler/power 2")
	a = ask(t, s, Request{Tags: []string{"*"}, From: sunday, To: monday.Add(time.Hour), Last: 2})
	expect(t, a, "22:50:00 boiler/flow 10", "23:15:00 gate/open 1", "23:20:00 boiler/flow 30", "00:00:00 boiler/power 4", "00:01:00 boiler/power 5")
}

// Tables, files and archive give the same answer.
func TestFilesAndArchiveAgree(t *testing.T) {
	r, c := plantRig(t)
	n := uint64(7)
	gap := gapOf1(t, &ledger.Gap{ID: 1, Epoch: "0000000000000007", Cause: ledger.Evicted, Source: "plc", Stream: "s0001", Sinks: []string{"files", "sqs"}, Count: &n, From: sunday.Add(55 * time.Minute), To: sunday.Add(60 * time.Minute), At: monday}, sunday.Add(100*time.Minute))
	b := r.pack(ledger.SystemStream, block.Header{}, gap)
	r.put(b)
	if err := c.Take(t.Context(), b.Data); err != nil {
		t.Fatal(err)
	}
	r.blocks = append(r.blocks, r.blocks[3]) // after a power cut a block can be there twice
	q := Request{Tags: []string{"north/*"}, From: sunday.Add(time.Hour), To: monday.Add(time.Hour)}
	tables := Store{Tables: r.db, Prefix: prefix, Catalogue: c}
	want := ask(t, tables, q)
	if len(want.rows) != 6 || len(want.gaps) != 1 || want.Problems != 0 {
		t.Fatalf("%d rows, gaps %+v, %q", len(want.rows), want.gaps, want.problems)
	}
	place := r.archive()
	got := map[string]*answer{
		"files":     ask(t, Store{Dir: r.files()}, q),
		"archive":   ask(t, Store{Archive: place, Prefix: prefix}, q),
		"catalogue": ask(t, Store{Tables: r.db, Prefix: prefix, Catalogue: missing{}}, q),
	}
	_, err := r.db.DeleteTable(t.Context(), deleteTable(weektable.Table(prefix, sunday)))
	if err != nil {
		t.Fatal(err)
	}
	got["both"] = ask(t, Store{Tables: r.db, Prefix: prefix, Catalogue: c, Archive: place}, q)
	for name, a := range got {
		for i := range a.rows {
			a.rows[i].Unit = ""
		}
		for i := range want.rows {
			want.rows[i].Unit = ""
		}
		if !slices.Equal(a.rows, want.rows) || a.Problems != 0 {
			t.Errorf("%s: got\n  %s\nwant\n  %s\n%q", name, strings.Join(a.times(), "\n  "), strings.Join(want.times(), "\n  "), a.problems)
		}
		if len(a.gaps) != 1 || a.gaps[0].Cause != ledger.Evicted || *a.gaps[0].Count != 7 || !a.gaps[0].From.Equal(want.gaps[0].From) || !slices.Equal(a.gaps[0].Sinks, want.gaps[0].Sinks) {
			t.Errorf("%s: gaps %+v", name, a.gaps)
		}
	}
	if notes := got["catalogue"].notes; len(notes) != 1 || !strings.Contains(notes[0], "there is no table plant-catalogue") {
		t.Errorf("without a catalogue: %q", notes)
	}
}

// missing is a catalogue without tables.
type missing struct{}

func (missing) err() error {
	return fmt.Errorf("read: %w", &noTable{})
}
func (m missing) Lookup(context.Context, string) ([]catalogue.Entry, error) { return nil, m.err() }
func (m missing) Entries(context.Context, string, func(*catalogue.Entry) error) error {
	return m.err()
}
func (m missing) Gaps(context.Context, string, time.Time, time.Time, func(*catalogue.Gap) error) error {
	return m.err()
}

// archive writes all blocks so far as the archive has them.
func (r *rig) archive() objects.Place {
	r.Helper()
	place, err := objects.Parse(r.TempDir(), func() (*s3.Client, error) { return nil, errors.New("no S3") })
	if err != nil {
		r.Fatal(err)
	}
	dec, err := block.NewDecoder()
	if err != nil {
		r.Fatal(err)
	}
	byDay := map[time.Time][]lake.Row{}
	var records records
	seen := map[string]bool{}
	for _, b := range r.blocks {
		if seen[b.Header.Identity()] {
			continue
		}
		seen[b.Header.Identity()] = true
		d, err := dec.Decode(b.Data)
		if err != nil {
			r.Fatal(err)
		}
		records.take(d, func(line string) { r.Error(line) })
		for s := range d.All() {
			day := lake.Day(s.PrimaryTime())
			byDay[day] = append(byDay[day], lake.Row{Sample: s, Gateway: d.Gateway, Stream: d.Stream})
		}
	}
	put := func(key string, data []byte) {
		if err := place.Put(context.Background(), key, data); err != nil {
			r.Fatal(err)
		}
	}
	files := map[string][]manifest.File{}
	for day, rows := range byDay {
		sort.SliceStable(rows, func(i, j int) bool {
			if rows[i].Tag != rows[j].Tag {
				return rows[i].Tag < rows[j].Tag
			}
			a, b := &rows[i], &rows[j]
			return less(&format.Row{Sample: a.Sample, Stream: a.Stream}, &format.Row{Sample: b.Sample, Stream: b.Stream})
		})
		var b bytes.Buffer
		w := lake.NewWriter(&b)
		for i := range rows {
			if err := w.Write(&rows[i]); err != nil {
				r.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			r.Fatal(err)
		}
		put(lake.SamplesKey("north", day, 0), b.Bytes())
		table := weektable.Table(prefix, day)
		files[table] = append(files[table], manifest.File{Key: lake.SamplesKey("north", day, 0)})
	}
	for table, list := range files {
		if err := manifest.Write(context.Background(), place, manifest.New(table, monday, manifest.NewSum(), list, nil)); err != nil {
			r.Fatal(err)
		}
	}
	var b bytes.Buffer
	var entries []lake.Entry
	for _, e := range records.entries {
		entries = append(entries, lake.Entry{Gateway: e.Gateway, Tag: e.Tag, Stream: e.Stream, Source: e.Source, Unit: e.Unit, Description: e.Description})
	}
	if err := lake.WriteCatalogue(&b, entries); err != nil {
		r.Fatal(err)
	}
	put(lake.CatalogueKey("north", 0), b.Bytes())
	for _, g := range records.gaps {
		var b bytes.Buffer
		n := int64(*g.Count)
		err := lake.WriteGaps(&b, []lake.Gap{{Gateway: g.Gateway, ID: "1", Cause: string(g.Cause), Source: g.Source, Stream: g.Stream, From: g.From, To: g.To, Count: &n, Declared: g.At, Sinks: strings.Join(g.Sinks, ",")}})
		if err != nil {
			r.Fatal(err)
		}
		put(lake.GapsKey("north", g.From, 0), b.Bytes())
	}
	return place
}

func gapOf1(t *testing.T, g *ledger.Gap, at time.Time) sample.Sample {
	t.Helper()
	s, err := g.Sample(ledger.GapTag("north", "gw1"), at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Samples that a producer sent again, and those that a device gave twice, are one.
func TestEachSampleOnce(t *testing.T) {
	r := newRig(t, awssim.Options{})
	r.weeks(sunday)
	c := r.catalogue()
	r.told(c, "s0001", "mqtt", "", power)
	at := sunday.Add(time.Minute)
	sent := reading(power, at, 1)
	sent.Producer, sent.Seq = "meter", 9
	again := sent
	again.Time += 60e9 // of the gateway's clock: it was sent again a minute later
	device := reading(power, at.Add(5*time.Second), 2)
	device.SourceTime = at.UnixNano() + 1e9
	twice := device
	twice.Time += 1e9
	other := twice
	other.Value = sample.FloatValue(3)
	plain := reading(power, at.Add(90*time.Second), 4)
	r.put(r.pack("s0001", block.Header{}, sent, device))
	r.put(r.pack("s0001", block.Header{}, again, twice, other, plain, plain))
	a := ask(t, Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{power}, From: sunday, To: monday})
	expect(t, a, "22:01:00 boiler/power 1", "22:01:01 boiler/power 2", "22:01:01 boiler/power 3", "22:02:30 boiler/power 4", "22:02:30 boiler/power 4")
	if a.Duplicates != 2 {
		t.Errorf("%d duplicates", a.Duplicates)
	}
}

func TestQuality(t *testing.T) {
	r := newRig(t, awssim.Options{})
	r.weeks(sunday)
	c := r.catalogue()
	r.told(c, "s0001", "plc", "", power)
	good, doubt, bad := reading(power, sunday, 1), reading(power, sunday.Add(1), 2), reading(power, sunday.Add(2), 3)
	doubt.Quality, bad.Quality = sample.UncertainLastUsableValue, sample.BadTimeout
	r.put(r.pack("s0001", block.Header{}, good, doubt, bad))
	for text, n := range map[string]int{"good": 1, "uncertain": 2, "all": 3} {
		q, err := ParseQuality(text)
		if err != nil {
			t.Fatal(err)
		}
		a := ask(t, Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{power}, From: sunday, To: monday, Quality: q})
		if len(a.rows) != n || a.Hidden != int64(3-n) {
			t.Errorf("%s: %d samples, %d hidden", text, len(a.rows), a.Hidden)
		}
	}
	if _, err := ParseQuality("best"); err == nil {
		t.Error("best is taken")
	}
}

// Gaps of a tag's own source stand between its samples; those of others do not.
func TestGaps(t *testing.T) {
	r, c := plantRig(t)
	var list []sample.Sample
	for i, g := range []ledger.Gap{
		{Source: "plc", From: sunday.Add(55 * time.Minute), To: sunday.Add(60 * time.Minute)},
		{Source: "meters", From: sunday.Add(56 * time.Minute), To: sunday.Add(60 * time.Minute)},
		{Sources: []string{"meters", "plc"}, From: sunday.Add(72 * time.Minute), To: sunday.Add(73 * time.Minute)},
		{Source: "plc", Tag: flow, From: sunday.Add(74 * time.Minute), To: sunday.Add(74 * time.Minute)},
		{Stream: "s0001", From: sunday.Add(-time.Hour), To: sunday.Add(2 * time.Hour)},
		{Source: "plc", From: sunday.Add(-3 * time.Hour), To: sunday.Add(-2 * time.Hour)},
	} {
		g.ID, g.Epoch, g.Cause, g.At = uint64(i+1), "0000000000000007", ledger.Evicted, monday
		list = append(list, gapOf1(t, &g, sunday.Add(90*time.Minute)), gapOf1(t, &g, sunday.Add(90*time.Minute)))
	}
	b := r.pack(ledger.SystemStream, block.Header{}, list...)
	if err := c.Take(t.Context(), b.Data); err != nil {
		t.Fatal(err)
	}
	var order []string
	_, err := Run(t.Context(), Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{power}, From: sunday, To: monday,
		Sample: func(r *format.Row) error { order = append(order, r.Value.String()); return nil },
		Gap:    func(g *format.Gap) error { order = append(order, fmt.Sprint("gap ", g.ID)); return nil }})
	if want := "[gap 5 1 gap 1 2 gap 3 3]"; err != nil || fmt.Sprint(order) != want {
		t.Errorf("%v, want %s; %v", order, want, err)
	}
}

// A loss that only some sinks had is none where a sample of its stream lies within.
func TestGapsOfOneSink(t *testing.T) {
	r, c := plantRig(t)
	var list []sample.Sample
	one := func(stream string, from, to time.Duration, sinks ...string) {
		g := ledger.Gap{ID: uint64(len(list) + 1), Epoch: "0000000000000007", Cause: ledger.Evicted, At: monday, Source: "plc", Stream: stream, Sinks: sinks,
			From: sunday.Add(from * time.Minute), To: sunday.Add(to * time.Minute)}
		list = append(list, gapOf1(t, &g, sunday.Add(90*time.Minute)))
	}
	one("s0001", 45, 75, "files")        // 1: the readings at 50 and 70 lie within
	one("s0001", 52, 68, "files")        // 2: none does
	one("s0001", 50, 70, "files", "sqs") // 3: they are its ends
	one("s0002", 60, 85, "files")        // 4: they came in another stream
	one("s0001", 70, 70, "files")        // 5: of one reading, which is here
	one("s0001", 72, 73)                 // 6: all sinks lack it
	one("", 79, 81, "files")             // 7: no stream is told
	one("s0001", 75, 200, "files")       // 8: the one at 80, and beyond the range
	b := r.pack(ledger.SystemStream, block.Header{}, list...)
	if err := c.Take(t.Context(), b.Data); err != nil {
		t.Fatal(err)
	}
	for _, last := range []int{0, 3} {
		var order []string
		report, err := Run(t.Context(), Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{power}, From: sunday, To: monday, Last: last,
			Sample: func(r *format.Row) error { order = append(order, r.Value.String()); return nil },
			Gap:    func(g *format.Gap) error { order = append(order, fmt.Sprint("gap ", g.ID)); return nil }})
		if want := "[1 gap 3 gap 2 2 gap 6 3 gap 4 gap 7]"; err != nil || fmt.Sprint(order) != want || report.Gaps != strings.Count(want, "gap") {
			t.Errorf("last %d: %v, want %s; %+v, %v", last, order, want, report, err)
		}
	}
}

// TestRandomOrder holds the merge against a plain sort: blocks that overlap, come
// late, and span the day.
func TestRandomOrder(t *testing.T) {
	r := newRig(t, awssim.Options{})
	r.weeks(sunday, monday)
	c := r.catalogue()
	r.told(c, "s0001", "plc", "", power, flow)
	r.told(c, "s0002", "plc", "", power, flow)
	rnd := rand.New(rand.NewPCG(1, 2))
	var want []string
	from, to := sunday.Add(-10*time.Hour), monday.Add(5*time.Hour)
	for range 60 {
		day := sunday.Truncate(24 * time.Hour)
		if rnd.IntN(2) == 0 {
			day = monday
		}
		var list []sample.Sample
		base := rnd.Int64N(dayNS)
		for range 1 + rnd.IntN(40) {
			at := day.Add(time.Duration(min(dayNS-1, base+rnd.Int64N(dayNS/8))))
			s := reading(power, at, float64(rnd.IntN(1000)))
			if rnd.IntN(3) == 0 {
				s.Tag = flow
			}
			list = append(list, s)
			if !at.Before(from) && at.Before(to) {
				want = append(want, fmt.Sprintf("%020d %s %s", at.UnixNano(), s.Tag, s.Value))
			}
		}
		r.put(r.pack([]string{"s0001", "s0002"}[rnd.IntN(2)], block.Header{}, list...))
	}
	slices.Sort(want)
	for name, s := range map[string]Store{"tables": {Tables: r.db, Prefix: prefix, Catalogue: c}, "files": {Dir: r.files()}, "archive": {Archive: r.archive(), Prefix: prefix}} {
		a := ask(t, s, Request{Tags: []string{"north/boiler/*"}, From: from, To: to})
		var got []string
		for _, row := range a.rows {
			got = append(got, fmt.Sprintf("%020d %s %s", row.PrimaryTime(), row.Tag, row.Value))
		}
		ordered := slices.IsSortedFunc(a.rows, func(x, y format.Row) int {
			if less(&x, &y) {
				return -1
			}
			return 0
		})
		slices.Sort(got)
		if !slices.Equal(got, want) || !ordered {
			t.Errorf("%s: %d samples, want %d; in order: %v", name, len(got), len(want), ordered)
		}
	}
}

func TestUnknownTag(t *testing.T) {
	r, c := plantRig(t)
	for tag, near := range map[string]string{
		"north/boilr/powr": power, "north/boiler/POWER": power, "nroth/boiler/power": power, "north/*/powr": power, "north/gate/opne": "north/gate/open",
	} {
		_, err := tryAsk(t.Context(), Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{tag}, From: sunday, To: monday})
		var unknown *UnknownTagError
		if !errors.As(err, &unknown) || len(unknown.Near) == 0 || unknown.Near[0] != near || !strings.Contains(err.Error(), near) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	_, err := tryAsk(t.Context(), Store{Archive: r.archive(), Prefix: prefix}, Request{Tags: []string{"north/boiler/powe"}, From: sunday, To: monday})
	if err == nil || !strings.Contains(err.Error(), "there is "+power) {
		t.Errorf("archive: %v", err)
	}
	_, err = tryAsk(t.Context(), Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{"quite/another/thing"}, From: sunday, To: monday})
	if err == nil || !strings.Contains(err.Error(), "look at the name") {
		t.Errorf("%v", err)
	}
}

// Gateways that write to DynamoDB directly fill no catalogue: where it has nothing
// of a site, its tags are found all the same.
func TestUnfilledCatalogue(t *testing.T) {
	r, _ := plantRig(t)
	for _, name := range catalogue.Tables("empty") {
		r.table(name)
	}
	empty := Store{Tables: r.db, Prefix: prefix, Catalogue: &catalogue.Store{DB: r.db, Prefix: "empty"}}
	for _, tag := range []string{power, "north/*/power", "*/power"} {
		a := ask(t, empty, Request{Tags: []string{tag}, From: sunday.Add(time.Hour), To: monday.Add(time.Minute)})
		expect(t, a, "23:10:00 boiler/power 2", "23:20:00 boiler/power 3", "00:00:00 boiler/power 4")
		if len(a.notes) != 1 || !strings.Contains(a.notes[0], "nothing of the site of "+tag) || !strings.Contains(a.notes[0], "`millrace-cloud tables catalogue`") {
			t.Errorf("%s: %q", tag, a.notes)
		}
		if len(a.rows) > 0 && a.rows[0].Unit != "kW" {
			t.Errorf("%s: %+v", tag, a.rows[0])
		}
	}
	// A site that is in no table either is a wrong name.
	_, err := tryAsk(t.Context(), empty, Request{Tags: []string{"nroth/boiler/power"}, From: sunday, To: monday})
	var unknown *UnknownTagError
	if !errors.As(err, &unknown) || !strings.Contains(err.Error(), "`millrace-cloud tables catalogue`") {
		t.Errorf("%v", err)
	}
	// Its week may be in the archive alone.
	a := ask(t, Store{Tables: r.db, Prefix: "retired", Catalogue: empty.Catalogue, Archive: r.archive()}, Request{Tags: []string{power}, From: sunday, To: monday})
	expect(t, a, "22:50:00 boiler/power 1", "23:10:00 boiler/power 2", "23:20:00 boiler/power 3")
}

// What cannot be read is one clear line each, and the rest comes all the same.
func TestBadInput(t *testing.T) {
	r, c := plantRig(t)
	table := weektable.Table(prefix, sunday)
	damaged := r.pack("s0001", block.Header{}, reading(power, sunday.Add(20*time.Minute), 99))
	damaged.Data = bytes.Clone(damaged.Data)
	damaged.Data[len(damaged.Data)-10] ^= 1
	r.putInto(table, damaged)
	newer := r.pack("s0001", block.Header{}, reading(power, sunday.Add(21*time.Minute), 98))
	newer.Data = newerVersion(newer.Data)
	r.putInto(table, newer)
	q := Request{Tags: []string{power}, From: sunday, To: monday.Add(time.Hour)}
	a := ask(t, Store{Tables: r.db, Prefix: prefix, Catalogue: c}, q)
	if len(a.rows) != 5 || a.Problems != 2 || !strings.Contains(a.problems[0], "it cannot be read: corrupt block") || !strings.Contains(a.problems[1], "newer version of the format; update millrace-cloud") {
		t.Errorf("%d rows, %q", len(a.rows), a.problems)
	}
	// A week that was never there, one that is being made, and one after today.
	a = ask(t, Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{power}, From: sunday.AddDate(0, 0, -14), To: sunday.AddDate(0, 0, -5)})
	if a.Problems != 2 || !strings.Contains(a.problems[0], "there is no table plant-samples-2026-w45: that week was retired") {
		t.Errorf("%q", a.problems)
	}
	later := newRig(t, awssim.Options{TableDelay: time.Hour})
	later.weeks(monday)
	a = ask(t, Store{Tables: later.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{power}, From: monday, To: monday.Add(time.Hour)})
	if a.Problems != 1 || !strings.Contains(a.problems[0], "still being made (CREATING)") {
		t.Errorf("%q", a.problems)
	}
	// The archive has a week without its manifest.
	place := r.archive()
	if err := place.Delete(t.Context(), manifest.Key(table)); err != nil {
		t.Fatal(err)
	}
	a, err := tryAsk(t.Context(), Store{Archive: place, Prefix: prefix}, Request{Tags: []string{flow}, From: sunday, To: monday})
	if err != nil || len(a.rows) != 2 || a.Problems != 1 || !strings.Contains(a.problems[0], "week 2026-w47 is not archived whole") {
		t.Errorf("%v, %d rows, %q", err, len(a.rows), a.problems)
	}
	if err := place.Put(t.Context(), lake.SamplesKey("north", sunday, 1), []byte("half of it")); err != nil {
		t.Fatal(err)
	}
	a = ask(t, Store{Archive: place, Prefix: prefix}, Request{Tags: []string{flow}, From: sunday, To: monday})
	if len(a.rows) != 2 || a.Problems != 2 || !strings.Contains(a.problems[1], "part-00001.parquet cannot be read: ") {
		t.Errorf("%d rows, %q", len(a.rows), a.problems)
	}
}

// newerVersion is a block as a later version of the format may begin, with its CRC.
// A file that a manifest names and that is not there is told, and a manifest that
// cannot be read as well.
func TestArchiveLacksFile(t *testing.T) {
	r, _ := plantRig(t)
	place := r.archive()
	key := lake.SamplesKey("north", sunday, 0)
	if err := place.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	q := Request{Tags: []string{power}, From: sunday, To: monday}
	a := ask(t, Store{Archive: place, Prefix: prefix}, q)
	if len(a.rows) != 0 || a.Problems != 1 || !strings.Contains(a.problems[0], key+" is not there, and the manifest names it: run `millrace-cloud archive 2026-w47`") {
		t.Errorf("%d rows, %q", len(a.rows), a.problems)
	}
	if err := place.Put(t.Context(), manifest.Key(weektable.Table(prefix, sunday)), []byte(`{"version":1,`)); err != nil {
		t.Fatal(err)
	}
	a = ask(t, Store{Archive: place, Prefix: prefix}, q)
	if a.Problems != 1 || !strings.Contains(a.problems[0], "plant-samples-2026-w47.json cannot be read: it is no manifest") {
		t.Errorf("%q", a.problems)
	}
}

func newerVersion(data []byte) []byte {
	out := bytes.Clone(data[:len(data)-4])
	out[2] = 9
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli)))
}

// A service that fails is one line for a stream, whatever of it came before.
func TestDenied(t *testing.T) {
	r, c := plantRig(t)
	db := &denied{Tables: r.db, stream: "s0002"}
	a := ask(t, Store{Tables: db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{"north/*"}, From: sunday, To: monday, Raw: true})
	if len(a.rows) != 5 || a.Problems != 1 || !strings.Contains(a.problems[0], "stream north#gw1#s0002 cannot be read to its end: AccessDeniedException") {
		t.Errorf("%d rows, %q", len(a.rows), a.problems)
	}
}

// A table that throttles is read on, more slowly, and nothing is missing.
func TestThrottled(t *testing.T) {
	r, c := plantRig(t)
	var mu sync.Mutex
	slept := 0
	s := Store{Tables: &busy{Tables: r.db, first: 4, tries: map[string]int{}}, Prefix: prefix, Catalogue: c, Sleep: func(_ context.Context, d time.Duration) bool {
		mu.Lock()
		defer mu.Unlock()
		slept++
		if d > 20*time.Second {
			t.Errorf("it waits for %s", d)
		}
		return true
	}}
	a := ask(t, s, Request{Tags: []string{"north/*"}, From: sunday, To: monday.Add(time.Hour), Raw: true})
	if len(a.rows) != 8 || a.Problems != 0 || slept != 8 {
		t.Errorf("%d rows, %q, slept %d times", len(a.rows), a.problems, slept)
	}
	s.Tables, s.Sleep = &busy{Tables: r.db, first: 4, tries: map[string]int{}}, func(context.Context, time.Duration) bool { return false }
	if a := ask(t, s, Request{Tags: []string{power}, From: sunday, To: monday, Raw: true}); len(a.rows) != 0 || a.Problems != 1 {
		t.Errorf("%d rows, %q", len(a.rows), a.problems)
	}
}

func TestCancelled(t *testing.T) {
	r, c := plantRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := Run(ctx, Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{"north/*"}, From: sunday, To: monday.Add(time.Hour),
		Sample: func(*format.Row) error { n++; cancel(); return ctx.Err() }})
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
	full := errors.New("disk full")
	_, err = Run(t.Context(), Store{Tables: r.db, Prefix: prefix, Catalogue: c}, Request{Tags: []string{"north/*"}, From: sunday, To: monday.Add(time.Hour),
		Sample: func(*format.Row) error { return full }})
	if !errors.Is(err, full) {
		t.Error(err)
	}
}
