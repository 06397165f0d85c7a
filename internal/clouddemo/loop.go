package clouddemo

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"millrace/cloud/analysis"
	"millrace/cloud/archive"
	"millrace/cloud/catalogue"
	"millrace/cloud/results"
	"millrace/cloud/state"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/weektable"
)

// caughtUpWithin bounds the wait until what the logger delivered is in the
// tables.
const caughtUpWithin = 30 * time.Second

// loop brings what has come so far through archive and analysis back into the
// plant, while the gateway runs.
func (w *world) loop(ctx context.Context) error {
	if err := w.caughtUp(ctx); err != nil {
		return err
	}
	if err := w.archiveWeeks(ctx); err != nil {
		return err
	}
	if err := w.analyse(ctx); err != nil {
		return err
	}
	if err := w.between(ctx, AfterResults); err != nil {
		return err
	}
	if err := w.arm(ctx); err != nil {
		return err
	}
	version, err := w.publish(ctx)
	if err != nil || version == 0 {
		return err
	}
	return w.mirrored(ctx, version)
}

// caughtUp waits until the queue has all of the logger's readings and the workers
// have emptied it.
func (w *world) caughtUp(ctx context.Context) error {
	for end := time.Now().Add(caughtUpWithin); ; {
		n := 0
		for _, s := range w.accepted.samples() {
			if s.Producer == loggerName {
				n++
			}
		}
		if n >= len(w.logger.readings) {
			return w.drained(ctx)
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %s the queue has %d of the logger's %d readings", caughtUpWithin, n, len(w.logger.readings))
		}
		if !backoff.Sleep(ctx, 100*time.Millisecond) {
			return errInterrupted
		}
	}
}

// archiveWeeks archives each week's table.
func (w *world) archiveWeeks(ctx context.Context) error {
	names, err := w.db.ListTables(ctx, &dynamodb.ListTablesInput{})
	if err != nil {
		return fmt.Errorf("list the tables: %w", err)
	}
	for _, name := range names.TableNames {
		_, start, week := weektable.ParseTable(name)
		if !week {
			continue
		}
		year, number := start.ISOWeek()
		r, err := archive.Run(ctx, archive.Options{
			DB: w.db, Place: w.archive, Prefix: prefix, Week: fmt.Sprintf("%04d-w%02d", year, number),
			Catalogue: &catalogue.Store{DB: w.db, Prefix: prefix}, Dir: filepath.Join(w.dir, "scratch"),
			Log: w.log, Clock: clock.System{}, Sleep: backoff.Sleep,
		})
		if err != nil {
			return err
		}
		if r.Items > 0 {
			w.say("archive %s: %d items, %d samples, %d rows, %d days written, %d kept", r.Table, r.Items, r.Samples, r.Rows, r.Days, r.Kept)
		}
	}
	return nil
}

// analyse brings the results up to date.
func (w *world) analyse(ctx context.Context) error {
	r, err := analysis.Run(ctx, analysis.Options{
		Place: w.archive, Results: w.o.Results, Log: w.log,
		Engine: &analysis.Machine{Place: w.archive, Local: w.o.Engine, Dir: filepath.Join(w.dir, "work")},
	})
	if err != nil {
		return err
	}
	for _, c := range r.Counts {
		w.say("analyze %s: %d rows, %d days computed, %d kept", c.Result, c.Rows, c.Computed, c.Kept)
	}
	return nil
}

// publish sends the mean power of the last whole hour to the site, signed, and
// returns its version.
func (w *world) publish(ctx context.Context) (uint64, error) {
	out, err := results.Publish(ctx, results.Options{
		Place: w.archive, Table: state.Table{DB: w.db, Name: results.TableName(prefix), Sleep: backoff.Sleep},
		Queue: func(string) results.Queue { return w.queues },
		Rules: []results.Rule{{
			Site: Site, Target: targetName, Queue: w.aws.QueueURL(resultsName), Result: "hourly", Of: powerTag, Column: "mean",
			Type: sample.Float64, Unit: "kW", Scale: 1, Validity: 2 * time.Hour,
			AtLeast: map[string]float64{"good": float64(time.Hour / loggerEvery)},
		}},
		Key: keyName, Private: w.private,
		// The logger recorded all of what was before; the present hour is not whole.
		Now: time.Now, Through: w.logger.until, Dir: w.dir, Log: w.log,
	})
	if err != nil {
		return 0, err
	}
	for _, o := range out {
		w.say("results %s: %s %s, version %d %s", o.Rule, o.What, o.Value, o.Version, o.Detail)
		if o.What == results.Published {
			return o.Version, nil
		}
	}
	w.report.find("results", "nothing was published")
	return 0, nil
}
