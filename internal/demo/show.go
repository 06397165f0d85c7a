package demo

import (
	"fmt"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// say prints what happens to the plant.
func (w *world) say(what string) {
	w.events = append(w.events, what)
	if !w.o.Quiet && !w.o.Redraw {
		fmt.Fprintln(w.o.Out, "-- "+what)
	}
}

// draw shows the state: in place on a terminal, one line elsewhere.
func (w *world) draw(at time.Duration) {
	if w.o.Quiet {
		return
	}
	st := w.gateway.Status()
	delivered, wire := w.queue.snapshot()
	perSample := "-"
	if delivered > 0 {
		perSample = fmt.Sprintf("%.2f", float64(wire)/float64(delivered))
	}
	var backlog int64
	for _, s := range st.Spool.Sinks {
		backlog = max(backlog, s.PendingSamples)
	}
	backlog += int64(st.Spool.OpenSamples)
	if !w.o.Redraw {
		var in uint64
		for _, s := range st.Sources {
			in += s.In
		}
		fmt.Fprintf(w.o.Out, "%5.0fs  samples %d  waiting %d  delivered %d  bytes/sample %s  %s\n",
			at.Seconds(), in, backlog, delivered, perSample, st.Line)
		return
	}
	var b strings.Builder
	b.WriteString("\x1b[H\x1b[2J") // cursor home, clear the screen: ECMA-48, 8.3.21 and 8.3.39
	fmt.Fprintf(&b, "millrace demo  %.0f of %.0f s\n\n", at.Seconds(), w.o.Duration.Seconds())
	t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "SOURCE\tSTATE\tTAGS\tSAMPLES\tPER SECOND\tBAD")
	state := map[string]string{}
	for _, c := range st.Components {
		state[string(c.Kind)+c.Name] = string(c.State)
	}
	names := make([]string, 0, len(st.Sources))
	for name := range st.Sources {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		s := st.Sources[name]
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.0f\t%d\n", name, state["source"+name], s.Tags, s.In, float64(s.In)/max(1, at.Seconds()), s.Bad)
	}
	fmt.Fprintln(t, "\nSINK\tSTATE\tWAITING BLOCKS\tDELIVERED BLOCKS\tREQUESTS\tTRIED AGAIN")
	for _, name := range []string{"cloud", "table"} {
		s := st.Sinks[name]
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\n", name, state["sink"+name], st.Spool.Sinks[name].PendingBlocks, s.Blocks, s.Requests, s.Retries)
	}
	// A strings.Builder takes everything.
	_ = t.Flush()
	fmt.Fprintf(&b, "\nwaiting %d samples, delivered %d, %s bytes a sample on the wire\n\n", backlog, delivered, perSample)
	for _, e := range w.events {
		fmt.Fprintln(&b, "-- "+e)
	}
	fmt.Fprint(w.o.Out, b.String())
}

// Print writes the ledger for people.
func (r *Result) Print(out interface{ Write([]byte) (int, error) }) {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\nproduced\t%d\t\ndelivered\t%d\t\npending\t%d\t\nlost\t%d\t\ndeclared lost\t%d\t\nduplicates after keying\t%d\t\nwrong values\t%d\t\nBad samples\t%d\t\nbytes a sample on the wire\t%.2f\t\nrequests\t%d\t\nseconds\t%.1f\t\nresults sent\t%d\t\nmirrored\t%d\t\nrefused\t%d\t\nsuperseded\t%d\t\nunverified\t%d\t\n",
		r.Produced, r.Delivered, r.Pending, r.Lost, r.DeclaredLost, r.Duplicates, r.Wrong, r.Bad, r.BytesPerSample, r.Requests, r.Seconds,
		r.Sent, r.Mirrored, r.Refused, r.Superseded, r.Unverified)
	// What cannot be printed cannot be reported either.
	_ = t.Flush()
	fmt.Fprintln(out, "audit: "+r.Audit)
	verdict := "balances"
	if !r.MirrorBalanced {
		verdict = "DOES NOT BALANCE"
	}
	fmt.Fprintf(out, "mirror: what was sent, the outcomes that came up, the PLC's registers and the audit log: %s\n", verdict)
	for _, f := range r.Findings {
		fmt.Fprintln(out, f)
	}
}
