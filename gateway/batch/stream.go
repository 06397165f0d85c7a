package batch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

const (
	systemStream = 0
	// maxOpenRows and maxRowBytes seal a batch whatever its packed size may turn
	// out to be.
	maxOpenRows = 60_000
	// maxHeldRows is what a batch that waits for the clock may have.
	maxHeldRows = 1_000_000
	maxRowBytes = 2 << 20
)

// stream is the open batch of up to tagsPerStream tags, and the stream's
// counts. The writer is guarded by Batcher.mu; what follows parts belongs to
// the goroutine that commits.
type stream struct {
	id     uint32
	name   string
	origin Class // as created; with the tag's class it decides who may join
	class  Class
	tags   []string
	// sources are those whose tags it carries, by name.
	sources []string

	w      block.PartWriter // rows since the last commit
	rows   int              // rows in all of the open batch, w's included
	bytes  int              // likewise
	opened int64            // monotonic clock when the batch got its first row, ns
	oldest int64            // monotonic clock of its oldest row, ns
	urgent bool             // holds alarms, which do not wait for the clock
	// policy is what the spool is to do where there is no room, demands what the
	// tags of this run ask for.
	policy  spool.Policy
	demands demands
	held    bool // waits for the clock, beyond its age or size
	// foreign batches have parts of another boot, from before the start.
	foreign bool
	// ratio is packed bytes per row byte of the last block.
	ratio float64

	parts    []openPart // committed, not sealed
	seq      uint64     // of the last block
	produced uint64     // samples in blocks so far, and those lost before
	lost     uint64
	thinned  uint64   // samples thinned out so far
	replaced replaced // sequences that thinned blocks stand for
}

type openPart struct {
	data        []byte
	count       int
	first, last int64
	clock       block.PartClock
}

// StreamName is the name of a stream in block headers and listings.
func StreamName(id uint32) string {
	if id == systemStream {
		return ledger.SystemStream
	}
	return fmt.Sprintf("s%04d", id)
}

func newStream(id uint32, class Class) *stream {
	return &stream{id: id, name: StreamName(id), origin: class, class: class, ratio: 0.5}
}

// add appends one row and returns by how many bytes the batch grew. Callers hold
// b.mu.
func (b *Batcher) add(s *stream, index int, v *sample.Sample) int {
	if s.rows == 0 {
		s.opened = int64(b.keep.tl.SinceBoot())
		s.oldest = s.opened
	}
	if s.w.Count() == 0 {
		s.w.SetClock(b.keep.partClock())
	}
	s.oldest = min(s.oldest, v.Time-s.w.Clock().Mono)
	before := len(s.w.Bytes())
	s.w.Add(index, v)
	n := len(s.w.Bytes()) - before
	s.rows++
	s.bytes += n
	return n
}

// full reports whether the batch has reached its size.
func (s *stream) full() bool {
	if s.held {
		return s.rows >= maxHeldRows
	}
	return s.rows >= maxOpenRows || s.bytes >= maxRowBytes ||
		float64(s.bytes)*s.ratio >= float64(s.class.MaxBytes)
}

// due reports whether the batch is to be sealed, by the monotonic clock.
func (s *stream) due(mono int64) bool {
	return s.rows > 0 && (s.full() || mono-s.opened >= int64(s.class.MaxAge))
}

// hold reports whether the batch is to wait for the clock rather than be sealed.
func (s *stream) hold(k *keeper, mono int64) bool {
	return k.holding && !s.urgent && !s.foreign && s.rows < maxHeldRows && mono-s.opened < int64(k.hold)
}

// take returns the rows since the last commit and starts the next part.
func (s *stream) take() (openPart, bool) {
	if s.w.Count() == 0 {
		return openPart{}, false
	}
	rows := s.w.Bytes()
	p := openPart{data: append([]byte(nil), rows...), count: s.w.Count(), first: s.w.First(), last: s.w.Last(), clock: s.w.Clock()}
	if cap(rows) > 64<<10 {
		rows = nil // a burst does not hold memory for ever
	}
	s.w.Reset(rows[:0])
	return p, true
}

// streamMeta is a stream's state in the spool.
type streamMeta struct {
	Class    Class    `json:"class"`
	Seq      uint64   `json:"seq"`
	Produced uint64   `json:"produced"`
	Lost     uint64   `json:"lost"`
	Thinned  uint64   `json:"thinned,omitempty"`
	Replaced replaced `json:"replaced,omitempty"`
}

func (s *stream) meta() spool.KV {
	text, err := json.Marshal(streamMeta{Class: s.origin, Seq: s.seq, Produced: s.produced, Lost: s.lost, Thinned: s.thinned, Replaced: s.replaced})
	if err != nil {
		panic("BUG: stream state does not encode: " + err.Error())
	}
	return spool.KV{Key: fmt.Sprintf("stream/%08x", s.id), Value: text}
}

func tagMeta(name string, at slot) spool.KV {
	v := binary.BigEndian.AppendUint32(nil, at.stream)
	return spool.KV{Key: "tag/" + name, Value: binary.BigEndian.AppendUint16(v, at.index)}
}
