package sinktest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/uploader"
)

// patience bounds one Send of the suite.
const patience = 10 * time.Second

// Run tries everything that a sink promises.
func Run(t *testing.T, h Harness) {
	t.Run("defaults", func(t *testing.T) { checkDefaults(t, h) })
	t.Run("limits", func(t *testing.T) { checkLimits(t, h) })
	t.Run("deliver", func(t *testing.T) { checkDeliver(t, h) })
	t.Run("again", func(t *testing.T) { checkAgain(t, h) })
	t.Run("too large", func(t *testing.T) { checkTooLarge(t, h) })
	t.Run("concurrency", func(t *testing.T) { checkConcurrency(t, h) })
	t.Run("cancel", func(t *testing.T) { checkCancel(t, h) })
	t.Run("close", func(t *testing.T) { checkClose(t, h) })
	for fault, class := range classes {
		t.Run("fault "+string(fault), func(t *testing.T) { checkFault(t, h, fault, class) })
	}
	t.Run("fault "+string(Slow), func(t *testing.T) { checkSlow(t, h) })
	t.Run("fault "+string(Partial), func(t *testing.T) { checkPartial(t, h) })
	t.Run("fault "+string(AnswerLost), func(t *testing.T) { checkAnswerLost(t, h) })
	for _, fault := range []Fault{Down, Throttled, Partial, AnswerLost, Denied, Expired, Skewed} {
		t.Run("loop through "+string(fault), func(t *testing.T) { checkLoop(t, h, fault) })
	}
	for _, fault := range []Fault{Denied, Expired, Skewed, Missing} {
		t.Run("hold while "+string(fault), func(t *testing.T) { checkHold(t, h, fault) })
	}
}

// send checks the shape of the answer too.
func send(t *testing.T, s uploader.Sink, blocks []uploader.Block) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	outcomes := s.Send(ctx, blocks)
	if len(outcomes) != len(blocks) {
		t.Fatalf("Send returned %d outcomes for %d blocks", len(outcomes), len(blocks))
	}
	return outcomes
}

// mustSend sends what must be taken, in requests as large as the limits allow.
func mustSend(t *testing.T, s uploader.Sink, blocks []uploader.Block) {
	t.Helper()
	most := s.Limits().MaxBlocks
	for len(blocks) > 0 {
		n := min(most, len(blocks))
		for i, err := range send(t, s, blocks[:n]) {
			if err != nil {
				t.Fatalf("block %d was not delivered: %v", blocks[i].Number, err)
			}
		}
		blocks = blocks[n:]
	}
}

// mustHold checks that the endpoint holds exactly these blocks.
func mustHold(t *testing.T, e *Endpoint, blocks []uploader.Block) {
	t.Helper()
	stored := e.Stored(t)
	for i := range blocks {
		b := &blocks[i]
		want := b.Data
		if e.Bytes != nil {
			want = e.Bytes(b)
		}
		got, ok := stored[e.Key(b)]
		if !ok {
			t.Errorf("block %d is not stored under %.80q", b.Number, e.Key(b))
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("block %d is stored with other bytes: %d of them, want %d", b.Number, len(got), len(want))
		}
		delete(stored, e.Key(b))
	}
	for key := range stored {
		t.Errorf("the endpoint holds %.80q, which was not confirmed", key)
	}
}

func checkDefaults(t *testing.T, h Harness) {
	if h.Kind.Type() == "" {
		t.Error("Type is empty")
	}
	if a, b := h.Kind.NewConfig(), h.Kind.NewConfig(); a == nil || a == b {
		t.Error("NewConfig must return a new config at each call")
	}
}

func checkLimits(t *testing.T, h Harness) {
	_, s := h.open(t)
	l := s.Limits()
	if l.MaxBlocks < 1 || l.MaxBytes < 1 || l.Concurrency < 1 || l.Size == nil {
		t.Fatalf("Limits are %+v", l)
	}
	for _, b := range h.blocks(1, 3) {
		if n := l.Size(&b); n < 1 || n > l.MaxBytes {
			t.Errorf("a block of %d bytes has size %d of %d", len(b.Data), n, l.MaxBytes)
		}
	}
}

func checkDeliver(t *testing.T, h Harness) {
	e, s := h.open(t)
	if err := s.Check(t.Context()); err != nil {
		t.Fatalf("Check of a whole endpoint: %v", err)
	}
	mustHold(t, e, nil) // Check delivers nothing
	blocks := h.blocks(1, uint64(2*s.Limits().MaxBlocks+1))
	mustSend(t, s, blocks)
	mustHold(t, e, blocks)
}

// checkAgain sends the same blocks twice, and one of them twice in one request.
func checkAgain(t *testing.T, h Harness) {
	e, s := h.open(t)
	blocks := h.blocks(1, 3)
	mustSend(t, s, blocks)
	mustSend(t, s, blocks)
	if s.Limits().MaxBlocks > 1 {
		mustSend(t, s, []uploader.Block{blocks[0], blocks[0]})
	}
	mustHold(t, e, blocks)
}

func checkTooLarge(t *testing.T, h Harness) {
	if h.TooLarge == nil {
		t.Skip("this sink takes any size")
	}
	e, s := h.open(t)
	blocks := append(h.blocks(1, 1), h.TooLarge(2))
	blocks = append(blocks, h.blocks(3, 3)...)
	for i, err := range send(t, s, blocks) {
		switch {
		case i == 1 && (err == nil || uploader.Classify(err) != uploader.Permanent):
			t.Errorf("the block that is too large has outcome %v, want a permanent error", err)
		case i != 1 && err != nil:
			t.Errorf("block %d beside one that is too large: %v", blocks[i].Number, err)
		}
	}
	mustHold(t, e, []uploader.Block{blocks[0], blocks[2]})
}

func checkConcurrency(t *testing.T, h Harness) {
	e, s := h.open(t)
	lanes := s.Limits().Concurrency
	var all []uploader.Block
	var wg sync.WaitGroup
	for lane := range lanes {
		mine := h.blocks(uint64(lane*100+1), uint64(lane*100+5))
		all = append(all, mine...)
		wg.Go(func() {
			for i := range mine {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if outcomes := s.Send(ctx, mine[i:i+1]); outcomes[0] != nil {
					t.Errorf("block %d: %v", mine[i].Number, outcomes[0])
				}
				cancel()
			}
		})
	}
	wg.Wait()
	mustHold(t, e, all)
}

func checkCancel(t *testing.T, h Harness) {
	e, s := h.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.Send(ctx, h.blocks(1, 2)) {
		if err == nil || uploader.Classify(err) != uploader.Shutdown {
			t.Errorf("outcome under a cancelled context: %v, want one of class shutdown", err)
		}
	}
	mustHold(t, e, nil)
}

func checkClose(t *testing.T, h Harness) {
	e, s := h.open(t)
	blocks := h.blocks(1, 1)
	mustSend(t, s, blocks)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	mustHold(t, e, blocks)
}

// withFault opens a sink on an endpoint that knows the fault, or skips.
func (h Harness) withFault(t *testing.T, f Fault) (*Endpoint, uploader.Sink, func(on bool)) {
	e, s := h.open(t)
	set := e.Set[f]
	if set == nil {
		t.Skipf("the endpoint has no fault %q", f)
	}
	return e, s, set
}

// checkFault breaks the endpoint, looks at the class, mends it, and sends again.
func checkFault(t *testing.T, h Harness, f Fault, class uploader.Class) {
	e, s, set := h.withFault(t, f)
	set(true)
	blocks := h.blocks(1, 2)
	for _, err := range send(t, s, blocks) {
		checkError(t, "Send", err, class)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	checkError(t, "Check", s.Check(ctx), class)
	set(false)
	mustHold(t, e, nil)
	mustSend(t, s, blocks)
	mustHold(t, e, blocks)
}

// checkError looks at what an operator gets.
func checkError(t *testing.T, what string, err error, class uploader.Class) {
	t.Helper()
	if err == nil {
		t.Errorf("%s succeeds", what)
		return
	}
	if got := uploader.Classify(err); got != class {
		t.Errorf("%s returns %v, of class %s, want %s", what, err, got, class)
	}
	var se *uploader.SendError
	if !errors.As(err, &se) {
		t.Errorf("%s returns %v, which names no object", what, err)
		return
	}
	if se.Op == "" || se.Object == "" || class == uploader.Hold && se.Hint == "" {
		t.Errorf("%s returns %+v: operation, object or hint is missing", what, se)
	}
	if text := err.Error(); strings.ContainsAny(text, "\n\r") {
		t.Errorf("%s returns an error of several lines: %q", what, text)
	}
}

// checkSlow looks that the deadline holds.
func checkSlow(t *testing.T, h Harness) {
	e, s, set := h.withFault(t, Slow)
	set(true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	blocks := h.blocks(1, 2)
	start := time.Now()
	outcomes := s.Send(ctx, blocks)
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("Send took %s with a deadline of 300ms", d)
	}
	for _, err := range outcomes {
		checkError(t, "Send", err, uploader.Transient)
	}
	set(false)
	mustSend(t, s, blocks)
	mustHold(t, e, blocks)
}

// checkPartial looks that exactly the entries with a nil outcome are stored.
func checkPartial(t *testing.T, h Harness) {
	e, s, set := h.withFault(t, Partial)
	set(true)
	left := h.blocks(1, uint64(s.Limits().MaxBlocks))
	all := left
	var confirmed []uploader.Block
	for try := 0; len(left) > 0 && try < 200; try++ {
		if try == 20 {
			set(false)
		}
		outcomes := send(t, s, left)
		var again []uploader.Block
		for i, err := range outcomes {
			if err == nil {
				confirmed = append(confirmed, left[i])
				continue
			}
			if c := uploader.Classify(err); c != uploader.Transient && c != uploader.Throttled {
				t.Fatalf("a partial failure is %v, of class %s", err, c)
			}
			again = append(again, left[i])
		}
		if try == 0 && (len(again) == 0 || len(again) == len(left)) {
			t.Logf("the first request was not partial: %d of %d failed", len(again), len(left))
		}
		left = again
		mustHold(t, e, confirmed)
	}
	if len(confirmed) != len(all) {
		t.Errorf("%d of %d blocks were confirmed", len(confirmed), len(all))
	}
}

// checkAnswerLost looks that nothing is confirmed without an answer, and that
// sending again leaves each block once under its key.
func checkAnswerLost(t *testing.T, h Harness) {
	e, s, set := h.withFault(t, AnswerLost)
	blocks := h.blocks(1, 3)
	set(true)
	for _, err := range send(t, s, blocks) {
		checkError(t, "Send", err, uploader.Transient)
	}
	if len(e.Stored(t)) == 0 {
		t.Error("the fault did not strike: nothing was stored")
	}
	set(false)
	mustSend(t, s, blocks)
	mustHold(t, e, blocks)
}
