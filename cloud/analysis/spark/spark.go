// Package spark runs the texts of the analysis on Spark: on EMR Serverless, or on
// this machine by PySpark, where the archive is a folder. The job is the script
// analyze.py, which is put into the archive's place beside its plan.
package spark

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

//go:embed analyze.py
var script []byte

// Prefix begins the keys of scripts, plans and marks in the archive's place.
const Prefix = result.Prefix + "state/spark/"

// batch is how many steps a job has at most: about two months of all results.
const batch = 300

// Job is one run of the script. Keys are in the archive's place.
type Job struct {
	// Place is where the archive is, as the script takes it.
	Place string
	// Script and Plan are the keys of two files that are there.
	Script, Plan string
	// Done begins the keys of the marks that the script makes, one for each step.
	Done string
	// Token tells the job from others: 64 characters at most.
	Token string
}

// Args are the arguments of the script.
func (j *Job) Args() []string {
	return []string{"--place", j.Place, "--plan", j.Plan, "--done", j.Done}
}

// Runner runs jobs. It is Serverless or Machine.
type Runner interface {
	// Run runs a job to its end. ErrStale says that a job of this token had ended
	// before, so that nothing was run. Where ctx ends, the job is ended too.
	Run(ctx context.Context, j Job) error
}

// ErrStale says that a job's token was used by one that has ended.
var ErrStale = errors.New("a job of this token has ended before")

// maxTries bounds how often the same steps are given to a Runner, over all runs.
const maxTries = 50

// Engine is an analysis.Engine by Spark.
type Engine struct {
	Place  objects.Place
	Runner Runner
	// Log gets a line a minute of how far a job has come; nil: none.
	Log *slog.Logger
}

// every is how often a job's marks are counted while it runs.
const every = time.Minute

// Batch implements analysis.Engine.
func (e *Engine) Batch() int { return batch }

// plan is what the script reads.
type plan struct {
	Texts   map[string]string   `json:"texts"`
	Results map[string][]column `json:"results"`
	Steps   []step              `json:"steps"`
}

type column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

type step struct {
	Result string                             `json:"result"`
	Day    string                             `json:"day"`
	Start  int64                              `json:"start"` // ns
	Key    []string                           `json:"key"`
	Output string                             `json:"output"`
	Views  map[analysis.View][]analysis.Input `json:"views"`
	// NextDay is what the view next_day is made of.
	NextDay []analysis.Gateway `json:"next_day,omitempty"`
}

// planOf is the plan of steps, as JSON. The same steps have the same plan.
func planOf(steps []analysis.Step) ([]byte, error) {
	p := plan{Texts: map[string]string{}, Results: map[string][]column{}}
	for _, r := range result.All() {
		text, err := analysis.Text(r.Name)
		if err != nil {
			return nil, err
		}
		p.Texts[r.Name] = text
		for _, c := range r.Columns {
			p.Results[r.Name] = append(p.Results[r.Name], column{c.Name, c.Type.String()})
		}
	}
	for i := range steps {
		s := &steps[i]
		views := map[analysis.View][]analysis.Input{}
		for _, v := range analysis.Views(s.Result.Name) {
			views[v] = nil
		}
		for _, in := range s.Inputs {
			views[in.View] = append(views[in.View], in)
		}
		p.Steps = append(p.Steps, step{Result: s.Result.Name, Day: s.Day.Format(time.DateOnly), Start: s.Day.UnixNano(),
			Key: s.Result.Key, Output: s.Output(), Views: views, NextDay: s.NextDay})
	}
	return json.MarshalIndent(p, "", "\t")
}

// Compute implements analysis.Engine. What a job has done before it failed or was
// interrupted counts.
func (e *Engine) Compute(ctx context.Context, steps []analysis.Step, done func(int, analysis.File) error) error {
	text, err := planOf(steps)
	if err != nil {
		return err
	}
	hash := func(data ...[]byte) string {
		h := sha256.New()
		for _, d := range data {
			h.Write(d)
		}
		return hex.EncodeToString(h.Sum(nil))[:32]
	}
	// The plan's name is of its content, and of the script's: a run that was killed
	// finds its job again.
	name := hash(text, []byte{0}, script)
	j := Job{Place: e.Place.String(), Script: Prefix + "analyze-" + hash(script) + ".py", Plan: Prefix + name + ".json"}
	if err := e.Place.Put(ctx, j.Script, script); err != nil {
		return fmt.Errorf("store the job's script: %w", err)
	}
	if err := e.Place.Put(ctx, j.Plan, text); err != nil {
		return fmt.Errorf("store the job's plan: %w", err)
	}
	for try := 1; ; try++ {
		if try > maxTries {
			return fmt.Errorf("the same %d steps were given to Spark %d times, and their jobs failed: look at the logs of the last one", len(steps), maxTries)
		}
		j.Done, j.Token = fmt.Sprintf("%s%s-%d/", Prefix, name, try), fmt.Sprintf("millrace-%s-%d", name, try)
		end := e.watch(ctx, j.Done, len(steps))
		err = e.Runner.Run(ctx, j)
		end()
		if !errors.Is(err, ErrStale) {
			break
		}
	}
	// Also after an interruption.
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	n, took := e.collect(late, steps, j.Done, done)
	if err = errors.Join(err, took); err != nil {
		return err
	}
	if n != len(steps) {
		return fmt.Errorf("the job ended well, and did %d steps of %d: look at its log", n, len(steps))
	}
	return e.clean(late, name)
}

// watch says how far a job has come, until its end is called.
func (e *Engine) watch(ctx context.Context, marks string, total int) (end func()) {
	if e.Log == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			n := 0
			err := e.Place.List(ctx, marks, func(string, int64) error { n++; return nil })
			if err != nil || n == 0 {
				continue // the job is starting; what is wrong with the place shows at its end
			}
			spent := time.Since(begun)
			left := (spent / time.Duration(n) * time.Duration(total-n)).Round(time.Second)
			e.Log.Info("job goes on", "done", n, "of", total, "per_minute", fmt.Sprintf("%.1f", float64(n)/spent.Minutes()), "left", left)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// collect calls done for the steps that a job has marked, in order, and returns
// how many these are.
func (e *Engine) collect(ctx context.Context, steps []analysis.Step, marks string, done func(int, analysis.File) error) (int, error) {
	for i := range steps {
		f, err := e.file(ctx, &steps[i], fmt.Sprintf("%s%05d.json", marks, i))
		if errors.Is(err, objects.ErrNone) {
			return i, nil
		}
		if err == nil {
			err = done(i, f)
		}
		if err != nil {
			return i, fmt.Errorf("%s: %w", &steps[i], err)
		}
	}
	return len(steps), nil
}

// file is what a marked step has made.
func (e *Engine) file(ctx context.Context, s *analysis.Step, mark string) (analysis.File, error) {
	r, err := e.Place.Get(ctx, mark)
	if err != nil {
		return analysis.File{}, err
	}
	var m struct {
		Rows *int64 `json:"rows"`
	}
	err = json.NewDecoder(io.LimitReader(r, 1<<10)).Decode(&m)
	if err = errors.Join(err, r.Close()); err != nil || m.Rows == nil {
		return analysis.File{}, fmt.Errorf("%s does not say how many rows there are: %w", mark, errors.Join(err, errors.ErrUnsupported))
	}
	f := analysis.File{Rows: *m.Rows}
	if f.Rows == 0 {
		return f, nil
	}
	out, err := e.Place.Get(ctx, s.Output())
	if err != nil {
		return f, fmt.Errorf("the job has marked it as done: %w", errors.New(err.Error()))
	}
	h := sha256.New()
	f.Bytes, err = io.Copy(h, out)
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	return f, errors.Join(err, out.Close())
}

// clean removes a plan and its marks. The script stays, for the next job.
func (e *Engine) clean(ctx context.Context, name string) error {
	var keys []string
	err := e.Place.List(ctx, Prefix+name, func(key string, _ int64) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list what the job has left: %w", err)
	}
	for _, key := range keys {
		if !strings.HasPrefix(key, Prefix+name) {
			continue
		}
		if err := e.Place.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove %s: %w", key, err)
		}
	}
	return nil
}
