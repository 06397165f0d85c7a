package block

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// maxName bounds site, gateway and stream names, in bytes.
const maxName = 255

func appendHeader(b []byte, h *Header) ([]byte, error) {
	if err := h.checkReplaced(); err != nil {
		return nil, err
	}
	b = append(b, magic0, magic1, h.Version())
	for _, s := range []string{h.Site, h.Gateway, h.Stream} {
		if len(s) > maxName {
			return nil, fmt.Errorf("a name of %d bytes, the most is %d", len(s), maxName)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	b = binary.LittleEndian.AppendUint64(b, h.Epoch)
	b = binary.AppendUvarint(b, h.Seq)
	b = binary.AppendUvarint(b, uint64(h.Count))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.First))
	b = binary.AppendUvarint(b, uint64(h.Last)-uint64(h.First))
	b = binary.AppendUvarint(b, h.Produced)
	b = binary.AppendUvarint(b, h.Lost)
	b = append(b, h.Boot[:]...)
	b = binary.AppendVarint(b, h.Mono)
	b = append(b, byte(h.Clock))
	if h.Version() == versionThinned {
		b = appendThinning(b, h)
	}
	return b, nil
}

// appendThinning appends what only version 2 has.
func appendThinning(b []byte, h *Header) []byte {
	b = binary.AppendUvarint(b, h.Thinned)
	if h.ReplacesFrom == 0 {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, h.ReplacesTo-h.ReplacesFrom+1)
	return binary.AppendUvarint(b, h.ReplacesFrom)
}

func (r *reader) thinning(h *Header) {
	h.Thinned = r.uvarint()
	if n := r.uvarint(); n > 0 {
		h.ReplacesFrom = r.uvarint()
		h.ReplacesTo = h.ReplacesFrom + n - 1
		if h.ReplacesFrom == 0 {
			r.fail("it replaces sequence 0")
		}
	}
	if err := h.checkReplaced(); err != nil {
		r.fail("%v", err)
	}
	if h.Version() != versionThinned {
		r.fail("version %d without anything thinned", versionThinned)
	}
}

// parseHeader reads a header and returns what comes after it.
func parseHeader(data []byte) (h Header, rest []byte, err error) {
	r := reader{b: data[3:]}
	h.Site = string(r.take(int(r.byte())))
	h.Gateway = string(r.take(int(r.byte())))
	h.Stream = string(r.take(int(r.byte())))
	h.Epoch = r.uint64()
	h.Seq = r.uvarint()
	h.Count = r.count(MaxSamples, "samples")
	h.First = int64(r.uint64())
	h.Last = int64(uint64(h.First) + r.uvarint())
	h.Produced = r.uvarint()
	h.Lost = r.uvarint()
	copy(h.Boot[:], r.take(len(h.Boot)))
	h.Mono = r.varint()
	h.Clock = ClockState(r.byte())
	if data[2] == versionThinned {
		r.thinning(&h)
	}
	return h, r.b, r.err
}

// Verify checks a block's version and its CRC, and nothing else. Errors wrap
// ErrVersion or ErrCorrupt.
func Verify(data []byte) error {
	if len(data) < 3+crcSize || data[0] != magic0 || data[1] != magic1 {
		return fmt.Errorf("%w: %d bytes that do not start as a block does", ErrCorrupt, len(data))
	}
	if data[2] != version && data[2] != versionThinned {
		return fmt.Errorf("%w: %d, this program reads %d and %d", ErrVersion, data[2], version, versionThinned)
	}
	body, sum := data[:len(data)-crcSize], binary.LittleEndian.Uint32(data[len(data)-crcSize:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return fmt.Errorf("%w: CRC-32C is %08x, the block says %08x", ErrCorrupt, got, sum)
	}
	return nil
}

// ReadHeader reads a block's header alone. It checks the CRC of the whole
// block, which costs under a microsecond, so that a header is never believed
// that was altered. Errors wrap ErrVersion or ErrCorrupt.
func ReadHeader(data []byte) (Header, error) {
	if err := Verify(data); err != nil {
		return Header{}, err
	}
	h, _, err := parseHeader(data[:len(data)-crcSize])
	if err != nil {
		return Header{}, err
	}
	return h, nil
}

// reader reads from bytes that may be hostile. After the first error it gives
// zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("cut off, %d bytes are missing", n-len(r.b))
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail("cut off")
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("bad varint")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 { return unzigzag(r.uvarint()) }

// count reads a number of things of which there can be at most limit.
func (r *reader) count(limit int, what string) int {
	v := r.uvarint()
	if v > uint64(limit) || v > math.MaxInt32 {
		r.fail("%d %s, the most is %d", v, what, limit)
		return 0
	}
	return int(v)
}
