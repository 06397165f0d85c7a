package warehouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"millrace/cloud/connect"
	"millrace/internal/sim/redshiftsim"
)

// rig is a simulated Data API whose batches and queries the test says.
type rig struct {
	*redshiftsim.Server
	run   func(sqls []string) (int, string)
	query func(sql string) ([][]any, error)
}

func startDataAPI(t *testing.T) *rig {
	t.Helper()
	r := &rig{run: func([]string) (int, string) { return 0, "" }, query: func(string) ([][]any, error) { return nil, nil }}
	s, err := redshiftsim.Start(redshiftsim.Options{PageRows: 2,
		Run:   func(sqls []string) (int, string) { return r.run(sqls) },
		Query: func(sql string) ([][]any, error) { return r.query(sql) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.Server = s
	return r
}

// client is a RedshiftDB on it that does not sleep, and for how long it would.
func (r *rig) client(t *testing.T, w Where, archive string) (*RedshiftDB, *[]time.Duration) {
	t.Helper()
	cfg := aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", ""),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} }}
	db, err := NewRedshift(connect.RedshiftData(cfg, r.URL()), w, archive)
	if err != nil {
		t.Fatal(err)
	}
	var slept []time.Duration
	db.sleep = sleeper(&slept)
	return db, &slept
}

var plant = Where{Workgroup: "plant", Database: "plant", Role: "default"}

// sleeper notes the waits, and ends them at once while ctx is not done.
func sleeper(slept *[]time.Duration) func(context.Context, time.Duration) bool {
	return func(ctx context.Context, d time.Duration) bool {
		*slept = append(*slept, d)
		return ctx.Err() == nil
	}
}

func batchOf(sqls ...string) Batch {
	b := Batch{Name: "load hourly of 2026-11-28"}
	for _, s := range sqls {
		b.Statements = append(b.Statements, Statement{SQL: s})
	}
	return b
}

func TestBatchIsOneRequestAndPolled(t *testing.T) {
	d := startDataAPI(t)
	var got []string
	d.run = func(sqls []string) (int, string) { got = sqls; return 0, "" }
	db, slept := d.client(t, plant, "s3://plant-archive/lake")
	b := batchOf("LOCK TABLE a")
	b.Statements = append(b.Statements, Statement{Copy: &Copy{Table: "m.staging_hourly", From: "results/hourly/date=2026-11-28/", columns: []column{{name: "site"}, {name: "tag"}}}})
	if err := db.Run(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want := []string{"LOCK TABLE a", "COPY m.staging_hourly (\"site\", \"tag\")\nFROM 's3://plant-archive/lake/results/hourly/date=2026-11-28/part-'\nIAM_ROLE default\nFORMAT AS PARQUET"}
	if !slices.Equal(got, want) {
		t.Errorf("ran %q\nwant %q", got, want)
	}
	if want := []string{"ListStatements", "BatchExecuteStatement", "DescribeStatement", "DescribeStatement", "DescribeStatement", "DescribeStatement"}; !slices.Equal(d.Requests(), want) {
		t.Errorf("requests %v\nwant %v", d.Requests(), want)
	}
	if len(*slept) != 3 {
		t.Errorf("slept %v: once between two questions", *slept)
	}
}

// TestTheSameBatchRunsOnce: where the answer is lost after the service has acted,
// the request comes with the same token again and finds the statement.
func TestTheSameBatchRunsOnce(t *testing.T) {
	d := startDataAPI(t)
	ran := 0
	d.run = func([]string) (int, string) { ran++; return 0, "" }
	d.Inject(redshiftsim.Fault{}, redshiftsim.Fault{Status: 500, Code: "InternalServerException", After: true}, redshiftsim.Fault{Status: 503, Code: "ServiceUnavailable"})
	db, slept := d.client(t, plant, "s3://plant-archive")
	if err := db.Run(t.Context(), batchOf("MERGE INTO a")); err != nil || ran != 1 || len(*slept) < 2 {
		t.Errorf("ran %d times, %v", ran, err)
	}
	if err := db.Run(t.Context(), batchOf("MERGE INTO b")); err != nil || ran != 2 {
		t.Errorf("another text: ran %d times, %v", ran, err)
	}
	other := plant
	other.Database = "other"
	db, _ = d.client(t, other, "s3://plant-archive")
	if err := db.Run(t.Context(), batchOf("MERGE INTO b")); err != nil || ran != 3 {
		t.Errorf("another database: ran %d times, %v", ran, err)
	}
}

// TestWhatHasEndedRunsAgain: the ledger was read before, and does not know of it.
// Somebody has dropped the tables and made them anew, within the hours for which
// the service keeps a token.
func TestWhatHasEndedRunsAgain(t *testing.T) {
	d := startDataAPI(t)
	ran := 0
	d.run = func([]string) (int, string) { ran++; return 0, "" }
	db, _ := d.client(t, plant, "s3://plant-archive")
	for range 3 {
		if err := db.Run(t.Context(), batchOf("MERGE INTO a")); err != nil {
			t.Fatal(err)
		}
	}
	if ran != 3 {
		t.Errorf("ran %d times", ran)
	}
}

// TestFailureIsNotRemembered: the service keeps a failed statement under its
// token, too; after a failure the same batch is tried anew.
func TestFailureIsNotRemembered(t *testing.T) {
	d := startDataAPI(t)
	cause := "Insufficient privileges\n on   relation a"
	d.run = func([]string) (int, string) { return 2, cause }
	db, _ := d.client(t, plant, "s3://plant-archive")
	b := batchOf("LOCK TABLE a", "MERGE INTO a\nUSING b", "DELETE FROM b")
	b.Statements[1].Hint = "look at b"
	err := db.Run(t.Context(), b)
	var failed *StatementError
	if !errors.As(err, &failed) || failed.Number != 2 || failed.SQL != "MERGE INTO a\nUSING b" || failed.Cause != cause {
		t.Fatalf("%#v", err)
	}
	want := "load hourly of 2026-11-28: statement 2 (MERGE INTO a) failed, nothing of it was kept: Insufficient privileges on relation a; look at b"
	if err.Error() != want {
		t.Errorf("%s\nwant %s", err, want)
	}
	d.run = func([]string) (int, string) { return 0, "" }
	if err := db.Run(t.Context(), b); err != nil {
		t.Errorf("after the cause is gone: %v", err)
	}
}

func TestAborted(t *testing.T) {
	d := startDataAPI(t)
	d.Abort(true)
	db, _ := d.client(t, plant, "s3://plant-archive")
	if err := db.Run(t.Context(), batchOf("MERGE INTO a")); err == nil || !strings.Contains(err.Error(), "was aborted, by somebody or after 24 h") {
		t.Error(err)
	}
	d.Abort(false)
	if err := db.Run(t.Context(), batchOf("MERGE INTO a")); err != nil {
		t.Error(err)
	}
}

func TestThrottledAndUnreachable(t *testing.T) {
	d := startDataAPI(t)
	ran := 0
	d.run = func([]string) (int, string) { ran++; return 0, "" }
	db, slept := d.client(t, plant, "s3://plant-archive")
	throttled := redshiftsim.Fault{Status: 400, Code: "ThrottlingException"}
	d.Inject(throttled, redshiftsim.Fault{}, redshiftsim.Fault{Status: 400, Code: "ActiveStatementsExceededException"},
		redshiftsim.Fault{Status: 500, Code: "InternalServerException"}, redshiftsim.Fault{}, throttled)
	if err := db.Run(t.Context(), batchOf("MERGE INTO a")); err != nil || ran != 1 {
		t.Fatalf("ran %d times, %v", ran, err)
	}
	for range maxTries {
		d.Inject(throttled)
	}
	*slept = nil
	if err := db.Run(t.Context(), batchOf("MERGE INTO c")); err == nil || !strings.Contains(err.Error(), "ThrottlingException") || len(*slept) != maxTries-1 {
		t.Errorf("%v after %d waits", err, len(*slept))
	}
}

func TestHeldErrorsSayWhatToDo(t *testing.T) {
	for code, want := range map[string]string{
		"ExpiredTokenException":     "renew the session token",
		"AccessDeniedException":     "allow the action",
		"ResourceNotFoundException": "correct --workgroup or --cluster",
		"ValidationException":       "injected",
	} {
		d := startDataAPI(t)
		d.Inject(redshiftsim.Fault{Status: 400, Code: code})
		db, slept := d.client(t, plant, "s3://plant-archive")
		err := db.Run(t.Context(), batchOf("MERGE INTO a"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "tables ensure") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", code, err)
		}
		if len(*slept) > 0 {
			t.Errorf("%s was tried again", code)
		}
	}
}

// TestInterruptedWhileItRuns: the statement runs on, and the same batch finds it.
func TestInterruptedWhileItRuns(t *testing.T) {
	d := startDataAPI(t)
	ran := 0
	d.run = func([]string) (int, string) { ran++; return 0, "" }
	db, _ := d.client(t, plant, "s3://plant-archive")
	ctx, cancel := context.WithCancel(t.Context())
	db.sleep = func(context.Context, time.Duration) bool { cancel(); return false }
	err := db.Run(ctx, batchOf("MERGE INTO a"))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run the same again") {
		t.Error(err)
	}
	db, _ = d.client(t, plant, "s3://plant-archive")
	if err := db.Run(t.Context(), batchOf("MERGE INTO a")); err != nil || ran != 1 {
		t.Errorf("ran %d times, %v", ran, err)
	}
}

func TestQueryReadsAllPages(t *testing.T) {
	d := startDataAPI(t)
	d.query = func(sql string) ([][]any, error) {
		if sql != "SELECT 1" {
			return nil, errors.New("relation does not exist")
		}
		return [][]any{{"a", int64(1)}, {"b", nil}, {"c", 1.5}, {"d", true}, {"e", int64(1 << 60)}}, nil
	}
	db, _ := d.client(t, Where{Cluster: "plant", Database: "plant", User: "loader", Role: "default"}, "")
	rows, err := db.Query(t.Context(), "SELECT 1")
	if want := "[[a 1] [b ] [c 1.5] [d true] [e 1152921504606846976]]"; err != nil || fmt.Sprint(rows) != want {
		t.Errorf("%v, %v", rows, err)
	}
	if _, err := db.Query(t.Context(), "SELECT 2"); err == nil || !strings.Contains(err.Error(), "relation does not exist") {
		t.Error(err)
	}
}

func TestBatchesThatTheAPIWouldRefuse(t *testing.T) {
	d := startDataAPI(t)
	db, _ := d.client(t, plant, "/var/lib/archive")
	if err := db.Run(t.Context(), Batch{Statements: []Statement{{Copy: &Copy{}}}}); err == nil || !strings.Contains(err.Error(), "S3 only") {
		t.Error(err)
	}
	if err := db.Run(t.Context(), batchOf(strings.Repeat("x", maxStatement+1))); err == nil || !strings.Contains(err.Error(), "the Data API takes 100000") {
		t.Error(err)
	}
	if err := db.Run(t.Context(), Batch{Statements: make([]Statement, 41)}); err == nil {
		t.Error("41 statements")
	}
	if len(d.Requests()) > 0 {
		t.Errorf("requests: %v", d.Requests())
	}
}

func TestWhere(t *testing.T) {
	good := []Where{plant, {Cluster: "c", Database: "d", Role: "arn:aws:iam::123456789012:role/copy"}, {Cluster: "c", Database: "d", User: "u", Role: "default"},
		{Workgroup: "w", Database: "d", Secret: "arn:aws:secretsmanager:eu-central-1:123456789012:secret:s", Role: "default"}}
	for _, w := range good {
		if err := w.Check(); err != nil {
			t.Errorf("%+v: %v", w, err)
		}
	}
	for _, w := range []Where{{}, {Workgroup: "w", Cluster: "c", Database: "d", Role: "default"}, {Workgroup: "w", Role: "default"}, {Workgroup: "w", Database: "d", User: "u", Role: "default"},
		{Cluster: "c", Database: "d", User: "u", Secret: "s", Role: "default"}, {Workgroup: "w", Database: "d", Role: "copy"}, {Workgroup: "w", Database: "d"}} {
		if err := w.Check(); err == nil {
			t.Errorf("%+v is taken", w)
		}
	}
}
