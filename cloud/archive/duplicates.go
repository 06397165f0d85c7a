package archive

import (
	"crypto/sha256"
	"encoding/binary"

	"millrace/cloud/lake"
)

// mark is a sample's identity, made short.
type mark [16]byte

func markOf(identity []byte) (m mark) {
	sum := sha256.Sum256(identity)
	copy(m[:], sum[:])
	return m
}

// delivery appends what tells that a sample without an identity was archived
// before, when its block came a second time after its table was gone: that the
// same stream delivered the same reading at the same time. See onlyWhole.
func delivery(dst []byte, r *lake.Row) []byte {
	dst = appendText(appendText(appendText(append(dst, 'd'), r.Gateway), r.Stream), r.Tag)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time))
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.Quality))
	dst = binary.BigEndian.AppendUint64(append(dst, byte(r.Value.Kind())), r.Value.Bits())
	return append(dst, r.Value.Str()...)
}

// lateMark is by what a late sample is looked for in an archive whose table is gone.
func lateMark(buf []byte, r *lake.Row) (mark, []byte) {
	if buf = lake.Identity(buf[:0], &r.Sample); len(buf) == 0 {
		buf = delivery(buf, r)
	}
	return markOf(buf), buf
}

// duplicates finds samples that are there already, among rows that come by tag
// and time.
//
// Samples with a source time and without a producer have that time in their
// identity, so the same ones stand together. One with a producer may be sent
// again at another time of the gateway's clock: these are told from as many
// before them in the day as are remembered, for each tag anew.
type duplicates struct {
	limit   int           // marks in each of the two generations
	present map[mark]bool // that are in the archive already; may be nil

	tag      string
	at       int64
	here     [][]byte // identities at this tag and time
	many     map[string]bool
	now, old map[mark]struct{}
	buf      []byte
	count    int64
}

// manyHere is from how many identities at one time on they are looked up and not
// gone through.
const manyHere = 16

// is reports whether a row is a duplicate, and remembers it otherwise.
func (d *duplicates) is(r *lake.Row) bool {
	if d.buf = lake.Identity(d.buf[:0], &r.Sample); len(d.buf) == 0 {
		if d.present == nil || !d.present[markOf(delivery(d.buf, r))] {
			return false
		}
		d.count++
		return true
	}
	if r.Tag != d.tag {
		d.tag, d.at = r.Tag, 0
		d.here, d.many = d.here[:0], nil
		clear(d.now)
		clear(d.old)
	}
	twice := d.present != nil && d.present[markOf(d.buf)]
	switch {
	case twice:
	case r.Producer != "":
		twice = d.sent()
	default:
		twice = d.stands(r.SourceTime)
	}
	if twice {
		d.count++
	}
	return twice
}

// sent looks for the identity of a sample that has a producer.
func (d *duplicates) sent() bool {
	m := markOf(d.buf)
	if _, ok := d.now[m]; ok {
		return true
	}
	if _, ok := d.old[m]; ok {
		return true
	}
	if d.now == nil || len(d.now) >= d.limit {
		d.now, d.old = map[mark]struct{}{}, d.now
	}
	d.now[m] = struct{}{}
	return false
}

// stands looks for the identity of a sample among those of its time.
func (d *duplicates) stands(at int64) bool {
	if at != d.at {
		d.at, d.here, d.many = at, d.here[:0], nil
	}
	if d.many != nil {
		if d.many[string(d.buf)] {
			return true
		}
		d.many[string(d.buf)] = true
		return false
	}
	for _, id := range d.here {
		if string(id) == string(d.buf) {
			return true
		}
	}
	if len(d.here) == manyHere {
		d.many = map[string]bool{string(d.buf): true}
		for _, id := range d.here {
			d.many[string(id)] = true
		}
		return false
	}
	// Buffers of times before are used again.
	n := len(d.here)
	if n < cap(d.here) {
		d.here = d.here[:n+1]
		d.here[n] = append(d.here[n][:0], d.buf...)
	} else {
		d.here = append(d.here, append([]byte(nil), d.buf...))
	}
	return false
}
