package weektable

import (
	"encoding/binary"
	"testing"

	"millrace/sample"
	"millrace/sample/block"
)

// Blocks that differ have checksums that differ, and that stand in the block.
func TestChecksumTellsBlocksApart(t *testing.T) {
	e, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]bool{}
	for i := range 100 {
		e.Reset([]string{"a/b/c"})
		e.Add(0, &sample.Sample{Tag: "a/b/c", Time: 1e9, Value: sample.IntValue(int64(i))})
		data, err := e.Encode(nil, block.Header{Site: "a", Gateway: "g", Stream: "s", Epoch: 1, Seq: 1})
		if err != nil {
			t.Fatal(err)
		}
		sum := Checksum(data)
		if own := binary.LittleEndian.Uint32(data[len(data)-4:]); sum != own {
			t.Fatalf("checksum %08x, the block says %08x", sum, own)
		}
		seen[sum] = true
	}
	if len(seen) < 99 {
		t.Errorf("a hundred blocks have %d checksums", len(seen))
	}
	if Checksum(nil) != Checksum([]byte{1, 2}) {
		t.Error("less than a checksum is not nothing")
	}
}
