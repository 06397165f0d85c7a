package block

import (
	"fmt"
	"testing"

	"millrace/sample"
)

func FuzzDecode(f *testing.F) {
	e, _ := newCodec(f)
	for _, v := range vectors() {
		data := pack(f, e, v.tags, v.rows, v.h)
		f.Add(data)
		f.Add(bare(f, data))
	}
	_, d := newCodec(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 3+crcSize {
			data = reseal(data)
		}
		b, err := d.Decode(data)
		if err != nil {
			if !isOurs(err) {
				t.Fatal(err)
			}
			return
		}
		n := 0
		for range b.All() {
			n++
		}
		if n != b.Count {
			t.Fatalf("%d samples of %d", n, b.Count)
		}
	})
}

func FuzzReadPart(f *testing.F) {
	for _, v := range vectors() {
		var w PartWriter
		for i := range v.rows {
			w.Add(v.rows[i].tag, &v.rows[i].s)
		}
		f.Add(w.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var w PartWriter
		var rows []row
		err := ReadPart(data, func(tag int, s *sample.Sample) error {
			w.Add(tag, s)
			rows = append(rows, row{tag, *s})
			return nil
		})
		if err != nil && !isOurs(err) {
			t.Fatal(err)
		}
		i := 0
		err = ReadPart(w.Bytes(), func(tag int, s *sample.Sample) error {
			if tag != rows[i].tag || *s != rows[i].s {
				t.Fatalf("row %d is %d %+v, want %+v", i, tag, *s, rows[i])
			}
			i++
			return nil
		})
		if err != nil || i != len(rows) {
			t.Fatalf("%d rows of %d, %v", i, len(rows), err)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	e, d := newCodec(f)
	for _, v := range vectors() {
		b, err := d.Decode(pack(f, e, v.tags, v.rows, v.h))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(AppendJSON(nil, b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseJSON(data)
		if err != nil {
			if !isOurs(err) {
				t.Fatal(err)
			}
			return
		}
		text := AppendJSON(nil, b)
		back, err := ParseJSON(text)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		var want []sample.Sample
		for s := range b.All() {
			want = append(want, s)
		}
		compare(t, string(text), back, want)
	})
}

// FuzzRoundTrip turns the input into rows by reading it as a part.
func FuzzRoundTrip(f *testing.F) {
	for _, v := range vectors() {
		var w PartWriter
		for i := range v.rows {
			w.Add(v.rows[i].tag, &v.rows[i].s)
		}
		f.Add(w.Bytes())
	}
	e, d := newCodec(f)
	var tags []string
	for i := range 256 {
		tags = append(tags, fmt.Sprint("a/b/", i))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var rows []row
		// What is readable of it will do.
		_ = ReadPart(data, func(tag int, s *sample.Sample) error {
			rows = append(rows, row{tag % len(tags), *s})
			return nil
		})
		b, err := d.Decode(pack(t, e, tags, rows, Header{}))
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "fuzzed", b, byTag(tags, rows))
	})
}
