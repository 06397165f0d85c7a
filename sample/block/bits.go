package block

import "encoding/binary"

// bitWriter packs bits, lowest first.
type bitWriter struct {
	buf []byte
	acc uint64
	n   uint
}

// put appends the low k bits of v, which has no others. k is at most 63.
func (w *bitWriter) put(v uint64, k uint) {
	w.acc |= v << w.n
	w.n += k
	if w.n >= 64 {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.acc)
		w.n -= 64
		w.acc = v >> (k - w.n)
	}
}

// join appends what o holds.
func (w *bitWriter) join(o *bitWriter) {
	b := o.buf
	for ; len(b) >= 4; b = b[4:] {
		w.put(uint64(binary.LittleEndian.Uint32(b)), 32)
	}
	for _, c := range b {
		w.put(uint64(c), 8)
	}
	w.put(o.acc&(1<<min(o.n, 32)-1), min(o.n, 32))
	if o.n > 32 {
		w.put(o.acc>>32, o.n-32)
	}
}

func (w *bitWriter) appendTo(b []byte) []byte {
	b = append(b, w.buf...)
	for k := uint(0); k < w.n; k += 8 {
		b = append(b, byte(w.acc>>k))
	}
	return b
}

// nibbleWriter packs nibbles, low one first.
type nibbleWriter struct {
	b    []byte
	half bool
}

func (w *nibbleWriter) put(n uint8) {
	if w.half {
		w.b[len(w.b)-1] |= n << 4
	} else {
		w.b = append(w.b, n)
	}
	w.half = !w.half
}

// bitReader reads bits, lowest first.
type bitReader struct {
	b    []byte
	acc  uint64
	n    uint
	over bool // read beyond the end
}

// get returns the next k bits, k at most 61.
func (b *bitReader) get(k uint) uint64 {
	if b.n < k {
		return b.slow(k)
	}
	v := b.acc & (1<<k - 1)
	b.acc >>= k
	b.n -= k
	return v
}

func (b *bitReader) slow(k uint) uint64 {
	low, have := b.acc, b.n
	b.acc, b.n = 0, 0
	if len(b.b) >= 8 {
		b.acc, b.n = binary.LittleEndian.Uint64(b.b), 64
		b.b = b.b[8:]
	} else {
		for i, c := range b.b {
			b.acc |= uint64(c) << (8 * i)
		}
		b.n = uint(8 * len(b.b))
		b.b = nil
	}
	k -= have
	if b.n < k {
		b.over = true
		b.n = k
	}
	v := b.acc & (1<<k - 1)
	b.acc >>= k
	b.n -= k
	return low | v<<have
}

// atEnd reports whether nothing but the zero bits of the last byte is left.
func (b *bitReader) atEnd() bool { return !b.over && len(b.b) == 0 && b.n < 8 && b.acc == 0 }

// nibbleReader reads what nibbleWriter packs.
type nibbleReader struct {
	r    *reader
	rest byte
	half bool
}

func (n *nibbleReader) next() byte {
	if n.half = !n.half; n.half {
		n.rest = n.r.byte()
		return n.rest & 15
	}
	return n.rest >> 4
}
