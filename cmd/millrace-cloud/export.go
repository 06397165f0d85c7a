package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/connect"
	"millrace/cloud/export"
	"millrace/cloud/format"
	"millrace/cloud/objects"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
)

var exportCommand = command.Command{
	Name: "export", Summary: "write samples or results as CSV, JSON Lines, SenML or Parquet, a file for each day",
	Usage: "WHAT... --to PLACE [--format FORM] [--from DAY] [--until DAY] [flags]",
	Help: `
Writes files that other programs take: samples, or a result of the analysis
(hourly, energy, availability, kpi, anomaly), one object for each day in UTC, and of
samples for each site:

  exports/samples/site=north/date=2026-11-28.csv.gz
  exports/hourly/date=2026-11-28.csv.gz
  exports/hourly/index.json

--to is a bucket or a folder. Names and bytes depend on the contents alone: another
run writes only what changed, and one that was interrupted goes on where it was. The
index names the objects that are whole, with rows, bytes and SHA-256; it is written
last.

Samples of a day come from the archive where its week is archived, and from the week
tables otherwise; with --archive-only no table is read. A gateway's own records
($gap, $heartbeat and the like) are written only where a --tag names them. Results
come from the archive. Without --from and --until it is yesterday.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; they need s3:GetObject and s3:ListBucket on the archive, s3:PutObject and
s3:GetObject on --to, and for samples from tables what query needs.

Examples:
  millrace-cloud export samples --prefix plant --archive s3://plant-archive --to s3://plant-exports --gzip
  millrace-cloud export hourly energy --archive s3://plant-archive --to /srv/reports --from 2026-11-01 --until 2026-12-01
  millrace-cloud export samples --site north --tag 'north/*/power' --format senml --prefix plant --to exports
`,
	Run: runExport,
}

func runExport(ctx context.Context, c *command.Call) error {
	var p place
	p.declare(c)
	var o export.Options
	to := c.Flags.String("to", "", "`s3://bucket/prefix` or folder to write to")
	c.Flags.StringVar(&o.Prefix, "key-prefix", export.Prefix, "what the objects' keys begin with")
	form := c.Flags.String("format", "csv", "csv, json (JSON Lines), senml or parquet")
	c.Flags.BoolVar(&o.Gzip, "gzip", false, "pack the objects; their names end in .gz")
	c.Flags.BoolVar(&o.BOM, "bom", false, "csv: begin with a byte order mark, by which Excel knows UTF-8")
	from := c.Flags.String("from", "", "from this `day` in UTC on (default yesterday)")
	until := c.Flags.String("until", "", "before this `day` (default one day)")
	var sites, tags list
	c.Flags.Var(&sites, "site", "samples: of this `site`; may be given again (default all)")
	c.Flags.Var(&tags, "tag", "samples: of this `tag` or pattern; may be given again (default all)")
	what, err := c.ParseArgs("WHAT...")
	if err != nil {
		return err
	}
	if err := checkWhat(what, p.archive); err != nil {
		return err
	}
	if *to == "" {
		return command.Usagef("--to is missing")
	}
	if o.Format, err = format.Parse(*form, format.CSV, format.JSON, format.SenML, format.Parquet); err != nil {
		return command.Usagef("--format: %w", err)
	}
	now := time.Now()
	if o.From, err = instant("--from", *from, time.UTC, now); err != nil {
		return err
	}
	if o.Until, err = instant("--until", *until, time.UTC, now); err != nil {
		return err
	}
	if o.From.IsZero() {
		o.From = now.UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)
	}
	if o.Until.IsZero() {
		o.Until = o.From.Add(24 * time.Hour)
	}
	if !o.From.Before(o.Until) {
		return command.Usagef("--from is not before --until")
	}
	o.What, o.Sites, o.Tags = what, sites, tags
	if o.Store, err = p.open(ctx); err != nil {
		return err
	}
	if o.To, err = p.target(ctx, *to); err != nil {
		return err
	}
	say := func(line string) { fmt.Fprintln(c.Stderr, "millrace-cloud export:", line) }
	o.Problem, o.Note = say, say
	meter := progress.New(c.Stderr, "export", 0, clock.System{})
	o.Total = func(n int64) { meter.Phase("done", "objects", n) }
	o.Done = meter.Add
	report, err := export.Run(ctx, o)
	meter.Done()
	if report != nil {
		fmt.Fprintf(c.Stdout, "%s: %s written, %s; %d rows, %d bytes\n", o.To, count(int64(report.Written), "object", "objects"),
			count(int64(report.Kept), "object as it was", "objects as they were"), report.Rows, report.Bytes)
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted; run it again to go on")
	case err != nil:
		return err
	case report.Problems > 0:
		return fmt.Errorf("not all could be read: %s", count(int64(report.Problems), "problem", "problems"))
	}
	return nil
}

// checkWhat reports what cannot be exported.
func checkWhat(what []string, archive string) error {
	for _, name := range what {
		if name == export.Samples {
			continue
		}
		if _, err := result.Named(name); err != nil {
			return command.Usagef("%w, and %s", err, export.Samples)
		}
		if archive == "" {
			return command.Usagef("%s comes from the archive: say where it is by --archive", name)
		}
	}
	return nil
}

// target opens what is written to.
func (p *place) target(ctx context.Context, to string) (objects.Place, error) {
	if !strings.HasPrefix(to, "s3://") {
		where, err := objects.Parse(to, nil)
		if err != nil {
			return nil, command.Usagef("--to: %w", err)
		}
		return where, nil
	}
	s := connect.Settings{Region: p.region, S3Endpoint: p.s3Endpoint}
	cfg, err := connect.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	where, err := connect.Place(to, cfg, s)
	if err != nil {
		return nil, command.Usagef("--to: %w", err)
	}
	return where, nil
}
