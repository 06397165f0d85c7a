package command

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is the command that prints a program's version.
func Version(program, version string) Command {
	return Command{
		Name: "version", Summary: "print the version",
		Help: "\nPrints the version, the commit where it is known, and what it was built with.\n",
		Run: func(_ context.Context, c *Call) error {
			if err := c.Parse(); err != nil {
				return err
			}
			commit := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						commit = " " + s.Value
					}
				}
			}
			fmt.Fprintf(c.Stdout, "%s %s%s %s %s/%s\n", program, version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
