// Command millrace-cloud is the cloud half's tools.
package main

import (
	"context"
	"errors"
	"io"

	"millrace/cloud/connect"
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
	list := []command.Command{workerCommand, tablesCommand, archiveCommand, auditCommand, queryCommand, exportCommand, analyzeCommand, warehouseCommand, demoCommand, resultsCommand, pipelineCommand, checkCommand, command.Version("millrace-cloud", version)}
	for i := range list {
		do := list[i].Run
		list[i].Run = func(ctx context.Context, c *command.Call) error { return usage(do(ctx, c)) }
	}
	return list
}

// usage makes a fault of the command line of a setting that is none.
func usage(err error) error {
	var wrong *connect.SettingError
	if errors.As(err, &wrong) {
		return command.Coded(command.ExitUsage, wrong)
	}
	return err
}
