package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	cloudaudit "millrace/cloud/audit"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
	"millrace/sample/ledger/audit"
)

var auditCommand = command.Command{
	Name: "audit", Summary: "prove from sequences and counts that the week tables hold everything",
	Usage: "[--prefix NAME] [--site SITE] [--gateway ID] [--from TIME] [--to TIME] [flags]",
	Help: `
Reads the week tables in DynamoDB and holds sequences, counts, gap records and
heartbeats against each other. Prints one line for each stream: balanced, waiting
for what is on its way, or MISSING with the sequences and times; then a summary.
Exit code 1 when something is missing that no gap record declares.

With --from or --to the weeks that hold these times and those between are read;
each stream's account then begins or ends with the blocks in them. Give --from
where older weeks were dropped. With --site and --gateway only that gateway's
partitions are read, which costs less.

Reading costs half a read unit for each 4 KiB stored, with --keys-only too.
Credentials come from the environment, ~/.aws, or the instance's or container's
role; they need dynamodb:ListTables, dynamodb:Scan and dynamodb:Query.

Examples:
  millrace-cloud audit --region eu-central-1 --site north --gateway gw1
  millrace-cloud audit --prefix plant --from 2026-11-02 --to 2026-11-22
  millrace-cloud audit --prefix plant --json | jq '.streams[] | select(.verdict == "missing")'
`,
	Run: runAudit,
}

func runAudit(ctx context.Context, c *command.Call) error {
	prefix := c.Flags.String("prefix", "millrace", "what the tables' names begin with")
	site := c.Flags.String("site", "", "audit this `site` alone")
	gateway := c.Flags.String("gateway", "", "audit the gateways of this `id` alone")
	from := c.Flags.String("from", "", "from the week of this `time`: 2026-11-02, or 2026-11-02T08:00:00Z")
	to := c.Flags.String("to", "", "to the week of this `time`")
	region := c.Flags.String("region", "", "AWS region (default as the environment or ~/.aws says)")
	endpoint := c.Flags.String("endpoint", "", "`URL` instead of AWS's own, for a local stand-in")
	patience := c.Flags.Duration("patience", 15*time.Minute, "how long a block may be on its way")
	keysOnly := c.Flags.Bool("keys-only", false, "do not fetch the blocks: check sequences, not counts and bytes")
	asJSON := c.Flags.Bool("json", false, "print JSON")
	if err := c.Parse(); err != nil {
		return err
	}
	o := cloudaudit.Options{Prefix: *prefix, Site: *site, Gateway: *gateway, KeysOnly: *keysOnly}
	var err error
	if o.From, err = moment("--from", *from); err != nil {
		return err
	}
	if o.To, err = moment("--to", *to); err != nil {
		return err
	}
	if !o.From.IsZero() && !o.To.IsZero() && o.To.Before(o.From) {
		return command.Usagef("--to is before --from")
	}
	db, err := cloudaudit.Connect(ctx, *region, *endpoint)
	if err != nil {
		return err
	}
	meter := progress.New(c.Stderr, "audit", 0, clock.System{})
	o.Read = meter.Add
	ledger := audit.New(0)
	result, err := cloudaudit.Read(ctx, db, o, ledger)
	meter.Done()
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return err
	}
	report := ledger.Report(audit.Options{Now: time.Now(), Patience: *patience, FromFirst: !o.From.IsZero(), ToLast: !o.To.IsZero()})
	report.Unreadable(result.Unread, result.UnreadCount)
	if len(report.Streams) == 0 && report.Complete() {
		return fmt.Errorf("no block of that site and gateway is in the tables looked at (%d): look at --site, --gateway, --from and --to", len(result.Tables))
	}
	if *asJSON {
		e := json.NewEncoder(c.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	} else {
		err = report.Print(c.Stdout)
	}
	if err != nil {
		return err
	}
	if !report.Complete() {
		return fmt.Errorf("something is missing undeclared or contradicts itself in %d tables: see the lines marked MISSING", len(result.Tables))
	}
	return nil
}

// moment reads a day or a time.
func moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, command.Usagef("%s %q is neither a day, as in 2026-11-02, nor a time, as in 2026-11-02T08:00:00Z", flag, text)
}
