// Package pipeline runs the stages of the cloud half one after the other, by
// schedule. What has been done is kept in a small table of DynamoDB, so that a
// run that failed, was interrupted or crashed goes on at the stage where it was.
// A lock in the same table keeps two runs from being under way at once.
//
// The lock and the state: docs/adr/0022-pipeline-lock-and-state.md.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Stage is one step of a run. It may run again, whole or in part, whatever it has
// done before: what it writes converges.
type Stage struct {
	Name string
	// Off says why the stage has nothing to do, as "no warehouse is configured".
	// It is skipped then.
	Off string
	// Run does the stage's work and says in a few words what it has done. It ends
	// soon after ctx is done.
	Run func(ctx context.Context) (summary string, err error)
}

// State is where a run or a stage is.
type State string

// The states. They stand in the table, so they do not change.
const (
	Pending     State = "pending" // of a stage: not begun
	Running     State = "running" // under way, or crashed: then its lock is not renewed
	Done        State = "done"
	Failed      State = "failed"
	Interrupted State = "interrupted" // by a signal
	Skipped     State = "skipped"     // of a stage: off, or not asked for
)

// Progress is a stage of one run.
type Progress struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Tries   int       `json:"tries"` // how often it was begun
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Summary string    `json:"summary,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// Took is how long the stage's last try took; 0 while it lasts.
func (p *Progress) Took() time.Duration { return max(0, p.Ended.Sub(p.Started)) }

// Record is a run as the table keeps it. Its times are those of the machine that
// ran it; nothing is decided by them.
type Record struct {
	// ID is the schedule's time in UTC, as in 2026-11-28T02:00:00Z.
	ID      string     `json:"id"`
	State   State      `json:"state"`
	Owner   string     `json:"owner"`
	Started time.Time  `json:"started"`
	Ended   time.Time  `json:"ended,omitzero"`
	Stages  []Progress `json:"stages"`
}

// Scheduled is the schedule's time.
func (r *Record) Scheduled() time.Time {
	t, err := time.Parse(time.RFC3339, r.ID)
	if err != nil {
		return time.Time{} // an item that was made by hand
	}
	return t
}

// At is the first stage that is neither done nor skipped, nil where there is none.
func (r *Record) At() *Progress {
	for i := range r.Stages {
		if s := &r.Stages[i]; s.State != Done && s.State != Skipped {
			return s
		}
	}
	return nil
}

func (r *Record) stage(name string) *Progress {
	for i := range r.Stages {
		if r.Stages[i].Name == name {
			return &r.Stages[i]
		}
	}
	return nil
}

// IDOf is the id of the run of a schedule's time.
func IDOf(scheduled time.Time) string { return scheduled.UTC().Format(time.RFC3339) }

// Options are those of one run.
type Options struct {
	Store  *Store
	Stages []Stage
	// Scheduled is the time for which the schedule has started the run, to the
	// second. The same time again is the same run. Where it is zero, a run that
	// has not come to its end is taken up again if it was scheduled less than
	// Resume ago; else a new one begins.
	Scheduled time.Time
	Resume    time.Duration
	// From skips the stages before it, Only all others. Both begin a run anew.
	From string
	Only []string
	// Owner names this process to people, as in "host, process 4711".
	Owner string
	// Lease is how long the lock of a run that crashed keeps others out.
	Lease time.Duration
	Log   *slog.Logger
}

// The bounds of Options.Lease. A request of DynamoDB may take some seconds.
const (
	MinLease     = 10 * time.Second
	MaxLease     = time.Hour
	DefaultLease = time.Minute
)

// The errors of Run that are no failures of a stage.
var (
	// ErrDone says that the run of this schedule's time is done.
	ErrDone = errors.New("it is done already")
	// ErrSuperseded says that a later schedule's run has begun.
	ErrSuperseded = errors.New("a later run has begun")
	// ErrBusy says that a run is under way elsewhere.
	ErrBusy = errors.New("a run is under way")
	// ErrLost says that another run may have taken the lock.
	ErrLost = errors.New("the lock is lost")
	// ErrInterrupted says that ctx was done.
	ErrInterrupted = errors.New("interrupted")
)

// StageError is a stage that failed.
type StageError struct {
	Stage string
	Err   error
}

func (e *StageError) Error() string {
	return fmt.Sprintf("stage %s: %v; once that is mended, `millrace-cloud pipeline run` goes on there", e.Stage, e.Err)
}

func (e *StageError) Unwrap() error { return e.Err }

// CheckStages reports a name among From and Only that no stage has.
func (o *Options) CheckStages() error {
	names := make([]string, len(o.Stages))
	for i, s := range o.Stages {
		names[i] = s.Name
	}
	for _, name := range append(slices.Clone(o.Only), o.From) {
		if name != "" && !slices.Contains(names, name) {
			return fmt.Errorf("there is no stage %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// Run takes the lock, and runs the stages that are due. It returns the run as
// the table has it, also beside an error; nil where it came to nothing.
func Run(ctx context.Context, o Options) (*Record, error) {
	if err := o.CheckStages(); err != nil {
		return nil, err
	}
	if err := o.Store.Ensure(ctx); err != nil {
		return nil, interrupted(ctx, err)
	}
	lock, err := o.Store.take(ctx, o.Owner, o.Lease, o.Log)
	if err != nil {
		return nil, interrupted(ctx, err)
	}
	held, stop := lock.keep(ctx, o.Log)
	r, err := o.run(held, lock.fence)
	err = interrupted(ctx, err)
	stop()
	// What ended the run ends its requests too; the lock is given back all the same.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if lost := context.Cause(held); errors.Is(lost, ErrLost) {
		return r, fmt.Errorf("run %s: %w", name(r), lost)
	}
	if e := lock.release(after); e != nil {
		o.Log.Warn("the lock is not given back; it ends by itself", "within", o.Lease.String(), "error", e)
	}
	return r, err
}

// interrupted says so of an error that only follows from ctx being done.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && !errors.Is(err, ErrInterrupted) {
		return fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return err
}

// farewell bounds what is written after an interruption.
const farewell = 10 * time.Second

func name(r *Record) string {
	if r == nil {
		return "that was to begin"
	}
	return r.ID
}

// run goes through the stages. The lock is held.
func (o *Options) run(ctx context.Context, fence uint64) (*Record, error) {
	r, err := o.plan(ctx)
	if err != nil {
		return r, err
	}
	r.State, r.Owner, r.Ended = Running, o.Owner, time.Time{}
	if err := o.Store.put(ctx, r, fence); err != nil {
		return r, err
	}
	for _, s := range o.Stages {
		p := r.stage(s.Name)
		if p.State == Done || p.State == Skipped {
			continue
		}
		if err := o.stage(ctx, r, s, p, fence); err != nil {
			return r, err
		}
	}
	r.State, r.Ended = Done, o.Store.Now()
	return r, o.Store.put(ctx, r, fence)
}

// stage runs one stage, and has the table know of its beginning and its end.
func (o *Options) stage(ctx context.Context, r *Record, s Stage, p *Progress, fence uint64) error {
	if s.Off != "" {
		p.State, p.Summary = Skipped, s.Off
		o.Log.Info("stage skipped", "run", r.ID, "stage", s.Name, "why", s.Off)
		return nil // the next put has it
	}
	*p = Progress{Name: s.Name, State: Running, Tries: p.Tries + 1, Started: o.Store.Now()}
	if err := o.Store.put(ctx, r, fence); err != nil {
		return err
	}
	o.Log.Info("stage started", "run", r.ID, "stage", s.Name)
	summary, err := s.Run(ctx)
	p.Ended, p.Summary, p.State = o.Store.Now(), summary, Done
	// A stage that came to its end is done, whatever happened meanwhile.
	var failed error
	switch {
	case err == nil:
		o.Log.Info("stage done", "run", r.ID, "stage", s.Name, "took", p.Took().Round(time.Millisecond).String(), "summary", summary)
	case errors.Is(context.Cause(ctx), ErrLost):
		return err // the table is another's now
	case ctx.Err() != nil:
		p.State, r.State, r.Ended = Interrupted, Interrupted, p.Ended
		failed = fmt.Errorf("%w in stage %s; `millrace-cloud pipeline run` goes on there", ErrInterrupted, s.Name)
	default:
		p.State, p.Error, r.State, r.Ended = Failed, err.Error(), Failed, p.Ended
		failed = &StageError{Stage: s.Name, Err: err}
		o.Log.Error("stage failed", "run", r.ID, "stage", s.Name, "took", p.Took().Round(time.Millisecond).String(), "error", err)
	}
	if failed == nil && ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrLost) {
		r.State, r.Ended = Interrupted, p.Ended
		failed = fmt.Errorf("%w after stage %s; `millrace-cloud pipeline run` goes on with the next", ErrInterrupted, s.Name)
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(farewell, o.Lease))
	defer cancel()
	if e := o.Store.put(after, r, fence); e != nil {
		return errors.Join(failed, e)
	}
	return failed
}

// plan finds the run that is to be taken up, or makes a new one.
func (o *Options) plan(ctx context.Context) (*Record, error) {
	last, err := o.Store.Last(ctx, 1)
	if err != nil {
		return nil, err
	}
	anew := o.From != "" || len(o.Only) > 0
	id := IDOf(o.Scheduled)
	var r *Record
	switch {
	case o.Scheduled.IsZero():
		now := o.Store.Now().Truncate(time.Second)
		if len(last) > 0 {
			l := last[0]
			if l.State != Done && !anew && now.Sub(l.Scheduled()) < o.Resume {
				r = &l
				break
			}
			// The newest run sorts last, also where the clock has gone back.
			if at := l.Scheduled(); !now.After(at) {
				now = at.Add(time.Second)
			}
		}
		id = IDOf(now)
	default:
		if r, err = o.Store.get(ctx, id); err != nil {
			return nil, err
		}
		switch {
		case r != nil && r.State == Done && !anew:
			return r, fmt.Errorf("run %s: %w", id, ErrDone)
		case len(last) > 0 && last[0].ID > id && !anew:
			return nil, fmt.Errorf("run %s: %w: %s", id, ErrSuperseded, last[0].ID)
		}
	}
	if r == nil || anew {
		r = &Record{ID: id, Started: o.Store.Now()}
	} else {
		o.Log.Info("a run is taken up again", "run", r.ID, "state", string(r.State))
	}
	o.list(r, anew)
	return r, nil
}

// list gives the run's stages the order of ours. What a run has done before
// stays done.
func (o *Options) list(r *Record, anew bool) {
	stages := make([]Progress, 0, len(o.Stages))
	before := o.From != ""
	for _, s := range o.Stages {
		p := Progress{Name: s.Name, State: Pending}
		if old := r.stage(s.Name); old != nil && !anew {
			p = *old
		}
		before = before && s.Name != o.From
		if before || len(o.Only) > 0 && !slices.Contains(o.Only, s.Name) {
			p = Progress{Name: s.Name, State: Skipped, Summary: "not asked for"}
		}
		stages = append(stages, p)
	}
	r.Stages = stages
}
