// Package audit reads the week tables in DynamoDB and feeds what they hold to
// the audit of sample/ledger/audit. It only reads.
package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"millrace/cloud/connect"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
)

// Tables is what the audit asks of DynamoDB.
type Tables interface {
	ListTables(context.Context, *dynamodb.ListTablesInput, ...func(*dynamodb.Options)) (*dynamodb.ListTablesOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Connect makes a client by the SDK's default chain: environment, ~/.aws,
// container and instance roles. Region and endpoint override what that says
// where they are not empty.
func Connect(ctx context.Context, region, endpoint string) (*dynamodb.Client, error) {
	s := connect.Settings{Region: region, Endpoint: endpoint}
	cfg, err := connect.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	return connect.DynamoDB(cfg, s), nil
}

// Options say what is read.
type Options struct {
	Prefix string // of the tables' names
	// Site and Gateway restrict the audit; empty takes all. With both given only
	// their partitions are read, by the streams that their heartbeats name.
	Site, Gateway string
	// From and To restrict the audit to the weeks that hold them and those
	// between; zero is no bound.
	From, To time.Time
	// KeysOnly does not fetch the blocks, but for those of the system stream.
	// It costs the same capacity and less transfer; sequences are checked then,
	// counts and bytes are not.
	KeysOnly bool
	// Read is told of bytes as they come; may be nil.
	Read func(bytes int64)
}

// Result is what was read.
type Result struct {
	Tables []string
	Items  int
	// Unread says of items that they are no blocks, or not the ones that their
	// keys say; UnreadCount is how many there were, the first are in words.
	Unread      []string
	UnreadCount int
}

const maxUnread = 50

type reader struct {
	o      Options
	db     Tables
	ledger *audit.Ledger
	dec    *block.Decoder
	result Result
}

// Read feeds the tables' blocks to l.
func Read(ctx context.Context, db Tables, o Options, l *audit.Ledger) (*Result, error) {
	if err := weektable.CheckPrefix(o.Prefix); err != nil {
		return nil, err
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	r := &reader{o: o, db: db, ledger: l, dec: dec}
	if err := r.list(ctx); err != nil {
		return nil, err
	}
	if o.Site != "" && o.Gateway != "" {
		err = r.gateway(ctx)
	} else {
		err = r.all(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &r.result, nil
}

// list finds the week tables, oldest first, and the one of blocks whose time is
// not believable.
func (r *reader) list(ctx context.Context) error {
	const week = 7 * 24 * time.Hour
	in := &dynamodb.ListTablesInput{}
	for {
		out, err := r.db.ListTables(ctx, in)
		if err != nil {
			return explain("list tables", "", err)
		}
		for _, name := range out.TableNames {
			prefix, start, ok := weektable.ParseTable(name)
			switch {
			case name == weektable.Unplaced(r.o.Prefix):
			case !ok || prefix != r.o.Prefix:
				continue
			case !r.o.From.IsZero() && !start.Add(week).After(r.o.From), !r.o.To.IsZero() && start.After(r.o.To):
				continue
			}
			r.result.Tables = append(r.result.Tables, name)
		}
		if out.LastEvaluatedTableName == nil {
			break
		}
		in.ExclusiveStartTableName = out.LastEvaluatedTableName
	}
	slices.Sort(r.result.Tables) // by year and week
	if len(r.result.Tables) == 0 {
		return fmt.Errorf("there is no table %s-samples-... with that time: look at --prefix, --region, --from and --to", r.o.Prefix)
	}
	return nil
}

// all scans the tables.
func (r *reader) all(ctx context.Context) error {
	filter := ""
	values := map[string]types.AttributeValue{}
	if r.o.Site != "" {
		filter, values[":who"] = "begins_with(#pk, :who)", text(r.o.Site+"#")
	}
	if r.o.Gateway != "" {
		filter, values[":who"] = "contains(#pk, :who)", text("#"+r.o.Gateway+"#")
	}
	for _, name := range r.result.Tables {
		in := &dynamodb.ScanInput{TableName: aws.String(name)}
		if filter != "" {
			in.FilterExpression, in.ExpressionAttributeValues = &filter, values
			in.ExpressionAttributeNames = map[string]string{"#pk": weektable.AttrPartition}
		}
		if r.o.KeysOnly {
			in.ProjectionExpression, in.ExpressionAttributeNames = projection()
		}
		pages := dynamodb.NewScanPaginator(r.db, in)
		err := r.pages(ctx, name, pages.HasMorePages, func() ([]map[string]types.AttributeValue, error) {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			return page.Items, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pages takes in what is read of a table, page by page.
func (r *reader) pages(ctx context.Context, table string, more func() bool, next func() ([]map[string]types.AttributeValue, error)) error {
	for more() {
		items, err := next()
		if gone(err) {
			return nil // dropped meanwhile
		}
		if err != nil {
			return explain("read table", table, err)
		}
		if err := r.take(ctx, table, items); err != nil {
			return err
		}
	}
	return nil
}

// gateway queries the partitions of one gateway: first the system stream, whose
// heartbeats name the others.
func (r *reader) gateway(ctx context.Context) error {
	if err := r.partition(ctx, ledger.SystemStream); err != nil {
		return err
	}
	streams := r.ledger.StreamsOf(r.o.Site, r.o.Gateway)
	if len(streams) < 2 {
		return r.all(ctx) // no heartbeat names any
	}
	for _, stream := range streams {
		if stream == ledger.SystemStream {
			continue
		}
		if err := r.partition(ctx, stream); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) partition(ctx context.Context, stream string) error {
	condition := "#pk = :pk"
	for _, name := range r.result.Tables {
		in := &dynamodb.QueryInput{
			TableName: aws.String(name), KeyConditionExpression: &condition,
			ExpressionAttributeNames:  map[string]string{"#pk": weektable.AttrPartition},
			ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(weektable.Partition(r.o.Site, r.o.Gateway, stream))},
		}
		if r.o.KeysOnly && stream != ledger.SystemStream {
			in.ProjectionExpression, in.ExpressionAttributeNames = projection()
		}
		pages := dynamodb.NewQueryPaginator(r.db, in)
		err := r.pages(ctx, name, pages.HasMorePages, func() ([]map[string]types.AttributeValue, error) {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			return page.Items, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// projection leaves out the block's bytes.
func projection() (*string, map[string]string) {
	expression := "#pk, #sk, #last, #count"
	return &expression, map[string]string{
		"#pk": weektable.AttrPartition, "#sk": weektable.AttrSort, "#last": weektable.AttrLast, "#count": weektable.AttrCount,
	}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func gone(err error) bool {
	var none *types.ResourceNotFoundException
	return errors.As(err, &none)
}

// explain says what to do about an error of DynamoDB.
func explain(op, object string, err error) error {
	what := op
	if object != "" {
		what += " " + object
	}
	hint := ""
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "AccessDeniedException":
			hint = "; allow dynamodb:ListTables, dynamodb:Scan and dynamodb:Query to these credentials"
		case "ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException":
			hint = "; renew the credentials, and look at this machine's clock"
		case "ProvisionedThroughputExceededException", "ThrottlingException":
			hint = "; raise the tables' read capacity for the time of the audit, or audit fewer weeks"
		}
	}
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %s", what, connect.Brief(err))
	}
	return fmt.Errorf("%s: %w%s", what, err, hint)
}
