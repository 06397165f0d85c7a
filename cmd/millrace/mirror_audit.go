package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"millrace/gateway/mirror/audit"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
)

const defaultMirror = "/var/lib/millrace/mirror"

// auditFlags are the flags of `millrace mirror audit`.
type auditFlags struct {
	dir    *string
	expect heads
	filter audit.Filter
	since  *time.Duration
}

func newAuditFlags(flags *flag.FlagSet) *auditFlags {
	f := &auditFlags{dir: flags.String("dir", defaultMirror, "audit: the log's `folder`, mirror.dir of the configuration")}
	flags.Var(&f.expect, "expect", "audit verify: a record that has to be there, as `NUMBER:HASH` of a status sample; may be given more than once")
	flags.StringVar(&f.filter.Target, "target", "", "audit show: of this `target` alone")
	flags.StringVar(&f.filter.Outcome, "outcome", "", "audit show: with this `outcome` alone, such as refused")
	flags.StringVar(&f.filter.Reason, "reason", "", "audit show: with this `reason` alone, such as expired")
	flags.StringVar(&f.filter.ID, "id", "", "audit show: of the result with this `id` alone")
	flags.IntVar(&f.filter.Last, "last", 50, "audit show: the newest so many; 0 is all")
	f.since = flags.Duration("since", 0, "audit show: of this time until now, as in 24h")
	return f
}

// heads are ends of the log that somebody else has noted.
type heads []audit.Head

// String implements flag.Value.
func (h *heads) String() string { return "" }

// Set implements flag.Value.
func (h *heads) Set(text string) error {
	head, err := audit.ParseHead(text)
	if err == nil {
		*h = append(*h, head)
	}
	return err
}

// mirrorAudit verifies or shows the mirror's audit log, beside a running daemon
// too: it only reads its files.
func mirrorAudit(c *command.Call, args []string, f *auditFlags, asJSON bool) error {
	if len(args) != 1 {
		return command.Usagef("audit takes verify or show")
	}
	switch args[0] {
	case "verify":
		return verifyMirror(c, f, asJSON)
	case "show":
		if f.filter.Last < 0 {
			return command.Usagef("--last %d is no number of records", f.filter.Last)
		}
		if *f.since > 0 {
			f.filter.Since = time.Now().Add(-*f.since)
		}
		return showMirror(c.Stdout, *f.dir, f.filter, asJSON)
	}
	return command.Usagef("%q is none of verify and show", args[0])
}

func verifyMirror(c *command.Call, f *auditFlags, asJSON bool) error {
	var meter *progress.Meter
	read := int64(0)
	rep, err := audit.Verify(*f.dir, f.expect, func(done, total int64) {
		if meter == nil {
			meter = progress.New(c.Stderr, "audit log", total, clock.System{})
		}
		meter.Add(done - read)
		read = done
	})
	if meter != nil {
		meter.Done()
	}
	if err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(c.Stdout, rep); err != nil {
			return err
		}
	} else {
		printVerified(c.Stdout, rep)
	}
	if !rep.Whole() {
		return fmt.Errorf("the audit log in %s is not whole: %d faults; compare it with a copy, and find out who may write there", *f.dir, len(rep.Faults)+rep.More)
	}
	return nil
}

func printVerified(out io.Writer, rep *audit.Report) {
	for _, f := range rep.Faults {
		fmt.Fprintf(out, "BROKEN %s\n", f)
	}
	if rep.More > 0 {
		fmt.Fprintf(out, "and %d more\n", rep.More)
	}
	fmt.Fprintf(out, "%d records, %d to %d, in %d files\nlast %d:%s\n", rep.Records, rep.First, rep.Last, rep.Files, rep.Last, rep.Hash)
	if rep.Unfinished > 0 {
		fmt.Fprintf(out, "%d bytes at the end are not complete: an append is under way, or a crash interrupted it; nobody was told that it counts\n", rep.Unfinished)
	}
	if rep.Whole() {
		fmt.Fprintln(out, "the chain is whole")
	}
}

func showMirror(out io.Writer, dir string, filter audit.Filter, asJSON bool) error {
	if asJSON {
		return audit.Show(dir, filter, func(r *audit.Record) error { return printJSON(out, r) })
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	some := false
	err := audit.Show(dir, filter, func(r *audit.Record) error {
		if !some {
			some = true
			fmt.Fprintln(w, "N\tAT\tWHAT\tTARGET\tID\tVERSION\tOLD\tNEW\tWHO\tWHY")
		}
		version := "-"
		if r.Version > 0 {
			version = fmt.Sprint(r.Version)
		}
		_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.N, r.At.Local().Format("2006-01-02 15:04:05.000"), whatOf(r),
			orDash(r.Target), orDash(r.ID), version, valueOf(r.Old), valueOf(r.New), orDash(r.Who), whyOf(r))
		return err
	})
	if err == nil && !some {
		fmt.Fprintln(out, "there is no such record")
	}
	return errors.Join(err, w.Flush())
}

// whatOf is the outcome, or what the record is of where it is of none.
func whatOf(r *audit.Record) string {
	if r.Outcome != "" {
		return r.Outcome
	}
	return r.Kind
}

func whyOf(r *audit.Record) string {
	switch {
	case r.Reason == "":
		return printable(r.Detail)
	case r.Detail == "":
		return printable(r.Reason)
	}
	return printable(r.Reason + ": " + r.Detail)
}

func valueOf(v *audit.Value) string {
	if v == nil {
		return "-"
	}
	return printable(v.String())
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return printable(text)
}

// printable takes away what a terminal might act on: some of these texts come
// from whoever can write to the queue.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
