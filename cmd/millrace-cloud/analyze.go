package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/duckdb"
	"millrace/cloud/analysis/spark"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
)

var analyzeCommand = command.Command{
	Name: "analyze", Summary: "compute hourly values, energy, availability, key figures and anomalies from the archive",
	Usage: "--archive PLACE [--from DAY] [--to DAY] [--result NAME] [flags]",
	Help: `
Computes the results of each day (UTC) of the archive and writes them as Parquet to
results/<result>/date=<day>/ beside it. Only days whose samples, gaps or catalogue
changed since the last time are computed again, so it may be run as often as you
like; one that was interrupted goes on where it was.

Results: hourly, energy, availability, kpi, anomaly. What a result is made of is
brought up to date with it. docs/cloud-analysis.md has the formulas.

--engine duckdb is an embedded DuckDB, which is in the binary that ` + "`make cloud`" + ` builds.
It keeps to --memory and goes to files in --work beyond it.
--engine spark runs the same SQL as a job on EMR Serverless: give --application and
--job-role. With --local it runs on this machine by --python, which has to have
PySpark 3.5, on an archive in a folder.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; they need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on
the archive, and for a job emr-serverless:StartJobRun, GetJobRun, CancelJobRun and
iam:PassRole. Exit codes: 0 done, 1 failed or interrupted, 2 wrong command line.

Examples:
  millrace-cloud analyze --archive s3://plant-archive --region eu-central-1
  millrace-cloud analyze --archive /srv/archive --from 2026-11-01 --to 2026-11-30 --result energy --memory 2GiB
  millrace-cloud analyze --archive s3://plant-archive --engine spark --application 00f1abcd \
    --job-role arn:aws:iam::123456789012:role/plant-analyze
`,
	Run: runAnalyze,
}

// analyzeFlags are what the command line says.
type analyzeFlags struct {
	archive, from, to, engine string
	results                   list
	memory, work              string
	threads                   int
	region, s3Endpoint, log   string

	application, role, parameters, logs, emrEndpoint string
	timeout                                          time.Duration
	local                                            bool
	python                                           string
}

func (f *analyzeFlags) declare(c *command.Call) {
	c.Flags.StringVar(&f.archive, "archive", "", "the archive: `s3://bucket/prefix` or a folder")
	c.Flags.StringVar(&f.from, "from", "", "from this `day` (UTC), as in 2026-11-02 (default the archive's first)")
	c.Flags.StringVar(&f.to, "to", "", "to this `day` and with it (default the archive's last)")
	c.Flags.Var(&f.results, "result", "compute the result of this `name`; may be given again (default all)")
	c.Flags.StringVar(&f.engine, "engine", "duckdb", "what computes: duckdb or spark")
	c.Flags.StringVar(&f.memory, "memory", "1GiB", "what DuckDB may take, a `size` of 256MiB at least")
	c.Flags.IntVar(&f.threads, "threads", runtime.NumCPU(), "how many of its threads compute at once")
	c.Flags.StringVar(&f.work, "work", filepath.Join(os.TempDir(), "millrace-analyze"), "a `folder` for what does not fit into memory, and for files of S3 while they are read")
	c.Flags.StringVar(&f.application, "application", "", "`id` of the EMR Serverless application, with --engine spark")
	c.Flags.StringVar(&f.role, "job-role", "", "`ARN` of the role that the job runs as")
	c.Flags.StringVar(&f.parameters, "spark-submit", "", "`parameters` of spark-submit, as in '--conf spark.executor.memory=8g'")
	c.Flags.DurationVar(&f.timeout, "job-timeout", 2*time.Hour, "end a job that takes longer, 5m at least")
	c.Flags.StringVar(&f.logs, "job-logs", "", "`s3://bucket/prefix/` for the job's logs (default EMR keeps them for 30 days)")
	c.Flags.BoolVar(&f.local, "local", false, "run Spark on this machine, with --engine spark")
	c.Flags.StringVar(&f.python, "python", "python3", "an interpreter that has PySpark, with --local")
	c.Flags.StringVar(&f.emrEndpoint, "emr-endpoint", "", "`URL` instead of EMR Serverless' own, for a local stand-in")
	c.Flags.StringVar(&f.region, "region", "", "AWS region (default as the environment or ~/.aws says)")
	c.Flags.StringVar(&f.s3Endpoint, "s3-endpoint", "", "`URL` instead of S3's own, for a local stand-in")
	c.Flags.StringVar(&f.log, "log", "text", "form of the log on standard error: text or json")
}

// days reads --from and --to as the first day and the one after the last.
func (f *analyzeFlags) days() (from, to time.Time, err error) {
	for flag, into := range map[string]*time.Time{"from": &from, "to": &to} {
		text := map[string]string{"from": f.from, "to": f.to}[flag]
		if text == "" {
			continue
		}
		if *into, err = time.Parse(time.DateOnly, text); err != nil {
			return from, to, command.Usagef("--%s %q is no day, as in 2026-11-02", flag, text)
		}
	}
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		return from, to, command.Usagef("--to is before --from")
	}
	if !to.IsZero() {
		to = to.AddDate(0, 0, 1)
	}
	return from, to, nil
}

// place is the archive. A folder needs no AWS.
func (f *analyzeFlags) place(ctx context.Context) (objects.Place, error) {
	if f.archive == "" {
		return nil, command.Usagef("--archive is missing")
	}
	if !strings.HasPrefix(f.archive, "s3://") {
		p, err := objects.Parse(f.archive, nil)
		if err != nil {
			return nil, command.Usagef("--archive: %w", err)
		}
		return p, nil
	}
	s := connect.Settings{Region: f.region, S3Endpoint: f.s3Endpoint}
	cfg, err := connect.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	p, err := connect.Place(f.archive, cfg, s)
	if err != nil {
		return nil, command.Usagef("--archive: %w", err)
	}
	return p, nil
}

func runAnalyze(ctx context.Context, c *command.Call) (err error) {
	var f analyzeFlags
	f.declare(c)
	if err := c.Parse(); err != nil {
		return err
	}
	o := analysis.Options{Results: f.results}
	if o.From, o.To, err = f.days(); err != nil {
		return err
	}
	if err := analysis.Check(f.results); err != nil {
		return command.Usagef("--result: %w", err)
	}
	if o.Log, err = logger(c.Stderr, f.log); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	if o.Place, err = f.place(ctx); err != nil {
		return err
	}
	if err := archiveThere(o.Place); err != nil {
		return err
	}
	if f.engine == "spark" {
		o.Engine, err = f.spark(ctx, o.Place, o.Log)
	} else {
		var end func() error
		if o.Engine, end, err = f.duckdb(ctx, o.Place); err == nil {
			defer func() { err = errors.Join(err, end()) }()
		}
	}
	if err != nil {
		return err
	}
	o.Progress = func(total int64) analysis.Progress { return progress.New(c.Stderr, "analyze", total, clock.System{}) }
	report, err := analysis.Run(ctx, o)
	if report != nil {
		printAnalysis(c.Stdout, o.Place, report)
	}
	return err
}

// check reports flags that do not go together.
func (f *analyzeFlags) check() error {
	switch {
	case f.engine != "duckdb" && f.engine != "spark":
		return command.Usagef("--engine %q: write duckdb or spark", f.engine)
	case f.threads < 1:
		return command.Usagef("--threads %d is out of range: 1 at least", f.threads)
	case f.engine == "spark" && !f.local && (f.application == "" || f.role == ""):
		return command.Usagef("--engine spark needs --application and --job-role, or --local")
	case f.timeout < 5*time.Minute:
		return command.Usagef("--job-timeout %v is out of range: 5m at least", f.timeout)
	}
	if size, err := bytesize.Parse(f.memory); err != nil || size < 256*bytesize.MiB {
		return command.Usagef("--memory %q: write a size of 256MiB at least", f.memory)
	}
	return nil
}

// duckdb is the engine of this machine, and what ends it.
func (f *analyzeFlags) duckdb(ctx context.Context, place objects.Place) (analysis.Engine, func() error, error) {
	if err := os.MkdirAll(f.work, 0o750); err != nil {
		return nil, nil, fmt.Errorf("make the work directory: %w; give another one with --work", err)
	}
	// Of two runs at once, neither takes the other's files away.
	work, err := os.MkdirTemp(f.work, "run-*")
	if err != nil {
		return nil, nil, fmt.Errorf("make a directory in --work: %w", err)
	}
	memory, err := bytesize.Parse(f.memory)
	if err == nil {
		var local *duckdb.Engine
		if local, err = duckdb.New(ctx, duckdb.Options{Memory: int64(memory), Threads: f.threads, Dir: work}); err == nil {
			return &analysis.Machine{Place: place, Local: local, Dir: work}, func() error { return errors.Join(local.Close(), os.RemoveAll(work)) }, nil
		}
	}
	return nil, nil, errors.Join(err, os.RemoveAll(work))
}

// spark is an engine by EMR Serverless, or by PySpark on this machine.
func (f *analyzeFlags) spark(ctx context.Context, place objects.Place, log *slog.Logger) (analysis.Engine, error) {
	if f.local {
		return &spark.Engine{Place: place, Runner: &spark.Machine{Python: f.python, Master: fmt.Sprintf("local[%d]", f.threads)}, Log: log}, nil
	}
	if !strings.HasPrefix(place.String(), "s3://") {
		return nil, command.Usagef("--archive %s: a job on EMR Serverless reads s3:// only; give --local for a folder", place)
	}
	if err := connect.CheckEndpoint("--emr-endpoint", f.emrEndpoint); err != nil {
		return nil, err
	}
	cfg, err := connect.Load(ctx, connect.Settings{Region: f.region})
	if err != nil {
		return nil, err
	}
	job := spark.NewServerless(spark.NewClient(cfg, f.emrEndpoint), f.application, f.role, log)
	job.Parameters, job.Timeout, job.Logs = f.parameters, f.timeout, f.logs
	return &spark.Engine{Place: place, Runner: job, Log: log}, nil
}

// printAnalysis says what was computed, a line for each result.
func printAnalysis(w io.Writer, place objects.Place, r *analysis.Report) {
	if r.First.IsZero() {
		fmt.Fprintf(w, "%s has no samples of these days: nothing to do\n", place)
		return
	}
	for _, n := range r.Counts {
		fmt.Fprintf(w, "%s: %d days computed, %d rows; %d days as they were\n", n.Result, n.Computed, n.Rows, n.Kept)
	}
}
