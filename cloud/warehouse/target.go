package warehouse

import (
	"fmt"
	"slices"
	"strings"

	"millrace/cloud/analysis/result"
)

// kind is what a column holds: the Parquet file's type and the table's.
type kind int

const (
	text kind = iota + 1
	timestamp
	double
	bigint
	integer
	boolean
	date // only in tables: it comes from the path
)

// column is one column of a file or a table.
type column struct {
	name string
	kind kind
	// size is the longest text in bytes. Redshift counts bytes and PostgreSQL
	// characters.
	size int
	must bool // not null
}

// The sizes of texts, in bytes. longText is the most that Redshift's VARCHAR
// takes; sample.MaxTagBytes is 255.
const (
	nameText  = 256
	shortText = 1024
	someText  = 4096
	longText  = 65535
)

func (c column) sql() string {
	var t string
	switch c.kind {
	case text:
		t = fmt.Sprintf("VARCHAR(%d)", c.size)
	case timestamp:
		t = "TIMESTAMP"
	case double:
		t = "DOUBLE PRECISION"
	case bigint:
		t = "BIGINT"
	case integer:
		t = "INTEGER"
	case boolean:
		t = "BOOLEAN"
	case date:
		t = "DATE"
	}
	if c.must {
		t += " NOT NULL"
	}
	return name(c.name) + " " + t
}

// target is one table and the files that go into it.
type target struct {
	name string
	// file are the columns of the Parquet file, in its order.
	file []column
	// path are columns before those of the file, which the file's path says.
	path []column
	// key tells the rows of a result apart, and they are merged by it. Files of
	// history have none: their folder is replaced as a whole.
	key []string
	// time is the column by which a result's files are parted into days.
	time    string
	history bool
	// dist and sort are Redshift's distribution and sort keys.
	dist string
	sort []string
}

// columns are all columns of the table.
func (t *target) columns() []column { return slices.Concat(t.path, t.file) }

func columnNames(columns []column) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.name
	}
	return out
}

// staging is the name of the table that takes a file as it is.
func (t *target) staging() string { return "staging_" + t.name }

// targets are all tables that files are loaded into: the results, then history.
func targets() []*target {
	var out []*target
	for _, r := range result.All() {
		t := &target{name: r.Name, key: r.Key, time: r.Time(), dist: r.Key[0], sort: []string{r.Time(), r.Key[0]}}
		for _, c := range r.Columns {
			t.file = append(t.file, ofResult(r, c))
		}
		out = append(out, t)
	}
	return append(out, samples(), gaps(), catalogue())
}

func ofResult(r result.Result, c result.Column) column {
	out := column{name: c.Name, must: c.Name == "site" || slices.Contains(r.Key, c.Name)}
	switch c.Type {
	case result.Timestamp:
		out.kind = timestamp
	case result.Double:
		out.kind = double
	case result.Integer:
		out.kind = bigint
	case result.Text:
		out.kind, out.size = text, nameText
	default:
		panic(fmt.Sprintf("BUG: column %s of result %s is of a type that no table has: %s", c.Name, r.Name, c.Type))
	}
	return out
}

func must(n string, k kind, size int) column { return column{name: n, kind: k, size: size, must: true} }

func may(n string, k kind, size int) column { return column{name: n, kind: k, size: size} }

// The three tables of history follow package lake, column by column.
func samples() *target {
	return &target{
		name: "samples", history: true, dist: "tag", sort: []string{"date", "site", "tag", "time"},
		path: []column{must("site", text, nameText), must("date", date, 0)},
		file: []column{
			must("tag", text, nameText), must("time", timestamp, 0), must("time_nanos", integer, 0),
			may("gateway_time", timestamp, 0), may("gateway_nanos", integer, 0), must("kind", integer, 0),
			may("value", double, 0), may("integer", bigint, 0), may("text", text, longText), must("quality", bigint, 0),
			must("gateway", text, nameText), must("stream", text, nameText), may("producer", text, shortText), may("seq", bigint, 0),
		},
	}
}

func gaps() *target {
	return &target{
		name: "gaps", history: true, sort: []string{"date", "site"},
		path: []column{must("site", text, nameText), must("date", date, 0)},
		file: []column{
			must("gateway", text, nameText), must("id", text, shortText), must("cause", text, nameText), must("source", text, shortText),
			may("sources", text, longText), may("tag", text, nameText), may("stream", text, nameText), may("from_seq", bigint, 0),
			may("to_seq", bigint, 0), may("from_time", timestamp, 0), may("to_time", timestamp, 0), may("count", bigint, 0),
			may("declared_at", timestamp, 0), may("sinks", text, longText),
		},
	}
}

func catalogue() *target {
	return &target{
		name: "catalogue", history: true, sort: []string{"tag"},
		path: []column{must("site", text, nameText)},
		file: []column{
			must("gateway", text, nameText), must("tag", text, nameText), must("stream", text, nameText), must("source", text, shortText),
			may("type", text, nameText), may("unit", text, nameText), may("description", text, someText),
			must("counter", boolean, 0), may("counter_max", double, 0), may("since", timestamp, 0),
		},
	}
}

// chosen picks targets: the results named, all where none is, and history. The
// catalogue comes with either, since the views take units from it.
func chosen(results []string, history bool) ([]*target, error) {
	for _, n := range results {
		if _, err := result.Named(n); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(targets(), func(t *target) bool {
		if t.history {
			return !history && t.name != "catalogue"
		}
		return len(results) > 0 && !slices.Contains(results, t.name)
	}), nil
}

// conditions joins comparisons of columns of two tables. No column of a key is
// ever null, in either table, so that plain equality is enough.
func conditions(columns []string, left, right string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = left + "." + name(c) + " = " + right + "." + name(c)
	}
	return strings.Join(parts, " AND ")
}
