package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"millrace/internal/faults/faultfs"
)

// maxFailures ends a row early: what is broken so often is known.
const maxFailures = 10

// Options say what is run.
type Options struct {
	Form Form
	// Row runs one row alone; all where empty.
	Row string
	// Trials overrides the form's number; 0 leaves it.
	Trials int
	// Seed is the first trial's; the others follow from it. With Trials 1 it
	// replays one trial.
	Seed uint64
	// Budget ends each row after this time, with the trials so far; 0 is none.
	Budget time.Duration
	// Keep leaves the directories of trials that failed.
	Keep bool
	Out  io.Writer
}

// Outcome is what came of one row.
type Outcome struct {
	Row      string
	Trials   int
	Took     time.Duration
	Failures []Failure
	// Skipped says why the row was not run; empty where it was.
	Skipped string
}

// Failure is one trial that failed.
type Failure struct {
	Seed uint64
	Err  error
	Log  []string
}

// Run runs rows and prints the table, one line as each row ends.
func Run(ctx context.Context, rows []Row, o Options) ([]Outcome, error) {
	bench, err := newBench()
	if err != nil {
		return nil, err
	}
	defer bench.close()
	return bench.run(ctx, rows, o)
}

func (b *Bench) run(ctx context.Context, rows []Row, o Options) ([]Outcome, error) {
	var out []Outcome
	known := false
	fmt.Fprintf(o.Out, "%-14s %9s %9s %8s  %s\n", "row", "trials", "failures", "seconds", "what")
	for i := range rows {
		r := &rows[i]
		if o.Row != "" && r.Name != o.Row {
			continue
		}
		known = true
		c := runRow(ctx, b, r, o)
		out = append(out, c)
		if c.Skipped != "" {
			fmt.Fprintf(o.Out, "%-14s %9s %9s %8s  %s\n", r.Name, "skipped", "", "", c.Skipped)
			continue
		}
		fmt.Fprintf(o.Out, "%-14s %9d %9d %8.1f  %s\n", r.Name, c.Trials, len(c.Failures), c.Took.Seconds(), r.What)
		for _, f := range c.Failures {
			fmt.Fprintf(o.Out, "  seed %d: %v\n    replay: make faults ROW=%s SEED=%d TRIALS=1\n", f.Seed, f.Err, r.Name, f.Seed)
			for _, line := range f.Log {
				fmt.Fprintf(o.Out, "    | %s\n", line)
			}
		}
	}
	if !known {
		return nil, fmt.Errorf("there is no row %q", o.Row)
	}
	return out, ctx.Err()
}

func runRow(ctx context.Context, bench *Bench, r *Row, o Options) Outcome {
	c := Outcome{Row: r.Name}
	for _, n := range r.Needs {
		if why := n.Missing(); why != "" {
			c.Skipped = n.Name + " is needed: " + why
			return c
		}
	}
	want := r.trials(o.Form)
	if o.Trials > 0 {
		want = o.Trials
	}
	began := time.Now()
	seed := o.Seed
	under := 0 // trials promised by seeds that run
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range max(r.Parallel, 1) {
		workers.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for c.Trials+under < want && ctx.Err() == nil && len(c.Failures) < maxFailures {
				if o.Budget > 0 && time.Since(began) > o.Budget {
					break
				}
				s, left := seed, want-c.Trials-under
				seed++
				under++
				mu.Unlock()
				n, log, err := runTrial(ctx, bench, r, o, s, left, began)
				mu.Lock()
				under--
				c.Trials += max(n, 1)
				if err != nil && ctx.Err() == nil {
					c.Failures = append(c.Failures, Failure{Seed: s, Err: err, Log: log})
				}
			}
		})
	}
	workers.Wait()
	c.Took = time.Since(began)
	return c
}

// runTrial runs one seed in a directory of its own.
func runTrial(ctx context.Context, bench *Bench, r *Row, o Options, seed uint64, left int, began time.Time) (n int, log []string, err error) {
	dir, err := os.MkdirTemp(bench.base(seed), "millrace-fault-")
	if err != nil {
		return 0, nil, err
	}
	t := &Trial{
		Seed: seed, Rand: rand.New(rand.NewPCG(seed, 0)), Dir: dir, Left: left, Form: o.Form, Bench: bench,
		log: func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) },
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("BUG: the trial panicked: %v", p)
		}
		if err != nil && o.Keep {
			log = append(log, "kept: "+dir)
			return
		}
		if e := os.RemoveAll(dir); e != nil && err == nil {
			err = e
		}
	}()
	if o.Budget > 0 {
		t.Until = began.Add(o.Budget)
	}
	n, err = r.Run(ctx, t)
	return n, log, err
}

// Bench is what the trials of a run share.
type Bench struct {
	fast  string // directory on a file system in memory, or ""
	disk  string // directory on a disk
	self  string // this program, which is also the child
	built map[string]string
	// places is where failpoints are met, once they were looked for.
	places map[string][]place

	building sync.Mutex // of programs; guards built
}

func newBench() (*Bench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := faultfs.Sweep(); err != nil {
		return nil, fmt.Errorf("unmount what an earlier run left: %w", err)
	}
	b := &Bench{self: self, built: map[string]string{}}
	if b.disk, err = os.MkdirTemp("", "millrace-faults-"); err != nil {
		return nil, err
	}
	if dir, err := os.MkdirTemp("/dev/shm", "millrace-faults-"); err == nil {
		b.fast = dir
	}
	return b, nil
}

func (b *Bench) close() {
	for _, dir := range []string{b.fast, b.disk} {
		if dir == "" {
			continue
		}
		// A kept trial keeps its directory, which a plain Remove respects.
		left, _ := filepath.Glob(filepath.Join(dir, "millrace-fault-*"))
		if len(left) == 0 {
			_ = os.RemoveAll(dir)
		}
	}
}

// base is where a seed's directory is made: three in memory, one on the disk,
// whose calls take another time.
func (b *Bench) base(seed uint64) string {
	if b.fast == "" || seed%4 == 3 {
		return b.disk
	}
	return b.fast
}

// Summary says what a run came to, in one line.
func Summary(out []Outcome) string {
	trials, failures := 0, 0
	var skipped []string
	for _, c := range out {
		trials += c.Trials
		failures += len(c.Failures)
		if c.Skipped != "" {
			skipped = append(skipped, c.Row)
		}
	}
	text := fmt.Sprintf("faults: %d rows, %d trials, %d failures", len(out)-len(skipped), trials, failures)
	if len(skipped) > 0 {
		text += ", skipped: " + strings.Join(skipped, " ")
	}
	return text
}

// Strict reports whether a skipped row is a failure: in continuous integration
// that runs as root, where all that rows need should be there.
func Strict() bool { return os.Getenv("CI") != "" && os.Geteuid() == 0 }

// Err is what a run of the battery ends with: failures, and with strict set
// skipped rows too.
func Err(out []Outcome, strict bool) error {
	var errs []error
	for _, c := range out {
		if len(c.Failures) > 0 {
			errs = append(errs, fmt.Errorf("row %s: %d failures", c.Row, len(c.Failures)))
		}
		if c.Skipped != "" && strict {
			errs = append(errs, fmt.Errorf("row %s was skipped: %s", c.Row, c.Skipped))
		}
	}
	return errors.Join(errs...)
}
