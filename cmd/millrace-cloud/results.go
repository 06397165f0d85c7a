package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"millrace/cloud/config"
	"millrace/cloud/connect"
	"millrace/cloud/pipeline"
	"millrace/cloud/results"
	"millrace/cloud/state"
	"millrace/internal/backoff"
	"millrace/internal/command"
)

var resultsCommand = command.Command{
	Name: "results", Summary: "publish due results to the plants, by the results queues of their mirrors",
	Usage: "[--config FILE] [--dry-run] [flags]",
	Help: `
Goes through the targets of the configuration. For each it takes the newest row of
a complete hour or day from the archive, and sends its value as a signed mirror
message to the site's results queue, if it was not sent yet or has changed. What
was sent is remembered in the table <prefix>-published. A row of too little data
is not sent, nor one whose time is over.

It may run at any time, and more than once at once: a version never stands for two
contents, and what is older never comes under a higher version. After a crash the
same message may come twice, which the mirror refuses as not newer.

--dry-run says what would be sent. --public-key prints what goes into mirror.keys
of the gateways' configurations. docs/cloud-results.md has the whole.

Exit codes: 0 done, whether or not anything was due, 1 failed, 2 wrong command
line.

Examples:
  millrace-cloud results --config plant.yaml --dry-run
  millrace-cloud results --config plant.yaml --public-key
`,
	Run: runResults,
}

func runResults(ctx context.Context, c *command.Call) error {
	path := c.Flags.String("config", configPath, "`file` of settings")
	dry := c.Flags.Bool("dry-run", false, "say what would be sent, and send nothing")
	public := c.Flags.Bool("public-key", false, "print the public key, and do nothing else")
	throughText := c.Flags.String("through", "", "the `time` up to which the analysed data is whole (default: as the last run of the pipeline says, or now where there is none)")
	asJSON := c.Flags.Bool("json", false, "print JSON")
	format := c.Flags.String("log", "text", "form of the log on standard error: text or json")
	if err := c.Parse(); err != nil {
		return err
	}
	log, err := logger(c.Stderr, *format)
	if err != nil {
		return err
	}
	var through time.Time
	if *throughText != "" {
		if through, err = time.Parse(time.RFC3339, *throughText); err != nil {
			return command.Usagef("--through %q is no time: write it as in 2026-11-28T02:00:00Z", *throughText)
		}
	}
	cfg, err := loadConfig(c, *path)
	if err != nil {
		return err
	}
	if len(cfg.Results.Targets) == 0 {
		return fmt.Errorf("%s has no section results, so there is nothing to publish", *path)
	}
	if *public {
		return printPublic(c.Stdout, cfg)
	}
	a, s, err := connectTo(ctx, cfg)
	if err != nil {
		return err
	}
	if through.IsZero() {
		if through, err = runsOf(cfg, a, s).Through(ctx, stageArchive, stageAnalyze); err != nil {
			return err
		}
	}
	outcomes, err := publish(ctx, cfg, a, s, through, *dry, log)
	if e := printOutcomes(c.Stdout, outcomes, *dry, *asJSON); err == nil {
		err = e
	}
	return err
}

// runsOf is the table of the pipeline's runs.
func runsOf(cfg *config.Config, a aws.Config, s connect.Settings) *pipeline.Store {
	return pipeline.NewStore(connect.DynamoDB(a, s), cfg.Prefix, time.Now, backoff.Sleep)
}

// publish sends what is due. through is up to when the analysed data is whole.
func publish(ctx context.Context, cfg *config.Config, a aws.Config, s connect.Settings, through time.Time, dry bool, log *slog.Logger) ([]results.Outcome, error) {
	o := results.Options{Rules: cfg.Results.Rules(), Now: time.Now, Through: through, Settle: cfg.Results.Settle, DryRun: dry, Log: log,
		Table: state.Table{DB: connect.DynamoDB(a, s), Name: results.TableName(cfg.Prefix), Sleep: backoff.Sleep},
		Queue: func(queueURL string) results.Queue {
			here := a.Copy()
			if region := connect.RegionOf(queueURL); region != "" {
				here.Region = region // a plant's queue may be elsewhere
			}
			return connect.SQS(here, queueURL)
		}}
	var err error
	if o.Place, err = archiveOf(cfg, a, s); err != nil {
		return nil, err
	}
	if !cfg.Results.Unsigned {
		text, err := cfg.Results.PrivateKey.Read()
		if err != nil {
			return nil, fmt.Errorf("results.private_key: %w", err)
		}
		if o.Private, err = results.ParseKey(text); err != nil {
			return nil, fmt.Errorf("results.private_key, %s: %w", cfg.Results.PrivateKey, err)
		}
		o.Key = cfg.Results.Key
	}
	return results.Publish(ctx, o)
}

// printPublic prints the public key as the gateways' configurations take it.
func printPublic(w io.Writer, cfg *config.Config) error {
	if cfg.Results.Unsigned {
		return fmt.Errorf("results.unsigned is true, so there is no key")
	}
	text, err := cfg.Results.PrivateKey.Read()
	if err != nil {
		return fmt.Errorf("results.private_key: %w", err)
	}
	private, err := results.ParseKey(text)
	if err != nil {
		return fmt.Errorf("results.private_key, %s: %w", cfg.Results.PrivateKey, err)
	}
	fmt.Fprintf(w, "mirror:\n  keys: [{name: %s, ed25519: %q}]\n", cfg.Results.Key, results.PublicText(private))
	return nil
}

func printOutcomes(w io.Writer, outcomes []results.Outcome, dry, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(outcomes)
	}
	if len(outcomes) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TARGET\tOUTCOME\tVALUE\tPERIOD\tVERSION\tVALID UNTIL\t")
	for _, o := range outcomes {
		what := strings.ReplaceAll(string(o.What), "_", " ")
		if dry && (o.What == results.Published || o.What == results.Again) {
			what = "would be " + map[results.What]string{results.Published: "published", results.Again: "sent again"}[o.What]
		}
		version := "-"
		if o.Version > 0 {
			version = fmt.Sprint(o.Version)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Rule, what, orDash(o.Value), toMinute(o.Period), version, toMinute(o.Until), o.Detail)
	}
	return t.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// toMinute is a time to the minute, or a dash.
func toMinute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04Z")
}
