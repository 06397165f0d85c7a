package analysistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

// Table is a result's file, read whole.
type Table struct {
	Columns []string // name and Parquet type of each, in the file's order
	Rows    [][]any  // nil, string, int64 or float64; a timestamp in µs
}

// Read reads a file of the archive.
func Read(ctx context.Context, place objects.Place, key string) (*Table, error) {
	data, err := objects.Read(ctx, place, key, 0)
	if err != nil {
		return nil, err
	}
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	t := &Table{}
	for _, field := range f.Schema().Fields() {
		// A bare INT64 is a signed number of 64 bits too.
		kind := strings.ReplaceAll(field.Type().String(), "INT(64,true)", "INT64")
		t.Columns = append(t.Columns, field.Name()+" "+kind)
	}
	for _, group := range f.RowGroups() {
		if err := t.group(group); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Table) group(group parquet.RowGroup) (err error) {
	rows := group.Rows()
	defer func() { err = errors.Join(err, rows.Close()) }()
	buffer := make([]parquet.Row, 128)
	for {
		n, err := rows.ReadRows(buffer)
		for _, row := range buffer[:n] {
			cells := make([]any, len(row))
			for _, v := range row {
				switch v.Kind() {
				case parquet.ByteArray:
					cells[v.Column()] = string(v.ByteArray())
				case parquet.Double:
					cells[v.Column()] = v.Double()
				case parquet.Int64:
					cells[v.Column()] = v.Int64()
				}
				if v.IsNull() {
					cells[v.Column()] = nil
				}
			}
			t.Rows = append(t.Rows, cells)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Differences holds two tables of a result against each other, row by row.
// Floats may differ by 1e-9 of the larger, since a sum depends on its order. At
// most ten differences are returned.
func Differences(r result.Result, a, b *Table) []string {
	var out []string
	if x, y := strings.Join(a.Columns, ", "), strings.Join(b.Columns, ", "); x != y {
		out = append(out, fmt.Sprintf("columns %s and %s", x, y))
	}
	if len(a.Rows) != len(b.Rows) {
		out = append(out, fmt.Sprintf("%d and %d rows", len(a.Rows), len(b.Rows)))
	}
	for i := range min(len(a.Rows), len(b.Rows)) {
		for c := range r.Columns {
			if x, y := a.Rows[i][c], b.Rows[i][c]; !same(x, y) {
				out = append(out, fmt.Sprintf("row %d, %v %v, %s: %v and %v", i, a.Rows[i][1], a.Rows[i][2], r.Columns[c].Name, x, y))
			}
		}
		if len(out) > 10 {
			return out[:10]
		}
	}
	return out
}

func same(a, b any) bool {
	x, isFloat := a.(float64)
	y, also := b.(float64)
	if !isFloat || !also {
		return a == b
	}
	return x == y || math.Abs(x-y) <= 1e-9*math.Max(math.Abs(x), math.Abs(y))
}

// Summary is a line for each result of a range of days: its rows, and for each
// column of numbers how many there are and their sum, to eight digits.
func Summary(r result.Result, tables []*Table) string {
	var b strings.Builder
	rows := 0
	count, sum := make([]int, len(r.Columns)), make([]float64, len(r.Columns))
	for _, t := range tables {
		rows += len(t.Rows)
		for _, row := range t.Rows {
			for c, v := range row {
				switch v := v.(type) {
				case float64:
					count[c], sum[c] = count[c]+1, sum[c]+v
				case int64:
					count[c], sum[c] = count[c]+1, sum[c]+float64(v)
				}
			}
		}
	}
	fmt.Fprintf(&b, "%s: %d rows", r.Name, rows)
	for c, column := range r.Columns {
		if column.Type == result.Double || column.Type == result.Integer {
			fmt.Fprintf(&b, "; %s %d, %.8g", column.Name, count[c], sum[c])
		}
	}
	return b.String()
}
