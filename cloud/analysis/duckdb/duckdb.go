//go:build duckdb

package duckdb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	duck "github.com/duckdb/duckdb-go/v2"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/result"
)

// Engine is an embedded DuckDB. It computes one query at a time.
type Engine struct {
	db   *sql.DB
	conn *sql.Conn // all statements go over one: views and settings are its own
}

// New starts an engine.
func New(ctx context.Context, o Options) (*Engine, error) {
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the work directory: %w", err)
	}
	c, err := duck.NewConnector("", func(e driver.ExecerContext) error {
		for _, statement := range []string{
			"SET memory_limit = " + quote(strconv.FormatInt(o.Memory>>20, 10)+"MiB"),
			"SET threads = " + strconv.Itoa(o.Threads),
			"SET temp_directory = " + quote(o.Dir),
			// Rows are sorted by the query itself.
			"SET preserve_insertion_order = false",
			// Nothing is loaded from the network, nor from the home directory.
			"SET autoinstall_known_extensions = false",
			"SET autoload_known_extensions = false",
			"SET TimeZone = 'UTC'",
		} {
			if _, err := e.ExecContext(ctx, statement, nil); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("start DuckDB: %w", err)
	}
	e := &Engine{db: sql.OpenDB(c)}
	if e.conn, err = e.db.Conn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start DuckDB: %w", err), e.db.Close())
	}
	return e, nil
}

// Close ends the engine.
func (e *Engine) Close() error { return errors.Join(e.conn.Close(), e.db.Close()) }

// Compute implements analysis.Local.
func (e *Engine) Compute(ctx context.Context, q analysis.Query) (int64, error) {
	for _, v := range views(q) {
		if _, err := e.conn.ExecContext(ctx, v); err != nil {
			return 0, brief(ctx, err)
		}
	}
	r, err := e.conn.ExecContext(ctx, "COPY ("+selection(q)+") TO "+quote(q.Out)+" (FORMAT parquet, COMPRESSION zstd)")
	if err != nil {
		return 0, brief(ctx, err)
	}
	return r.RowsAffected()
}

// brief makes one line of DuckDB's error, which quotes the text it is about.
func brief(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	var own *duck.Error
	if errors.As(err, &own) && own.Type == duck.ErrorTypeOutOfMemory {
		line += "; give it more with --memory"
	}
	return errors.New(line)
}

// quote makes a string literal.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// types are DuckDB's names for the columns' types. A TIMESTAMPTZ is written as a
// Parquet timestamp that is adjusted to UTC, as those of the archive are.
func typeName(t result.Type) string {
	switch t {
	case result.Timestamp:
		return "TIMESTAMPTZ"
	case result.Double:
		return "DOUBLE"
	case result.Integer:
		return "BIGINT"
	case result.Text:
	}
	return "VARCHAR"
}

// selection is a result's text, with the columns in their order and type.
func selection(q analysis.Query) string {
	var cols []string
	for _, c := range q.Result.Columns {
		cols = append(cols, fmt.Sprintf(`CAST("%s" AS %s) AS "%s"`, c.Name, typeName(c.Type), c.Name))
	}
	return "SELECT " + strings.Join(cols, ", ") + " FROM (\n" + q.Text + "\n) ORDER BY " + strings.Join(q.Result.Key, ", ")
}

// views are the statements that define what the text names.
func views(q analysis.Query) []string {
	out := []string{
		fmt.Sprintf("CREATE OR REPLACE TEMP VIEW period AS SELECT CAST(make_timestamp(%d) AS TIMESTAMP) AS day, CAST(%d AS BIGINT) AS start, CAST(%d AS BIGINT) AS finish",
			q.Day.UnixMicro(), q.Day.UnixNano(), q.Day.AddDate(0, 0, 1).UnixNano()),
		fmt.Sprintf("CREATE OR REPLACE TEMP VIEW hours AS SELECT make_timestamp(%d + h * 3600000000) AS hour, "+
			"CAST(%d + h * 3600000000000 AS BIGINT) AS start, CAST(%d + (h + 1) * 3600000000000 AS BIGINT) AS finish FROM range(24) r(h)",
			q.Day.UnixMicro(), q.Day.UnixNano(), q.Day.UnixNano()),
	}
	out = append(out, nextDay(q.NextDay))
	for _, v := range analysis.Views(q.Result.Name) {
		out = append(out, view(v, q.Files[v]))
	}
	return out
}

// nextDay defines the view of the gateways that delivered on the day after.
func nextDay(gateways []analysis.Gateway) string {
	list := []string{"SELECT CAST(NULL AS VARCHAR) AS site, CAST(NULL AS VARCHAR) AS gateway WHERE false"}
	if len(gateways) > 0 {
		list = nil
	}
	for _, g := range gateways {
		list = append(list, "SELECT "+quote(g.Site)+" AS site, "+quote(g.Name)+" AS gateway")
	}
	return "CREATE OR REPLACE TEMP VIEW next_day AS " + strings.Join(list, " UNION ALL ")
}

// view defines one view of files. One that has none is empty, and has its columns
// all the same.
func view(v analysis.View, files []analysis.Source) string {
	var parts []string
	for len(files) > 0 {
		// Files of one site stand together.
		n := 1
		for n < len(files) && files[n].Site == files[0].Site {
			n++
		}
		var paths []string
		for _, f := range files[:n] {
			paths = append(paths, quote(f.Path))
		}
		from := "read_parquet([" + strings.Join(paths, ", ") + "], hive_partitioning = false)"
		parts = append(parts, "SELECT "+columns(v, quote(files[0].Site))+" FROM "+from)
		files = files[n:]
	}
	if len(parts) == 0 {
		parts = []string{"SELECT " + columns(v, "''") + " FROM (SELECT " + none(v) + ") WHERE false"}
	}
	return "CREATE OR REPLACE TEMP VIEW " + string(v) + " AS " + strings.Join(parts, " UNION ALL ")
}

// columns are the columns of a view over a file's own.
func columns(v analysis.View, site string) string {
	switch v {
	case analysis.Samples:
		return site + " AS site, tag, gateway, stream, epoch_us(time) * 1000 + time_nanos AS ns, kind, " +
			"CASE WHEN abs(value) <= 1e100 THEN value END AS value, text, quality"
	case analysis.Gaps:
		return site + " AS site, gateway, cause, source, sources, tag, stream, epoch_us(from_time) * 1000 AS from_ns, epoch_us(to_time) * 1000 AS to_ns, count, sinks"
	case analysis.Catalogue:
		return site + " AS site, gateway, tag, stream, source, unit, counter, counter_max, since"
	}
	r, err := result.Named(string(v))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var cols []string
	for _, c := range r.Columns {
		if c.Type == result.Timestamp {
			cols = append(cols, fmt.Sprintf(`CAST("%s" AS TIMESTAMP) AS "%s"`, c.Name, c.Name))
			continue
		}
		cols = append(cols, `"`+c.Name+`"`)
	}
	return strings.Join(cols, ", ")
}

// none is a row of nulls in a file's columns, so far as columns reads them.
func none(v analysis.View) string {
	typed := func(kind string, names ...string) (out []string) {
		for _, n := range names {
			out = append(out, fmt.Sprintf(`CAST(NULL AS %s) AS "%s"`, kind, n))
		}
		return out
	}
	var cols []string
	switch v {
	case analysis.Samples:
		cols = append(typed("VARCHAR", "tag", "gateway", "stream", "text"), typed("BIGINT", "time_nanos", "kind", "quality")...)
		cols = append(cols, append(typed("DOUBLE", "value"), typed("TIMESTAMPTZ", "time")...)...)
	case analysis.Gaps:
		cols = append(typed("VARCHAR", "gateway", "cause", "source", "sources", "tag", "stream", "sinks"), typed("TIMESTAMPTZ", "from_time", "to_time")...)
		cols = append(cols, typed("BIGINT", "count")...)
	case analysis.Catalogue:
		cols = append(typed("VARCHAR", "gateway", "tag", "stream", "source", "unit"), typed("BOOLEAN", "counter")...)
		cols = append(cols, append(typed("DOUBLE", "counter_max"), typed("TIMESTAMPTZ", "since")...)...)
	default:
		r, err := result.Named(string(v))
		if err != nil {
			panic("BUG: " + err.Error())
		}
		for _, c := range r.Columns {
			cols = append(cols, typed(typeName(c.Type), c.Name)...)
		}
	}
	return strings.Join(cols, ", ")
}
