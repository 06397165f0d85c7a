package audit

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/weekitem"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
)

// take notes a page of items.
func (r *reader) take(ctx context.Context, table string, items []map[string]types.AttributeValue) error {
	size := int64(0)
	for _, it := range items {
		r.result.Items++
		pk, sk := weekitem.Text(it, weektable.AttrPartition), weekitem.Text(it, weektable.AttrSort)
		k, err := weektable.ParseKeys(pk, sk)
		if err != nil {
			r.unread(table, sk, err)
			continue
		}
		if r.o.Gateway != "" && k.Gateway != r.o.Gateway || r.o.Site != "" && k.Site != r.o.Site {
			continue // the filter cannot say that exactly
		}
		data, whole := weekitem.Block(it)
		if !whole && k.Stream == ledger.SystemStream {
			if data, err = r.fetch(ctx, table, pk, sk); err != nil {
				return err
			}
			whole = true
		}
		size += int64(len(data) + len(pk) + len(sk))
		if !whole {
			r.keys(table, sk, it, &k)
			continue
		}
		if err := r.block(&k, data); err != nil {
			r.unread(table, sk, err)
		}
	}
	if r.o.Read != nil {
		r.o.Read(size)
	}
	return nil
}

// block notes a block, unless it is not the one that its keys say.
func (r *reader) block(k *weektable.Key, data []byte) error {
	h, err := block.ReadHeader(data)
	if err != nil {
		return err
	}
	sum := weektable.Checksum(data)
	is := weektable.Key{Site: h.Site, Gateway: h.Gateway, Stream: h.Stream, First: h.First, Epoch: h.Epoch, Seq: h.Seq, CRC: sum}
	if is != *k {
		return fmt.Errorf("its keys are not those of its block, %s", h.Identity())
	}
	return r.ledger.AddHeader(&h, sum, func() (*block.Block, error) { return r.dec.Decode(data) })
}

// keys notes a block by its keys alone.
func (r *reader) keys(table, sk string, it map[string]types.AttributeValue, k *weektable.Key) {
	last, ok1 := weekitem.Number(it, weektable.AttrLast)
	count, ok2 := weekitem.Number(it, weektable.AttrCount)
	if !ok1 || !ok2 {
		r.unread(table, sk, fmt.Errorf("its attributes %s and %s are not numbers", weektable.AttrLast, weektable.AttrCount))
		return
	}
	r.ledger.AddBlock(audit.Block{
		Site: k.Site, Gateway: k.Gateway, Stream: k.Stream, Epoch: k.Epoch, Seq: k.Seq, Count: int(count),
		First: k.First, Last: last, Checksum: k.CRC, KeysOnly: true,
	})
}

// fetch reads one item's block, of which a scan brought the keys.
func (r *reader) fetch(ctx context.Context, table, pk, sk string) ([]byte, error) {
	out, err := r.db.Query(ctx, &dynamodb.QueryInput{
		TableName: &table, KeyConditionExpression: aws.String("#pk = :pk AND #sk = :sk"),
		ExpressionAttributeNames:  map[string]string{"#pk": weektable.AttrPartition, "#sk": weektable.AttrSort},
		ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(pk), ":sk": text(sk)},
	})
	if err != nil {
		return nil, explain("read table", table, err)
	}
	if len(out.Items) != 1 {
		return nil, nil // removed meanwhile; it does not read as a block
	}
	data, _ := weekitem.Block(out.Items[0])
	return data, nil
}

func (r *reader) unread(table, sk string, err error) {
	r.result.UnreadCount++
	if len(r.result.Unread) < maxUnread {
		r.result.Unread = append(r.result.Unread, fmt.Sprintf("table %s, item %q: %v", table, sk, err))
	}
}
