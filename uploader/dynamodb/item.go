package dynamodb

import (
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/sample/weektable"
	"millrace/uploader"
)

// item builds a block's item, and its two keys as one text.
func item(b *uploader.Block) (it map[string]types.AttributeValue, key string) {
	h := &b.Header
	pk, sk := weektable.Keys(h, weektable.Checksum(b.Data))
	return map[string]types.AttributeValue{
		weektable.AttrPartition: &types.AttributeValueMemberS{Value: pk},
		weektable.AttrSort:      &types.AttributeValueMemberS{Value: sk},
		weektable.AttrBlock:     &types.AttributeValueMemberB{Value: b.Data},
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

// keyOf returns an item's keys as item does, "" where it has none.
func keyOf(it map[string]types.AttributeValue) string {
	pk, ok1 := it[weektable.AttrPartition].(*types.AttributeValueMemberS)
	sk, ok2 := it[weektable.AttrSort].(*types.AttributeValueMemberS)
	if !ok1 || !ok2 {
		return ""
	}
	return pk.Value + "\x00" + sk.Value
}

// itemSize is the item's size as DynamoDB counts it: names and values. A number
// takes about a byte for two digits, and at most 21. Developer Guide, "DynamoDB
// item sizes and formats".
func itemSize(b *uploader.Block) int {
	const (
		names   = len(weektable.AttrPartition + weektable.AttrSort + weektable.AttrBlock + weektable.AttrFirst + weektable.AttrLast + weektable.AttrCount + weektable.AttrVersion + weektable.AttrCodec)
		sortKey = 30 + 1 + 16 + 1 + 20 + 1 + 8
		numbers = 4 * 21
	)
	h := &b.Header
	return names + len(h.Site) + len(h.Gateway) + len(h.Stream) + 2 + sortKey + numbers + len(weektable.Codec) + len(b.Data)
}
