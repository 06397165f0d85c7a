package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
	"millrace/sample/weektable"
)

var tablesCommand = command.Command{
	Name: "tables", Summary: "make, list, dial down and retire the week tables",
	Usage: "ensure|catalogue|list|dial|retire WEEK [flags]",
	Help: `
ensure  makes the tables of this week and the next (--ahead), the one of blocks
        that cannot be placed, and those of the catalogue, the gaps and the newest
        readings, and waits until they are ACTIVE. Tables that exist stay as they
        are. Run it every day. --behind makes those of weeks before, too, which a
        gateway with an older backlog needs. With --archive it leaves out weeks that
        were archived and retired; without, keep it below the retention, since a
        week that was retired must not get a table again.
catalogue
        fills the tables of the catalogue and the gaps from the week tables, for
        gateways that write to DynamoDB directly: once a day, and once after an
        update from a version without them. Interrupted, it goes on where it was.
list    shows each table: state, items, bytes, age, billing. Items and bytes are
        DynamoDB's own, up to six hours old.
dial    turns the provisioned writes of weeks that are over down to --to units. It
        does so only when the queue holds nothing, asked twice a minute apart.
        Tables on demand cost nothing for what they could take.
retire  deletes the table of WEEK (2026-w40), once the week is older than the
        retention and a day, and the archive is proved to hold all of it: every
        file of its manifest is there byte for byte, and every item of the table,
        read again, is in it by count and hash. It never deletes otherwise.

Credentials come from the environment, ~/.aws, or the instance's or container's
role; docs/cloud.md has the actions. Exit codes: 0 done, 1 failed or refused,
2 wrong command line.

Examples:
  millrace-cloud tables ensure --prefix plant --warm-write 8000 --protect --tag plant=north
  millrace-cloud tables list --prefix plant
  millrace-cloud tables dial --prefix plant --queue-url https://sqs.eu-central-1.amazonaws.com/123456789012/plant
  millrace-cloud tables retire 2026-w40 --prefix plant --archive s3://plant-archive --dry-run
`,
	Run: runTables,
}

// tablesFlags are the flags of all verbs; of says which flag is for which.
type tablesFlags struct {
	prefix, region, endpoint, s3Endpoint string
	ahead, behind                        int
	billing, class                       string
	read, write, warmRead, warmWrite     int64
	protect                              bool
	tags                                 list
	asJSON                               bool
	newest                               int // weeks
	queueURL                             string
	to                                   int64
	archive                              string
	weeks                                int
	dry                                  bool
}

var tablesVerbs = []string{"ensure", "catalogue", "list", "dial", "retire"}

func (f *tablesFlags) declare(flags *flag.FlagSet) map[string]string {
	flags.StringVar(&f.prefix, "prefix", "millrace", "what the tables' names begin with")
	flags.StringVar(&f.region, "region", "", "AWS region (default as the environment or ~/.aws says)")
	flags.StringVar(&f.endpoint, "endpoint", "", "`URL` instead of DynamoDB's own, for a local stand-in")
	flags.IntVar(&f.ahead, "ahead", 1, "ensure: how many weeks after this one, 0 to 8")
	flags.IntVar(&f.behind, "behind", 0, "ensure: how many weeks before this one, 0 to 53 and less than the retention; for a backlog that is older than the tables")
	flags.StringVar(&f.billing, "billing", "on_demand", "ensure: on_demand or provisioned")
	flags.Int64Var(&f.read, "read-units", 0, "ensure: read units of provisioned tables")
	flags.Int64Var(&f.write, "write-units", 0, "ensure: write units of provisioned tables")
	flags.Int64Var(&f.warmRead, "warm-read", 0, "ensure: read units a second that a table on demand takes at once (default AWS's, 12000)")
	flags.Int64Var(&f.warmWrite, "warm-write", 0, "ensure: write units a second that a table on demand takes at once (default AWS's, 4000)")
	flags.StringVar(&f.class, "class", "standard", "ensure: table class, standard or infrequent")
	flags.BoolVar(&f.protect, "protect", false, "ensure: protect the tables against deletion; retire takes it off after the proof")
	flags.Var(&f.tags, "tag", "ensure: tag `KEY=VALUE`; may be given again")
	flags.IntVar(&f.newest, "weeks", 0, "catalogue: read the tables of so many weeks only, this one among them (default all)")
	flags.BoolVar(&f.asJSON, "json", false, "list: print JSON")
	flags.StringVar(&f.queueURL, "queue-url", "", "dial: the queue's `URL`")
	flags.Int64Var(&f.to, "to", 5, "dial: write `units` to leave")
	flags.StringVar(&f.archive, "archive", "", "ensure, retire: `s3://bucket/prefix` or folder of the archive; ensure makes no table again of which it has a manifest")
	flags.IntVar(&f.weeks, "retention-weeks", 53, "retire: that of the gateways' sinks and of the workers")
	flags.BoolVar(&f.dry, "dry-run", false, "retire: prove, and delete nothing")
	flags.StringVar(&f.s3Endpoint, "s3-endpoint", "", "ensure, retire: `URL` instead of S3's own, for a local stand-in")
	return map[string]string{"ahead": "ensure", "behind": "ensure", "billing": "ensure", "read-units": "ensure", "write-units": "ensure", "warm-read": "ensure", "warm-write": "ensure",
		"class": "ensure", "protect": "ensure", "tag": "ensure", "weeks": "catalogue", "json": "list", "queue-url": "dial", "to": "dial",
		"archive": "ensure or retire", "retention-weeks": "retire", "dry-run": "retire", "s3-endpoint": "ensure or retire"}
}

func runTables(ctx context.Context, c *command.Call) error {
	var f tablesFlags
	of := f.declare(c.Flags)
	args, err := c.ParseAll()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return command.Usagef("say which: %s", strings.Join(tablesVerbs, ", "))
	}
	verb, args := args[0], args[1:]
	week := ""
	if !slices.Contains(tablesVerbs, verb) {
		return command.Usagef("%q is none of %s", verb, strings.Join(tablesVerbs, ", "))
	}
	if verb == "retire" && len(args) > 0 {
		week, args = args[0], args[1:]
	}
	if len(args) > 0 {
		return command.Usagef("%q is no flag, and too many for %s", args[0], verb)
	}
	c.Flags.Visit(func(given *flag.Flag) {
		if want := of[given.Name]; want != "" && !slices.Contains(strings.Split(want, " or "), verb) {
			err = command.Usagef("--%s is for %s, not for %s", given.Name, want, verb)
		}
	})
	if err != nil {
		return err
	}
	if err := weektable.CheckPrefix(f.prefix); err != nil {
		return command.Coded(command.ExitUsage, err)
	}
	settings, err := f.check(verb, week)
	if err != nil {
		return err
	}
	if f.region == "" {
		f.region = connect.RegionOf(f.queueURL)
	}
	s := connect.Settings{Region: f.region, Endpoint: f.endpoint, S3Endpoint: f.s3Endpoint}
	cfg, err := connect.Load(ctx, s)
	if err != nil {
		return err
	}
	m := &tables.Manager{DB: connect.DynamoDB(cfg, s), Prefix: f.prefix, Now: time.Now(), Sleep: backoff.Sleep}
	switch verb {
	case "ensure":
		if f.archive != "" {
			if settings.Archive, err = connect.Place(f.archive, cfg, s); err != nil {
				return command.Usagef("--archive: %w", err)
			}
		}
		made, err := m.Ensure(ctx, settings, f.ahead)
		for _, t := range made {
			state := "is there"
			switch {
			case t.New:
				state = "made"
			case t.Retired:
				state = "not made again: the archive has it, and it was retired"
			}
			fmt.Fprintf(c.Stdout, "%s: %s\n", t.Table, state)
		}
		return err
	case "catalogue":
		return f.catalogue(ctx, c, &catalogue.Store{DB: connect.DynamoDB(cfg, s), Prefix: f.prefix}, connect.DynamoDB(cfg, s))
	case "list":
		rows, err := m.List(ctx)
		if err != nil {
			return err
		}
		return printTables(c.Stdout, rows, f.asJSON)
	case "dial":
		return f.dial(ctx, c, m, connect.SQS(cfg, f.queueURL))
	}
	archive, err := connect.Place(f.archive, cfg, s)
	if err != nil {
		return command.Usagef("--archive: %w", err)
	}
	return f.retire(ctx, c, m, archive, week)
}

// check holds what a verb needs.
func (f *tablesFlags) check(verb, week string) (tables.Settings, error) {
	s := tables.Settings{Provisioned: f.billing == "provisioned", Read: f.read, Write: f.write, WarmRead: f.warmRead, WarmWrite: f.warmWrite,
		Infrequent: f.class == "infrequent", Protected: f.protect, Tags: map[string]string{}, Behind: f.behind}
	for _, tag := range f.tags {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" {
			return s, command.Usagef("--tag %q: write KEY=VALUE", tag)
		}
		s.Tags[key] = value
	}
	switch {
	case f.behind < 0 || f.behind > 53:
		return s, command.Usagef("--behind %d is out of range: 0 to 53", f.behind)
	case f.ahead < 0 || f.ahead > 8:
		return s, command.Usagef("--ahead %d is out of range: 0 to 8", f.ahead)
	case f.newest < 0:
		return s, command.Usagef("--weeks %d: write 1 or more, or leave it out for all", f.newest)
	case f.billing != "on_demand" && f.billing != "provisioned":
		return s, command.Usagef("--billing %q: write on_demand or provisioned", f.billing)
	case f.class != "standard" && f.class != "infrequent":
		return s, command.Usagef("--class %q: write standard or infrequent", f.class)
	case s.Provisioned && (f.read < 1 || f.write < 1):
		return s, command.Usagef("provisioned tables need --read-units and --write-units of at least 1")
	case s.Provisioned && (f.warmRead > 0 || f.warmWrite > 0):
		return s, command.Usagef("--warm-read and --warm-write are for tables on demand")
	case !s.Provisioned && (f.read != 0 || f.write != 0):
		return s, command.Usagef("--read-units and --write-units are for --billing provisioned")
	case f.warmRead < 0 || f.warmWrite < 0:
		return s, command.Usagef("--warm-read and --warm-write are at least 1")
	case verb == "dial" && f.queueURL == "":
		return s, command.Usagef("--queue-url is missing")
	case verb == "dial" && f.to < 1:
		return s, command.Usagef("--to %d: a table has at least 1 write unit", f.to)
	case verb == "retire" && week == "":
		return s, command.Usagef("say which week, as in: tables retire 2026-w40")
	case verb == "retire" && f.archive == "":
		return s, command.Usagef("--archive is missing")
	case f.weeks < 1 || f.weeks > 10_000:
		return s, command.Usagef("--retention-weeks %d is out of range: 1 to 10000", f.weeks)
	}
	if verb == "dial" {
		if err := connect.CheckQueueURL(f.queueURL); err != nil {
			return s, command.Coded(command.ExitUsage, err)
		}
	}
	if verb == "retire" {
		if _, _, err := tables.TableOf(f.prefix, week); err != nil {
			return s, command.Coded(command.ExitUsage, err)
		}
	}
	return s, nil
}

func printTables(w io.Writer, rows []tables.Row, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "there is no table of that prefix; `millrace-cloud tables ensure` makes them")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TABLE\tSTATE\tITEMS\tBYTES\tAGE\tBILLING\tCLASS")
	for _, r := range rows {
		billing := r.Billing
		if r.WriteUnits > 0 {
			billing += fmt.Sprintf(" %d/%d", r.ReadUnits, r.WriteUnits)
		}
		if r.Protected {
			r.Class += ", protected"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", r.Table, r.State, r.Items, r.Bytes, age(r.Age), billing, r.Class)
	}
	return t.Flush()
}

// age is in days since the end of the week.
func age(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < -7*24*time.Hour:
		return "ahead"
	case d < 0:
		return "this week"
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

func (f *tablesFlags) dial(ctx context.Context, c *command.Call, m *tables.Manager, queue tables.Queue) error {
	dialled, err := m.Dial(ctx, queue, f.queueURL, f.to)
	for _, name := range dialled {
		fmt.Fprintf(c.Stdout, "%s: %d write units\n", name, f.to)
	}
	if err == nil && len(dialled) == 0 {
		fmt.Fprintf(c.Stdout, "nothing to dial down: no week that is over has more than %d provisioned write units\n", f.to)
	}
	return err
}

// catalogue says what a rebuild has done, also where it was interrupted.
func (f *tablesFlags) catalogue(ctx context.Context, c *command.Call, s *catalogue.Store, db catalogue.WeekTables) error {
	meter := progress.New(c.Stderr, "catalogue", 0, clock.System{})
	done, err := s.Rebuild(ctx, db, catalogue.Rebuild{Pace: backoff.Policy{Base: 100 * time.Millisecond, Max: 20 * time.Second}, Tries: 50, Weeks: f.newest,
		Phase: func(table string, n, of int) {
			meter.Phase(fmt.Sprintf("read of %s, table %d of %d", table, n, of), "blocks", 0)
		}, Read: meter.Add})
	meter.Done()
	for _, text := range done.Unreadable {
		fmt.Fprintf(c.Stderr, "millrace-cloud tables: not taken: %s\n", text)
	}
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; the same command goes on with the table at which it was, for a day")
		}
		return err
	}
	fmt.Fprintf(c.Stdout, "catalogue and gaps: %d week tables read, %d of them by an earlier run; %d blocks of %d system streams; %d records, %d not readable\n",
		done.Tables, done.Done, done.Blocks, done.Gateways, done.Items, done.Count)
	return nil
}

func (f *tablesFlags) retire(ctx context.Context, c *command.Call, m *tables.Manager, archive objects.Place, week string) error {
	meter := progress.New(c.Stderr, "retire", 0, clock.System{})
	proof, err := m.Retire(ctx, archive, week, time.Duration(f.weeks)*7*24*time.Hour, f.dry, meter.Add)
	meter.Done()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Stdout, "%s: proved: %d items, %d samples; files in the archive: %d\n", proof.Table, proof.Items, proof.Samples, proof.Files)
	if proof.Deleted {
		fmt.Fprintf(c.Stdout, "%s: deleted\n", proof.Table)
	}
	return nil
}
