package tables

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/cloud/connect"
)

// Queue is what is asked of SQS.
type Queue interface {
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
}

// ErrBacklog says that the queue is not empty.
var ErrBacklog = errors.New("the queue's backlog is not clear")

// settle is how long the queue has to stay clear: its figures take about a
// minute to come true. SQS API Reference, GetQueueAttributes.
const settle = time.Minute

// Dial turns the provisioned writes of all weeks that are over down to units,
// where they are more. It does so only when the queue is clear, asked twice. A
// table on demand costs nothing for what it could take, and is left alone. It
// returns the tables that it has dialled.
func (m *Manager) Dial(ctx context.Context, queue Queue, queueURL string, units int64) ([]string, error) {
	if units < 1 {
		return nil, fmt.Errorf("%d write units: a table has at least 1", units)
	}
	rows, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	var due []Row
	for _, r := range rows {
		if r.Age > 0 && r.Billing == "provisioned" && r.WriteUnits > units && r.State == string(types.TableStatusActive) {
			due = append(due, r)
		}
	}
	if len(due) == 0 {
		return nil, nil
	}
	for i := range 2 {
		if i > 0 && !m.Sleep(ctx, settle) {
			return nil, errors.New("interrupted")
		}
		n, err := backlog(ctx, queue, queueURL)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			return nil, fmt.Errorf("%w: about %d messages; blocks of last week may be among them, try again later", ErrBacklog, n)
		}
	}
	var out []string
	for _, r := range due {
		_, err := m.DB.UpdateTable(ctx, &dynamodb.UpdateTableInput{TableName: &r.Table,
			ProvisionedThroughput: &types.ProvisionedThroughput{ReadCapacityUnits: aws.Int64(r.ReadUnits), WriteCapacityUnits: &units}})
		if err != nil {
			return out, explain("dial down", r.Table, err)
		}
		out = append(out, r.Table)
	}
	return out, nil
}

// backlog counts what waits, what is under way, and what is delayed. An answer
// that does not name one of them is no answer.
func backlog(ctx context.Context, queue Queue, queueURL string) (int64, error) {
	names := []sqstypes.QueueAttributeName{sqstypes.QueueAttributeNameApproximateNumberOfMessages,
		sqstypes.QueueAttributeNameApproximateNumberOfMessagesNotVisible, sqstypes.QueueAttributeNameApproximateNumberOfMessagesDelayed}
	out, err := queue.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &queueURL, AttributeNames: names})
	if err != nil {
		return 0, fmt.Errorf("look at queue %s: %s", queueURL, connect.Brief(err))
	}
	sum := int64(0)
	for _, name := range names {
		n, err := strconv.ParseInt(out.Attributes[string(name)], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("look at queue %s: the answer has no number for %s", queueURL, strings.TrimSpace(string(name)))
		}
		sum += n
	}
	return sum, nil
}
