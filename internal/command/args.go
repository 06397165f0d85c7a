package command

import (
	"errors"
	"flag"
	"slices"
	"strings"
)

// Parse parses the flags of a command that takes no arguments.
func (c *Call) Parse() error {
	_, err := c.ParseArgs()
	return err
}

// ParseAll parses the flags, which may also stand between and after arguments,
// and returns the arguments, however many. What comes after "--" is no flag.
func (c *Call) ParseAll() ([]string, error) {
	rest, plain := c.args, []string(nil)
	if i := slices.Index(rest, "--"); i >= 0 {
		rest, plain = rest[:i], rest[i+1:]
	}
	var out []string
	for {
		if err := c.Flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, Coded(ExitUsage, err)
		}
		rest = c.Flags.Args()
		if len(rest) == 0 {
			return append(out, plain...), nil
		}
		out, rest = append(out, rest[0]), rest[1:]
	}
}

// ParseArgs is ParseAll for a command that takes these arguments, named as in
// its usage: "WEEK" has to be given, "[FILE]" may be, "TAG..." stands for one
// or more and "[TAG...]" for any number. What may be left out comes after what
// may not, and only the last may stand for many. There is one string returned
// for each name at least, "" for what was left out, unless it stands for many.
func (c *Call) ParseArgs(names ...string) ([]string, error) {
	args, err := c.ParseAll()
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		bare := strings.Trim(name, "[]")
		many, optional := strings.HasSuffix(bare, "..."), bare != name
		switch {
		case i < len(args):
		case !optional:
			return nil, Usagef("%s is missing", strings.TrimSuffix(bare, "..."))
		case !many:
			args = append(args, "")
		}
		if many {
			return args, nil
		}
	}
	switch {
	case len(args) <= len(names):
		return args, nil
	case len(names) == 0:
		return nil, Usagef("%q is no flag, and %s takes no arguments", args[0], c.name)
	}
	return nil, Usagef("%q is too many: %s takes %s", args[len(names)], c.name, strings.Join(names, " "))
}
