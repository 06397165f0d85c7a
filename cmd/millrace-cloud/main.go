// Command millrace-cloud is the cloud half's tools.
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
	p := command.Program{
		Name: "millrace-cloud", About: "millrace-cloud looks after what the gateways have delivered.",
		Codes: "0 done, 1 failed, 2 wrong command line", Commands: commands(),
	}
	return p.Run(ctx, args, stdout, stderr)
}

func commands() []command.Command {
	return []command.Command{workerCommand, tablesCommand, archiveCommand, auditCommand, queryCommand, exportCommand, analyzeCommand, warehouseCommand, demoCommand, resultsCommand, pipelineCommand, checkCommand, command.Version("millrace-cloud", version)}
}
