package spool

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// storedLoss is a loss as kept in the tail.
type storedLoss struct {
	Loss
	// Dead is the dead letter whose removal this loss declares, or 0. An
	// opening finishes a removal that a crash interrupted.
	Dead uint64 `json:",omitempty"`

	taken    bool   // DueLosses has returned it
	progress uint64 // of the sinks that lack it, when it was declared or grew
}

// openRecord is what memory keeps of a record of the open tier.
type openRecord struct {
	commit uint64
	parts  []openPart // those that no block has superseded
	bytes  int64      // of the whole record
}

type openPart struct {
	stream uint32
	count  uint32
}

// tailState is all that the tail holds besides blocks.
type tailState struct {
	counters
	epochFirst uint64 // number of the epoch's first block
	retried    intervals
	streams    map[uint32]streamState
	policies   []StreamPolicy
	offered    intervals // nil where the file does not say
	acks       map[string]intervals
	losses     []storedLoss
	records    []openRecord
	// garbage are records that blocks have superseded whole.
	garbage []uint64
	// damaged are records of which something does not read, with what does.
	damaged []damage
}

// damage is what is left of a record, and what it lost.
type damage struct {
	commit uint64
	left   []Part
	lost   []Part
	cut    bool // more is lost than can be counted
}

// loadState reads the tail's state, and calls part for each part that no block
// has superseded. Parts' Data is the file's memory. An error means that the
// state cannot be trusted.
func loadState(tx *bolt.Tx, path string, part func(Part)) (*tailState, error) {
	bad := func(what string) error { return &corruptError{path: path, why: what + " does not read"} }
	st := tx.Bucket(bucketState)
	if st == nil {
		return nil, &corruptError{path: path, why: "it holds no state"}
	}
	v, ok := unsealed(keyFormat, st.Get(keyFormat))
	if !ok || len(v) != 4 {
		return nil, bad("its format")
	}
	if n := binary.BigEndian.Uint32(v); n != format {
		return nil, &NewerError{Dir: filepath.Dir(path), File: filepath.Base(path), Format: fmt.Sprint(n)}
	}
	if st.Get(keySalvaged) != nil {
		return nil, &corruptError{path: path, why: "it was salvaged without its state"}
	}
	t := &tailState{streams: map[uint32]streamState{}}
	if st.Get(keyRetired) != nil {
		return nil, &corruptError{path: path, why: "its successor is gone, and with it the state", successor: true}
	}
	v, ok = unsealed(keyCounters, st.Get(keyCounters))
	if ok {
		t.counters, ok = readCounters(v)
	}
	if !ok {
		return nil, bad("its counters")
	}
	// Spools of before have none: then all is of this epoch.
	if v, ok := unsealed(keyEpochFirst, st.Get(keyEpochFirst)); ok && len(v) == 8 {
		t.epochFirst = binary.BigEndian.Uint64(v)
	}
	if stored := st.Get(keyRetried); stored != nil {
		v, ok := unsealed(keyRetried, stored)
		var err error
		if t.retried, err = readIntervals(v); !ok || err != nil {
			return nil, bad("which dead letters were put back")
		}
	}
	err := each(tx, bucketStreams, func(k, v []byte) error {
		v, ok := unsealed(k, v)
		if !ok || len(k) != 4 || len(v) != 16 {
			return bad("a stream's state")
		}
		t.streams[binary.BigEndian.Uint32(k)] = streamState{seq: binary.BigEndian.Uint64(v), sealed: binary.BigEndian.Uint64(v[8:])}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if t.policies, err = loadPolicies(tx, path); err != nil {
		return nil, err
	}
	if t.offered, err = loadOffered(tx, path); err != nil {
		return nil, err
	}
	if t.acks, err = loadAcks(tx, path); err != nil {
		return nil, err
	}
	if t.losses, err = loadLosses(tx, path); err != nil {
		return nil, err
	}
	if tx.Bucket(bucketOpen) == nil || tx.Bucket(bucketBlocks) == nil {
		return nil, bad("its list of buckets")
	}
	loadOpen(tx, t, part)
	return t, nil
}

// policyLen is the length of a stream's policy as stored.
const policyLen = 5

func appendPolicies(to []byte, list []StreamPolicy) []byte {
	for _, p := range list {
		to = append(binary.BigEndian.AppendUint32(to, p.Stream), byte(p.Policy))
	}
	return to
}

// loadPolicies reads the policies of streams. Files that were made before there
// were any have none.
func loadPolicies(tx *bolt.Tx, path string) (list []StreamPolicy, err error) {
	stored := tx.Bucket(bucketState).Get(keyPolicies)
	if stored == nil {
		return nil, nil
	}
	v, ok := unsealed(keyPolicies, stored)
	for ; ok && len(v) >= policyLen; v = v[policyLen:] {
		p := StreamPolicy{Stream: binary.BigEndian.Uint32(v), Policy: Policy(v[4])}
		ok = p.Policy.known()
		list = append(list, p)
	}
	if !ok || len(v) > 0 {
		return nil, &corruptError{path: path, why: "the streams' policies do not read"}
	}
	return list, nil
}

// loadAcks reads what each known sink has acknowledged.
func loadAcks(tx *bolt.Tx, path string) (map[string]intervals, error) {
	acks := map[string]intervals{}
	err := each(tx, bucketAcks, func(k, v []byte) error {
		v, ok := unsealed(k, v)
		if ok {
			var err error
			if acks[string(k)], err = readIntervals(v); err == nil {
				return nil
			}
		}
		return &corruptError{path: path, why: fmt.Sprintf("what sink %q has acknowledged does not read", k)}
	})
	return acks, err
}

func loadLosses(tx *bolt.Tx, path string) (losses []storedLoss, err error) {
	err = each(tx, bucketLosses, func(k, v []byte) error {
		var l storedLoss
		v, ok := unsealed(k, v)
		if !ok || json.Unmarshal(v, &l) != nil {
			return &corruptError{path: path, why: "a loss does not read"}
		}
		losses = append(losses, l)
		return nil
	})
	return losses, err
}

// loadMeta reads the caller's state into memory of its own.
func loadMeta(tx *bolt.Tx, path string) (meta []KV, err error) {
	err = each(tx, bucketMeta, func(k, v []byte) error {
		v, ok := unsealed(k, v)
		if !ok {
			return &corruptError{path: path, why: fmt.Sprintf("state %q does not read", k)}
		}
		meta = append(meta, KV{Key: string(k), Value: append([]byte(nil), v...)})
		return nil
	})
	return meta, err
}

// loadOpen reads the open tier.
func loadOpen(tx *bolt.Tx, t *tailState, part func(Part)) {
	root := tx.Bucket(bucketOpen)
	if root == nil {
		return
	}
	c := root.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if len(k) != 8 {
			continue
		}
		r := openRecord{commit: binary.BigEndian.Uint64(k)}
		d := damage{commit: r.commit}
		var record []byte
		if b := root.Bucket(k); b != nil {
			record = b.Get(keyData)
		}
		r.bytes = int64(len(record))
		alive := func(p Part) bool { return r.commit >= t.streams[p.Stream].sealed }
		ok := readParts(record, func(p Part) {
			if !alive(p) {
				return
			}
			r.parts = append(r.parts, openPart{stream: p.Stream, count: p.Count})
			d.left = append(d.left, p)
			part(p)
		}, func(p Part) {
			if alive(p) {
				d.lost = append(d.lost, p)
			}
		})
		d.cut = !ok || len(record) == 0
		switch {
		case d.cut || len(d.lost) > 0:
			for i := range d.left { // outlives the transaction
				d.left[i].Data = append([]byte(nil), d.left[i].Data...)
			}
			t.damaged = append(t.damaged, d)
			if len(r.parts) > 0 {
				t.records = append(t.records, r)
			} else {
				t.garbage = append(t.garbage, r.commit)
			}
		case len(r.parts) == 0:
			t.garbage = append(t.garbage, r.commit)
		default:
			t.records = append(t.records, r)
		}
	}
}

// each calls fn for every key of a bucket of small values.
func each(tx *bolt.Tx, bucket []byte, fn func(k, v []byte) error) error {
	b := tx.Bucket(bucket)
	if b == nil {
		return &corruptError{path: tx.DB().Path(), why: fmt.Sprintf("bucket %s is missing", bucket)}
	}
	return b.ForEach(fn)
}

// change is what one transaction on the tail does. Everything is set before
// the transaction, so that it can be run again.
type change struct {
	number   uint64   // of the commit that it is
	counters counters // after it
	streams  map[uint32]streamState
	meta     []KV
	policies []StreamPolicy // all of them, where one changes
	offered  intervals      // what may be handed out with it; nil where that does not change
	parts    []byte         // an open record, under number record; none where empty
	record   uint64
	blocks   []Block // with their numbers
	settle   []uint64
	losses   []storedLoss
	acks     []ackValue
	forget   string
	garbage  []uint64 // open records to delete
	// oldGarbage counts those of garbage that waited before this change.
	oldGarbage int
	// only names the one sink that the blocks are for; all where empty.
	only string
	// retried replaces Spool.retried where it is set.
	retried intervals
	// gone are numbers that every sink is to have with this change.
	gone []span
	// drained are the segments that every sink has whole by acks.
	drained []*segment
	damaged []damage // open records to write again without what they lost
}

// ackValue is a sink's acknowledgements, encoded.
type ackValue struct {
	sink    string
	value   []byte
	version uint64
}

// write makes the change.
func (c *change) write(tx *bolt.Tx) error {
	steps := []func(*bolt.Tx) error{c.writeState, c.writeOpen, c.writeBlocks, c.writeLosses, c.writeAcks}
	for _, step := range steps {
		if err := step(tx); err != nil {
			return err
		}
	}
	return nil
}

func put(b *bolt.Bucket, k, v []byte) error { return b.Put(k, sealed(k, v)) }

func (c *change) writeState(tx *bolt.Tx) error {
	if err := put(tx.Bucket(bucketState), keyCounters, c.counters.append(nil)); err != nil {
		return err
	}
	streams := tx.Bucket(bucketStreams)
	for id, s := range c.streams {
		if err := put(streams, key32(id), s.append(nil)); err != nil {
			return err
		}
	}
	if len(c.retried) > 0 {
		if err := put(tx.Bucket(bucketState), keyRetried, c.retried.append(nil)); err != nil {
			return err
		}
	}
	if len(c.policies) > 0 {
		if err := put(tx.Bucket(bucketState), keyPolicies, appendPolicies(nil, c.policies)); err != nil {
			return err
		}
	}
	if c.offered != nil {
		if err := put(tx.Bucket(bucketState), keyOffered, c.offered.append(nil)); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	for _, kv := range c.meta {
		k := []byte(kv.Key)
		var err error
		if kv.Value == nil {
			err = meta.Delete(k)
		} else {
			err = put(meta, k, kv.Value)
		}
		if err != nil {
			return fmt.Errorf("state %q: %w", kv.Key, err)
		}
	}
	return nil
}

func (c *change) writeOpen(tx *bolt.Tx) error {
	open := tx.Bucket(bucketOpen)
	for _, n := range c.garbage {
		if err := open.DeleteBucket(key64(n)); err != nil {
			return err
		}
	}
	for _, d := range c.damaged {
		if len(d.left) == 0 {
			continue // it is garbage too
		}
		var record []byte
		for i := range d.left {
			record = appendPart(record, &d.left[i])
		}
		if err := open.Bucket(key64(d.commit)).Put(keyData, record); err != nil {
			return err
		}
	}
	if len(c.parts) == 0 {
		return nil
	}
	open.FillPercent = 1 // keys only rise
	return putAlone(open, key64(c.record), c.parts)
}

func (c *change) writeBlocks(tx *bolt.Tx) error {
	if len(c.blocks) == 0 {
		return nil
	}
	blocks := tx.Bucket(bucketBlocks)
	blocks.FillPercent = 1 // keys only rise
	for i := range c.blocks {
		if err := putAlone(blocks, appendBlockKey(nil, &c.blocks[i]), c.blocks[i].Data); err != nil {
			return err
		}
	}
	return nil
}

// putAlone stores a value in a bucket of its own: pages of a bucket with a few
// large values are written again with every value that joins them.
func putAlone(root *bolt.Bucket, name, value []byte) error {
	b, err := root.CreateBucket(name)
	if err != nil {
		return err
	}
	return b.Put(keyData, value)
}

func (c *change) writeLosses(tx *bolt.Tx) error {
	b := tx.Bucket(bucketLosses)
	for _, id := range c.settle {
		if err := b.Delete(key64(id)); err != nil {
			return err
		}
	}
	for i := range c.losses {
		text, err := json.Marshal(&c.losses[i])
		if err != nil {
			return err
		}
		if err := put(b, key64(c.losses[i].ID), text); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) writeAcks(tx *bolt.Tx) error {
	b := tx.Bucket(bucketAcks)
	for _, a := range c.acks {
		if err := put(b, []byte(a.sink), a.value); err != nil {
			return err
		}
	}
	if c.forget != "" {
		return b.Delete([]byte(c.forget))
	}
	return nil
}

// createBuckets makes an empty segment.
func createBuckets(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketState, bucketMeta, bucketStreams, bucketAcks, bucketLosses, bucketOpen, bucketBlocks} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return put(tx.Bucket(bucketState), keyFormat, formatValue())
}

// copyState copies all but blocks, and of the open tier what is in keep.
func copyState(from, to *bolt.Tx, keep []openRecord) error {
	for _, name := range [][]byte{bucketState, bucketMeta, bucketStreams, bucketAcks, bucketLosses} {
		into := to.Bucket(name)
		if err := each(from, name, into.Put); err != nil {
			return err
		}
	}
	open := from.Bucket(bucketOpen)
	for _, r := range keep {
		b := open.Bucket(key64(r.commit))
		if b == nil {
			return fmt.Errorf("BUG: open record %d is not in the segment", r.commit)
		}
		if err := putAlone(to.Bucket(bucketOpen), key64(r.commit), b.Get(keyData)); err != nil {
			return err
		}
	}
	return nil
}
