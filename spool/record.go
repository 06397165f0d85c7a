package spool

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// dataChecksum is the CRC-32C of a block's second half and then of its first. A
// block may end with a CRC-32C of its own, as packed batches do, and over the
// whole in its order any two such blocks of one length have the same checksum:
// one in the other's place would not be noticed.
func dataChecksum(b []byte) uint32 {
	half := len(b) / 2
	return crc32.Update(checksum(b[half:]), castagnoli, b[:half])
}

// Lengths in bytes; README.md has the layout field by field.
const (
	blockKeyLen   = 52
	partHeaderLen = 36
	countersLen   = 40
	crcLen        = 4
)

// Info is a block without its bytes.
type Info struct {
	Number  uint64 `json:"number"`
	Stream  uint32 `json:"stream"`
	Seq     uint64 `json:"seq"`
	Count   uint32 `json:"count"`
	Bytes   int    `json:"bytes"`
	First   int64  `json:"first"` // ns since the Unix epoch
	Last    int64  `json:"last"`
	Segment uint64 `json:"segment"`
	// Waiting names the sinks that have not acknowledged it.
	Waiting []string `json:"waiting"`
}

// appendBlockKey writes a block's header, which is the name of its bucket.
func appendBlockKey(to []byte, b *Block) []byte {
	start := len(to)
	to = binary.BigEndian.AppendUint64(to, b.Number)
	to = binary.BigEndian.AppendUint32(to, b.Stream)
	to = binary.BigEndian.AppendUint64(to, b.Seq)
	to = binary.BigEndian.AppendUint32(to, b.Count)
	to = binary.BigEndian.AppendUint64(to, uint64(b.First))
	to = binary.BigEndian.AppendUint64(to, uint64(b.Last))
	to = binary.BigEndian.AppendUint32(to, uint32(len(b.Data)))
	to = binary.BigEndian.AppendUint32(to, dataChecksum(b.Data))
	return binary.BigEndian.AppendUint32(to, checksum(to[start:]))
}

// blockHeader is a block's header as stored.
type blockHeader struct {
	Info
	crc uint32 // of the data
}

func readBlockKey(k []byte) (h blockHeader, ok bool) {
	if len(k) != blockKeyLen || binary.BigEndian.Uint32(k[blockKeyLen-crcLen:]) != checksum(k[:blockKeyLen-crcLen]) {
		return h, false
	}
	h.Number = binary.BigEndian.Uint64(k)
	h.Stream = binary.BigEndian.Uint32(k[8:])
	h.Seq = binary.BigEndian.Uint64(k[12:])
	h.Count = binary.BigEndian.Uint32(k[20:])
	h.First = int64(binary.BigEndian.Uint64(k[24:]))
	h.Last = int64(binary.BigEndian.Uint64(k[32:]))
	h.Bytes = int(binary.BigEndian.Uint32(k[40:]))
	h.crc = binary.BigEndian.Uint32(k[44:])
	return h, true
}

func (h *blockHeader) matches(data []byte) bool {
	return len(data) == h.Bytes && dataChecksum(data) == h.crc
}

func (h *blockHeader) block(data []byte) Block {
	return Block{Number: h.Number, Stream: h.Stream, Seq: h.Seq, Count: h.Count, First: h.First, Last: h.Last, Data: data}
}

// appendPart writes a part of an open record: header, then data.
func appendPart(to []byte, p *Part) []byte {
	start := len(to)
	to = binary.BigEndian.AppendUint32(to, p.Stream)
	to = binary.BigEndian.AppendUint32(to, p.Count)
	to = binary.BigEndian.AppendUint64(to, uint64(p.First))
	to = binary.BigEndian.AppendUint64(to, uint64(p.Last))
	to = binary.BigEndian.AppendUint32(to, uint32(len(p.Data)))
	to = binary.BigEndian.AppendUint32(to, checksum(p.Data))
	to = binary.BigEndian.AppendUint32(to, checksum(to[start:]))
	return append(to, p.Data...)
}

// readParts calls good or bad for each part. Data is the record's own memory.
// It returns false where a header does not read: what follows it is lost too,
// and how much that is cannot be told.
func readParts(record []byte, good, bad func(Part)) bool {
	for len(record) > 0 {
		if len(record) < partHeaderLen {
			return false
		}
		h := record[:partHeaderLen]
		if binary.BigEndian.Uint32(h[partHeaderLen-crcLen:]) != checksum(h[:partHeaderLen-crcLen]) {
			return false
		}
		n := int(binary.BigEndian.Uint32(h[24:]))
		p := Part{
			Stream: binary.BigEndian.Uint32(h),
			Count:  binary.BigEndian.Uint32(h[4:]),
			First:  int64(binary.BigEndian.Uint64(h[8:])),
			Last:   int64(binary.BigEndian.Uint64(h[16:])),
		}
		record = record[partHeaderLen:]
		if n < 0 || n > len(record) {
			bad(p)
			return true
		}
		p.Data = record[:n:n]
		if checksum(p.Data) == binary.BigEndian.Uint32(h[28:]) {
			good(p)
		} else {
			bad(p)
		}
		record = record[n:]
	}
	return true
}

// sealed returns value with a checksum over key and value behind it.
func sealed(key, value []byte) []byte {
	out := make([]byte, 0, len(value)+crcLen)
	out = append(out, value...)
	return binary.BigEndian.AppendUint32(out, crc32.Update(checksum(key), castagnoli, value))
}

// unsealed checks and strips the checksum. The result is stored's own memory.
func unsealed(key, stored []byte) ([]byte, bool) {
	n := len(stored) - crcLen
	if n < 0 {
		return nil, false
	}
	value := stored[:n:n]
	return value, binary.BigEndian.Uint32(stored[n:]) == crc32.Update(checksum(key), castagnoli, value)
}

// counters is the tail's small state that changes with every commit.
type counters struct {
	epoch  uint64
	next   uint64 // number of the next block
	commit uint64 // number of the next commit
	loss   uint64 // id of the next loss
	floor  uint64 // blocks up to this number have left
}

func (c *counters) append(to []byte) []byte {
	for _, n := range [...]uint64{c.epoch, c.next, c.commit, c.loss, c.floor} {
		to = binary.BigEndian.AppendUint64(to, n)
	}
	return to
}

func readCounters(b []byte) (c counters, ok bool) {
	if len(b) != countersLen {
		return c, false
	}
	for i, n := range [...]*uint64{&c.epoch, &c.next, &c.commit, &c.loss, &c.floor} {
		*n = binary.BigEndian.Uint64(b[8*i:])
	}
	return c, c.next > 0 && c.commit > 0 && c.loss > 0
}

// streamState is what the tail keeps of each stream.
type streamState struct {
	seq    uint64 // highest sequence of a block
	sealed uint64 // commit that sealed it last: parts before it are superseded
}

func (s *streamState) append(to []byte) []byte {
	to = binary.BigEndian.AppendUint64(to, s.seq)
	return binary.BigEndian.AppendUint64(to, s.sealed)
}

func key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
func key32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
