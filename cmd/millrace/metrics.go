package main

import (
	"context"
	"io"

	"millrace/gateway/control"
	"millrace/internal/command"
)

var metricsCommand = command.Command{
	Name: "metrics", Summary: "print the running gateway's metrics, as Prometheus reads them",
	Usage: "[--socket PATH]",
	Help: `
Asks the running gateway, by its local socket, for everything that it counts, in
the text format of Prometheus. docs/metrics.md says what each name means. With
metrics.listen in the configuration Prometheus can read the same by HTTP.

Examples:
  millrace metrics
  millrace metrics | grep millrace_sink_pending
`,
	Run: printMetrics,
}

func printMetrics(ctx context.Context, c *command.Call) error {
	socket := c.Flags.String("socket", defaultSocket, "the daemon's local `socket`")
	if err := c.Parse(); err != nil {
		return err
	}
	var text string
	if err := control.Call(ctx, *socket, "/v1/metrics", nil, &text); err != nil {
		return err
	}
	_, err := io.WriteString(c.Stdout, text)
	return err
}
