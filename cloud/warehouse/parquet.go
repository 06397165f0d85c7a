package warehouse

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// checkFile opens a Parquet file and reports what COPY would not take, or would
// take wrongly: it goes by count and order alone, so that two columns of one
// type in the wrong order would load without a word.
func checkFile(f *os.File, size int64, want []column) (*parquet.File, error) {
	p, err := parquet.OpenFile(f, size)
	if err != nil {
		return nil, fmt.Errorf("it is no Parquet file: %w", err)
	}
	fields := p.Schema().Fields()
	got := make([]string, len(fields))
	for i, field := range fields {
		got[i] = field.Name()
	}
	if g, w := strings.Join(got, ", "), strings.Join(columnNames(want), ", "); g != w {
		return nil, fmt.Errorf("its columns are %s, the table's are %s", g, w)
	}
	for i, field := range fields {
		if err := fits(field, want[i]); err != nil {
			return nil, fmt.Errorf("column %s: %w", field.Name(), err)
		}
	}
	return p, nil
}

// physical is the Parquet type that a column's COPY takes.
func (c column) physical() parquet.Kind {
	switch c.kind {
	case double:
		return parquet.Double
	case integer:
		return parquet.Int32
	case boolean:
		return parquet.Boolean
	case text:
		return parquet.ByteArray
	}
	return parquet.Int64
}

func fits(field parquet.Field, c column) error {
	if !field.Leaf() || field.Repeated() {
		return errors.New("it is a list or a group")
	}
	t := field.Type()
	if t.Kind() != c.physical() {
		return fmt.Errorf("it is %s, and %s is wanted", t.Kind(), c.physical())
	}
	if c.kind != timestamp {
		return nil
	}
	// Redshift reads nanoseconds as if they were microseconds, and dates of the
	// year 161065 come of it.
	if l := t.LogicalType(); l != nil {
		if stamp, ok := l.Value.(*format.TimestampType); ok {
			if _, micros := stamp.Unit.Value.(*format.MicroSeconds); micros {
				return nil
			}
		}
	}
	return errors.New("it is no timestamp in microseconds")
}

// rowsOf reads the rows of a checked file, in its order, as values that pgx
// copies. A row is valid until the next is asked for.
func rowsOf(p *parquet.File, columns []column) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		values, buf := make([]any, len(columns)), make([]parquet.Row, 256)
		for _, g := range p.RowGroups() {
			if !groupRows(g, columns, values, buf, yield) {
				return
			}
		}
	}
}

func groupRows(g parquet.RowGroup, columns []column, values []any, buf []parquet.Row, yield func([]any, error) bool) bool {
	rows := g.Rows()
	for {
		n, err := rows.ReadRows(buf)
		for _, row := range buf[:n] {
			for _, v := range row {
				values[v.Column()] = columns[v.Column()].value(v)
			}
			if !yield(values, nil) {
				// The reader has its rows; what closing says changes nothing.
				_ = rows.Close()
				return false
			}
		}
		if err != nil {
			if err = errors.Join(ended(err), rows.Close()); err != nil {
				yield(nil, err)
				return false
			}
			return true
		}
	}
}

// ended is nil for the end of what is read.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c column) value(v parquet.Value) any {
	if v.IsNull() {
		return nil
	}
	switch c.kind {
	case timestamp:
		return time.UnixMicro(v.Int64()).UTC()
	case double:
		return v.Double()
	case integer:
		return v.Int32()
	case boolean:
		return v.Boolean()
	case text:
		// PostgreSQL has no U+0000 in its texts.
		return strings.ReplaceAll(string(v.ByteArray()), "\x00", "\uFFFD")
	}
	return v.Int64()
}

// longTexts reports a text that does not fit its column, which a database would
// refuse in words that do not say which. Names are bounded where they are made,
// so only columns of longer texts are read.
func longTexts(p *parquet.File, columns []column) error {
	for i, c := range columns {
		if c.kind != text || c.size < shortText {
			continue
		}
		for _, g := range p.RowGroups() {
			n, err := longest(g.ColumnChunks()[i])
			if err != nil {
				return fmt.Errorf("column %s: %w", c.name, err)
			}
			if n > c.size {
				return fmt.Errorf("column %s: a text of %d bytes; the table takes %d, and Redshift no more than %d", c.name, n, c.size, longText)
			}
		}
	}
	return nil
}

// longest is the length of a column's longest text.
func longest(chunk parquet.ColumnChunk) (most int, err error) {
	pages := chunk.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	buf := make([]parquet.Value, 512)
	for {
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return most, nil
		}
		if err != nil {
			return 0, err
		}
		for values := page.Values(); ; {
			n, err := values.ReadValues(buf)
			for _, v := range buf[:n] {
				if !v.IsNull() {
					most = max(most, len(v.ByteArray()))
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, err
			}
		}
		parquet.Release(page)
	}
}
