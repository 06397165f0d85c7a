package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/gateway/mirror"
	"millrace/gateway/mirror/guard"
	"millrace/internal/command"
)

var mirrorCommand = command.Command{
	Name: "mirror", Summary: "see, arm and disarm the mirror's targets, and verify its audit log",
	Usage: "status|arm TARGET --for TIME|disarm TARGET|disarm --all|audit ... [--socket PATH] [--json]",
	Help: `
The mirror brings results of the cloud back into SCADA. What it may write to is
in the configuration alone; these commands see it and hold it back.

  status                 targets with mode, value, version and last outcome; feeds
  arm TARGET --for TIME  let a target in dry run write, for at most 24h; it ends
                         by itself. Longer: set mode: armed in the configuration
  arm TARGET --configured
                         give a target that was disarmed its configured mode back
  disarm TARGET          take a target down to dry run at once, also over restarts
  disarm --all           all of them
  audit verify           whether the audit log is whole, record by record; with
                         --expect N:HASH, whether that record is in it
  audit show             what was decided, by whom and why, the newest last

To arm and to disarm takes root or a member of the socket's group, and is in the
audit log with the caller's name. Exit code 1 of status: a target is stale or
unverified, or nothing can be recorded.

Examples:
  millrace mirror status
  millrace mirror arm sp1 --for 8h
  millrace mirror disarm --all
  millrace mirror audit show --target sp1 --outcome refused --since 24h
  millrace mirror status --json | jq '.targets[] | {name, mode}'
`,
	Run: runMirror,
}

func runMirror(ctx context.Context, c *command.Call) error {
	socket := c.Flags.String("socket", defaultSocket, "the daemon's local `socket`")
	asJSON := c.Flags.Bool("json", false, "print JSON")
	howLong := c.Flags.Duration("for", 0, "arm: for how long, as in 8h; at most "+hours(mirror.MaxArming))
	configured := c.Flags.Bool("configured", false, "arm: give the target its configured mode back")
	all := c.Flags.Bool("all", false, "disarm: all targets")
	audit := newAuditFlags(c.Flags)
	args, err := c.ParseAll()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return command.Usagef("status, arm, disarm or audit is missing")
	}
	m := &mirrorCall{ctx: ctx, socket: *socket, asJSON: *asJSON, out: c.Stdout}
	switch args[0] {
	case "status":
		if len(args) > 1 {
			return command.Usagef("status takes no arguments, only flags")
		}
		return m.status()
	case "arm":
		switch {
		case len(args) != 2:
			return command.Usagef("arm takes one target's name; `millrace mirror status` lists them")
		case *configured == (*howLong != 0):
			return command.Usagef("arm takes --for TIME, as in --for 8h, or --configured")
		case *howLong < 0:
			return command.Usagef("--for %s is no time from now", *howLong)
		case *howLong > mirror.MaxArming:
			return command.Usagef("--for %s is longer than %s; set mode: armed in the configuration", hours(*howLong), hours(mirror.MaxArming))
		}
		return m.arm(args[1], *howLong)
	case "disarm":
		if *all == (len(args) == 2) || len(args) > 2 {
			return command.Usagef("disarm takes one target's name, or --all")
		}
		return m.disarm(args[1:])
	case "audit":
		return mirrorAudit(c, args[1:], audit, *asJSON)
	}
	return command.Usagef("%q is none of status, arm, disarm and audit", args[0])
}

// hours prints whole hours shortly.
func hours(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

type mirrorCall struct {
	ctx    context.Context
	socket string
	asJSON bool
	out    io.Writer
}

func (m *mirrorCall) status() error {
	var st gateway.MirrorStatus
	if err := control.Call(m.ctx, m.socket, "/v1/mirror", nil, &st); err != nil {
		return err
	}
	if m.asJSON {
		if err := printJSON(m.out, st); err != nil {
			return err
		}
	} else {
		printMirror(m.out, &st)
	}
	return troubles(&st)
}

// troubles is an error where somebody has to look at the mirror.
func troubles(st *gateway.MirrorStatus) error {
	var stale, unverified []string
	for i := range st.Targets {
		t := &st.Targets[i]
		if t.Mode == guard.Off {
			continue
		}
		if t.Stale {
			stale = append(stale, t.Name)
		}
		if t.Unverified {
			unverified = append(unverified, t.Name)
		}
	}
	var what []string
	if st.Audit.Error != "" {
		what = append(what, "nothing can be recorded, and so nothing is written: "+st.Audit.Error)
	}
	if len(unverified) > 0 {
		what = append(what, "unverified: "+strings.Join(unverified, ", "))
	}
	if len(stale) > 0 {
		what = append(what, "stale: "+strings.Join(stale, ", "))
	}
	if len(what) == 0 {
		return nil
	}
	return errors.New(strings.Join(what, "; "))
}

func printMirror(out io.Writer, st *gateway.MirrorStatus) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tCLASS\tMODE\tVALUE\tVERSION\tSINCE\tSTATE\tLAST OUTCOME")
	for i := range st.Targets {
		t := &st.Targets[i]
		value, version, since := "-", "-", "-"
		if l := t.Last; l != nil {
			value, version, since = printable(l.Value.String()), fmt.Sprint(l.Version), local(l.Time)
			if l.Version == 0 {
				version = "fallback"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, t.Class, modeOf(t), value, version, since, stateOf(t), outcomeOf(t))
	}
	fmt.Fprintln(w, "\nFEED\tMESSAGES\tMALFORMED\tSTRANGE\tERRORS\tLAST ANSWER\tWHY")
	for i := range st.Feeds {
		f := &st.Feeds[i]
		answered := "-"
		if f.LastReceive != nil {
			answered = local(*f.LastReceive)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", f.Name, f.Received, f.Malformed, f.Strange, f.Errors, answered, printable(f.Error))
	}
	// A terminal that is gone cannot be told.
	_ = w.Flush()
	fmt.Fprintf(out, "\naudit log: %d records", st.Audit.Records)
	if st.Audit.Hash != "" {
		fmt.Fprintf(out, ", the last %s", st.Audit.Hash)
	}
	fmt.Fprintln(out)
	if st.LostStatus > 0 {
		fmt.Fprintf(out, "%d outcomes did not go up for want of room; the audit log has them\n", st.LostStatus)
	}
}

func local(t time.Time) string { return t.Local().Format(time.DateTime) }

// modeOf says what a target may do now, and until when and by whom where that
// is not as configured.
func modeOf(t *mirror.TargetStatus) string {
	switch {
	case t.ArmedUntil != nil:
		return fmt.Sprintf("armed until %s by %s", local(*t.ArmedUntil), t.By)
	case t.Disarmed:
		return fmt.Sprintf("dry_run, disarmed by %s", t.By)
	}
	return string(t.Mode)
}

func stateOf(t *mirror.TargetStatus) string {
	var states []string
	if t.Stale {
		states = append(states, "stale")
	}
	if t.Unverified {
		states = append(states, "unverified")
	}
	if p := t.Pending; p != nil {
		states = append(states, fmt.Sprintf("version %d waits (%s)", p.Version, p.Why))
	}
	if len(states) == 0 {
		return "-"
	}
	return strings.Join(states, ", ")
}

func outcomeOf(t *mirror.TargetStatus) string {
	o := t.Outcome
	if o == nil {
		return "-"
	}
	text := string(o.Outcome)
	if o.Reason != "" {
		text += " (" + o.Reason + ")"
	}
	if o.Detail != "" {
		text += ": " + o.Detail
	}
	return printable(text)
}

func (m *mirrorCall) arm(target string, d time.Duration) error {
	args := url.Values{"target": {target}}
	if d > 0 {
		args.Set("for", d.String())
	}
	var t mirror.TargetStatus
	if err := control.Post(m.ctx, m.socket, "/v1/mirror/arm", args, &t); err != nil {
		return err
	}
	if m.asJSON {
		return printJSON(m.out, t)
	}
	fmt.Fprintf(m.out, "target %s is %s\n", t.Name, modeOf(&t))
	return nil
}

func (m *mirrorCall) disarm(targets []string) error {
	args := url.Values{"all": {"true"}}
	if len(targets) > 0 {
		args = url.Values{"target": targets}
	}
	var done []mirror.TargetStatus
	if err := control.Post(m.ctx, m.socket, "/v1/mirror/disarm", args, &done); err != nil {
		return err
	}
	if m.asJSON {
		return printJSON(m.out, done)
	}
	if len(done) == 0 {
		fmt.Fprintln(m.out, "every target is off")
	}
	for i := range done {
		fmt.Fprintf(m.out, "target %s is %s; nothing is written to it any more\n", done[i].Name, modeOf(&done[i]))
	}
	return nil
}
