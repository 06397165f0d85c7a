package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

var versionCommand = command{
	name: "version", summary: "print the version",
	help: "\nPrints the version, the commit where it is known, and what it was built with.\n",
	run: func(_ context.Context, c *call) error {
		if _, err := c.parse(); err != nil {
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
		fmt.Fprintf(c.stdout, "millrace %s%s %s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	},
}
