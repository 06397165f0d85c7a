package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/worker"
	"millrace/internal/command"
)

var workerCommand = command.Command{
	Name: "worker", Summary: "move blocks from the queue into the week tables",
	Usage: "--queue-url URL [flags]",
	Help: `
Receives blocks from SQS, checks each one, puts it as one item into the table of
its week in DynamoDB, and deletes the message only when the put is acknowledged.
Runs until SIGTERM, SIGINT or a Spot notice; then it finishes what is under way,
gives the rest back, and exits within 100 s. Run as many as you like: they need
no coordination, and a message that comes twice makes the same item.

A message that is no block, is damaged, or is of a site that is not taken goes to
the dead-letter queue with the reason in its attribute millrace_reason. A block
that is older than the retention, or whose week was retired, goes to --late, for
the next archive run. A block whose table is missing waits in the queue: run
` + "`millrace-cloud tables ensure`" + ` every day.

What a gateway says of its tags and of its losses goes into the tables
PREFIX-catalogue and PREFIX-gaps as well, before the message is deleted. With
--latest each tag's newest reading is kept in PREFIX-latest, for dashboards. That
costs a write unit for each tag and batch, and each block is decoded for it: choose
the tags, as in --latest='north/*/power', which may be given again.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; docs/cloud.md has the policy. Exit codes: 0 after a signal or a Spot notice,
1 failed, 2 wrong command line.

Examples:
  millrace-cloud worker --queue-url https://sqs.eu-central-1.amazonaws.com/123456789012/plant \
    --dead-letter-queue https://sqs.eu-central-1.amazonaws.com/123456789012/plant-dead \
    --prefix plant --late s3://plant-archive
  millrace-cloud worker --queue-url http://127.0.0.1:9324/000000000000/plant --region eu-central-1 \
    --endpoint http://127.0.0.1:8000 --spot=false
`,
	Run: runWorker,
}

// memoryLimit keeps the collector ahead of large blocks. GOMEMLIMIT overrides it.
const memoryLimit = 72 << 20

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// patterns is the flag --latest: all tags where it stands alone, or those of a
// pattern.
type patterns []string

func (p *patterns) String() string   { return strings.Join(*p, ",") }
func (p *patterns) IsBoolFlag() bool { return true }

func (p *patterns) Set(s string) error {
	switch s {
	case "true":
		s = "*"
	case "false":
		*p = nil
		return nil
	}
	*p = append(*p, s)
	return nil
}

func runWorker(ctx context.Context, c *command.Call) error {
	o := worker.NewOptions()
	c.Flags.StringVar(&o.QueueURL, "queue-url", "", "the queue's `URL`")
	c.Flags.StringVar(&o.DeadLetterURL, "dead-letter-queue", "", "`URL` of the queue for poison (default: left to the queue's redrive policy)")
	c.Flags.StringVar(&o.Prefix, "prefix", o.Prefix, "what the tables' names begin with")
	var sites list
	c.Flags.Var(&sites, "site", "take blocks of this `site`; may be given again (default all)")
	weeks := c.Flags.Int("retention-weeks", 53, "how old a block may be to go to its week's table; 0 is no bound")
	late := c.Flags.String("late", "", "`s3://bucket/prefix` or folder of the archive, for blocks whose table is gone (default: the table of unplaced blocks)")
	var latest patterns
	c.Flags.Var(&latest, "latest", "keep each tag's newest reading; --latest=`PATTERN` of the tags that fit, with * for any characters; may be given again")
	c.Flags.IntVar(&o.Concurrency, "concurrency", o.Concurrency, "batches of 10 messages under way at once, 1 to 16")
	c.Flags.DurationVar(&o.Visibility, "visibility", o.Visibility, "for how long messages are kept from other workers; extended while they are under way")
	spot := c.Flags.Bool("spot", true, "look for a Spot notice in the instance's metadata")
	metadata := c.Flags.String("metadata-url", "http://169.254.169.254", "`URL` of the instance's metadata")
	region := c.Flags.String("region", "", "AWS region (default the queue's, or as the environment or ~/.aws says)")
	endpoint := c.Flags.String("endpoint", "", "`URL` instead of DynamoDB's own, for a local stand-in")
	s3Endpoint := c.Flags.String("s3-endpoint", "", "`URL` instead of S3's own, for a local stand-in")
	format := c.Flags.String("log", "text", "form of the log on standard error: text or json")
	if err := c.Parse(); err != nil {
		return err
	}
	switch {
	case o.QueueURL == "":
		return command.Usagef("--queue-url is missing")
	case *weeks < 0 || *weeks > 10_000:
		return command.Usagef("--retention-weeks %d is out of range: 0 to 10000", *weeks)
	}
	for _, pattern := range latest {
		if err := catalogue.CheckPattern(pattern); err != nil {
			return command.Usagef("--latest: %w", err)
		}
	}
	var err error
	if o.Log, err = logger(c.Stderr, *format); err != nil {
		return err
	}
	o.Sites, o.Retention = sites, time.Duration(*weeks)*7*24*time.Hour
	if *region == "" {
		*region = connect.RegionOf(o.QueueURL)
	}
	s := connect.Settings{Region: *region, Endpoint: *endpoint, S3Endpoint: *s3Endpoint, Connections: 2 * o.Concurrency, OneTry: true}
	cfg, err := connect.Load(ctx, s)
	if err != nil {
		return err
	}
	if *late != "" {
		place, err := connect.Place(*late, cfg, s)
		if err != nil {
			return command.Usagef("--late: %w", err)
		}
		o.Late, o.Retired = place, retired(place)
	}
	if *spot {
		o.Spot = &worker.Spot{Base: *metadata, Every: 5 * time.Second}
	}
	db := connect.DynamoDB(cfg, s)
	o.Records = &catalogue.Store{DB: db, Prefix: o.Prefix, LatestOf: latest}
	w, err := worker.New(o, connect.SQS(cfg, o.QueueURL), db)
	if err != nil {
		return command.Coded(command.ExitUsage, err)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	o.Log.Info("started", "queue", o.QueueURL, "prefix", o.Prefix, "concurrency", o.Concurrency, "version", version)
	if err := w.Run(ctx); err != nil && !errors.Is(err, worker.ErrSpot) {
		return err
	}
	return nil
}

// retired tells that a week whose table is missing was archived: there is a
// manifest of it.
func retired(archive objects.Place) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, table string) (bool, error) {
		r, err := archive.Get(ctx, manifest.Key(table))
		if errors.Is(err, objects.ErrNone) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, r.Close()
	}
}

// logger writes to standard error in the form asked for.
func logger(w io.Writer, format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, nil)), nil
	}
	return nil, command.Usagef("--log %q: %w", format, fmt.Errorf("write text or json"))
}
