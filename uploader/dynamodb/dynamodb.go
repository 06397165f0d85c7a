// Package dynamodb delivers blocks to week tables in Amazon DynamoDB, one block
// an item, in the layout of sample/weektable. docs/sinks.md describes the
// settings.
package dynamodb

import (
	"context"
	"fmt"
	"sync"
	"time"

	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/clock"
	"millrace/internal/weekitem"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/awsconf"
)

// The limits of BatchWriteItem. DynamoDB API Reference, BatchWriteItem, and
// Developer Guide, "Quotas in Amazon DynamoDB".
const (
	maxItems     = weekitem.MaxItems
	maxItemBytes = weekitem.MaxItemBytes
	// maxBytes bounds the memory of a request well below DynamoDB's 16 MB, which
	// costs nothing: DynamoDB bills by the item.
	maxBytes = 1 << 20
)

// The billing modes of tables that we create.
const (
	BillingOnDemand    = "on_demand"
	BillingProvisioned = "provisioned"
)

// Kind is the kind of sink `type: dynamodb`.
type Kind struct{}

// Type implements uploader.Kind.
func (Kind) Type() string { return "dynamodb" }

// NewConfig implements uploader.Kind.
func (Kind) NewConfig() uploader.Config {
	return &Config{TablePrefix: "millrace", RetentionWeeks: 53, Billing: BillingOnDemand, Concurrency: 2}
}

// Config is a sink's settings.
type Config struct {
	// TablePrefix begins the tables' names: <prefix>-samples-2026-w48.
	TablePrefix string `yaml:"table_prefix"`
	// RetentionWeeks is how old a block may be, in weeks, to go to its week's
	// table; older ones go to <prefix>-samples-unplaced. 0 is no bound.
	RetentionWeeks int `yaml:"retention_weeks"`
	// CreateTables lets the sink create a table that is missing. Otherwise its
	// blocks are held until somebody else does.
	CreateTables bool `yaml:"create_tables"`
	// Billing of the tables created: on_demand (the default) or provisioned.
	Billing string `yaml:"billing"`
	// ReadCapacity and WriteCapacity are a provisioned table's units.
	ReadCapacity  int `yaml:"read_capacity"`
	WriteCapacity int `yaml:"write_capacity"`
	// Concurrency is how many requests may be under way at once, 1 to 32.
	Concurrency    int `yaml:"concurrency"`
	awsconf.Config `yaml:",inline"`
}

// Validate implements uploader.Config.
func (c *Config) Validate() []uploader.Fault {
	faults := c.Config.Validate()
	if err := weektable.CheckPrefix(c.TablePrefix); err != nil {
		faults = append(faults, uploader.Fault{Path: "table_prefix", Problem: err.Error(), Hint: "write a word, for example millrace"})
	}
	if c.RetentionWeeks < 0 || c.RetentionWeeks > 10_000 {
		faults = append(faults, uploader.Fault{Path: "retention_weeks", Problem: fmt.Sprintf("%d is out of range", c.RetentionWeeks), Hint: "write 0 to 10000; 0 is no bound"})
	}
	if c.Concurrency < 1 || c.Concurrency > 32 {
		faults = append(faults, uploader.Fault{Path: "concurrency", Problem: fmt.Sprintf("%d is out of range", c.Concurrency), Hint: "write 1 to 32"})
	}
	capacity := c.ReadCapacity != 0 || c.WriteCapacity != 0
	switch {
	case c.Billing != BillingOnDemand && c.Billing != BillingProvisioned:
		faults = append(faults, uploader.Fault{Path: "billing", Problem: fmt.Sprintf("%q is no billing mode", c.Billing), Hint: "write on_demand or provisioned"})
	case c.Billing == BillingOnDemand && capacity:
		faults = append(faults, uploader.Fault{Path: "read_capacity", Problem: "capacity units have no meaning with on_demand", Hint: "leave them out, or set billing: provisioned"})
	case c.Billing == BillingProvisioned && (c.ReadCapacity < 1 || c.WriteCapacity < 1):
		faults = append(faults, uploader.Fault{Path: "write_capacity", Problem: "provisioned tables need read_capacity and write_capacity of at least 1",
			Hint: "one write unit is 1 KiB a second; a block of 180 KiB uses 180 at once"})
	}
	return faults
}

// Open implements uploader.Config.
func (c *Config) Open(s uploader.Settings) (uploader.Sink, error) {
	cfg, err := c.Load("", c.Concurrency, s.Dial)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", s.Name, err)
	}
	out := &sink{client: awsddb.NewFromConfig(cfg, func(o *awsddb.Options) { o.HTTPSignerV4 = awsconf.Signer{} }), conf: *c, clock: s.SampleClock, region: cfg.Region, tables: map[string]*tableState{}}
	if out.clock == nil {
		out.clock = s.Clock
	}
	if out.clock == nil {
		out.clock = clock.System{}
	}
	return out, nil
}

type sink struct {
	client *awsddb.Client
	conf   Config
	clock  clock.Clock
	region string

	mu     sync.Mutex
	tables map[string]*tableState
}

// Limits implements uploader.Sink.
func (s *sink) Limits() uploader.Limits {
	return uploader.Limits{MaxBlocks: maxItems, MaxBytes: maxBytes, Concurrency: s.conf.Concurrency, Size: itemSize}
}

// entry is a block on its way to a table.
type entry struct {
	at   []int // places in the caller's list: the same block may stand there twice
	item map[string]types.AttributeValue
}

// Send implements uploader.Sink. It makes one call for each table, since a
// table that is missing fails a whole call.
func (s *sink) Send(ctx context.Context, blocks []uploader.Block) []error {
	outcomes := make([]error, len(blocks))
	groups := map[string]map[string]*entry{} // table → sort key with partition key
	var order []string
	now := s.clock.Now()
	for i := range blocks {
		b := &blocks[i]
		if n := itemSize(b); n > maxItemBytes {
			outcomes[i] = &uploader.SendError{Class: uploader.Permanent, Op: "put block", Object: b.Header.Identity(),
				Hint: "lower batch.max_bytes of the source", Err: fmt.Errorf("its item has %d bytes, and DynamoDB takes %d", n, maxItemBytes)}
			continue
		}
		name := weektable.Place(s.conf.TablePrefix, b.Header.First, now, time.Duration(s.conf.RetentionWeeks)*7*24*time.Hour)
		if groups[name] == nil {
			groups[name] = map[string]*entry{}
			order = append(order, name)
		}
		it, key := weekitem.New(&b.Header, b.Data)
		if same := groups[name][key]; same != nil {
			// Equal keys mean equal bytes; twice in one call, the call fails.
			same.at = append(same.at, i)
			continue
		}
		groups[name][key] = &entry{at: []int{i}, item: it}
	}
	for _, name := range order {
		s.sendTable(ctx, name, groups[name], outcomes)
	}
	return outcomes
}

// sendTable writes one table's entries and fills in their outcomes.
func (s *sink) sendTable(ctx context.Context, name string, entries map[string]*entry, outcomes []error) {
	whole := func(err error) {
		for _, e := range entries {
			for _, i := range e.at {
				outcomes[i] = err
			}
		}
	}
	state := s.state(name)
	if err := s.ready(ctx, name, state); err != nil {
		whole(err)
		return
	}
	writes := make([]types.WriteRequest, 0, len(entries))
	for _, e := range entries {
		writes = append(writes, types.WriteRequest{PutRequest: &types.PutRequest{Item: e.item}})
	}
	out, err := s.client.BatchWriteItem(ctx, &awsddb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{name: writes}})
	if err != nil {
		whole(s.wholeFault(name, state, err, len(entries)))
		return
	}
	left := out.UnprocessedItems[name]
	if len(left) < len(entries) {
		state.accepted.Store(true)
	}
	if len(left) == 0 {
		return
	}
	unprocessed := &uploader.SendError{Class: uploader.Throttled, Op: "write to table", Object: name,
		Err: fmt.Errorf("%d of %d items were not processed", len(left), len(entries))}
	for _, w := range left {
		if w.PutRequest == nil {
			continue
		}
		e := entries[weekitem.KeyOf(w.PutRequest.Item)]
		if e == nil {
			// An answer that names an item we did not send confirms nothing.
			whole(&uploader.SendError{Class: uploader.Transient, Op: "write to table", Object: name,
				Err: fmt.Errorf("the answer names an unprocessed item that was not sent")})
			return
		}
		for _, i := range e.at {
			outcomes[i] = unprocessed
		}
	}
}

// wholeFault classifies the failure of a call. One that blames the request is
// Permanent only where the table is known to work: else its keys are as likely
// to be at fault, and every block would be buried.
func (s *sink) wholeFault(name string, state *tableState, err error, entries int) *uploader.SendError {
	out := awsconf.Wrap("write to table", s.object(name), err)
	if missing(err) {
		state.forget()
	}
	if out.Class == uploader.Permanent && entries == 1 && !state.accepted.Load() {
		out.Class = uploader.Hold
		out.Hint = "check that the table's keys are pk and sk, both of type S; it has not taken any item since the gateway started"
	}
	return out
}

func (s *sink) object(table string) string { return table + " in " + s.region }

// Check implements uploader.Sink. It looks at this week's table and needs
// dynamodb:DescribeTable. A table that is missing is no fault where the sink
// may create it.
func (s *sink) Check(ctx context.Context) error {
	name := weektable.Table(s.conf.TablePrefix, s.clock.Now())
	out, err := s.client.DescribeTable(ctx, &awsddb.DescribeTableInput{TableName: &name})
	switch {
	case err != nil && missing(err) && s.conf.CreateTables:
		return nil
	case err != nil:
		return awsconf.Wrap("look at table", s.object(name), err)
	}
	return checkSchema(s.object(name), out.Table)
}

// checkSchema reports a table whose keys are not a week table's.
func checkSchema(object string, t *types.TableDescription) error {
	if err := weekitem.CheckKeys(t); err != nil {
		return &uploader.SendError{Class: uploader.Hold, Op: "look at table", Object: object, Err: err,
			Hint: "remove the table, or choose another table_prefix"}
	}
	return nil
}

// itemSize bounds a block's item, in bytes as DynamoDB counts them.
func itemSize(b *uploader.Block) int { return weekitem.Size(&b.Header, len(b.Data)) }

// Close implements uploader.Sink.
func (s *sink) Close() error { return nil }
