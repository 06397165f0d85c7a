package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	feeds "millrace/feeds/all"
	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/gateway/health"
	"millrace/gateway/logging"
	"millrace/internal/clock"
	"millrace/internal/command"
	protocols "millrace/protocols/all"
	uploader "millrace/uploader/all"
)

// defaultConfig is where the packages put the configuration.
const defaultConfig = "/etc/millrace/millrace.yaml"

var runCommand = command.Command{
	Name: "run", Summary: "run the gateway until SIGTERM",
	Usage: "[--config FILE]",
	Help: `
Reads the configuration, opens the spool, starts sinks and sources, and runs
until SIGTERM or SIGINT. Devices and endpoints that are away are waited for.

Examples:
  millrace run --config /etc/millrace/millrace.yaml
  systemctl start millrace
`,
	Run: runGateway,
}

func registry() config.Registry {
	return config.Registry{Protocols: protocols.List(), Sinks: uploader.List(), Feeds: feeds.List()}
}

func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path, registry())
	return cfg, command.Coded(command.ExitConfig, err)
}

func runGateway(ctx context.Context, c *command.Call) error {
	path := c.Flags.String("config", defaultConfig, "configuration `file`")
	if err := c.Parse(); err != nil {
		return err
	}
	cfg, err := loadConfig(*path)
	if err != nil {
		return err
	}
	log, flush, err := logging.New(logging.Options{Level: cfg.Log.Level, Format: cfg.Log.Format, Stderr: os.Stderr})
	if err != nil {
		return command.Coded(command.ExitConfig, err)
	}
	defer func() {
		if err := flush(); err != nil {
			fmt.Fprintln(c.Stderr, "millrace run:", err)
		}
	}()
	notify, err := health.NewNotifier(os.Getenv)
	if err != nil {
		return err
	}
	hurry, stopListening := hurryOn()
	defer stopListening()
	g, err := gateway.New(ctx, gateway.Options{
		Config: cfg, Version: version, Log: log, Clock: clock.System{}, ExpectSync: clock.ServiceRuns(), Notify: notify, StateDir: filepath.Dir(cfg.Spool.Dir),
		Probe: probeCommand, Hurry: hurry,
	})
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // told to stop while it started
		}
		return err
	}
	return g.Run(ctx)
}

// hurryOn returns a channel that is closed at the second signal: the first has
// the gateway stop. It listens from now on, so that none is missed that follows
// at once.
func hurryOn() (hurry <-chan struct{}, stop func()) {
	asked, ended := make(chan struct{}), make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer signal.Stop(signals)
		for range 2 {
			select {
			case <-signals:
			case <-ended:
				return
			}
		}
		close(asked)
	}()
	return asked, sync.OnceFunc(func() { close(ended) })
}

var checkCommand = command.Command{
	Name: "check", Summary: "check a configuration, and with --connect the devices and endpoints",
	Usage: "[--connect] [FILE]",
	Help: `
Reads the configuration and prints every error with file, line, key and what to
do about it. With --connect it also dials every device, reads every address and
looks for every queue and table, those of the mirror's feeds and targets too;
nothing is delivered, taken or written.

Examples:
  millrace check plant.yaml
  millrace check --connect /etc/millrace/millrace.yaml
`,
	Run: checkConfig,
}

func checkConfig(ctx context.Context, c *command.Call) error {
	connect := c.Flags.Bool("connect", false, "dial every device and endpoint too")
	timeout := c.Flags.Duration("timeout", defaultCheckTimeout, "time limit for each device and endpoint")
	args, err := c.ParseAll()
	if err != nil {
		return err
	}
	path := defaultConfig
	switch len(args) {
	case 0:
	case 1:
		path = args[0]
	default:
		return command.Usagef("check takes one file, not %d", len(args))
	}
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	tags := 0
	for i := range cfg.Sources {
		tags += len(cfg.Sources[i].Tags)
	}
	fmt.Fprintf(c.Stdout, "%s: correct: %d sources, %d tags, %d sinks%s\n", path, len(cfg.Sources), tags, len(cfg.Sinks), mirrorCount(&cfg.Mirror))
	if !*connect {
		return nil
	}
	faults := gateway.Check(ctx, cfg, *timeout, func(what, well string, errs []error) {
		if len(errs) == 0 {
			fmt.Fprintf(c.Stdout, "%s: %s\n", what, well)
		}
		for _, err := range errs {
			fmt.Fprintf(c.Stdout, "%s: %v\n", what, err)
		}
	})
	if faults > 0 {
		return fmt.Errorf("%d faults found by connecting", faults)
	}
	return nil
}

// mirrorCount says how many targets are in which mode.
func mirrorCount(m *config.Mirror) string {
	if len(m.Targets) == 0 {
		return ""
	}
	if !m.Enabled {
		return fmt.Sprintf(", %d mirror targets (not enabled)", len(m.Targets))
	}
	modes := map[string]int{}
	for i := range m.Targets {
		modes[m.Targets[i].Mode]++
	}
	return fmt.Sprintf(", %d mirror targets (%d armed, %d in dry run, %d off)", len(m.Targets), modes[config.ModeArmed], modes[config.ModeDryRun], modes[config.ModeOff])
}
