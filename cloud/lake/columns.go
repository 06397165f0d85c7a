package lake

import (
	"errors"
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
)

// The places of the columns of samples.
const (
	columnTag = iota
	columnTime
	columnTimeNanos
	columnGatewayTime
	columnGatewayNanos
	columnKind
	columnValue
	columnInteger
	columnText
	columnQuality
	columnGateway
	columnStream
	columnProducer
	columnSeq
	columns
)

// joinGap is how many rows that are not wanted are read rather than passed over.
const joinGap = batchRows

// span are rows of a row group, the last one excluded.
type span struct{ from, to int64 }

// column reads one column of a row group from any row on.
type column struct {
	values parquet.ColumnChunkValueReader
	at     int64 // the row that is read next
	buf    []parquet.Value
}

func newColumn(group parquet.RowGroup, i int) *column {
	return &column{values: parquet.NewColumnChunkValueReader(group.ColumnChunks()[i]), buf: make([]parquet.Value, batchRows)}
}

// read hands over the values of the rows of s. A value is overwritten when fn
// returns.
func (c *column) read(s span, fn func(i int, v *parquet.Value)) error {
	if c.at != s.from {
		if err := c.values.SeekToRow(s.from); err != nil {
			return err
		}
		c.at = s.from
	}
	for c.at < s.to {
		n, err := c.values.ReadValues(c.buf[:min(int64(len(c.buf)), s.to-c.at)])
		for i := range n {
			fn(int(c.at-s.from)+i, &c.buf[i])
		}
		c.at += int64(n)
		if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// groupReader reads rows of one row group.
type groupReader struct {
	group   parquet.RowGroup
	columns [columns]*column
	rows    []record
	cells   []cells
	// Names repeat from row to row, and are made a string where they change.
	tag, gateway, stream, producer string
}

func newGroupReader(group parquet.RowGroup) *groupReader {
	g := &groupReader{group: group, rows: make([]record, batchRows), cells: make([]cells, batchRows)}
	for i := range g.columns {
		g.columns[i] = newColumn(group, i)
	}
	return g
}

func (g *groupReader) close() error {
	var err error
	for _, c := range g.columns {
		err = errors.Join(err, c.values.Close())
	}
	return err
}

// spans are the rows that a filter may take.
func (g *groupReader) spans(f *Filter) ([]span, error) {
	all := span{0, g.group.NumRows()}
	if len(f.Tags) == 0 && f.From == 0 && f.To == 0 {
		return []span{all}, nil
	}
	tags := map[string]bool{}
	for _, tag := range f.Tags {
		tags[tag] = true
	}
	var out []span
	add := func(row int64) {
		if n := len(out); n > 0 && row-out[n-1].to < joinGap {
			out[n-1].to = row + 1
			return
		}
		out = append(out, span{row, row + 1})
	}
	wanted := make([]bool, batchRows)
	for from := int64(0); from < all.to; from += batchRows {
		part := span{from, min(from+batchRows, all.to)}
		err := g.columns[columnTag].read(part, func(i int, v *parquet.Value) {
			wanted[i] = len(tags) == 0 || tags[string(v.ByteArray())]
		})
		if err != nil {
			return nil, err
		}
		err = g.columns[columnTime].read(part, func(i int, v *parquet.Value) {
			// The rest of a µs is seen to when the row is read.
			if wanted[i] && f.inMicros(v.Int64(), v.Int64()) {
				add(from + int64(i))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// read calls fn for the rows of a span. The record is overwritten by the next.
func (g *groupReader) read(s span, fn func(*record) error) error {
	for from := s.from; from < s.to; from += batchRows {
		part := span{from, min(from+batchRows, s.to)}
		for c := range g.columns {
			if err := g.columns[c].read(part, func(i int, v *parquet.Value) { g.set(c, i, v) }); err != nil {
				return err
			}
		}
		for i := range int(part.to - part.from) {
			if err := fn(&g.rows[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// set sets one cell of the i-th row of the batch.
func (g *groupReader) set(column, i int, v *parquet.Value) {
	r, c := &g.rows[i], &g.cells[i]
	switch column {
	case columnTag:
		r.Tag = repeated(&g.tag, v)
	case columnTime:
		r.Time = v.Int64()
	case columnTimeNanos:
		r.TimeNanos = v.Int32()
	case columnGatewayTime:
		r.GatewayTime = number(&c.gatewayTime, v)
	case columnGatewayNanos:
		if r.GatewayNanos = nil; !v.IsNull() {
			c.gatewayNanos = v.Int32()
			r.GatewayNanos = &c.gatewayNanos
		}
	case columnKind:
		r.Kind = v.Int32()
	case columnValue:
		if r.Value = nil; !v.IsNull() {
			c.value = v.Double()
			r.Value = &c.value
		}
	case columnInteger:
		r.Integer = number(&c.integer, v)
	case columnText:
		if r.Text = nil; !v.IsNull() {
			c.text = string(v.ByteArray())
			r.Text = &c.text
		}
	case columnQuality:
		r.Quality = v.Int64()
	case columnGateway:
		r.Gateway = repeated(&g.gateway, v)
	case columnStream:
		r.Stream = repeated(&g.stream, v)
	case columnProducer:
		if r.Producer = nil; !v.IsNull() {
			c.producer = repeated(&g.producer, v)
			r.Producer = &c.producer
		}
	case columnSeq:
		r.Seq = number(&c.seq, v)
	}
}

// repeated is a value's text, the last one where it is the same.
func repeated(last *string, v *parquet.Value) string {
	if b := v.ByteArray(); string(b) != *last {
		*last = string(b)
	}
	return *last
}

// number is a value's integer, at cell, nil where it is null.
func number(cell *int64, v *parquet.Value) *int64 {
	if v.IsNull() {
		return nil
	}
	*cell = v.Int64()
	return cell
}

// readSamples calls fn for the rows of a row group that a filter may take.
func readSamples(group parquet.RowGroup, f *Filter, fn func(*record) error) (err error) {
	g := newGroupReader(group)
	defer func() { err = errors.Join(err, g.close()) }()
	spans, err := g.spans(f)
	if err != nil {
		return unreadable(err)
	}
	for _, s := range spans {
		var own error
		err := g.read(s, func(r *record) error {
			own = fn(r)
			return own
		})
		if own != nil {
			return own
		}
		if err != nil {
			return unreadable(err)
		}
	}
	return nil
}

func unreadable(err error) error { return fmt.Errorf("it cannot be read to its end: %w", err) }
