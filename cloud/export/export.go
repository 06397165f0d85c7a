// Package export writes samples and results as files that other programs take:
// one object for each day, and for samples each site, as CSV, JSON Lines, SenML or
// Parquet. Names and bytes depend on the contents alone, so that another run
// writes only what changed. An index says what is there; it is written last.
//
//	exports/samples/site=north/date=2026-11-28.csv.gz
//	exports/hourly/date=2026-11-28.csv.gz
//	exports/samples/index.json
package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/cloud/query"
)

// Samples is the name under which samples are exported, beside those of results.
const Samples = "samples"

// Prefix begins the keys by default.
const Prefix = "exports/"

// Options say what is exported, from where and to where.
type Options struct {
	// Store is where samples come from: of a day from the archive, where its week
	// is archived, else from the tables. Results come from the archive.
	Store query.Store
	// To is where the objects go, under keys that begin with Prefix.
	To     objects.Place
	Prefix string
	// What are Samples and names of results.
	What   []string
	Format format.Kind // CSV, JSON, SenML or Parquet
	Gzip   bool        // not for Parquet, which packs by itself
	BOM    bool        // CSV begins with a byte order mark
	// From and To bound the days, in UTC: From's is exported, Until's is not.
	From, Until time.Time
	// Sites and Tags restrict samples; none takes all. Tags are names or patterns;
	// a gateway's own records are exported only where a pattern names them.
	Sites, Tags []string
	Dir         string // for scratch files; the system's where it is empty
	// Problem is told of what could not be read, a line each, Note of what a reader
	// should know; both may be nil.
	Problem, Note func(line string)
	// Total is told how many objects there will be, Done of each; both may be nil.
	Total func(n int64)
	Done  func(n int64)
}

// Report says what a run did.
type Report struct {
	Written, Kept int // objects
	Rows, Bytes   int64
	Problems      int
	Index         []string // keys
}

func (o *Options) check() error {
	switch {
	case o.To == nil:
		return errors.New("say where to export to")
	case len(o.What) == 0:
		return errors.New("say what to export: samples, or a result")
	case !o.From.Before(o.Until):
		return errors.New("the range of days is empty")
	case o.Gzip && o.Format == format.Parquet:
		return errors.New("Parquet is packed by itself: leave gzip out")
	case o.BOM && o.Format != format.CSV:
		return errors.New("a byte order mark is for CSV")
	}
	for _, what := range o.What {
		if what == Samples {
			continue
		}
		if _, err := result.Named(what); err != nil {
			return fmt.Errorf("%w, and %s", err, Samples)
		}
		if o.Store.Archive == nil {
			return fmt.Errorf("%s comes from the archive: say where it is", what)
		}
	}
	return nil
}

// task is one object to come.
type task struct {
	key  string
	what string
	site string
	day  time.Time
	// sources are the archive's files that it is made of; none: the tables.
	sources []string
	// print tells whether the sources changed; empty where nothing vouches for them.
	print string
}

// Run exports. What was written before an error is whole, and in the index.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Prefix == "" {
		o.Prefix = Prefix
	}
	o.Prefix = strings.TrimSuffix(o.Prefix, "/") + "/"
	o.From, o.Until = lake.Day(o.From.UnixNano()), lake.Day(o.Until.Add(24*time.Hour-1).UnixNano())
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &run{Options: o, manifests: map[string]*manifest.Manifest{}, told: map[string]bool{}, seen: map[string]bool{}}
	plans := map[string][]task{}
	total := 0
	for _, what := range o.What {
		tasks, err := r.plan(ctx, what)
		if err != nil {
			return nil, err
		}
		if len(tasks) == 0 && o.Note != nil {
			o.Note(fmt.Sprintf("there is nothing of %s from %s until %s", what, o.From.Format(time.DateOnly), o.Until.Format(time.DateOnly)))
		}
		plans[what] = tasks
		total += len(tasks)
	}
	if o.Total != nil {
		o.Total(int64(total))
	}
	for _, what := range o.What {
		kept, rows := r.report.Kept, r.report.Rows
		if err := r.export(ctx, what, plans[what]); err != nil {
			return &r.report, err
		}
		if what == Samples {
			r.unseen(r.report.Kept > kept, r.report.Rows > rows)
		}
	}
	return &r.report, nil
}

type run struct {
	Options
	report    Report
	manifests map[string]*manifest.Manifest // by table; nil: there is none
	told      map[string]bool
	seen      map[string]bool // tags and patterns of Tags of which there was a sample
	last      string          // tag of the last sample
}

// problem tells a problem. What is the same for many days is told once.
func (r *run) problem(line string) {
	r.report.Problems++
	if r.Problem != nil && !r.told[line] {
		r.told[line] = true
		r.Problem(line)
	}
}

// saw marks the tags or patterns that a sample's tag fits.
func (r *run) saw(tag string) {
	if tag == r.last {
		return // rows of a tag stand together, mostly
	}
	r.last = tag
	for _, p := range r.Tags {
		if !r.seen[p] && catalogue.Match(p, tag) {
			r.seen[p] = true
		}
	}
}

// unseen notes the tags and patterns of which there was no sample. What was kept was
// not read, so that it is known then of all together only.
func (r *run) unseen(kept, rows bool) {
	if r.Note == nil || kept && rows {
		return
	}
	for _, p := range r.Tags {
		if !r.seen[p] {
			r.Note(fmt.Sprintf("there is no sample of %s from %s until %s; look at the tag's name (site/device/name), the days and --prefix", p, r.From.Format(time.DateOnly), r.Until.Format(time.DateOnly)))
		}
	}
}

// plan lists the objects that there will be, in the order of their keys.
func (r *run) plan(ctx context.Context, what string) ([]task, error) {
	var tasks []task
	var err error
	if what == Samples {
		tasks, err = r.planSamples(ctx)
	} else {
		tasks, err = r.planResult(ctx, what)
	}
	slices.SortFunc(tasks, func(a, b task) int { return strings.Compare(a.key, b.key) })
	return tasks, err
}

func (r *run) extension() string {
	if r.Gzip {
		return r.Format.Extension() + ".gz"
	}
	return r.Format.Extension()
}

func (r *run) planResult(ctx context.Context, what string) (tasks []task, err error) {
	err = r.Store.Archive.List(ctx, result.Prefix+what+"/", func(key string, _ int64) error {
		name, day, _, ok := result.ParseKey(key)
		if !ok || name != what || day.Before(r.From) || !day.Before(r.Until) {
			return nil
		}
		out := fmt.Sprintf("%s%s/date=%s%s", r.Prefix, what, day.Format(time.DateOnly), r.extension())
		if n := len(tasks); n > 0 && tasks[n-1].key == out {
			tasks[n-1].sources = append(tasks[n-1].sources, key)
			return nil
		}
		tasks = append(tasks, task{key: out, what: what, day: day, sources: []string{key}})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %s", r.Store.Archive, connect.Brief(err))
	}
	return tasks, nil
}

// planSamples takes the archive's days, and for the days that are not archived
// whole the sites that the catalogue names.
func (r *run) planSamples(ctx context.Context) (tasks []task, err error) {
	byKey := map[string]*task{}
	if r.Store.Archive != nil {
		err := r.Store.Archive.List(ctx, Samples+"/", func(key string, _ int64) error {
			k, ok := lake.ParseKey(key)
			if !ok || k.Day.Before(r.From) || !k.Day.Before(r.Until) || !r.takesSite(k.Site) {
				return nil
			}
			out := r.samplesKey(k.Site, k.Day)
			t := byKey[out]
			if t == nil {
				t = &task{key: out, what: Samples, site: k.Site, day: k.Day}
				byKey[out] = t
			}
			t.sources = append(t.sources, key)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %s", r.Store.Archive, connect.Brief(err))
		}
	}
	sites, err := r.sites(ctx)
	if err != nil {
		return nil, err
	}
	for day := r.From; day.Before(r.Until); day = day.AddDate(0, 0, 1) {
		m, err := r.manifest(ctx, day)
		if err != nil {
			return nil, err
		}
		if m == nil {
			for _, site := range sites {
				key := r.samplesKey(site, day)
				byKey[key] = &task{key: key, what: Samples, site: site, day: day}
			}
		}
		r.dropPartial(byKey, day, m)
		for _, t := range byKey {
			if t.day.Equal(day) && m != nil {
				t.print = r.fingerprint(t.sources, m)
			} else if t.day.Equal(day) && len(t.sources) > 0 {
				r.problem(fmt.Sprintf("%s of site %s is not archived whole, and is exported as far as it is: run `millrace-cloud archive` for its week", day.Format(time.DateOnly), t.site))
			}
		}
	}
	for _, t := range byKey {
		tasks = append(tasks, *t)
	}
	return tasks, nil
}

// dropPartial leaves out the objects of a day of whose files one is lost: they would
// take the place of whole ones.
func (r *run) dropPartial(byKey map[string]*task, day time.Time, m *manifest.Manifest) {
	if m == nil {
		return
	}
	for _, f := range m.Files {
		k, ok := lake.ParseKey(f.Key)
		if !ok || k.Kind != lake.Samples || !k.Day.Equal(day) || !r.takesSite(k.Site) {
			continue
		}
		key := r.samplesKey(k.Site, day)
		if t := byKey[key]; t == nil || !slices.Contains(t.sources, f.Key) {
			r.problem(fmt.Sprintf("%s/%s is not there, and the manifest names it: that day is left out; run `millrace-cloud archive %s` while the week's table is there, or restore the file", r.Store.Archive, f.Key, m.Week))
			delete(byKey, key)
		}
	}
}

func (r *run) samplesKey(site string, day time.Time) string {
	// lake's own form of a site in a key.
	prefix, _, _ := strings.Cut(strings.TrimPrefix(lake.SamplesPrefix(site, day), Samples+"/"), "/")
	return fmt.Sprintf("%s%s/%s/date=%s%s", r.Prefix, Samples, prefix, day.Format(time.DateOnly), r.extension())
}

func (r *run) takesSite(site string) bool { return len(r.Sites) == 0 || slices.Contains(r.Sites, site) }

// takesTag reports whether a tag is exported.
func (r *run) takesTag(tag string) bool {
	system := strings.Contains(tag, "/$")
	if len(r.Tags) == 0 {
		return !system
	}
	return slices.ContainsFunc(r.Tags, func(p string) bool { return catalogue.Match(p, tag) && (!system || strings.Contains(p, "/$")) })
}

// sites are those of the tables that are read; none where no table is.
func (r *run) sites(ctx context.Context) ([]string, error) {
	if r.Store.Tables == nil {
		return nil, nil
	}
	seen := map[string]bool{}
	err := r.Store.Catalogue.Entries(ctx, "", func(e *catalogue.Entry) error {
		seen[e.Site] = r.takesSite(e.Site)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalogue, which names the sites: %s", connect.Brief(err))
	}
	var out []string
	for site, taken := range seen {
		if taken {
			out = append(out, site)
		}
	}
	slices.Sort(out)
	return out, nil
}
