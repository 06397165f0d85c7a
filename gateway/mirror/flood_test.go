package mirror_test

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"millrace/sample"
)

// TestFloodedTargets sends each of ten targets 1,000 results a second. The newest is
// written at the target's shortest interval, and all others are in the audit log.
func TestFloodedTargets(t *testing.T) {
	const (
		results  = 400 // for each target, one a millisecond
		interval = 100 * time.Millisecond
	)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var targets []*rule
		for i := range 10 {
			targets = append(targets, &rule{
				name: fmt.Sprintf("sp%d", i), unit: "kW", device: "float64", kind: sample.Float64, mode: "armed", limited: true, max: 1e6, minInterval: interval,
			})
		}
		x := newTrial(1, dir, targets)
		x.strict, x.fileBytes, x.w.duplicate, x.w.table, x.oracle.strict = false, 1<<20, false, false, false
		if err := x.start(0); err != nil {
			t.Fatal(err)
		}
		began := x.w.clock.Now()
		for version := range uint64(results) {
			var commands []*command
			for i, r := range targets {
				now := x.w.clock.Now()
				c := &command{
					no: int(version)*10 + i, id: fmt.Sprintf("%s-%d", r.name, version+1), site: siteName, target: r.name, version: version + 1,
					value: sample.FloatValue(float64(version)), unit: r.unit, computed: now, from: now, until: now.Add(time.Minute), signed: signedNot, resultRun: "flood",
				}
				x.g.encode(c)
				commands = append(commands, c)
			}
			maps.Copy(x.oracle.commands, x.w.put(commands))
			time.Sleep(time.Millisecond)
			if version == results/2+30 {
				synctest.Wait()
				for _, s := range x.engine.Status().Targets {
					if s.Pending == nil || s.Pending.Why != "interval" || s.Pending.Version != version+1 {
						t.Errorf("in the middle %s waits with %+v, want version %d alone", s.Name, s.Pending, version+1)
					}
				}
			}
		}
		time.Sleep(2 * interval)
		synctest.Wait()
		if err := x.end(false); err != nil {
			t.Fatal(err)
		}
		if err := x.judge(); err != nil {
			t.Fatal(err)
		}
		per := map[string]time.Time{}
		for _, w := range x.w.writes {
			since := w.at.Sub(began)
			newest := min(results, uint64(since/time.Millisecond)+1)
			if v := w.command.Version; v != newest && v+1 != newest {
				t.Errorf("%s after the start version %d was written to %s, and %d had come", since, v, w.target, newest)
			}
			if last, ok := per[w.target]; ok && w.at.Sub(last) > interval+2*time.Millisecond {
				t.Errorf("%s was not written for %s", w.target, w.at.Sub(last))
			}
			per[w.target] = w.at
		}
		const most = int(results*time.Millisecond/interval) + 1
		if n := len(x.w.writes); n != most*len(targets) {
			t.Errorf("%d writes, want %d for each of %d targets", n, most, len(targets))
		}
		counts := x.oracle.counts
		if counts["written"] != len(x.w.writes) || counts["superseded"] != results*len(targets)-len(x.w.writes) {
			t.Errorf("the audit log has %v of %d results and %d writes", counts, results*len(targets), len(x.w.writes))
		}
	})
}
