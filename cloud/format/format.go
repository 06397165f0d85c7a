// Package format writes samples and results in the forms that people and other
// programs take: an aligned table, CSV (RFC 4180), JSON Lines, SenML (RFC 8428)
// and Parquet. Each writer is a function of what it is given: the same rows make
// the same bytes.
package format

import (
	"fmt"
	"io"
	"strings"
	"time"

	"millrace/sample"
	"millrace/sample/ledger"
)

// Row is a sample with what is known about where it came from.
type Row struct {
	sample.Sample
	Gateway, Stream string
	Unit            string // as the catalogue has it; empty where it is not known
}

// Gap is a declared loss.
type Gap struct {
	Site, Gateway string
	ledger.Gap
}

// Writer takes samples and the gaps between them, in the order in which they are
// to stand. It does not keep what it is given.
type Writer interface {
	Sample(r *Row) error
	// Gap takes a gap. Forms that have no place for one leave it out: CSV, SenML
	// and Parquet.
	Gap(g *Gap) error
	// Close ends the form and writes what is left. It does not close what is
	// written to.
	Close() error
}

// Kind is a form.
type Kind string

// The forms.
const (
	Table   Kind = "table"
	CSV     Kind = "csv"
	JSON    Kind = "json" // JSON Lines
	SenML   Kind = "senml"
	Parquet Kind = "parquet"
)

// Parse reads the name of a form that is one of those allowed.
func Parse(name string, allowed ...Kind) (Kind, error) {
	var names []string
	for _, k := range allowed {
		if string(k) == name {
			return k, nil
		}
		names = append(names, string(k))
	}
	return "", fmt.Errorf("there is no form %q here: write %s", name, strings.Join(names, ", "))
}

// Extension is what the names of files of the form end in, with its point.
func (k Kind) Extension() string {
	switch k {
	case JSON:
		return ".jsonl"
	case SenML:
		return ".senml.json"
	case Table:
		return ".txt"
	case CSV, Parquet:
	}
	return "." + string(k)
}

// Options tune a writer. The zero Options are good.
type Options struct {
	// Zone is in what the table's times are; nil is UTC. All other forms have UTC.
	Zone *time.Location
	// BOM begins CSV with a byte order mark, by which Excel knows UTF-8.
	BOM bool
	// Tags is how many tags the samples are of, where that is known: a table of
	// one has no column for it. 0 is not known.
	Tags int
	// Note is told what a form could not take; may be nil.
	Note func(line string)
}

// New makes a writer of samples.
func New(k Kind, w io.Writer, o Options) Writer {
	switch k {
	case CSV:
		return newCSV(w, o)
	case JSON:
		return &lines{w: w}
	case SenML:
		return newSenML(w, o)
	case Parquet:
		return newParquet(w)
	case Table:
	}
	return newTable(w, o)
}

// Severity is the class of a quality in one word.
func Severity(q sample.Quality) string {
	switch {
	case q.IsGood():
		return "good"
	case q.IsUncertain():
		return "uncertain"
	}
	return "bad"
}

// stamp appends a time as RFC 3339 in UTC with as many digits as it needs.
func stamp(dst []byte, ns int64) []byte {
	return time.Unix(0, ns).UTC().AppendFormat(dst, time.RFC3339Nano)
}
