package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"millrace/internal/faults/faultfs"
)

func nthCallRow() Row {
	return Row{
		Name: "nth-call", What: "the N-th file-system call fails once with EIO, with ENOSPC or after a part of it, for every N of a run",
		Short: 4, Medium: 80, Full: 6000, Needs: []Need{needRoot(), needFUSE()}, Run: runNthCall,
	}
}

// mishap is how a call fails.
type mishap struct {
	name    string
	verdict func(faultfs.Call) faultfs.Verdict
}

func mishaps() []mishap {
	return []mishap{
		{"EIO", func(faultfs.Call) faultfs.Verdict { return faultfs.Verdict{Err: syscall.EIO} }},
		{"ENOSPC", func(c faultfs.Call) faultfs.Verdict {
			switch c.Kind {
			case faultfs.Write, faultfs.Truncate, faultfs.Create, faultfs.Mkdir, faultfs.Rename, faultfs.Sync:
				return faultfs.Verdict{Err: syscall.ENOSPC}
			}
			return faultfs.Verdict{} // it cannot be
		}},
		{"a part, then EIO", func(c faultfs.Call) faultfs.Verdict {
			if c.Kind != faultfs.Write {
				return faultfs.Verdict{Err: syscall.EIO}
			}
			return faultfs.Verdict{Err: syscall.EIO, Part: c.Size / 2 &^ 511}
		}},
		{"a short write", func(c faultfs.Call) faultfs.Verdict {
			if c.Kind != faultfs.Write || c.Size < 1024 {
				return faultfs.Verdict{}
			}
			return faultfs.Verdict{Err: syscall.EIO, Part: c.Size / 2 &^ 511, Short: true}
		}},
	}
}

// runNthCall counts the calls of a whole run, and goes through them from one
// that the seed decides; with room for all, it fails each in each way.
func runNthCall(ctx context.Context, t *Trial) (int, error) {
	calls, _, err := t.failCall(ctx, "count", 0, mishaps()[0])
	if err != nil {
		return 0, fmt.Errorf("without a fault: %w", err)
	}
	ways := mishaps()
	total := calls * len(ways)
	first, step := 0, 1
	if t.Left < total {
		first, step = t.Rand.IntN(total), 1+2*t.Rand.IntN(total/2)
	}
	n := min(t.Left, total)
	for i := range n {
		if t.over(ctx) {
			return i, ctx.Err()
		}
		at := (first + i*step) % total
		way := ways[at%len(ways)]
		_, hit, err := t.failCall(ctx, fmt.Sprint(i), at/len(ways)+1, way)
		if err != nil {
			return i + 1, fmt.Errorf("call %d of about %d (%s %s) fails with %s: %w", at/len(ways)+1, calls, hit.Kind, hit.Name, way.name, err)
		}
	}
	return n, nil
}

// failCall runs the gateway through a fixed load on a file system whose n-th
// call fails. The gateway may go on, or end with a message and be started
// again, as the service manager does; then everything must be there.
func (t *Trial) failCall(ctx context.Context, name string, n int, way mishap) (calls int, hit faultfs.Call, err error) {
	mnt := filepath.Join(t.Dir, "mnt-"+name)
	f, err := faultfs.Mount(mnt)
	if err != nil {
		return 0, hit, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var mu sync.Mutex
	f.Judge(func(c faultfs.Call) faultfs.Verdict {
		if c.N != n {
			return faultfs.Verdict{}
		}
		mu.Lock()
		defer mu.Unlock()
		hit = c
		return way.verdict(c)
	})
	p, err := NewPlant("cloud")
	if err != nil {
		return 0, hit, err
	}
	c := t.childConfig()
	c.Dir, c.Spool = filepath.Join(t.Dir, "run-"+name), filepath.Join(mnt, "spool")
	c.CommitInterval, c.MaxAge, c.SyncInterval = 10*time.Millisecond, 25*time.Millisecond, 15*time.Millisecond
	k, err := p.start(t.self, c)
	if err != nil {
		return 0, hit, err
	}
	fixedLoad(ctx, k)
	select {
	case <-k.done:
		if k.killed() || k.cmd.ProcessState.ExitCode() != 1 {
			return 0, hit, fmt.Errorf("the gateway did not end with a message and code 1: %s", k.ending())
		}
	default:
		if err := k.waitReady(ctx); err != nil && !errors.Is(err, errGone) {
			return 0, hit, err
		}
		stopping, cancel := context.WithTimeout(ctx, freshWithin)
		defer cancel()
		// It may end by the fault while it stops.
		if err := k.stop(stopping); err != nil && (k.killed() || k.cmd.ProcessState.ExitCode() != 1) {
			return 0, hit, err
		}
	}
	calls = f.Calls()
	f.Judge(nil)
	again, err := p.start(t.self, c)
	if err != nil {
		return calls, hit, err
	}
	if err := again.settle(ctx); err != nil {
		return calls, hit, fmt.Errorf("started again: %w", err)
	}
	return calls, hit, p.Ledger.Check(NoLoss)
}

// fixedLoad sends the same messages one after the other, until they are through
// or the gateway has ended. What is refused is sent again later, at the end.
func fixedLoad(ctx context.Context, k *Child) {
	for i := range 60 {
		batch := []wireSample{
			{Tag: "plant/in/a", Producer: "fixed", Seq: k.plant.number("fixed"), Str: fixedText(i)},
			{Tag: "plant/in/b", Producer: "fixed", Seq: k.plant.number("fixed"), Number: float64(i)},
		}
		select {
		case err := <-k.produce(batch, false):
			if errors.Is(err, errGone) {
				return
			}
			if err != nil {
				k.plant.mu.Lock()
				k.plant.doubt = append(k.plant.doubt, batch)
				k.plant.mu.Unlock()
			}
		case <-ctx.Done():
			return
		}
	}
}

// fixedText is about 6 KB that do not compress: sixty of them are more than a
// segment.
func fixedText(i int) string { return noise(rand.New(rand.NewPCG(uint64(i), 3)), 6000) }
