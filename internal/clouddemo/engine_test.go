package clouddemo

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis"
	"millrace/cloud/lake"
)

// plainEngine computes the hourly result in Go, for tests without a C compiler,
// and nothing of the others. It stands in for DuckDB.
type plainEngine struct{}

// Compute implements analysis.Local.
func (plainEngine) Compute(_ context.Context, q analysis.Query) (int64, error) {
	if q.Result.Name != "hourly" {
		return 0, nil
	}
	var rows []lake.Row
	for _, f := range q.Files[analysis.Samples] {
		data, err := os.ReadFile(f.Path)
		if err != nil {
			return 0, err
		}
		err = lake.Read(bytes.NewReader(data), int64(len(data)), lake.Filter{}, func(r *lake.Row) error {
			rows = append(rows, *r)
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	var list []row
	for _, r := range hours(rows) {
		list = append(list, r)
	}
	data, err := writeHourly(list)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return int64(len(list)), os.WriteFile(q.Out, data, 0o600)
}

// hourly is a row of the hourly result as the file has it.
type hourly struct {
	Site              *string  `parquet:"site,optional"`
	Tag               *string  `parquet:"tag,optional"`
	Hour              *int64   `parquet:"hour,optional,timestamp(microsecond)"`
	Samples           *int64   `parquet:"samples,optional"`
	Good              *int64   `parquet:"good,optional"`
	Uncertain         *int64   `parquet:"uncertain,optional"`
	Bad               *int64   `parquet:"bad,optional"`
	Minimum           *float64 `parquet:"minimum,optional"`
	Maximum           *float64 `parquet:"maximum,optional"`
	Mean              *float64 `parquet:"mean,optional"`
	First             *float64 `parquet:"first,optional"`
	Last              *float64 `parquet:"last,optional"`
	StandardDeviation *float64 `parquet:"standard_deviation,optional"`
}

func field[T any](r row, name string) *T {
	if v, ok := r[name].(T); ok {
		return &v
	}
	return nil
}

// writeHourly makes a file of the hourly result.
func writeHourly(rows []row) ([]byte, error) {
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a["tag"].(string), b["tag"].(string)), a["hour"].(time.Time).Compare(b["hour"].(time.Time)))
	})
	var out bytes.Buffer
	w := parquet.NewGenericWriter[hourly](&out)
	for _, r := range rows {
		hour := r["hour"].(time.Time).UnixMicro()
		_, err := w.Write([]hourly{{
			Site: field[string](r, "site"), Tag: field[string](r, "tag"), Hour: &hour,
			Samples: field[int64](r, "samples"), Good: field[int64](r, "good"), Uncertain: field[int64](r, "uncertain"), Bad: field[int64](r, "bad"),
			Minimum: field[float64](r, "minimum"), Maximum: field[float64](r, "maximum"), Mean: field[float64](r, "mean"),
			First: field[float64](r, "first"), Last: field[float64](r, "last"), StandardDeviation: field[float64](r, "standard_deviation"),
		}})
		if err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}
