package block

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"millrace/sample"
)

// plantRows are like a plant's: per tag a slow value, a noisy one or a counter.
func plantRows(tags, ticks int) ([]string, []row) {
	r := rand.New(rand.NewPCG(3, 4))
	names := make([]string, tags)
	last := make([]float64, tags)
	for i := range names {
		names[i] = fmt.Sprintf("plant1/meter%02d/reg%02d", i/20, i%20)
		last[i] = 20 + 200*r.Float64()
	}
	var rows []row
	for k := range ticks {
		for i := range names {
			v := last[i]
			switch i % 3 {
			case 0:
				if r.IntN(5) == 0 {
					last[i] += float64(r.IntN(5)-2) / 10
				}
			case 1:
				v += r.NormFloat64() / 2
			case 2:
				last[i] += float64(r.IntN(9))
			}
			rows = append(rows, row{i, sample.Sample{Time: 1767225600e9 + int64(k)*1e9, Value: sample.FloatValue(math.Round(v*10) / 10)}})
		}
	}
	return names, rows
}

func perSample(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/sample")
}

func BenchmarkEncode(b *testing.B) {
	for _, ticks := range []int{60, 5} {
		tags, rows := plantRows(200, ticks)
		b.Run(fmt.Sprint(len(rows)), func(b *testing.B) {
			e, _ := newCodec(b)
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				e.Reset(tags)
				for i := range rows {
					e.Add(rows[i].tag, &rows[i].s)
				}
				var err error
				if buf, err = e.Encode(buf[:0], Header{}); err != nil {
					b.Fatal(err)
				}
			}
			perSample(b, len(rows))
			b.ReportMetric(float64(len(buf))/float64(len(rows)), "B/sample")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, ticks := range []int{60, 5} {
		tags, rows := plantRows(200, ticks)
		b.Run(fmt.Sprint(len(rows)), func(b *testing.B) {
			e, d := newCodec(b)
			data := pack(b, e, tags, rows, Header{})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decode(data); err != nil {
					b.Fatal(err)
				}
			}
			perSample(b, len(rows))
		})
	}
}

func BenchmarkPartAdd(b *testing.B) {
	_, rows := plantRows(200, 60)
	var w PartWriter
	b.ReportAllocs()
	for b.Loop() {
		w.Reset(w.Bytes())
		for i := range rows {
			w.Add(rows[i].tag, &rows[i].s)
		}
	}
	perSample(b, len(rows))
	b.ReportMetric(float64(len(w.Bytes()))/float64(len(rows)), "B/sample")
}

func BenchmarkReadPart(b *testing.B) {
	_, rows := plantRows(200, 60)
	var w PartWriter
	for i := range rows {
		w.Add(rows[i].tag, &rows[i].s)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := ReadPart(w.Bytes(), func(int, *sample.Sample) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	perSample(b, len(rows))
}

// BenchmarkNoise is the worst case: floats and float32 without pattern.
func BenchmarkNoise(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	tags, rows := plantRows(200, 60)
	for i := range rows {
		f := 230 + r.NormFloat64()
		if rows[i].tag%2 == 0 {
			f = float64(float32(f))
		}
		rows[i].s.Value = sample.FloatValue(f)
	}
	b.Run("encode", func(b *testing.B) {
		e, _ := newCodec(b)
		n := 0
		for b.Loop() {
			n = len(pack(b, e, tags, rows, Header{}))
		}
		perSample(b, len(rows))
		b.ReportMetric(float64(n)/float64(len(rows)), "B/sample")
	})
	b.Run("part", func(b *testing.B) {
		var w PartWriter
		for b.Loop() {
			w.Reset(w.Bytes())
			for i := range rows {
				w.Add(rows[i].tag, &rows[i].s)
			}
		}
		perSample(b, len(rows))
		b.ReportMetric(float64(len(w.Bytes()))/float64(len(rows)), "B/sample")
	})
}
