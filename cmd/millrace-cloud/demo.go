package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"millrace/internal/clouddemo"
	"millrace/internal/command"
)

var demoCommand = command.Command{
	Name: "demo", Summary: "run the whole loop on simulated parts and print each stage's counts",
	Usage: "[--duration 20s] [--millrace PATH] [--keep DIR] [--json]",
	Help: `
Starts, on the loopback only, a plant of more than 200 tags (Modbus TCP, OPC UA,
MQTT, HTTP), Amazon SQS and DynamoDB endpoints, the gateway as a process of its
own, and two workers, of which one is killed midway. At the end it compares every
value that a device put on the wire with what queue and week tables hold. Exit
code 1 unless every stage balances.

The gateway's program is built from the sources in the present folder, or is the
one at --millrace.

Examples:
  millrace-cloud demo
  millrace-cloud demo --millrace /usr/bin/millrace --keep /tmp/loop
`,
	Run: func(ctx context.Context, c *command.Call) error { return runDemo(ctx, c, clouddemo.Options{}) },
}

// runDemo is the command; o breaks the flow in tests.
func runDemo(ctx context.Context, c *command.Call, o clouddemo.Options) error {
	c.Flags.DurationVar(&o.Duration, "duration", 20*time.Second, "how long the plant runs")
	path := c.Flags.String("millrace", o.Millrace, "the gateway's program at this `path` (default: built from the sources in the present folder)")
	c.Flags.StringVar(&o.Keep, "keep", "", "leave archive, results and logs in this new or empty `folder`")
	asJSON := c.Flags.Bool("json", false, "print the account as one line of JSON at the end")
	if err := c.Parse(); err != nil {
		return err
	}
	if o.Duration < clouddemo.MinDuration {
		return command.Usagef("--duration %s is too short, the least is %s", o.Duration, clouddemo.MinDuration)
	}
	o.Millrace, o.Out = *path, c.Stdout
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
