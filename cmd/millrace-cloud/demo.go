package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"millrace/cloud/analysis/duckdb"
	"millrace/cloud/warehouse"
	"millrace/internal/clouddemo"
	"millrace/internal/command"
)

var demoCommand = command.Command{
	Name: "demo", Summary: "run the whole loop on simulated parts and print each stage's counts",
	Usage: "[--duration 20s] [--millrace PATH] [--keep DIR] [--postgres URL] [--json]",
	Help: `
Starts, on the loopback only, a plant of more than 200 tags (Modbus TCP, OPC UA,
MQTT, HTTP), Amazon SQS and DynamoDB endpoints, the gateway as a process of its
own, and two workers, of which one is killed midway. Meanwhile it archives the week
table to Parquet in a folder, computes the results with DuckDB, sends one of them
back to the gateway, signed, and arms the mirror, which writes it to a meter's
registers. At the end it compares every value that a device put on the wire with
what queue, week tables, archive and export hold, the results with values computed
anew, and the registers with the result. Exit code 1 unless every stage balances.

It needs DuckDB in the binary: ` + "`make demo-cloud`" + ` builds one, and runs it.

The gateway's program is built from the sources in the present folder, or is the
one at --millrace.

Examples:
  millrace-cloud demo
  millrace-cloud demo --millrace /usr/bin/millrace --keep /tmp/loop
`,
	Run: func(ctx context.Context, c *command.Call) error { return runDemo(ctx, c, clouddemo.Options{}) },
}

// demoMemory is what DuckDB may take, in bytes.
const demoMemory = 512 << 20

// runDemo is the command; o breaks the flow in tests.
func runDemo(ctx context.Context, c *command.Call, o clouddemo.Options) (err error) {
	c.Flags.DurationVar(&o.Duration, "duration", 20*time.Second, "how long the plant runs")
	path := c.Flags.String("millrace", o.Millrace, "the gateway's program at this `path` (default: built from the sources in the present folder)")
	c.Flags.StringVar(&o.Keep, "keep", "", "leave archive, results and logs in this new or empty `folder`")
	postgres := c.Flags.String("postgres", "", "load a PostgreSQL at this `URL` too, as a warehouse: its schema "+clouddemo.Schema+" is made anew")
	asJSON := c.Flags.Bool("json", false, "print the account as one line of JSON at the end")
	if err := c.Parse(); err != nil {
		return err
	}
	if o.Duration < clouddemo.MinDuration {
		return command.Usagef("--duration %s is too short, the least is %s", o.Duration, clouddemo.MinDuration)
	}
	o.Millrace, o.Out = *path, c.Stdout
	if o.Engine == nil {
		work, err := os.MkdirTemp("", "millrace-cloud-demo-duckdb-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(work)
		engine, err := duckdb.New(ctx, duckdb.Options{Memory: demoMemory, Threads: 1, Dir: work})
		if errors.Is(err, duckdb.ErrAbsent) {
			return errors.New("this binary has no DuckDB, which computes the results: `make demo-cloud` builds one that has it (needs a C compiler) and runs it")
		}
		if err != nil {
			return err
		}
		defer engine.Close()
		o.Engine = engine
	}
	if *postgres != "" {
		db, openErr := warehouse.OpenPostgres(ctx, *postgres)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()
		o.Warehouse = db
	}
	r, err := clouddemo.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		err = json.NewEncoder(c.Stdout).Encode(r)
	} else {
		err = r.Print(c.Stdout)
	}
	if err != nil {
		return err
	}
	if !r.Balanced() {
		return errors.New("the loop does not balance: see the findings")
	}
	return nil
}
