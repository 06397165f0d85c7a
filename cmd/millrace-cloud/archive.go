package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"millrace/cloud/archive"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
	"millrace/sample/weektable"
)

var archiveCommand = command.Command{
	Name: "archive", Summary: "write weeks' tables to Parquet in the archive",
	Usage: "WEEK... --archive PLACE [flags]\n       millrace-cloud archive --all-ended --archive PLACE [flags]",
	Help: `
Reads the table of each WEEK (2026-w40), and the late blocks of the week, and
writes every sample once, sorted by tag and time, as Parquet files of Zstandard
at samples/site=.../date=.../ in the archive; beside them the gap records (gaps/)
and the present catalogue (catalogue/). The manifest is written last, after all
files were read back: ` + "`millrace-cloud tables retire`" + ` asks for it.

A run that is interrupted goes on where it was when it is started again with the
same --scratch. A week that is archived again has only those days written that
have changed. Where the table is gone, late blocks are added to its archive.
A block that cannot be read is named, and the week is not archived then. Blocks
in the table of unplaced ones stay there: their clock is not to be believed.

A week that is not over can be archived as far as it is; another run is needed
once it is, which a line says.

--all-ended archives each week that is over and has something new: a table
without a manifest or with another number of items, or late blocks.

Reading costs a read unit for each 4 KiB stored. Credentials come from the
environment, ~/.aws, or the instance's or container's role; docs/cloud-archive.md
has the actions. Exit codes: 0 done, 1 failed or refused, 2 wrong command line.

Examples:
  millrace-cloud archive 2026-w40 --prefix plant --archive s3://plant-archive
  millrace-cloud archive --all-ended --prefix plant --archive s3://plant-archive --scratch /var/tmp/plant
  millrace-cloud archive 2026-w40 2026-w41 --prefix plant --archive /srv/archive --endpoint http://127.0.0.1:8000
`,
	Run: runArchive,
}

// archiveMemory keeps the collector ahead of the sorting. GOMEMLIMIT overrides it.
const archiveMemory = 350 << 20

type archiveFlags struct {
	prefix, region, endpoint, s3Endpoint string
	place, scratch, log                  string
	segments                             int
	ended, withoutCatalogue              bool
}

func runArchive(ctx context.Context, c *command.Call) error {
	var f archiveFlags
	c.Flags.StringVar(&f.prefix, "prefix", "millrace", "what the tables' names begin with")
	c.Flags.StringVar(&f.place, "archive", "", "`s3://bucket/prefix` or folder of the archive")
	c.Flags.BoolVar(&f.ended, "all-ended", false, "archive each week that is over and has something new")
	c.Flags.StringVar(&f.scratch, "scratch", "", "local `folder` for what is sorted: the table's size and three times that of its largest day (default in the user's cache)")
	c.Flags.IntVar(&f.segments, "segments", 4, "how many parts of the table are read at once, 1 to 64")
	c.Flags.BoolVar(&f.withoutCatalogue, "without-catalogue", false, "write no gap records and no catalogue, where there are no tables of them")
	c.Flags.StringVar(&f.region, "region", "", "AWS region (default as the environment or ~/.aws says)")
	c.Flags.StringVar(&f.endpoint, "endpoint", "", "`URL` instead of DynamoDB's own, for a local stand-in")
	c.Flags.StringVar(&f.s3Endpoint, "s3-endpoint", "", "`URL` instead of S3's own, for a local stand-in")
	c.Flags.StringVar(&f.log, "log", "text", "form of the log on standard error: text or json")
	weeks, err := c.ParseArgs("[WEEK...]")
	if err != nil {
		return err
	}
	if err := f.check(weeks); err != nil {
		return err
	}
	if f.scratch == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return command.Usagef("--scratch is missing: %w", err)
		}
		f.scratch = filepath.Join(cache, "millrace-cloud", "archive")
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(archiveMemory)
	}
	log, err := logger(c.Stderr, f.log)
	if err != nil {
		return err
	}
	s := connect.Settings{Region: f.region, Endpoint: f.endpoint, S3Endpoint: f.s3Endpoint, Connections: f.segments}
	cfg, err := connect.Load(ctx, s)
	if err != nil {
		return err
	}
	place, err := connect.Place(f.place, cfg, s)
	if err != nil {
		return command.Usagef("--archive: %w", err)
	}
	db := connect.DynamoDB(cfg, s)
	if f.ended {
		m := &tables.Manager{DB: db, Prefix: f.prefix, Now: time.Now(), Sleep: backoff.Sleep}
		if weeks, err = archive.Due(ctx, m, place); err != nil {
			return err
		}
		if len(weeks) == 0 {
			fmt.Fprintln(c.Stdout, "nothing to archive: each week that is over is in the archive")
		}
	}
	meter := progress.New(c.Stderr, "archive", 0, clock.System{})
	o := archive.Options{DB: db, Place: place, Prefix: f.prefix, Segments: f.segments, Dir: f.scratch, Log: log, Progress: meter, Clock: clock.System{}, Sleep: backoff.Sleep}
	if !f.withoutCatalogue {
		o.Catalogue = &catalogue.Store{DB: db, Prefix: f.prefix}
	}
	failed := 0
	var first error
	for _, week := range weeks {
		o.Week = week
		report, err := archive.Run(ctx, o)
		meter.Done()
		if err == nil {
			printArchived(c, report, place)
			if text := unfinished(f.prefix, week, time.Now()); text != "" {
				fmt.Fprintf(c.Stdout, "%s: %s\n", report.Table, text)
			}
			continue
		}
		if first == nil {
			first = err
		} else {
			fmt.Fprintln(c.Stderr, "millrace-cloud archive:", err)
		}
		if failed++; ctx.Err() != nil {
			break
		}
	}
	if len(weeks) > 1 && failed > 0 {
		return fmt.Errorf("%d of %d weeks were not archived; the first: %w", failed, len(weeks), first)
	}
	return first
}

func (f *archiveFlags) check(weeks []string) error {
	switch {
	case f.place == "":
		return command.Usagef("--archive is missing")
	case f.ended && len(weeks) > 0:
		return command.Usagef("name weeks, or give --all-ended, not both")
	case !f.ended && len(weeks) == 0:
		return command.Usagef("say which week, as in: archive 2026-w40; or give --all-ended")
	case f.segments < 1 || f.segments > archive.MaxSegments:
		return command.Usagef("--segments %d is out of range: 1 to %d", f.segments, archive.MaxSegments)
	}
	if err := weektable.CheckPrefix(f.prefix); err != nil {
		return command.Coded(command.ExitUsage, err)
	}
	for _, week := range weeks {
		if _, _, err := tables.TableOf(f.prefix, week); err != nil {
			return command.Coded(command.ExitUsage, err)
		}
	}
	return nil
}

// unfinished tells of a week that is not over that its archive is not the last
// word; "" of others.
func unfinished(prefix, text string, now time.Time) string {
	_, start, err := tables.TableOf(prefix, text)
	if err != nil {
		return ""
	}
	end := start.AddDate(0, 0, 7)
	switch {
	case !now.Before(end):
		return ""
	case now.Before(start):
		return fmt.Sprintf("this week has not begun: archive it again once it is over, from %s on", end.Format(time.DateOnly))
	}
	return fmt.Sprintf("this week is not over, and more will come: archive it again from %s on", end.Format(time.DateOnly))
}

func printArchived(c *command.Call, r *archive.Report, place objects.Place) {
	what := fmt.Sprintf("%d items", r.Items)
	if r.Dropped {
		what += " of a table that is gone"
	}
	if r.Late > 0 {
		what += fmt.Sprintf(" and %d late blocks", r.Late)
	}
	fmt.Fprintf(c.Stdout, "%s: archived: %s, %d samples; %d rows, %d duplicates left out; %d files of %s in %s\n",
		r.Table, what, r.Samples, r.Rows, r.Duplicates, r.Files, bytesize.Size(r.Bytes), place)
	if r.Unchanged {
		fmt.Fprintf(c.Stdout, "%s: nothing has changed\n", r.Table)
		return
	}
	fmt.Fprintf(c.Stdout, "%s: days of sites written: %d, left as they were: %d\n", r.Table, r.Days, r.Kept)
}
