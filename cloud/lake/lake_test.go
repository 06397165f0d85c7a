package lake

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"millrace/sample"
)

func TestKeys(t *testing.T) {
	day := time.Date(2026, 11, 28, 23, 59, 59, 999, time.UTC)
	for want, got := range map[string]string{
		"samples/site=north/date=2026-11-28/part-00000.parquet":         SamplesKey("north", day, 0),
		"samples/site=n%2Fo r%3D%25/date=2026-11-28/part-00012.parquet": SamplesKey("n/o r=%", day, 12),
		"gaps/site=Süd/date=2026-11-28/part-00001.parquet":              GapsKey("Süd", day, 1),
		"catalogue/site=a%3Ab/part-00000.parquet":                       CatalogueKey("a:b", 0),
		"samples/site=north/date=2026-11-29/part-123456.parquet":        SamplesKey("north", day.Add(time.Second).In(time.FixedZone("east", 3600)), 123456),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
		k, ok := ParseKey(got)
		if !ok || k.String() != got {
			t.Errorf("%s is taken apart as %+v, %v", got, k, ok)
		}
	}
	if k, _ := ParseKey("samples/site=n%2Fo/date=2026-11-28/part-00003.parquet"); k.Site != "n/o" || k.Part != 3 || !k.Day.Equal(Day(day.UnixNano())) {
		t.Errorf("%+v", k)
	}
	for _, bad := range []string{"", "samples", "samples/site=a/part-00000.parquet", "late/site=a/date=2026-11-28/part-00000.parquet", "samples/site=a/date=2026-11-28/part-0.parquet",
		"samples/a/date=2026-11-28/part-00000.parquet", "samples/site=a/date=2026-13-28/part-00000.parquet", "samples/site=%4/date=2026-11-28/part-00000.parquet",
		"samples/site=%zz/date=2026-11-28/part-00000.parquet", "samples/site=a/date=2026-11-28/part--0001.parquet", "catalogue/site=a/date=2026-11-28/part-00000.parquet"} {
		if k, ok := ParseKey(bad); ok {
			t.Errorf("%q is taken for %+v", bad, k)
		}
	}
}

// every is a sample of every kind there is.
func every() []Row {
	at := time.Date(2026, 11, 28, 10, 0, 0, 123456789, time.UTC).UnixNano()
	values := []sample.Value{
		{}, sample.FloatValue(0), sample.FloatValue(math.Copysign(0, -1)), sample.FloatValue(math.NaN()), sample.FloatValue(math.Float64frombits(0x7ff8dead0000beef)),
		sample.FloatValue(math.Float64frombits(0xfff0000000000001)), sample.FloatValue(math.Inf(-1)), sample.FloatValue(math.SmallestNonzeroFloat64),
		sample.IntValue(0), sample.IntValue(1 << 53), sample.IntValue(1<<53 + 1), sample.IntValue(-1<<53 - 1), sample.IntValue(math.MaxInt64), sample.IntValue(math.MinInt64),
		sample.BoolValue(false), sample.BoolValue(true),
		sample.StringValue(""), sample.StringValue("Grüße"), sample.StringValue("not UTF-8: \xff\x00"), sample.StringValue("\xc3"), sample.StringValue("nul \x00"), sample.StringValue("/w=="),
	}
	var out []Row
	for i, v := range values {
		r := Row{Gateway: "gw1", Stream: "s0001"}
		r.Tag, r.Time, r.Value, r.Quality = "north/m1/"+string(rune('a'+i)), at+int64(i), v, sample.Good
		out = append(out, r)
		r.Time, r.SourceTime, r.Quality = at+5e9, at+int64(i)+1e6, sample.Quality(math.MaxUint32)
		out = append(out, r)
		r.SourceTime, r.Producer, r.Seq = 0, "scada/7", math.MaxUint64-uint64(i)
		out = append(out, r)
	}
	for i, ns := range []int64{math.MinInt64, math.MinInt64 + 1, -1, -1000, -1001, 1, 999, 1000, math.MaxInt64} {
		r := Row{Gateway: "gw1", Stream: "s0001"}
		r.Tag, r.Time, r.Value = fmt.Sprintf("north/m2/%d", i), ns, sample.IntValue(1)
		out = append(out, r)
		r.SourceTime, r.Seq = ns, 3 // a sequence of nobody
		out = append(out, r)
	}
	return out
}

func write(t *testing.T, rows []Row) []byte { return writeGroups(t, rows, groupRows, pageBytes) }

// writeGroups writes row groups of n rows and pages of that many bytes.
func writeGroups(t *testing.T, rows []Row, n int64, page int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newWriter(&b, n, page)
	for i := range rows {
		if err := w.Write(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	w.Note("millrace.test", "a note")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Rows() != int64(len(rows)) {
		t.Fatalf("%d rows, wrote %d", w.Rows(), len(rows))
	}
	return b.Bytes()
}

func read(t *testing.T, data []byte, f Filter) (out []Row) {
	t.Helper()
	if err := Read(bytes.NewReader(data), int64(len(data)), f, func(r *Row) error { out = append(out, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEverySampleComesBack: bit by bit, since Value is compared so.
func TestEverySampleComesBack(t *testing.T) {
	rows := every()
	got := read(t, write(t, rows), Filter{})
	if len(got) != len(rows) {
		t.Fatalf("%d rows of %d", len(got), len(rows))
	}
	for i := range rows {
		if got[i] != rows[i] {
			t.Errorf("row %d is %+v, want %+v", i, got[i], rows[i])
		}
	}
	if got := read(t, write(t, nil), Filter{}); len(got) != 0 {
		t.Errorf("%d rows of none", len(got))
	}
}

// TestColumns: a warehouse loads by count and order, and readers of other makes
// know no more than these encodings.
func TestColumns(t *testing.T) {
	data := write(t, every())
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	const want = "tag:STRING time:TIMESTAMP(isAdjustedToUTC=true,unit=MICROS) time_nanos:INT32 gateway_time?:TIMESTAMP(isAdjustedToUTC=true,unit=MICROS) " +
		"gateway_nanos?:INT32 kind:INT32 value?:DOUBLE integer?:INT64 text?:STRING quality:INT64 gateway:STRING stream:STRING producer?:STRING seq?:INT64"
	var have []string
	for _, f := range file.Schema().Fields() {
		name := f.Name()
		if f.Optional() {
			name += "?"
		}
		kind := f.Type().String()
		if strings.HasPrefix(kind, "INT(32") {
			kind = "INT32"
		} else if strings.HasPrefix(kind, "INT(64") {
			kind = "INT64"
		}
		have = append(have, name+":"+kind)
	}
	if got := strings.Join(have, " "); got != want {
		t.Errorf("columns %s\nwant    %s", got, want)
	}
	plain := []format.Encoding{format.Plain, format.RLE, format.RLEDictionary}
	for _, c := range file.Metadata().RowGroups[0].Columns {
		if c.MetaData.Codec != format.Zstd {
			t.Errorf("%v is compressed by %v", c.MetaData.PathInSchema, c.MetaData.Codec)
		}
		for _, e := range c.MetaData.Encoding {
			if !slices.Contains(plain, e) {
				t.Errorf("%v is encoded as %v", c.MetaData.PathInSchema, e)
			}
		}
	}
	info, err := ReadInfo(bytes.NewReader(data), int64(len(data)))
	if err != nil || info.Rows != int64(len(every())) || info.Notes["millrace.test"] != "a note" {
		t.Errorf("%+v, %v", info, err)
	}
}

// many rows of several row groups, in order.
func many() (rows []Row) {
	for tag := range 12 {
		for i := range 2000 {
			r := Row{Gateway: "gw1", Stream: "s0001"}
			r.Tag, r.Time, r.Value = fmt.Sprintf("north/m1/%02d", tag), int64(i)*1e9+1, sample.FloatValue(float64(i))
			rows = append(rows, r)
		}
	}
	return rows
}

func TestRowGroupsAreReadByNeed(t *testing.T) {
	rows := many()
	data := writeGroups(t, rows, 8000, pageBytes)
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(file.RowGroups()); n != 3 {
		t.Fatalf("%d row groups, want 3", n)
	}
	counted := &counter{r: bytes.NewReader(data)}
	var got []Row
	f := Filter{Tags: []string{"north/m1/11"}, From: 1000e9, To: 1010e9 + 1}
	if err := Read(counted, int64(len(data)), f, func(r *Row) error { got = append(got, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	want := rows[11*2000+1000 : 11*2000+1010]
	if !slices.Equal(got, want) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	if counted.n > int64(len(data))/2 {
		t.Errorf("%d bytes of %d were read for one of three row groups", counted.n, len(data))
	}
	if got := read(t, data, Filter{Tags: []string{"north/m1/none", "south"}}); len(got) != 0 {
		t.Errorf("%d rows of tags that are not there", len(got))
	}
	if got := read(t, data, Filter{From: 1999e9}); len(got) != 12 {
		t.Errorf("%d rows of the last second, want 12", len(got))
	}
}

// TestFilters: whatever is asked for, those rows come that a look at each would
// find, from small pages and row groups.
func TestFilters(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var rows []Row
	for tag := range 9 {
		at := int64(-3_000_000)
		for range r.IntN(6000) {
			at += r.Int64N(3000)
			row := Row{Gateway: fmt.Sprint("gw", r.IntN(2)), Stream: "s0001"}
			row.Tag, row.Time, row.Value = fmt.Sprint("north/m/", tag), at, sample.IntValue(r.Int64())
			switch r.IntN(5) {
			case 0:
				row.SourceTime, row.Time = at|1, at+5
			case 1:
				row.Producer, row.Seq = fmt.Sprint("p", r.IntN(3)), r.Uint64()
			case 2:
				row.Value = sample.StringValue(strings.Repeat("x", r.IntN(50)))
			}
			rows = append(rows, row)
		}
	}
	data := writeGroups(t, rows, 5000, 2000)
	for range 60 {
		f := Filter{}
		for range r.IntN(3) {
			f.Tags = append(f.Tags, fmt.Sprint("north/m/", r.IntN(11)))
		}
		if r.IntN(3) > 0 {
			f.From = r.Int64N(12_000_000) - 4_000_000
		}
		if r.IntN(3) > 0 {
			f.To = r.Int64N(12_000_000) - 4_000_000
		}
		var want []Row
		for _, row := range rows {
			if at := row.PrimaryTime(); (f.Tags == nil || slices.Contains(f.Tags, row.Tag)) && (f.From == 0 || at >= f.From) && (f.To == 0 || at < f.To) {
				want = append(want, row)
			}
		}
		if got := read(t, data, f); !slices.Equal(got, want) {
			t.Fatalf("%+v: %d rows, want %d", f, len(got), len(want))
		}
	}
}

type counter struct {
	r *bytes.Reader
	n int64
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.n += int64(len(p))
	return c.r.ReadAt(p, off)
}

func TestWhatCannotBeReadOrWritten(t *testing.T) {
	data := write(t, every())
	none := func(*Row) error { return nil }
	for name, bad := range map[string][]byte{"empty": {}, "cut": data[:len(data)-9], "text": []byte("PAR1 no PAR1")} {
		if Read(bytes.NewReader(bad), int64(len(bad)), Filter{}, none) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	var gaps bytes.Buffer
	if err := WriteGaps(&gaps, nil); err != nil {
		t.Fatal(err)
	}
	if err := Read(bytes.NewReader(gaps.Bytes()), int64(gaps.Len()), Filter{}, none); err == nil || !strings.Contains(err.Error(), "its columns are") {
		t.Errorf("a file of gaps is read as samples: %v", err)
	}
	stop := errors.New("stop")
	if err := Read(bytes.NewReader(data), int64(len(data)), Filter{}, func(*Row) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error comes back as %v", err)
	}
	w := NewWriter(&bytes.Buffer{})
	for _, bad := range []Row{{Gateway: "\xff"}, {Stream: "\xff"}, {Sample: sample.Sample{Tag: "\xff"}}, {Sample: sample.Sample{Producer: "\xff"}}} {
		if err := w.Write(&bad); err == nil {
			t.Errorf("%+v is written", bad)
		}
	}
	if w.Rows() != 0 {
		t.Errorf("%d rows", w.Rows())
	}
}

func TestIdentity(t *testing.T) {
	same := func(a, b sample.Sample) bool {
		x, y := Identity(nil, &a), Identity(nil, &b)
		return x != nil && bytes.Equal(x, y)
	}
	produced := sample.Sample{Tag: "a/b/c", Producer: "p", Seq: 1, Time: 1, Value: sample.IntValue(1)}
	again := produced
	again.Time, again.SourceTime, again.Value = 2, 3, sample.IntValue(2)
	if !same(produced, again) {
		t.Error("tag, producer and sequence are all that counts where there is a producer")
	}
	again.Seq = 2
	if same(produced, again) {
		t.Error("another sequence is the same")
	}
	a, b := sample.Sample{Tag: "a/b/c", Producer: "p1", Seq: 1}, sample.Sample{Tag: "a/b/cp", Producer: "1", Seq: 1}
	if same(a, b) {
		t.Error("tag and producer run into each other")
	}
	sourced := sample.Sample{Tag: "a/b/c", SourceTime: 5, Time: 6, Value: sample.FloatValue(1)}
	for name, other := range map[string]func(*sample.Sample){
		"time": func(s *sample.Sample) { s.SourceTime++ }, "value": func(s *sample.Sample) { s.Value = sample.FloatValue(2) },
		"kind": func(s *sample.Sample) { s.Value = sample.IntValue(int64(math.Float64bits(1))) }, "quality": func(s *sample.Sample) { s.Quality = sample.Bad }, "tag": func(s *sample.Sample) { s.Tag = "a/b/d" },
	} {
		s := sourced
		other(&s)
		if same(sourced, s) {
			t.Errorf("another %s is the same", name)
		}
	}
	s := sourced
	s.Time = 99
	if !same(sourced, s) {
		t.Error("the gateway's time counts")
	}
	if id := Identity(nil, &sample.Sample{Tag: "a/b/c", Time: 6}); id != nil {
		t.Errorf("a sample without either has identity %q", id)
	}
}

// TestGateways: one name, several in a row group, and names whose stated bounds
// are cut to the same.
func TestGateways(t *testing.T) {
	long := strings.Repeat("g", boundBytes)
	for _, c := range []struct{ names, want []string }{
		{nil, nil},
		{[]string{"a", "a", "a", "a"}, []string{"a"}},
		{[]string{"", "", "b", "a"}, []string{"", "a", "b"}},
		{[]string{"b", "a", "c", "b", "c"}, []string{"a", "b", "c"}},
		{[]string{long + "1", long + "2"}, []string{long + "1", long + "2"}},
	} {
		var rows []Row
		for i, name := range c.names {
			rows = append(rows, Row{Gateway: name, Stream: "s", Sample: sample.Sample{Tag: "s/d/t", Time: int64(i)}})
		}
		data := writeGroups(t, rows, 2, pageBytes)
		got, err := Gateways(bytes.NewReader(data), int64(len(data)))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("of %.40q: %.40q, %v", c.names, got, err)
		}
	}
	if _, err := Gateways(strings.NewReader("no Parquet"), 10); err == nil {
		t.Error("no error")
	}
}

func TestGapsAndCatalogue(t *testing.T) {
	count := int64(7)
	at := time.Date(2026, 11, 28, 1, 2, 3, 4000, time.UTC)
	gaps := []Gap{
		{Gateway: "gw1", ID: "1", Cause: "evicted", Source: "m1", Sources: "m1,m2", Tag: "a/b/c", Stream: "s0001", FromSeq: 3, ToSeq: math.MaxUint64, From: at, To: at.Add(time.Hour), Count: &count, Declared: at, Sinks: "files,sqs"},
		{Gateway: "gw1", ID: "2", Cause: "gateway_down"},
	}
	var b bytes.Buffer
	if err := WriteGaps(&b, gaps); err != nil {
		t.Fatal(err)
	}
	i := 0
	err := ReadGaps(bytes.NewReader(b.Bytes()), int64(b.Len()), func(g *Gap) error {
		want := gaps[i]
		if (g.Count == nil) != (want.Count == nil) || g.Count != nil && *g.Count != *want.Count {
			t.Errorf("count %v, want %v", g.Count, want.Count)
		}
		g.Count, want.Count = nil, nil
		if *g != want {
			t.Errorf("%+v, want %+v", *g, want)
		}
		i++
		return nil
	})
	if err != nil || i != 2 {
		t.Fatal(i, err)
	}
	entries := []Entry{{Gateway: "gw1", Tag: "a/b/c", Stream: "s0001", Source: "m1", Type: "uint16", Unit: "kWh", Description: "of hall 3", Counter: true, CounterMax: 65535, Since: at}, {Gateway: "gw2", Tag: "a/b/d"}}
	b.Reset()
	if err := WriteCatalogue(&b, entries); err != nil {
		t.Fatal(err)
	}
	var got []Entry
	if err := ReadCatalogue(bytes.NewReader(b.Bytes()), int64(b.Len()), func(e *Entry) error { got = append(got, *e); return nil }); err != nil || !slices.Equal(got, entries) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestBoundsOfValueAreNotStated: with a NaN among them they would be wrong, and
// a reader would leave rows out.
func TestBoundsOfValueAreNotStated(t *testing.T) {
	data := write(t, every())
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	s := file.Metadata().RowGroups[0].Columns[6].MetaData.Statistics
	if len(s.MinValue) > 0 || len(s.MaxValue) > 0 || len(s.Min) > 0 || len(s.Max) > 0 {
		t.Errorf("value has bounds: %+v", s)
	}
	tags := file.Metadata().RowGroups[0].Columns[0].MetaData.Statistics
	if string(tags.MinValue) != "north/m1/a" || string(tags.MaxValue) != "north/m2/8" {
		t.Errorf("tag has bounds %q to %q", tags.MinValue, tags.MaxValue)
	}
}

func BenchmarkWrite(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var row Row
	row.Gateway, row.Stream = "gw1", "s0001"
	w := NewWriter(&bytes.Buffer{})
	for i := range b.N {
		row.Tag, row.Time, row.Value = fmt.Sprintf("north/m1/%06d", i/86400), int64(i%86400)*1e9, sample.FloatValue(float64(r.IntN(1000)))
		if err := w.Write(&row); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
