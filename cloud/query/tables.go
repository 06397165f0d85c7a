package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/internal/backoff"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

// stream is one stream of a gateway that may carry wanted tags.
type stream struct{ site, gateway, name string }

func (s stream) String() string { return weektable.Partition(s.site, s.gateway, s.name) }

const (
	week = 7 * 24 * time.Hour
	// atOnce is how many requests are under way.
	atOnce = 8
	// wholePages is how many streams are read by pages of 1 MB, two of each in
	// memory; beyond, pages are of few items.
	wholePages = 48
)

// weekTables reads the week tables.
type weekTables struct {
	*run
	streams map[stream]map[string]bool // the tags wanted of each; nil tags: all that fit the patterns
	guess   bool                       // there is no catalogue: streams are those found in the tables
	gate    chan struct{}
	records records
	strays  strays
	// old serves the weeks whose table is gone; may be nil.
	old   *archive
	state map[string]tableState                 // by table
	found map[string]map[stream]map[string]bool // by table, where guess is set
}

// tableState is what became of a week's table.
type tableState int

const (
	tableThere tableState = iota
	tableCreating
	tableGone
)

func newWeekTables(r *run) *weekTables {
	return &weekTables{run: r, streams: map[stream]map[string]bool{}, gate: make(chan struct{}, atOnce), state: map[string]tableState{}, found: map[string]map[stream]map[string]bool{}}
}

func (*weekTables) close() {}

// windows are the weeks, and days where a week comes from the archive.
func (t *weekTables) windows(ctx context.Context) []window {
	from, to := t.From.UnixNano(), t.To.UnixNano()
	var out []window
	_, start, _ := weektable.ParseTable(weektable.Table("x", time.Unix(0, from)))
	for at := start; at.UnixNano() < to; at = at.Add(week) {
		w := window{max(from, at.UnixNano()), min(to, at.Add(week).UnixNano())}
		if t.Last > 0 || t.old != nil && t.table(ctx, w) == tableGone {
			out = append(out, days(w)...)
		} else {
			out = append(out, w)
		}
	}
	return out
}

// days parts a window into days.
func days(w window) (out []window) {
	for at := w.from; at < w.to; {
		end := min(dayStart(at)+dayNS, w.to)
		out = append(out, window{at, end})
		at = end
	}
	return out
}

// table tells what became of a window's table, and says so once.
func (t *weekTables) table(ctx context.Context, w window) tableState {
	name := weektable.Table(t.store.Prefix, time.Unix(0, w.from))
	if s, known := t.state[name]; known {
		return s
	}
	s := t.describe(ctx, name, w)
	t.state[name] = s
	return s
}

func (t *weekTables) describe(ctx context.Context, name string, w window) tableState {
	out, err := t.store.Tables.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &name})
	switch {
	case err == nil && out.Table != nil && out.Table.TableStatus == types.TableStatusCreating:
		t.tell("creating", fmt.Sprintf("table %s is still being made (CREATING), so nothing is in it yet; ask again in a minute", name))
		return tableCreating
	case err == nil:
		return tableThere
	case connect.ClassOf(err) != connect.Missing:
		return tableThere // the query says what is wrong with it
	}
	if t.old == nil && w.from < time.Now().UnixNano() {
		t.tell("gone", fmt.Sprintf("there is no table %s: that week was retired, or never was; give --archive to read it from there, or look at --prefix and --region", name))
	}
	return tableGone
}

// cursors implements source.
func (t *weekTables) cursors(ctx context.Context, w window, want func(string) bool) ([]cursor, error) {
	switch t.table(ctx, w) {
	case tableGone:
		if t.old == nil {
			return nil, nil
		}
		return t.old.cursors(ctx, w, want)
	case tableCreating:
		return nil, nil
	case tableThere:
	}
	table := weektable.Table(t.store.Prefix, time.Unix(0, w.from))
	streams := t.streams
	if t.guess {
		var err error
		if streams, err = t.find(ctx, table); err != nil {
			t.tell("scan", fmt.Sprintf("table %s cannot be scanned: %s", table, connect.Brief(err)))
			return nil, nil
		}
	}
	var out []cursor
	if len(t.strays.rows) > 0 {
		out = append(out, t.strays.within(w, want))
	}
	var open []stream
	for s, tags := range streams {
		if tags == nil || anyOf(tags, want) {
			open = append(open, s)
		}
	}
	slices.SortFunc(open, func(a, b stream) int { return strings.Compare(a.String(), b.String()) })
	limit := 0
	if len(open) > wholePages {
		limit = max(1, 5*wholePages/len(open))
	}
	for _, s := range open {
		part := partition{weekTables: t, table: table, stream: s, window: w, limit: limit, take: t.taker(streams[s], want)}
		out = append(out, t.newChannel(ctx, func(emit func(*format.Row) error) error { return part.read(ctx, emit) }))
	}
	return out, nil
}

// taker says which of a stream's tags are read.
func (t *weekTables) taker(tags map[string]bool, want func(string) bool) func(string) bool {
	if tags == nil {
		return func(tag string) bool { return t.fits(tag) && want(tag) }
	}
	return func(tag string) bool { return tags[tag] && want(tag) }
}

func anyOf(tags map[string]bool, want func(string) bool) bool {
	for tag := range tags {
		if want(tag) {
			return true
		}
	}
	return false
}

// fits reports whether a tag is one of the request's. A gateway's own records fit
// no pattern that does not name them.
func (r *run) fits(tag string) bool {
	if r.Wanted != nil && !r.Wanted(tag) {
		return false
	}
	system := strings.Contains(tag, "/$")
	return slices.ContainsFunc(r.Tags, func(p string) bool {
		return catalogue.Match(p, tag) && (!system || strings.Contains(p, "/$"))
	})
}

// find scans a table's keys for the streams of the sites asked for.
func (t *weekTables) find(ctx context.Context, table string) (map[stream]map[string]bool, error) {
	if out, there := t.found[table]; there {
		return out, nil
	}
	out := map[stream]map[string]bool{}
	expression := "#pk"
	pages := dynamodb.NewScanPaginator(t.store.Tables, &dynamodb.ScanInput{TableName: &table, ProjectionExpression: &expression,
		ExpressionAttributeNames: map[string]string{"#pk": weektable.AttrPartition}})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			pk, _ := item[weektable.AttrPartition].(*types.AttributeValueMemberS)
			if pk == nil {
				continue
			}
			who := strings.Split(pk.Value, "#")
			if len(who) != 3 || !slices.ContainsFunc(t.Tags, func(p string) bool { return mayBeOf(p, who[0]) }) {
				continue
			}
			out[stream{who[0], who[1], who[2]}] = nil
		}
	}
	t.found[table] = out
	return out, nil
}

// mayBeOf reports whether a tag or pattern can be of a site.
func mayBeOf(pattern, site string) bool {
	head, _, _ := strings.Cut(pattern, "/")
	if at := strings.IndexByte(head, '*'); at >= 0 {
		return strings.HasPrefix(site, head[:at])
	}
	return head == site
}

// partition reads one stream in one table.
type partition struct {
	*weekTables
	table  string
	stream stream
	window window
	limit  int
	take   func(string) bool
	quiet  bool // nothing is said where there is no such table
}

// read hands over the stream's wanted samples of the window in the order of time.
//
// One Query goes over the keys of the range. A block's key has its start, and its
// samples reach on from there, but never across midnight: so what begins at the
// start of the first day or later is read, and of it what ends before the window
// is not sent. Blocks come by their start, so once one starts at a time, all rows
// before are complete.
func (p *partition) read(ctx context.Context, emit func(*format.Row) error) error {
	var waiting pile
	err := p.each(ctx, func(first int64, b *block.Block) error {
		for len(waiting.rows) > 0 && waiting.rows[0].row.PrimaryTime() < first {
			row := waiting.pop()
			if err := emit(&row); err != nil {
				return err
			}
		}
		p.rows(b, p.window, p.take, p.records.corrections, waiting.push)
		return nil
	})
	if err != nil {
		return err
	}
	for len(waiting.rows) > 0 {
		row := waiting.pop()
		if err := emit(&row); err != nil {
			return err
		}
	}
	return nil
}

// each calls fn with the blocks of the stream that may reach into the window, by
// their start. What cannot be read is told.
func (p *partition) each(ctx context.Context, fn func(first int64, b *block.Block) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer cancel()
	pages := make(chan []map[string]types.AttributeValue, 1)
	var failed error // set before pages is closed
	fetching.Go(func() {
		defer close(pages)
		failed = p.fetch(ctx, pages)
	})
	dec, err := block.NewDecoder()
	if err != nil {
		return err
	}
	for items := range pages {
		for _, item := range items {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			first, b := p.block(dec, item)
			if b == nil {
				continue
			}
			if err := fn(first, b); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failed != nil && !(p.quiet && connect.ClassOf(failed) == connect.Missing) {
		p.tell("read", fmt.Sprintf("table %s, stream %s cannot be read to its end: %s", p.table, p.stream, connect.Brief(failed)))
	}
	return nil
}

// fetch brings the pages of a Query.
func (p *partition) fetch(ctx context.Context, pages chan<- []map[string]types.AttributeValue) error {
	in := &dynamodb.QueryInput{TableName: &p.table,
		KeyConditionExpression: aws.String("#pk = :pk AND #sk BETWEEN :from AND :to"),
		FilterExpression:       aws.String("#last >= :first"),
		ProjectionExpression:   aws.String("#sk, #block"),
		ExpressionAttributeNames: map[string]string{"#pk": weektable.AttrPartition, "#sk": weektable.AttrSort, "#last": weektable.AttrLast,
			"#block": weektable.AttrBlock},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk":   &types.AttributeValueMemberS{Value: p.stream.String()},
			":from": &types.AttributeValueMemberS{Value: weektable.StartKey(dayStart(p.window.from))},
			// The window's end is not in it, and every key of a block is longer than
			// its first part.
			":to":    &types.AttributeValueMemberS{Value: weektable.StartKey(p.window.to)},
			":first": &types.AttributeValueMemberN{Value: strconv.FormatInt(p.window.from, 10)},
		}}
	if p.limit > 0 {
		in.Limit = aws.Int32(int32(p.limit))
	}
	// The SDK has tried three times before; a table that throttles is read on, more
	// slowly.
	patience, tries := backoff.Policy{Base: time.Second, Max: 20 * time.Second}, 0
	for {
		select {
		case p.gate <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		out, err := p.store.Tables.Query(ctx, in)
		<-p.gate
		if err != nil && connect.ClassOf(err) == connect.Throttled && p.store.Sleep(ctx, patience.Wait(tries)) {
			tries++
			continue
		}
		if err != nil {
			return err
		}
		tries = 0
		select {
		case pages <- out.Items:
		case <-ctx.Done():
			return ctx.Err()
		}
		if len(out.LastEvaluatedKey) == 0 {
			return nil
		}
		in.ExclusiveStartKey = out.LastEvaluatedKey
	}
}

// block reads an item, nil where it is none that can be read.
func (p *partition) block(dec *block.Decoder, item map[string]types.AttributeValue) (first int64, b *block.Block) {
	sk, _ := item[weektable.AttrSort].(*types.AttributeValueMemberS)
	data, _ := item[weektable.AttrBlock].(*types.AttributeValueMemberB)
	if sk == nil || data == nil {
		p.tell("unreadable blocks", fmt.Sprintf("table %s, stream %s: an item has no %s or %s, so it is no block", p.table, p.stream, weektable.AttrSort, weektable.AttrBlock))
		return 0, nil
	}
	k, err := weektable.ParseKeys(p.stream.String(), sk.Value)
	if err != nil {
		p.tell("unreadable blocks", fmt.Sprintf("table %s: %v", p.table, err))
		return 0, nil
	}
	p.count(len(data.Value))
	b, err = dec.Decode(data.Value)
	if err != nil {
		p.tell("unreadable blocks", unreadable(fmt.Sprintf("table %s, stream %s, block %s", p.table, p.stream, sk.Value), err))
		return 0, nil
	}
	return k.First, b
}

// unreadable says what is wrong with a block.
func unreadable(where string, err error) string {
	if errors.Is(err, block.ErrVersion) {
		return where + ": it is of a newer version of the format; update millrace-cloud"
	}
	return where + ": it cannot be read: " + err.Error()
}

// count counts a block that was read. It is for several goroutines.
func (r *run) count(bytes int) {
	atomic.AddInt64(&r.report.Blocks, 1)
	atomic.AddInt64(&r.report.Bytes, int64(bytes))
}

// rows hands over a block's samples of some tags in a window, in no order. The
// block is decoded as a whole, since its columns share one coded stream, but only
// the wanted ones become rows.
func (r *run) rows(b *block.Block, w window, take func(string) bool, clock *corrections, fn func(*format.Row)) {
	row := format.Row{Gateway: b.Gateway, Stream: b.Stream}
	for i := range b.Columns {
		c := &b.Columns[i]
		if !take(c.Tag) {
			continue
		}
		for n := range c.N {
			if at := primary(c, n); at < w.from || at >= w.to {
				continue
			}
			row.Sample = c.Sample(n)
			if clock.moves(b, &row.Sample) {
				continue // it comes with its right time from elsewhere
			}
			fn(&row)
		}
	}
}

// primary is a sample's primary time.
func primary(c *block.Column, n int) int64 {
	if c.SourceTimes != nil && c.SourceTimes[n] != 0 {
		return c.SourceTimes[n]
	}
	return c.Times[n]
}
