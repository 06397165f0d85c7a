package clouddemo

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
)

// collector keeps blocks, each once.
type collector struct {
	mu     sync.Mutex
	dec    *block.Decoder
	seen   map[string]string // identity to bytes
	blocks []arrived
	count  int // samples
	faults []string
	audit  *audit.Ledger
}

// arrived is one block's samples.
type arrived struct {
	stream  string
	seq     uint64
	samples []sample.Sample
}

func newCollector() (*collector, error) {
	dec, err := block.NewDecoder()
	return &collector{dec: dec, seen: map[string]string{}, audit: audit.New(0)}, err
}

// takeBody takes a message's body.
func (c *collector) takeBody(body []byte) {
	data, err := base64.StdEncoding.DecodeString(string(body))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = c.take(data)
	}
	if err != nil {
		c.faults = append(c.faults, fmt.Sprintf("a message in the queue: %v", err))
	}
}

// take decodes a block, unless it came before: then its bytes must be the same.
func (c *collector) take(data []byte) error {
	b, err := c.dec.Decode(data)
	if err != nil {
		return err
	}
	if err := c.audit.AddHeader(&b.Header, weektable.Checksum(data), func() (*block.Block, error) { return b, nil }); err != nil {
		return err
	}
	id := b.Header.Identity()
	if before, ok := c.seen[id]; ok {
		if before != string(data) {
			return fmt.Errorf("block %s came twice with different bytes", id)
		}
		return nil
	}
	c.seen[id] = string(data)
	a := arrived{stream: b.Header.Stream, seq: b.Header.Seq}
	for s := range b.All() {
		a.samples = append(a.samples, s)
	}
	c.blocks = append(c.blocks, a)
	c.count += len(a.samples)
	return nil
}

// samples lists what arrived, each stream in the order of its blocks.
func (c *collector) samples() []sample.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.blocks, func(a, b arrived) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.seq, b.seq))
	})
	out := make([]sample.Sample, 0, c.count)
	for i := range c.blocks {
		out = append(out, c.blocks[i].samples...)
	}
	return out
}

// ofPlant picks the samples of the plant's own tags: the gateway's records and
// the mirror's outcomes are none of its devices'.
func ofPlant(list []sample.Sample) []sample.Sample {
	return slices.DeleteFunc(slices.Clone(list), func(s sample.Sample) bool {
		return strings.Contains(s.Tag, "/$") || strings.HasPrefix(s.Tag, Site+"/mirror/")
	})
}

// readTables collects the items of all tables of the demo.
func (w *world) readTables(ctx context.Context) (*collector, error) {
	c, err := newCollector()
	if err != nil {
		return nil, err
	}
	names, err := w.db.ListTables(ctx, &dynamodb.ListTablesInput{})
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	for _, name := range names.TableNames {
		if _, _, week := weektable.ParseTable(name); !week && name != weektable.Unplaced(prefix) {
			continue
		}
		in := &dynamodb.ScanInput{TableName: aws.String(name), ConsistentRead: aws.Bool(true)}
		for {
			out, err := w.db.Scan(ctx, in)
			if err != nil {
				return nil, fmt.Errorf("read table %s: %w", name, err)
			}
			for _, item := range out.Items {
				data, ok := item[weektable.AttrBlock].(*types.AttributeValueMemberB)
				if !ok {
					return nil, fmt.Errorf("table %s has an item without a block", name)
				}
				if err := c.take(data.Value); err != nil {
					c.faults = append(c.faults, fmt.Sprintf("table %s: %v", name, err))
				}
			}
			if out.LastEvaluatedKey == nil {
				break
			}
			in.ExclusiveStartKey = out.LastEvaluatedKey
		}
	}
	return c, nil
}
