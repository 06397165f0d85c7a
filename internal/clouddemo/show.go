package clouddemo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// say prints what happens.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.o.Out, "%4.0f s  %s\n", w.since().Seconds(), strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// Print writes the account for people.
func (r *Report) Print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "\nSTAGE\tCOUNT\tOF THE PLANT\t")
	for i := range r.Stages {
		s := &r.Stages[i]
		plant := "-"
		if s.Plant >= 0 {
			plant = strconv.Itoa(s.Plant)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", s.Name, s.Count, plant, s.Note)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range r.Findings {
		fmt.Fprintln(out, "DOES NOT BALANCE: "+f)
	}
	verdict := "every stage balances"
	if !r.Balanced() {
		verdict = fmt.Sprintf("%d findings", len(r.Findings))
	}
	_, err := fmt.Fprintf(out, "%s, after %.0f s\n", verdict, r.Seconds)
	return err
}
