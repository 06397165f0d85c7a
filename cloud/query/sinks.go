package query

import (
	"slices"
	"sort"
	"strings"

	"millrace/cloud/catalogue"
	"millrace/cloud/format"
)

// partial are the request's gaps that only some sinks of a gateway have had. Which
// sink leads here is not known: where a sample of the stream lies within, the
// gap's samples are here, and it is none.
type partial struct {
	byStream map[stream][]loss // by from
	here     map[string]bool   // those that are none, by gapKey
	waiting  []*format.Gap     // that have begun and not ended, where the reading is
}

// loss is the span of a gap, in ns.
type loss struct {
	from, to int64
	reach    int64 // the latest to of this one and those before
	key      string
}

// gapKey names a gap among all.
func gapKey(g *format.Gap) string {
	c := catalogue.Gap{Gap: g.Gap}
	return g.Site + "#" + g.Gateway + "#" + c.Identity()
}

// partialOf takes those of the gaps that name sinks and a stream.
func partialOf(gaps []format.Gap) partial {
	p := partial{byStream: map[stream][]loss{}, here: map[string]bool{}}
	for i := range gaps {
		if g := &gaps[i]; len(g.Sinks) > 0 && g.Stream != "" {
			of := stream{g.Site, g.Gateway, g.Stream}
			p.byStream[of] = append(p.byStream[of], loss{from: start(g).UnixNano(), to: end(g).UnixNano(), key: gapKey(g)})
		}
	}
	for _, list := range p.byStream {
		sort.SliceStable(list, func(i, j int) bool { return list[i].from < list[j].from })
		for i := range list {
			list[i].reach = list[i].to
			if i > 0 {
				list[i].reach = max(list[i].reach, list[i-1].reach)
			}
		}
	}
	return p
}

// saw takes note of a sample. One at a gap's ends may be its neighbours', unless
// the gap is of one instant.
func (p *partial) saw(row *format.Row) {
	if len(p.byStream) == 0 {
		return
	}
	site, _, _ := strings.Cut(row.Tag, "/")
	list := p.byStream[stream{site, row.Gateway, row.Stream}]
	at := row.PrimaryTime()
	for i := sort.Search(len(list), func(i int) bool { return list[i].from > at }) - 1; i >= 0 && list[i].reach >= at; i-- {
		if l := &list[i]; l.from < at && at < l.to || l.from == at && at == l.to {
			p.here[l.key] = true
		}
	}
}

// tellEnded hands over the gaps of some sinks that ended at or before a time, and
// leaves out those that are none.
func (r *run) tellEnded(until int64) (err error) {
	r.partial.waiting = slices.DeleteFunc(r.partial.waiting, func(g *format.Gap) bool {
		if err != nil || min(end(g).UnixNano(), r.To.UnixNano()) > until {
			return false
		}
		if r.partial.here[gapKey(g)] {
			r.report.Gaps--
			return true
		}
		err = r.tellGap(g)
		return true
	})
	return err
}
