package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/internal/sim/awssim"
	"millrace/internal/sim/netsim"
)

var at = time.Date(2026, 11, 28, 2, 0, 0, 0, time.UTC)

func TestARunGoesThroughItsStages(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("one")
		o.Scheduled = at
		o.Stages[2].Off = "nothing is configured"
		rec, err := r.run(o)
		r.expect(rec, err, "done tables=done archive=done analyze=skipped results=done")
		if began := r.began(); !slices.Equal(began, []string{"tables", "archive", "results"}) {
			t.Errorf("ran %v", began)
		}
		if rec.ID != "2026-11-28T02:00:00Z" || rec.Stages[1].Summary != "did archive" || rec.Stages[1].Took() != time.Minute || rec.Stages[1].Tries != 1 {
			t.Errorf("%+v", rec)
		}
		through, err := o.Store.Through(t.Context(), "archive", "results")
		if err != nil || !through.Equal(rec.Stages[1].Started) {
			t.Errorf("through %v, %v", through, err)
		}
		h, err := o.Store.Holder(t.Context())
		if h != nil || err != nil {
			t.Errorf("the lock is still with %+v, %v", h, err)
		}
		// The schedule may deliver its event twice.
		if _, err := r.run(o); !errors.Is(err, ErrDone) || len(r.began()) != 0 {
			t.Errorf("the second delivery: %v", err)
		}
		o.Scheduled = at.Add(24 * time.Hour)
		rec, err = r.run(o)
		r.expect(rec, err, "done tables=done archive=done analyze=skipped results=done")
		// One of the day before comes late, and was never begun.
		r.began()
		o.Scheduled = at.Add(12 * time.Hour)
		if _, err := r.run(o); !errors.Is(err, ErrSuperseded) || len(r.began()) != 0 {
			t.Errorf("a late delivery: %v", err)
		}
	})
}

// TestACrashAnywhere kills the process at each of its requests in turn, once
// before and once after it is carried out, and runs again on another machine,
// whose clock is a day off. The run comes to its end; no stage that the table
// has as done runs twice, and only the one of the crash can.
func TestACrashAnywhere(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for n, finished := 0, false; !finished; n++ {
			bubble(t, func(t *testing.T, r *rig) {
				o := r.options("one")
				o.Scheduled = at
				if finished = r.crash(o, newMortal(o.Store.DB, n, applied)); finished {
					if n < 20 {
						t.Errorf("%d requests, which cannot be all", n)
					}
					return
				}
				before := r.began()
				again := r.options("two")
				again.Store, again.Scheduled = r.store(-24*time.Hour), at
				rec, err := r.run(again)
				if errors.Is(err, ErrDone) { // it died when nothing was left to do
					rec, err = again.Store.get(t.Context(), IDOf(at))
				}
				r.expect(rec, err, allDone)
				after := r.began()
				got := counts(append(before, after...))
				if once := strings.ReplaceAll(got, "2", "1"); once != "1111" || strings.Count(got, "2") > 1 {
					t.Errorf("request %d (carried out: %v): stages ran %s times: %v, then %v", n, applied, got, before, after)
				}
			})
		}
	}
}

// TestACrashWithinAStage: the lease ends, and only then the next run begins.
func TestACrashWithinAStage(t *testing.T) {
	for i, name := range names {
		bubble(t, func(t *testing.T, r *rig) {
			o := r.options("one")
			o.Scheduled = at
			m := newMortal(o.Store.DB, 1000, false)
			o.Stages = r.stages(map[string]func(context.Context) (string, error){name: func(ctx context.Context) (string, error) {
				m.kill()
				<-ctx.Done()
				return "", ctx.Err()
			}})
			r.crash(o, m)
			r.began()
			o2 := r.options("two")
			o2.Scheduled = at
			start := time.Now()
			rec, err := r.run(o2)
			r.expect(rec, err, allDone)
			if began := r.began(); !slices.Equal(began, names[i:]) {
				t.Errorf("crash in %s: then ran %v", name, began)
			}
			waited := time.Since(start) - time.Duration(len(names)-i)*time.Minute
			if waited < DefaultLease || waited > DefaultLease*5/4 {
				t.Errorf("crash in %s: the next run waited %v, the lease is %v", name, waited, DefaultLease)
			}
			if p := rec.Stages[i]; p.Tries != 2 {
				t.Errorf("crash in %s: %d tries", name, p.Tries)
			}
		})
	}
}

// TestTwoAtOnce: the second is refused within a third of the lease; the first
// notices nothing.
func TestTwoAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		first := make(chan error, 1)
		go func() {
			o := r.options("one")
			o.Scheduled = at
			_, err := r.run(o)
			first <- err
		}()
		time.Sleep(90 * time.Second) // in the archive
		for range 3 {
			start := time.Now()
			o := r.options("two")
			o.Scheduled = at.Add(time.Hour)
			_, err := r.run(o)
			if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "one has the lock") || time.Since(start) > DefaultLease/3 {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		if got := counts(r.began()); got != "1111" {
			t.Errorf("stages ran %s times", got)
		}
	})
}

// TestManyAtOnce: of ten that begin in one moment, on a new table, exactly one
// runs.
func TestManyAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		results := make(chan error, 10)
		for range cap(results) {
			go func() {
				o := r.options("one of many")
				o.Scheduled = at
				_, err := r.run(o)
				results <- err
			}()
		}
		won := 0
		for range cap(results) {
			switch err := <-results; {
			case err == nil:
				won++
			case !isAny(err, ErrBusy, ErrDone):
				t.Error(err)
			}
		}
		if got := counts(r.began()); won != 1 || got != "1111" {
			t.Errorf("%d runs, stages ran %s times", won, got)
		}
	})
}

// TestManyAfterACrash: of ten that wait for a crashed run's lease to end, exactly
// one takes its lock; and of ten that then find the lock free, one.
func TestManyAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("one")
		o.Scheduled = at
		m := newMortal(o.Store.DB, 1000, false)
		o.Stages = r.stages(map[string]func(context.Context) (string, error){"tables": func(ctx context.Context) (string, error) {
			m.kill()
			<-ctx.Done()
			return "", ctx.Err()
		}})
		r.crash(o, m)
		r.began()
		for round := range 2 {
			results := make(chan error, 10)
			for range cap(results) {
				go func() {
					o := r.options("one of many")
					o.Scheduled = at.Add(time.Duration(round) * time.Hour)
					_, err := r.run(o)
					results <- err
				}()
			}
			won := 0
			for range cap(results) {
				switch err := <-results; {
				case err == nil:
					won++
				case !isAny(err, ErrBusy, ErrDone):
					t.Error(err)
				}
			}
			if got := counts(r.began()); won != 1 || got != "1111" {
				t.Errorf("round %d: %d runs, stages ran %s times", round, won, got)
			}
		}
	})
}

// TestFrozen: a machine that stands still for longer than its lease finds its
// lock taken, and changes nothing of what the other has written.
func TestFrozen(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("frozen")
		o.Scheduled = at
		// Frozen: neither its clock's timers nor its requests go on.
		thaw := make(chan struct{})
		o.Store.Sleep = func(ctx context.Context, _ time.Duration) bool { <-thaw; return ctx.Err() == nil }
		o.Stages = r.stages(map[string]func(context.Context) (string, error){"archive": func(context.Context) (string, error) { <-thaw; return "too late", nil }})
		if err := r.store(0).Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := make(chan error, 1)
		go func() {
			_, err := r.run(o)
			first <- err
		}()
		time.Sleep(70 * time.Second)
		o2 := r.options("two")
		o2.Scheduled = at
		rec, err := r.run(o2)
		r.expect(rec, err, allDone)
		close(thaw)
		if err := <-first; !errors.Is(err, ErrLost) {
			t.Errorf("the frozen one: %v", err)
		}
		r.expect(rec, nil, allDone)
		if rec.Owner != "two" {
			t.Errorf("owner %s", rec.Owner)
		}
		if got := counts(r.began()); got != "1211" {
			t.Errorf("stages ran %s times", got)
		}
	})
}

// TestCutOff: who cannot renew the lock stops its stage before the lease ends.
func TestCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("one")
		o.Scheduled = at
		var stopped time.Duration
		o.Stages = r.stages(map[string]func(context.Context) (string, error){"archive": func(ctx context.Context) (string, error) {
			start := time.Now()
			r.net.Set(netsim.Dark)
			<-ctx.Done()
			stopped = time.Since(start)
			return "", ctx.Err()
		}})
		_, err := r.run(o)
		if !errors.Is(err, ErrLost) || stopped > DefaultLease || stopped < DefaultLease/2 {
			t.Errorf("stopped after %v: %v", stopped, err)
		}
		r.net.Set(netsim.Up)
		r.http.CloseIdleConnections()
		o = r.options("two")
		o.Scheduled = at
		rec, err := r.run(o)
		r.expect(rec, err, allDone)
	})
}

// TestThrottledTable: throttling for a while delays, and for good it fails with
// a clear line, before anything has run.
func TestThrottledTable(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("one")
		o.Scheduled = at
		o.Stages = r.stages(map[string]func(context.Context) (string, error){"archive": func(ctx context.Context) (string, error) {
			r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Throttled: 1})
			time.AfterFunc(25*time.Second, func() { r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Throttled: 0.5, AnswerLost: 0.2}) })
			return "did archive", nil
		}})
		rec, err := r.run(o)
		r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
		r.expect(rec, err, allDone)
		if got := counts(r.began()); got != "1111" {
			t.Errorf("stages ran %s times", got)
		}
		r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Throttled: 1})
		o.Scheduled = at.Add(time.Hour)
		if _, err := r.run(o); err == nil || !strings.Contains(err.Error(), "look at table plant-pipeline: ThrottlingException") {
			t.Errorf("throttled for good: %v", err)
		}
		r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Denied: true})
		if _, err := r.run(o); err == nil || !strings.Contains(err.Error(), "allow the action") || strings.Contains(err.Error(), "\n") {
			t.Errorf("denied: %v", err)
		}
		if len(r.began()) > 0 {
			t.Error("a stage ran without the lock")
		}
	})
}

// TestLostAnswers: requests that are carried out and not answered are asked
// again, and nobody loses the lock to himself.
func TestLostAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		if err := r.store(0).Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{AnswerLost: 0.4})
			o := r.options("one")
			o.Scheduled = at.Add(time.Duration(i) * time.Hour)
			rec, err := r.run(o)
			r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
			r.expect(rec, err, allDone)
			if got := counts(r.began()); got != "1111" {
				t.Errorf("stages ran %s times", got)
			}
		}
	})
}

func TestAFailureIsTakenUpAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("one")
		o.Stages = r.stages(map[string]func(context.Context) (string, error){"analyze": func(context.Context) (string, error) { return "", errors.New("no room on disk") }})
		rec, err := r.run(o)
		var failed *StageError
		if !errors.As(err, &failed) || failed.Stage != "analyze" || err.Error() != "stage analyze: no room on disk; once that is mended, `millrace-cloud pipeline run` goes on there" {
			t.Fatal(err)
		}
		r.expect(rec, nil, "failed tables=done archive=done analyze=failed results=pending")
		if rec.At().Error != "no room on disk" {
			t.Errorf("%+v", rec.At())
		}
		r.began()
		time.Sleep(time.Hour)
		again, err := r.run(r.options("two"))
		r.expect(again, err, allDone)
		if began := r.began(); again.ID != rec.ID || !slices.Equal(began, []string{"analyze", "results"}) {
			t.Errorf("run %s after %s: %v", again.ID, rec.ID, began)
		}
		// Done: the next one is new.
		time.Sleep(time.Hour)
		rec, err = r.run(r.options("two"))
		r.expect(rec, err, allDone)
		if rec.ID == again.ID || counts(r.began()) != "1111" {
			t.Errorf("run %s again", rec.ID)
		}
		// An old failure is left behind: the new day's run is from the beginning.
		time.Sleep(time.Hour)
		if _, err = r.run(o); err == nil {
			t.Fatal("no failure")
		}
		r.began()
		time.Sleep(24 * time.Hour)
		rec, err = r.run(r.options("two"))
		r.expect(rec, err, allDone)
		if counts(r.began()) != "1111" {
			t.Error("yesterday's run was taken up")
		}
		last, err := o.Store.Last(t.Context(), 2)
		if err != nil || len(last) != 2 || last[0].ID != rec.ID || last[1].State != Failed {
			t.Errorf("%+v, %v", last, err)
		}
	})
}

// TestInterrupted at any moment: the lock is given back at once, and the run goes
// on where it was.
func TestInterrupted(t *testing.T) {
	for after := time.Second; after < 4*time.Minute+30*time.Second; after += 13 * time.Second {
		bubble(t, func(t *testing.T, r *rig) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			o := r.options("one")
			o.Scheduled = at
			rec, err := Run(ctx, o)
			if err == nil {
				r.expect(rec, err, allDone)
				return
			}
			if !errors.Is(err, ErrInterrupted) {
				t.Fatal(err)
			}
			before := r.began()
			start := time.Now()
			rec, err = r.run(o)
			r.expect(rec, err, allDone)
			if got := counts(append(before, r.began()...)); strings.Trim(got, "12") != "" || strings.Count(got, "2") > 1 {
				t.Errorf("interrupted after %v: stages ran %s times", after, got)
			}
			if took := time.Since(start); took > 4*time.Minute+10*time.Second {
				t.Errorf("interrupted after %v: the rest took %v, so the lock was in the way", after, took)
			}
		})
	}
}

func TestSomeStagesAlone(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		o := r.options("one")
		o.From = "analyze"
		rec, err := r.run(o)
		r.expect(rec, err, "done tables=skipped archive=skipped analyze=done results=done")
		o = r.options("one")
		o.Only = []string{"archive"}
		rec2, err := r.run(o)
		r.expect(rec2, err, "done tables=skipped archive=done analyze=skipped results=skipped")
		if rec2.ID <= rec.ID {
			t.Errorf("%s after %s", rec2.ID, rec.ID)
		}
		if got := counts(r.began()); got != "0111" {
			t.Errorf("stages ran %s times", got)
		}
		o.Only = []string{"archve"}
		if _, err := r.run(o); err == nil || err.Error() != `there is no stage "archve"; there are tables, archive, analyze, results` {
			t.Error(err)
		}
		// A clock that has gone back a year does not put a new run before the last.
		o = r.options("one")
		o.Store = r.store(-365 * 24 * time.Hour)
		rec3, err := r.run(o)
		r.expect(rec3, err, allDone)
		if rec3.ID <= rec2.ID {
			t.Errorf("%s after %s", rec3.ID, rec2.ID)
		}
	})
}

func TestFollow(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		var slots []string
		fail := 2
		s := Schedule{Every: 24 * time.Hour, Offset: 30 * time.Minute, Retry: 15 * time.Minute}
		time.Sleep(10 * time.Hour)
		store := r.store(0)
		Follow(ctx, s, store, r.slog, func(ctx context.Context, scheduled time.Time) error {
			slots = append(slots, scheduled.Format("02 15:04")+" at "+time.Now().UTC().Format("02 15:04"))
			switch len(slots) {
			case 2: // longer than two periods: one is left out
				time.Sleep(50 * time.Hour)
			case 3, 4:
				if fail--; fail >= 0 {
					return errors.New("not now")
				}
			case 6:
				cancel()
			}
			return nil
		})
		want := []string{"01 00:30 at 01 10:00", "02 00:30 at 02 00:30", "04 00:30 at 04 02:30", "04 00:30 at 04 02:45", "04 00:30 at 04 03:00", "05 00:30 at 05 00:30"}
		if !slices.Equal(slots, want) {
			t.Errorf("%v", slots)
		}
		if !strings.Contains(r.log.String(), "in=15m0s error=\"not now\"") {
			t.Error(r.log.String())
		}
	})
}

func TestNothingHasRun(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		runs, err := r.store(0).Last(t.Context(), 10)
		if len(runs) != 0 || err != nil {
			t.Errorf("%v, %v", runs, err)
		}
		if h, err := r.store(0).Holder(t.Context()); h != nil || err != nil {
			t.Errorf("%v, %v", h, err)
		}
	})
}
