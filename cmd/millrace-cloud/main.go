// Command millrace-cloud is the cloud half's tools.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "devel"

// Exit codes, the same as those of millrace.
const (
	exitOK     = 0
	exitFailed = 1 // it ran and failed
	exitUsage  = 2 // the command line is wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is one word of the command line.
type command struct {
	name    string
	summary string
	usage   string // after "millrace-cloud name"
	help    string // what it does, with examples
	run     func(ctx context.Context, c *call) error
}

// call is one invocation of a command.
type call struct {
	flags          *flag.FlagSet
	args           []string // after the name, unparsed
	stdout, stderr io.Writer
}

func commands() []command {
	return []command{workerCommand, tablesCommand, auditCommand, versionCommand}
}

// run is main without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, overview())
		return exitUsage
	}
	name, rest := args[0], args[1:]
	if name == "help" || name == "-h" || name == "--help" {
		if len(rest) == 0 {
			fmt.Fprint(stdout, overview())
			return exitOK
		}
		name, rest = rest[0], []string{"-h"}
	}
	for _, cmd := range commands() {
		if cmd.name == name {
			return invoke(ctx, cmd, rest, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "millrace-cloud: there is no command %q; `millrace-cloud help` lists them\n", name)
	return exitUsage
}

// invoke runs one command, prints its error on one line, and returns its exit
// code.
func invoke(ctx context.Context, cmd command, args []string, stdout, stderr io.Writer) int {
	c := &call{args: args, stdout: stdout, stderr: stderr, flags: flag.NewFlagSet(cmd.name, flag.ContinueOnError)}
	c.flags.SetOutput(io.Discard)
	err := cmd.run(ctx, c)
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, cmd.text(c.flags))
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "millrace-cloud %s: %v; see `millrace-cloud help %s`\n", cmd.name, err, cmd.name)
		return exitUsage
	}
	fmt.Fprintf(stderr, "millrace-cloud %s: %v\n", cmd.name, err)
	return exitFailed
}

// usageError says that the command line is wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// parse parses flags; there are no arguments besides.
func (c *call) parse() error {
	err := c.flags.Parse(c.args)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return &usageError{err}
	}
	if err == nil && c.flags.NArg() > 0 {
		return usagef("%q is no flag, and there are no arguments", c.flags.Arg(0))
	}
	return err
}

func overview() string {
	var b strings.Builder
	b.WriteString("millrace-cloud looks after what the gateways have delivered.\n\nUsage: millrace-cloud COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-8s %s\n", c.name, c.summary)
	}
	b.WriteString("\n`millrace-cloud help COMMAND` shows a command's flags and examples.\n" +
		"Exit codes: 0 done, 1 failed, 2 wrong command line.\n")
	return b.String()
}

func (c command) text(flags *flag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: millrace-cloud %s %s\n\n%s", c.name, c.usage, strings.TrimLeft(c.help, "\n"))
	var list strings.Builder
	flags.SetOutput(&list)
	flags.PrintDefaults()
	if list.Len() > 0 {
		fmt.Fprintf(&b, "\nFlags:\n%s", list.String())
	}
	return b.String()
}
