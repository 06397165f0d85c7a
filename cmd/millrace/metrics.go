package main

import (
	"context"
	"io"

	"millrace/gateway/control"
)

var metricsCommand = command{
	name: "metrics", summary: "print the running gateway's metrics, as Prometheus reads them",
	usage: "[--socket PATH]",
	help: `
Asks the running gateway, by its local socket, for everything that it counts, in
the text format of Prometheus. docs/metrics.md says what each name means. With
metrics.listen in the configuration Prometheus can read the same by HTTP.

Examples:
  millrace metrics
  millrace metrics | grep millrace_sink_pending
`,
	run: printMetrics,
}

func printMetrics(ctx context.Context, c *call) error {
	socket := c.flags.String("socket", defaultSocket, "the daemon's local `socket`")
	if args, err := c.parse(); err != nil {
		return err
	} else if len(args) > 0 {
		return usagef("metrics takes no arguments, only flags")
	}
	var text string
	if err := control.Call(ctx, *socket, "/v1/metrics", nil, &text); err != nil {
		return err
	}
	_, err := io.WriteString(c.stdout, text)
	return err
}
