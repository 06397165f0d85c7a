// Package weekitem builds the DynamoDB item of a block and the keys of a week
// table, in the SDK's types, for the two who write them: the gateway's sink and
// the cloud half. The names and keys themselves are sample/weektable's.
package weekitem

import (
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/sample/block"
	"millrace/sample/weektable"
)

// The limits of BatchWriteItem and of an item, in bytes where it is not items.
// DynamoDB API Reference, BatchWriteItem, and Developer Guide, "Quotas in Amazon
// DynamoDB".
const (
	MaxItems     = 25
	MaxItemBytes = 400 << 10 // attribute names counted
)

// New builds a block's item, and its two keys as one text. data are the block's
// bytes, of which h is the header.
func New(h *block.Header, data []byte) (item map[string]types.AttributeValue, key string) {
	pk, sk := weektable.Keys(h, weektable.Checksum(data))
	return map[string]types.AttributeValue{
		weektable.AttrPartition: &types.AttributeValueMemberS{Value: pk},
		weektable.AttrSort:      &types.AttributeValueMemberS{Value: sk},
		weektable.AttrBlock:     &types.AttributeValueMemberB{Value: data},
		weektable.AttrFirst:     number(h.First),
		weektable.AttrLast:      number(h.Last),
		weektable.AttrCount:     number(int64(h.Count)),
		weektable.AttrVersion:   number(weektable.Version),
		weektable.AttrCodec:     &types.AttributeValueMemberS{Value: weektable.Codec},
	}, pk + "\x00" + sk
}

func number(n int64) *types.AttributeValueMemberN {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// KeyOf returns an item's keys as New does, "" where it has none.
func KeyOf(item map[string]types.AttributeValue) string {
	pk, ok1 := item[weektable.AttrPartition].(*types.AttributeValueMemberS)
	sk, ok2 := item[weektable.AttrSort].(*types.AttributeValueMemberS)
	if !ok1 || !ok2 {
		return ""
	}
	return pk.Value + "\x00" + sk.Value
}

// Text returns an item's attribute, "" where it has no text of that name.
func Text(item map[string]types.AttributeValue, name string) string {
	if v, ok := item[name].(*types.AttributeValueMemberS); ok {
		return v.Value
	}
	return ""
}

// Number returns an item's attribute, and whether it has a whole number of that
// name.
func Number(item map[string]types.AttributeValue, name string) (int64, bool) {
	v, ok := item[name].(*types.AttributeValueMemberN)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(v.Value, 10, 64)
	return n, err == nil
}

// Block returns the bytes of an item's block, and whether it has one.
func Block(item map[string]types.AttributeValue) ([]byte, bool) {
	v, ok := item[weektable.AttrBlock].(*types.AttributeValueMemberB)
	if !ok {
		return nil, false
	}
	return v.Value, true
}

// Size is the most bytes that the item of a block of n bytes can have as
// DynamoDB counts them: names and values. A number takes about a byte for two
// digits, and at most 21. Developer Guide, "DynamoDB item sizes and formats".
func Size(h *block.Header, n int) int {
	const (
		names   = len(weektable.AttrPartition + weektable.AttrSort + weektable.AttrBlock + weektable.AttrFirst + weektable.AttrLast + weektable.AttrCount + weektable.AttrVersion + weektable.AttrCodec)
		sortKey = 30 + 1 + 16 + 1 + 20 + 1 + 8
		numbers = 4 * 21
	)
	return names + len(h.Site) + len(h.Gateway) + len(h.Stream) + 2 + sortKey + numbers + len(weektable.Codec) + n
}

// WriteUnits is what putting an item of that size costs: one for each KiB begun.
// Developer Guide, "Write unit consumption".
func WriteUnits(size int) int { return (size + 1023) / 1024 }

// Keys returns the keys of a week table, as CreateTable wants them.
func Keys() ([]types.KeySchemaElement, []types.AttributeDefinition) {
	return []types.KeySchemaElement{
			{AttributeName: aws.String(weektable.AttrPartition), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(weektable.AttrSort), KeyType: types.KeyTypeRange},
		}, []types.AttributeDefinition{
			{AttributeName: aws.String(weektable.AttrPartition), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(weektable.AttrSort), AttributeType: types.ScalarAttributeTypeS},
		}
}

// CheckKeys reports a table whose keys are not a week table's.
func CheckKeys(t *types.TableDescription) error {
	want := map[string]types.KeyType{weektable.AttrPartition: types.KeyTypeHash, weektable.AttrSort: types.KeyTypeRange}
	fits := t != nil && len(t.KeySchema) == len(want)
	if fits {
		for _, k := range t.KeySchema {
			fits = fits && want[aws.ToString(k.AttributeName)] == k.KeyType
		}
	}
	if !fits {
		return fmt.Errorf("its keys are not %s and %s", weektable.AttrPartition, weektable.AttrSort)
	}
	return nil
}
