package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// deadInventory is what was found in the dead letters' file.
type deadInventory struct {
	p        *pageFile
	letters  map[uint64]DeadLetter
	bytes    map[uint64]place
	orphans  map[orphan]int64
	sequence uint64 // of the letters' bucket
	wrong    error
	// lettersWrong is set where letters may be missing.
	lettersWrong bool
}

func (v *deadInventory) note(err error) {
	if err != nil && v.wrong == nil {
		v.wrong = err
	}
}

func (j *probeJob) lookDead(p *pageFile) (r probeReport, err error) {
	v := &deadInventory{p: p, letters: map[uint64]DeadLetter{}, bytes: map[uint64]place{}, orphans: map[orphan]int64{}}
	newest, other := p.newest()
	if newest.ok {
		v.take(newest)
	}
	for id, l := range v.letters {
		if at, ok := v.bytes[id]; !ok || !v.matches(at, &l) {
			v.note(fmt.Errorf("dead letter %d does not match its checksum", id))
		}
	}
	if j.Salvage == "" {
		return probeReport{Verdict: verdictGood}, j.check(p, v.wrong)
	}
	v.lettersWrong = v.lettersWrong || !newest.ok || !other.ok
	if v.wrong != nil || v.lettersWrong {
		v.sweep()
	}
	r, err = v.rebuild(j)
	if err != nil {
		err = errors.Join(err, os.RemoveAll(j.Salvage))
	}
	return r, err
}

func (v *deadInventory) matches(at place, l *DeadLetter) bool {
	if at.n != l.Bytes {
		return false
	}
	data, err := v.p.bytes(at.at, at.n)
	return err == nil && dataChecksum(data) == l.CRC
}

func (v *deadInventory) take(m rawMeta) {
	here := map[string]bool{}
	err := v.p.walk(m.root, func(e element) {
		name := string(e.key)
		here[name] = e.bucket
		switch name {
		case string(bucketLetters):
			if len(e.value) >= inBucketLen {
				v.sequence = binary.NativeEndian.Uint64(e.value[8:])
			}
			if err := v.p.inside(e, func(e element) { v.takeLetter(e, true) }); err != nil {
				v.note(err)
				v.lettersWrong = true
			}
		case string(bucketBytes):
			v.note(v.p.inside(e, func(e element) { v.note(v.takeBytes(e)) }))
		case string(bucketIndex):
			v.note(v.p.inside(e, func(element) {}))
		}
	})
	for _, name := range [][]byte{bucketLetters, bucketBytes, bucketIndex} {
		if !here[string(name)] && err == nil {
			err = fmt.Errorf("bucket %s is missing", name)
		}
	}
	if err != nil {
		v.note(err)
		v.lettersWrong = true
	}
}

func (v *deadInventory) takeLetter(e element, must bool) {
	l, ok := readLetter(e.key, e.value)
	if ok = ok && len(e.key) == 8 && !e.bucket && binary.BigEndian.Uint64(e.key) == l.ID; ok {
		if _, known := v.letters[l.ID]; !known {
			v.letters[l.ID] = l
		}
	} else if must {
		v.note(errors.New("a dead letter does not match its checksum"))
		v.lettersWrong = true
	}
}

func (v *deadInventory) takeBytes(e element) error {
	if len(e.key) != 8 || !e.bucket {
		return errors.New("a dead letter's bytes have no number")
	}
	return v.p.inside(e, func(d element) {
		v.bytes[binary.BigEndian.Uint64(e.key)] = place{d.at, len(d.value)}
	})
}

// sweep looks for letters and bytes in all pages.
func (v *deadInventory) sweep() {
	v.p.sweep(func(e element) {
		switch {
		case len(e.key) == 8 && !e.bucket && v.lettersWrong:
			v.takeLetter(e, false)
		case len(e.key) == 8 && e.bucket:
			id := binary.BigEndian.Uint64(e.key)
			// Pages that were freed do not replace what a tree leads to.
			if l, ok := v.letters[id]; ok && v.matches(v.bytes[id], &l) {
				return
			}
			_ = v.takeBytes(e) // what does not read is not found
		case string(e.key) == string(keyData) && !e.bucket:
			v.orphans[orphan{len(e.value), dataChecksum(e.value)}] = e.at
		}
	})
}

// rebuild writes the letters whose bytes were found to a new file.
func (v *deadInventory) rebuild(j *probeJob) (r probeReport, err error) {
	r = probeReport{Verdict: verdictGood, Unknown: v.lettersWrong}
	h, err := newFile(j.Salvage)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	err = h.Update(createDeadBuckets)
	ids := make([]uint64, 0, len(v.letters))
	for id := range v.letters {
		ids = append(ids, id)
		v.sequence = max(v.sequence, id)
	}
	slices.Sort(ids)
	for len(ids) > 0 && err == nil {
		err = h.Update(func(tx *bolt.Tx) error {
			for size := 0; len(ids) > 0 && size < salvageBatch; ids = ids[1:] {
				l := v.letters[ids[0]]
				size += l.Bytes
				if err := v.rebuildLetter(tx, &l, &r); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = j.stored(v.p, h)
		}
	}
	if err == nil {
		err = h.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketLetters).SetSequence(v.sequence) })
	}
	if err != nil {
		return r, err
	}
	return r, j.stored(v.p, h)
}

func (v *deadInventory) rebuildLetter(tx *bolt.Tx, l *DeadLetter, r *probeReport) error {
	at, ok := v.bytes[l.ID]
	if !ok || !v.matches(at, l) {
		at = place{v.orphans[orphan{l.Bytes, l.CRC}], l.Bytes}
	}
	if at.at == 0 || !v.matches(at, l) {
		r.LostDead = append(r.LostDead, *l)
		return nil
	}
	data, err := v.p.bytes(at.at, at.n)
	if err != nil {
		return err
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	r.Letters++
	return errors.Join(
		put(tx.Bucket(bucketLetters), key64(l.ID), text),
		putAlone(tx.Bucket(bucketBytes), key64(l.ID), data),
		tx.Bucket(bucketIndex).Put(indexKey(l), key64(l.ID)))
}

func createDeadBuckets(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketLetters, bucketBytes, bucketIndex} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}
