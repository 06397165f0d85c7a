package objects

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// TestOpen reads from any place, over the edges of pieces.
func TestOpen(t *testing.T) {
	data := make([]byte, (pieces+2)*pieceBytes+77)
	for i := range data {
		data[i] = byte(i * 13 >> 4)
	}
	all := places(t)
	all["wrapped"] = struct{ Place }{folder(t.TempDir())}
	for where, p := range all {
		if _, err := Open(t.Context(), p, "none"); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", where, err)
		}
		if err := p.Put(t.Context(), "a/b", data); err != nil {
			t.Fatal(err)
		}
		o, err := Open(t.Context(), p, "a/b")
		if err != nil || o.Size != int64(len(data)) {
			t.Fatalf("%s: %v", where, err)
		}
		for _, c := range []struct{ at, n int }{{0, 1}, {pieceBytes - 5, 10}, {len(data) - 3, 3}, {3, pieceBytes * 2}, {pieceBytes * pieces, pieceBytes + 1}, {0, 100}} {
			got := make([]byte, c.n)
			n, err := o.ReadAt(got, int64(c.at))
			if err != nil && !errors.Is(err, io.EOF) || n != c.n || !bytes.Equal(got, data[c.at:c.at+c.n]) {
				t.Errorf("%s: %d bytes at %d: %d, %v", where, c.n, c.at, n, err)
			}
		}
		got := make([]byte, 10)
		if n, err := o.ReadAt(got, int64(len(data))-4); n != 4 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: beyond the end: %d, %v", where, n, err)
		}
		if r, ok := o.ReaderAt.(*ranges); ok && (len(r.have) > pieces || len(r.age) != len(r.have)) {
			t.Errorf("%d pieces are kept", len(r.have))
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}
