package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"millrace/cloud/analysis"
	"millrace/cloud/archive"
	"millrace/cloud/catalogue"
	"millrace/cloud/config"
	"millrace/cloud/connect"
	"millrace/cloud/export"
	"millrace/cloud/format"
	"millrace/cloud/objects"
	"millrace/cloud/pipeline"
	"millrace/cloud/query"
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
		{Name: stageArchive, Off: off("", true), Run: w.archive},
		{Name: stageAnalyze, Off: off("analyze.engine is none", w.cfg.Analyze.Engine != "none"), Run: w.analyze},
		{Name: stageWarehouse, Off: off("no warehouse is configured", w.cfg.Warehouse.Configured()), Run: w.warehouse},
		{Name: stageExport, Off: off("no export is configured", len(w.cfg.Export) > 0), Run: w.export},
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
	settings := tables.Settings{Provisioned: t.Billing == "provisioned", Read: t.ReadUnits, Write: t.WriteUnits, WarmRead: t.WarmRead, WarmWrite: t.WarmWrite,
		Infrequent: t.Class == "infrequent", Protected: t.Protect, Tags: t.Tags, Behind: t.Behind}
	if t.Behind > 0 && w.cfg.Archive.Place != "" {
		var err error
		if settings.Archive, err = w.place(); err != nil {
			return "", err
		}
	}
	made, err := m.Ensure(ctx, settings, t.Ahead)
	if err != nil {
		return "", err
	}
	n := 0
	var retired []string
	for _, t := range made {
		if t.New {
			n++
		}
		if t.Retired {
			retired = append(retired, t.Table)
		}
	}
	summary := fmt.Sprintf("%d tables made, %d are there", n, len(made)-n-len(retired))
	if len(retired) > 0 {
		summary += "; not made again, since they were archived and retired: " + strings.Join(retired, ", ")
	}
	if t.FillCatalogue {
		records, err := w.fillCatalogue(ctx)
		if err != nil {
			return summary, err
		}
		summary += records
	}
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

// fillCatalogue brings catalogue and gaps up to date from the week tables, to
// which some gateways write past the workers.
func (w *wiring) fillCatalogue(ctx context.Context) (string, error) {
	db := connect.DynamoDB(w.aws, w.at)
	s := &catalogue.Store{DB: db, Prefix: w.cfg.Prefix}
	meter := progress.New(w.out, "catalogue", 0, clock.System{})
	r, err := s.Rebuild(ctx, db, catalogue.Rebuild{Pace: backoff.Policy{Base: 100 * time.Millisecond, Max: 20 * time.Second}, Tries: 50, Read: meter.Add,
		Phase: func(table string, n, of int) {
			meter.Phase(fmt.Sprintf("read of %s, table %d of %d", table, n, of), "blocks", 0)
		}})
	meter.Done()
	for _, text := range r.Unreadable {
		w.log.Warn("a record is not taken into the catalogue", "problem", text)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("; catalogue and gaps filled from %d week tables: %d records of %d system streams, %d not readable", r.Tables, r.Items, r.Gateways, r.Count), nil
}

// archive writes the weeks that changed.
func (w *wiring) archive(ctx context.Context) (string, error) {
	place, err := w.place()
	if err != nil {
		return "", err
	}
	m, db := w.manager(), connect.DynamoDB(w.aws, w.at)
	rows, err := m.List(ctx)
	if err != nil {
		return "", err
	}
	weeks, err := pipeline.Weeks(ctx, rows, place, w.cfg.Prefix, w.cfg.Archive.RecentWeeks, m.Now)
	if err != nil {
		return "", err
	}
	var files, changed int
	var archived, duplicates int64
	for _, week := range weeks {
		meter := progress.New(w.out, stageArchive+" "+week, 0, clock.System{})
		r, err := archive.Run(ctx, archive.Options{DB: db, Place: place, Prefix: w.cfg.Prefix, Week: week, Catalogue: &catalogue.Store{DB: db, Prefix: w.cfg.Prefix},
			Segments: w.cfg.Archive.Segments, Dir: w.cfg.Archive.Dir, Log: w.log, Progress: meter, Clock: clock.System{}, Sleep: backoff.Sleep})
		meter.Done()
		if err != nil {
			return "", fmt.Errorf("week %s: %w", week, err)
		}
		if !r.Unchanged {
			changed++
		}
		files, archived, duplicates = files+r.WrittenFiles, archived+r.Rows, duplicates+r.Duplicates
	}
	return fmt.Sprintf("%d weeks looked through, %d changed: %d files written; they hold %d samples, %d duplicates left out", len(weeks), changed, files, archived, duplicates), nil
}

// analyze computes the results of the days that changed.
func (w *wiring) analyze(ctx context.Context) (_ string, err error) {
	a := &w.cfg.Analyze
	o := analysis.Options{Results: a.Results, Log: w.log}
	if o.Place, err = w.place(); err != nil {
		return "", err
	}
	f := analyzeFlags{engine: a.Engine, memory: fmt.Sprintf("%dB", int64(a.Memory)), threads: a.Threads, work: a.Dir, region: w.aws.Region,
		application: a.Application, role: a.JobRole, parameters: a.SparkSubmit, timeout: a.JobTimeout, logs: a.JobLogs, emrEndpoint: w.cfg.Endpoints.EMR}
	if f.threads == 0 {
		f.threads = runtime.NumCPU()
	}
	if a.Engine == "spark" {
		o.Engine, err = f.spark(ctx, o.Place, w.log)
	} else {
		var end func() error
		if o.Engine, end, err = f.duckdb(ctx, o.Place); err == nil {
			defer func() { err = errors.Join(err, end()) }()
		}
	}
	if err != nil {
		return "", err
	}
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

// export writes the files of each entry, of the days before today.
func (w *wiring) export(ctx context.Context) (string, error) {
	place, err := w.place()
	if err != nil {
		return "", err
	}
	db := connect.DynamoDB(w.aws, w.at)
	store := query.Store{Tables: db, Prefix: w.cfg.Prefix, Catalogue: &catalogue.Store{DB: db, Prefix: w.cfg.Prefix}, Archive: place}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	var written, kept int
	for i := range w.cfg.Export {
		e := &w.cfg.Export[i]
		kind, err := format.Parse(e.Format, format.CSV, format.JSON, format.SenML, format.Parquet)
		if err != nil {
			return "", fmt.Errorf("export %s: %w", e.Name, err)
		}
		to, err := connect.Place(e.To, w.aws, w.at)
		if err != nil {
			return "", fmt.Errorf("export %s: %w", e.Name, err)
		}
		meter := progress.New(w.out, stageExport+" "+e.Name, 0, clock.System{})
		r, err := export.Run(ctx, export.Options{Store: store, To: to, Prefix: export.Prefix, What: e.What, Format: kind, Gzip: e.Gzip, Sites: e.Sites, Tags: e.Tags,
			From: today.AddDate(0, 0, -e.Days), Until: today,
			Problem: func(line string) { w.log.Warn("export: not all could be read", "export", e.Name, "problem", line) },
			Note:    func(line string) { w.log.Info("export", "export", e.Name, "note", line) },
			Total:   func(n int64) { meter.Phase("done", "objects", n) }, Done: meter.Add})
		meter.Done()
		switch {
		case err != nil:
			return "", fmt.Errorf("export %s: %w", e.Name, err)
		case r.Problems > 0:
			return "", fmt.Errorf("export %s: not all could be read: %s; the log above has each", e.Name, count(int64(r.Problems), "problem", "problems"))
		}
		written, kept = written+r.Written, kept+r.Kept
	}
	return fmt.Sprintf("%d objects written, %d as they were", written, kept), nil
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
