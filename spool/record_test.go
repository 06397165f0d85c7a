package spool

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// packed returns bytes that end with their own CRC-32C, as blocks do.
func packed(i, n int) []byte {
	b := fmt.Appendf(nil, "MRB1 block %04d %0*d", i, n, 7*i)
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

func TestABlockInAnothersPlaceIsNoticed(t *testing.T) {
	for _, n := range []int{1, 2, 30, 31, 5000} {
		seen := map[uint32]int{}
		for i := range 200 {
			key := appendBlockKey(nil, &Block{Number: uint64(i + 1), Data: packed(i, n)})
			h, ok := readBlockKey(key)
			if !ok || !h.matches(packed(i, n)) {
				t.Fatalf("block %d does not match its own header", i)
			}
			if h.matches(packed(i+1, n)) {
				t.Errorf("block %d of %d bytes passes for block %d", i+1, h.Bytes, i)
			}
			if other, ok := seen[h.crc]; ok {
				t.Errorf("blocks %d and %d of %d bytes have the same checksum", i, other, h.Bytes)
			}
			seen[h.crc] = i
		}
	}
}
