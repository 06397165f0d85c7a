package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/warehouse"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
)

var warehouseCommand = command.Command{
	Name: "warehouse", Summary: "keep the results, and history, in Redshift for BI tools",
	Usage: "ddl|views|load|status [flags]",
	Help: `
ddl     prints the statements that make the tables; --apply runs them. What exists
        stays as it is.
views   prints the views for BI tools; --apply makes them or puts them in place of
        earlier ones.
load    brings the tables up to date with the Parquet files of the archive: results
        and the catalogue, and with --history samples and gaps. It loads what has
        changed since, and may be interrupted anywhere and run again. Rows are
        counted in the table and have to be those of the files, else nothing is
        kept of what was under way.
status  shows what is loaded, and what the archive has beyond it.

The warehouse is Redshift behind its Data API (--workgroup or --cluster), or a
PostgreSQL of version 15 or newer (--postgres). The texts are the same but for the
ends of CREATE TABLE. The role of --copy-role reads the archive's bucket, which
has to be in the warehouse's region.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; docs/cloud-warehouse.md has the actions. PostgreSQL's password comes from
PGPASSWORD or ~/.pgpass. Exit codes: 0 done, 1 failed, 2 wrong command line.

Examples:
  millrace-cloud warehouse ddl --dialect redshift > ddl.sql
  millrace-cloud warehouse ddl --apply --workgroup plant --database plant
  millrace-cloud warehouse views --apply --workgroup plant --database plant
  millrace-cloud warehouse load --workgroup plant --database plant --archive s3://plant-archive --history
  millrace-cloud warehouse status --postgres postgres://loader@127.0.0.1/plant --archive /var/lib/plant-archive
`,
	Run: runWarehouse,
}

var warehouseVerbs = []string{"ddl", "views", "load", "status"}

type warehouseFlags struct {
	dialect, schema, postgres                    string
	where                                        warehouse.Where
	apply, history                               bool
	archive, from, to, dir                       string
	results                                      list
	region, redshiftEndpoint, s3Endpoint, format string
}

// declare returns which flag is for which verbs only.
func (f *warehouseFlags) declare(flags *flag.FlagSet) map[string][]string {
	flags.StringVar(&f.schema, "schema", warehouse.DefaultSchema, "the tables' and views' schema")
	flags.StringVar(&f.dialect, "dialect", "redshift", "ddl, views: of what is printed, redshift or postgresql")
	flags.BoolVar(&f.apply, "apply", false, "ddl, views: run the statements rather than print them")
	flags.StringVar(&f.where.Workgroup, "workgroup", "", "workgroup of Redshift Serverless")
	flags.StringVar(&f.where.Cluster, "cluster", "", "identifier of a provisioned Redshift cluster")
	flags.StringVar(&f.where.Database, "database", "", "database in it")
	flags.StringVar(&f.where.Secret, "secret", "", "`ARN` of the secret with user and password (default: a user by the IAM identity)")
	flags.StringVar(&f.where.User, "db-user", "", "user of the cluster's database (default: a user by the IAM identity)")
	flags.StringVar(&f.where.Role, "copy-role", "default", "load: `ARN` of the role by which COPY reads the archive, or default for the warehouse's own")
	flags.StringVar(&f.postgres, "postgres", "", "`URL` of a PostgreSQL in Redshift's place")
	flags.StringVar(&f.archive, "archive", "", "load, status: `s3://bucket/prefix` or folder of the archive")
	flags.Var(&f.results, "result", "load, status: this `result` only; may be given again (default all)")
	flags.BoolVar(&f.history, "history", false, "load, status: samples and gaps, too")
	flags.StringVar(&f.from, "from", "", "load, status: from this `day` (UTC), as in 2026-11-28 (default the first there is)")
	flags.StringVar(&f.to, "to", "", "load, status: to this `day` and with it (default the last there is)")
	flags.StringVar(&f.dir, "dir", "", "load: `folder` for copies of the files under way, up to some hundred MB (default the system's)")
	flags.StringVar(&f.region, "region", "", "AWS region (default as the environment or ~/.aws says)")
	flags.StringVar(&f.redshiftEndpoint, "redshift-endpoint", "", "`URL` instead of the Data API's own, for a local stand-in or a VPC endpoint")
	flags.StringVar(&f.s3Endpoint, "s3-endpoint", "", "load, status: `URL` instead of S3's own, for a local stand-in")
	flags.StringVar(&f.format, "log", "text", "load: form of the log on standard error: text or json")
	both := []string{"load", "status"}
	return map[string][]string{"dialect": {"ddl", "views"}, "apply": {"ddl", "views"}, "archive": both, "result": both, "history": both, "from": both, "to": both,
		"s3-endpoint": both, "copy-role": {"load"}, "dir": {"load"}, "log": {"load"}}
}

func runWarehouse(ctx context.Context, c *command.Call) error {
	var f warehouseFlags
	of := f.declare(c.Flags)
	args, err := c.ParseArgs(strings.Join(warehouseVerbs, "|"))
	if err != nil {
		return err
	}
	verb := args[0]
	if !slices.Contains(warehouseVerbs, verb) {
		return command.Usagef("%q is none of %s", verb, strings.Join(warehouseVerbs, ", "))
	}
	c.Flags.Visit(func(given *flag.Flag) {
		if want := of[given.Name]; want != nil && !slices.Contains(want, verb) {
			err = command.Usagef("--%s is for %s, not for %s", given.Name, strings.Join(want, " and "), verb)
		}
	})
	if err != nil {
		return err
	}
	if err := warehouse.CheckSchema(f.schema); err != nil {
		return command.Coded(command.ExitUsage, err)
	}
	if verb == "ddl" || verb == "views" {
		return f.texts(ctx, c, verb)
	}
	return f.loadOrStatus(ctx, c, verb)
}

// texts prints or applies the DDL or the views.
func (f *warehouseFlags) texts(ctx context.Context, c *command.Call, verb string) error {
	text := warehouse.Script
	if verb == "views" {
		text = warehouse.Views
	}
	if !f.apply {
		d, err := warehouse.ParseDialect(f.dialect)
		if err != nil {
			return command.Usagef("--dialect: %w", err)
		}
		fmt.Fprint(c.Stdout, text(d, f.schema))
		return nil
	}
	db, closeDB, err := f.open(ctx, "")
	if err != nil {
		return err
	}
	err = warehouse.Apply(ctx, db, verb, text(db.Dialect(), f.schema))
	if err = errors.Join(err, closeDB()); err != nil {
		return err
	}
	what := "tables"
	if verb == "views" {
		what = "views"
	}
	fmt.Fprintf(c.Stdout, "the %s are there, in schema %s\n", what, f.schema)
	return nil
}

// open connects to the warehouse.
func (f *warehouseFlags) open(ctx context.Context, archive string) (warehouse.Database, func() error, error) {
	if f.postgres != "" {
		if f.where.Workgroup != "" || f.where.Cluster != "" {
			return nil, nil, command.Usagef("--postgres excludes --workgroup and --cluster")
		}
		db, err := warehouse.OpenPostgres(ctx, f.postgres)
		if err != nil {
			return nil, nil, err
		}
		return db, func() error { return db.Close(context.WithoutCancel(ctx)) }, nil
	}
	if err := f.where.Check(); err != nil {
		return nil, nil, command.Coded(command.ExitUsage, err)
	}
	if err := connect.CheckEndpoint("--redshift-endpoint", f.redshiftEndpoint); err != nil {
		return nil, nil, err
	}
	cfg, err := connect.Load(ctx, connect.Settings{Region: f.region})
	if err != nil {
		return nil, nil, err
	}
	db, err := warehouse.NewRedshift(connect.RedshiftData(cfg, f.redshiftEndpoint), f.where, archive)
	return db, func() error { return nil }, err
}

func (f *warehouseFlags) loadOrStatus(ctx context.Context, c *command.Call, verb string) error {
	if f.archive == "" {
		return command.Usagef("--archive is missing")
	}
	o := warehouse.Options{Schema: f.schema, Results: f.results, History: f.history, Dir: f.dir}
	var err error
	if o.From, err = day("--from", f.from); err != nil {
		return err
	}
	if o.To, err = day("--to", f.to); err != nil {
		return err
	}
	if !o.To.IsZero() && o.To.Before(o.From) {
		return command.Usagef("--to %s is before --from %s", f.to, f.from)
	}
	if !o.To.IsZero() {
		o.To = o.To.AddDate(0, 0, 1)
	}
	if o.Log, err = logger(c.Stderr, f.format); err != nil {
		return err
	}
	if o.Archive, err = f.place(ctx); err != nil {
		return command.Usagef("--archive: %w", err)
	}
	var closeDB func() error
	if o.DB, closeDB, err = f.open(ctx, o.Archive.String()); err != nil {
		return err
	}
	if verb == "status" {
		states, err := warehouse.Status(ctx, o)
		if err = errors.Join(err, closeDB()); err != nil {
			return err
		}
		return printWarehouse(c, states)
	}
	var meter *progress.Meter
	before := int64(0)
	o.Progress = func(done, total int64) {
		if meter == nil {
			meter = progress.New(c.Stderr, "warehouse", total, clock.System{})
		}
		meter.Add(done - before)
		before = done
	}
	report, err := warehouse.Load(ctx, o)
	if meter != nil {
		meter.Done()
	}
	if report != nil {
		for _, t := range report.Targets {
			fmt.Fprintln(c.Stdout, t)
		}
	}
	return errors.Join(err, closeDB())
}

// place opens the archive. A folder needs no settings of AWS.
func (f *warehouseFlags) place(ctx context.Context) (objects.Place, error) {
	s := connect.Settings{Region: f.region, S3Endpoint: f.s3Endpoint}
	cfg, err := connect.Load(ctx, s)
	if err != nil && strings.HasPrefix(f.archive, "s3://") {
		return nil, err
	}
	return connect.Place(f.archive, cfg, s)
}

// day reads a day of UTC; none is zero.
func day(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return t, command.Usagef("%s %q: write a day as in 2026-11-28", flag, text)
	}
	return t, nil
}

func printWarehouse(c *command.Call, states []warehouse.State) error {
	t := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TABLE\tFOLDERS\tROWS\tNEWEST\tLOADED\tTO LOAD\tGONE")
	for _, s := range states {
		newest, loaded := "-", "-"
		if !s.Newest.IsZero() {
			newest = s.Newest.Format(time.DateOnly)
		}
		if s.LoadedAt != "" {
			loaded = s.LoadedAt
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%d\t%d\n", s.Name, s.Folders, s.Rows, newest, loaded, s.Pending, s.Gone)
	}
	return t.Flush()
}
