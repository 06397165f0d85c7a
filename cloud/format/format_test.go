package format

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"millrace/cloud/lake"
	"millrace/sample"
	"millrace/sample/ledger"
)

var at = time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC).UnixNano()

// rows are one of each kind that there is.
func rows() []Row {
	tag := "north/boiler/power"
	mk := func(k int64, v sample.Value, q sample.Quality) Row {
		return Row{Sample: sample.Sample{Tag: tag, Value: v, Quality: q, Time: at + k*1e9}, Gateway: "gw1", Stream: "s0001", Unit: "kW"}
	}
	out := []Row{
		mk(0, sample.FloatValue(12.3), sample.Good),
		mk(1, sample.IntValue(-7), sample.UncertainLastUsableValue),
		mk(2, sample.Value{}, sample.BadTimeout),
		mk(3, sample.BoolValue(true), sample.Good),
		mk(4, sample.StringValue("a \"b\", c\r\nd"), sample.Good),
		mk(5, sample.StringValue("=HYPERLINK(\"http://x\")"), sample.Good),
		mk(6, sample.StringValue(""), sample.Good),
		mk(7, sample.FloatValue(math.Inf(1)), sample.Good),
		mk(8, sample.IntValue(math.MaxInt64), sample.Good),
		mk(9, sample.StringValue("\xff\x00"), sample.Good),
	}
	p := mk(10, sample.FloatValue(0.07), sample.Good)
	p.SourceTime, p.Producer, p.Seq = at+10e9+500e6+1, "m,1", 42
	return append(out, p)
}

func write(t *testing.T, k Kind, o Options, rows []Row, gaps ...Gap) []byte {
	t.Helper()
	var b bytes.Buffer
	w := New(k, &b, o)
	for i := range rows {
		if err := w.Sample(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range gaps {
		if err := w.Gap(&gaps[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCSV reads it back with another reader, and byte by byte where that one is
// generous.
func TestCSV(t *testing.T) {
	data := write(t, CSV, Options{}, rows())
	// encoding/csv turns CRLF within a field into LF, so that one is compared apart.
	if !bytes.Contains(data, []byte(",\"a \"\"b\"\", c\r\nd\",")) {
		t.Errorf("quotes and line ends within a field:\n%s", data)
	}
	r := csv.NewReader(bytes.NewReader(data))
	all, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(all[0], ","); got != csvHeader {
		t.Errorf("header %s", got)
	}
	values := []string{"12.3", "-7", "", "true", "a \"b\", c\nd", "'=HYPERLINK(\"http://x\")", "", "Infinity", "9223372036854775807", "\xff\x00", "0.07"}
	for i, want := range values {
		if got := all[i+1][2]; got != want {
			t.Errorf("value %d is %q, want %q", i, got, want)
		}
	}
	if got := strings.Join(all[2], "|"); got != "2026-11-28T08:00:01Z|north/boiler/power|-7|kW|uncertain|UncertainLastUsableValue|int64||gw1|s0001||" {
		t.Errorf("a row: %s", got)
	}
	if got := strings.Join(all[11], "|"); got != "2026-11-28T08:00:10.500000001Z|north/boiler/power|0.07|kW|good|Good|float64|2026-11-28T08:00:10Z|gw1|s0001|m,1|42" {
		t.Errorf("a row with a producer: %s", got)
	}
	// A row ends with CRLF, the last one too (RFC 4180, 2.1 and 2.2).
	if lines := bytes.Count(data, []byte("\r\n")); lines != len(values)+1+1 || !bytes.HasSuffix(data, []byte("\r\n")) {
		t.Errorf("%d line ends", lines)
	}
	if got := string(write(t, CSV, Options{BOM: true}, nil)); got != "\ufeff"+csvHeader+"\r\n" {
		t.Errorf("nothing, with a byte order mark: %q", got)
	}
}

// A spreadsheet must not take a text for a formula, and a number stays one.
func TestFormulas(t *testing.T) {
	for text, want := range map[string]string{
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\tx": "'\tx", "\r=1": "'\r=1", "\n=1": "'\n=1", " =1": "' =1", "\u00a0=1": "'\u00a0=1",
		"'quoted": "''quoted", "＝1": "'＝1", "plain": "plain", "a=b": "a=b", "": "", "  ": "  ", "\xff": "\xff", "ä": "ä",
	} {
		if got := harmless(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	// DDE and the like in names too, since MQTT topics are whatever the sender likes.
	r := Row{Sample: sample.Sample{Tag: "=cmd|' /C calc'!A0/x/y", Value: sample.FloatValue(-1), Time: at, Producer: "@p"}, Unit: "+u", Gateway: "-g", Stream: "=s"}
	line := strings.Split(string(write(t, CSV, Options{}, []Row{r})), "\r\n")[1]
	for _, f := range strings.Split(line, ",") {
		if f != "-1" && strings.ContainsAny(f[:min(1, len(f))], "=+-@") {
			t.Errorf("field %q of %s", f, line)
		}
	}
}

func TestJSONLines(t *testing.T) {
	n := uint64(3)
	gap := Gap{Site: "north", Gateway: "gw1", Gap: ledger.Gap{ID: 1, Cause: ledger.Evicted, Count: &n, Source: "plc"}}
	lines := strings.Split(strings.TrimSuffix(string(write(t, JSON, Options{}, rows(), gap)), "\n"), "\n")
	if len(lines) != 12 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range rows() {
		// Without what is added, a line is the gateway's own form.
		line := strings.TrimSuffix(lines[i], `,"unit":"kW","gateway":"gw1","stream":"s0001"}`) + "}"
		got, err := sample.ParseJSONLine([]byte(line))
		if err != nil || got != want.Sample {
			t.Errorf("line %d comes back as %+v, %v\n%s", i, got, err, lines[i])
		}
		if !json.Valid([]byte(lines[i])) {
			t.Errorf("line %d is no JSON: %s", i, lines[i])
		}
	}
	var got struct {
		Gap struct {
			Site, Gateway, Source string
			Cause                 ledger.Cause
			Count                 *uint64
		}
	}
	if err := json.Unmarshal([]byte(lines[11]), &got); err != nil || got.Gap.Site != "north" || got.Gap.Gateway != "gw1" || got.Gap.Source != "plc" || got.Gap.Cause != ledger.Evicted || *got.Gap.Count != 3 {
		t.Errorf("gap %s: %v", lines[11], err)
	}
	if !strings.HasPrefix(lines[11], `{"gap":{"site":"north","gateway":"gw1","id":1,"epoch":"",`) {
		t.Errorf("gap %s", lines[11])
	}
}

func TestTable(t *testing.T) {
	n := uint64(600)
	from := time.Unix(0, at).Add(time.Second)
	gap := Gap{Site: "north", Gateway: "gw1", Gap: ledger.Gap{ID: 1, Cause: ledger.GatewayDown, Count: &n, Source: "plc", From: from, To: from.Add(10 * time.Minute), Sinks: []string{"files"}}}
	list := rows()[:3]
	list[2].Value = sample.StringValue("\x1b[31mred")
	want := `TIME (UTC)           VALUE             UNIT  QUALITY
2026-11-28 08:00:00               12.3  kW    Good
2026-11-28 08:00:01                 -7  kW    UncertainLastUsableValue
2026-11-28 08:00:02  "\x1b[31mred"      kW    BadTimeout
--- gap: gateway_down, 2026-11-28 08:00:01 to 2026-11-28 08:10:01 (10m0s), 600 samples: plc at gw1, lost to files only ---
`
	want = strings.Replace(want, "TIME (UTC)           VALUE             UNIT", "TIME (UTC)                   VALUE  UNIT", 1)
	got := string(write(t, Table, Options{Tags: 1}, list, gap))
	if squeeze(got) != squeeze(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// Every line has its columns in the same places.
	lines := strings.Split(got, "\n")
	for _, l := range lines[:4] {
		if i := strings.Index(lines[0], "UNIT"); l[i-2:i] != "  " || l[i] != 'k' && l[i] != 'U' {
			t.Errorf("not aligned:\n%s", got)
		}
	}
	berlin := time.FixedZone("CET", 3600)
	got = string(write(t, Table, Options{Zone: berlin}, rows()[10:]))
	if !strings.Contains(got, "TIME (CET)") || !strings.Contains(got, "2026-11-28 09:00:10.500000001 +01:00  north/boiler/power") {
		t.Errorf("in another zone:\n%s", got)
	}
	if got := write(t, Table, Options{}, nil); len(got) > 0 {
		t.Errorf("nothing is %q", got)
	}
}

func squeeze(s string) string {
	var out []string
	for _, l := range strings.Split(s, "\n") {
		out = append(out, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(out, "\n")
}

// A long table keeps its form with bounded memory: what comes behind the first
// lines widens the columns.
func TestLongTable(t *testing.T) {
	var b bytes.Buffer
	w := newTable(&b, Options{Tags: 1})
	for i := range 3 * headRows {
		if err := w.Sample(&Row{Sample: sample.Sample{Tag: "a/b/c", Value: sample.IntValue(int64(i) * int64(i)), Time: at + int64(i)*1e9}}); err != nil {
			t.Fatal(err)
		}
		if len(w.head) > headRows {
			t.Fatalf("%d lines are kept", len(w.head))
		}
	}
	if err := w.Close(); err != nil || strings.Count(b.String(), "\n") != 3*headRows+1 {
		t.Errorf("%d lines, %v", strings.Count(b.String(), "\n"), err)
	}
}

func TestParquet(t *testing.T) {
	data := write(t, Parquet, Options{}, rows())
	i := 0
	err := lake.Read(bytes.NewReader(data), int64(len(data)), lake.Filter{}, func(r *lake.Row) error {
		if want := rows()[i]; r.Sample != want.Sample || r.Gateway != want.Gateway || r.Stream != want.Stream {
			t.Errorf("row %d: %+v", i, r)
		}
		i++
		return nil
	})
	if err != nil || i != len(rows()) {
		t.Errorf("%d rows, %v", i, err)
	}
}

// The same rows make the same bytes.
func TestBytesAreStable(t *testing.T) {
	for _, k := range []Kind{Table, CSV, JSON, SenML, Parquet} {
		if !bytes.Equal(write(t, k, Options{}, rows()), write(t, k, Options{}, rows())) {
			t.Errorf("%s differs from itself", k)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// What cannot be written is said, by each form.
func TestWriteErrors(t *testing.T) {
	for _, k := range []Kind{Table, CSV, JSON, SenML, Parquet} {
		w := New(k, full{}, Options{})
		list := rows()
		if err := errors.Join(w.Sample(&list[0]), w.Close()); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%s: %v", k, err)
		}
	}
}

func TestKinds(t *testing.T) {
	if k, err := Parse("senml", CSV, SenML); k != SenML || err != nil {
		t.Error(k, err)
	}
	if _, err := Parse("xls", CSV, SenML); err == nil || !strings.Contains(err.Error(), "write csv, senml") {
		t.Error(err)
	}
	if JSON.Extension() != ".jsonl" || CSV.Extension() != ".csv" || SenML.Extension() != ".senml.json" || Table.Extension() != ".txt" {
		t.Error("extensions")
	}
}

// People see no digits that come of the binary form alone, and lose none of a
// counter; the other forms are exact.
func TestNumbersForPeople(t *testing.T) {
	for f, want := range map[float64]string{
		183.57999999999998: "183.58", 0.1 + 0.2: "0.3", -0.30000000000000004: "-0.3", 1e6: "1000000", 0.000123456789: "0.000123456789",
		123456789012.5: "123456789012.5", 1e-9: "1e-09", 0: "0", math.Inf(1): "+Inf",
	} {
		if got := shown(sample.FloatValue(f)); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
	row := Row{Sample: sample.Sample{Tag: "a/b/c", Value: sample.FloatValue(183.57999999999998)}}
	for _, form := range []Kind{CSV, JSON} {
		var out bytes.Buffer
		w := New(form, &out, Options{})
		if err := errors.Join(w.Sample(&row), w.Close()); err != nil || !strings.Contains(out.String(), "183.57999999999998") {
			t.Errorf("%v: %s, %v", form, out.String(), err)
		}
	}
}
