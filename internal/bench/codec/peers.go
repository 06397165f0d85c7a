package codec

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	pzstd "github.com/parquet-go/parquet-go/compress/zstd"

	"millrace/sample"
)

// peers is what other formats need for the same samples.
type peers struct {
	results []Result
	parquet float64 // B a sample, of the best layout
}

// Rows of the two Parquet layouts that are usual for samples in long form.
type (
	deltaRow struct {
		Tag   string  `parquet:"tag,dict,zstd"`
		Time  int64   `parquet:"time,delta,zstd"`
		Value float64 `parquet:"value,zstd"`
	}
	dictRow struct {
		Tag   string  `parquet:"tag,dict,zstd"`
		Time  int64   `parquet:"time,dict,zstd"`
		Value float64 `parquet:"value,dict,zstd"`
	}
)

// compareWith measures JSON Lines with zstd in pieces of n samples, and Parquet
// with zstd in such pieces and, which is kinder to it, in one file of all.
func compareWith(name string, tags []string, rows []row, n int) (peers, error) {
	var p peers
	count := float64(len(rows))
	text, err := jsonSize(rows, n)
	if err != nil {
		return p, err
	}
	pieces, err := parquetSize(rows, n)
	if err != nil {
		return p, err
	}
	whole, err := parquetSize(rows, len(rows))
	if err != nil {
		return p, err
	}
	p.parquet = float64(min(pieces, whole)) / count
	p.results = []Result{
		{name + ", JSON Lines with zstd", float64(text) / count, "B/sample", 0, fmt.Sprintf("pieces of %d", n)},
		{name + ", Parquet with zstd", float64(pieces) / count, "B/sample", 0, fmt.Sprintf("files of %d, the better of two layouts", n)},
		{name + ", Parquet with zstd, one file", float64(whole) / count, "B/sample", 0, fmt.Sprintf("all %d of %d tags", len(rows), len(tags))},
	}
	return p, nil
}

func jsonSize(rows []row, n int) (int, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return 0, err
	}
	size := 0
	var text, packed []byte
	for from := 0; from < len(rows); from += n {
		text = text[:0]
		for i := range rows[from:min(from+n, len(rows))] {
			text = append(sample.AppendJSONLine(text, &rows[from+i].s), '\n')
		}
		packed = z.EncodeAll(text, packed[:0])
		size += len(packed)
	}
	return size, z.Close()
}

// parquetSize is the size of files of n samples each, sorted by tag, in the
// layout that suits them better.
func parquetSize(rows []row, n int) (int, error) {
	delta, dict := 0, 0
	for from := 0; from < len(rows); from += n {
		part := slices.Clone(rows[from:min(from+n, len(rows))])
		slices.SortStableFunc(part, func(a, b row) int { return cmp.Compare(a.tag, b.tag) })
		d, err := parquetFile(part, func(s *sample.Sample) deltaRow { return deltaRow{s.Tag, s.Time / 1e6, s.Value.Float()} })
		if err != nil {
			return 0, err
		}
		delta += d
		d, err = parquetFile(part, func(s *sample.Sample) dictRow { return dictRow{s.Tag, s.Time / 1e6, s.Value.Float()} })
		if err != nil {
			return 0, err
		}
		dict += d
	}
	return min(delta, dict), nil
}

func parquetFile[T any](rows []row, as func(*sample.Sample) T) (int, error) {
	var file bytes.Buffer
	w := parquet.NewGenericWriter[T](&file, parquet.Compression(&pzstd.Codec{Level: pzstd.SpeedBetterCompression}))
	out := make([]T, len(rows))
	for i := range rows {
		out[i] = as(&rows[i].s)
	}
	if _, err := w.Write(out); err != nil {
		return 0, fmt.Errorf("parquet: %w", err)
	}
	if err := w.Close(); err != nil {
		return 0, fmt.Errorf("parquet: %w", err)
	}
	return file.Len(), nil
}
