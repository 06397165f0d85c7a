package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/gateway/health"
	"millrace/internal/bytesize"
	"millrace/internal/command"
)

const (
	defaultSocket       = "/run/millrace/control.sock"
	defaultCheckTimeout = 15 * time.Second
)

var statusCommand = command.Command{
	Name: "status", Summary: "show how the running gateway fares",
	Usage: "[--socket PATH] [--json]",
	Help: `
Asks the running gateway, by its local socket, for its sources, sinks, spool and
mirror. Exit code 1 where one of these is down, so that a script can watch it.

Examples:
  millrace status
  millrace status --json | jq .spool
`,
	Run: showStatus,
}

func showStatus(ctx context.Context, c *command.Call) error {
	socket := c.Flags.String("socket", defaultSocket, "the daemon's local `socket`")
	asJSON := c.Flags.Bool("json", false, "print everything as JSON")
	if err := c.Parse(); err != nil {
		return err
	}
	var st gateway.Status
	if err := control.Call(ctx, *socket, "/v1/status", nil, &st); err != nil {
		return err
	}
	if *asJSON {
		if err := printJSON(c.Stdout, st); err != nil {
			return err
		}
	} else {
		printStatus(c.Stdout, &st)
	}
	down := 0
	for _, k := range st.Components {
		if k.State == health.Down {
			down++
		}
	}
	if down > 0 {
		return fmt.Errorf("%d of %d parts are down", down, len(st.Components))
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printStatus(out io.Writer, st *gateway.Status) {
	fmt.Fprintf(out, "%s/%s  millrace %s  running for %s\n%s\nclock %s\n\n", st.Site, st.Gateway, st.Version,
		st.Uptime.Round(time.Second), st.Line, clockLine(&st.Clock))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "PART\tNAME\tSTATE\tSINCE\tWHY")
	for _, k := range st.Components {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.Kind, k.Name, k.State, k.Since.Local().Format(time.DateTime), k.Reason)
	}
	fmt.Fprintln(w, "\nSOURCE\tTAGS\tSAMPLES\tSUPPRESSED\tBAD\tREFUSED")
	for _, name := range sortedKeys(st.Sources) {
		s := st.Sources[name]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", name, s.Tags, s.In, s.Suppressed, s.Bad, s.Refused)
	}
	fmt.Fprintln(w, "\nSINK\tPENDING\tSAMPLES\tSIZE\tDELIVERED\tRETRIES")
	for _, name := range sortedKeys(st.Sinks) {
		p := st.Spool.Sinks[name]
		fmt.Fprintf(w, "%s\t%d blocks\t%d\t%s\t%d blocks\t%d\n", name, p.PendingBlocks, p.PendingSamples,
			bytesize.Size(p.PendingBytes), st.Sinks[name].Blocks, st.Sinks[name].Retries)
	}
	line := fmt.Sprintf("%s of %s on disk", bytesize.Size(st.Spool.DiskBytes), bytesize.Size(st.Spool.MaxBytes))
	if st.Forecast.Text != "" { // nothing is foretold in the first seconds
		line += ", " + st.Forecast.Text
	}
	fmt.Fprintf(w, "\nspool: %s\n", line)
	if m := st.Mirror; m != nil {
		fmt.Fprintln(w, "\nTARGET\tMODE\tSTATE\tLAST OUTCOME")
		for i := range m.Targets {
			t := &m.Targets[i]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, modeOf(t), stateOf(t), outcomeOf(t))
		}
	}
	fmt.Fprintln(w, "\nSINK\tLANE\tBLOCKS\tMEDIAN\tMAX\t(seal to acknowledgement, last 5 minutes)")
	for _, name := range sortedKeys(st.Sinks) {
		for _, lane := range sortedKeys(st.Sinks[name].Lanes) {
			l := st.Sinks[name].Lanes[lane]
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", name, lane, l.Recent.Count, l.Recent.Median.Round(time.Millisecond), l.Recent.Max.Round(time.Millisecond))
		}
	}
	// A terminal that is gone cannot be told.
	_ = w.Flush()
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
