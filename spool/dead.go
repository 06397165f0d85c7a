package spool

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"millrace/internal/failpoint"
)

const (
	deadName = "dead.db"
	// deadShare is the part of the bound that dead letters may take.
	deadShare = 8
	// allDead in a loss stands for every dead letter of a file that does not
	// read.
	allDead = 1<<64 - 1
)

var (
	bucketLetters = []byte("letters") // id to letter, without the bytes
	bucketBytes   = []byte("bytes")   // id to a bucket of its own
	bucketIndex   = []byte("index")   // block number and sink to id
)

// DeadLetter is a block that a sink refused for good.
type DeadLetter struct {
	ID     uint64    `json:"id"`
	Sink   string    `json:"sink"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Number uint64    `json:"number"` // the block's, when it was refused
	Stream uint32    `json:"stream"`
	Seq    uint64    `json:"seq"`
	Count  uint32    `json:"count"`
	First  int64     `json:"first"` // ns since the Unix epoch
	Last   int64     `json:"last"`
	Bytes  int       `json:"bytes"`
	CRC    uint32    `json:"crc"` // of the bytes: CRC-32C of their second half, then of their first
}

// deadTotals is what memory keeps of the dead letters, guarded by Spool.mu.
type deadTotals struct {
	count int
	used  int64 // bytes, by whole pages
	size  int64 // of the file
}

func (s *Spool) deadPath() string { return filepath.Join(s.o.Dir, deadName) }

// deadUpdate runs fn in a durable transaction on the dead letters' file. Where
// the disk fails it, the file is read anew and fn runs once more: done twice,
// it must change nothing more.
func (s *Spool) deadUpdate(fn func(*bolt.Tx) error) error {
	err := s.deadTransact(fn)
	if diskFailed(err) && s.mayMend() {
		if again := s.readAnew(s.deadPath(), roleDead, 0); again != nil {
			return s.breakDown("dead letters", &mendError{err, again})
		}
		cause := err
		if err = s.deadTransact(fn); err == nil {
			s.mendedOnce(s.deadPath(), "dead letters", cause)
		}
	}
	if err != nil {
		return err
	}
	return s.countDead()
}

// deadTransact opens the file for one transaction: it is used rarely.
func (s *Spool) deadTransact(fn func(*bolt.Tx) error) error {
	if err := s.createDead(); err != nil {
		return err
	}
	db, err := openFile(s.deadPath(), &bolt.Options{NoStatistics: true})
	if err != nil {
		return err
	}
	db.AllocSize = 64 << 10
	err = guard(s.deadPath(), func() error {
		if err := s.hooks.at("dead"); err != nil {
			return err
		}
		if err := db.Update(fn); err != nil {
			return err
		}
		return s.hooks.failed("dead")
	})
	failpoint.At("spool: dead done")
	var corrupt *corruptError
	if errors.As(err, &corrupt) {
		return err // its locks may be held
	}
	return errors.Join(err, db.Close())
}

// createDead makes the file where there is none. Its ids start above those of
// letters whose removal was declared.
func (s *Spool) createDead() error {
	if exists(s.deadPath()) {
		return nil
	}
	temp := s.deadPath() + tempSuffix
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	above := uint64(0)
	s.mu.Lock()
	for i := range s.losses {
		if id := s.losses[i].Dead; id != allDead {
			above = max(above, id)
		}
	}
	s.mu.Unlock()
	db, err := openFile(temp, &bolt.Options{NoStatistics: true})
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := createDeadBuckets(tx); err != nil {
			return err
		}
		return tx.Bucket(bucketLetters).SetSequence(above)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	if err := os.Rename(temp, s.deadPath()); err != nil {
		return err
	}
	return syncDir(s.o.Dir)
}

// deadView runs fn in a read transaction, or not at all where there are no
// dead letters.
func (s *Spool) deadView(fn func(*bolt.Tx) error) error {
	if !exists(s.deadPath()) {
		return nil
	}
	db, err := openFile(s.deadPath(), &bolt.Options{ReadOnly: true, NoStatistics: true})
	if err != nil {
		return err
	}
	err = guard(s.deadPath(), func() error { return db.View(fn) })
	return errors.Join(err, db.Close())
}

func (s *Spool) countDead() error {
	t := deadTotals{}
	err := s.deadView(func(tx *bolt.Tx) error {
		return eachLetter(tx, s.deadPath(), func(l *DeadLetter) {
			t.count++
			t.used += pages(int64(l.Bytes))
		})
	})
	if err != nil {
		return err
	}
	if t.size, err = fileSize(s.deadPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.mu.Lock()
	s.dead = t
	s.mu.Unlock()
	return nil
}

func eachLetter(tx *bolt.Tx, path string, fn func(*DeadLetter)) error {
	return each(tx, bucketLetters, func(k, v []byte) error {
		l, ok := readLetter(k, v)
		if !ok {
			return &corruptError{path: path, why: "a dead letter does not read"}
		}
		fn(&l)
		return nil
	})
}

func readLetter(k, stored []byte) (l DeadLetter, ok bool) {
	v, ok := unsealed(k, stored)
	return l, ok && json.Unmarshal(v, &l) == nil
}

// openDead looks at the dead letters and counts them. What a bad file does not
// give back is declared, and then the file is replaced or put aside: in the
// other order a crash between the two would keep the loss secret.
func (s *Spool) openDead(ctx context.Context, op *opening) error {
	if !exists(s.deadPath()) {
		return nil
	}
	j := probeJob{Path: s.deadPath(), Role: roleDead}
	r, err := s.runProbe(ctx, &j)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	if r.Verdict == verdictGood {
		return s.countDead()
	}
	if s.readOnly {
		return &corruptError{path: s.deadPath(), why: r.Why + "; the gateway salvages it when it starts"}
	}
	declared := func(id uint64) bool {
		return slices.ContainsFunc(s.losses, func(l storedLoss) bool { return l.Dead == id })
	}
	x, err := s.salvage(ctx, &j, r.Why)
	var corrupt *corruptError
	switch {
	case err == nil:
		op.deadRescued = &x
		for _, l := range x.report.LostDead {
			if !declared(l.ID) {
				op.deadLost = append(op.deadLost, l)
			}
		}
		op.loseDead = x.report.Unknown && !declared(allDead)
	case errors.As(err, &corrupt):
		op.deadBroken = corrupt
		op.loseDead = !declared(allDead)
	default:
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	op.change = op.change || op.loseDead || len(op.deadLost) > 0
	return nil
}

// finishDead replaces or puts aside a bad file, whose losses are declared.
func (s *Spool) finishDead(op *opening) error {
	g := &segment{path: s.deadPath()}
	switch {
	case op.deadRescued != nil:
		if err := s.install(g, op.deadRescued); err != nil {
			return err
		}
	case op.deadBroken != nil:
		if err := s.putAside(g, op.deadBroken.why); err != nil {
			return err
		}
	default:
		return nil
	}
	return s.countDead()
}

// addDeadLoss declares a dead letter lost to its sink.
func (s *Spool) addDeadLoss(c *change, l *DeadLetter, cause Cause) {
	s.mu.Lock()
	sinks, earlier := s.named([]string{l.Sink}), s.isEarlier(l.Number)
	s.mu.Unlock()
	c.addLoss(Loss{
		Stream: l.Stream, Sinks: sinks, FromSeq: l.Seq, ToSeq: l.Seq, First: l.First, Last: l.Last, Count: uint64(l.Count),
		Earlier: earlier,
	}, cause, s.now())
	c.losses[len(c.losses)-1].Dead = l.ID
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Bury moves a block that a sink refused for good out of its way: its bytes
// are durably among the dead letters, and it counts as acknowledged by the
// sink. Burying it again changes nothing. Dead letters take an eighth of the
// bound at most; the oldest are declared lost beyond that.
func (s *Spool) Bury(sinkName string, number uint64, reason string) error {
	if err := s.ensureNumber(number); err != nil {
		return err
	}
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	k := s.sinks[sinkName]
	known := k != nil && number > 0 && number < s.counters.next
	has := known && k.acked.has(number)
	s.mu.Unlock()
	if !known {
		return &NotFoundError{What: "block", Number: number}
	}
	if has {
		return nil
	}
	b, err := s.peek(number)
	if err != nil {
		return err
	}
	need := pages(int64(len(b.Data)))
	if err := s.deadRoom(need); err != nil {
		return err
	}
	if err := s.makeRoom(need+fixedPages*pageSize, ordinary); err != nil {
		return err
	}
	l := DeadLetter{
		Sink: sinkName, Reason: reason, At: s.now().UTC(), Number: number, Stream: b.Stream, Seq: b.Seq,
		Count: b.Count, First: b.First, Last: b.Last, Bytes: len(b.Data), CRC: dataChecksum(b.Data),
	}
	if err := s.deadUpdate(func(tx *bolt.Tx) error { return writeLetter(tx, &l, b.Data) }); err != nil {
		return s.failed("dead letter", need, err)
	}
	s.log.Error("a sink refuses a block for good; it is kept among the dead letters",
		"sink", sinkName, "id", l.ID, "stream", l.Stream, "seq", l.Seq, "samples", l.Count, "why", reason)
	s.Ack(sinkName, number)
	return nil
}

func indexKey(l *DeadLetter) []byte { return append(key64(l.Number), l.Sink...) }

// writeLetter stores l under a new id, or finds the one that it has already: a
// crash came after the burial and before the acknowledgement was durable.
func writeLetter(tx *bolt.Tx, l *DeadLetter, data []byte) error {
	index, letters := tx.Bucket(bucketIndex), tx.Bucket(bucketLetters)
	if known := index.Get(indexKey(l)); len(known) == 8 {
		l.ID = binary.BigEndian.Uint64(known)
		return nil
	}
	id, err := letters.NextSequence()
	if err != nil {
		return err
	}
	l.ID = id
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return errors.Join(
		put(letters, key64(id), text),
		putAlone(tx.Bucket(bucketBytes), key64(id), data),
		index.Put(indexKey(l), key64(id)))
}

// deadRoom drops the oldest dead letters until need bytes more fit their share
// of the bound.
func (s *Spool) deadRoom(need int64) error {
	for {
		s.mu.Lock()
		over := s.dead.count > 0 && s.dead.used+need > s.o.MaxBytes/deadShare
		s.mu.Unlock()
		if !over {
			return nil
		}
		var oldest DeadLetter
		err := s.deadView(func(tx *bolt.Tx) error {
			k, v := tx.Bucket(bucketLetters).Cursor().First()
			oldest, _ = readLetter(k, v)
			return nil
		})
		if err != nil {
			return s.failed("dead letters", need, err)
		}
		if err := s.dropLetter(&oldest, CauseEvicted); err != nil {
			return err
		}
		s.log.Error("the dead letters have taken their share of the bound; the oldest is declared lost",
			"id", oldest.ID, "sink", oldest.Sink, "stream", oldest.Stream, "seq", oldest.Seq, "samples", oldest.Count)
	}
}

// dropLetter declares a letter lost, then removes it.
func (s *Spool) dropLetter(l *DeadLetter, cause Cause) error {
	err := s.store("drop dead letter", 0, func() *change {
		c := s.newChange()
		s.addDeadLoss(c, l, cause)
		return c
	})
	if err != nil {
		return err
	}
	return s.removeLetter(l.ID)
}

func (s *Spool) removeLetter(id uint64) error {
	err := s.deadUpdate(func(tx *bolt.Tx) error {
		letters := tx.Bucket(bucketLetters)
		l, ok := readLetter(key64(id), letters.Get(key64(id)))
		if !ok {
			return nil // it is removed already
		}
		return errors.Join(letters.Delete(key64(id)), tx.Bucket(bucketBytes).DeleteBucket(key64(id)), tx.Bucket(bucketIndex).Delete(indexKey(&l)))
	})
	if err != nil {
		return s.failed("remove dead letter", 0, err)
	}
	return nil
}

// removeDeclaredDead finishes removals that a crash interrupted.
func (s *Spool) removeDeclaredDead() error {
	s.mu.Lock()
	losses, count := slices.Clone(s.losses), s.dead.count
	s.mu.Unlock()
	for i := range losses {
		if losses[i].Dead == 0 || losses[i].Dead == allDead || count == 0 {
			continue
		}
		if err := s.removeLetter(losses[i].Dead); err != nil {
			return err
		}
	}
	return nil
}

// Dead lists the dead letters, oldest first, without their bytes.
func (s *Spool) Dead() (out []DeadLetter, err error) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	err = s.deadView(func(tx *bolt.Tx) error {
		return eachLetter(tx, s.deadPath(), func(l *DeadLetter) { out = append(out, *l) })
	})
	if err != nil {
		return nil, fmt.Errorf("dead letters: %w", err)
	}
	return out, nil
}

// PeekDead returns a dead letter as the block it was, with bytes of its own.
func (s *Spool) PeekDead(id uint64) (Block, error) {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	_, b, err := s.letter(id)
	return b, err
}

func (s *Spool) letter(id uint64) (l DeadLetter, b Block, err error) {
	found := false
	err = s.deadView(func(tx *bolt.Tx) error {
		if l, found = readLetter(key64(id), tx.Bucket(bucketLetters).Get(key64(id))); !found {
			return nil
		}
		var data []byte
		if bytes := tx.Bucket(bucketBytes).Bucket(key64(id)); bytes != nil {
			data = bytes.Get(keyData)
		}
		if len(data) != l.Bytes || dataChecksum(data) != l.CRC {
			return &corruptError{path: s.deadPath(), why: fmt.Sprintf("dead letter %d does not match its checksum", id)}
		}
		b = Block{Number: l.Number, Stream: l.Stream, Seq: l.Seq, Count: l.Count, First: l.First, Last: l.Last, Data: slices.Clone(data)}
		return nil
	})
	if err == nil && !found {
		err = &NotFoundError{What: "dead letter", Number: id}
	}
	return l, b, err
}

// DropDead removes a dead letter for good; its samples are declared lost to
// its sink.
func (s *Spool) DropDead(id uint64) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	l, _, err := s.letter(id)
	var corrupt *corruptError
	if err != nil && !errors.As(err, &corrupt) {
		return err
	}
	return s.dropLetter(&l, CauseRejected)
}

// RetryDead puts a dead letter back, the same bytes under a new number, for
// the sink that refused it alone. A crash may leave the letter beside the
// block; sending it twice changes nothing, since its identity is in its bytes.
func (s *Spool) RetryDead(id uint64) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	l, b, err := s.letter(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	known := s.sinks[l.Sink] != nil
	s.mu.Unlock()
	if !known {
		return fmt.Errorf("dead letter %d is for sink %q, which the spool does not know any more: drop it, or configure the sink again", id, l.Sink)
	}
	err = s.storeIn(ordinary, "retry dead letter", pages(int64(len(b.Data))), func() *change {
		c := s.newChange()
		b.Number = c.counters.next
		c.counters.next++
		c.blocks, c.only = []Block{b}, l.Sink
		s.mu.Lock()
		if s.isEarlier(l.Number) {
			c.retried = slices.Clone(s.retried).add(b.Number, b.Number)
		}
		c.acks = s.acksBut(l.Sink, b.Number)
		s.mu.Unlock()
		if s.thins { // it was handed out before
			s.offerWith(c, span{b.Number, b.Number})
		}
		return c
	})
	if err != nil {
		return err
	}
	return s.removeLetter(id)
}

// acksBut encodes every sink's acknowledgements with n added for all but one.
func (s *Spool) acksBut(only string, n uint64) (out []ackValue) {
	for name, k := range s.sinks {
		acked := k.acked
		if name != only {
			acked = slices.Clone(acked).add(n, n)
		}
		out = append(out, ackValue{sink: name, value: acked.append(nil), version: k.version})
	}
	return out
}
