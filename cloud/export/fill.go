package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/cloud/query"
)

// fill writes an object's contents and returns how many rows they are.
func (r *run) fill(ctx context.Context, t *task, out io.Writer) (int64, error) {
	switch {
	case t.what != Samples:
		return r.fillResult(ctx, t, out)
	case len(t.sources) > 0:
		return r.fillFromArchive(ctx, t, out)
	}
	return r.fillFromTables(ctx, t, out)
}

func (r *run) writer(out io.Writer) format.Writer {
	return format.New(r.Format, out, format.Options{BOM: r.BOM, Note: r.Note})
}

// fillFromArchive writes the rows of a day's files in the files' order: by tag, and
// for each tag by time.
func (r *run) fillFromArchive(ctx context.Context, t *task, out io.Writer) (rows int64, err error) {
	units, err := r.units(ctx, t.site)
	if err != nil {
		return 0, err
	}
	w := r.writer(out)
	for _, key := range t.sources {
		var refused error // an error of what is written, not of what is read
		err := r.open(ctx, key, func(o *objects.Object) error {
			return lake.Read(o, o.Size, lake.Filter{}, func(row *lake.Row) error {
				if rows&0xfff == 0 && ctx.Err() != nil {
					refused = context.Cause(ctx)
					return refused
				}
				if !r.takesTag(row.Tag) {
					return nil
				}
				rows++
				r.saw(row.Tag)
				refused = w.Sample(&format.Row{Sample: row.Sample, Gateway: row.Gateway, Stream: row.Stream, Unit: units[row.Tag]})
				return refused
			})
		})
		switch {
		case refused != nil:
			return rows, refused
		case err != nil && ctx.Err() != nil:
			return rows, context.Cause(ctx)
		case err != nil:
			r.problem(fmt.Sprintf("%s/%s cannot be read to its end: %s", r.Store.Archive, key, connect.Brief(err)))
		}
	}
	return rows, w.Close()
}

func (r *run) open(ctx context.Context, key string, fn func(*objects.Object) error) error {
	o, err := objects.Open(ctx, r.Store.Archive, key)
	if err != nil {
		return err
	}
	return errors.Join(fn(o), o.Close())
}

// units are those of a site's tags, by the archive's catalogue.
func (r *run) units(ctx context.Context, site string) (map[string]string, error) {
	units := map[string]string{}
	err := r.open(ctx, lake.CatalogueKey(site, 0), func(o *objects.Object) error {
		return lake.ReadCatalogue(o, o.Size, func(e *lake.Entry) error {
			units[e.Tag] = e.Unit
			return nil
		})
	})
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, objects.ErrNone) {
		r.problem(fmt.Sprintf("%s/%s cannot be read, so units are missing: %s", r.Store.Archive, lake.CatalogueKey(site, 0), connect.Brief(err)))
	}
	return units, nil
}

// fillFromTables writes the rows of a day from its week's table: by time, Parquet
// by tag.
func (r *run) fillFromTables(ctx context.Context, t *task, out io.Writer) (int64, error) {
	store := r.Store
	store.Archive = nil // of this day it has nothing whole
	w := r.writer(out)
	report, err := query.Run(ctx, store, query.Request{
		Tags: []string{t.site + "/*"}, From: t.day, To: t.day.AddDate(0, 0, 1), ByTag: r.Format == format.Parquet, Wanted: r.takesTag,
		Sample: func(row *format.Row) error {
			r.saw(row.Tag)
			return w.Sample(row)
		}, Problem: r.problem, Note: r.Note,
	})
	var unknown *query.UnknownTagError
	if errors.As(err, &unknown) {
		return 0, w.Close() // the site has none of the tags
	}
	if err != nil {
		return 0, err
	}
	return report.Samples, w.Close()
}

// fillResult writes a result's rows of one day. Its Parquet files are taken as they
// are.
func (r *run) fillResult(ctx context.Context, t *task, out io.Writer) (rows int64, err error) {
	res, err := result.Named(t.what)
	if err != nil {
		return 0, err
	}
	if r.Format == format.Parquet && len(t.sources) > 1 {
		return 0, fmt.Errorf("%s has %d files of one day, %s: analyze that day again", t.what, len(t.sources), t.sources[1])
	}
	var w format.Records
	if r.Format != format.Parquet {
		if w, err = format.NewRecords(r.Format, out, res, format.Options{BOM: r.BOM}); err != nil {
			return 0, err
		}
	}
	for _, key := range t.sources {
		err := r.open(ctx, key, func(o *objects.Object) error {
			file, err := openResult(o, res)
			if err != nil {
				return err
			}
			if w == nil {
				rows += file.NumRows()
				_, err := io.Copy(out, io.NewSectionReader(o, 0, o.Size))
				return err
			}
			return eachRow(file, res, func(values []any) error {
				rows++
				return w.Row(values)
			})
		})
		if err != nil {
			if ctx.Err() != nil {
				return rows, context.Cause(ctx)
			}
			return rows, fmt.Errorf("%s/%s: %s; analyze that day again", r.Store.Archive, key, connect.Brief(err))
		}
	}
	if w == nil {
		return rows, nil
	}
	return rows, w.Close()
}

// openResult opens a file of a result and holds its columns against the result's.
func openResult(o *objects.Object, res result.Result) (*parquet.File, error) {
	file, err := parquet.OpenFile(o, o.Size)
	if err != nil {
		return nil, fmt.Errorf("it is no whole Parquet file: %w", err)
	}
	fields := file.Schema().Fields()
	if len(fields) != len(res.Columns) {
		return nil, fmt.Errorf("it has %d columns, and %s has %d", len(fields), res.Name, len(res.Columns))
	}
	for i, c := range res.Columns {
		if fields[i].Name() != c.Name || !fields[i].Leaf() || fields[i].Type().Kind() != kinds(c.Type) {
			return nil, fmt.Errorf("its column %d is %s, and %s has %s, %s", i+1, fields[i].Name(), res.Name, c.Name, c.Type)
		}
	}
	return file, nil
}

func kinds(t result.Type) parquet.Kind {
	switch t {
	case result.Text:
		return parquet.ByteArray
	case result.Double:
		return parquet.Double
	case result.Timestamp, result.Integer:
	}
	return parquet.Int64
}

// eachRow calls fn with each row's values, as format.Records takes them. They are
// overwritten by the next.
func eachRow(file *parquet.File, res result.Result, fn func([]any) error) error {
	values := make([]any, len(res.Columns))
	buf := make([]parquet.Row, 256)
	for _, group := range file.RowGroups() {
		rows := group.Rows()
		for {
			n, err := rows.ReadRows(buf)
			for _, row := range buf[:n] {
				for _, v := range row {
					values[v.Column()] = valueOf(v, res.Columns[v.Column()].Type)
				}
				if err := fn(values); err != nil {
					return errors.Join(err, rows.Close())
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return errors.Join(err, rows.Close())
			}
		}
		if err := rows.Close(); err != nil {
			return err
		}
	}
	return nil
}

func valueOf(v parquet.Value, t result.Type) any {
	switch {
	case v.IsNull():
		return nil
	case t == result.Text:
		return string(v.ByteArray())
	case t == result.Double:
		return v.Double()
	case t == result.Timestamp:
		return time.UnixMicro(v.Int64()).UTC()
	}
	return v.Int64()
}
