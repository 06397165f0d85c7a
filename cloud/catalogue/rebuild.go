package catalogue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/connect"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/internal/weekitem"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// WeekTables is what a rebuild asks of DynamoDB beside API.
type WeekTables interface {
	API
	ListTables(context.Context, *dynamodb.ListTablesInput, ...func(*dynamodb.Options)) (*dynamodb.ListTablesOutput, error)
}

// Rebuild says how the catalogue and the gaps are filled from the week tables.
type Rebuild struct {
	// Phase is told of each table that is read, of how many, and Read of each
	// block; both may be nil.
	Phase func(table string, n, of int)
	Read  func(blocks int64)
	// Pace is of writes that are throttled, and Tries how often one is tried.
	Pace  backoff.Policy
	Tries int
	// Weeks is how many weeks are read, this one among them, with what is ahead and
	// the blocks that cannot be placed; 0 is all.
	Weeks int
}

// Rebuilt is what a rebuild has done.
type Rebuilt struct {
	Tables     int // week tables, that of unplaced blocks among them
	Done       int // of these, read in an earlier run that did not end
	Gateways   int // system streams, each once for every table
	Blocks     int
	Items      int      // written, if they were newer than what was there
	Unreadable []string // what could not be read, the first in words
	Count      int      // how many were not
}

const (
	// markerPartition holds, in the table of gaps, the tables that a rebuild that
	// has not ended is through with. No site or gateway has such a name.
	markerPartition = "#rebuild"
	markerAge       = 24 * time.Hour // older ones are of no use: blocks may have come since
	// lastSort is beyond every sort key of a block.
	lastSort = "~"
	week     = 7 * 24 * time.Hour
)

// Rebuild reads the system streams of all week tables and brings their records
// into the catalogue and the gaps, in whatever state these are. Where it is
// interrupted, a later run goes on with the table at which it was.
func (s *Store) Rebuild(ctx context.Context, db WeekTables, o Rebuild) (*Rebuilt, error) {
	r := &Rebuilt{}
	tables, err := s.weekTables(ctx, db)
	if err != nil {
		return r, err
	}
	if o.Weeks > 0 {
		end := s.now().Add(-time.Duration(o.Weeks-1) * week) // of the oldest week is after it
		tables = slices.DeleteFunc(tables, func(name string) bool {
			_, start, ok := weektable.ParseTable(name)
			return ok && !start.Add(week).After(end)
		})
	}
	r.Tables = len(tables)
	done, err := s.markers(ctx)
	if err != nil {
		return r, err
	}
	for i, table := range tables {
		if done[table] {
			r.Done++
			continue
		}
		if o.Phase != nil {
			o.Phase(table, i+1, len(tables))
		}
		if err := s.rebuildTable(ctx, db, table, &o, r); err != nil {
			return r, err
		}
		marker := keys(markerPartition, table)
		marker[attrSince] = number(s.now().UnixNano())
		b := s.NewBatch()
		b.add(&put{table: GapsTable(s.Prefix), item: marker})
		if err := o.insist(ctx, func() error { return b.Write(ctx) }); err != nil {
			return r, err
		}
	}
	return r, s.unmark(ctx, &o, tables)
}

func (s *Store) now() time.Time {
	if s.Clock != nil {
		return s.Clock.Now()
	}
	return clock.System{}.Now()
}

// weekTables lists the tables that hold blocks, oldest week first.
func (s *Store) weekTables(ctx context.Context, db WeekTables) (out []string, err error) {
	in := &dynamodb.ListTablesInput{}
	for {
		page, err := db.ListTables(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		for _, name := range page.TableNames {
			if prefix, _, ok := weektable.ParseTable(name); ok && prefix == s.Prefix || name == weektable.Unplaced(s.Prefix) {
				out = append(out, name)
			}
		}
		if page.LastEvaluatedTableName == nil {
			break
		}
		in.ExclusiveStartTableName = page.LastEvaluatedTableName
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no table %s-samples-...; look at --prefix and --region", s.Prefix)
	}
	slices.Sort(out)
	return out, nil
}

// markers are the tables that an earlier run was through with.
func (s *Store) markers(ctx context.Context) (map[string]bool, error) {
	done := map[string]bool{}
	err := s.query(ctx, GapsTable(s.Prefix), markerPartition, "", nil, func(item map[string]types.AttributeValue) error {
		if at, _ := weekitem.Number(item, attrSince); s.now().Sub(time.Unix(0, at)) < markerAge {
			done[weekitem.Text(item, weektable.AttrSort)] = true
		}
		return nil
	})
	return done, err
}

// unmark ends a run: the next one reads everything.
func (s *Store) unmark(ctx context.Context, o *Rebuild, tables []string) error {
	table := GapsTable(s.Prefix)
	for group := range slices.Chunk(tables, weekitem.MaxItems) {
		var list []types.WriteRequest
		for _, name := range group {
			list = append(list, types.WriteRequest{DeleteRequest: &types.DeleteRequest{Key: keys(markerPartition, name)}})
		}
		// One that stays would have a run within a day pass over its table.
		left := map[string][]types.WriteRequest{table: list}
		err := o.insist(ctx, func() error {
			out, err := s.DB.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: left})
			if err == nil && len(out.UnprocessedItems) > 0 {
				left = out.UnprocessedItems
				err = &types.ProvisionedThroughputExceededException{}
			}
			if err != nil {
				return &WriteError{table, err}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) rebuildTable(ctx context.Context, db API, table string, o *Rebuild, r *Rebuilt) error {
	partitions, err := systemStreams(ctx, db, table)
	if err != nil {
		return err
	}
	for _, pk := range partitions {
		r.Gateways++
		b := s.NewBatch()
		expression := "#pk = :pk"
		pages := dynamodb.NewQueryPaginator(db, &dynamodb.QueryInput{TableName: &table, KeyConditionExpression: &expression,
			ExpressionAttributeNames:  map[string]string{"#pk": weektable.AttrPartition},
			ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(pk)}})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return explain(table, err)
			}
			for _, item := range page.Items {
				if err := b.addItem(item); err != nil {
					if r.Count++; len(r.Unreadable) < maxSkipped {
						r.Unreadable = append(r.Unreadable, err.Error())
					}
				}
			}
			r.Blocks += len(page.Items)
			if o.Read != nil {
				o.Read(int64(len(page.Items)))
			}
			n := b.Len()
			if err := o.insist(ctx, func() error { return b.Write(ctx) }); err != nil {
				return err
			}
			r.Items += n
		}
	}
	return nil
}

// addItem takes in the block of an item.
func (b *Batch) addItem(item map[string]types.AttributeValue) error {
	data, ok := weekitem.Block(item)
	if !ok {
		return fmt.Errorf("item %q %q has no block", weekitem.Text(item, weektable.AttrPartition), weekitem.Text(item, weektable.AttrSort))
	}
	h, err := block.ReadHeader(data)
	if err != nil {
		return fmt.Errorf("item %q %q: %w", weekitem.Text(item, weektable.AttrPartition), weekitem.Text(item, weektable.AttrSort), err)
	}
	return b.Add(&h, data)
}

// insist tries again what passes by itself.
func (o *Rebuild) insist(ctx context.Context, write func() error) error {
	for try := 1; ; try++ {
		err := write()
		if err == nil {
			return nil
		}
		if class := connect.ClassOf(err); class != connect.Throttled && class != connect.Transient || try >= o.Tries || !backoff.Sleep(ctx, o.Pace.Wait(try-1)) {
			return errors.Join(err, ctx.Err())
		}
	}
}

// systemStreams finds the partitions of system streams in a table. It reads one
// item of each partition: a scan goes on after the last sort key that a block
// may have, and so with the next partition.
func systemStreams(ctx context.Context, db API, table string) (out []string, err error) {
	in := &dynamodb.ScanInput{TableName: &table, Limit: aws.Int32(1), ProjectionExpression: aws.String("#pk"),
		ExpressionAttributeNames: map[string]string{"#pk": weektable.AttrPartition}}
	seen := map[string]bool{}
	for {
		page, err := db.Scan(ctx, in)
		if err != nil {
			return nil, explain(table, err)
		}
		in.ExclusiveStartKey = page.LastEvaluatedKey
		for _, item := range page.Items {
			pk := weekitem.Text(item, weektable.AttrPartition)
			if seen[pk] {
				continue // the service does not go by such a key: item by item, then
			}
			seen[pk] = true
			if strings.HasSuffix(pk, "#"+ledger.SystemStream) {
				out = append(out, pk)
			}
			in.ExclusiveStartKey = keys(pk, lastSort)
		}
		if page.LastEvaluatedKey == nil {
			slices.Sort(out)
			return out, nil
		}
	}
}
