package lake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// Filter says which rows are read. The zero Filter takes all.
type Filter struct {
	Tags []string // full names; none takes all
	// From and To are ns since the Unix epoch, of the primary time: from From on
	// and before To. 0 is no bound.
	From, To int64
}

// takes reports whether a row of that tag and time is read.
func (f *Filter) takes(tag string, ns int64) bool {
	if f.From != 0 && ns < f.From || f.To != 0 && ns >= f.To {
		return false
	}
	return len(f.Tags) == 0 || slices.Contains(f.Tags, tag)
}

// inMicros reports whether a time from least to most, in whole µs, may be read.
func (f *Filter) inMicros(least, most int64) bool {
	from, _ := split(f.From)
	to, _ := split(f.To)
	return (f.From == 0 || most >= from) && (f.To == 0 || least <= to)
}

// overlaps reports whether rows between these bounds may be read.
func (f *Filter) overlaps(leastTag, mostTag string, least, most int64) bool {
	if !f.inMicros(least, most) {
		return false
	}
	return len(f.Tags) == 0 || slices.ContainsFunc(f.Tags, func(tag string) bool { return tag >= leastTag && tag <= mostTag })
}

// Read calls fn for the rows of a file of samples that a filter takes, in the
// file's order. The row is overwritten by the next; its strings may be kept. Of row
// groups whose tags and times lie outside nothing is read, and of the others tags,
// times and the pages that hold what is taken. An error of fn ends it
// and is returned.
func Read(r io.ReaderAt, size int64, f Filter, fn func(*Row) error) error {
	file, err := open(r, size, parquet.SchemaOf(record{}))
	if err != nil {
		return err
	}
	var row Row
	for _, group := range file.RowGroups() {
		if !f.mayHold(group) {
			continue
		}
		err := readSamples(group, &f, func(rec *record) error {
			if !f.takes(rec.Tag, rec.Time*1000+int64(rec.TimeNanos)) {
				return nil
			}
			if err := rec.get(&row); err != nil {
				return err
			}
			return fn(&row)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Info is what a file of samples says of itself.
type Info struct {
	Rows  int64
	Notes map[string]string // see Writer.Note
}

// ReadInfo reads it from the file's end.
func ReadInfo(r io.ReaderAt, size int64) (Info, error) {
	file, err := open(r, size, parquet.SchemaOf(record{}))
	if err != nil {
		return Info{}, err
	}
	info := Info{Rows: file.NumRows(), Notes: map[string]string{}}
	for _, kv := range file.Metadata().KeyValueMetadata {
		info.Notes[kv.Key] = kv.Value
	}
	return info, nil
}

// Gateways are those that delivered the samples of a file, sorted. Where each row
// group is of one gateway, only the file's end is read.
func Gateways(r io.ReaderAt, size int64) ([]string, error) {
	file, err := open(r, size, parquet.SchemaOf(record{}))
	if err != nil {
		return nil, err
	}
	var out []string
	add := func(name string) {
		if at, there := slices.BinarySearch(out, name); !there {
			out = slices.Insert(out, at, name)
		}
	}
	for _, group := range file.RowGroups() {
		// A longer bound may be cut.
		if b, ok := bounds(group.ColumnChunks()[columnGateway]); ok && len(b[0].ByteArray()) < boundBytes && bytes.Equal(b[0].ByteArray(), b[1].ByteArray()) {
			add(string(b[0].ByteArray()))
			continue
		}
		c := newColumn(group, columnGateway)
		last := ""
		err := c.read(span{0, group.NumRows()}, func(i int, v *parquet.Value) {
			before := last
			if name := repeated(&last, v); i == 0 || name != before {
				add(name)
			}
		})
		if err = errors.Join(err, c.values.Close()); err != nil {
			return nil, unreadable(err)
		}
	}
	return out, nil
}

// open opens a file and holds its schema against ours.
func open(r io.ReaderAt, size int64, want *parquet.Schema) (*parquet.File, error) {
	file, err := parquet.OpenFile(r, size, parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, fmt.Errorf("it is no whole Parquet file: %w", err)
	}
	have, wanted := file.Schema().Columns(), want.Columns()
	if !slices.EqualFunc(have, wanted, slices.Equal[[]string]) {
		return nil, fmt.Errorf("its columns are %v, and not %v", have, wanted)
	}
	return file, nil
}

// mayHold reports whether a row group may hold rows that a filter takes, by the
// bounds that it states. One that states none may.
func (f *Filter) mayHold(group parquet.RowGroup) bool {
	columns := group.ColumnChunks()
	tags, ok1 := bounds(columns[columnTag])
	times, ok2 := bounds(columns[columnTime])
	if !ok1 || !ok2 {
		return true
	}
	return f.overlaps(string(tags[0].ByteArray()), string(tags[1].ByteArray()), times[0].Int64(), times[1].Int64())
}

// bounds are the least and the greatest value of a column of a row group.
func bounds(c parquet.ColumnChunk) (out [2]parquet.Value, ok bool) {
	chunk, ok := c.(*parquet.FileColumnChunk)
	if !ok {
		return out, false
	}
	out[0], out[1], ok = chunk.Bounds()
	return out, ok
}

// readGroup calls fn for each row of a row group. The record is overwritten by
// the next.
func readGroup[T any](group parquet.RowGroup, fn func(*T) error) (err error) {
	rows := parquet.NewGenericRowGroupReader[T](group)
	defer func() { err = errors.Join(err, rows.Close()) }()
	batch := make([]T, batchRows)
	for {
		clear(batch) // where a cell is null its pointer is left as it was
		n, err := rows.Read(batch)
		for i := range n {
			if err := fn(&batch[i]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return unreadable(err)
		}
	}
}
