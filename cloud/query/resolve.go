package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// knownAfter is how long after a sample its correction record may come. A gateway
// whose clock is not set in that time shows its samples as they were sent.
const knownAfter = 30 * 24 * time.Hour

// tags implements source, by the catalogue.
func (t *weekTables) tags(ctx context.Context) ([]Tag, error) {
	known := map[string]Tag{}
	add := func(e *catalogue.Entry) {
		s := stream{e.Site, e.Gateway, e.Stream}
		if t.streams[s] == nil {
			t.streams[s] = map[string]bool{}
		}
		t.streams[s][e.Tag] = true
		t.interest.add(e)
		if _, there := known[e.Tag]; !there {
			known[e.Tag] = Tag{Name: e.Tag, Unit: e.Unit, Description: e.Description}
		}
	}
	for _, pattern := range t.Tags {
		if site, gateway, system := systemTag(pattern); system {
			add(&catalogue.Entry{Site: site, Gateway: gateway, CatalogueEntry: ledger.CatalogueEntry{Tag: pattern, Stream: ledger.SystemStream}})
			continue
		}
		n := 0
		err := lookUp(ctx, t.store.Catalogue, pattern, t.Wanted, func(e *catalogue.Entry) error {
			n++
			add(e)
			return nil
		})
		switch {
		case err != nil && connect.ClassOf(err) == connect.Missing:
			return t.withoutCatalogue(ctx, fmt.Sprintf("there is no table %s", catalogue.Table(t.store.Prefix)), "`millrace-cloud tables ensure` and `tables catalogue` make and fill it")
		case err != nil:
			return nil, fmt.Errorf("read the catalogue: %s", connect.Brief(err))
		case n == 0:
			return t.unlisted(ctx, pattern)
		}
	}
	return sorted(known), t.readRecords(ctx)
}

// sorted are the tags by name.
func sorted(known map[string]Tag) (out []Tag) {
	for _, tag := range known {
		out = append(out, tag)
	}
	slices.SortFunc(out, func(a, b Tag) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// unlisted looks for what the catalogue does not have. Where it has nothing of the
// site at all, as before it was filled for gateways that write to DynamoDB
// directly, that says nothing of the tag, and the week tables are asked.
func (t *weekTables) unlisted(ctx context.Context, pattern string) ([]Tag, error) {
	unknown := &UnknownTagError{Tag: pattern, Near: near(ctx, t.store.Catalogue, pattern)}
	listed, err := t.listed(ctx, pattern)
	if err != nil || listed {
		return nil, errors.Join(unknown, err)
	}
	tags, err := t.withoutCatalogue(ctx, "the catalogue has nothing of the site of "+pattern, "`millrace-cloud tables catalogue` fills it")
	if err != nil {
		return nil, err
	}
	for s := range t.streams {
		if mayBeOf(pattern, s.site) {
			return tags, nil
		}
	}
	for _, state := range t.state {
		if state == tableGone && t.old != nil {
			return tags, nil // the archive may have it
		}
	}
	return nil, unknown
}

// listed reports whether the catalogue has a tag of the pattern's site. It reads as
// far as the first.
func (t *weekTables) listed(ctx context.Context, pattern string) (there bool, err error) {
	site := catalogue.SiteOf(pattern)
	if strings.Contains(site, "*") {
		site = ""
	}
	err = t.store.Catalogue.Entries(ctx, site, func(e *catalogue.Entry) error {
		if !mayBeOf(pattern, e.Site) {
			return nil
		}
		there = true
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return there, err
}

// withoutCatalogue makes do with what is in the tables, and says why and what to do.
func (t *weekTables) withoutCatalogue(ctx context.Context, why, hint string) ([]Tag, error) {
	t.guess, t.interest = true, interest{any: true}
	t.note(why + ", so the week tables are scanned for the tag, which reads all of them: " + hint)
	for _, w := range t.windows(ctx) {
		if t.table(ctx, w) != tableThere {
			continue
		}
		name := weektable.Table(t.store.Prefix, time.Unix(0, w.from))
		found, err := t.find(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("scan table %s: %s", name, connect.Brief(err))
		}
		for s := range found {
			t.streams[s] = nil
		}
	}
	if err := t.readRecords(ctx); err != nil {
		return nil, err
	}
	known := map[string]Tag{}
	for _, e := range t.records.entries {
		if t.fits(e.Tag) {
			known[e.Tag] = Tag{Name: e.Tag, Unit: e.Unit, Description: e.Description}
		}
	}
	for _, pattern := range t.Tags {
		if _, there := known[pattern]; !there && !strings.Contains(pattern, "*") {
			known[pattern] = Tag{Name: pattern}
		}
	}
	return sorted(known), nil
}

// readRecords reads what the gateways concerned say of their clocks, and what else
// the catalogue would have had, from their system streams: those of the range and
// of the month after it. Then it gathers the samples that were sent with another
// time than their right one, from where they are.
func (t *weekTables) readRecords(ctx context.Context) error {
	if t.Raw && !t.guess {
		return nil
	}
	range_ := window{dayStart(t.From.UnixNano()), min(t.To.Add(knownAfter).UnixNano(), time.Now().Add(24*time.Hour).UnixNano())}
	var gateways []stream
	for s := range t.streams {
		gateways = append(gateways, stream{s.site, s.gateway, ledger.SystemStream})
	}
	slices.SortFunc(gateways, func(a, b stream) int { return strings.Compare(a.String(), b.String()) })
	for _, g := range slices.Compact(gateways) {
		err := t.eachIn(ctx, g, range_, func(b *block.Block) {
			t.records.take(b, func(line string) { t.tell("unreadable records", line) })
		})
		if err != nil {
			return err
		}
	}
	if t.Raw {
		t.records.corrections = nil
	}
	if t.records.corrections == nil {
		return nil
	}
	all := window{t.From.UnixNano(), t.To.UnixNano()}
	for s, tags := range t.streams {
		for _, sent := range t.records.corrections.where(s.site, s.gateway, all) {
			take := t.taker(tags, func(string) bool { return true })
			err := t.eachIn(ctx, s, sent, func(b *block.Block) { t.strays.take(b, all, take, t.records.corrections) })
			if err == nil {
				err = t.eachOf(ctx, weektable.Unplaced(t.store.Prefix), s, sent, func(b *block.Block) { t.strays.take(b, all, take, t.records.corrections) })
			}
			if err != nil {
				return err
			}
		}
	}
	if t.strays.full {
		t.tell("strays", fmt.Sprintf("more than %d samples have corrected times in this range, and the rest of them is left out: ask for a shorter one", maxStrays))
	}
	t.strays.sort()
	t.report.Corrected = int64(len(t.strays.rows))
	return nil
}

// eachIn calls fn with the blocks of a stream that may reach into a range, from the
// tables that there are.
func (t *weekTables) eachIn(ctx context.Context, s stream, w window, fn func(*block.Block)) error {
	for at := dayStart(w.from); at < w.to; {
		_, monday, ok := weektable.ParseTable(weektable.Table("x", time.Unix(0, at)))
		if !ok {
			return nil // before the year 0 or after 9999
		}
		next := monday.Add(week).UnixNano()
		part := window{max(at, w.from), min(next, w.to)}
		if err := t.eachOf(ctx, weektable.Table(t.store.Prefix, time.Unix(0, at)), s, part, fn); err != nil {
			return err
		}
		at = next
	}
	return nil
}

func (t *weekTables) eachOf(ctx context.Context, table string, s stream, w window, fn func(*block.Block)) error {
	p := partition{weekTables: t, table: table, stream: s, window: w, quiet: true}
	return p.each(ctx, func(_ int64, b *block.Block) error {
		fn(b)
		return nil
	})
}

// systemTag takes the name of a gateway's own record apart: site/gateway/$gap.
func systemTag(tag string) (site, gateway string, ok bool) {
	parts := strings.Split(tag, "/")
	if len(parts) != 3 || !strings.HasPrefix(parts[2], "$") || strings.Contains(tag, "*") {
		return "", "", false
	}
	return parts[0], parts[1], true
}

// lookUp finds the catalogue's entries of a tag or pattern.
func lookUp(ctx context.Context, c Catalogue, pattern string, wanted func(string) bool, fn func(*catalogue.Entry) error) error {
	if !strings.Contains(pattern, "*") {
		list, err := c.Lookup(ctx, pattern)
		if err != nil {
			return err
		}
		for i := range list {
			if err := fn(&list[i]); err != nil {
				return err
			}
		}
		return nil
	}
	site, _, slash := strings.Cut(pattern, "/")
	if !slash || strings.Contains(site, "*") {
		site = ""
	}
	return c.Entries(ctx, site, func(e *catalogue.Entry) error {
		if !catalogue.Match(pattern, e.Tag) || wanted != nil && !wanted(e.Tag) {
			return nil
		}
		return fn(e)
	})
}

// brief is what to tell of an error.
func brief(err error) string { return connect.Brief(err) }
