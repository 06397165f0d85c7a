package spool

import (
	"errors"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

const (
	// salvageBatch is how many bytes of blocks one transaction of a rebuilt
	// file takes.
	salvageBatch = 4 << 20
	// unknownRecord is the number of an open record without bytes, which stands
	// for parts that are lost and cannot be told. Commits count from 1.
	unknownRecord = 0
)

// keySalvaged marks a segment whose state had to be given up.
var keySalvaged = []byte("salvaged")

// salvage writes what can be read of a segment to a new file. Of a block whose
// header is known and whose bytes are not, the header is kept: it is declared
// with its stream, sequence and count when it is read.
func (j *probeJob) salvage(v *inventory, older rawMeta) (r probeReport, err error) {
	newest, _ := v.p.newest()
	wrong := func(name string) bool { return v.wrong[name] != nil || !newest.ok }
	// bbolt is content with one meta page, and takes the file as it was a
	// transaction ago where the newer does not read: sequences would be given
	// twice. A meta page fits a sector, so that a power cut does not tear it.
	lastLost := !newest.ok || !older.ok
	state := !lastLost && v.wrong[""] == nil
	for _, name := range smallBuckets() {
		state = state && v.wrong[name] == nil
	}
	c, counted := v.counters()
	r = probeReport{Verdict: verdictGood, Kept: state && counted}
	openLost := wrong(string(bucketOpen)) || v.wrong[""] != nil
	if wrong(string(bucketBlocks)) || openLost || lastLost {
		// Of open records, stale copies are told from others by the state alone.
		v.sweep(openLost && r.Kept)
	}
	if !r.Kept {
		v.repairState(older)
	}
	x, keys, indexed := j.oldIndex()
	v.adopt(x.headers, keys, indexed)
	if r.Kept && j.Role == roleTail { // what a transaction that failed left is not part of it
		for n := range v.blocks {
			if n >= c.next {
				delete(v.blocks, n)
			}
		}
		for n := range v.open {
			if n >= c.commit {
				delete(v.open, n)
			}
		}
	}
	if openLost || lastLost && j.Role == roleTail {
		v.open[unknownRecord] = foundRecord{}
		r.Unknown = true
	}
	if err := v.rebuild(j, &r); err != nil {
		return r, errors.Join(err, os.RemoveAll(j.Salvage))
	}
	if j.Index == "" {
		return r, nil
	}
	if v.p.size, err = fileSize(j.Salvage); err != nil {
		return r, err
	}
	if indexed {
		x.size = v.p.size
		data := x.append(nil, j.ID, keys)
		r.IndexBytes = int64(len(data))
		return r, writeDurably(j.Index, data)
	}
	r.IndexBytes, err = v.writeIndex(j)
	return r, err
}

// repairState replaces buckets that do not read by what they were before the
// last transaction. Acknowledgements that are older mean that blocks are sent
// again; such as are missing would mean that a sink is not known. So where they
// cannot be had whole, the counters go too: the opening then takes all of it
// from an older segment.
func (v *inventory) repairState(older rawMeta) {
	var before *inventory
	if older.ok {
		clear(v.p.seen)
		before = newInventory(v.p)
		before.take(older)
	}
	newest, _ := v.p.newest()
	for _, name := range smallBuckets() {
		if newest.ok && v.wrong[name] == nil {
			continue
		}
		if before != nil && before.wrong[name] == nil {
			v.small[name] = before.small[name]
			continue
		}
		if name != string(bucketMeta) && name != string(bucketStreams) {
			delete(v.small[string(bucketState)], string(keyCounters))
		}
	}
}

// rebuild writes a new segment with what was found.
func (v *inventory) rebuild(j *probeJob, r *probeReport) (err error) {
	h, err := newFile(j.Salvage)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	err = h.Update(func(tx *bolt.Tx) error {
		if err := createBuckets(tx); err != nil {
			return err
		}
		for name, values := range v.small {
			for k, stored := range values {
				if name == string(bucketState) && k == string(keyFormat) {
					continue
				}
				if err := tx.Bucket([]byte(name)).Put([]byte(k), stored); err != nil {
					return err
				}
			}
		}
		if j.Role == roleTail && !r.Kept {
			if err := put(tx.Bucket(bucketState), keySalvaged, nil); err != nil {
				return err
			}
		}
		return v.rebuildOpen(tx, r)
	})
	if err != nil {
		return err
	}
	if err := j.stored(v.p, h); err != nil {
		return err
	}
	for numbers := v.numbers(); len(numbers) > 0; {
		err := h.Update(func(tx *bolt.Tx) error {
			blocks := tx.Bucket(bucketBlocks)
			blocks.FillPercent = 1 // keys only rise
			for size := 0; len(numbers) > 0 && size < salvageBatch; numbers = numbers[1:] {
				b := v.blocks[numbers[0]]
				size += b.header.Bytes
				if err := v.rebuildBlock(blocks, &b, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = j.stored(v.p, h)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newFile makes a bbolt file that is synced by the job, now and then and when it
// is complete.
func newFile(path string) (*handle, error) {
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	h, err := openFile(path, &bolt.Options{NoSync: true, NoGrowSync: true, NoStatistics: true})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	h.AllocSize = 1 << 20
	return h, nil
}

func (v *inventory) rebuildOpen(tx *bolt.Tx, r *probeReport) error {
	open := tx.Bucket(bucketOpen)
	numbers := make([]uint64, 0, len(v.open))
	for n := range v.open {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		found := v.open[n]
		if found.n == 0 {
			if _, err := open.CreateBucket(key64(n)); err != nil {
				return err
			}
			continue
		}
		data, err := v.p.bytes(found.at, found.n)
		if err != nil {
			if _, err := open.CreateBucket(key64(n)); err != nil {
				return err
			}
			r.Unknown = true
			continue
		}
		if err := putAlone(open, key64(n), data); err != nil {
			return err
		}
		r.Records++
	}
	return nil
}

func (v *inventory) rebuildBlock(blocks *bolt.Bucket, b *foundBlock, r *probeReport) error {
	if b.whole {
		// It is read anew, and the disk may fail now.
		if data, err := v.p.bytes(b.at, b.n); err == nil && b.header.matches(data) {
			r.Blocks++
			return putAlone(blocks, b.key, data)
		}
	}
	r.Lost = append(r.Lost, b.header.Number)
	_, err := blocks.CreateBucket(b.key)
	return err
}
