package format

import (
	"io"

	"millrace/cloud/lake"
)

// parquetWriter writes the archive's form of samples. Rows come by tag, and for
// each tag by time.
type parquetWriter struct{ w *lake.Writer }

func newParquet(w io.Writer) *parquetWriter { return &parquetWriter{lake.NewWriter(w)} }

// Sample implements Writer.
func (p *parquetWriter) Sample(r *Row) error {
	return p.w.Write(&lake.Row{Sample: r.Sample, Gateway: r.Gateway, Stream: r.Stream})
}

// Gap implements Writer; the archive has gaps in files of their own.
func (*parquetWriter) Gap(*Gap) error { return nil }

// Close implements Writer.
func (p *parquetWriter) Close() error { return p.w.Close() }
