package archive

import (
	"bufio"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"millrace/cloud/lake"
	"millrace/sample"
)

// chunkBytes is how many bytes of rows are compressed at once. Each run that is
// merged has as many in memory, and those of the disk before them.
const (
	chunkBytes = 64 << 10
	maxChunk   = 64 << 20 // one row may be longer than a chunk, but no text than this
	readBuffer = 16 << 10
)

// What of a row differs from the one before it in the chunk.
const (
	otherTag = 1 << iota
	otherWho
	hasSource
	hasQuality
	hasSeq
	otherProducer
)

func floatOf(bits uint64) float64 { return math.Float64frombits(bits) }

// spillCodec packs rows into chunks, for one goroutine.
type spillCodec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newSpillCodec() (*spillCodec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(2*maxChunk))
	if err != nil {
		return nil, err
	}
	return &spillCodec{enc: enc, dec: dec}, nil
}

func (c *spillCodec) close() error {
	c.dec.Close()
	return c.enc.Close()
}

// write writes all rows of a source to a new run, and returns its file. The run
// is a sequence of chunks, each with its length before it.
func (s *sorter) write(from rowSource) (_ string, err error) {
	name := filepath.Join(s.dir, fmt.Sprintf("run-%06d", s.made))
	s.made++
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriterSize(f, 256<<10)
	var raw, packed []byte
	var last lake.Row
	flush := func() error {
		if len(raw) == 0 {
			return nil
		}
		packed = s.codec.enc.EncodeAll(raw, append(packed[:0], 0, 0, 0, 0))
		binary.BigEndian.PutUint32(packed, uint32(len(packed)-4))
		raw, last = raw[:0], lake.Row{}
		_, err := out.Write(packed)
		return err
	}
	for {
		r, err := from.next()
		if errors.Is(err, io.EOF) {
			return name, errors.Join(flush(), out.Flush())
		}
		if err != nil {
			return "", err
		}
		raw = appendRow(raw, r, &last)
		last = *r
		if len(raw) >= chunkBytes {
			if err := flush(); err != nil {
				return "", err
			}
		}
	}
}

func appendText(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}

// appendRow packs a row, by what differs from the last one.
func appendRow(dst []byte, r, last *lake.Row) []byte {
	flags := byte(0)
	if r.Tag != last.Tag {
		flags |= otherTag
	}
	if r.Gateway != last.Gateway || r.Stream != last.Stream {
		flags |= otherWho
	}
	if r.SourceTime != 0 {
		flags |= hasSource
	}
	if r.Quality != 0 {
		flags |= hasQuality
	}
	if r.Seq != 0 {
		flags |= hasSeq
	}
	if r.Producer != last.Producer {
		flags |= otherProducer
	}
	dst = append(dst, flags, byte(r.Value.Kind()))
	if flags&otherTag != 0 {
		dst = appendText(dst, r.Tag)
	}
	if flags&otherWho != 0 {
		dst = appendText(appendText(dst, r.Gateway), r.Stream)
	}
	dst = binary.AppendVarint(dst, r.Time-last.Time)
	if flags&hasSource != 0 {
		dst = binary.AppendVarint(dst, r.SourceTime-r.Time)
	}
	if flags&hasQuality != 0 {
		dst = binary.AppendUvarint(dst, uint64(r.Quality))
	}
	if flags&otherProducer != 0 {
		dst = appendText(dst, r.Producer)
	}
	if flags&hasSeq != 0 {
		dst = binary.AppendUvarint(dst, r.Seq)
	}
	switch r.Value.Kind() {
	case sample.Float64, sample.Int64, sample.Bool:
		dst = binary.LittleEndian.AppendUint64(dst, r.Value.Bits())
	case sample.String:
		dst = appendText(dst, r.Value.Str())
	case sample.Null:
	}
	return dst
}

// runReader is the source of a run.
type runReader struct {
	f      *os.File
	in     *bufio.Reader
	dec    *zstd.Decoder
	tags   map[string]string // one text for each tag, whatever run it is in
	packed []byte
	raw    []byte
	at     int
	row    lake.Row
}

func (s *sorter) openRun(name string, tags map[string]string) (*runReader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &runReader{f: f, in: bufio.NewReaderSize(f, readBuffer), dec: s.codec.dec, tags: tags}, nil
}

func (r *runReader) close() error { return r.f.Close() }

// chunk reads the next one. io.EOF says that there is none.
func (r *runReader) chunk() error {
	var head [4]byte
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > 2*maxChunk {
		return fmt.Errorf("a chunk of %d bytes", n)
	}
	r.packed = slices.Grow(r.packed[:0], n)[:n]
	if _, err := io.ReadFull(r.in, r.packed); err != nil {
		return err
	}
	var err error
	r.raw, err = r.dec.DecodeAll(r.packed, r.raw[:0])
	r.at, r.row = 0, lake.Row{}
	return err
}

// next implements rowSource.
func (r *runReader) next() (*lake.Row, error) {
	if r.at == len(r.raw) {
		if err := r.chunk(); errors.Is(err, io.EOF) {
			return nil, io.EOF
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", r.f.Name(), err)
		}
	}
	if !r.decode() {
		return nil, fmt.Errorf("%s is damaged", r.f.Name())
	}
	return &r.row, nil
}

// decode unpacks the row at r.at.
func (r *runReader) decode() bool {
	p := unpacker{b: r.raw[r.at:], ok: true}
	head := p.bytes(2)
	if !p.ok {
		return false
	}
	flags, kind := head[0], sample.Kind(head[1])
	o := &r.row
	if flags&otherTag != 0 {
		o.Tag = intern(r.tags, p.text())
	}
	if flags&otherWho != 0 {
		o.Gateway = string(p.text())
		o.Stream = string(p.text())
	}
	o.Time += p.varint()
	o.SourceTime, o.Quality, o.Seq = 0, 0, 0
	if flags&hasSource != 0 {
		o.SourceTime = o.Time + p.varint()
	}
	if flags&hasQuality != 0 {
		o.Quality = sample.Quality(p.uvarint())
	}
	if flags&otherProducer != 0 {
		o.Producer = string(p.text())
	}
	if flags&hasSeq != 0 {
		o.Seq = p.uvarint()
	}
	switch kind {
	case sample.Float64, sample.Int64, sample.Bool:
		bits := p.bytes(8)
		if !p.ok {
			return false
		}
		o.Value = valueOf(kind, binary.LittleEndian.Uint64(bits), "")
	case sample.String:
		o.Value = sample.StringValue(string(p.text()))
	case sample.Null:
		o.Value = sample.Value{}
	}
	r.at = len(r.raw) - len(p.b)
	return p.ok
}

func intern(tags map[string]string, text []byte) string {
	if tag, ok := tags[string(text)]; ok {
		return tag
	}
	tag := string(text)
	tags[tag] = tag
	return tag
}

// unpacker reads from bytes. After the first that is missing it is not ok.
type unpacker struct {
	b  []byte
	ok bool
}

func (p *unpacker) bytes(n int) []byte {
	if n < 0 || n > len(p.b) {
		p.ok, p.b = false, nil
		return nil
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *unpacker) skip(n int) {
	if n <= 0 {
		p.ok, p.b = false, nil
		return
	}
	p.b = p.b[n:]
}

func (p *unpacker) varint() int64 {
	v, n := binary.Varint(p.b)
	p.skip(n)
	return v
}

func (p *unpacker) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	p.skip(n)
	return v
}

func (p *unpacker) text() []byte { return p.bytes(int(min(p.uvarint(), math.MaxInt32))) }

// merger is the source of several sources' rows, in order.
type merger struct {
	heads []head
	given bool // the first head's row was handed over, and is to be moved on
}

type head struct {
	row  *lake.Row
	from rowSource
}

func (s *sorter) openRuns(names []string) (*merger, error) {
	m := &merger{}
	tags := map[string]string{}
	for _, name := range names {
		r, err := s.openRun(name, tags)
		if err != nil {
			return nil, errors.Join(err, m.close())
		}
		if err := m.add(r); err != nil {
			return nil, errors.Join(err, m.close())
		}
	}
	return m, nil
}

// add takes a source in. One that is empty is closed.
func (m *merger) add(from rowSource) error {
	r, err := from.next()
	if errors.Is(err, io.EOF) {
		return from.close()
	}
	if err != nil {
		return errors.Join(err, from.close())
	}
	heap.Push(m, head{r, from})
	return nil
}

// next implements rowSource. The row handed over last is moved on only now.
func (m *merger) next() (*lake.Row, error) {
	if m.given {
		m.given = false
		r, err := m.heads[0].from.next()
		switch {
		case errors.Is(err, io.EOF):
			done := heap.Pop(m).(head)
			if err := done.from.close(); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		default:
			m.heads[0].row = r
			heap.Fix(m, 0)
		}
	}
	if len(m.heads) == 0 {
		return nil, io.EOF
	}
	m.given = true
	return m.heads[0].row, nil
}

func (m *merger) close() error {
	var err error
	for _, h := range m.heads {
		err = errors.Join(err, h.from.close())
	}
	m.heads = nil
	return err
}

// Len, Less, Swap, Push and Pop are those of a heap.
func (m *merger) Len() int           { return len(m.heads) }
func (m *merger) Less(i, j int) bool { return compareRows(m.heads[i].row, m.heads[j].row) < 0 }
func (m *merger) Swap(i, j int)      { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }
func (m *merger) Push(x any)         { m.heads = append(m.heads, x.(head)) }
func (m *merger) Pop() any {
	last := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return last
}

func removeAll(names []string) error {
	var err error
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
