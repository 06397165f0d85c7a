// Package archive writes a week's table to Parquet: every sample once, sorted by
// tag and time, one folder for each site and day, and last the manifest by which
// the table may be deleted. docs/cloud-archive.md describes it.
//
// A run has four steps. The table's blocks are brought to the local disk as they
// are, and checked. Those of a site's day are compared by a hash with what its
// files were made of; a day that is the same stays as it is. The others are
// decoded, sorted with bounded memory, and written. When all files are in place
// and were read back, the manifest is written. So a run that ends anywhere
// leaves what was whole, and the next one does what is left.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/internal/clock"
	"millrace/internal/weekitem"
	"millrace/sample/weektable"
)

// API is what is asked of DynamoDB.
type API interface {
	DescribeTable(context.Context, *dynamodb.DescribeTableInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Catalogue is where the gap records and the catalogue are read:
// *catalogue.Store.
type Catalogue interface {
	Entries(ctx context.Context, site string, fn func(*catalogue.Entry) error) error
	Gaps(ctx context.Context, site string, from, to time.Time, fn func(*catalogue.Gap) error) error
}

// Progress is told how far a run has come: *progress.Meter.
type Progress interface {
	Phase(done, unit string, total int64)
	Add(n int64)
}

// The bounds of Options.
const (
	defaultSegments = 4
	MaxSegments     = 64
	maxWorkers      = 2
)

// Options say what is archived.
type Options struct {
	DB     API
	Place  objects.Place // the archive
	Prefix string        // of the tables' names
	Week   string        // as in 2026-w48
	// Catalogue gives the gap records and the catalogue; where it is nil these are
	// not written.
	Catalogue Catalogue
	// Segments is how many parts of the table are scanned at once, up to
	// MaxSegments; 4 where it is 0.
	Segments int
	// Dir is a folder of the local disk for what is on its way: the table's bytes,
	// and three times those of its largest day. An interrupted run goes on from
	// what is in it.
	Dir      string
	Log      *slog.Logger
	Progress Progress // may be nil
	Clock    clock.Clock
	// Sleep waits for d, or until ctx is done, and reports whether it waited to
	// the end.
	Sleep func(ctx context.Context, d time.Duration) bool
}

// Report is what a run has done.
type Report struct {
	Table string
	// Dropped says that the table is there no more, and only late blocks were
	// added to its archive.
	Dropped    bool
	Items      int64 // of the table; those of the manifest where it is dropped
	Late       int   // late blocks that are archived, all in all
	Samples    int64 // in the table's blocks
	Rows       int64 // in the archive
	Duplicates int64 // samples left out, since they are among the rows already
	// Days are how many days of sites were written, and Kept how many stayed.
	Days, Kept    int
	Files         int   // of the manifest
	Bytes         int64 // of its files
	WrittenFiles  int
	WrittenBytes  int64
	Unchanged     bool // nothing was written, the manifest neither
	SkippedWeekly bool // gap records and catalogue were not written, for want of a Catalogue
}

// run is one run.
type run struct {
	o       Options
	table   string
	start   time.Time // Monday 00:00 UTC
	old     *manifest.Manifest
	store   *store
	report  Report
	written []manifest.File // not read back yet
	limits  limits
	// writing is held by who writes Parquet: a row group and what compresses it
	// take more memory than all the rest. Meanwhile another day is sorted.
	writing sync.Mutex
}

// limits bound memory and sizes; tests lower them.
type limits struct {
	rows      int   // of a sorted run in memory
	textBytes int   // of their texts
	fanIn     int   // runs that are merged at once
	groupRows int64 // of a row group
	partBytes int64 // of a file, before another is begun
	seen      int   // identities of a tag that are remembered; see duplicates
}

// Run archives a week's table. It may be repeated, and two may run at once.
func Run(ctx context.Context, o Options) (*Report, error) {
	r, err := begin(o)
	if err != nil {
		return nil, err
	}
	return r.all(ctx)
}

func begin(o Options) (*run, error) {
	if o.Segments == 0 {
		o.Segments = defaultSegments
	}
	if o.Segments < 1 || o.Segments > MaxSegments {
		return nil, fmt.Errorf("%d segments: 1 to %d can be scanned at once", o.Segments, MaxSegments)
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	table, start, err := tables.TableOf(o.Prefix, o.Week)
	if err != nil {
		return nil, err
	}
	return &run{o: o, table: table, start: start, report: Report{Table: table},
		limits: limits{rows: 1 << 18, textBytes: 32 << 20, fanIn: 128, groupRows: 1 << 20, partBytes: 512 << 20, seen: 1 << 19}}, nil
}

// silent is told and says nothing.
type silent struct{}

func (silent) Phase(string, string, int64) {}
func (silent) Add(int64)                   {}

// all does the whole of it.
func (r *run) all(ctx context.Context) (_ *Report, err error) {
	id, size, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	weekly, err := r.readWeekly(ctx)
	if err != nil {
		return nil, err
	}
	r.store, err = openStore(r.o.Dir, r.table, id, r.o.Segments, r.o.Clock.Now())
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", r.table, err)
	}
	defer func() { err = errors.Join(err, r.store.close()) }()
	next := r.fromTable
	if r.report.Dropped {
		next = r.lateOnly
	}
	m, err := next(ctx, size)
	if err != nil {
		return nil, r.say(ctx, err)
	}
	if err := r.finish(ctx, m, weekly); err != nil {
		return nil, r.say(ctx, err)
	}
	r.report.Items, r.report.Samples, r.report.Late, r.report.Files = m.Items, m.Samples, len(m.Late), len(m.Files)
	for _, f := range m.Files {
		r.report.Bytes += f.Bytes
	}
	for _, d := range m.Days {
		r.report.Rows, r.report.Duplicates = r.report.Rows+d.Rows, r.report.Duplicates+d.Duplicates
	}
	return &r.report, r.store.remove()
}

// say names the table in an error, and puts an interruption into words.
func (r *run) say(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if err := r.store.note(); err != nil {
			return fmt.Errorf("table %s: interrupted, and %s cannot keep how far it was: %w", r.table, r.store.dir, err)
		}
		return fmt.Errorf("table %s: interrupted; run it again with the same --scratch to go on where it was", r.table)
	}
	return fmt.Errorf("table %s: %w", r.table, err)
}

// look looks at the table and the manifest. id tells the table from a later one
// of the same name; size is about how many bytes it has.
func (r *run) look(ctx context.Context) (id string, size int64, err error) {
	r.old, err = manifest.Read(ctx, r.o.Place, r.table)
	damaged := error(nil)
	switch {
	case errors.Is(err, objects.ErrNone):
	case errors.Is(err, manifest.ErrVersion):
		return "", 0, fmt.Errorf("table %s: its manifest %s in %s was written by a newer millrace-cloud: %w", r.table, manifest.Key(r.table), r.o.Place, err)
	case err != nil && r.old == nil:
		damaged = err
	case err != nil:
		r.old, damaged = nil, err
	}
	out, err := r.o.DB.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &r.table})
	if err != nil && connect.ClassOf(err) != connect.Missing {
		return "", 0, fmt.Errorf("look at table %s: %s", r.table, connect.Brief(err))
	}
	if err != nil {
		r.report.Dropped = true
		if damaged != nil {
			return "", 0, fmt.Errorf("table %s: it is gone, and its manifest %s in %s cannot be read: %w; restore an earlier version of the manifest: nothing was touched", r.table, manifest.Key(r.table), r.o.Place, damaged)
		}
		return "", 0, r.anything(ctx)
	}
	if damaged != nil {
		r.o.Log.Warn("the manifest cannot be read; the week is archived anew", "table", r.table, "error", damaged)
	}
	t := out.Table
	switch t.TableStatus {
	case types.TableStatusActive, types.TableStatusUpdating:
	default:
		return "", 0, fmt.Errorf("table %s is %s; archive it when it is ACTIVE (`millrace-cloud tables list` shows it)", r.table, t.TableStatus)
	}
	if err := weekitem.CheckKeys(t); err != nil {
		return "", 0, fmt.Errorf("table %s: %w; it is no week table", r.table, err)
	}
	if t.TableId != nil {
		id = *t.TableId
	} else if t.CreationDateTime != nil {
		id = t.CreationDateTime.UTC().Format(time.RFC3339Nano)
	}
	if t.TableSizeBytes != nil {
		size = *t.TableSizeBytes
	}
	return id, size, nil
}

// anything fails where there is neither a table, nor an archive of it, nor a
// late block.
func (r *run) anything(ctx context.Context) error {
	if r.old != nil {
		return nil
	}
	err := r.o.Place.List(ctx, weektable.LatePrefix(r.table), func(string, int64) error { return io.EOF })
	switch {
	case isEnd(err):
		return nil
	case err != nil:
		return fmt.Errorf("list %s in %s: %w", weektable.LatePrefix(r.table), r.o.Place, err)
	}
	return fmt.Errorf("table %s: there is no such table, no archive of it in %s, and no late block: look at the week, --prefix and --region", r.table, r.o.Place)
}

// fromTable archives what the table holds, and the late blocks.
func (r *run) fromTable(ctx context.Context, size int64) (*manifest.Manifest, error) {
	if err := r.scan(ctx, size); err != nil {
		return nil, err
	}
	late, err := r.addLate(ctx, nil)
	if err != nil {
		return nil, err
	}
	sum, days, err := r.plan(ctx)
	if err != nil {
		return nil, err
	}
	m := manifest.New(r.table, r.o.Clock.Now(), sum, nil, late)
	if err := r.holdsLess(m, days); err != nil {
		return nil, err
	}
	return m, r.build(ctx, m, days)
}

// holdsLess refuses to replace an archive by one that has less in it.
func (r *run) holdsLess(m *manifest.Manifest, days []*day) error {
	if r.old == nil {
		return nil
	}
	const what = "; the archive was left as it is. Restore what is missing, or move the manifest away to have the week archived as it is now"
	have := map[string]int64{}
	for _, s := range m.Streams {
		have[s.Partition] = s.Items
	}
	for _, s := range r.old.Streams {
		if have[s.Partition] < s.Items {
			return fmt.Errorf("it holds less than its archive does: stream %s has %d items, and %d are archived%s", s.Partition, have[s.Partition], s.Items, what)
		}
	}
	late := map[string]bool{}
	for _, key := range m.Late {
		late[key] = true
	}
	for _, key := range r.old.Late {
		if !late[key] {
			return fmt.Errorf("late block %s is archived and was deleted from %s%s", key, r.o.Place, what)
		}
	}
	now := map[string]bool{}
	for _, d := range days {
		now[d.String()] = true
	}
	for _, d := range r.old.Days {
		if name := d.Site + " " + d.Date; !now[name] {
			return fmt.Errorf("site and day %s are archived, and no block of the table is of them%s", name, what)
		}
	}
	return nil
}

// finish writes what is beside the samples, proves that all files are in place,
// and writes the manifest.
func (r *run) finish(ctx context.Context, m *manifest.Manifest, weekly *weekly) error {
	if err := r.writeWeekly(ctx, m, weekly); err != nil {
		return err
	}
	if len(r.written) > 0 {
		// What was kept was read when that was found.
		r.o.Progress.Phase("read back", "", sizeOf(r.written))
		check := manifest.Manifest{Files: r.written}
		if err := check.CheckFiles(ctx, r.o.Place, r.o.Progress.Add); err != nil {
			return fmt.Errorf("%w; another run may have written it at the same time: run it again", err)
		}
	}
	if r.old != nil && same(r.old, m) {
		r.report.Unchanged = r.report.WrittenFiles == 0
		return nil
	}
	if err := manifest.Write(ctx, r.o.Place, m); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	return nil
}

func sizeOf(files []manifest.File) (n int64) {
	for _, f := range files {
		n += f.Bytes
	}
	return n
}

// same reports whether two manifests say the same, whenever they were written.
func same(a, b *manifest.Manifest) bool {
	x, y := *a, *b
	x.Written, y.Written = time.Time{}, time.Time{}
	return fmt.Sprintf("%+v", x) == fmt.Sprintf("%+v", y)
}

// workers is how many days are sorted and written at once.
func workers() int { return min(runtime.GOMAXPROCS(0), maxWorkers) }

// oneLine is an error without line ends.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
