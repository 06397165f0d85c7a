package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"millrace/internal/command"
	"millrace/internal/demo"
)

var demoCommand = command.Command{
	Name: "demo", Summary: "run a simulated plant against a simulated cloud and print the ledger",
	Usage: "[--duration 45s] [--json]",
	Help: `
Starts, in one process and on the loopback only, a plant of more than 200 tags
(Modbus TCP, OPC UA, MQTT, HTTP), Amazon SQS and DynamoDB endpoints, and a
gateway between them. It cuts the cloud off for ten seconds, stops the meters
for five, drains, and compares every value that a device put on the wire with
those that the endpoints accepted. Meanwhile a stand-in for the cloud half
computes a setpoint from delivered samples and sends it back, signed; the
gateway's mirror writes it to a meter's registers, and refuses one that is out
of range. Exit code 1 unless nothing was lost, wrong or double, and what was
sent, the outcomes, the registers and the mirror's audit log agree.

Examples:
  millrace demo
  millrace demo --duration 45s --json | tail -1 | jq .lost
`,
	Run: func(ctx context.Context, c *command.Call) error { return runDemo(ctx, c, demo.Options{}) },
}

// runDemo is the command; o breaks the gateway in tests.
func runDemo(ctx context.Context, c *command.Call, o demo.Options) error {
	duration := c.Flags.Duration("duration", 45*time.Second, "how long the plant runs")
	asJSON := c.Flags.Bool("json", false, "print the ledger as one line of JSON at the end")
	if err := c.Parse(); err != nil {
		return err
	}
	o.Duration, o.Out = *duration, c.Stdout
	if f, ok := c.Stdout.(*os.File); ok {
		o.Redraw = term.IsTerminal(int(f.Fd()))
	}
	r, err := demo.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		for _, f := range r.Findings {
			fmt.Fprintln(c.Stderr, f)
		}
		if err := json.NewEncoder(c.Stdout).Encode(r); err != nil {
			return err
		}
	} else {
		r.Print(c.Stdout)
	}
	if !r.Exact() {
		return errors.New("the ledger is not exact: see lost, duplicates, wrong, audit and mirror")
	}
	return nil
}
