package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/connect"
	"millrace/internal/backoff"
)

// DB is what is asked of DynamoDB.
type DB interface {
	CreateTable(context.Context, *dynamodb.CreateTableInput, ...func(*dynamodb.Options)) (*dynamodb.CreateTableOutput, error)
	DescribeTable(context.Context, *dynamodb.DescribeTableInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error)
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
}

// Store is the table of runs and their lock.
type Store struct {
	DB     DB
	Prefix string
	// Now is the wall clock, for people to read. Nothing but a new run's id is
	// taken from it.
	Now func() time.Time
	// Sleep waits for d, or until ctx is done, and reports whether it waited to
	// the end.
	Sleep func(ctx context.Context, d time.Duration) bool
}

// The items: the lock is one, and each run is one, by its id. Both have a
// fence, the number of the lock's holder.
const (
	attrPK   = "pk"
	attrSK   = "sk"
	pkLock   = "lock"
	pkRun    = "run"
	attrRun  = "run"   // S: the Record as JSON
	attrTurn = "fence" // N: rises with each holder
)

const (
	pollEvery = 2 * time.Second
	maxWait   = 5 * time.Minute
	// patience is how long a request is tried again while the table throttles
	// or cannot be reached.
	patience = 2 * time.Minute
)

// Table is the name of the table of runs.
func Table(prefix string) string { return prefix + "-pipeline" }

func (s *Store) table() *string { return aws.String(Table(s.Prefix)) }

// errMissing says that there is no table.
var errMissing = errors.New("there is no table")

// try asks again while the table throttles or cannot be reached.
func (s *Store) try(ctx context.Context, op string, ask func(context.Context) error) error {
	waited := time.Duration(0)
	for attempt := 0; ; attempt++ {
		err := ask(ctx)
		var failed *types.ConditionalCheckFailedException
		class := connect.ClassOf(err)
		switch {
		case err == nil, errors.As(err, &failed):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%s table %s: %w", op, *s.table(), context.Cause(ctx))
		case class == connect.Missing:
			return fmt.Errorf("%s %s: %w", op, *s.table(), errMissing)
		case class != connect.Throttled && class != connect.Transient, waited > patience:
			return fmt.Errorf("%s table %s: %s", op, *s.table(), connect.Brief(err))
		}
		d := backoff.Policy{Max: 2 * time.Second}.Wait(attempt)
		waited += d
		if !s.Sleep(ctx, d) {
			return fmt.Errorf("%s table %s: %w", op, *s.table(), context.Cause(ctx))
		}
	}
}

// Ensure makes the table where there is none, and waits until it is ACTIVE.
func (s *Store) Ensure(ctx context.Context) error {
	for waited := time.Duration(0); ; waited += pollEvery {
		var status types.TableStatus
		err := s.try(ctx, "look at", func(ctx context.Context) error {
			out, err := s.DB.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: s.table()})
			if err == nil && out.Table != nil {
				status = out.Table.TableStatus
			}
			return err
		})
		switch {
		case errors.Is(err, errMissing):
			if err := s.create(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		case status == types.TableStatusActive:
			return nil
		}
		if waited >= maxWait {
			return fmt.Errorf("table %s is still %s after %v; run the command again", *s.table(), status, maxWait)
		}
		if !s.Sleep(ctx, pollEvery) {
			return ErrInterrupted
		}
	}
}

// create asks for the table. One that somebody else makes at this moment is as
// good.
func (s *Store) create(ctx context.Context) error {
	return s.try(ctx, "create", func(ctx context.Context) error {
		_, err := s.DB.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: s.table(), BillingMode: types.BillingModePayPerRequest,
			KeySchema: []types.KeySchemaElement{{AttributeName: aws.String(attrPK), KeyType: types.KeyTypeHash}, {AttributeName: aws.String(attrSK), KeyType: types.KeyTypeRange}},
			AttributeDefinitions: []types.AttributeDefinition{
				{AttributeName: aws.String(attrPK), AttributeType: types.ScalarAttributeTypeS}, {AttributeName: aws.String(attrSK), AttributeType: types.ScalarAttributeTypeS}}})
		var exists *types.ResourceInUseException
		if errors.As(err, &exists) {
			return nil
		}
		return err
	})
}

// Last returns the newest runs, the newest first. No table is no runs.
func (s *Store) Last(ctx context.Context, n int) ([]Record, error) {
	var out *dynamodb.QueryOutput
	err := s.try(ctx, "read", func(ctx context.Context) (err error) {
		out, err = s.DB.Query(ctx, &dynamodb.QueryInput{TableName: s.table(), KeyConditionExpression: aws.String("pk = :run"), ConsistentRead: aws.Bool(true),
			ExpressionAttributeValues: map[string]types.AttributeValue{":run": text(pkRun)}, ScanIndexForward: aws.Bool(false), Limit: aws.Int32(int32(n))})
		return err
	})
	if errors.Is(err, errMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var runs []Record
	for _, item := range out.Items {
		r, err := s.record(item)
		if err != nil {
			return nil, err
		}
		runs = append(runs, *r)
	}
	return runs, nil
}

// get returns the run of an id, nil where there is none.
func (s *Store) get(ctx context.Context, id string) (*Record, error) {
	item, err := s.item(ctx, pkRun, id)
	if err != nil || item == nil {
		return nil, err
	}
	return s.record(item)
}

func (s *Store) record(item map[string]types.AttributeValue) (*Record, error) {
	r := &Record{}
	if err := json.Unmarshal([]byte(textOf(item[attrRun])), r); err != nil {
		return nil, fmt.Errorf("table %s, run %s: what it holds does not read: %w; delete the item", *s.table(), textOf(item[attrSK]), err)
	}
	return r, nil
}

func (s *Store) item(ctx context.Context, pk, sk string) (map[string]types.AttributeValue, error) {
	var out *dynamodb.GetItemOutput
	err := s.try(ctx, "read", func(ctx context.Context) (err error) {
		out, err = s.DB.GetItem(ctx, &dynamodb.GetItemInput{TableName: s.table(), ConsistentRead: aws.Bool(true),
			Key: map[string]types.AttributeValue{attrPK: text(pk), attrSK: text(sk)}})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out.Item, nil
}

// put stores a run. Its error wraps ErrLost where a later holder of the lock has
// written it: the condition is on the fence, so that who was away for longer
// than its lease changes nothing.
func (s *Store) put(ctx context.Context, r *Record, fence uint64) error {
	data, err := json.Marshal(r)
	if err != nil {
		panic("BUG: a run does not encode: " + err.Error())
	}
	err = s.try(ctx, "write to", func(ctx context.Context) error {
		_, err := s.DB.PutItem(ctx, &dynamodb.PutItemInput{TableName: s.table(),
			Item:                      map[string]types.AttributeValue{attrPK: text(pkRun), attrSK: text(r.ID), attrRun: text(string(data)), attrTurn: number(fence)},
			ConditionExpression:       aws.String("attribute_not_exists(pk) OR fence <= :fence"),
			ExpressionAttributeValues: map[string]types.AttributeValue{":fence": number(fence)}})
		return err
	})
	var failed *types.ConditionalCheckFailedException
	if errors.As(err, &failed) {
		return fmt.Errorf("run %s: %w: another run has written to it; nothing more is done here", r.ID, ErrLost)
	}
	return err
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
func number(n uint64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatUint(n, 10)}
}

func textOf(v types.AttributeValue) string {
	if s, ok := v.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

// numberOf is 0 for what is no number: a fence and a lease of 0 keep nobody out.
func numberOf(v types.AttributeValue) uint64 {
	n, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		return 0
	}
	u, err := strconv.ParseUint(n.Value, 10, 64)
	if err != nil {
		return 0
	}
	return u
}
