package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"millrace/internal/command"
	"millrace/spool"
)

// probeName is the hidden command by which the gateway looks at a file of the
// spool in a process that may crash: a damaged file ends that one alone.
const probeName = "probe-file"

// selfPath is this very program, also where the file was replaced by an update.
const selfPath = "/proc/self/exe"

// probeCommand makes the spool's child. It ends with its parent.
func probeCommand(ctx context.Context, args ...string) *exec.Cmd {
	path := selfPath
	if _, err := os.Stat(path); err != nil {
		if path, err = os.Executable(); err != nil {
			path = os.Args[0]
		}
	}
	cmd := exec.CommandContext(ctx, path, append([]string{probeName}, args...)...)
	endWithParent(cmd)
	return cmd
}

// probeFile is the child's main function.
func probeFile(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "millrace "+probeName+" is started by `millrace run`; use `millrace spool stats --dir` to look at a spool")
		return command.ExitUsage
	}
	return spool.ProbeMain(args, stdout)
}
