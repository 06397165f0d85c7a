package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/sample"
	"millrace/spool"
)

// Samples of one stream that come at once, and are more than a segment of the
// spool holds, are stored all the same; what could not be is refused before any
// of it is taken.
func TestABurstLargerThanASegment(t *testing.T) {
	h := &hand{t: noon}
	log := slog.New(slog.DiscardHandler)
	sp, st, err := spool.Open(context.Background(), spool.Options{Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: 16 << 20, SegmentBytes: 1 << 20,
		Sinks: []string{"cloud"}, Log: log, Clock: h})
	must(t, err)
	defer sp.Close()
	b, err := New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, Log: log, Clock: h, Health: noHealth{},
		MaxOpenBytes: 1 << 20, MaxCommitBytes: 128 << 10, MaxEmitBytes: 2 << 20}, sp, st)
	must(t, err)
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	rnd := rand.NewChaCha8([32]byte{})
	burst := func(n int) (batch []sample.Sample) {
		for i := range n {
			raw := make([]byte, 1000)
			_, _ = rnd.Read(raw)
			batch = append(batch, sample.Sample{Tag: "s/d/a", Value: sample.StringValue(fmt.Sprintf("%x", raw)), Time: noon.Add(time.Duration(i) * time.Millisecond).UnixNano()})
		}
		return batch
	}
	for range 2 { // one before the other is committed
		must(t, p.Emit(t.Context(), burst(490), func(error) {}))
	}
	must(t, b.commit(t.Context(), sealDue))
	err = p.Emit(t.Context(), burst(1100), func(error) {})
	var refused *protocols.RefusedError
	if !errors.As(err, &refused) || refused.RetryAfter != 0 {
		t.Errorf("got %v, want a refusal for good", err)
	}
	must(t, p.Emit(t.Context(), burst(1000), func(error) {}))
	must(t, b.commit(t.Context(), sealDue))
	must(t, b.commit(t.Context(), sealDue))
	n := uint32(0)
	for after := uint64(0); ; {
		blocks, err := sp.Read("cloud", after, 1, 1<<30)
		must(t, err)
		if len(blocks) == 0 {
			break
		}
		if after = blocks[0].Number; blocks[0].Stream != systemStream {
			n += blocks[0].Count
		}
	}
	if n != 1980 {
		t.Errorf("%d samples are in blocks, of 1980", n)
	}
}
