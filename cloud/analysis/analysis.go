// Package analysis computes the expensive results of the archive, one for each
// SQL text beside this file, day by day, and writes them as Parquet under
// results/.
//
// The same text is run by DuckDB on one machine (cloud/analysis/duckdb) and by
// Spark (cloud/analysis/spark), so it keeps to what both understand. An engine
// defines the views that a text names; docs/cloud-analysis.md lists them. A day
// of a result is computed again only when the text or one of its inputs has
// changed: a state beside the results keeps the hashes of what each was made of.
package analysis

import (
	"context"
	"embed"
	"fmt"
	"slices"
	"time"

	"millrace/cloud/analysis/result"
)

//go:embed *.sql
var texts embed.FS

// Text is the SQL text of a result.
func Text(name string) (string, error) {
	text, err := texts.ReadFile(name + ".sql")
	if err != nil {
		return "", fmt.Errorf("there is no text of the result %q", name)
	}
	return string(text), nil
}

// View is what a text reads, by its name in SQL.
type View string

// The views. The last three are results of an earlier step, under their names;
// a text also has hours and period, which are made of the day alone, and next_day.
const (
	Samples   View = "samples"
	Gaps      View = "gaps"
	Catalogue View = "catalogue"
)

// Input is one file that a view is made of.
type Input struct {
	View View   `json:"view"`
	Site string `json:"site,omitempty"` // no column of the file; "" for results, which have it
	Key  string `json:"key"`
	Size int64  `json:"size"`
	// Hash is the SHA-256 of the file where that is known, in hexadecimal: from the
	// archive's manifests, and from the state for results. Of the catalogue it is
	// of what the result reads of it.
	Hash string `json:"hash,omitempty"`
}

// Step is one day of one result.
type Step struct {
	Result result.Result
	Day    time.Time // 00:00 UTC
	Inputs []Input   // sorted by view, site, key
	// NextDay are the gateways of which the archive has samples of the day after,
	// sorted; nil for a result that does not look there.
	NextDay []Gateway
}

// Gateway names a gateway of a site.
type Gateway struct {
	Site string `json:"site"`
	Name string `json:"gateway"`
}

// Output is the key of what a step makes.
func (s *Step) Output() string { return result.Key(s.Result.Name, s.Day, 0) }

// String names the step for people.
func (s *Step) String() string { return s.Result.Name + " of " + s.Day.Format(time.DateOnly) }

// reach is what a result looks at.
type reach struct {
	view View
	// days before the day itself, of which files are read too.
	days int
}

// needs are the inputs of each result, the number of days before its own among
// them. The views' comments in the texts say the same.
func needs(name string) []reach {
	switch name {
	case "hourly":
		return []reach{{Samples, 0}}
	case "energy":
		return []reach{{Samples, 7}, {Catalogue, 0}}
	case "availability":
		return []reach{{Samples, 1}, {Gaps, 35}, {Catalogue, 0}}
	case "kpi":
		return []reach{{"availability", 0}, {"energy", 27}}
	case "anomaly":
		return []reach{{"hourly", 28}, {"energy", 28}, {Catalogue, 0}}
	}
	return nil
}

// looksAhead tells the results that see who delivered on the day after. Of that
// day no more is seen, so that a day is due once again when it has begun and not
// each time it grows.
func looksAhead(name string) bool { return name == "availability" }

// Views lists what the text of a result may name, besides hours, period and
// next_day.
func Views(name string) []View {
	var out []View
	for _, n := range needs(name) {
		out = append(out, n.view)
	}
	return out
}

// isResult tells the views that are results of earlier steps.
func isResult(v View) bool {
	return slices.ContainsFunc(result.All(), func(r result.Result) bool { return r.Name == string(v) })
}

// File is what a step has made.
type File struct {
	Rows   int64
	Bytes  int64
	SHA256 string // in hexadecimal; "" where there are no rows, and so no file
}

// Engine computes steps. Implementations: Machine, and spark.Engine.
type Engine interface {
	// Batch is how many steps it takes at once; steps of one batch may depend on
	// those before them.
	Batch() int
	// Compute makes the output of each step, in order, in the archive's place, and
	// calls done when that is whole. Where a step has no rows there is no output,
	// and one that was there is gone. An error leaves the steps after the last done
	// as they were.
	Compute(ctx context.Context, steps []Step, done func(i int, f File) error) error
}
