package warehouse

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
)

// folder is what is loaded at once: all files of a result's day, of a site's day
// of samples or gaps, or of a site's catalogue.
type folder struct {
	key     string // with a slash at its end, as in results/hourly/date=2026-11-28/
	site    string // history only
	day     time.Time
	version int64 // to be
	files   []File
	// empty says that the day has no rows any more: files has one name, and there
	// is no such file.
	empty bool
}

// File is one Parquet file of the archive.
type File struct {
	Key    string
	Bytes  int64
	Rows   int64
	SHA256 string // in hexadecimal
	// path is a local copy, there while its folder is loaded.
	path     string
	loadedAt string // in the ledger
}

// open checks the local copy and hands it to fn.
func (f *File) open(columns []column, fn func(*parquet.File) error) error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	p, err := checkFile(file, f.Bytes, columns)
	if err != nil {
		return err
	}
	return fn(p)
}

func (f *folder) rows() (n int64) {
	for _, file := range f.files {
		n += file.Rows
	}
	return n
}

// where limits the table to a folder's rows.
func (t *target) where(f *folder) string {
	switch {
	case !t.history:
		return fmt.Sprintf("%s >= '%s' AND %s < '%s'", name(t.time), f.day.Format(time.DateOnly), name(t.time), f.day.AddDate(0, 0, 1).Format(time.DateOnly))
	case f.day.IsZero():
		return name("site") + " = " + quote(f.site)
	}
	return name("site") + " = " + quote(f.site) + " AND " + name("date") + " = '" + f.day.Format(time.DateOnly) + "'"
}

// transaction is what loads folders of one target: several of a result, one of
// history. A folder is what its files say afterwards, whatever was in the table:
// rows that are no more are deleted, too, as where an hour had samples of a tag
// that turned out to be another's.
func (t *target) transaction(schema string, folders []*folder) Batch {
	table, staging := schema+"."+t.name, schema+"."+t.staging()
	b := Batch{Name: t.title(folders)}
	add := func(hint, format string, args ...any) {
		b.Statements = append(b.Statements, Statement{SQL: fmt.Sprintf(format, args...), Hint: hint})
	}
	// One load at a time works on a staging table; another waits here. TRUNCATE
	// would be quicker, and on Redshift it commits.
	add("", "LOCK TABLE %s", staging)
	add("", "DELETE FROM %s", staging)
	for _, f := range folders {
		if f.empty {
			continue
		}
		b.Statements = append(b.Statements, Statement{Copy: &Copy{Table: staging, From: f.key, Files: f.files, columns: t.file},
			Hint: "the file's columns have to fit the staging table's by count, order and type, and keys are never null"})
	}
	if t.history {
		t.replace(add, table, staging, folders[0])
	} else {
		t.merge(add, table, staging, folders)
	}
	t.remember(add, schema, table, staging, folders)
	add("", "DELETE FROM %s", staging)
	return b
}

// title is what a batch loads, for people.
func (t *target) title(folders []*folder) string {
	first, last := folders[0], folders[len(folders)-1]
	switch {
	case len(folders) > 1:
		return fmt.Sprintf("load %s of %s to %s", t.name, first.day.Format(time.DateOnly), last.day.Format(time.DateOnly))
	case first.day.IsZero():
		return fmt.Sprintf("load %s of site %s", t.name, first.site)
	case t.history:
		return fmt.Sprintf("load %s of site %s, %s", t.name, first.site, first.day.Format(time.DateOnly))
	}
	return fmt.Sprintf("load %s of %s", t.name, first.day.Format(time.DateOnly))
}

// merge brings a result's days up to date by its key. Redshift's MERGE takes a
// table as its source, no query; has no alias for its target; and has both of
// the clauses below, with nothing between WHEN and THEN. PostgreSQL's takes all
// of it.
func (t *target) merge(add func(hint, format string, args ...any), table, staging string, folders []*folder) {
	days := make([]string, len(folders))
	for i, f := range folders {
		days[i] = t.where(f)
	}
	add("", "DELETE FROM %s\nWHERE (%s)\nAND NOT EXISTS (SELECT 1 FROM %s AS incoming WHERE %s)", table, strings.Join(days, " OR "),
		staging, conditions(t.key, "incoming", table))
	var set, values []string
	for _, c := range t.file {
		values = append(values, "incoming."+name(c.name))
		if !slices.Contains(t.key, c.name) {
			set = append(set, name(c.name)+" = incoming."+name(c.name))
		}
	}
	add("two rows of the file have the same key, or the file is damaged: analyze its days again",
		"MERGE INTO %s\nUSING %s AS incoming\nON (%s)\nWHEN MATCHED THEN UPDATE SET %s\nWHEN NOT MATCHED THEN INSERT (%s) VALUES (%s)",
		table, staging, conditions(t.key, table, "incoming"), strings.Join(set, ", "), names(columnNames(t.file)), strings.Join(values, ", "))
}

// replace puts a folder of history in place of what is there of it. There is
// nothing to merge by: two samples that no producer has numbered may be alike,
// and both count.
func (t *target) replace(add func(hint, format string, args ...any), table, staging string, f *folder) {
	add("", "DELETE FROM %s\nWHERE %s", table, t.where(f))
	values := []string{cast(f.site)}
	if !f.day.IsZero() {
		values = append(values, "CAST('"+f.day.Format(time.DateOnly)+"' AS DATE)")
	}
	add("", "INSERT INTO %s (%s)\nSELECT %s, %s\nFROM %s", table, names(columnNames(t.columns())), strings.Join(values, ", "),
		names(columnNames(t.file)), staging)
}

// remember writes the ledger, and counts. The count is null where it is not that
// of the files, which the column refuses, and with it the whole transaction.
// Literals are cast, since Redshift does not settle the type of a bare one in a
// UNION.
func (t *target) remember(add func(hint, format string, args ...any), schema, table, staging string, folders []*folder) {
	keys, parts := make([]string, len(folders)), []string(nil)
	for i, f := range folders {
		keys[i] = quote(f.key)
		for _, file := range f.files {
			parts = append(parts, fmt.Sprintf("SELECT %s, %s, %d, %s, %s, %d, %d, %s",
				cast(t.name), cast(f.key), f.version, cast(file.Key), cast(file.SHA256), file.Bytes, file.Rows, t.count(table, staging, f)))
		}
	}
	add("", "DELETE FROM %s.%s\nWHERE %s = %s AND %s IN (%s)", schema, ledgerTable, name("target"), quote(t.name), name("folder"), strings.Join(keys, ", "))
	columns := columnNames(ledgerColumns())
	add("a null in folder_rows means that the table has not the files' rows of these days: a file changed while it was loaded (load again), or it holds rows of another day, or a key twice",
		"INSERT INTO %s.%s (%s)\n%s", schema, ledgerTable, names(columns[:len(columns)-1]), strings.Join(parts, "\nUNION ALL\n"))
}

// count counts a folder's rows in the table: null where they are not those of the
// files. Redshift enforces no primary key, so a key that is there twice is looked
// for here: in the staging table, which has none, since Redshift's planner takes
// a primary key at its word.
func (t *target) count(table, staging string, f *folder) string {
	n := f.rows()
	if len(t.key) == 0 {
		return fmt.Sprintf("CASE WHEN COUNT(*) = %d THEN COUNT(*) END\nFROM %s WHERE %s", n, table, t.where(f))
	}
	return fmt.Sprintf("CASE WHEN loaded.\"n\" = %d AND distinct_keys.\"n\" = %d THEN loaded.\"n\" END\n"+
		"FROM (SELECT COUNT(*) AS \"n\" FROM %s WHERE %s) AS loaded\n"+
		"CROSS JOIN (SELECT COUNT(*) AS \"n\" FROM (SELECT DISTINCT %s FROM %s WHERE %s) AS incoming) AS distinct_keys",
		n, n, table, t.where(f), names(t.key), staging, t.where(f))
}

func cast(s string) string { return fmt.Sprintf("CAST(%s AS VARCHAR(%d))", quote(s), shortText) }
