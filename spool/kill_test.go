package spool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const killEnv = "MILLRACE_SPOOL_KILL_DIR"

// TestKilledWriter is the process that TestKill kills.
func TestKilledWriter(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		t.Skip("it is started by TestKill")
	}
	s, st, err := Open(context.Background(), killOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	seqs := map[uint32]uint64{}
	for id, n := range st.LastSeq {
		seqs[id] = n
	}
	parts := uint32(0)
	for _, p := range st.Parts {
		parts = max(parts, p.Count)
	}
	go func() {
		for after := uint64(0); ; {
			blocks, err := s.Read("cloud", after, 5, 1<<20)
			if err != nil {
				t.Error(err)
				return
			}
			for _, b := range blocks {
				after = b.Number
				fmt.Printf("delivered %d\n", b.Number)
				s.Ack("cloud", b.Number)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	for i := uint32(1); ; i++ {
		c := &Commit{Rotate: s.NeedsRotation()}
		for stream := range uint32(3) {
			if c.Rotate || (i+stream)%4 == 0 {
				seqs[stream]++
				c.Blocks = append(c.Blocks, Block{Stream: stream, Seq: seqs[stream], Count: 3, Data: payload(stream, seqs[stream], 5000)})
			}
		}
		if !c.Rotate {
			parts++
			c.Parts = []Part{{Stream: 9, Count: parts, Data: payload(9, uint64(parts), 100)}}
		} else {
			seqs[9]++
			c.Blocks = append(c.Blocks, Block{Stream: 9, Seq: seqs[9], Count: parts, Data: payload(9, seqs[9], 300)})
		}
		if err := s.Commit(c); err != nil {
			t.Fatal(err)
		}
		for _, b := range c.Blocks {
			fmt.Printf("block %d %d %d\n", b.Number, b.Stream, b.Seq)
		}
		for _, p := range c.Parts {
			fmt.Printf("part %d\n", p.Count)
		}
		if i%5 == 0 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func killOptions(dir string) Options {
	return Options{
		Dir: dir, MaxBytes: 16 << 20, SegmentBytes: MinSegmentBytes, Sinks: []string{"cloud"},
		Log: slog.New(slog.DiscardHandler), Clock: wallClock{},
	}
}

// A process killed at any moment leaves all that Commit returned for.
func TestKill(t *testing.T) {
	rounds := 5
	if os.Getenv("MILLRACE_FAULTS") == "full" {
		rounds = 100
	}
	dir := filepath.Join(t.TempDir(), "spool")
	type identity struct {
		stream uint32
		seq    uint64
	}
	blocks := map[uint64]identity{} // committed, by number
	delivered := map[uint64]bool{}  // by number
	var part uint32                 // the last part committed
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(150+rand.IntN(300))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		before := len(blocks)
		var rest []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var n uint64
			var id identity
			line := lines.Text()
			if k, _ := fmt.Sscanf(line, "block %d %d %d", &n, &id.stream, &id.seq); k == 3 {
				if was, ok := blocks[n]; ok && was != id {
					t.Errorf("block %d was %v and is %v", n, was, id)
				}
				blocks[n] = id
			} else if k, _ := fmt.Sscanf(line, "delivered %d", &n); k == 1 {
				delivered[n] = true
			} else if k, _ := fmt.Sscanf(line, "part %d", &n); k == 1 {
				part = uint32(n)
			} else {
				rest = append(rest, line)
			}
		}
		_, _ = io.Copy(io.Discard, out)
		kill.Stop()
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("round %d: the writer was not killed: %v %v", round, err, rest)
		}
		if len(blocks) == before && round > 0 {
			t.Logf("round %d: killed before its first block", round)
		}

		s, st, err := Open(context.Background(), killOptions(dir))
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Losses) > 0 || (st.Created && round > 0) {
			t.Errorf("round %d: created %v, losses %v", round, st.Created, st.Losses)
		}
		last := uint32(0)
		for i, p := range st.Parts {
			if i > 0 && p.Count != last+1 {
				t.Errorf("round %d: part %d follows part %d", round, p.Count, last)
			}
			last = p.Count
		}
		if len(st.Parts) > 0 && last < part {
			t.Errorf("round %d: part %d was committed, %d is the last", round, part, last)
		}
		pending := map[uint64]Block{}
		all, err := s.Read("cloud", 0, 1<<20, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			pending[b.Number] = b
		}
		for n, id := range blocks {
			b, ok := pending[n]
			switch {
			case !ok && !delivered[n]:
				t.Fatalf("round %d: block %d was committed and is gone", round, n)
			case ok && (b.Stream != id.stream || b.Seq != id.seq || string(b.Data) != string(payload(b.Stream, b.Seq, len(b.Data)))):
				t.Fatalf("round %d: block %d has changed", round, n)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkFiles(t, dir)
	}
	if len(blocks) < 20 {
		t.Errorf("%d blocks in all: the writer was killed too early to test anything", len(blocks))
	}
}
