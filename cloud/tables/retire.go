package tables

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/backoff"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

// margin is how long after the retention a table may be deleted: no gateway and
// no worker, however its clock is off, writes to it any more.
const margin = 24 * time.Hour

// Proof is what a retirement has found.
type Proof struct {
	Table   string
	Items   int64
	Samples int64
	Files   int
	Deleted bool
}

// Retire deletes a week's table when its archive is proved to hold all of it:
// the week is older than the retention; there is a manifest; every file that it
// names is there, byte for byte; and every item of the table, read again, is in
// it by count and hash. It never deletes otherwise. retention is that of the
// gateways' sinks and of the workers: what comes later goes elsewhere, so that
// nothing is written to the table between the proof and the deletion.
// With dry it proves only. read is told of bytes as they come; may be nil.
func (m *Manager) Retire(ctx context.Context, archive objects.Place, text string, retention time.Duration, dry bool, read func(int64)) (*Proof, error) {
	table, start, err := TableOf(m.Prefix, text)
	if err != nil {
		return nil, err
	}
	if retention <= 0 {
		return nil, errors.New("without a retention blocks of any week may still be written to its table: set the gateways', the workers' and this one")
	}
	if due := start.Add(week + retention + margin); m.Now.Before(due) {
		return nil, fmt.Errorf("table %s: blocks of its week may still be written to it; it can be retired from %s on (the end of its week, the retention and a day)",
			table, due.Format(time.DateOnly))
	}
	t, err := m.await(ctx, table)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, fmt.Errorf("table %s: there is none; it may be retired already", table)
	}
	man, err := manifest.Read(ctx, archive, table)
	if errors.Is(err, objects.ErrNone) {
		return nil, fmt.Errorf("table %s: it was not archived: there is no %s in %s", table, manifest.Key(table), archive)
	}
	if err != nil {
		return nil, fmt.Errorf("table %s: its manifest %s in %s: %w", table, manifest.Key(table), archive, err)
	}
	if err := man.CheckFiles(ctx, archive, read); err != nil {
		return nil, fmt.Errorf("table %s: %w; archive the week again", table, err)
	}
	sum := manifest.NewSum()
	if err := m.sum(ctx, table, sum, read); err != nil {
		return nil, err
	}
	if err := man.Verify(sum); err != nil {
		return nil, fmt.Errorf("table %s: the archive does not hold it: %w; archive the week again", table, err)
	}
	proof := &Proof{Table: table, Items: man.Items, Samples: man.Samples, Files: len(man.Files)}
	if dry {
		return proof, nil
	}
	if err := m.drop(ctx, table, aws.ToBool(t.DeletionProtectionEnabled)); err != nil {
		return proof, err
	}
	proof.Deleted = true
	return proof, nil
}

// sum adds up what a table holds: every block is read, and is the one that its
// keys say.
func (m *Manager) sum(ctx context.Context, table string, s *manifest.Sum, read func(int64)) error {
	pages := dynamodb.NewScanPaginator(m.DB, &dynamodb.ScanInput{TableName: &table, ConsistentRead: aws.Bool(true)})
	for pages.HasMorePages() {
		page, err := m.page(ctx, pages)
		if err != nil {
			return explain("read", table, err)
		}
		size := int64(0)
		for _, item := range page.Items {
			pk, _ := item[weektable.AttrPartition].(*types.AttributeValueMemberS)
			sk, _ := item[weektable.AttrSort].(*types.AttributeValueMemberS)
			data, _ := item[weektable.AttrBlock].(*types.AttributeValueMemberB)
			if pk == nil || sk == nil || data == nil {
				return fmt.Errorf("table %s holds an item that is no block; look at it before the table goes", table)
			}
			h, err := block.ReadHeader(data.Value)
			if err != nil {
				return fmt.Errorf("table %s, item %s %s: %w; look at it before the table goes", table, pk.Value, sk.Value, err)
			}
			crc := weektable.Checksum(data.Value)
			if p, k := weektable.Keys(&h, crc); p != pk.Value || k != sk.Value {
				return fmt.Errorf("table %s, item %s %s: its keys are not those of its block; look at it before the table goes", table, pk.Value, sk.Value)
			}
			s.Add(pk.Value, sk.Value, crc, h.Count)
			size += int64(len(data.Value))
		}
		if read != nil {
			read(size)
		}
	}
	return nil
}

// pageTries is how often one page is asked for: a table whose units were dialled
// down throttles its readers, too.
const pageTries = 20

func (m *Manager) page(ctx context.Context, pages *dynamodb.ScanPaginator) (*dynamodb.ScanOutput, error) {
	for attempt := 0; ; attempt++ {
		page, err := pages.NextPage(ctx)
		class := connect.ClassOf(err)
		if err == nil || class != connect.Throttled && class != connect.Transient || attempt == pageTries-1 {
			return page, err
		}
		if !m.Sleep(ctx, backoff.Policy{Max: 20 * time.Second}.Wait(attempt)) {
			return nil, context.Cause(ctx)
		}
	}
}

// drop deletes a table and waits until it is gone.
func (m *Manager) drop(ctx context.Context, table string, protected bool) error {
	if protected {
		if _, err := m.DB.UpdateTable(ctx, &dynamodb.UpdateTableInput{TableName: &table, DeletionProtectionEnabled: aws.Bool(false)}); err != nil {
			return explain("take the protection off", table, err)
		}
		if _, err := m.await(ctx, table); err != nil {
			return err
		}
	}
	if _, err := m.DB.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &table}); err != nil {
		return explain("delete", table, err)
	}
	for range maxWait / pollEvery {
		t, err := m.describe(ctx, table)
		if err != nil || t == nil {
			return err
		}
		if !m.Sleep(ctx, pollEvery) {
			return errors.New("interrupted; the table is being deleted")
		}
	}
	return fmt.Errorf("table %s is still being deleted after %v", table, maxWait)
}
