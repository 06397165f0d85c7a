package spool

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkStart is a start on a tail of 64 MiB, in wall time: whole, with
// damage here and there, and with a list of blocks that does not read.
func BenchmarkStart(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		for _, damage := range []string{"whole", "spoilt", "no list"} {
			b.Run(map[int]string{1 << 10: "1KB blocks", 100 << 10: "100KB blocks"}[size]+"/"+damage, func(b *testing.B) {
				for range b.N {
					b.StopTimer()
					dir := filepath.Join(b.TempDir(), "spool")
					o := Options{
						Dir: dir, MaxBytes: 1 << 30, Sinks: []string{"cloud"}, Log: slog.New(slog.DiscardHandler), Clock: wallClock{}, Probe: childThat("work"),
					}
					fillTail(b, o, size)
					spoilTail(b, segmentPath(dir, 1), damage)
					b.StartTimer()
					s, _, err := Open(context.Background(), o)
					b.StopTimer()
					if err != nil {
						b.Fatal(err)
					}
					if want := damage != "whole"; (s.Stats().Salvaged > 0) != want {
						b.Errorf("salvaged: %d", s.Stats().Salvaged)
					}
					if err := s.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// fillTail makes a tail as large as one gets.
func fillTail(b *testing.B, o Options, size int) {
	s, _, err := Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	data := payload(1, 1, 2<<20)
	for seq := uint64(0); !s.NeedsRotation(); {
		c := &Commit{}
		for range (2 << 20) / size {
			seq++
			c.Blocks = append(c.Blocks, Block{Stream: 1, Seq: seq, Count: 10, Data: data[:size-int(seq%7)]})
		}
		if err := s.Commit(c); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

func spoilTail(b *testing.B, path, how string) {
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	page := os.Getpagesize()
	switch how {
	case "spoilt":
		for range 20 {
			data[2*page+rand.IntN(len(data)/2)] ^= 1
		}
	case "no list":
		for at := 2 * page; at < len(data); at += page {
			if data[at+8] == branchFlag {
				clear(data[at : at+page])
			}
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
}
