package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/cloud/objects"
	"millrace/cloud/query"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
)

var queryCommand = command.Command{
	Name: "query", Summary: "show samples of tags, from the week tables, the archive or a gateway's files",
	Usage: "TAG... [--from TIME] [--to TIME] [--format FORM] [flags]",
	Help: `
Shows the samples of tags in the order of time, each once, with quality and with
the gaps that were declared. A tag is a full name, or a pattern in which * stands
for any characters: north/*/power. Quote patterns for the shell.

Times are as in 2026-11-28, 2026-11-28T08:00, 2026-11-28T08:00:00Z, now, or back
from now as in -2h. Those without a zone are in --zone. --from is in the range,
--to is not: --from 2026-11-27 --to 2026-11-28 is one day. Without them it is the
last hour, or with --last the last week.

Samples come from the week tables. With --archive, weeks whose table is gone come
from there; with --archive-only all do. With --files DIR they come from the
directory of a gateway's file sink and from nothing else.

Samples that went up with a wrong clock have the time that the gateway's
correction records give; --raw shows them as they were sent. The archive has them
as they were sent.

Forms: table; csv (RFC 4180); json, which is JSON Lines; senml (RFC 8428);
parquet, which is the archive's form and goes tag by tag. What cannot be read is
said on standard error, a line each, the rest is shown, and the exit code is 1.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; they need dynamodb:Query and dynamodb:DescribeTable, and s3:GetObject and
s3:ListBucket on the archive.

Examples:
  millrace-cloud query north/boiler/power --from -2h
  millrace-cloud query 'north/*/power' --prefix plant --from 2026-11-27 --to 2026-11-28 --format csv > power.csv
  millrace-cloud query north/boiler/power --from 2026-01-01 --archive s3://plant-archive --quality good --format parquet > power.parquet
  millrace-cloud query north/boiler/power --files /var/lib/millrace/out --last 10
`,
	Run: runQuery,
}

// place are the flags that say where samples are.
type place struct {
	prefix, region, endpoint, s3Endpoint string
	archive, dir                         string
	only                                 bool
}

func (p *place) declare(c *command.Call) {
	c.Flags.StringVar(&p.prefix, "prefix", "millrace", "what the tables' names begin with")
	c.Flags.StringVar(&p.archive, "archive", "", "`s3://bucket/prefix` or folder of the archive, for weeks whose table is gone")
	c.Flags.BoolVar(&p.only, "archive-only", false, "read the archive alone, and no table")
	c.Flags.StringVar(&p.region, "region", "", "AWS region (default as the environment or ~/.aws says)")
	c.Flags.StringVar(&p.endpoint, "endpoint", "", "`URL` instead of DynamoDB's own, for a local stand-in")
	c.Flags.StringVar(&p.s3Endpoint, "s3-endpoint", "", "`URL` instead of S3's own, for a local stand-in")
}

// open makes what is read from.
func (p *place) open(ctx context.Context) (query.Store, error) {
	s := query.Store{Prefix: p.prefix, Dir: p.dir}
	switch {
	case p.dir != "" && p.archive != "":
		return s, command.Usagef("--files and --archive exclude each other: the files are read alone")
	case p.only && p.archive == "":
		return s, command.Usagef("--archive-only needs --archive")
	case p.dir != "":
		return s, nil
	}
	settings := connect.Settings{Region: p.region, Endpoint: p.endpoint, S3Endpoint: p.s3Endpoint, Connections: 8}
	var err error
	if p.only && !strings.HasPrefix(p.archive, "s3://") {
		// A folder alone needs nothing of AWS.
		if s.Archive, err = objects.Parse(p.archive, nil); err != nil {
			return s, command.Usagef("--archive: %w", err)
		}
		return s, archiveThere(s.Archive)
	}
	cfg, err := connect.Load(ctx, settings)
	if err != nil {
		return s, err
	}
	if !p.only {
		db := connect.DynamoDB(cfg, settings)
		s.Tables, s.Catalogue = db, &catalogue.Store{DB: db, Prefix: p.prefix}
	}
	if p.archive != "" {
		if s.Archive, err = connect.Place(p.archive, cfg, settings); err != nil {
			return s, command.Usagef("--archive: %w", err)
		}
		return s, archiveThere(s.Archive)
	}
	return s, nil
}

// archiveThere fails where the archive is a folder that is not there: to read it as
// an empty one would hide a wrong path.
func archiveThere(archive objects.Place) error {
	if err := objects.Exists(archive); err != nil {
		return fmt.Errorf("--archive: %w; `millrace-cloud archive WEEK --archive %s` makes an archive", err, archive)
	}
	return nil
}

func runQuery(ctx context.Context, c *command.Call) error {
	var p place
	p.declare(c)
	c.Flags.StringVar(&p.dir, "files", "", "read the `directory` of a gateway's file sink, and nothing else")
	from := c.Flags.String("from", "", "from this `time` on (default an hour before --to, a week with --last)")
	to := c.Flags.String("to", "now", "before this `time`")
	zoneName := c.Flags.String("zone", "utc", "of times without one, and of those in the table: utc, local, or as in Europe/Berlin")
	form := c.Flags.String("format", "table", "table, csv, json, senml or parquet")
	bom := c.Flags.Bool("bom", false, "csv: begin with a byte order mark, by which Excel knows UTF-8")
	quality := c.Flags.String("quality", "all", "good, uncertain (good ones too) or all")
	gaps := c.Flags.Bool("gaps", false, "json: write the gaps too")
	limit := c.Flags.Int("limit", 0, "end after so many samples")
	last := c.Flags.Int("last", 0, "the newest so many samples of each tag")
	raw := c.Flags.Bool("raw", false, "show times as they were sent, without the gateways' corrections")
	tags, err := c.ParseArgs("TAG...")
	if err != nil {
		return err
	}
	kind, err := format.Parse(*form, format.Table, format.CSV, format.JSON, format.SenML, format.Parquet)
	if err != nil {
		return command.Usagef("--format: %w", err)
	}
	zone, err := parseZone(*zoneName)
	if err != nil {
		return err
	}
	q := query.Request{Tags: tags, Limit: *limit, Last: *last, Raw: *raw, ByTag: kind == format.Parquet}
	if q.Quality, err = query.ParseQuality(*quality); err != nil {
		return command.Usagef("--%w", err)
	}
	now := time.Now()
	if q.To, err = instant("--to", *to, zone, now); err != nil {
		return err
	}
	if q.From, err = instant("--from", *from, zone, now); err != nil {
		return err
	}
	switch {
	case q.From.IsZero() && q.Last > 0:
		q.From = q.To.AddDate(0, 0, -7)
	case q.From.IsZero():
		q.From = q.To.Add(-time.Hour)
	}
	switch {
	case !q.From.Before(q.To):
		return command.Usagef("--from is not before --to")
	case *limit < 0 || *last < 0 || *last > maxLast:
		return command.Usagef("--limit is at least 0, --last is 0 to %d", maxLast)
	case *limit > 0 && *last > 0:
		return command.Usagef("--limit and --last exclude each other")
	case *gaps && kind != format.JSON:
		return command.Usagef("--gaps is for --format json")
	case *bom && kind != format.CSV:
		return command.Usagef("--bom is for --format csv")
	case kind == format.Parquet && progress.Terminal(c.Stdout):
		return command.Usagef("--format parquet is not for a terminal: write it to a file, as in > samples.parquet")
	}
	for _, tag := range tags {
		if err := catalogue.CheckPattern(tag); err != nil {
			return command.Coded(command.ExitUsage, err)
		}
	}
	store, err := p.open(ctx)
	if err != nil {
		return err
	}
	say := func(line string) { fmt.Fprintln(c.Stderr, "millrace-cloud query:", line) }
	q.Problem, q.Note = say, say
	out := bufio.NewWriterSize(c.Stdout, 64<<10)
	w := format.New(kind, out, format.Options{Zone: zone, BOM: *bom, Tags: oneTag(tags), Note: say})
	q.Sample = w.Sample
	if kind == format.Table || *gaps {
		q.Gap = w.Gap
	}
	if !progress.Terminal(c.Stdout) {
		meter := progress.New(c.Stderr, "query", 0, clock.System{})
		defer meter.Done()
		q.Read = meter.Add
	}
	report, err := query.Run(ctx, store, q)
	if err == nil || report != nil {
		// What was read before an error is whole as far as it goes.
		err = errors.Join(err, w.Close(), out.Flush())
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case err != nil:
		return err
	}
	fmt.Fprintln(c.Stderr, summary(report, q))
	if report.Problems > 0 {
		return fmt.Errorf("not all could be read: %s", count(int64(report.Problems), "problem", "problems"))
	}
	return nil
}

// maxLast bounds what --last keeps in memory for each tag.
const maxLast = 1_000_000

// oneTag is 1 where all samples are of one tag.
func oneTag(tags []string) int {
	if len(tags) == 1 && !strings.Contains(tags[0], "*") {
		return 1
	}
	return 0
}

// summary is one line on what was read.
func summary(r *query.Report, q query.Request) string {
	text := fmt.Sprintf("%s of %s", count(r.Samples, "sample", "samples"), count(int64(len(r.Tags)), "tag", "tags"))
	if len(r.Tags) == 1 {
		t := r.Tags[0]
		text = fmt.Sprintf("%s of %s", count(r.Samples, "sample", "samples"), t.Name)
		if t.Description != "" {
			text += " (" + t.Description + ")"
		}
	}
	text += fmt.Sprintf(" from %s to %s UTC", q.From.UTC().Format(time.DateTime), q.To.UTC().Format(time.DateTime))
	text += "; " + count(int64(r.Gaps), "gap", "gaps")
	if r.Hidden > 0 {
		text += fmt.Sprintf("; %d left out by their quality", r.Hidden)
	}
	if r.Duplicates > 0 {
		text += "; " + count(r.Duplicates, "duplicate", "duplicates") + " left out"
	}
	if r.Corrected > 0 {
		text += fmt.Sprintf("; %d with corrected times", r.Corrected)
	}
	return text
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func parseZone(name string) (*time.Location, error) {
	switch name {
	case "utc", "UTC":
		return time.UTC, nil
	case "local":
		return time.Local, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, command.Usagef("--zone %q is no time zone: write utc, local, or as in Europe/Berlin", name)
	}
	return zone, nil
}

// instant reads a time: a day, a time with or without zone, now, or back from now.
func instant(flag, text string, zone *time.Location, now time.Time) (time.Time, error) {
	switch {
	case text == "":
		return time.Time{}, nil
	case text == "now":
		return now, nil
	case strings.HasPrefix(text, "-"):
		if d, err := time.ParseDuration(text); err == nil {
			return now.Add(d), nil
		}
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateTime} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, command.Usagef("%s %q is no time: write it as in 2026-11-28, 2026-11-28T08:00, 2026-11-28T08:00:00Z, now or -2h", flag, text)
}
