package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"millrace/internal/bench/codec"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/spool"
)

const (
	// backlogStream is apart from those that the gateway itself makes.
	backlogStream = 1000
	// backlogCommit is how many bytes one commit of the backlog holds.
	backlogCommit = 4 << 20
)

// backlog fills a spool with blocks until they take so many bytes, and returns
// their number and their samples. The same few blocks come again and again:
// nothing on the way looks into more than the header.
func backlog(ctx context.Context, dir string, bytes int64, blocks [][]byte) (n, samples int64, err error) {
	s, _, err := spool.Open(ctx, spool.Options{
		Dir: dir, MaxBytes: 4*bytes + 1<<30, Sinks: []string{"out"}, Log: slog.New(slog.DiscardHandler), Clock: clock.System{},
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	headers := make([]block.Header, len(blocks))
	for i, b := range blocks {
		if headers[i], err = block.ReadHeader(b); err != nil {
			return 0, 0, err
		}
	}
	for bytes > 0 {
		if err := ctx.Err(); err != nil {
			return n, samples, err
		}
		c := &spool.Commit{Rotate: s.NeedsRotation()}
		for size := 0; size < backlogCommit && bytes > 0; {
			i := int(n) % len(blocks)
			h := &headers[i]
			n++
			samples += int64(h.Count)
			size += len(blocks[i])
			bytes -= int64(len(blocks[i]))
			c.Blocks = append(c.Blocks, spool.Block{
				Stream: backlogStream, Seq: uint64(n), Count: uint32(h.Count), First: h.First, Last: h.Last, Data: blocks[i],
			})
		}
		if err := s.Commit(c); err != nil {
			return n, samples, err
		}
	}
	return n, samples, nil
}

// plantBlocks are blocks of 12,000 samples of the plant.
func plantBlocks() ([][]byte, error) {
	tags, polls := codec.Plant(appendPolls)
	enc, err := block.NewEncoder()
	if err != nil {
		return nil, err
	}
	enc.Reset(tags)
	for _, poll := range polls {
		for i := range poll {
			enc.Add(i, &poll[i])
		}
	}
	b, err := enc.Encode(nil, backlogHeader())
	return [][]byte{b}, err
}

// largeBlocks are blocks of 180 KB or so, the size at which a batch is sealed
// by default, of values that do not pack.
func largeBlocks() ([][]byte, error) {
	enc, err := block.NewEncoder()
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	var out [][]byte
	for range 8 {
		enc.Reset([]string{"bench/noise/v"})
		for i := range 22_000 {
			// Every bit of a double in [1, 2) is random but for the exponent.
			v := math.Float64frombits(0x3FF<<52 | r.Uint64()>>12)
			enc.Add(0, &sample.Sample{Time: plantStart + int64(i)*int64(time.Millisecond), Value: sample.FloatValue(v)})
		}
		b, err := enc.Encode(nil, backlogHeader())
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

func backlogHeader() block.Header {
	return block.Header{Site: "bench", Gateway: "gw1", Stream: "s1000", Epoch: 1, Seq: 1, Produced: 1, Clock: block.ClockSynced}
}

// evictCache drops the files of a folder from the page cache, so that they are
// read from the disk as after a start of the machine.
func evictCache(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// freeBytes is how much room the file system of dir has.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	size := uint64(st.Bsize) // it has 32 bits on arm
	return int64(st.Bavail * size), err
}
