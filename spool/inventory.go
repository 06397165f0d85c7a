package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// place is where a record's bytes lie in a file.
type place struct {
	at int64
	n  int
}

// foundBlock is a block of which at least the header was found.
type foundBlock struct {
	header blockHeader
	key    []byte
	place
	whole  bool // the bytes match the header
	listed bool // the tree of blocks leads to it
}

// foundRecord is a record of the open tier.
type foundRecord struct {
	place
	whole bool // all its parts read
}

// inventory is what was found in a segment.
type inventory struct {
	p *pageFile
	// small holds the values of state, meta, streams, acks and losses whose
	// checksums fit, by bucket and key, as stored.
	small map[string]map[string][]byte
	// wrong tells by bucket what is wrong with it; "" is the list of buckets.
	wrong  map[string]error
	open   map[uint64]foundRecord
	blocks map[uint64]foundBlock
	// orphans are bytes without a header that reads, by length and checksum.
	orphans map[orphan]int64
}

type orphan struct {
	n   int
	crc uint32
}

// badPart stands, in inventory.wrong, for parts that do not read in records
// that do.
const badPart = "open parts"

// smallBuckets are those whose values are small and carry a checksum.
func smallBuckets() []string {
	return []string{string(bucketState), string(bucketMeta), string(bucketStreams), string(bucketAcks), string(bucketLosses)}
}

func newInventory(p *pageFile) *inventory {
	v := &inventory{
		p: p, small: map[string]map[string][]byte{}, wrong: map[string]error{},
		open: map[uint64]foundRecord{}, blocks: map[uint64]foundBlock{}, orphans: map[orphan]int64{},
	}
	for _, name := range smallBuckets() {
		v.small[name] = map[string][]byte{}
	}
	return v
}

func (v *inventory) note(bucket string, err error) {
	if err != nil && v.wrong[bucket] == nil {
		v.wrong[bucket] = err
	}
}

// fault is the first thing that is wrong, or nil.
func (v *inventory) fault() error {
	for _, name := range append(append([]string{""}, smallBuckets()...), string(bucketOpen), badPart, string(bucketBlocks)) {
		if err := v.wrong[name]; err != nil {
			if name == "" {
				return err
			}
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

// take walks the tree of a meta page. What an earlier walk found stays.
func (v *inventory) take(m rawMeta) {
	here := map[string]bool{}
	v.note("", v.p.walk(m.root, func(e element) {
		name := string(e.key)
		here[name] = true
		if !e.bucket {
			v.note("", fmt.Errorf("%q is no bucket", name))
			return
		}
		switch name {
		case string(bucketOpen):
			v.note(name, v.p.inside(e, v.takeRecord))
		case string(bucketBlocks):
			v.note(name, v.p.inside(e, v.takeBlock))
		default:
			if v.small[name] == nil {
				v.note("", fmt.Errorf("bucket %q is not known", name))
				return
			}
			v.note(name, v.p.inside(e, func(e element) { v.takeSmall(name, e) }))
		}
	}))
	for _, name := range append(smallBuckets(), string(bucketOpen), string(bucketBlocks)) {
		if !here[name] {
			v.note(name, errors.New("it is missing"))
		}
	}
}

func (v *inventory) takeSmall(bucket string, e element) {
	if _, ok := unsealed(e.key, e.value); !ok || e.bucket {
		v.note(bucket, fmt.Errorf("the value of %q does not match its checksum", e.key))
		return
	}
	if _, known := v.small[bucket][string(e.key)]; !known {
		v.small[bucket][string(e.key)] = slices.Clone(e.value)
	}
}

// value finds the one value in a block's or an open record's bucket. It is nil
// where there is none.
func (v *inventory) value(e element) (data []byte, at place, err error) {
	err = v.p.inside(e, func(d element) {
		if string(d.key) == string(keyData) && !d.bucket {
			data, at = d.value, place{d.at, len(d.value)}
		}
	})
	return data, at, err
}

func (v *inventory) takeBlock(e element) {
	h, ok := readBlockKey(e.key)
	if !ok || !e.bucket {
		v.note(string(bucketBlocks), errors.New("a block's header does not match its checksum"))
		return
	}
	data, at, err := v.value(e)
	b := foundBlock{header: h, key: slices.Clone(e.key), place: at, whole: data != nil && h.matches(data), listed: !v.p.sweeping}
	// A header alone stands for a block that is known to be lost.
	if lost := data == nil && err == nil; !b.whole && !lost {
		v.note(string(bucketBlocks), fmt.Errorf("block %d does not match its checksum", h.Number))
	}
	v.note(string(bucketBlocks), err)
	known, ok := v.blocks[h.Number]
	if ok && known.listed && string(known.key) != string(b.key) {
		return // of a transaction that was not completed: its numbers were given again
	}
	if !ok || b.whole && !known.whole {
		b.listed = b.listed || known.listed
		v.blocks[h.Number] = b
	}
}

func (v *inventory) takeRecord(e element) {
	if len(e.key) != 8 || !e.bucket {
		v.note(string(bucketOpen), errors.New("an open record has no number"))
		return
	}
	n := binary.BigEndian.Uint64(e.key)
	data, at, err := v.value(e)
	v.note(string(bucketOpen), err)
	if data == nil && err != nil {
		return
	}
	// A record without bytes stands for parts that are lost.
	r := foundRecord{place: at, whole: true}
	cut := !readParts(data, func(Part) {}, func(Part) { r.whole = false })
	r.whole = r.whole && !cut
	if !r.whole {
		// The opening deals with it, part by part.
		v.note(badPart, fmt.Errorf("a part of open record %d does not match its checksum", n))
	}
	if known, ok := v.open[n]; !ok || r.whole && !known.whole {
		v.open[n] = r
	}
}

// sweep looks for blocks, and with records for open records, in all pages,
// whether a tree leads to them or not. Each is accepted by its checksums alone.
func (v *inventory) sweep(records bool) {
	v.p.sweep(func(e element) {
		switch {
		case e.bucket && len(e.key) == blockKeyLen:
			if _, ok := readBlockKey(e.key); ok {
				v.takeBlock(e)
			}
		case e.bucket && len(e.key) == 8 && records:
			data, _, err := v.value(e)
			if err != nil || len(data) == 0 {
				return
			}
			// Any bucket has a name; only records begin with a part's header.
			if readParts(data, func(Part) {}, func(Part) {}) {
				v.takeRecord(e)
			}
		case !e.bucket && string(e.key) == string(keyData):
			v.orphans[orphan{len(e.value), dataChecksum(e.value)}] = e.at
		}
	})
}

// adopt gives known headers the bytes that match them. With only set, what is
// not among the headers is dropped: it was never part of the segment.
func (v *inventory) adopt(headers []blockHeader, keys [][]byte, only bool) {
	known := make(map[uint64]bool, len(headers))
	for i := range headers {
		h := &headers[i]
		known[h.Number] = true
		if b, ok := v.blocks[h.Number]; ok && b.whole && string(b.key) == string(keys[i]) {
			continue
		}
		v.blocks[h.Number] = foundBlock{header: *h, key: keys[i]}
	}
	for n, b := range v.blocks {
		if only && !known[n] {
			delete(v.blocks, n)
			continue
		}
		if b.whole {
			continue
		}
		if at, ok := v.orphans[orphan{b.header.Bytes, b.header.crc}]; ok {
			b.place, b.whole = place{at, b.header.Bytes}, true
			v.blocks[n] = b
		}
	}
}
