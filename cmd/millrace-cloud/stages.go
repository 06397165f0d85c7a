package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/duckdb"
	"millrace/cloud/config"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/pipeline"
	"millrace/cloud/results"
	"millrace/cloud/tables"
	"millrace/cloud/warehouse"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/internal/progress"
)

// The stages' names. They stand in the table of runs, so they do not change.
const (
	stageTables    = "tables"
	stageArchive   = "archive"
	stageAnalyze   = "analyze"
	stageWarehouse = "warehouse"
	stageExport    = "export"
	stageResults   = "results"
	stageRetire    = "retire"
)

// wiring makes the stages of a configuration.
type wiring struct {
	cfg *config.Config
	aws aws.Config
	at  connect.Settings
	out io.Writer // for progress
	log *slog.Logger
}

// stages are all, in their order. Retiring comes last, since what it refuses must
// hold up nothing else.
func (w *wiring) stages() []pipeline.Stage {
	const noArchive = "no archive is configured"
	off := func(reason string, on bool) string {
		switch {
		case w.cfg.Archive.Place == "":
			return noArchive
		case !on:
			return reason
		}
		return ""
	}
	return []pipeline.Stage{
		{Name: stageTables, Run: w.tables},
		{Name: stageAnalyze, Off: off("analyze.engine is none", w.cfg.Analyze.Engine != "none"), Run: w.analyze},
		{Name: stageWarehouse, Off: off("no warehouse is configured", w.cfg.Warehouse.Configured()), Run: w.warehouse},
		{Name: stageResults, Off: off("no results are configured", len(w.cfg.Results.Targets) > 0), Run: w.results},
		{Name: stageRetire, Off: off("tables.retire is false", w.cfg.Tables.Retire), Run: w.retire},
	}
}

func (w *wiring) manager() *tables.Manager {
	return &tables.Manager{DB: connect.DynamoDB(w.aws, w.at), Prefix: w.cfg.Prefix, Now: time.Now(), Sleep: backoff.Sleep}
}

func (w *wiring) place() (objects.Place, error) { return archiveOf(w.cfg, w.aws, w.at) }

// tables makes this week's tables and the next's, and dials past ones down where
// the queue is clear. One that is not is no failure: the next run looks again.
func (w *wiring) tables(ctx context.Context) (string, error) {
	t, m := &w.cfg.Tables, w.manager()
	made, err := m.Ensure(ctx, tables.Settings{Provisioned: t.Billing == "provisioned", Read: t.ReadUnits, Write: t.WriteUnits, WarmRead: t.WarmRead, WarmWrite: t.WarmWrite,
		Infrequent: t.Class == "infrequent", Protected: t.Protect, Tags: t.Tags}, t.Ahead)
	if err != nil {
		return "", err
	}
	n := 0
	for _, t := range made {
		if t.New {
			n++
		}
	}
	summary := fmt.Sprintf("%d tables made, %d are there", n, len(made)-n)
	if w.cfg.Queue.URL == "" {
		return summary + "; none is dialled down, since no queue is configured", nil
	}
	dialled, err := m.Dial(ctx, connect.SQS(w.aws, w.cfg.Queue.URL), w.cfg.Queue.URL, t.DialTo)
	switch {
	case errors.Is(err, tables.ErrBacklog):
		return summary + "; past ones are dialled down by a later run: the queue's backlog is not clear", nil
	case err != nil:
		return summary, err
	case len(dialled) > 0:
		summary += fmt.Sprintf("; dialled down to %d write units: %s", t.DialTo, strings.Join(dialled, ", "))
	}
	return summary, nil
}

// analyze computes the results of the days that changed.
func (w *wiring) analyze(ctx context.Context) (_ string, err error) {
	a := &w.cfg.Analyze
	o := analysis.Options{Results: a.Results, Log: w.log}
	if o.Place, err = w.place(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(a.Dir, 0o750); err != nil {
		return "", fmt.Errorf("make the work directory: %w; name another one in analyze.dir", err)
	}
	work, err := os.MkdirTemp(a.Dir, "run-*")
	if err != nil {
		return "", fmt.Errorf("make a directory in analyze.dir: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	threads := a.Threads
	if threads == 0 {
		threads = runtime.NumCPU()
	}
	local, err := duckdb.New(ctx, duckdb.Options{Memory: int64(a.Memory), Threads: threads, Dir: work})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, local.Close()) }()
	o.Engine = &analysis.Machine{Place: o.Place, Local: local, Dir: work}
	o.Progress = func(total int64) analysis.Progress { return progress.New(w.out, stageAnalyze, total, clock.System{}) }
	report, err := analysis.Run(ctx, o)
	if err != nil {
		return "", err
	}
	var rows int64
	computed, kept := 0, 0
	for _, n := range report.Counts {
		rows, computed, kept = rows+n.Rows, computed+n.Computed, kept+n.Kept
	}
	return fmt.Sprintf("%d days of results computed, %d rows; %d as they were", computed, rows, kept), nil
}

// warehouse loads what changed.
func (w *wiring) warehouse(ctx context.Context) (_ string, err error) {
	c := &w.cfg.Warehouse
	o := warehouse.Options{Schema: c.Schema, Results: c.Results, History: c.History, Dir: c.Dir, Log: w.log}
	if o.Archive, err = w.place(); err != nil {
		return "", err
	}
	if c.Postgres != "" {
		db, e := warehouse.OpenPostgres(ctx, c.Postgres)
		if e != nil {
			return "", e
		}
		defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()
		o.DB = db
	} else {
		where := warehouse.Where{Workgroup: c.Workgroup, Cluster: c.Cluster, Database: c.Database, Secret: c.Secret, User: c.DBUser, Role: c.CopyRole}
		if o.DB, err = warehouse.NewRedshift(connect.RedshiftData(w.aws, w.cfg.Endpoints.Redshift), where, o.Archive.String()); err != nil {
			return "", err
		}
	}
	var meter *progress.Meter
	before := int64(0)
	o.Progress = func(done, total int64) {
		if meter == nil {
			meter = progress.New(w.out, stageWarehouse, total, clock.System{})
		}
		meter.Add(done - before)
		before = done
	}
	report, err := warehouse.Load(ctx, o)
	if meter != nil {
		meter.Done()
	}
	if err != nil {
		return "", err
	}
	files, kept := 0, 0
	for _, t := range report.Targets {
		files, kept = files+t.Files, kept+t.Kept
	}
	return fmt.Sprintf("%d files loaded, %d rows; %d folders as they were", files, report.Rows(), kept), nil
}

// results publishes what is due, of data that was whole when this run's archive
// stage began.
func (w *wiring) results(ctx context.Context) (string, error) {
	through, err := runsOf(w.cfg, w.aws, w.at).Through(ctx, stageArchive, stageAnalyze)
	if err != nil {
		return "", err
	}
	outcomes, err := publish(ctx, w.cfg, w.aws, w.at, through, false, w.log)
	counts := map[results.What]int{}
	for _, o := range outcomes {
		counts[o.What]++
	}
	var parts []string
	for _, what := range []results.What{results.Published, results.Again, results.Unchanged, results.Nothing, results.TooLittle, results.NoValue, results.Stale, results.Error} {
		if n := counts[what]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", strings.ReplaceAll(string(what), "_", " "), n))
		}
	}
	return strings.Join(parts, ", "), err
}

// retire deletes the tables that are old enough, once each is proved to be
// archived. One that is refused keeps none of the others.
func (w *wiring) retire(ctx context.Context) (string, error) {
	place, err := w.place()
	if err != nil {
		return "", err
	}
	m := w.manager()
	rows, err := m.List(ctx)
	if err != nil {
		return "", err
	}
	retention := time.Duration(w.cfg.Tables.RetentionWeeks) * 7 * 24 * time.Hour
	var gone []string
	var first error
	for _, week := range pipeline.Retirable(rows, w.cfg.Prefix, retention, m.Now) {
		meter := progress.New(w.out, stageRetire+" "+week, 0, clock.System{})
		_, err := m.Retire(ctx, place, week, retention, false, meter.Add)
		meter.Done()
		if err == nil {
			gone = append(gone, week)
		} else if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(gone) == 0 {
		return "no table deleted", first
	}
	slices.Sort(gone)
	return "deleted, after proof: " + strings.Join(gone, ", "), first
}
