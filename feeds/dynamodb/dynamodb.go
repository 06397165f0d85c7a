// Package dynamodb takes results from a DynamoDB table, by queries for what was
// published for this site since the last one. docs/feeds.md describes the table
// and the settings.
package dynamodb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/feeds"
	"millrace/internal/clock"
	"millrace/sample/result"
	"millrace/uploader"
	"millrace/uploader/awsconf"
)

// The attributes of a results table.
const (
	AttrSite      = "site"      // partition key, string
	AttrPublished = "published" // sort key, string: PublishedLayout, '#', the result's id
	AttrResult    = "result"    // the result's JSON text, string
)

// PublishedLayout is how the time of publishing begins a sort key: UTC, in
// milliseconds, so that the keys sort by time.
const PublishedLayout = "2006-01-02T15:04:05.000Z"

const (
	maxMessages = 10
	// maxPage bounds what one query brings, in items.
	maxPage = 200
	// maxSeen bounds what is remembered of the overlap. Beyond it the oldest are
	// forgotten, and looked at once more.
	maxSeen = 100_000
	// queryTimeout bounds one query.
	queryTimeout = 15 * time.Second
)

// Kind is the kind of feed `type: dynamodb`.
type Kind struct{}

// Type implements feeds.Kind.
func (Kind) Type() string { return "dynamodb" }

// NewConfig implements feeds.Kind.
func (Kind) NewConfig() feeds.Config {
	return &Config{Interval: 5 * time.Second, Overlap: 2 * time.Minute}
}

// Config is a feed's settings.
type Config struct {
	// Table is the results table's name.
	Table string `yaml:"table"`
	// Interval is how often the table is asked; 100 ms to 1 h.
	Interval time.Duration `yaml:"interval"`
	// Overlap is how far back each query reaches behind the newest result that
	// is known: what becomes visible late, or was published with a clock that
	// is behind, is found within it; 1 s to 1 h.
	Overlap        time.Duration `yaml:"overlap"`
	awsconf.Config `yaml:",inline"`
}

// Validate implements feeds.Config.
func (c *Config) Validate() []uploader.Fault {
	faults := c.Config.Validate()
	if err := awsconf.CheckTable(c.Table); err != nil {
		faults = append(faults, uploader.Fault{Path: "table", Problem: err.Error(), Hint: "write the table's name, for example millrace-results"})
	}
	if c.Interval < 100*time.Millisecond || c.Interval > time.Hour {
		faults = append(faults, uploader.Fault{Path: "interval", Problem: fmt.Sprintf("%s is not between 100ms and 1h", c.Interval), Hint: "5s is good"})
	}
	if c.Overlap < time.Second || c.Overlap > time.Hour {
		faults = append(faults, uploader.Fault{Path: "overlap", Problem: fmt.Sprintf("%s is not between 1s and 1h", c.Overlap), Hint: "2m is good; each query reads it anew"})
	}
	return faults
}

// Open implements feeds.Config.
func (c *Config) Open(s feeds.Settings) (feeds.Feed, error) {
	cfg, err := c.Load("", 1, s.Dial)
	if err != nil {
		return nil, fmt.Errorf("feed %s: %w", s.Name, err)
	}
	return &feed{
		client: awsddb.NewFromConfig(cfg, func(o *awsddb.Options) { o.HTTPSignerV4 = awsconf.Signer{} }),
		conf:   *c, site: s.Site, clock: s.Clock, cursor: s.Cursor, seen: map[string]bool{}, poll: feeds.Poll{Interval: c.Interval},
	}, nil
}

type feed struct {
	client *awsddb.Client
	conf   Config
	site   string
	clock  clock.Clock

	cursor string          // the greatest sort key handed over or known from before
	seen   map[string]bool // sort keys within the overlap that were handed over
	ready  []feeds.Message // found, and not handed over
	poll   feeds.Poll
	page   map[string]types.AttributeValue // where the query goes on; nil at its end
	// began is when the query began, and complete when the last one did that was
	// read to its end, or the feed's first where none was.
	began, complete time.Time
}

// Receive implements feeds.Feed.
func (f *feed) Receive(ctx context.Context) ([]feeds.Message, error) {
	if len(f.ready) == 0 {
		if f.page == nil { // the last query was read to its end
			if due, err := f.poll.Wait(ctx); !due || err != nil {
				return nil, err
			}
		}
		if err := f.query(ctx); err != nil {
			return nil, err
		}
	}
	n := min(len(f.ready), maxMessages)
	out := slices.Clone(f.ready[:n])
	f.ready = slices.Delete(f.ready, 0, n)
	return out, nil
}

// published is the time in a sort key, and false where it is none or further
// ahead than clocks differ: such a key must not become the cursor, as it would
// keep all others away until then.
func (f *feed) published(key string) (time.Time, bool) {
	t, err := time.Parse(PublishedLayout, key[:min(len(key), len(PublishedLayout))])
	return t, err == nil && !t.After(f.clock.Now().Add(f.conf.Overlap))
}

// from is where a query begins: without a cursor at the last query that was read
// to its end, since the table may have been away for long.
func (f *feed) from() string {
	at := f.clock.Now()
	if !f.complete.IsZero() && f.complete.Before(at) {
		at = f.complete
	}
	if t, ok := f.published(f.cursor); ok {
		at = t
	}
	return at.Add(-f.conf.Overlap).UTC().Format(PublishedLayout)
}

// query reads a page of what was published since, and puts aside what is new.
func (f *feed) query(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if f.page == nil {
		f.began = f.clock.Now()
	}
	if f.complete.IsZero() {
		f.complete = f.began
	}
	from := f.from()
	out, err := f.client.Query(limited, &awsddb.QueryInput{
		TableName: &f.conf.Table, ConsistentRead: aws.Bool(true), Limit: aws.Int32(maxPage), ExclusiveStartKey: f.page,
		KeyConditionExpression:   aws.String("#site = :site AND #published > :from"),
		ProjectionExpression:     aws.String("#published, #result"),
		ExpressionAttributeNames: map[string]string{"#site": AttrSite, "#published": AttrPublished, "#result": AttrResult},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":site": &types.AttributeValueMemberS{Value: f.site}, ":from": &types.AttributeValueMemberS{Value: from},
		},
	})
	if err != nil {
		f.page = nil // and it is due again: the caller spaces the tries
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return f.explain(err)
	}
	f.page = out.LastEvaluatedKey
	if len(f.page) == 0 {
		f.page = nil
		f.poll.Asked()
		f.complete = f.began
	}
	for _, item := range out.Items {
		f.found(item)
	}
	f.forget(f.from())
	return nil
}

// found puts an item aside that was not handed over yet. One that holds no
// text is handed over as an empty body, which is refused and recorded.
func (f *feed) found(item map[string]types.AttributeValue) {
	key, _ := item[AttrPublished].(*types.AttributeValueMemberS) // it is the table's key
	if key == nil || f.seen[key.Value] {
		return
	}
	body := ""
	if text, ok := item[AttrResult].(*types.AttributeValueMemberS); ok {
		body = text.Value
	}
	if len(body) > result.MaxBytes {
		body = body[:result.MaxBytes+1]
	}
	f.seen[key.Value] = true
	cursor := ""
	if _, ok := f.published(key.Value); ok {
		cursor = key.Value
		f.cursor = max(f.cursor, cursor)
	}
	f.ready = append(f.ready, feeds.Message{Key: shorten(key.Value), Body: []byte(body), Cursor: cursor})
}

// shorten cuts a key to what a message's may have.
func shorten(key string) string { return key[:min(len(key), 256)] }

// forget drops what no query reaches any more, and the oldest beyond the bound.
func (f *feed) forget(from string) {
	for key := range f.seen {
		if key <= from {
			delete(f.seen, key)
		}
	}
	if len(f.seen) <= maxSeen {
		return
	}
	keys := make([]string, 0, len(f.seen))
	for key := range f.seen {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	for _, key := range keys[:len(keys)-maxSeen] {
		delete(f.seen, key)
	}
}

func (f *feed) explain(err error) error {
	out := awsconf.Wrap("query table", f.conf.Table, err)
	if out.Class == uploader.Permanent {
		out.Class, out.Hint = uploader.Hold, "check the table's keys: site (string) and published (string); see docs/feeds.md"
	}
	return out
}

// Done implements feeds.Feed. The cursor in the mirror's own log is what
// remembers; the table keeps its items until their time to live ends.
func (f *feed) Done(context.Context, []feeds.Message) error { return nil }

// Check implements feeds.Feed.
func (f *feed) Check(ctx context.Context) error {
	_, err := f.client.Query(ctx, &awsddb.QueryInput{
		TableName: &f.conf.Table, Limit: aws.Int32(1), KeyConditionExpression: aws.String("#site = :site AND #published > :from"),
		ExpressionAttributeNames: map[string]string{"#site": AttrSite, "#published": AttrPublished},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":site": &types.AttributeValueMemberS{Value: f.site}, ":from": &types.AttributeValueMemberS{Value: f.from()},
		},
	})
	if err != nil {
		return f.explain(err)
	}
	return nil
}

// Close implements feeds.Feed.
func (f *feed) Close() error { return nil }
