package spool

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func benchSpool(b *testing.B, segment int64) *Spool {
	b.Helper()
	s, _, err := Open(context.Background(), Options{
		Dir: filepath.Join(b.TempDir(), "spool"), MaxBytes: 4 << 30, SegmentBytes: segment, Sinks: []string{"cloud"},
		Log: slog.New(slog.DiscardHandler), Clock: wallClock{},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// written is what this process has sent to the disk, in bytes.
func written(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Skip("the kernel does not count")
	return 0
}

// BenchmarkParts is one commit of an interval: ten parts of 4 KB.
func BenchmarkParts(b *testing.B) {
	s := benchSpool(b, DefaultSegmentBytes)
	data := payload(1, 1, 4000)
	before := written(b)
	b.ReportAllocs()
	seq := uint64(0)
	for i := 0; b.Loop(); i++ {
		c := &Commit{}
		for stream := range uint32(10) {
			c.Parts = append(c.Parts, Part{Stream: stream, Count: 100, Data: data})
		}
		if i%60 == 59 || s.NeedsRotation() {
			c.Parts, c.Rotate = nil, s.NeedsRotation()
			seq++
			for stream := range uint32(10) {
				c.Blocks = append(c.Blocks, Block{Stream: stream, Seq: seq, Count: 1000, Data: data})
			}
		}
		if err := s.Commit(c); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N), "disk-B/op")
	b.ReportMetric(float64(s.Stats().BytesWritten)/float64(b.N), "pages-B/op")
}

// BenchmarkBlocks is one commit of ten sealed blocks, by their size.
func BenchmarkBlocks(b *testing.B) {
	for _, size := range []int{500, 5200, 16 << 10, 180 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := benchSpool(b, DefaultSegmentBytes)
			before := written(b)
			b.ReportAllocs()
			seq, blocks := uint64(0), 0
			for b.Loop() {
				c := &Commit{Rotate: s.NeedsRotation()}
				seq++
				for stream := range uint32(10) {
					c.Blocks = append(c.Blocks, Block{Stream: stream, Seq: seq, Count: 1000, Data: payload(stream, seq, size)})
				}
				if err := s.Commit(c); err != nil {
					b.Fatal(err)
				}
				for _, x := range c.Blocks {
					s.Ack("cloud", x.Number)
				}
				if blocks += len(c.Blocks); seq%100 == 0 {
					if err := s.Sync(); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(written(b)-before)/float64(blocks*size), "amplification")
			b.ReportMetric(float64(s.Stats().BytesWritten)/float64(blocks*size), "pages-amplification")
		})
	}
}

// BenchmarkRead reads a backlog over several segments, and reports how much of
// the files stays resident.
func BenchmarkRead(b *testing.B) {
	s := benchSpool(b, 16<<20)
	const size = 5200
	for seq := range uint64(800) {
		c := &Commit{Rotate: s.NeedsRotation()}
		for stream := range uint32(10) {
			c.Blocks = append(c.Blocks, Block{Stream: stream, Seq: seq, Data: payload(stream, seq, size)})
		}
		if err := s.Commit(c); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(10 * size)
	b.ReportAllocs()
	after, most := uint64(0), int64(0)
	for i := 0; b.Loop(); i++ {
		blocks, err := s.Read("cloud", after, 10, 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		if after = 0; len(blocks) == 10 {
			after = blocks[9].Number
		}
		if i%64 == 0 {
			most = max(most, residentFile(b))
		}
	}
	b.ReportMetric(float64(most)/(1<<20), "RssFile-MiB")
}

// residentFile is how much of mapped files counts as this process's memory.
func residentFile(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "RssFile: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	b.Skip("the kernel does not count")
	return 0
}
