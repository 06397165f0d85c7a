package batch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/spool"
)

const (
	systemStream = 0
	// maxOpenRows and maxRowBytes seal a batch whatever its packed size may turn
	// out to be.
	maxOpenRows = 60_000
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

	w      block.PartWriter // rows since the last commit
	rows   int              // rows in all of the open batch, w's included
	bytes  int              // likewise
	opened time.Time        // when the batch got its first row
	// ratio is packed bytes per row byte of the last block.
	ratio float64
	// recovered batches are those that the run before left open.
	recovered bool

	parts    []openPart // committed, not sealed
	seq      uint64     // of the last block
	produced uint64     // samples in blocks so far, and those lost before
	lost     uint64
}

type openPart struct {
	data        []byte
	count       int
	first, last int64
}

// StreamName is the name of a stream in block headers and listings.
func StreamName(id uint32) string {
	if id == systemStream {
		return "sys"
	}
	return fmt.Sprintf("s%04d", id)
}

func newStream(id uint32, class Class) *stream {
	return &stream{id: id, name: StreamName(id), origin: class, class: class, ratio: 0.5}
}

// add appends one row and returns by how many bytes the batch grew.
func (s *stream) add(index int, v *sample.Sample) int {
	if s.rows == 0 {
		s.opened = time.Now()
	}
	before := len(s.w.Bytes())
	s.w.Add(index, v)
	n := len(s.w.Bytes()) - before
	s.rows++
	s.bytes += n
	return n
}

// full reports whether the batch has reached its size.
func (s *stream) full() bool {
	return s.rows >= maxOpenRows || s.bytes >= maxRowBytes ||
		float64(s.bytes)*s.ratio >= float64(s.class.MaxBytes)
}

// due reports whether the batch is to be sealed.
func (s *stream) due(now time.Time) bool {
	return s.rows > 0 && (s.full() || now.Sub(s.opened) >= s.class.MaxAge)
}

// take returns the rows since the last commit and starts the next part.
func (s *stream) take() (openPart, bool) {
	if s.w.Count() == 0 {
		return openPart{}, false
	}
	rows := s.w.Bytes()
	p := openPart{data: append([]byte(nil), rows...), count: s.w.Count(), first: s.w.First(), last: s.w.Last()}
	if cap(rows) > 64<<10 {
		rows = nil // a burst does not hold memory for ever
	}
	s.w.Reset(rows[:0])
	return p, true
}

// streamMeta is a stream's state in the spool.
type streamMeta struct {
	Class    Class  `json:"class"`
	Seq      uint64 `json:"seq"`
	Produced uint64 `json:"produced"`
	Lost     uint64 `json:"lost"`
}

func (s *stream) meta() spool.KV {
	text, err := json.Marshal(streamMeta{Class: s.origin, Seq: s.seq, Produced: s.produced, Lost: s.lost})
	if err != nil {
		panic("BUG: stream state does not encode: " + err.Error())
	}
	return spool.KV{Key: fmt.Sprintf("stream/%08x", s.id), Value: text}
}

func tagMeta(name string, at slot) spool.KV {
	v := binary.BigEndian.AppendUint32(nil, at.stream)
	return spool.KV{Key: "tag/" + name, Value: binary.BigEndian.AppendUint16(v, at.index)}
}
