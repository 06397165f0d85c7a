// Package warehouse keeps the results of the analysis in Redshift, and beside
// them the historical samples, gaps and the catalogue where they are wanted: the
// tables, the views for BI tools, and the loading of Parquet files.
//
// The statements are the same on Redshift and on PostgreSQL 15 or newer. What
// differs is split off in two places: the ends of CREATE TABLE (Script), and
// COPY, which Redshift does from S3 by itself and PostgreSQL is fed with.
package warehouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Dialect is the database that a text is for.
type Dialect int

// The dialects.
const (
	Redshift Dialect = iota + 1
	PostgreSQL
)

// String is the dialect's name, as the command takes it.
func (d Dialect) String() string {
	if d == Redshift {
		return "redshift"
	}
	return "postgresql"
}

// ParseDialect reads a dialect's name.
func ParseDialect(name string) (Dialect, error) {
	for _, d := range []Dialect{Redshift, PostgreSQL} {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("%q is neither redshift nor postgresql", name)
}

// DefaultSchema is where the tables and views are where nothing else is said.
const DefaultSchema = "millrace"

// CheckSchema reports what cannot be the name of a schema. Redshift folds names
// to lower case, quoted ones too, so there are no upper case ones.
func CheckSchema(name string) error {
	plain := name != "" && len(name) <= 63 && (name[0] < '0' || name[0] > '9')
	for _, r := range name {
		plain = plain && (r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9')
	}
	if !plain {
		return fmt.Errorf("schema %q: write lower case letters, digits and underscores, no digit first, 63 at most", name)
	}
	return nil
}

// Database is where the tables are.
type Database interface {
	// Dialect says which statements it takes.
	Dialect() Dialect
	// Run runs the statements in their order in one transaction: all of them or
	// none. The error is a *StatementError where a statement is at fault. A batch
	// that is run again while the same one is under way, by a process that has
	// died meanwhile, is not run twice at once.
	Run(ctx context.Context, b Batch) error
	// Query returns a query's rows as text, null as "".
	Query(ctx context.Context, sql string) ([][]string, error)
}

// Batch is one transaction.
type Batch struct {
	Name       string // for people: what it loads
	Statements []Statement
}

// Statement is a text of SQL, or a copy of files into a table.
type Statement struct {
	SQL  string
	Copy *Copy // in place of SQL
	// Hint says what it means when this very statement fails.
	Hint string
}

// Copy loads whole Parquet files into a table. Columns are taken by their count
// and order.
type Copy struct {
	Table string // with its schema
	From  string // what the files' keys begin with, in the archive
	Files []File

	columns []column
}

// StatementError says which statement of a batch failed. The batch has changed
// nothing.
type StatementError struct {
	Batch  string
	Number int    // from 1, as they are in the batch
	SQL    string // its text
	Cause  string // in the database's words
	Hint   string // what it means, "" where nothing is known
}

// Error implements error, on one line.
func (e *StatementError) Error() string {
	head, _, _ := strings.Cut(strings.TrimSpace(e.SQL), "\n")
	if len(head) > 90 {
		head = head[:90] + " ..."
	}
	text := fmt.Sprintf("%s: statement %d (%s) failed, nothing of it was kept: %s", e.Batch, e.Number, head, strings.Join(strings.Fields(e.Cause), " "))
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// ErrTables says that the tables are missing or are not of this version.
var ErrTables = errors.New("the warehouse's tables do not fit")

// quote writes a text as a literal that both databases read alike. A backslash is
// a plain character to PostgreSQL and an escape to Redshift, so none is in it.
func quote(s string) string {
	parts := strings.Split(strings.ReplaceAll(s, "'", "''"), `\`)
	if len(parts) == 1 {
		return "'" + parts[0] + "'"
	}
	return "('" + strings.Join(parts, "' || CHR(92) || '") + "')"
}

// name writes a column's name. Always in quotes: "tag" is a reserved word of
// Redshift.
func name(s string) string { return `"` + s + `"` }

func names(columns []string) string {
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = name(c)
	}
	return strings.Join(quoted, ", ")
}
