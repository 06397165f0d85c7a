//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/warehouse"
	"millrace/internal/sim/redshiftsim"
)

// copied takes a COPY of ours apart.
var copied = regexp.MustCompile(`^COPY (\w+)\.(\w+) \((.*)\)\nFROM 's3://archive/([^']*)'\nIAM_ROLE default\nFORMAT AS PARQUET$`)

// redshift is PostgreSQL behind a simulated Data API: the statements run as they
// come, and COPY is what Redshift documents: all files whose keys begin so, columns
// by count and order.
type redshift struct {
	t     *testing.T
	url   string
	place objects.Place // s3://archive
}

// run runs a batch as one transaction.
func (r *redshift) run(sqls []string) (int, string) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		return 1, err.Error()
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 1, err.Error()
	}
	defer tx.Rollback(ctx) // of no effect after the commit
	for i, sql := range sqls {
		if strings.HasPrefix(sql, "COPY ") {
			err = r.copyInto(ctx, tx, sql)
		} else {
			_, err = tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		}
		if err != nil {
			return i + 1, err.Error()
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return len(sqls), err.Error()
	}
	return 0, ""
}

func (r *redshift) copyInto(ctx context.Context, tx pgx.Tx, sql string) error {
	m := copied.FindStringSubmatch(sql)
	if m == nil {
		return fmt.Errorf("not a COPY of ours: %s", sql)
	}
	columns := strings.Split(strings.ReplaceAll(m[3], `"`, ""), ", ")
	var keys []string
	if err := r.place.List(ctx, m[4], func(key string, _ int64) error { keys = append(keys, key); return nil }); err != nil {
		return err
	}
	for _, key := range keys {
		in, err := r.place.Get(ctx, key)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(in)
		if err = errors.Join(err, in.Close()); err != nil {
			return err
		}
		rows, err := rowsOfParquet(data)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if len(rows) > 0 && len(rows[0]) != len(columns) {
			return errors.New("Unmatched number of columns between table and file")
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{m[1], m[2]}, columns, pgx.CopyFromRows(rows)); err != nil {
			return err
		}
	}
	return nil
}

func rowsOfParquet(data []byte) (out [][]any, err error) {
	f, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	fields := f.Schema().Fields()
	r := parquet.NewReader(f)
	defer r.Close()
	rows := make([]parquet.Row, 100)
	for {
		n, err := r.ReadRows(rows)
		for _, row := range rows[:n] {
			values := make([]any, len(row))
			for i, v := range row {
				stamp := strings.HasPrefix(fields[i].Type().String(), "TIMESTAMP")
				switch {
				case v.IsNull():
				case stamp:
					values[i] = time.UnixMicro(v.Int64()).UTC()
				case v.Kind() == parquet.ByteArray:
					values[i] = strings.ReplaceAll(v.String(), "\x00", "\uFFFD")
				case v.Kind() == parquet.Double:
					values[i] = v.Double()
				case v.Kind() == parquet.Int32:
					values[i] = v.Int32()
				case v.Kind() == parquet.Boolean:
					values[i] = v.Boolean()
				default:
					values[i] = v.Int64()
				}
			}
			out = append(out, values)
		}
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (r *redshift) query(sql string) (out [][]any, err error) {
	db, err := warehouse.OpenPostgres(context.Background(), r.url)
	if err != nil {
		return nil, err
	}
	defer db.Close(context.Background())
	rows, err := db.Query(context.Background(), sql)
	for _, row := range rows {
		var values []any
		for _, v := range row {
			values = append(values, v)
		}
		out = append(out, values)
	}
	return out, err
}

// TestCloudWarehouseThroughTheDataAPI is the whole way to Redshift, with the
// command's own binary: what is behind the API is PostgreSQL.
func TestCloudWarehouseThroughTheDataAPI(t *testing.T) {
	url := postgres(t)
	db := openWarehouse(t, url) // the tables: the ends of Redshift's DDL are not PostgreSQL's
	backend := s3mem.New()
	fake := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(fake.Close)
	if err := backend.CreateBucket("archive"); err != nil {
		t.Fatal(err)
	}
	keys(t)
	s := connect.Settings{Region: region, S3Endpoint: fake.URL}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	place, err := connect.Place("s3://archive", cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	r := &redshift{t: t, url: url, place: place}
	api, err := redshiftsim.Start(redshiftsim.Options{Run: r.run, Query: r.query, PageRows: 7, Steps: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	binary := filepath.Join(t.TempDir(), "millrace-cloud")
	if out, err := exec.Command("go", "build", "-o", binary, "millrace/cmd/millrace-cloud").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	where := []string{"--workgroup", "plant", "--database", "plant", "--region", region, "--redshift-endpoint", api.URL()}
	command := func(verb string, more ...string) (string, error) {
		args := append(append([]string{"warehouse", verb}, where...), more...)
		out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
		return string(out), err
	}
	archive := []string{"--archive", "s3://archive", "--s3-endpoint", fake.URL, "--history"}

	plantArchive(t, place, 100)
	if out, err := command("views", "--apply"); err != nil || out != "the views are there, in schema millrace\n" {
		t.Errorf("%v, %s", err, out)
	}
	out, err := command("load", archive...)
	if err != nil || !strings.Contains(out, "hourly: loaded 48 rows of 2 files in 2 folders; 0 folders are as they were\n") {
		t.Fatalf("%v, %s", err, out)
	}
	checkWarehouse(t, db, 100)
	if out, err := command("status", archive...); err != nil || !regexp.MustCompile(`(?m)^samples +1 +7 +2026-11-28 +20\S+ \S+ +0 +0$`).MatchString(out) {
		t.Errorf("%v, %s", err, out)
	}

	// A statement fails at its end, all of it is undone, and the same load again,
	// when the cause is gone, is not taken for the one that failed.
	putRows(t, place, result.Key("hourly", loadedDay, 0), []hourRow{hourOf(power, loadedDay, 5, 0)})
	if _, err := db.Query(t.Context(), `ALTER TABLE millrace.loads ADD CONSTRAINT full_disk CHECK ("version" < 2)`); err != nil {
		t.Fatal(err)
	}
	if out, err := command("load", archive...); err == nil || !strings.Contains(out, "statement 7 (INSERT INTO millrace.loads") || !strings.Contains(out, "full_disk") {
		t.Errorf("%v, %s", err, out)
	}
	answers(t, db, `SELECT COUNT(*) FROM millrace.hourly`, "48")
	if _, err := db.Query(t.Context(), `ALTER TABLE millrace.loads DROP CONSTRAINT full_disk`); err != nil {
		t.Fatal(err)
	}
	if out, err := command("load", archive...); err != nil || !strings.Contains(out, "hourly: loaded 1 rows of 1 files in 1 folders; 1 folders") {
		t.Errorf("%v, %s", err, out)
	}
	answers(t, db, `SELECT COUNT(*) FROM millrace.hourly`, "25")

	// Back to what it was before: the same files, and yet it is loaded.
	plantArchive(t, place, 100)
	if out, err := command("load", archive...); err != nil || !strings.Contains(out, "hourly: loaded 24 rows of 1 files") {
		t.Errorf("%v, %s", err, out)
	}
	checkWarehouse(t, db, 100)
	answers(t, db, `SELECT "version" FROM millrace.loads WHERE "folder" = 'results/hourly/date=2026-11-28/'`, "3")
}
