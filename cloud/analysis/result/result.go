// Package result names the results that analysis computes, with the columns of
// each in their order. Parquet files, the warehouse's tables and the export all
// follow it: Redshift's COPY takes the columns of a Parquet file by count and
// order, so a column is only ever added at the end, with every reader.
//
// It knows no engine: the SQL texts are in cloud/analysis.
package result

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Type is what a column holds. Every column may be null.
type Type int

// The types.
const (
	Text      Type = iota + 1 // UTF-8; VARCHAR in SQL, STRING in Parquet
	Timestamp                 // UTC in microseconds; TIMESTAMP in SQL, TIMESTAMP(MICROS) in Parquet
	Double                    // DOUBLE PRECISION, DOUBLE; never NaN or infinite
	Integer                   // 64 bits; BIGINT, INT64
)

// String is the type's name.
func (t Type) String() string {
	switch t {
	case Text:
		return "text"
	case Timestamp:
		return "timestamp"
	case Double:
		return "double"
	case Integer:
		return "integer"
	}
	return fmt.Sprintf("type %d", int(t))
}

// Column is one column of a result.
type Column struct {
	Name string
	Type Type
}

// Result is one table of results.
type Result struct {
	Name string
	// Columns are in the order of the Parquet files. The first is always site.
	Columns []Column
	// Key names the columns that tell the rows of a result apart. Rows are sorted
	// by them. A tag's and a device's name begin with the site, so site is not
	// among them.
	Key []string
}

// Time is the column that places a row in time: its hour or its day, by which
// the files are partitioned.
func (r Result) Time() string { return r.Key[1] }

// All lists the results, in the order in which they are computed.
func All() []Result {
	return []Result{
		{Name: "hourly", Key: []string{"tag", "hour"}, Columns: []Column{
			{"site", Text}, {"tag", Text}, {"hour", Timestamp},
			{"samples", Integer}, {"good", Integer}, {"uncertain", Integer}, {"bad", Integer},
			{"minimum", Double}, {"maximum", Double}, {"mean", Double}, {"first", Double}, {"last", Double},
			{"standard_deviation", Double}}},
		{Name: "energy", Key: []string{"tag", "hour"}, Columns: []Column{
			{"site", Text}, {"tag", Text}, {"hour", Timestamp},
			{"unit", Text}, {"used", Double}, {"readings", Integer}, {"rollovers", Integer}, {"resets", Integer}}},
		{Name: "availability", Key: []string{"tag", "hour"}, Columns: []Column{
			{"site", Text}, {"tag", Text}, {"hour", Timestamp},
			{"good_seconds", Double}, {"bad_seconds", Double}, {"gap_seconds", Double}, {"availability", Double}}},
		{Name: "kpi", Key: []string{"device", "day"}, Columns: []Column{
			{"site", Text}, {"device", Text}, {"day", Timestamp},
			{"availability", Double}, {"performance", Double}, {"quality", Double}, {"oee", Double}}},
		{Name: "anomaly", Key: []string{"tag", "hour"}, Columns: []Column{
			{"site", Text}, {"tag", Text}, {"hour", Timestamp},
			{"value", Double}, {"expected", Double}, {"spread", Double}, {"score", Double}}},
	}
}

// Named finds a result. The error lists those that there are.
func Named(name string) (Result, error) {
	var names []string
	for _, r := range All() {
		if r.Name == name {
			return r, nil
		}
		names = append(names, r.Name)
	}
	return Result{}, fmt.Errorf("there is no result %q; there are %s", name, strings.Join(names, ", "))
}

// Prefix begins the keys of all results in the archive.
const Prefix = "results/"

// Key is where the rows of one UTC day are in the archive:
// results/hourly/date=2026-11-28/part-00000.parquet, all sites in one. date is
// no column of the file. A result of one day is one file, so part is 0.
func Key(name string, day time.Time, part int) string {
	return fmt.Sprintf("%s%s/date=%s/part-%05d.parquet", Prefix, url.PathEscape(name), day.UTC().Format(time.DateOnly), part)
}

// ParseKey takes a key apart that Key has made. ok is false for any other, as
// for the state beside the results.
func ParseKey(key string) (name string, day time.Time, part int, ok bool) {
	rest, ok := strings.CutPrefix(key, Prefix)
	fields := strings.Split(rest, "/")
	if !ok || len(fields) != 3 {
		return "", time.Time{}, 0, false
	}
	date, isDate := strings.CutPrefix(fields[1], "date=")
	day, err := time.Parse(time.DateOnly, date)
	if _, scan := fmt.Sscanf(fields[2], "part-%05d.parquet", &part); scan != nil || err != nil || !isDate {
		return "", time.Time{}, 0, false
	}
	if key != Key(fields[0], day, part) {
		return "", time.Time{}, 0, false
	}
	return fields[0], day, part, true
}
