package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/duckdb"
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

The engine is an embedded DuckDB, which is in the binary that ` + "`make cloud`" + ` builds.
It keeps to --memory and goes to files in --work beyond it.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; they need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on
the archive. Exit codes: 0 done, 1 failed or interrupted, 2 wrong command line.

Examples:
  millrace-cloud analyze --archive s3://plant-archive --region eu-central-1
  millrace-cloud analyze --archive /srv/archive --from 2026-11-01 --to 2026-11-30 --result energy --memory 2GiB
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
}

func (f *analyzeFlags) declare(c *command.Call) {
	c.Flags.StringVar(&f.archive, "archive", "", "the archive: `s3://bucket/prefix` or a folder")
	c.Flags.StringVar(&f.from, "from", "", "from this `day` (UTC), as in 2026-11-02 (default the archive's first)")
	c.Flags.StringVar(&f.to, "to", "", "to this `day` and with it (default the archive's last)")
	c.Flags.Var(&f.results, "result", "compute the result of this `name`; may be given again (default all)")
	c.Flags.StringVar(&f.engine, "engine", "duckdb", "what computes: duckdb")
	c.Flags.StringVar(&f.memory, "memory", "1GiB", "what DuckDB may take, a `size` of 256MiB at least")
	c.Flags.IntVar(&f.threads, "threads", runtime.NumCPU(), "how many of its threads compute at once")
	c.Flags.StringVar(&f.work, "work", filepath.Join(os.TempDir(), "millrace-analyze"), "a `folder` for what does not fit into memory, and for files of S3 while they are read")
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
	if f.engine != "duckdb" {
		return command.Usagef("--engine %q: write duckdb", f.engine)
	}
	memory, err := bytesize.Parse(f.memory)
	if err != nil || memory < 256*bytesize.MiB {
		return command.Usagef("--memory %q: write a size of 256MiB at least", f.memory)
	}
	if f.threads < 1 {
		return command.Usagef("--threads %d is out of range: 1 at least", f.threads)
	}
	if o.Place, err = f.place(ctx); err != nil {
		return err
	}
	// Of two runs at once, neither takes the other's files away.
	if err := os.MkdirAll(f.work, 0o750); err != nil {
		return fmt.Errorf("make the work directory: %w; give another one with --work", err)
	}
	work, err := os.MkdirTemp(f.work, "run-*")
	if err != nil {
		return fmt.Errorf("make a directory in --work: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	local, err := duckdb.New(ctx, duckdb.Options{Memory: int64(memory), Threads: f.threads, Dir: work})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.Close()) }()
	o.Engine = &analysis.Machine{Place: o.Place, Local: local, Dir: work}
	o.Progress = func(total int64) analysis.Progress { return progress.New(c.Stderr, "analyze", total, clock.System{}) }
	report, err := analysis.Run(ctx, o)
	if report != nil {
		printAnalysis(c.Stdout, o.Place, report)
	}
	return err
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
