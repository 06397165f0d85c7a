package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/cloud/config"
	"millrace/cloud/pipeline"
	"millrace/internal/command"
)

var pipelineCommand = command.Command{
	Name: "pipeline", Summary: "run the regular stages one after the other, and show how they went",
	Usage: "run|status [--config FILE] [flags]",
	Help: `
run     does the stages of the configuration: tables, archive, analyze, warehouse,
        export, results, retire. A run that failed, was interrupted or crashed goes
        on at the stage where it was. Two are never at once: the second one is
        refused, and after a crash the next one waits for the lock's lease to end.
status  shows the last runs, the stages of the newest, what failed, and what to do.

A run has the time of its schedule as its id, given by --scheduled: the same time
again is the same run, and does nothing once that is done. With --every the
command stays, and starts the runs itself.

State is in the table <prefix>-pipeline, which run makes. docs/cloud-pipeline.md
has cron's line, a systemd timer and EventBridge Scheduler.

Exit codes: 0 done, or nothing to do; 1 failed, refused or interrupted; 2 wrong
command line.

Examples:
  millrace-cloud pipeline run --config plant.yaml
  millrace-cloud pipeline run --config plant.yaml --every 24h
  millrace-cloud pipeline run --config plant.yaml --from-stage warehouse
  millrace-cloud pipeline run --config plant.yaml --only archive,analyze
  millrace-cloud pipeline status --config plant.yaml
`,
	Run: runPipeline,
}

type pipelineFlags struct {
	config, scheduled, from, only, log string
	every                              time.Duration
	last                               int
	asJSON                             bool
}

var pipelineVerbs = []string{"run", "status"}

func runPipeline(ctx context.Context, c *command.Call) error {
	var f pipelineFlags
	c.Flags.StringVar(&f.config, "config", configPath, "`file` of settings")
	c.Flags.StringVar(&f.scheduled, "scheduled", "", "run: the schedule's `time`, as in 2026-11-28T02:00:00Z; its run is done once (default: the one that did not come to its end, or a new one)")
	c.Flags.DurationVar(&f.every, "every", 0, "run: stay, and start a run each `period`; 0 runs once")
	c.Flags.StringVar(&f.from, "from-stage", "", "run: leave out the stages before this `one`")
	c.Flags.StringVar(&f.only, "only", "", "run: these `stages` alone, with commas between them")
	c.Flags.StringVar(&f.log, "log", "text", "run: form of the log on standard error: text or json")
	c.Flags.IntVar(&f.last, "last", 10, "status: how many `runs` to show")
	c.Flags.BoolVar(&f.asJSON, "json", false, "status: print JSON")
	args, err := c.ParseArgs(strings.Join(pipelineVerbs, "|"))
	if err != nil {
		return err
	}
	o, err := f.check(args[0], c)
	if err != nil {
		return err
	}
	cfg, err := loadConfig(c, f.config)
	if err != nil {
		return err
	}
	if args[0] == "status" {
		return f.status(ctx, c, cfg)
	}
	return f.run(ctx, c, cfg, o)
}

// check holds what a verb needs.
func (f *pipelineFlags) check(verb string, c *command.Call) (o pipeline.Options, err error) {
	of := map[string]string{"scheduled": "run", "every": "run", "from-stage": "run", "only": "run", "log": "run", "last": "status", "json": "status"}
	if verb != "run" && verb != "status" {
		return o, command.Usagef("%q is none of %s", verb, strings.Join(pipelineVerbs, ", "))
	}
	c.Flags.Visit(func(given *flag.Flag) {
		if want := of[given.Name]; want != "" && want != verb {
			err = command.Usagef("--%s is for %s, not for %s", given.Name, want, verb)
		}
	})
	if err != nil {
		return o, err
	}
	if f.scheduled != "" {
		if o.Scheduled, err = time.Parse(time.RFC3339, f.scheduled); err != nil {
			return o, command.Usagef("--scheduled %q is no time: write it as in 2026-11-28T02:00:00Z", f.scheduled)
		}
	}
	if f.only != "" {
		o.Only = strings.Split(f.only, ",")
	}
	o.From = f.from
	o.Stages = (&wiring{cfg: &config.Config{}}).stages()
	switch err := o.CheckStages(); {
	case err != nil:
		return o, command.Coded(command.ExitUsage, err)
	case f.from != "" && f.only != "":
		return o, command.Usagef("--from-stage and --only exclude each other")
	case f.every != 0 && (f.scheduled != "" || f.from != "" || f.only != ""):
		return o, command.Usagef("--every is for whole runs at its own times: leave out --scheduled, --from-stage and --only")
	case f.every < 0 || f.every != 0 && f.every < time.Minute || f.every > 31*24*time.Hour:
		return o, command.Usagef("--every %v is out of range: 1m to 744h", f.every)
	case f.last < 1 || f.last > 1000:
		return o, command.Usagef("--last %d is out of range: 1 to 1000", f.last)
	}
	o.Log, err = logger(c.Stderr, f.log)
	return o, err
}

// run does one run, or with --every one after the other.
func (f *pipelineFlags) run(ctx context.Context, c *command.Call, cfg *config.Config, o pipeline.Options) error {
	a, s, err := connectTo(ctx, cfg)
	if err != nil {
		return err
	}
	w := &wiring{cfg: cfg, aws: a, at: s, out: c.Stderr, log: o.Log}
	o.Store, o.Stages, o.Owner = runsOf(cfg, a, s), w.stages(), owner()
	o.Resume, o.Lease = cfg.Pipeline.Resume, cfg.Pipeline.Lease
	if f.every == 0 {
		return once(ctx, c.Stdout, o)
	}
	schedule := pipeline.Schedule{Every: f.every, Offset: cfg.Pipeline.Offset, Retry: cfg.Pipeline.Retry}
	if schedule.Offset >= f.every {
		schedule.Offset = 0
	}
	o.Log.Info("started", "every", f.every.String(), "offset", schedule.Offset.String(), "version", version)
	pipeline.Follow(ctx, schedule, o.Store, o.Log, func(ctx context.Context, scheduled time.Time) error {
		o.Scheduled = scheduled
		return once(ctx, c.Stdout, o)
	})
	o.Log.Info("stopped; start it again to go on: a run that did not come to its end is taken up", "cause", context.Cause(ctx).Error())
	return nil
}

// once does one run, and prints what came of it.
func once(ctx context.Context, w io.Writer, o pipeline.Options) error {
	r, err := pipeline.Run(ctx, o)
	if errors.Is(err, pipeline.ErrDone) || errors.Is(err, pipeline.ErrSuperseded) {
		fmt.Fprintf(w, "%v; nothing to do\n", err)
		return nil
	}
	if r != nil {
		err = errors.Join(err, printStages(w, r))
	}
	return err
}

// owner names this process: to people by host and number, and for certain by
// some random letters.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "a host without a name"
	}
	return fmt.Sprintf("%s, process %d (%s)", host, os.Getpid(), strings.ToLower(rand.Text()[:6]))
}

// printStages prints a run's stages, one a line.
func printStages(w io.Writer, r *pipeline.Record) error {
	fmt.Fprintf(w, "run %s: %s\n", r.ID, r.State)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range r.Stages {
		s := &r.Stages[i]
		took, text := "-", s.Summary
		if s.Took() > 0 {
			took = s.Took().Round(time.Second).String()
		}
		if s.Error != "" {
			text = s.Error
		}
		if s.Tries > 1 {
			text = strings.TrimSpace(fmt.Sprintf("(try %d) %s", s.Tries, text))
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", s.Name, s.State, took, text)
	}
	return t.Flush()
}

// runsStatus is what `pipeline status --json` prints.
type runsStatus struct {
	Table  string            `json:"table"`
	Holder *pipeline.Holder  `json:"lock,omitempty"`
	Runs   []pipeline.Record `json:"runs"`
	Next   string            `json:"next"`
}

func (f *pipelineFlags) status(ctx context.Context, c *command.Call, cfg *config.Config) error {
	a, s, err := connectTo(ctx, cfg)
	if err != nil {
		return err
	}
	store := runsOf(cfg, a, s)
	st := runsStatus{Table: pipeline.Table(cfg.Prefix)}
	if st.Runs, err = store.Last(ctx, f.last); err != nil {
		return err
	}
	if st.Holder, err = store.Holder(ctx); err != nil {
		return err
	}
	st.Next = pipeline.Advice(st.Runs, st.Holder)
	if f.asJSON {
		e := json.NewEncoder(c.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(st)
	}
	if len(st.Runs) > 0 {
		t := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "RUN\tSTATE\tSTARTED\tTOOK\tAT\tBY")
		for i := range st.Runs {
			r := &st.Runs[i]
			took, at := "-", "-"
			if !r.Ended.IsZero() {
				took = r.Ended.Sub(r.Started).Round(time.Second).String()
			}
			if p := r.At(); p != nil {
				at = p.Name
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.State, toMinute(r.Started), took, at, r.Owner)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(c.Stdout)
		if err := printStages(c.Stdout, &st.Runs[0]); err != nil {
			return err
		}
	}
	if st.Holder != nil {
		fmt.Fprintf(c.Stdout, "lock: %s, last renewed %s by its own clock\n", st.Holder.Owner, st.Holder.Renewed.Format(time.RFC3339))
	}
	fmt.Fprintf(c.Stdout, "next: %s\n", st.Next)
	return nil
}
