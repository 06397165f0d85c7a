package uploader_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/uploader"
	"millrace/uploader/sinktest"
)

// script is a sink that does what its test says.
type script struct {
	limits uploader.Limits
	send   func(ctx context.Context, call int, blocks []uploader.Block) []error

	mu    sync.Mutex
	calls []attempt
	now   int // requests under way
	most  int // most of them at once
	bytes int // data under way
	peak  int
}

type attempt struct {
	at      time.Duration // since the start
	numbers []uint64
}

func newScript(send func(ctx context.Context, call int, blocks []uploader.Block) []error) *script {
	return &script{send: send, limits: uploader.Limits{MaxBlocks: 10, MaxBytes: 100_000, Concurrency: 1,
		Size: func(b *uploader.Block) int { return len(b.Data) }}}
}

func (s *script) Limits() uploader.Limits     { return s.limits }
func (s *script) Check(context.Context) error { return nil }
func (s *script) Close() error                { return nil }

func (s *script) Send(ctx context.Context, blocks []uploader.Block) []error {
	numbers, size := []uint64{}, 0
	for _, b := range blocks {
		numbers, size = append(numbers, b.Number), size+len(b.Data)
	}
	s.mu.Lock()
	call := len(s.calls)
	s.calls = append(s.calls, attempt{time.Since(start(ctx)), numbers})
	s.now, s.bytes = s.now+1, s.bytes+size
	s.most, s.peak = max(s.most, s.now), max(s.peak, s.bytes)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now, s.bytes = s.now-1, s.bytes-size
		s.mu.Unlock()
	}()
	return s.send(ctx, call, blocks)
}

func (s *script) attempts() []attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

type startKey struct{}

func start(ctx context.Context) time.Time { return ctx.Value(startKey{}).(time.Time) }

// delivered is the outcome of a whole request that was taken.
func delivered(blocks []uploader.Block) []error { return make([]error, len(blocks)) }

func fail(blocks []uploader.Block, err error) []error {
	out := make([]error, len(blocks))
	for i := range out {
		out[i] = err
	}
	return out
}

func fault(c uploader.Class) *uploader.SendError {
	return &uploader.SendError{Class: c, Op: "send to", Object: "test", Err: errors.New(c.String()), Hint: "mend it"}
}

// health notes what the loop says.
type health struct {
	mu      sync.Mutex
	changes []string
	beats   []time.Time
}

func (h *health) Beat()        { h.mu.Lock(); h.beats = append(h.beats, time.Now()); h.mu.Unlock() }
func (h *health) Up()          { h.note("up") }
func (h *health) Down(e error) { h.note("down: " + e.Error()) }

func (h *health) note(s string) { h.mu.Lock(); h.changes = append(h.changes, s); h.mu.Unlock() }

func (h *health) seen() []string { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.changes) }

// longestGap returns the longest time without a beat.
func (h *health) longestGap() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(h.beats); i++ {
		longest = max(longest, h.beats[i].Sub(h.beats[i-1]))
	}
	return longest
}

// rig is a loop that runs in a bubble.
type rig struct {
	*script
	queue  *sinktest.Queue
	health *health
	loop   *uploader.Loop
	log    *bytes.Buffer
	cancel context.CancelFunc
	ended  chan error
	ctx    context.Context
}

func newRig(t *testing.T, s *script, o uploader.Options, blocks int) *rig {
	r := &rig{script: s, queue: sinktest.NewQueue(), health: &health{}, log: &bytes.Buffer{}, ended: make(chan error, 1)}
	for n := range blocks {
		r.queue.Add(sinktest.OpaqueOf(uint64(n+1), 1000))
	}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.loop = uploader.New(s, r.queue, r.health, o)
	ctx := context.WithValue(context.Background(), startKey{}, time.Now())
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

func (r *rig) start() { go func() { r.ended <- r.loop.Run(r.ctx) }() }

// stop ends Run and checks what always holds.
func (r *rig) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Errorf("Run returned %v after its context was done", err)
	}
	if gap := r.health.longestGap(); gap > 10*time.Second {
		t.Errorf("there was no beat for %s", gap)
	}
}

// bubble runs a test in fake time.
func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

// after lets fake time go by.
func after(d time.Duration) { time.Sleep(d); synctest.Wait() }
