package warehouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

var day28 = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

// archive is a folder in the place of S3.
func archive(t *testing.T) objects.Place {
	t.Helper()
	p, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// file makes a Parquet file of rows, whose values are those that rowsOf gives.
func file(t *testing.T, columns []column, rows ...[]any) []byte {
	t.Helper()
	var fields []reflect.StructField
	for i, c := range columns {
		tag, of := c.name, reflect.TypeFor[int64]()
		switch c.kind {
		case timestamp:
			tag += ",timestamp(microsecond)"
		case double:
			of = reflect.TypeFor[float64]()
		case text:
			of = reflect.TypeFor[string]()
		case integer:
			of = reflect.TypeFor[int32]()
		case boolean:
			of = reflect.TypeFor[bool]()
		}
		if !c.must {
			of, tag = reflect.PointerTo(of), tag+",optional"
		}
		fields = append(fields, reflect.StructField{Name: "F" + strconv.Itoa(i), Type: of, Tag: reflect.StructTag(`parquet:"` + tag + `"`)})
	}
	of := reflect.StructOf(fields)
	var b bytes.Buffer
	w := parquet.NewWriter(&b, parquet.SchemaOf(reflect.New(of).Interface()))
	for _, row := range rows {
		v := reflect.New(of).Elem()
		for i, x := range row {
			if x == nil {
				continue
			}
			if at, isTime := x.(time.Time); isTime {
				x = at.UnixMicro()
			}
			field := v.Field(i)
			if field.Kind() == reflect.Pointer {
				field.Set(reflect.New(field.Type().Elem()))
				field = field.Elem()
			}
			field.Set(reflect.ValueOf(x).Convert(field.Type()))
		}
		if err := w.Write(v.Addr().Interface()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func put(t *testing.T, p objects.Place, key string, data []byte) {
	t.Helper()
	if err := p.Put(t.Context(), key, data); err != nil {
		t.Fatal(err)
	}
}

func targetOf(t *testing.T, name string) *target {
	t.Helper()
	for _, x := range targets() {
		if x.name == name {
			return x
		}
	}
	t.Fatalf("no target %s", name)
	return nil
}

// hour is a row of the result hourly.
func hour(tag string, day time.Time, hour int, last float64) []any {
	site, _, _ := strings.Cut(tag, "/")
	return []any{site, tag, day.Add(time.Duration(hour) * time.Hour), 3600, 3600, 0, 0, 1.0, 9.0, 5.0, 1.0, last, nil}
}

func putHours(t *testing.T, p objects.Place, day time.Time, rows ...[]any) {
	t.Helper()
	put(t, p, result.Key("hourly", day, 0), file(t, targetOf(t, "hourly").file, rows...))
}

// memory is a warehouse that keeps its ledger and runs nothing.
type memory struct {
	batches []Batch
	ledger  map[string][]string // by file
	tables  map[string][]column
	fail    error
	dropped string // a table that is empty, whatever was loaded
}

func newMemory() *memory {
	m := &memory{ledger: map[string][]string{}, tables: map[string][]column{ledgerTable: ledgerColumns()}}
	for _, t := range targets() {
		m.tables[t.name], m.tables[t.staging()] = t.columns(), t.file
	}
	return m
}

func (m *memory) Dialect() Dialect { return PostgreSQL }

var ledgerRow = regexp.MustCompile(`SELECT CAST\('(\w+)' AS VARCHAR\(1024\)\), CAST\('([^']*)' AS VARCHAR\(1024\)\), (\d+), CAST\('([^']*)' AS VARCHAR\(1024\)\), CAST\('(\w*)' AS VARCHAR\(1024\)\), (\d+), (\d+), CASE`)

func (m *memory) Run(_ context.Context, b Batch) error {
	if m.fail != nil {
		return m.fail
	}
	m.batches = append(m.batches, b)
	for _, s := range b.Statements {
		if s.Copy != nil {
			for f, row := range m.ledger {
				if row[1] == s.Copy.From {
					delete(m.ledger, f)
				}
			}
		}
		for _, row := range ledgerRow.FindAllStringSubmatch(s.SQL, -1) {
			m.ledger[row[4]] = row[1:]
		}
	}
	return nil
}

func (m *memory) Query(_ context.Context, sql string) (out [][]string, err error) {
	if strings.Contains(sql, "information_schema.columns") {
		for table, columns := range m.tables {
			for _, c := range columns {
				out = append(out, []string{table, c.name})
			}
		}
		return out, nil
	}
	if table, ok := strings.CutPrefix(sql, "SELECT 1 FROM millrace."); ok {
		if table == m.dropped+" LIMIT 1" {
			return nil, nil
		}
		return [][]string{{"1"}}, nil
	}
	_, target, _ := strings.Cut(sql, `WHERE "target" = `)
	if target == "" {
		return nil, errors.New("a query that nobody asks: " + sql)
	}
	for _, row := range m.ledger {
		if "'"+row[0]+"'" == target {
			out = append(out, []string{row[1], row[2], row[3], row[4], row[5], row[6], "2026-11-29 01:02:03.5"})
		}
	}
	return out, nil
}

func (m *memory) names() string {
	var out []string
	for _, b := range m.batches {
		out = append(out, b.Name)
	}
	m.batches = nil
	return strings.Join(out, "; ")
}

func options(p objects.Place, db Database) Options {
	return Options{Archive: p, DB: db, Schema: DefaultSchema, Log: slog.New(slog.DiscardHandler)}
}

func load(t *testing.T, o Options) *Report {
	t.Helper()
	o.Dir = t.TempDir()
	r, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lines(r *Report) string {
	var b strings.Builder
	for _, t := range r.Targets {
		if t.Folders+t.Kept+t.Gone > 0 {
			fmt.Fprintln(&b, t)
		}
	}
	return b.String()
}

// nanoseconds is a catalogue whose times are in ns, as pandas writes them.
func nanoseconds(t *testing.T) []byte {
	t.Helper()
	type entry struct {
		Gateway     string   `parquet:"gateway"`
		Tag         string   `parquet:"tag"`
		Stream      string   `parquet:"stream"`
		Source      string   `parquet:"source"`
		Type        *string  `parquet:"type,optional"`
		Unit        *string  `parquet:"unit,optional"`
		Description *string  `parquet:"description,optional"`
		Counter     bool     `parquet:"counter"`
		CounterMax  *float64 `parquet:"counter_max,optional"`
		Since       *int64   `parquet:"since,optional,timestamp(nanosecond)"`
	}
	var b bytes.Buffer
	w := parquet.NewGenericWriter[entry](&b)
	if _, err := w.Write([]entry{{Gateway: "gw1", Tag: "north/m1/power"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
