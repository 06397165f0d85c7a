package results

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
	"millrace/sample"
)

// row is what is asked of one row of a result: its period's start and its numbers
// by column, null ones left out.
type row struct {
	period  time.Time
	numbers map[string]sample.Value
}

// newest finds the newest row of a complete period that a message could still be
// valid for; nil where there is none.
func (p *publisher) newest(ctx context.Context, r *Rule, res result.Result) (*row, error) {
	through := p.Through.Add(-p.Settle)
	last := through.UTC().Truncate(24 * time.Hour)
	first := p.Now().Add(-r.Validity - Period(res)).UTC().Truncate(24 * time.Hour)
	for day := last; !day.Before(first); day = day.AddDate(0, 0, -1) {
		found, err := p.search(ctx, result.Key(r.Result, day, 0), r, res, through)
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}

// search looks through one file of results; none is as one without the row.
func (p *publisher) search(ctx context.Context, key string, r *Rule, res result.Result, through time.Time) (found *row, err error) {
	body, err := p.Place.Get(ctx, key)
	if errors.Is(err, objects.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", key, p.Place, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	f, err := os.CreateTemp(p.Dir, "millrace-results-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	size, err := io.Copy(f, body)
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", key, p.Place, err)
	}
	if found, err = searchFile(f, size, r.Of, res, through); err != nil {
		return nil, fmt.Errorf("%s in %s: %w; analyze that day again", key, p.Place, err)
	}
	return found, nil
}

// batch is how many rows are read at once.
const batch = 1024

// searchFile finds the newest row of a tag or device whose period ends not after
// through.
func searchFile(r io.ReaderAt, size int64, of string, res result.Result, through time.Time) (*row, error) {
	file, err := parquet.OpenFile(r, size)
	if err != nil {
		return nil, err
	}
	fields := file.Schema().Fields()
	if len(fields) != len(res.Columns) {
		return nil, fmt.Errorf("it has %d columns, %s has %d", len(fields), res.Name, len(res.Columns))
	}
	key, at := -1, -1
	for i, c := range res.Columns {
		if fields[i].Name() != c.Name || !fields[i].Leaf() || fields[i].Repeated() {
			return nil, fmt.Errorf("its column %d is %s, that of %s is %s", i+1, fields[i].Name(), res.Name, c.Name)
		}
		switch c.Name {
		case res.Key[0]:
			key = i
		case res.Time():
			at = i
		}
	}
	if !isMicros(fields[at].Type()) {
		return nil, fmt.Errorf("its column %s is no time in microseconds", res.Time())
	}
	var found *row
	buffer := make([]parquet.Row, batch)
	for _, group := range file.RowGroups() {
		if err := scan(group, buffer, func(values parquet.Row) error {
			if len(values) != len(fields) {
				return fmt.Errorf("a row has %d values", len(values))
			}
			if values[key].IsNull() || values[at].IsNull() || string(values[key].ByteArray()) != of {
				return nil
			}
			period := time.UnixMicro(values[at].Int64()).UTC()
			if period.Add(Period(res)).After(through) || found != nil && !period.After(found.period) {
				return nil
			}
			found = &row{period: period, numbers: map[string]sample.Value{}}
			for i, c := range res.Columns {
				switch v := values[i]; {
				case v.IsNull():
				case c.Type == result.Double && v.Kind() == parquet.Double:
					found.numbers[c.Name] = sample.FloatValue(v.Double())
				case c.Type == result.Integer && v.Kind() == parquet.Int64:
					found.numbers[c.Name] = sample.IntValue(v.Int64())
				case c.Type == result.Double || c.Type == result.Integer:
					return fmt.Errorf("its column %s is of type %v", c.Name, v.Kind())
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func isMicros(t parquet.Type) bool {
	logical := t.LogicalType()
	if logical == nil {
		return false
	}
	at, ok := logical.Value.(*format.TimestampType)
	return ok && at.Unit.Value != nil && at.Unit.Value.Duration() == time.Microsecond
}

// scan calls fn for each row of a row group.
func scan(group parquet.RowGroup, buffer []parquet.Row, fn func(parquet.Row) error) (err error) {
	rows := group.Rows()
	defer func() { err = errors.Join(err, rows.Close()) }()
	for {
		n, err := rows.ReadRows(buffer)
		for _, values := range buffer[:n] {
			if err := fn(values); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
