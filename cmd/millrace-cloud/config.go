package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"millrace/cloud/config"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/command"
)

// configPath is where the configuration is unless --config says otherwise.
const configPath = "/etc/millrace/millrace-cloud.yaml"

var checkCommand = command.Command{
	Name: "check", Summary: "check a configuration",
	Usage: "[--config FILE]",
	Help: `
Reads the configuration of ` + "`pipeline` and `results`" + ` and prints everything that is
wrong with it, each with its line, its path and what to do. It asks nobody and
changes nothing. docs/cloud-configuration.md describes every key.

Exit codes: 0 nothing is wrong, 1 something is, 2 wrong command line.

Examples:
  millrace-cloud check --config /etc/millrace/millrace-cloud.yaml
`,
	Run: runCheck,
}

func runCheck(_ context.Context, c *command.Call) error {
	path := c.Flags.String("config", configPath, "`file` to check")
	if err := c.Parse(); err != nil {
		return err
	}
	cfg, err := loadConfig(c, *path)
	if err != nil {
		return err
	}
	var on, off []string
	for _, s := range (&wiring{cfg: cfg}).stages() {
		if s.Off == "" {
			on = append(on, s.Name)
		} else {
			off = append(off, s.Name+" ("+s.Off+")")
		}
	}
	fmt.Fprintf(c.Stdout, "%s: nothing is wrong; a run does: %s\n", *path, strings.Join(on, ", "))
	if len(off) > 0 {
		fmt.Fprintf(c.Stdout, "left out: %s\n", strings.Join(off, ", "))
	}
	return nil
}

// loadConfig reads the configuration; its faults go to standard error, one a
// line.
func loadConfig(c *command.Call, path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	if err != nil {
		fmt.Fprintln(c.Stderr, err)
		return nil, fmt.Errorf("%s is not taken; mend what stands above", path)
	}
	return cfg, nil
}

// aws makes the clients' settings of a configuration. Regions that it does not
// name are the queue's.
func connectTo(ctx context.Context, cfg *config.Config) (aws.Config, connect.Settings, error) {
	s := connect.Settings{Region: cfg.Region, Endpoint: cfg.Endpoints.DynamoDB, S3Endpoint: cfg.Endpoints.S3, Connections: 8}
	if s.Region == "" {
		s.Region = connect.RegionOf(cfg.Queue.URL)
	}
	a, err := connect.Load(ctx, s)
	return a, s, err
}

// archiveOf is the configured archive.
func archiveOf(cfg *config.Config, a aws.Config, s connect.Settings) (objects.Place, error) {
	if cfg.Archive.Place == "" {
		return nil, fmt.Errorf("there is no archive; write archive: {place: s3://bucket/prefix} into the configuration")
	}
	return connect.Place(cfg.Archive.Place, a, s)
}
