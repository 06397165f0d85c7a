package weekitem

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/sample/block"
)

func TestItem(t *testing.T) {
	h := block.Header{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: 1 << 63, Seq: 1 << 62, First: -1 << 62, Last: 1 << 62, Count: 1 << 18}
	data := []byte("a block, of which nobody looks at the bytes")
	item, key := New(&h, data)
	if KeyOf(item) != key || !strings.HasPrefix(key, "north#gw1#s0001\x00") {
		t.Errorf("key %q, of the item %q", key, KeyOf(item))
	}
	if KeyOf(map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "x"}}) != "" {
		t.Error("half a key is one")
	}
	size := 0
	for name, v := range item {
		size += len(name)
		switch v := v.(type) {
		case *types.AttributeValueMemberS:
			size += len(v.Value)
		case *types.AttributeValueMemberB:
			size += len(v.Value)
		case *types.AttributeValueMemberN:
			size += (len(v.Value)+1)/2 + 2
		}
	}
	if most := Size(&h, len(data)); size > most || size < most-60 {
		t.Errorf("the item has about %d bytes, and at most %d by Size", size, most)
	}
	for size, want := range map[int]int{1: 1, 1024: 1, 1025: 2, 4096: 4} {
		if got := WriteUnits(size); got != want {
			t.Errorf("%d bytes are %d units, want %d", size, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	keys, _ := Keys()
	if err := CheckKeys(&types.TableDescription{KeySchema: keys}); err != nil {
		t.Error(err)
	}
	hash := []types.KeySchemaElement{{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}}
	for name, table := range map[string]*types.TableDescription{
		"no table": nil, "no keys": {}, "no sort key": {KeySchema: hash},
		"others":  {KeySchema: append(hash, types.KeySchemaElement{AttributeName: aws.String("at"), KeyType: types.KeyTypeRange})},
		"swapped": {KeySchema: []types.KeySchemaElement{{AttributeName: aws.String("sk"), KeyType: types.KeyTypeHash}, {AttributeName: aws.String("pk"), KeyType: types.KeyTypeRange}}},
	} {
		if CheckKeys(table) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
