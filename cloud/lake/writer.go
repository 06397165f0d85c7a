package lake

import (
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	pzstd "github.com/parquet-go/parquet-go/compress/zstd"
)

// A row group is closed at whichever comes first. Spark splits its work and
// Redshift its slices by row groups; a reader prunes them by tag and time.
const (
	groupRows  = 1 << 20
	groupBytes = 128 << 20 // of values, before encoding
)

const (
	batchRows = 1024
	// pageBytes is the size of a page's values before they are compressed. The
	// times of tags that are polled together are the same, tag after tag: zstd
	// finds that where they are in one page.
	pageBytes = 4 << 20
	// boundBytes is the length of the bounds that a file states of its texts; a
	// longer text is cut.
	boundBytes = 256
	// fixedBytes is what a row has beside its texts.
	fixedBytes = 80
)

// codec compresses each page.
func codec() *pzstd.Codec { return &pzstd.Codec{Level: zstd.SpeedDefault} }

// options are those of every file. Pages are of version 1, which each reader of
// Parquet knows; docs/adr/0025-parquet.md.
func options(more ...parquet.WriterOption) []parquet.WriterOption {
	return append([]parquet.WriterOption{
		parquet.Compression(codec()), parquet.DefaultEncoding(&parquet.Plain), parquet.DataPageVersion(1), parquet.PageBufferSize(pageBytes),
		parquet.CreatedBy("millrace-cloud", "1", ""), parquet.ColumnIndexSizeLimit(func([]string) int { return boundBytes }),
	}, more...)
}

// Writer writes one file of samples. It holds one row group in memory.
type Writer struct {
	w     *parquet.GenericWriter[record]
	batch []record
	cells []cells
	total int64 // rows
	group int64 // rows of the row group that is open
	size  int64 // its bytes, about
	most  int64 // groupRows
}

// NewWriter begins a file of samples.
func NewWriter(w io.Writer) *Writer { return newWriter(w, groupRows, pageBytes) }

// newWriter begins a file with row groups of that many rows, and pages of that
// many bytes.
func newWriter(w io.Writer, rows int64, page int) *Writer {
	return &Writer{
		// The bounds of value and time say nothing that a NaN does not upset, and
		// a reader takes them at their word.
		w: parquet.NewGenericWriter[record](w, options(
			parquet.PageBufferSize(page), parquet.SkipPageBounds("value"), parquet.SkipPageStatistics("value"), parquet.SkipPageBounds("text"),
			parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("tag"), parquet.Ascending("time"))))...),
		batch: make([]record, 0, batchRows),
		cells: make([]cells, batchRows),
		most:  rows,
	}
}

// Note keeps a text beside the rows, in the file's key-value metadata. It is
// called before Close.
func (w *Writer) Note(key, value string) { w.w.SetKeyValueMetadata(key, value) }

// Write adds a row. Rows come in the order of their tags' bytes, and in that of
// time within a tag. r may be changed afterwards. It fails for a row whose names
// are not UTF-8.
func (w *Writer) Write(r *Row) error {
	i := len(w.batch)
	w.batch = w.batch[:i+1]
	if err := w.batch[i].put(r, &w.cells[i]); err != nil {
		w.batch = w.batch[:i]
		return err
	}
	w.total++
	w.group++
	w.size += fixedBytes + int64(len(w.cells[i].text))
	if i+1 == batchRows || w.group == w.most || w.size >= groupBytes {
		return w.flush()
	}
	return nil
}

func (w *Writer) flush() error {
	if _, err := w.w.Write(w.batch); err != nil {
		return err
	}
	w.batch = w.batch[:0]
	if w.group >= w.most || w.size >= groupBytes {
		w.group, w.size = 0, 0
		return w.w.Flush()
	}
	return nil
}

// Flush ends the row group, so that all rows so far have gone to what is
// beneath. It is for who wants smaller ones than the writer makes by itself.
func (w *Writer) Flush() error {
	if err := w.flush(); err != nil || w.group == 0 {
		return err
	}
	w.group, w.size = 0, 0
	return w.w.Flush()
}

// Rows is how many rows were written.
func (w *Writer) Rows() int64 { return w.total }

// Close ends the file. It does not close what is beneath.
func (w *Writer) Close() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.w.Close()
}
