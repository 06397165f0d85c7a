// Command millrace is the edge gateway daemon and its tools.
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

// Exit codes, documented in docs/operations.md.
const (
	exitOK     = 0
	exitFailed = 1 // it ran and failed
	exitUsage  = 2 // the command line is wrong
	exitConfig = 3 // the configuration is wrong
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
	usage   string // after "millrace name"
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
	return []command{
		runCommand, checkCommand, statusCommand, metricsCommand, spoolCommand, mirrorCommand, blockCommand, auditCommand, demoCommand, versionCommand,
	}
}

// run is main without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, overview())
		return exitUsage
	}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		return help(args[1:], stdout, stderr)
	}
	if args[0] == probeName {
		return probeFile(args[1:], stdout, stderr)
	}
	cmd, ok := find(args[0])
	if !ok {
		fmt.Fprintf(stderr, "millrace: there is no command %q; `millrace help` lists them\n", args[0])
		return exitUsage
	}
	return invoke(ctx, cmd, args[1:], stdout, stderr)
}

// invoke runs one command and returns its exit code.
func invoke(ctx context.Context, cmd command, args []string, stdout, stderr io.Writer) int {
	c := &call{args: args, stdout: stdout, stderr: stderr, flags: flag.NewFlagSet(cmd.name, flag.ContinueOnError)}
	c.flags.SetOutput(io.Discard)
	err := cmd.run(ctx, c)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, cmd.text(c.flags))
		return exitOK
	}
	return report(err, cmd.name, stderr)
}

// report prints an error on one line and returns its exit code.
func report(err error, name string, stderr io.Writer) int {
	if err == nil {
		return exitOK
	}
	code := exitFailed
	var coded *codedError
	if errors.As(err, &coded) {
		code = coded.code
	}
	if text := err.Error(); text != "" {
		if code == exitUsage {
			text += fmt.Sprintf("; see `millrace help %s`", name)
		}
		if code != exitConfig { // a configuration's errors name their file and line
			text = "millrace " + name + ": " + text
		}
		fmt.Fprintln(stderr, text)
	}
	return code
}

// codedError carries the exit code.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

func coded(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code: code, err: err}
}

func usagef(format string, args ...any) error {
	return coded(exitUsage, fmt.Errorf(format, args...))
}

// parse parses the flags, which may also stand after arguments, and returns
// the arguments.
func (c *call) parse() ([]string, error) {
	var out []string
	rest := c.args
	for {
		if err := c.flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, coded(exitUsage, err)
		}
		rest = c.flags.Args()
		if len(rest) == 0 {
			return out, nil
		}
		out, rest = append(out, rest[0]), rest[1:]
	}
}

func find(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func overview() string {
	var b strings.Builder
	b.WriteString("millrace reads meters and sensors, keeps every sample until the cloud has it, and says so.\n\nUsage: millrace COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-8s %s\n", c.name, c.summary)
	}
	b.WriteString("\n`millrace help COMMAND` shows a command's flags and examples.\n" +
		"Exit codes: 0 done, 1 failed, 2 wrong command line, 3 wrong configuration.\n")
	return b.String()
}

func help(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stdout, overview())
		return exitOK
	}
	if _, ok := find(args[0]); !ok {
		fmt.Fprintf(stderr, "millrace: there is no command %q; `millrace help` lists them\n", args[0])
		return exitUsage
	}
	return run(context.Background(), []string{args[0], "-h"}, stdout, stderr)
}

func (c command) text(flags *flag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: millrace %s %s\n\n%s", c.name, c.usage, strings.TrimLeft(c.help, "\n"))
	var list strings.Builder
	flags.SetOutput(&list)
	flags.PrintDefaults()
	if list.Len() > 0 {
		fmt.Fprintf(&b, "\nFlags:\n%s", list.String())
	}
	return b.String()
}
