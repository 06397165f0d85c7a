package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/backoff"
	"millrace/internal/weekitem"
	"millrace/uploader"
	"millrace/uploader/awsconf"
)

// pollEvery is how often a table that is being created is looked at.
const pollEvery = 500 * time.Millisecond

// tableState is what the sink knows of a table.
type tableState struct {
	accepted atomic.Bool // it has taken an item since we started
	mu       sync.Mutex  // held while the table is created
	active   bool
}

func (t *tableState) forget() {
	t.mu.Lock()
	t.active = false
	t.mu.Unlock()
}

func (s *sink) state(name string) *tableState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tables[name] == nil {
		s.tables[name] = &tableState{}
	}
	return s.tables[name]
}

func missing(err error) bool {
	var none *types.ResourceNotFoundException
	return errors.As(err, &none)
}

// ready makes sure, where the sink may create tables, that this one exists and
// is ACTIVE. It waits for that no longer than ctx allows.
func (s *sink) ready(ctx context.Context, name string, state *tableState) error {
	if !s.conf.CreateTables {
		return nil
	}
	state.mu.Lock()
	defer state.mu.Unlock()
	if state.active {
		return nil
	}
	for {
		out, err := s.client.DescribeTable(ctx, &awsddb.DescribeTableInput{TableName: &name})
		switch {
		case err != nil && missing(err):
			if err := s.create(ctx, name); err != nil {
				return err
			}
		case err != nil:
			return awsconf.Wrap("look at table", s.object(name), err)
		case out.Table.TableStatus == types.TableStatusActive || out.Table.TableStatus == types.TableStatusUpdating:
			if err := checkSchema(s.object(name), out.Table); err != nil {
				return err
			}
			state.active = true
			return nil
		}
		if !backoff.Sleep(ctx, pollEvery) {
			return &uploader.SendError{Class: uploader.Transient, Op: "wait for table", Object: s.object(name),
				Err: fmt.Errorf("it is not ACTIVE yet: %w", context.Cause(ctx))}
		}
	}
}

// create asks for the table. One that another gateway has created meanwhile is
// as good.
func (s *sink) create(ctx context.Context, name string) error {
	keys, attributes := weekitem.Keys()
	in := &awsddb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes, BillingMode: types.BillingModePayPerRequest}
	if s.conf.Billing == BillingProvisioned {
		in.BillingMode = types.BillingModeProvisioned
		in.ProvisionedThroughput = &types.ProvisionedThroughput{
			ReadCapacityUnits: aws.Int64(int64(s.conf.ReadCapacity)), WriteCapacityUnits: aws.Int64(int64(s.conf.WriteCapacity))}
	}
	_, err := s.client.CreateTable(ctx, in)
	var exists *types.ResourceInUseException
	if err == nil || errors.As(err, &exists) {
		return nil
	}
	fault := awsconf.Wrap("create table", s.object(name), err)
	if fault.Class == uploader.Permanent {
		fault.Class, fault.Hint = uploader.Hold, "check billing and the capacity units, or create the table by other means"
	}
	return fault
}
