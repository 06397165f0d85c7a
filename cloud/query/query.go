// Package query reads samples back: from the week tables in DynamoDB, from the
// archive, or from the block files of a gateway, in the order of time, each once.
// It only reads, and its memory does not depend on how many samples there are.
package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"millrace/cloud/catalogue"
	"millrace/cloud/format"
	"millrace/cloud/objects"
	"millrace/internal/backoff"
	"millrace/sample"
	"millrace/sample/weektable"
)

// Tables is what is asked of DynamoDB.
type Tables interface {
	DescribeTable(context.Context, *dynamodb.DescribeTableInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Catalogue is what is asked of the catalogue's tables.
type Catalogue interface {
	Lookup(ctx context.Context, tag string) ([]catalogue.Entry, error)
	Entries(ctx context.Context, site string, fn func(*catalogue.Entry) error) error
	Gaps(ctx context.Context, site string, from, to time.Time, fn func(*catalogue.Gap) error) error
}

// Store says where the samples are. Tables and Archive may both be there: then a
// week comes from its table while there is one, and from the archive after.
type Store struct {
	Tables    Tables // nil: none
	Prefix    string // of the tables' names
	Catalogue Catalogue
	Archive   objects.Place // nil: none
	Dir       string        // of a file sink; it is read alone
	// Sleep waits between tries while a table throttles; backoff.Sleep where it is
	// nil.
	Sleep func(ctx context.Context, d time.Duration) bool
}

// Quality says which samples are wanted.
type Quality int

// The qualities.
const (
	All       Quality = iota
	Uncertain         // Good and Uncertain ones
	Good              // Good ones alone
)

// ParseQuality reads good, uncertain or all.
func ParseQuality(text string) (Quality, error) {
	switch text {
	case "good":
		return Good, nil
	case "uncertain":
		return Uncertain, nil
	case "all":
		return All, nil
	}
	return All, fmt.Errorf("quality %q: write good, uncertain (which takes good ones too) or all", text)
}

func (q Quality) takes(s sample.Quality) bool {
	return q == All || s.IsGood() || q == Uncertain && s.IsUncertain()
}

// Request says what is wanted.
type Request struct {
	// Tags are full names, or patterns in which * stands for any characters.
	Tags []string
	// Wanted restricts them further; nil takes all.
	Wanted func(tag string) bool
	// From and To bound the primary time: From is taken, To is not. Both are set.
	From, To time.Time
	Quality  Quality
	// Limit ends the reading after so many samples; Last takes the newest so many
	// of each tag. 0 is all; at most one of them is set.
	Limit, Last int
	// ByTag has the samples tag by tag, each in the order of time; otherwise all are
	// in the order of time, and at one time by tag.
	ByTag bool
	// Raw leaves the times as they were sent, without the gateway's correction
	// records.
	Raw bool
	// Sample takes the samples. It must not keep them. Gap takes the gaps between
	// them; may be nil.
	Sample func(r *format.Row) error
	Gap    func(g *format.Gap) error
	// Problem is told of what could not be read, a line each; Note of what a reader
	// should know. Both may be nil.
	Problem, Note func(line string)
	// Read is told of bytes as they come; may be nil.
	Read func(bytes int64)
}

// Tag is what is known of a tag.
type Tag struct{ Name, Unit, Description string }

// Report counts what was read.
type Report struct {
	Tags       []Tag // that fit the request, by name
	Samples    int64 // handed over
	Hidden     int64 // left out by their quality
	Duplicates int64 // left out since they were there already
	Corrected  int64 // of Samples: with the time that a correction record gives
	Gaps       int
	Blocks     int64 // decoded
	Bytes      int64 // of blocks
	Problems   int   // told
}

// UnknownTagError says that nothing is known of a tag or pattern.
type UnknownTagError struct {
	Tag  string
	Near []string // names that are like it
}

func (e *UnknownTagError) Error() string {
	text := fmt.Sprintf("there is no tag %s in the catalogue", e.Tag)
	if strings.Contains(e.Tag, "*") {
		text = fmt.Sprintf("no tag in the catalogue fits %s", e.Tag)
	}
	if len(e.Near) > 0 {
		return text + "; there is " + strings.Join(e.Near, ", ")
	}
	return text + "; look at the name (site/device/name) and at --prefix; `millrace-cloud tables catalogue` brings the catalogue up to date where gateways write to DynamoDB directly"
}

var errEnough = errors.New("enough")

// Run reads what the request asks for. What cannot be read is told as a problem,
// and the rest is read all the same; an error is for what leaves nothing to read.
func Run(ctx context.Context, s Store, q Request) (*Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	switch {
	case len(q.Tags) == 0:
		return nil, errors.New("no tag is asked for")
	case !q.From.Before(q.To):
		return nil, fmt.Errorf("the range from %s to %s is empty", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339))
	case q.From.Before(minTime) || q.To.After(maxTime):
		return nil, fmt.Errorf("times are from %s to %s", minTime.Format(time.RFC3339), maxTime.Format(time.RFC3339))
	}
	if s.Sleep == nil {
		s.Sleep = backoff.Sleep
	}
	r := &run{store: s, Request: q, told: map[string]int{}}
	src, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	defer src.close()
	if r.report.Tags, err = src.tags(ctx); err != nil {
		return nil, err
	}
	r.units = map[string]string{}
	for _, t := range r.report.Tags {
		r.units[t.Name] = t.Unit
	}
	err = r.read(ctx, src)
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil {
		err = r.lastProblems()
	}
	return &r.report, err
}

// The times that an int64 of ns holds, and day boundaries around them.
var (
	minTime = time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(2261, 12, 31, 0, 0, 0, 0, time.UTC)
)

// source is where samples come from.
type source interface {
	// tags resolves the request's tags.
	tags(ctx context.Context) ([]Tag, error)
	// windows parts the request's range, in the order of time, into what is read as
	// one.
	windows(ctx context.Context) []window
	// cursors opens what holds the window's samples of the tags that want takes.
	cursors(ctx context.Context, w window, want func(tag string) bool) ([]cursor, error)
	// gaps hands over the gaps of the tags within the request's range, in any order.
	gaps(ctx context.Context, fn func(*format.Gap) error) error
	close()
}

// window is a range of primary time, ns since the Unix epoch: from is in it, to is
// not. No block lies across the ends of one, but those of the request's own range.
type window struct{ from, to int64 }

const dayNS = int64(24 * time.Hour)

// dayStart is the start of the UTC day that holds t. No block has samples of two
// UTC days (docs/block-format.md), so none that begins before it has one of t.
func dayStart(t int64) int64 {
	d := t / dayNS * dayNS
	if d > t {
		d -= dayNS
	}
	return d
}

type run struct {
	store Store
	Request
	report Report
	mu     sync.Mutex
	told   map[string]int // problems, by what they have in common
	seen   seen
	// started are the goroutines that read a window.
	started sync.WaitGroup
	// interest says which gaps concern the tags; sources fill it.
	interest interest
	partial  partial
	units    map[string]string // of the tags
	reported int64             // bytes that Read was told of
}

// tell tells a problem. Of those of one kind, 10 are told. It is for several
// goroutines.
func (r *run) tell(kind, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Problems++
	r.told[kind]++
	if r.told[kind] <= maxProblems && r.Problem != nil {
		r.Problem(line)
	}
}

const maxProblems = 10

// lastProblems says how many were not told.
func (r *run) lastProblems() error {
	for kind, n := range r.told {
		if n > maxProblems && r.Problem != nil {
			r.Problem(fmt.Sprintf("%s: %d more of the kind", kind, n-maxProblems))
		}
	}
	return nil
}

func (r *run) note(line string) {
	if r.Note != nil {
		r.Note(line)
	}
}

func (r *run) read(ctx context.Context, src source) error {
	gaps, err := r.collectGaps(ctx, src)
	if err != nil {
		return err
	}
	if r.Last > 0 {
		return r.readLast(ctx, src, gaps)
	}
	if !r.ByTag {
		return r.forward(ctx, src, func(string) bool { return true }, gaps)
	}
	for _, t := range r.report.Tags {
		if err := r.forward(ctx, src, func(tag string) bool { return tag == t.Name }, nil); err != nil {
			return err
		}
	}
	return r.tellGaps(gaps, r.To.UnixNano())
}

// forward hands over the samples of some tags in the order of time.
func (r *run) forward(ctx context.Context, src source, want func(string) bool, gaps *[]format.Gap) error {
	r.seen = seen{}
	for _, w := range src.windows(ctx) {
		if err := r.one(ctx, src, w, want, func(row *format.Row) error {
			if gaps != nil {
				if err := r.tellGaps(gaps, row.PrimaryTime()); err != nil {
					return err
				}
			}
			return r.hand(row)
		}); err != nil {
			return err
		}
	}
	return r.tellGaps(gaps, r.To.UnixNano())
}

// hand gives a sample over.
func (r *run) hand(row *format.Row) error {
	if err := r.Sample(row); err != nil {
		return err
	}
	if r.report.Samples++; r.Limit > 0 && r.report.Samples >= int64(r.Limit) {
		return errEnough
	}
	return nil
}

// one reads a window.
func (r *run) one(ctx context.Context, src source, w window, want func(string) bool, fn func(*format.Row) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer r.started.Wait()
	defer cancel()
	cursors, err := src.cursors(ctx, w, want)
	if err != nil {
		return err
	}
	return r.merge(ctx, cursors, func(row *format.Row) error {
		if r.Read != nil {
			if n := atomic.LoadInt64(&r.report.Bytes); n != r.reported {
				r.Read(n - r.reported)
				r.reported = n
			}
		}
		row.Unit = r.units[row.Tag]
		r.partial.saw(row)
		switch {
		case r.seen.before(&row.Sample):
			r.report.Duplicates++
			return nil
		case !r.Quality.takes(row.Quality):
			r.report.Hidden++
			return nil
		}
		return fn(row)
	})
}

// readLast hands over the newest samples of each tag. It goes back day by day until
// each has enough.
func (r *run) readLast(ctx context.Context, src source, gaps *[]format.Gap) error {
	kept := map[string][]format.Row{}
	windows := src.windows(ctx)
	for i := len(windows) - 1; i >= 0; i-- {
		// A day's newest are kept, as far as the later days leave room.
		day := map[string][]format.Row{}
		enough := func(tag string) bool { return len(kept[tag]) >= r.Last }
		r.seen = seen{}
		err := r.one(ctx, src, windows[i], func(tag string) bool { return !enough(tag) }, func(row *format.Row) error {
			list := append(day[row.Tag], *row)
			if most := r.Last - len(kept[row.Tag]); len(list) > most {
				list = list[len(list)-most:]
			}
			day[row.Tag] = list
			return nil
		})
		if err != nil {
			return err
		}
		for tag, list := range day {
			kept[tag] = append(slices.Clone(list), kept[tag]...)
		}
		if len(r.report.Tags) > 0 && !slices.ContainsFunc(r.report.Tags, func(t Tag) bool { return !enough(t.Name) }) {
			break
		}
	}
	var rows []format.Row
	for _, list := range kept {
		rows = append(rows, list...)
	}
	slices.SortStableFunc(rows, func(a, b format.Row) int {
		switch {
		case r.ByTag && a.Tag != b.Tag:
			return strings.Compare(a.Tag, b.Tag)
		case less(&a, &b):
			return -1
		case less(&b, &a):
			return 1
		}
		return 0
	})
	if len(rows) > 0 && gaps != nil {
		first := rows[0].PrimaryTime() // the gaps before are of no interest
		*gaps = slices.DeleteFunc(*gaps, func(g format.Gap) bool { return end(&g).UnixNano() < first })
		r.report.Gaps = len(*gaps)
	}
	for i := range rows {
		if !r.ByTag {
			if err := r.tellGaps(gaps, rows[i].PrimaryTime()); err != nil {
				return err
			}
		}
		if err := r.hand(&rows[i]); err != nil {
			return err
		}
	}
	return r.tellGaps(gaps, r.To.UnixNano())
}

// open opens what the store has.
func (r *run) open(ctx context.Context) (source, error) {
	switch {
	case r.store.Dir != "":
		return newFiles(ctx, r)
	case r.store.Tables != nil:
		if err := weektable.CheckPrefix(r.store.Prefix); err != nil {
			return nil, err
		}
		t := newWeekTables(r)
		if r.store.Archive != nil {
			t.old = newArchive(r)
		}
		return t, nil
	case r.store.Archive != nil:
		return newArchive(r), nil
	}
	return nil, errors.New("say where the samples are: tables, an archive or files")
}
