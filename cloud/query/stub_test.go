package query

import (
	"context"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
)

// noTable is DynamoDB's answer where a table is missing.
type noTable struct {
	types.ResourceNotFoundException
}

func deleteTable(name string) *dynamodb.DeleteTableInput {
	return &dynamodb.DeleteTableInput{TableName: &name}
}

// denied refuses to read one stream.
type denied struct {
	Tables
	stream string
}

func (d *denied) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	if pk, ok := in.ExpressionAttributeValues[":pk"].(*types.AttributeValueMemberS); ok && strings.HasSuffix(pk.Value, "#"+d.stream) {
		return nil, &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
	}
	return d.Tables.Query(ctx, in, o...)
}

// busy throttles the first reads of each stream.
type busy struct {
	Tables
	mu    sync.Mutex
	first int
	tries map[string]int
}

func (b *busy) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	if pk, ok := in.ExpressionAttributeValues[":pk"].(*types.AttributeValueMemberS); ok {
		b.mu.Lock()
		b.tries[pk.Value]++
		n := b.tries[pk.Value]
		b.mu.Unlock()
		if n <= b.first {
			return nil, &types.ProvisionedThroughputExceededException{}
		}
	}
	return b.Tables.Query(ctx, in, o...)
}
