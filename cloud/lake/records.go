package lake

import (
	"io"
	"time"

	"github.com/parquet-go/parquet-go"
)

// Gap is a gap record as the archive has it. Times are kept in µs.
type Gap struct {
	Gateway string
	// ID is the record's identity in one text.
	ID, Cause, Source string
	Sources           string // separated by commas; empty where it is one source
	Tag, Stream       string // Tag is empty where all of a stream or source is concerned
	FromSeq, ToSeq    uint64 // 0: not told
	From, To          time.Time
	Count             *int64 // nil: unknown
	Declared          time.Time
	Sinks             string // that lack the samples, separated by commas; empty for all
}

// Entry is one tag of the catalogue as the archive has it.
type Entry struct {
	Gateway, Tag, Stream, Source string
	Type, Unit, Description      string // empty where not told
	Counter                      bool
	// CounterMax is the highest reading before the counter starts again at 0; 0
	// where not told.
	CounterMax float64
	Since      time.Time // zero where not told
}

type gapRecord struct {
	Gateway    string  `parquet:"gateway,dict"`
	ID         string  `parquet:"id"`
	Cause      string  `parquet:"cause,dict"`
	Source     string  `parquet:"source,dict"`
	Sources    *string `parquet:"sources,optional"`
	Tag        *string `parquet:"tag,optional"`
	Stream     *string `parquet:"stream,optional"`
	FromSeq    *int64  `parquet:"from_seq,optional"`
	ToSeq      *int64  `parquet:"to_seq,optional"`
	FromTime   *int64  `parquet:"from_time,optional,timestamp(microsecond)"`
	ToTime     *int64  `parquet:"to_time,optional,timestamp(microsecond)"`
	Count      *int64  `parquet:"count,optional"`
	DeclaredAt *int64  `parquet:"declared_at,optional,timestamp(microsecond)"`
	Sinks      *string `parquet:"sinks,optional"`
}

type entryRecord struct {
	Gateway     string   `parquet:"gateway,dict"`
	Tag         string   `parquet:"tag"`
	Stream      string   `parquet:"stream,dict"`
	Source      string   `parquet:"source,dict"`
	Type        *string  `parquet:"type,optional"`
	Unit        *string  `parquet:"unit,optional"`
	Description *string  `parquet:"description,optional"`
	Counter     bool     `parquet:"counter"`
	CounterMax  *float64 `parquet:"counter_max,optional"`
	Since       *int64   `parquet:"since,optional,timestamp(microsecond)"`
}

// WriteGaps writes a whole file of gaps.
func WriteGaps(w io.Writer, gaps []Gap) error {
	return writeAll(w, gaps, func(g *Gap) gapRecord {
		r := gapRecord{Gateway: g.Gateway, ID: g.ID, Cause: g.Cause, Source: g.Source, Sources: given(g.Sources), Tag: given(g.Tag), Stream: given(g.Stream),
			FromTime: micros(g.From), ToTime: micros(g.To), Count: g.Count, DeclaredAt: micros(g.Declared), Sinks: given(g.Sinks)}
		if g.FromSeq != 0 || g.ToSeq != 0 {
			from, to := int64(g.FromSeq), int64(g.ToSeq)
			r.FromSeq, r.ToSeq = &from, &to
		}
		return r
	})
}

// ReadGaps calls fn for each gap of a file.
func ReadGaps(r io.ReaderAt, size int64, fn func(*Gap) error) error {
	return readAll(r, size, func(g *gapRecord) error {
		return fn(&Gap{Gateway: g.Gateway, ID: g.ID, Cause: g.Cause, Source: g.Source, Sources: value(g.Sources), Tag: value(g.Tag), Stream: value(g.Stream),
			FromSeq: uint64(value(g.FromSeq)), ToSeq: uint64(value(g.ToSeq)), From: instant(g.FromTime), To: instant(g.ToTime), Count: g.Count, Declared: instant(g.DeclaredAt), Sinks: value(g.Sinks)})
	})
}

// WriteCatalogue writes a whole file of the catalogue.
func WriteCatalogue(w io.Writer, entries []Entry) error {
	return writeAll(w, entries, func(e *Entry) entryRecord {
		r := entryRecord{Gateway: e.Gateway, Tag: e.Tag, Stream: e.Stream, Source: e.Source,
			Type: given(e.Type), Unit: given(e.Unit), Description: given(e.Description), Counter: e.Counter, Since: micros(e.Since)}
		if e.CounterMax != 0 {
			most := e.CounterMax
			r.CounterMax = &most
		}
		return r
	})
}

// ReadCatalogue calls fn for each entry of a file.
func ReadCatalogue(r io.ReaderAt, size int64, fn func(*Entry) error) error {
	return readAll(r, size, func(e *entryRecord) error {
		return fn(&Entry{Gateway: e.Gateway, Tag: e.Tag, Stream: e.Stream, Source: e.Source, Type: value(e.Type), Unit: value(e.Unit),
			Description: value(e.Description), Counter: e.Counter, CounterMax: value(e.CounterMax), Since: instant(e.Since)})
	})
}

func writeAll[T, R any](w io.Writer, all []T, as func(*T) R) error {
	p := parquet.NewGenericWriter[R](w, options()...)
	records := make([]R, len(all))
	for i := range all {
		records[i] = as(&all[i])
	}
	if _, err := p.Write(records); err != nil {
		return err
	}
	return p.Close()
}

func readAll[R any](r io.ReaderAt, size int64, fn func(*R) error) error {
	var none R
	file, err := open(r, size, parquet.SchemaOf(none))
	if err != nil {
		return err
	}
	for _, group := range file.RowGroups() {
		if err := readGroup(group, fn); err != nil {
			return err
		}
	}
	return nil
}

// given is a text, nil where it is empty.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func value[T any](p *T) T {
	var v T
	if p != nil {
		v = *p
	}
	return v
}

// micros is an instant in µs, nil where it is the zero time.
func micros(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	n := t.UnixMicro()
	return &n
}

func instant(us *int64) time.Time {
	if us == nil {
		return time.Time{}
	}
	return time.UnixMicro(*us).UTC()
}
