package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"millrace/internal/faults/faultfs"
)

const (
	pollEvery = 10 * time.Millisecond
	// pollSlack is how late a poll may be handed over on a busy machine.
	pollSlack = time.Second
	// stallMemory bounds the gateway's anonymous memory meanwhile, in bytes.
	stallMemory = 100 << 20
)

func stallRow() Row {
	return Row{
		Name: "fsync-stall", What: "each fsync takes 0.1 to 30 s: polls stay on schedule, memory is bounded, nothing is lost",
		Short: 1, Medium: 3, Full: 200, Needs: []Need{needRoot(), needFUSE()}, Run: runStall,
	}
}

// runStall delays every fsync while samples are polled.
func runStall(ctx context.Context, t *Trial) (n int, err error) {
	f, err := faultfs.Mount(filepath.Join(t.Dir, "mnt"))
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	p, err := NewPlant("cloud")
	if err != nil {
		return 1, err
	}
	c := t.childConfig()
	c.Spool, c.CommitInterval = filepath.Join(t.Dir, "mnt", "spool"), 100*time.Millisecond
	k, err := p.start(t.self, c)
	if err != nil {
		return 1, err
	}
	if err := k.waitReady(ctx); err != nil {
		return 1, err
	}
	longest := map[Form]time.Duration{Short: 400 * time.Millisecond, Medium: 3 * time.Second, Full: 30 * time.Second}[t.Form]
	stall := 100*time.Millisecond + time.Duration(t.Rand.Int64N(int64(longest-100*time.Millisecond)))
	f.Judge(func(c faultfs.Call) faultfs.Verdict {
		if c.Kind == faultfs.Sync || c.Kind == faultfs.SyncDir {
			time.Sleep(stall)
		}
		return faultfs.Verdict{}
	})
	worst, memory, err := poll(ctx, k, stall+stall/2+200*time.Millisecond)
	f.Judge(nil)
	if err != nil {
		return 1, err
	}
	t.Logf("fsync took %s each; the latest poll was %s late; %d MiB anonymous memory", stall, worst, memory>>20)
	if worst > pollSlack {
		return 1, fmt.Errorf("a poll was %s late while each fsync took %s", worst, stall)
	}
	if memory > stallMemory {
		return 1, fmt.Errorf("%d MiB of anonymous memory while each fsync took %s", memory>>20, stall)
	}
	if err := k.settle(ctx); err != nil {
		return 1, err
	}
	return 1, p.Ledger.Check(NoLoss)
}

// poll hands samples over on schedule, and returns by how much the latest
// hand-over was late, and the most memory seen. What the gateway took counts as
// acknowledged: no power is cut here.
func poll(ctx context.Context, k *Child, lasts time.Duration) (worst time.Duration, memory int, err error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	type handed struct {
		at    time.Time
		taken <-chan error
	}
	var waiting []handed
	collect := func(all bool) error {
		for len(waiting) > 0 {
			select {
			case err := <-waiting[0].taken:
				if err != nil {
					return fmt.Errorf("a poll was not taken: %w", err)
				}
				worst = max(worst, time.Since(waiting[0].at))
				waiting = waiting[1:]
				continue
			default:
			}
			if late := time.Since(waiting[0].at); late > worst {
				worst = late
			}
			if !all || worst > freshWithin {
				return nil
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return worst, memory, context.Cause(ctx)
		case <-k.done:
			return worst, memory, fmt.Errorf("the gateway ended: %s", k.ending())
		case <-tick.C:
		}
		batch := []wireSample{{Tag: "plant/in/polled", Producer: "poll", Seq: k.plant.number("poll"), Number: float64(len(waiting))}}
		waiting = append(waiting, handed{time.Now(), k.produce(batch, true)})
		if err := collect(false); err != nil {
			return worst, memory, err
		}
		m, err := anonymous(k.cmd.Process.Pid)
		if err != nil {
			return worst, memory, err
		}
		memory = max(memory, m)
	}
	return worst, memory, collect(true)
}

// anonymous is a process's resident anonymous memory, in bytes.
func anonymous(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc tells no RssAnon")
}
