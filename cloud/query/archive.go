package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/format"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// maxOpen is how many tags are read from the archive at once. A file is sorted by
// tag, so each tag has a reader of its own.
const maxOpen = 256

// archive reads the Parquet files of the archive.
type archive struct {
	*run
	sites []string // that the tags are of
	known map[string]Tag
	// manifests are those that were looked for, by table; nil where there is none
	// that can be read.
	manifests map[string]*manifest.Manifest
}

func newArchive(r *run) *archive { return &archive{run: r, manifests: map[string]*manifest.Manifest{}} }

func (*archive) close() {}

// listSites finds the sites that the request may be of.
func (a *archive) listSites(ctx context.Context) ([]string, error) {
	var out []string
	for _, pattern := range a.Tags {
		head, _, _ := strings.Cut(pattern, "/")
		if !strings.Contains(head, "*") {
			out = append(out, head)
			continue
		}
		err := a.store.Archive.List(ctx, "catalogue/", func(key string, _ int64) error {
			if k, ok := lake.ParseKey(key); ok && mayBeOf(pattern, k.Site) {
				out = append(out, k.Site)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %s", a.store.Archive, brief(err))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// tags implements source, by the archive's own catalogue.
func (a *archive) tags(ctx context.Context) ([]Tag, error) {
	var err error
	if a.sites, err = a.listSites(ctx); err != nil {
		return nil, err
	}
	a.known = map[string]Tag{}
	var all entryList
	for _, site := range a.sites {
		err := a.each(ctx, strings.TrimSuffix(lake.CatalogueKey(site, 0), "part-00000.parquet"), func(_ lake.Key, o *objects.Object) error {
			return lake.ReadCatalogue(o, o.Size, func(e *lake.Entry) error {
				c := catalogue.Entry{Site: site, Gateway: e.Gateway, CatalogueEntry: ledger.CatalogueEntry{Tag: e.Tag, Stream: e.Stream, Source: e.Source, Unit: e.Unit, Description: e.Description}}
				all = append(all, c)
				if a.fits(e.Tag) {
					a.known[e.Tag] = Tag{Name: e.Tag, Unit: e.Unit, Description: e.Description}
					a.interest.add(&c)
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
	}
	for _, pattern := range a.Tags {
		_, there := a.known[pattern]
		_, _, system := systemTag(pattern)
		switch {
		case there || strings.Contains(pattern, "*") && anyFits(a.known, pattern):
		case system || len(all) == 0 && !strings.Contains(pattern, "*"):
			a.known[pattern] = Tag{Name: pattern}
			a.interest.any = a.interest.any || !system
		case len(all) == 0:
			return nil, fmt.Errorf("%s: patterns need a catalogue, and there is none in %s; write the tags' full names", pattern, a.store.Archive)
		default:
			return nil, &UnknownTagError{Tag: pattern, Near: near(ctx, all, pattern)}
		}
	}
	return sorted(a.known), nil
}

func anyFits(known map[string]Tag, pattern string) bool {
	for tag := range known {
		if catalogue.Match(pattern, tag) {
			return true
		}
	}
	return false
}

// list returns the keys of the archive's files under a prefix.
func (a *archive) list(ctx context.Context, prefix string) (keys []string, err error) {
	err = a.store.Archive.List(ctx, prefix, func(key string, _ int64) error {
		if _, ok := lake.ParseKey(key); ok {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("list %s: %s", a.store.Archive, brief(err))
	}
	return keys, err
}

// each opens the files under a prefix, one after the other. What cannot be read is
// told.
func (a *archive) each(ctx context.Context, prefix string, fn func(lake.Key, *objects.Object) error) error {
	keys, err := a.list(ctx, prefix)
	if err != nil {
		return err
	}
	for _, key := range keys {
		k, _ := lake.ParseKey(key)
		err := a.open(ctx, key, func(o *objects.Object) error { return fn(k, o) })
		switch {
		case err == nil || errors.Is(err, objects.ErrNone):
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errEnough):
			return err
		default:
			a.unreadable(key, err)
		}
	}
	return nil
}

// open opens a file for fn.
func (a *archive) open(ctx context.Context, key string, fn func(*objects.Object) error) error {
	o, err := objects.Open(ctx, a.store.Archive, key)
	if err != nil {
		return err
	}
	return errors.Join(fn(o), o.Close())
}

// windows implements source.
func (a *archive) windows(context.Context) []window {
	return days(window{a.From.UnixNano(), a.To.UnixNano()})
}

// manifest is that of a window's week, nil where there is none. Once for each week it
// tells that the files may be incomplete.
func (a *archive) manifest(ctx context.Context, w window) *manifest.Manifest {
	name := weektable.Table(a.store.Prefix, time.Unix(0, w.from))
	m, known := a.manifests[name]
	if known || w.from > time.Now().UnixNano() {
		return m
	}
	m, err := manifest.Read(ctx, a.store.Archive, name)
	week := strings.TrimPrefix(name, a.store.Prefix+"-samples-")
	switch {
	case err == nil:
	case errors.Is(err, objects.ErrNone):
		a.tell("manifests", fmt.Sprintf("week %s is not archived whole: there is no %s in %s; run `millrace-cloud archive %s`",
			week, manifest.Key(name), a.store.Archive, week))
	case errors.Is(err, manifest.ErrVersion):
		a.tell("manifests", fmt.Sprintf("%s/%s cannot be read: %s; update millrace-cloud", a.store.Archive, manifest.Key(name), brief(err)))
	case ctx.Err() == nil:
		a.tell("manifests", fmt.Sprintf("%s/%s cannot be read: %s; run `millrace-cloud archive %s`", a.store.Archive, manifest.Key(name), brief(err), week))
	}
	if err != nil {
		m = nil
	}
	a.manifests[name] = m
	return m
}

// whole tells which files of a site and day are not among keys, though the manifest
// names them.
func (a *archive) whole(m *manifest.Manifest, prefix string, keys []string) {
	if m == nil {
		return
	}
	for _, f := range m.Files {
		if strings.HasPrefix(f.Key, prefix) && !slices.Contains(keys, f.Key) {
			a.tell("missing files", fmt.Sprintf("%s/%s is not there, and the manifest names it: run `millrace-cloud archive %s` while the week's table is there, or restore the file", a.store.Archive, f.Key, m.Week))
		}
	}
}

// cursors implements source: one for each tag and file. A file is sorted by tag, and
// within a tag by time.
func (a *archive) cursors(ctx context.Context, w window, want func(string) bool) ([]cursor, error) {
	m := a.manifest(ctx, w)
	bySite := map[string][]string{}
	n := 0
	for _, t := range a.report.Tags {
		if want(t.Name) {
			site := catalogue.SiteOf(t.Name)
			bySite[site] = append(bySite[site], t.Name)
			n++
		}
	}
	if n > maxOpen {
		return nil, fmt.Errorf("%d tags cannot be brought into one order of time from the archive, %d can: ask for fewer, or for --format parquet, which goes tag by tag", n, maxOpen)
	}
	var out []cursor
	for site, tags := range bySite {
		prefix := lake.SamplesPrefix(site, time.Unix(0, w.from))
		keys, err := a.list(ctx, prefix)
		if err != nil {
			return nil, err
		}
		a.whole(m, prefix, keys)
		for _, key := range keys {
			for _, tag := range tags {
				filter := lake.Filter{Tags: []string{tag}, From: w.from, To: w.to}
				out = append(out, a.newChannel(ctx, func(emit func(*format.Row) error) error { return a.read(ctx, key, filter, emit) }))
			}
		}
	}
	return out, nil
}

// read hands over the rows of a file that a filter takes.
func (a *archive) read(ctx context.Context, key string, filter lake.Filter, emit func(*format.Row) error) error {
	var refused error
	err := a.open(ctx, key, func(o *objects.Object) error {
		return lake.Read(o, o.Size, filter, func(row *lake.Row) error {
			refused = emit(&format.Row{Sample: row.Sample, Gateway: row.Gateway, Stream: row.Stream})
			return refused
		})
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case refused != nil:
		return refused
	case err != nil && !errors.Is(err, objects.ErrNone):
		a.unreadable(key, err)
	}
	return nil
}

func (a *archive) unreadable(key string, err error) {
	a.tell("unreadable files", fmt.Sprintf("%s/%s cannot be read: %s", a.store.Archive, key, brief(err)))
}

// gaps implements source. A gap is in the file of the day on which it begins, and
// may be of any length: all files up to the range's end are looked at.
func (a *archive) gaps(ctx context.Context, fn func(*format.Gap) error) error {
	for _, site := range a.sites {
		prefix, _, _ := strings.Cut(lake.GapsPrefix(site, a.To), "date=")
		err := a.each(ctx, prefix, func(k lake.Key, o *objects.Object) error {
			if !k.Day.Before(a.To) {
				return nil
			}
			return lake.ReadGaps(o, o.Size, func(g *lake.Gap) error { return fn(gapOf(site, g)) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// gapOf is a gap as the archive has it.
func gapOf(site string, g *lake.Gap) *format.Gap {
	out := &format.Gap{Site: site, Gateway: g.Gateway, Gap: ledger.Gap{Cause: ledger.Cause(g.Cause), Source: g.Source, Tag: g.Tag, Stream: g.Stream,
		FromSeq: g.FromSeq, ToSeq: g.ToSeq, From: g.From, To: g.To, At: g.Declared, Epoch: g.ID}}
	if g.Sources != "" {
		out.Sources = strings.Split(g.Sources, ",")
	}
	if g.Sinks != "" {
		out.Sinks = strings.Split(g.Sinks, ",")
	}
	if g.Count != nil {
		n := uint64(*g.Count)
		out.Count = &n
	}
	return out
}
