package main

import (
	"context"
	"fmt"
	"runtime"
)

var versionCommand = command{
	name: "version", summary: "print the version",
	help: "\nPrints the version and what it was built with.\n",
	run: func(_ context.Context, c *call) error {
		if err := c.parse(); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "millrace-cloud %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	},
}
