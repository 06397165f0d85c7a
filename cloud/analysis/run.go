package analysis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

// ErrInterrupted says that the context ended before all was done.
var ErrInterrupted = errors.New("interrupted; what is done is kept, and the next run goes on from there")

// Options say what Run does.
type Options struct {
	Place  objects.Place // the archive
	Engine Engine
	// From and To bound the days, as in [From, To), at 00:00 UTC. The zero time is
	// the archive's own first day, or the one after its last.
	From, To time.Time
	// Results are the names of those to compute; nil for all. What they are made of
	// is brought up to date with them.
	Results []string
	Log     *slog.Logger
	// Progress makes what is told of the bytes of input that are done; total is of
	// all that is due. nil: nothing is told.
	Progress func(total int64) Progress
}

// Progress shows how far a run has come. It is progress.Meter.
type Progress interface {
	Add(n int64)
	Done()
}

// Count is what a run did of one result.
type Count struct {
	Result   string
	Computed int // days
	Kept     int // days whose inputs are those of the last time
	Rows     int64
}

// Report is what a run did.
type Report struct {
	First, Last time.Time // days looked at; zero where the archive has none in the range
	Counts      []Count   // in the order of result.All; results that were not asked for are left out
}

// Run brings the results of the days up to date. Where it is interrupted, what is
// done stays, and the next run goes on from there. Two runs at once write the
// same rows, and are a waste.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	report, err := do(ctx, o)
	if err != nil && ctx.Err() != nil {
		if errors.Is(err, context.Cause(ctx)) || errors.Is(err, ctx.Err()) {
			return report, ErrInterrupted
		}
		return report, fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	return report, err
}

func do(ctx context.Context, o Options) (*Report, error) {
	inv, err := look(ctx, o.Place)
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, inventory: inv, delivering: newDelivering(inv, o.Place), state: &state{place: o.Place, months: map[string]*month{}}, counts: map[string]*Count{}}
	from, to := o.From, o.To
	if from.IsZero() || from.Before(inv.first) {
		from = inv.first
	}
	if end := inv.last.AddDate(0, 0, 1); to.IsZero() || to.After(end) {
		to = end
	}
	report := &Report{}
	if inv.first.IsZero() || !from.Before(to) {
		return report, nil
	}
	if err := inv.whole(o.Place, from, to); err != nil {
		return nil, err
	}
	report.First, report.Last = from, to.AddDate(0, 0, -1)
	err = r.days(ctx, from, to)
	for _, res := range result.All() {
		if c := r.counts[res.Name]; c != nil {
			report.Counts = append(report.Counts, *c)
		}
	}
	return report, err
}

// Check reports a name that is no result's.
func Check(results []string) error {
	for _, name := range results {
		if _, err := result.Named(name); err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) check() error {
	if err := Check(o.Results); err != nil {
		return err
	}
	for _, at := range []time.Time{o.From, o.To} {
		if !at.IsZero() && !at.Equal(at.UTC().Truncate(24*time.Hour)) {
			return fmt.Errorf("BUG: %v is no day of UTC", at)
		}
	}
	return nil
}

// run is one call of Run.
type run struct {
	Options
	*inventory
	delivering *delivering
	state      *state
	counts     map[string]*Count
	shown      Progress
}

// dayOf names a day of a result.
type dayOf struct {
	name string
	day  time.Time
}

// wanted lists the days of results to look at, in the order in which they depend
// on each other: by day, and in one day as result.All has them.
func (r *run) wanted(from, to time.Time) []dayOf {
	want := map[dayOf]bool{}
	for _, res := range result.All() {
		if len(r.Results) > 0 && !slices.Contains(r.Results, res.Name) {
			continue
		}
		for d := from; d.Before(to); d = d.AddDate(0, 0, 1) {
			r.want(want, dayOf{res.Name, d})
		}
	}
	var out []dayOf
	for d := r.first; !d.After(r.last); d = d.AddDate(0, 0, 1) {
		for _, res := range result.All() {
			if want[dayOf{res.Name, d}] {
				out = append(out, dayOf{res.Name, d})
			}
		}
	}
	return out
}

// want adds a day of a result, and the results that it is made of.
func (r *run) want(want map[dayOf]bool, x dayOf) {
	if want[x] || x.day.Before(r.first) || x.day.After(r.last) {
		return
	}
	want[x] = true
	for _, need := range needs(x.name) {
		if !isResult(need.view) {
			continue
		}
		for d := x.day.AddDate(0, 0, -need.days); !d.After(x.day); d = d.AddDate(0, 0, 1) {
			r.want(want, dayOf{string(need.view), d})
		}
	}
}

// days computes what is due.
func (r *run) days(ctx context.Context, from, to time.Time) error {
	due := map[dayOf]bool{}
	var list []Step
	var total int64
	for _, x := range r.wanted(from, to) {
		s, isDue, err := r.step(ctx, x, due)
		if err != nil {
			return err
		}
		if !isDue {
			r.count(x.name).Kept++
			continue
		}
		due[x] = true
		list = append(list, s)
		total += weight(&s)
	}
	if err := r.delivering.keep(ctx); err != nil {
		return err
	}
	r.Log.Info("days are due", "days", len(list), "from", from.Format(time.DateOnly), "to", to.AddDate(0, 0, -1).Format(time.DateOnly))
	if r.Progress != nil {
		r.shown = r.Progress(total)
		defer r.shown.Done()
	}
	for len(list) > 0 {
		n := min(len(list), r.Engine.Batch())
		if err := r.batch(ctx, list[:n], due); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// batch computes steps, but for one that stands first and is as it was after
// all: what it depends on was made again and came out the same.
func (r *run) batch(ctx context.Context, steps []Step, due map[dayOf]bool) error {
	weights := make([]int64, len(steps))
	for i := range steps {
		weights[i] = weight(&steps[i])
	}
	delete(due, dayOf{steps[0].Result.Name, steps[0].Day})
	first, isDue, err := r.step(ctx, dayOf{steps[0].Result.Name, steps[0].Day}, due)
	if err != nil {
		return err
	}
	steps[0] = first
	skipped := 0
	if !isDue {
		r.count(first.Result.Name).Kept++
		r.add(weights[0])
		if steps, skipped = steps[1:], 1; len(steps) == 0 {
			return nil
		}
	}
	return r.Engine.Compute(ctx, steps, func(i int, f File) error {
		// What is done is done, also where the context has ended meanwhile.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		s := &steps[i]
		x := dayOf{s.Result.Name, s.Day}
		delete(due, x)
		// What it was made of is known now, where that was made in this batch.
		var err error
		if s.Inputs, err = r.inputs(ctx, r.state, s.Result, s.Day, func(name string, day time.Time) bool { return due[dayOf{name, day}] }); err != nil {
			return err
		}
		hash, err := s.hash()
		if err != nil {
			return err
		}
		if err := r.state.set(ctx, s.Result.Name, s.Day, made{Inputs: hash, Rows: f.Rows, Bytes: f.Bytes, SHA256: f.SHA256}); err != nil {
			return err
		}
		c := r.count(s.Result.Name)
		c.Computed++
		c.Rows += f.Rows
		r.add(weights[i+skipped])
		return nil
	})
}

// step makes the step of a day of a result, and says whether it is due: the
// inputs are others than the last time, one of them is due itself, or the output
// is not there.
func (r *run) step(ctx context.Context, x dayOf, due map[dayOf]bool) (Step, bool, error) {
	res, err := result.Named(x.name)
	if err != nil {
		return Step{}, false, err
	}
	s := Step{Result: res, Day: x.day}
	if looksAhead(x.name) {
		if s.NextDay, err = r.delivering.of(ctx, x.day.AddDate(0, 0, 1)); err != nil {
			return s, false, err
		}
	}
	waits := false
	s.Inputs, err = r.inputs(ctx, r.state, res, x.day, func(name string, day time.Time) bool {
		awaited := due[dayOf{name, day}]
		waits = waits || awaited
		return awaited
	})
	if err != nil || waits {
		return s, true, err
	}
	hash, err := s.hash()
	if err != nil {
		return s, false, err
	}
	was, known, err := r.state.of(ctx, x.name, x.day)
	if err != nil {
		return s, false, err
	}
	size, there := r.outputs[s.Output()]
	kept := known && was.Inputs == hash && (was.Rows == 0 || there && size == was.Bytes)
	return s, !kept, nil
}

func (r *run) count(name string) *Count {
	if r.counts[name] == nil {
		r.counts[name] = &Count{Result: name}
	}
	return r.counts[name]
}

func (r *run) add(n int64) {
	if r.shown != nil {
		r.shown.Add(n)
	}
}

// weight is what a step reads, in bytes, so far as that is known ahead.
func weight(s *Step) int64 {
	var n int64
	for _, in := range s.Inputs {
		n += in.Size
	}
	return n
}
