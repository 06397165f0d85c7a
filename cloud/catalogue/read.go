package catalogue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/connect"
	"millrace/internal/backoff"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/weektable"
)

const (
	maxGet   = 100 // keys of BatchGetItem; DynamoDB API Reference
	maxTries = 10  // of a read that is throttled in part
)

// explain says what a reader does about an error. It wraps err, so that
// connect.ClassOf tells connect.Missing where there is no such table.
func explain(table string, err error) error {
	if connect.ClassOf(err) == connect.Missing {
		return fmt.Errorf("read table %s: %w; make it by `millrace-cloud tables ensure`, and fill it by `millrace-cloud tables catalogue`", table, err)
	}
	return fmt.Errorf("read table %s: %w", table, err)
}

// query reads a partition: all of it, or what condition on #sk selects.
func (s *Store) query(ctx context.Context, table, pk, condition string, values map[string]types.AttributeValue, fn func(map[string]types.AttributeValue) error) error {
	expression := "#pk = :pk"
	names := map[string]string{"#pk": weektable.AttrPartition}
	all := map[string]types.AttributeValue{":pk": text(pk)}
	if condition != "" {
		expression += " AND " + condition
		names["#sk"] = weektable.AttrSort
		for k, v := range values {
			all[k] = v
		}
	}
	pages := dynamodb.NewQueryPaginator(s.DB, &dynamodb.QueryInput{TableName: &table, KeyConditionExpression: &expression,
		ExpressionAttributeNames: names, ExpressionAttributeValues: all})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return explain(table, err)
		}
		for _, item := range page.Items {
			if err := fn(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// Lookup returns what is known of a tag: one entry for every stream of a gateway
// that carries or carried it, the newest record first; none where no gateway has
// told of it.
func (s *Store) Lookup(ctx context.Context, tag string) ([]Entry, error) {
	if err := sample.CheckTag(tag); err != nil {
		return nil, err
	}
	var out []Entry
	err := s.query(ctx, Table(s.Prefix), SiteOf(tag), "begins_with(#sk, :sk)", map[string]types.AttributeValue{":sk": text(tag + "#")},
		func(item map[string]types.AttributeValue) error {
			e, err := entryOf(item)
			if err == nil {
				out = append(out, *e)
			}
			return err
		})
	slices.SortStableFunc(out, func(a, b Entry) int { return b.Since.Compare(a.Since) })
	return out, err
}

// Entries hands over a site's entries by tag, gateway and stream; those of all
// sites where site is empty, one site after the other.
func (s *Store) Entries(ctx context.Context, site string, fn func(*Entry) error) error {
	each := func(item map[string]types.AttributeValue) error {
		e, err := entryOf(item)
		if err != nil {
			return err
		}
		return fn(e)
	}
	if site != "" {
		return s.query(ctx, Table(s.Prefix), site, "", nil, each)
	}
	table := Table(s.Prefix)
	pages := dynamodb.NewScanPaginator(s.DB, &dynamodb.ScanInput{TableName: &table})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return explain(table, err)
		}
		for _, item := range page.Items {
			if err := each(item); err != nil {
				return err
			}
		}
	}
	return nil
}

func entryOf(item map[string]types.AttributeValue) (*Entry, error) {
	e := &Entry{Site: weekitem.Text(item, weektable.AttrPartition), Gateway: weekitem.Text(item, attrGateway)}
	if err := recordOf(item, &e.CatalogueEntry); err != nil {
		return nil, err
	}
	if at, ok := weekitem.Number(item, attrSince); ok && at != 0 {
		e.Since = time.Unix(0, at).UTC()
	}
	return e, nil
}

// Gaps hands over a site's gap records that touch [from, to), by gateway and
// start; a zero time is no bound. All records before to are read for it, since a
// gap may be of any length.
func (s *Store) Gaps(ctx context.Context, site string, from, to time.Time, fn func(*Gap) error) error {
	var gateways []string
	err := s.query(ctx, GapsTable(s.Prefix), site, "", nil, func(item map[string]types.AttributeValue) error {
		gateways = append(gateways, weekitem.Text(item, weektable.AttrSort))
		return nil
	})
	if err != nil {
		return err
	}
	condition, values := "", map[string]types.AttributeValue{}
	if !to.IsZero() {
		condition, values = "#sk < :to", map[string]types.AttributeValue{":to": text(gapStart(to))}
	}
	for _, gateway := range gateways {
		err := s.query(ctx, GapsTable(s.Prefix), site+"#"+gateway, condition, values, func(item map[string]types.AttributeValue) error {
			g := &Gap{Site: site, Gateway: gateway}
			if err := recordOf(item, &g.Gap); err != nil {
				return err
			}
			if !from.IsZero() && g.End().Before(from) {
				return nil
			}
			return fn(g)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Latest returns the newest readings of tags, in their order; tags that have
// none are left out.
func (s *Store) Latest(ctx context.Context, tags ...string) ([]Reading, error) {
	table := LatestTable(s.Prefix)
	found := map[string]*Reading{}
	pace := backoff.Policy{Base: 50 * time.Millisecond, Max: 2 * time.Second}
	wanted := slices.Clone(tags)
	slices.Sort(wanted)
	for group := range slices.Chunk(slices.Compact(wanted), maxGet) {
		var list []map[string]types.AttributeValue
		for _, tag := range group {
			list = append(list, keys(SiteOf(tag), tag))
		}
		want := map[string]types.KeysAndAttributes{table: {Keys: list}}
		for tries := 0; ; tries++ {
			out, err := s.DB.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: want})
			if err != nil {
				return nil, explain(table, err)
			}
			for _, item := range out.Responses[table] {
				r, err := readingOf(item)
				if err != nil {
					return nil, err
				}
				found[r.Tag] = r
			}
			if want = out.UnprocessedKeys; len(want) == 0 {
				break
			}
			if tries == maxTries || !backoff.Sleep(ctx, pace.Wait(tries)) {
				return nil, explain(table, errors.Join(errors.New("it throttles its readers; try again, or raise its read units"), ctx.Err()))
			}
		}
	}
	var out []Reading
	for _, tag := range tags {
		if r := found[tag]; r != nil {
			out = append(out, *r)
		}
	}
	return out, nil
}

func readingOf(item map[string]types.AttributeValue) (*Reading, error) {
	r := &Reading{Gateway: weekitem.Text(item, attrGateway), Stream: weekitem.Text(item, attrStream)}
	r.Tag = weekitem.Text(item, weektable.AttrSort)
	at, ok := weekitem.Number(item, attrTime)
	if !ok {
		return nil, fmt.Errorf("latest item %q has no time", r.Tag)
	}
	if clock, ok := weekitem.Number(item, attrGatewayTime); ok {
		r.Time, r.SourceTime = clock, at
	} else {
		r.Time = at
	}
	q, _ := weekitem.Number(item, attrQuality)
	r.Quality = sample.Quality(q)
	var err error
	if r.Value, err = valueFrom(item); err != nil {
		return nil, fmt.Errorf("latest item %q: %w", r.Tag, err)
	}
	return r, nil
}

// valueFrom is valueOf backwards.
func valueFrom(item map[string]types.AttributeValue) (sample.Value, error) {
	digits := weekitem.Text(item, attrValue)
	if n, ok := item[attrValue].(*types.AttributeValueMemberN); ok {
		digits = n.Value
	}
	switch kind := weekitem.Text(item, attrKind); kind {
	case sample.Float64.String():
		f, err := strconv.ParseFloat(digits, 64)
		return sample.FloatValue(f), err
	case sample.Int64.String():
		n, err := strconv.ParseInt(digits, 10, 64)
		return sample.IntValue(n), err
	case sample.Bool.String():
		b, ok := item[attrValue].(*types.AttributeValueMemberBOOL)
		return sample.BoolValue(ok && b.Value), nil
	case sample.String.String():
		return sample.StringValue(digits), nil
	case sample.Null.String():
		return sample.Value{}, nil
	default:
		return sample.Value{}, fmt.Errorf("kind %q is none of %s", kind, strings.Join([]string{"null", "float64", "int64", "bool", "string"}, ", "))
	}
}
