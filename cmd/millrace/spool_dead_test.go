package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/spool"
)

// fixedClock stands still, so that messages can be held to the letter.
type fixedClock struct{ time.Time }

func (c fixedClock) Now() time.Time { return c.Time }

// deadSpool makes a spool, as a daemon left it, of five blocks for the sinks
// out and gone: out refused the first four for good, and nobody has the fifth.
func deadSpool(ts *testscript.TestScript, _ bool, args []string) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s, state, err := spool.Open(context.Background(), spool.Options{
		Dir: ts.MkAbs(args[0]), Sinks: []string{"out", "gone"}, Log: slog.New(slog.DiscardHandler), Clock: fixedClock{start.Add(time.Hour)},
	})
	ts.Check(err)
	enc, err := block.NewEncoder()
	ts.Check(err)
	c := &spool.Commit{}
	for n := range 5 {
		at := start.Add(time.Duration(n) * time.Minute)
		tag := fmt.Sprintf("plant/press/v%d", n+1)
		enc.Reset([]string{tag})
		enc.Add(0, &sample.Sample{Tag: tag, Value: sample.FloatValue(float64(n) + 0.5), Time: at.UnixNano()})
		h := block.Header{Site: "plant", Gateway: "gw1", Stream: "s0001", Epoch: state.Epoch, Seq: uint64(n + 1), Count: 1,
			First: at.UnixNano(), Last: at.UnixNano(), Produced: uint64(n + 1)}
		data, err := enc.Encode(nil, h)
		ts.Check(err)
		c.Blocks = append(c.Blocks, spool.Block{Stream: 1, Seq: h.Seq, Count: 1, First: h.First, Last: h.Last, Data: data})
	}
	ts.Check(s.Commit(c))
	for n := uint64(1); n <= 4; n++ {
		ts.Check(s.Bury("out", n, "InvalidMessageContents: invalid characters found"))
	}
	ts.Check(s.Close())
}
