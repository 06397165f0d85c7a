package spark

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/cloud/analysis"
	"millrace/cloud/analysis/result"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample"
)

func day(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }

// fake is a Runner that does what the script does: it makes outputs and marks.
type fake struct {
	t     *testing.T
	place objects.Place
	jobs  []Job
	plans []plan
	steps int // how many of a job's steps it does
	rows  int64
	fail  error
	used  map[string]bool // tokens of jobs that have ended
	// cancel ends the context while a job runs.
	cancel func()
}

func (f *fake) Run(ctx context.Context, j Job) error {
	if f.used[j.Token] {
		return ErrStale
	}
	f.used[j.Token] = true
	f.jobs = append(f.jobs, j)
	var p plan
	if err := json.Unmarshal([]byte(get(f.t, f.place, j.Plan)), &p); err != nil {
		f.t.Error(err)
	}
	f.plans = append(f.plans, p)
	if f.cancel != nil {
		f.cancel()
	}
	for i := range min(f.steps, len(p.Steps)) {
		if f.rows > 0 {
			put(f.t, f.place, p.Steps[i].Output, "rows of "+p.Steps[i].Result)
		}
		put(f.t, f.place, fmt.Sprintf("%s%05d.json", j.Done, i), fmt.Sprintf(`{"rows": %d}`, f.rows))
	}
	return f.fail
}

func put(t *testing.T, p objects.Place, key, text string) {
	t.Helper()
	if err := p.Put(context.Background(), key, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, p objects.Place, key string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.String(), key))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func setup(t *testing.T) (*fake, analysis.Options) {
	t.Helper()
	p, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, p, lake.SamplesKey("c", day(10), 0), "samples")
	put(t, p, lake.SamplesKey("007", day(10), 0), "samples")
	var next bytes.Buffer // analysis.Run asks it who delivered
	w := lake.NewWriter(&next)
	if err := errors.Join(w.Write(&lake.Row{Gateway: "gw1", Sample: sample.Sample{Tag: "c/d/t"}}), w.Close()); err != nil {
		t.Fatal(err)
	}
	put(t, p, lake.SamplesKey("c", day(11), 0), next.String())
	var catalogue bytes.Buffer
	if err := lake.WriteCatalogue(&catalogue, nil); err != nil {
		t.Fatal(err)
	}
	put(t, p, lake.CatalogueKey("c", 0), catalogue.String())
	f := &fake{t: t, place: p, steps: 100, rows: 3, used: map[string]bool{}}
	return f, analysis.Options{Place: p, Engine: &Engine{Place: p, Runner: f}, Log: slog.New(slog.DiscardHandler)}
}

// TestPlan: one job has all that is due, with the texts, the columns and the
// files.
func TestPlan(t *testing.T) {
	f, o := setup(t)
	r, err := analysis.Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.jobs) != 1 || len(f.plans[0].Steps) != 10 || r.Counts[0] != (analysis.Count{Result: "hourly", Computed: 2, Rows: 6}) {
		t.Fatalf("%+v, %+v", f.jobs, r)
	}
	j, p := f.jobs[0], f.plans[0]
	if get(t, o.Place, j.Script) != string(script) || !strings.HasPrefix(j.Script, "results/state/spark/analyze-") || len(j.Token) > 64 {
		t.Errorf("%+v", j)
	}
	if want := []string{"--place", o.Place.String(), "--plan", j.Plan, "--done", j.Done}; !slices.Equal(j.Args(), want) {
		t.Error(j.Args())
	}
	text, _ := analysis.Text("energy")
	if p.Texts["energy"] != text || len(p.Results["kpi"]) != 7 || p.Results["kpi"][2] != (column{"day", "timestamp"}) {
		t.Errorf("%+v", p.Results)
	}
	s := p.Steps[8]
	if s.Result != "kpi" || s.Day != "2026-11-11" || s.Start != day(11).UnixNano() || s.Output != result.Key("kpi", day(11), 0) || !slices.Equal(s.Key, []string{"device", "day"}) {
		t.Errorf("%+v", s)
	}
	if len(s.Views["energy"]) != 2 || len(s.Views["availability"]) != 1 {
		t.Errorf("%+v", s.Views)
	}
	s = p.Steps[2]
	if len(s.Views[analysis.Samples]) != 2 || s.Views[analysis.Samples][0].Site != "007" || s.Views[analysis.Gaps] != nil {
		t.Errorf("%+v", s.Views)
	}
	if want := []analysis.Gateway{{Site: "c", Name: "gw1"}}; !slices.Equal(s.NextDay, want) || p.Steps[7].Result != "availability" || p.Steps[7].NextDay != nil {
		t.Errorf("the day after: %v, and of the last day %+v", s.NextDay, p.Steps[7])
	}
	if _, there := s.Views[analysis.Gaps]; !there {
		t.Error("a view without files is missing")
	}
	// What the job has left is gone but for its script.
	var left []string
	if err := o.Place.List(context.Background(), Prefix, func(key string, _ int64) error { left = append(left, key); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(left, []string{j.Script}) {
		t.Error(left)
	}
	if _, err := analysis.Run(context.Background(), o); err != nil || len(f.jobs) != 1 {
		t.Errorf("nothing changed, and there are %d jobs: %v", len(f.jobs), err)
	}
}

// TestJobFails: what a job has done before it failed stays done, and the rest is
// in the next one.
func TestJobFails(t *testing.T) {
	f, o := setup(t)
	f.steps, f.fail = 4, errors.New("the capacity is used up")
	if _, err := analysis.Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "the capacity") {
		t.Fatal(err)
	}
	f.steps, f.fail = 2, nil
	if _, err := analysis.Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "did 2 steps of 6") {
		t.Fatal(err)
	}
	f.steps = 100
	if _, err := analysis.Run(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range f.plans {
		got = append(got, fmt.Sprintf("%d from %s %s", len(p.Steps), p.Steps[0].Result, p.Steps[0].Day))
	}
	if want := []string{"10 from hourly 2026-11-10", "6 from anomaly 2026-11-10", "4 from energy 2026-11-11"}; !slices.Equal(got, want) {
		t.Error(got)
	}
}

// TestSameStepsAgain: steps that were tried before get a job of their own, and
// its marks are not those of the earlier one.
func TestSameStepsAgain(t *testing.T) {
	f, o := setup(t)
	f.steps, f.fail = 0, errors.New("no capacity")
	for range 3 {
		if _, err := analysis.Run(context.Background(), o); err == nil {
			t.Fatal("no error")
		}
	}
	tokens, marks := map[string]bool{}, map[string]bool{}
	for _, j := range f.jobs {
		tokens[j.Token], marks[j.Done] = true, true
	}
	if len(tokens) != 3 || len(marks) != 3 || f.jobs[0].Plan != f.jobs[2].Plan {
		t.Errorf("%+v", f.jobs)
	}
}

func TestInterruptedJob(t *testing.T) {
	f, o := setup(t)
	ctx, cancel := context.WithCancel(context.Background())
	f.steps, f.fail, f.cancel = 3, context.Canceled, cancel
	if _, err := analysis.Run(ctx, o); !errors.Is(err, analysis.ErrInterrupted) {
		t.Fatal(err)
	}
	f.steps, f.fail = 100, nil
	if _, err := analysis.Run(context.Background(), o); err != nil || len(f.plans[1].Steps) != 7 {
		t.Errorf("%d steps, %v", len(f.plans[1].Steps), err)
	}
}

// slow makes a mark every 45 seconds.
type slow struct{ *fake }

func (s slow) Run(context.Context, Job) error {
	j := s.jobs[0]
	for i := range 3 {
		time.Sleep(45 * time.Second)
		put(s.t, s.place, fmt.Sprintf("%s%05d.json", j.Done, i), `{"rows": 0}`)
	}
	return nil
}

// TestAMinute: while a job runs there is a line a minute.
func TestAMinute(t *testing.T) {
	f, o := setup(t)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f.jobs = []Job{{Done: "marks/"}}
		e := &Engine{Place: o.Place, Log: slog.New(slog.NewTextHandler(&log, nil))}
		end := e.watch(context.Background(), "marks/", 4)
		if err := (slow{f}).Run(context.Background(), Job{}); err != nil {
			t.Error(err)
		}
		end()
		var got []string
		for line := range strings.Lines(log.String()) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "msg=")
			got = append(got, line)
		}
		want := []string{`"job goes on" done=1 of=4 per_minute=1.0 left=3m0s`, `"job goes on" done=2 of=4 per_minute=1.0 left=2m0s`}
		if !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}

// TestDamagedMark: a mark that does not read is not taken for a day without rows.
func TestDamagedMark(t *testing.T) {
	f, o := setup(t)
	put(t, o.Place, "x", "")
	for _, text := range []string{"{}", "{", `{"rows": "many"}`} {
		e := &Engine{Place: o.Place, Runner: f}
		put(t, o.Place, "mark", text)
		hourly, err := result.Named("hourly")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.file(context.Background(), &analysis.Step{Result: hourly, Day: day(10)}, "mark"); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	f.rows = 0
	if r, err := analysis.Run(context.Background(), o); err != nil || r.Counts[0].Rows != 0 {
		t.Error(r, err)
	}
}

func TestMachineSays(t *testing.T) {
	dir := t.TempDir()
	job := Job{Place: dir, Script: "script", Plan: "plan", Done: "done"}
	for python, want := range map[string]string{
		"/bin/false":              "it printed nothing",
		filepath.Join(dir, "no"):  "no such file",
		"no-such-python-anywhere": "--python",
	} {
		m := &Machine{Python: python, Master: "local[1]"}
		if err := m.Run(context.Background(), job); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", python, err)
		}
	}
	job.Place = "s3://bucket"
	if err := (&Machine{Python: "/bin/true"}).Run(context.Background(), job); err == nil || !strings.Contains(err.Error(), "in a folder only") {
		t.Error(err)
	}
	out := tail{max: 10}
	fmt.Fprint(&out, "first line\nlast one\n\n")
	if got := out.line(); got != "last one" {
		t.Errorf("%q", got)
	}
}
