package query

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"millrace/cloud/catalogue"
	"millrace/cloud/format"
)

// maxGaps bounds the gaps of one request that are kept to be told.
const maxGaps = 100_000

// interest says which gaps concern the request: those of its tags, of the
// streams that carry them and of the sources that they are read from.
type interest struct {
	any     bool // of the sites asked for: what carries the tags is not known
	tags    map[string]bool
	streams map[stream]bool
	sources map[[3]string]bool // site, gateway, source
}

func (i *interest) add(e *catalogue.Entry) {
	if i.tags == nil {
		i.tags, i.streams, i.sources = map[string]bool{}, map[stream]bool{}, map[[3]string]bool{}
	}
	i.tags[e.Tag] = true
	i.streams[stream{e.Site, e.Gateway, e.Stream}] = true
	i.sources[[3]string{e.Site, e.Gateway, e.Source}] = true
}

func (r *run) concerned(g *format.Gap) bool {
	i := &r.interest
	switch {
	case g.Tag != "":
		return i.tags[g.Tag] || i.any && r.fits(g.Tag)
	case i.any:
		return slices.ContainsFunc(r.Tags, func(p string) bool { return mayBeOf(p, g.Site) })
	case g.Source != "" && i.sources[[3]string{g.Site, g.Gateway, g.Source}]:
		return true
	case slices.ContainsFunc(g.Sources, func(s string) bool { return i.sources[[3]string{g.Site, g.Gateway, s}] }):
		return true
	}
	return g.Source == "" && len(g.Sources) == 0 && i.streams[stream{g.Site, g.Gateway, g.Stream}]
}

// sites are those of the request's tags.
func (r *run) sites() (out []string) {
	for s := range r.interest.streams {
		out = append(out, s.site)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// start and end are when a loss began and ended, as far as its record tells.
func start(g *format.Gap) time.Time {
	c := catalogue.Gap{Gap: g.Gap}
	return c.Start()
}

func end(g *format.Gap) time.Time {
	c := catalogue.Gap{Gap: g.Gap}
	return c.End()
}

// collectGaps gathers the gaps of the request, each once, by their start.
func (r *run) collectGaps(ctx context.Context, src source) (*[]format.Gap, error) {
	var out []format.Gap
	seen := map[string]bool{}
	err := src.gaps(ctx, func(g *format.Gap) error {
		if end(g).Before(r.From) || !start(g).Before(r.To) || !r.concerned(g) {
			return nil
		}
		key := gapKey(g)
		if seen[key] {
			return nil
		}
		if len(out) == maxGaps {
			return errEnough
		}
		seen[key] = true
		out = append(out, *g)
		return nil
	})
	if err == errEnough { //nolint:errorlint // it is returned as it is
		r.tell("gaps", fmt.Sprintf("there are more than %d gaps in the range: ask for a shorter one to see them all", maxGaps))
		err = nil
	}
	if err != nil {
		return nil, err
	}
	sort.SliceStable(out, func(i, j int) bool { return start(&out[i]).Before(start(&out[j])) })
	r.report.Gaps = len(out)
	r.partial = partialOf(out)
	return &out, nil
}

// tellGaps hands over the gaps that begin at or before a time, and of those of
// some sinks the ones that end there.
func (r *run) tellGaps(gaps *[]format.Gap, until int64) error {
	if gaps == nil {
		return nil
	}
	for len(*gaps) > 0 && start(&(*gaps)[0]).UnixNano() <= until {
		g := &(*gaps)[0]
		*gaps = (*gaps)[1:]
		if len(g.Sinks) > 0 {
			r.partial.waiting = append(r.partial.waiting, g)
			continue
		}
		if err := r.tellGap(g); err != nil {
			return err
		}
	}
	return r.tellEnded(until)
}

func (r *run) tellGap(g *format.Gap) error {
	if r.Gap == nil {
		return nil
	}
	return r.Gap(g)
}

// gaps implements source: from the catalogue's table, or where there is none from
// the gateways' own records.
func (t *weekTables) gaps(ctx context.Context, fn func(*format.Gap) error) error {
	if t.guess {
		for _, g := range t.records.gaps {
			if err := fn(&g); err != nil {
				return err
			}
		}
		return nil
	}
	for _, site := range t.sites() {
		err := t.store.Catalogue.Gaps(ctx, site, t.From, t.To, func(g *catalogue.Gap) error {
			return fn(&format.Gap{Site: g.Site, Gateway: g.Gateway, Gap: g.Gap})
		})
		if err != nil {
			if err == errEnough { //nolint:errorlint // it is returned as it is
				return err
			}
			t.tell("gaps", fmt.Sprintf("the gaps of site %s cannot be read: %s", site, brief(err)))
		}
	}
	return nil
}
