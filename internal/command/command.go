// Package command is what the command lines of both programs share: the table
// of commands, help, wrong command lines, exit codes.
package command

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

// Exit codes, documented in docs/operations.md and docs/cloud.md.
const (
	ExitOK     = 0
	ExitFailed = 1 // it ran and failed, or refused
	ExitUsage  = 2 // the command line is wrong
	ExitConfig = 3 // the configuration is wrong
)

// leastWidth is that of the column of names in the list of commands.
const leastWidth = 8

// Program is one binary and its commands.
type Program struct {
	Name  string
	About string // what it is for, one sentence
	Codes string // its exit codes, as in "0 done, 1 failed"
	// Commands are listed in this order.
	Commands []Command
}

// Command is one word of the command line.
type Command struct {
	Name    string
	Summary string // a line of the list of commands
	Usage   string // after the program's and the command's name
	Help    string // what it does, with examples
	// Run declares flags on c.Flags, has them parsed by one of c's methods, and
	// does the work. An error of that method is returned as it is: it may ask for
	// the help.
	Run func(ctx context.Context, c *Call) error
}

// Call is one invocation of a command.
type Call struct {
	Flags          *flag.FlagSet
	Stdout, Stderr io.Writer

	name string
	args []string // after the command's name, unparsed
}

// Main runs a program until it ends, SIGINT or SIGTERM, and exits.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Run runs the command that args begin with, prints its error on one line, and
// returns the exit code.
func (p *Program) Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, p.overview())
		return ExitUsage
	}
	name, rest := args[0], args[1:]
	if name == "help" || name == "-h" || name == "--help" {
		if len(rest) == 0 {
			fmt.Fprint(stdout, p.overview())
			return ExitOK
		}
		name, rest = rest[0], []string{"-h"}
	}
	for i := range p.Commands {
		if p.Commands[i].Name == name {
			return p.invoke(ctx, &p.Commands[i], rest, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "%s: there is no command %q; `%s help` lists them\n", p.Name, name, p.Name)
	return ExitUsage
}

// invoke runs one command and returns its exit code.
func (p *Program) invoke(ctx context.Context, cmd *Command, args []string, stdout, stderr io.Writer) int {
	c := &Call{name: cmd.Name, args: args, Stdout: stdout, Stderr: stderr, Flags: flag.NewFlagSet(cmd.Name, flag.ContinueOnError)}
	c.Flags.SetOutput(io.Discard)
	err := cmd.Run(ctx, c)
	if err == nil {
		return ExitOK
	}
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, p.text(cmd, c.Flags))
		return ExitOK
	}
	code := ExitFailed
	var coded *codedError
	if errors.As(err, &coded) {
		code = coded.code
	}
	switch code {
	case ExitUsage:
		fmt.Fprintf(stderr, "%s %s: %v; see `%s help %s`\n", p.Name, cmd.Name, err, p.Name, cmd.Name)
	case ExitConfig: // its errors name file and line
		fmt.Fprintln(stderr, err)
	default:
		fmt.Fprintf(stderr, "%s %s: %v\n", p.Name, cmd.Name, err)
	}
	return code
}

// overview lists the commands.
func (p *Program) overview() string {
	width := leastWidth
	for i := range p.Commands {
		width = max(width, len(p.Commands[i].Name))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage: %s COMMAND [flags]\n\n", p.About, p.Name)
	for i := range p.Commands {
		fmt.Fprintf(&b, "  %-*s %s\n", width, p.Commands[i].Name, p.Commands[i].Summary)
	}
	fmt.Fprintf(&b, "\n`%s help COMMAND` shows a command's flags and examples.\nExit codes: %s.\n", p.Name, p.Codes)
	return b.String()
}

// text is the help of one command, whose flags are declared.
func (p *Program) text(cmd *Command, flags *flag.FlagSet) string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(fmt.Sprintf("Usage: %s %s %s", p.Name, cmd.Name, cmd.Usage)))
	b.WriteString("\n\n" + strings.TrimLeft(cmd.Help, "\n"))
	var list strings.Builder
	flags.SetOutput(&list)
	flags.PrintDefaults()
	if list.Len() > 0 {
		fmt.Fprintf(&b, "\nFlags:\n%s", list.String())
	}
	return b.String()
}

// codedError carries the exit code.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// Coded gives an error its exit code; nil stays nil. Errors without one exit
// with ExitFailed.
func Coded(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code: code, err: err}
}

// Usagef is an error of the command line. The message is followed by where the
// help is.
func Usagef(format string, args ...any) error {
	return Coded(ExitUsage, fmt.Errorf(format, args...))
}
