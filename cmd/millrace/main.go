// Command millrace is the edge gateway daemon and its tools.
package main

import (
	"context"
	"io"

	"millrace/internal/command"
)

// version is set by the linker.
var version = "devel"

func main() { command.Main(run) }

// run is main without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == probeName {
		return probeFile(args[1:], stdout, stderr)
	}
	p := command.Program{
		Name: "millrace", About: "millrace reads meters and sensors, keeps every sample until the cloud has it, and says so.",
		Codes: "0 done, 1 failed, 2 wrong command line, 3 wrong configuration", Commands: commands(),
	}
	return p.Run(ctx, args, stdout, stderr)
}

func commands() []command.Command {
	return []command.Command{
		runCommand, checkCommand, statusCommand, metricsCommand, spoolCommand, mirrorCommand, blockCommand, auditCommand, demoCommand,
		command.Version("millrace", version),
	}
}
