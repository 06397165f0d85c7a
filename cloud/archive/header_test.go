package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
)

// TestSampleOutsideOfItsHeader: the days of a block are taken from its header. A
// sample of another day would be in no file, so the block is not readable.
func TestSampleOutsideOfItsHeader(t *testing.T) {
	r := newRig(t)
	_, data := r.pack("north", "gw1", "s0001", 1, sample.Sample{Tag: "north/m/a", Time: at(time.Hour), Value: sample.IntValue(1)},
		sample.Sample{Tag: "north/m/a", Time: at(30 * time.Hour), Value: sample.IntValue(2)})
	// The header's "last - first", behind its first, is made 0.
	_, rest, found := bytes.Cut(data, binary.LittleEndian.AppendUint64(nil, uint64(at(time.Hour))))
	if !found {
		t.Fatal("no first sample's time in the header")
	}
	_, n := binary.Uvarint(rest)
	lies := append(bytes.Clone(data[:len(data)-len(rest)]), 0)
	lies = append(lies, rest[n:len(rest)-crc32.Size]...)
	lies = binary.LittleEndian.AppendUint32(lies, crc32.Checksum(lies, crc32.MakeTable(crc32.Castagnoli)))
	h, err := block.ReadHeader(lies)
	if err != nil || h.First != h.Last {
		t.Fatal(err, h)
	}
	item, _ := weekitem.New(&h, lies)
	r.putItem(item)
	_, err = r.run()
	var unreadable *UnreadableError
	if !errors.As(err, &unreadable) || unreadable.Count != 1 || !strings.Contains(err.Error(), "outside of its own times") {
		t.Errorf("%v", err)
	}
	r.noManifest()
}
