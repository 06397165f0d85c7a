// Battery runs the fault battery and prints its table. See docs/faults.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"millrace/internal/faults"
)

// mediumBudget bounds each row of the medium form, so that a slow machine is
// through with all of them in some minutes. The table says how many trials it
// came to.
const mediumBudget = 40 * time.Second

func main() {
	if faults.IsChild() {
		os.Exit(faults.RunChild())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("faults", flag.ExitOnError)
	form := flags.String("form", "medium", "how many trials: short, medium or full")
	o := faults.Options{Out: os.Stdout}
	flags.StringVar(&o.Row, "row", "", "run this `row` alone")
	flags.IntVar(&o.Trials, "trials", 0, "override the form's `number` of trials")
	seed := flags.String("seed", "", "first seed; with -trials 1 it replays one trial")
	flags.DurationVar(&o.Budget, "budget", 0, "end each row after this `time`")
	flags.BoolVar(&o.Keep, "keep", false, "keep the directories of trials that failed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	var err error
	if o.Form, err = faults.ParseForm(*form); err != nil {
		return err
	}
	if o.Form == faults.Medium && o.Trials == 0 && o.Budget == 0 {
		o.Budget = mediumBudget
	}
	o.Seed = rand.Uint64() >> 12
	if *seed != "" {
		if _, err := fmt.Sscan(*seed, &o.Seed); err != nil {
			return fmt.Errorf("seed %q is not a number", *seed)
		}
	}
	fmt.Printf("first seed %d\n", o.Seed)
	out, err := faults.Run(ctx, faults.Rows(), o)
	if err != nil {
		return err
	}
	fmt.Println(faults.Summary(out))
	return faults.Err(out, faults.Strict())
}
