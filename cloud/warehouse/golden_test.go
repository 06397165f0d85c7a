package warehouse

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// golden compares a text with testdata/name. UPDATE_GOLDEN=1 writes it anew.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", name, got)
	}
}

func TestTextsStay(t *testing.T) {
	golden(t, "ddl.redshift.sql", Script(Redshift, DefaultSchema))
	golden(t, "ddl.postgresql.sql", Script(PostgreSQL, DefaultSchema))
	var b strings.Builder
	for _, x := range []struct {
		target  string
		folders []*folder
	}{
		{"hourly", []*folder{
			{key: "results/hourly/date=2026-11-28/", day: day28, version: 1, files: []File{{Key: "results/hourly/date=2026-11-28/part-00000.parquet", Bytes: 1000, Rows: 24, SHA256: "aa"}}},
			{key: "results/hourly/date=2026-11-29/", day: day28.AddDate(0, 0, 1), version: 3, files: []File{{Key: "results/hourly/date=2026-11-29/part-00000.parquet", Bytes: 900, Rows: 23, SHA256: "bb"}}}}},
		{"samples", []*folder{{key: "samples/site=o%27north/date=2026-11-28/", site: `o'north\1`, day: day28, version: 1, files: []File{
			{Key: "samples/site=o%27north/date=2026-11-28/part-00000.parquet", Bytes: 1000, Rows: 500, SHA256: "cc"},
			{Key: "samples/site=o%27north/date=2026-11-28/part-00001.parquet", Bytes: 800, Rows: 400, SHA256: "dd"}}}}},
		{"catalogue", []*folder{{key: "catalogue/site=north/", site: "north", version: 2, files: []File{{Key: "catalogue/site=north/part-00000.parquet", Bytes: 100, Rows: 5, SHA256: "ee"}}}}},
	} {
		batch := targetOf(t, x.target).transaction(DefaultSchema, x.folders)
		texts, err := (&RedshiftDB{archive: "s3://plant-archive", where: Where{Role: "arn:aws:iam::123456789012:role/copy"}}).texts(batch)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "-- %s\n\n%s;\n\n", batch.Name, strings.Join(texts, ";\n"))
	}
	golden(t, "load.redshift.sql", b.String())
}

// TestOneTextForBoth: the dialects differ in whole lines with their marks, and in
// nothing else.
func TestOneTextForBoth(t *testing.T) {
	whole := script(DefaultSchema) + views
	common := func(d Dialect) string {
		own := onlyRedshift
		if d == PostgreSQL {
			own = onlyPostgreSQL
		}
		var out []string
		for line := range strings.Lines(whole) {
			if !strings.HasSuffix(line, onlyRedshift+"\n") && !strings.HasSuffix(line, onlyPostgreSQL+"\n") || strings.HasSuffix(line, own+"\n") {
				out = append(out, strings.Replace(line, own+"\n", "\n", 1))
			}
		}
		return strings.Join(out, "")
	}
	for _, d := range []Dialect{Redshift, PostgreSQL} {
		if got := Script(d, DefaultSchema) + Views(d, DefaultSchema); got != common(d) {
			t.Errorf("%s: got\n%s\nwant\n%s", d, got, common(d))
		}
	}
	if strings.Contains(Script(PostgreSQL, "m"), "KEY (\"tag\") COMPOUND") || strings.Contains(Script(PostgreSQL, "m"), "DIST") || strings.Contains(Script(PostgreSQL, "m"), "--") {
		t.Error("PostgreSQL's text has something of Redshift's")
	}
	if strings.Contains(Script(Redshift, "m"), "CREATE INDEX") || !strings.Contains(Script(Redshift, "m"), "DISTSTYLE KEY DISTKEY (\"tag\")\nCOMPOUND SORTKEY (\"hour\", \"tag\") ENCODE AUTO\n;") {
		t.Error("Redshift's text is wrong")
	}
}

// TestSchemas: another schema is in every place, and no other name changes.
func TestSchemas(t *testing.T) {
	for _, text := range []string{Script(Redshift, "plant"), Views(PostgreSQL, "plant")} {
		if strings.Contains(text, "millrace") || !strings.Contains(text, "plant.hourly") {
			t.Error(text)
		}
	}
	for name, good := range map[string]bool{"millrace": true, "_a1": true, "": false, "1a": false, "Plant": false, "a-b": false, `a"b`: false, strings.Repeat("a", 64): false} {
		if err := CheckSchema(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestReservedWordsAreQuoted: "tag" is reserved in Redshift, so no text has it, or
// any other column's name, bare.
func TestReservedWordsAreQuoted(t *testing.T) {
	bare := regexp.MustCompile(`[^"'/a-z_$-](tag|time|text|hour|value|count)[^"'/a-z_(]`)
	for _, text := range []string{script(DefaultSchema), views} {
		for _, s := range split(text) {
			if found := bare.FindString(s.SQL); found != "" {
				t.Errorf("%q in %s", found, s.SQL)
			}
		}
	}
}

func TestSplit(t *testing.T) {
	got := split("-- a comment;\nCREATE TABLE a (\n  b INTEGER\n)\n;\n\nCREATE VIEW c AS\nSELECT ';' AS d;\n")
	want := []string{"CREATE TABLE a (\n  b INTEGER\n)", "CREATE VIEW c AS\nSELECT ';' AS d"}
	if len(got) != len(want) || got[0].SQL != want[0] || got[1].SQL != want[1] {
		t.Errorf("%+v", got)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"north": "'north'", "o'north": "'o''north'", `a\b'`: `('a' || CHR(92) || 'b''')`} {
		if got := quote(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
