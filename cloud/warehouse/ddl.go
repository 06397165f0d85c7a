package warehouse

import (
	"context"
	_ "embed" // views.sql
	"fmt"
	"strings"
)

// views are the views for BI tools, in the schema millrace.
//
//go:embed views.sql
var views string

// The marks of lines that are for one dialect only. Everything else in the texts
// is for both.
const (
	onlyRedshift   = " -- redshift"
	onlyPostgreSQL = " -- postgresql"
)

// ledgerTable remembers what was loaded. It is written in the transaction of the
// load, so it is right whatever happened to whoever loaded.
const ledgerTable = "loads"

// Script is the DDL: schema, a table for each result and for samples, gaps and
// catalogue, a staging table beside each, and the ledger of loads. It can be run
// again: what exists stays as it is. Lines that are for the other dialect are
// left out; both is the whole text with its marks.
func Script(d Dialect, schema string) string { return forDialect(script(schema), d) }

func script(schema string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE SCHEMA IF NOT EXISTS %s;\n", schema)
	for _, t := range targets() {
		table(&b, schema+"."+t.name, t.columns(), t.key)
		switch {
		case t.dist != "":
			fmt.Fprintf(&b, "DISTSTYLE KEY DISTKEY (%s)%s\n", name(t.dist), onlyRedshift)
		default:
			fmt.Fprintf(&b, "DISTSTYLE ALL%s\n", onlyRedshift)
		}
		fmt.Fprintf(&b, "COMPOUND SORTKEY (%s) ENCODE AUTO%s\n;\n", names(t.sort), onlyRedshift)
		index := t.sort
		if !t.history { // the primary key has the rest
			index = t.sort[:1]
		}
		fmt.Fprintf(&b, "CREATE INDEX IF NOT EXISTS %s_by_%s ON %s.%s (%s);%s\n", t.name, strings.Join(index, "_"), schema, t.name, names(index), onlyPostgreSQL)
		table(&b, schema+"."+t.staging(), t.file, nil)
		fmt.Fprintf(&b, "DISTSTYLE EVEN ENCODE AUTO%s\n;\n", onlyRedshift)
	}
	ledger := ledgerColumns()
	table(&b, schema+"."+ledgerTable, ledger[:len(ledger)-1], []string{"file"},
		// What tells the time in UTC differs. A literal would make each statement
		// another one, and the token of its batch with it.
		ledger[len(ledger)-1].sql()+" DEFAULT SYSDATE,"+onlyRedshift,
		ledger[len(ledger)-1].sql()+" DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),"+onlyPostgreSQL)
	fmt.Fprintf(&b, "DISTSTYLE ALL COMPOUND SORTKEY (%s) ENCODE AUTO%s\n;\n", names([]string{"target", "folder"}), onlyRedshift)
	return b.String()
}

// ledgerColumns are those of the ledger: one row for each file that is loaded.
func ledgerColumns() []column {
	return []column{
		must("target", text, 64),
		must("folder", text, shortText), // what is loaded at once: the files of a day
		must("version", bigint, 0),      // how often the folder was loaded, from 1
		must("file", text, shortText),   // its key in the archive
		must("sha256", text, 64),
		must("bytes", bigint, 0),
		must("rows", bigint, 0),         // of the file
		must("folder_rows", bigint, 0),  // of the table that are the folder's, counted after the load
		must("loaded_at", timestamp, 0), // UTC
	}
}

// table writes CREATE TABLE without its end: what follows is the dialect's. plain
// are lines between the columns and the key. A primary key is enforced by
// PostgreSQL only; to Redshift it is a hint for the planner, and true, since
// rows are merged by it.
func table(b *strings.Builder, full string, columns []column, key []string, plain ...string) {
	fmt.Fprintf(b, "CREATE TABLE IF NOT EXISTS %s (\n", full)
	for i, c := range columns {
		comma := ","
		if i == len(columns)-1 && len(key) == 0 {
			comma = ""
		}
		b.WriteString("  " + c.sql() + comma + "\n")
	}
	for _, line := range plain {
		b.WriteString("  " + line + "\n")
	}
	if len(key) > 0 {
		b.WriteString("  PRIMARY KEY (" + names(key) + ")\n")
	}
	b.WriteString(")\n")
}

// Views is the text of the views for BI tools. The tables have to be there.
func Views(d Dialect, schema string) string {
	return forDialect(strings.ReplaceAll(views, DefaultSchema+".", schema+"."), d)
}

// forDialect leaves out the lines of the other dialect and the marks of its own.
func forDialect(text string, d Dialect) string {
	keep, drop := onlyRedshift, onlyPostgreSQL
	if d == PostgreSQL {
		keep, drop = drop, keep
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !strings.HasSuffix(line, drop) {
			b.WriteString(strings.TrimSuffix(line, keep) + "\n")
		}
	}
	return b.String()
}

// split takes a text apart into its statements: each ends with a semicolon at
// the end of a line. Lines of comments are left out.
func split(text string) (out []Statement) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if line == "" || strings.HasPrefix(line, "--") {
			continue
		}
		end := strings.HasSuffix(line, ";")
		b.WriteString(strings.TrimSuffix(line, ";"))
		if !end {
			b.WriteByte('\n')
			continue
		}
		out = append(out, Statement{SQL: strings.TrimRight(b.String(), "\n")})
		b.Reset()
	}
	return out
}

// Apply runs a text of Script or Views, some statements in a transaction each
// time. Every one can be run again.
func Apply(ctx context.Context, db Database, what, text string) error {
	all := split(text)
	for len(all) > 0 {
		n := min(len(all), maxStatements)
		if err := db.Run(ctx, Batch{Name: what, Statements: all[:n]}); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// checkTables reports a table of these targets that is missing or whose columns
// are not those of this version. Without it a COPY that goes by order would put
// values into the wrong columns.
func checkTables(ctx context.Context, db Database, schema string, ts []*target) error {
	rows, err := db.Query(ctx, "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = "+quote(schema)+
		" ORDER BY table_name, ordinal_position")
	if err != nil {
		return fmt.Errorf("read the columns of schema %s: %w", schema, err)
	}
	have := map[string][]string{}
	for _, r := range rows {
		have[r[0]] = append(have[r[0]], r[1])
	}
	check := func(table string, columns []column) error {
		want, got := strings.Join(columnNames(columns), ", "), strings.Join(have[table], ", ")
		switch {
		case got == "":
			return fmt.Errorf("%w: %s.%s is missing; run `millrace-cloud warehouse ddl --apply`, or allow this user to see it", ErrTables, schema, table)
		case got != want:
			return fmt.Errorf("%w: %s.%s has the columns %s, and this version writes %s; add what is missing, or drop the table and run `millrace-cloud warehouse ddl --apply`",
				ErrTables, schema, table, got, want)
		}
		return nil
	}
	for _, t := range ts {
		if err := check(t.name, t.columns()); err != nil {
			return err
		}
		if err := check(t.staging(), t.file); err != nil {
			return err
		}
	}
	return check(ledgerTable, ledgerColumns())
}
