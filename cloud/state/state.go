// Package state keeps a few small items in a table of DynamoDB, each written on a
// condition, for what must not be done twice or out of order: the runs of the
// pipeline, and the results that were sent.
package state

import (
	"context"
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

// Item is one item. It has the keys "pk" and "sk", both texts.
type Item map[string]types.AttributeValue

// The errors of a Table, beside AWS's own.
var (
	// ErrNoTable says that there is no table.
	ErrNoTable = errors.New("there is no table")
	// ErrCondition says that the condition of a put does not hold. It may be that
	// it held, the item was put, and the answer was lost: read it again.
	ErrCondition = errors.New("the condition does not hold")
)

// Table is a table of small items.
type Table struct {
	DB   DB
	Name string
	// Sleep waits for d, or until ctx is done, and reports whether it waited to
	// the end.
	Sleep func(ctx context.Context, d time.Duration) bool
}

const (
	pollEvery = 2 * time.Second
	maxWait   = 5 * time.Minute
	// patience is how long a request is tried again while the table throttles
	// or cannot be reached.
	patience = 2 * time.Minute
)

// try asks again while the table throttles or cannot be reached.
func (t *Table) try(ctx context.Context, op string, ask func(context.Context) error) error {
	waited := time.Duration(0)
	for attempt := 0; ; attempt++ {
		err := ask(ctx)
		var failed *types.ConditionalCheckFailedException
		class := connect.ClassOf(err)
		switch {
		case err == nil:
			return nil
		case errors.As(err, &failed):
			return ErrCondition
		case ctx.Err() != nil:
			return fmt.Errorf("%s table %s: %w", op, t.Name, context.Cause(ctx))
		case class == connect.Missing:
			return fmt.Errorf("%s %s: %w", op, t.Name, ErrNoTable)
		case class != connect.Throttled && class != connect.Transient, waited > patience:
			return fmt.Errorf("%s table %s: %s", op, t.Name, connect.Brief(err))
		}
		d := backoff.Policy{Max: 2 * time.Second}.Wait(attempt)
		waited += d
		if !t.Sleep(ctx, d) {
			return fmt.Errorf("%s table %s: %w", op, t.Name, context.Cause(ctx))
		}
	}
}

// Ensure makes the table where there is none, and waits until it is ACTIVE.
func (t *Table) Ensure(ctx context.Context) error {
	for waited := time.Duration(0); ; waited += pollEvery {
		var status types.TableStatus
		err := t.try(ctx, "look at", func(ctx context.Context) error {
			out, err := t.DB.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &t.Name})
			if err == nil && out.Table != nil {
				status = out.Table.TableStatus
			}
			return err
		})
		switch {
		case errors.Is(err, ErrNoTable):
			if err := t.create(ctx); err != nil {
				return err
			}
		case err != nil:
			return err
		case status == types.TableStatusActive:
			return nil
		}
		if waited >= maxWait {
			return fmt.Errorf("table %s is still %s after %v; run the command again", t.Name, status, maxWait)
		}
		if !t.Sleep(ctx, pollEvery) {
			return fmt.Errorf("wait for table %s: %w", t.Name, context.Cause(ctx))
		}
	}
}

// create asks for the table. One that somebody else makes at this moment is as
// good.
func (t *Table) create(ctx context.Context) error {
	key := func(name string, kind types.KeyType) types.KeySchemaElement {
		return types.KeySchemaElement{AttributeName: &name, KeyType: kind}
	}
	text := func(name string) types.AttributeDefinition {
		return types.AttributeDefinition{AttributeName: &name, AttributeType: types.ScalarAttributeTypeS}
	}
	return t.try(ctx, "create", func(ctx context.Context) error {
		_, err := t.DB.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: &t.Name, BillingMode: types.BillingModePayPerRequest,
			KeySchema:            []types.KeySchemaElement{key("pk", types.KeyTypeHash), key("sk", types.KeyTypeRange)},
			AttributeDefinitions: []types.AttributeDefinition{text("pk"), text("sk")}})
		var exists *types.ResourceInUseException
		if errors.As(err, &exists) {
			return nil
		}
		return err
	})
}

// Get reads an item, as all puts before have left it; nil where there is none.
func (t *Table) Get(ctx context.Context, pk, sk string) (Item, error) {
	var out *dynamodb.GetItemOutput
	err := t.try(ctx, "read", func(ctx context.Context) (err error) {
		out, err = t.DB.GetItem(ctx, &dynamodb.GetItemInput{TableName: &t.Name, ConsistentRead: aws.Bool(true),
			Key: map[string]types.AttributeValue{"pk": Text(pk), "sk": Text(sk)}})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out.Item, nil
}

// Last reads the n items of a partition that sort last, the last one first.
func (t *Table) Last(ctx context.Context, pk string, n int) ([]Item, error) {
	var out *dynamodb.QueryOutput
	err := t.try(ctx, "read", func(ctx context.Context) (err error) {
		out, err = t.DB.Query(ctx, &dynamodb.QueryInput{TableName: &t.Name, KeyConditionExpression: aws.String("pk = :pk"), ConsistentRead: aws.Bool(true),
			ExpressionAttributeValues: map[string]types.AttributeValue{":pk": Text(pk)}, ScanIndexForward: aws.Bool(false), Limit: aws.Int32(int32(n))})
		return err
	})
	if err != nil {
		return nil, err
	}
	items := make([]Item, len(out.Items))
	for i := range out.Items {
		items[i] = out.Items[i]
	}
	return items, nil
}

// Put stores an item where the condition, an expression of DynamoDB with its
// values, holds for the one in its place. The error is ErrCondition where it
// does not.
func (t *Table) Put(ctx context.Context, item Item, condition string, values Item) error {
	return t.try(ctx, "write to", func(ctx context.Context) error {
		_, err := t.DB.PutItem(ctx, &dynamodb.PutItemInput{TableName: &t.Name, Item: item, ConditionExpression: &condition, ExpressionAttributeValues: values})
		return err
	})
}

// Text is a text as an attribute's value.
func Text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

// Number is a whole number as an attribute's value.
func Number(n uint64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatUint(n, 10)}
}

// Text returns an attribute, "" where there is no text of that name.
func (i Item) Text(name string) string {
	if s, ok := i[name].(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

// Number returns an attribute, 0 where there is no whole number of that name.
func (i Item) Number(name string) uint64 {
	n, ok := i[name].(*types.AttributeValueMemberN)
	if !ok {
		return 0
	}
	u, err := strconv.ParseUint(n.Value, 10, 64)
	if err != nil {
		return 0
	}
	return u
}
