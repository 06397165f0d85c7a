package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"millrace/spool"
)

func killRow() Row {
	return Row{
		Name: "kill", What: "kill -9 at random microseconds, start-up, rotation and ack included: nothing acknowledged is lost",
		Short: 8, Medium: 200, Full: 10_000, Run: runKill,
	}
}

// runKill kills one gateway one to four times on the same spool. A kill is a
// trial.
func runKill(ctx context.Context, t *Trial) (int, error) {
	return t.killRun(ctx, t.self, 1+t.Rand.IntN(4))
}

// killRun is the process loop; program is the child.
func (t *Trial) killRun(ctx context.Context, program string, kills int, env ...string) (int, error) {
	p, err := NewPlant("cloud")
	if err != nil {
		return 0, err
	}
	c := t.childConfig()
	cloud := newCloud(t.Rand)
	p.Cloud = cloud.answer
	l := load{Producers: 1 + t.Rand.IntN(3), Tags: 1 + t.Rand.IntN(4), Batch: 1 + t.Rand.IntN(5), Window: 4, Pause: time.Duration(1+t.Rand.IntN(3000)) * time.Microsecond}
	if t.Rand.IntN(2) == 0 {
		l.Payload = 200 + t.Rand.IntN(3000)
	}
	for i := range kills {
		cloud.become(cloudMode(t.Rand.IntN(3)))
		if err := t.killOnce(ctx, p, program, c, l, i, env); err != nil {
			return i + 1, err
		}
	}
	cloud.become(cloudWell)
	k, err := p.start(program, c, env...)
	if err != nil {
		return kills, err
	}
	if err := k.settle(ctx); err != nil {
		return kills, err
	}
	t.Logf("%d samples acknowledged, %d kills", p.Ledger.Acked(), kills)
	return kills, p.Ledger.Check(NoLoss)
}

// killOnce starts the gateway, loads it, and kills it. A third of the kills
// come while it starts up, on whatever the last one left.
func (t *Trial) killOnce(ctx context.Context, p *Plant, program string, c *childConfig, l load, i int, env []string) error {
	k, err := p.start(program, c, env...)
	if err != nil {
		return err
	}
	after := time.Duration(t.Rand.IntN(300_000)) * time.Microsecond
	early := i > 0 && t.Rand.IntN(3) == 0
	if early {
		after = time.Duration(t.Rand.IntN(40_000)) * time.Microsecond
	} else if err := k.waitReady(ctx); err != nil {
		return fmt.Errorf("run %d: %w", i, err)
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	l.run(loading, k, t.Rand)
	select {
	case <-time.After(after):
	case <-k.done:
		return fmt.Errorf("run %d: the gateway ended by itself: %s", i, k.ending())
	}
	stop()
	k.kill()
	t.Logf("run %d: killed after %s, early %v", i, after, early)
	if !k.killed() {
		return fmt.Errorf("run %d: the gateway ended by itself: %s", i, k.ending())
	}
	return nil
}

// childConfig is a small gateway: segments are the smallest there are, and the
// bound leaves room for all.
func (t *Trial) childConfig() *childConfig { return smallGateway(t.Dir, t.Rand) }

func smallGateway(dir string, rnd *rand.Rand) *childConfig {
	return &childConfig{
		Dir: dir, MaxBytes: 64 << 20, SegmentBytes: spool.MinSegmentBytes, Sinks: []string{"cloud"},
		CommitInterval: time.Duration(5+rnd.IntN(50)) * time.Millisecond,
		MaxAge:         time.Duration(20+rnd.IntN(200)) * time.Millisecond,
		SyncInterval:   time.Duration(10+rnd.IntN(60)) * time.Millisecond,
	}
}

type cloudMode int

const (
	cloudWell cloudMode = iota
	cloudDown
	cloudFlaky // fails, throttles, and loses answers after it accepted
)

// cloud is the endpoint as the rows of this file use it.
type cloud struct {
	mu   sync.Mutex
	mode cloudMode
	rnd  *rand.Rand
}

func newCloud(rnd *rand.Rand) *cloud { return &cloud{rnd: rand.New(rand.NewPCG(rnd.Uint64(), 2))} }

func (c *cloud) become(m cloudMode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = m
}

func (c *cloud) answer(string, []byte) (bool, outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.mode {
	case cloudDown:
		return false, failed
	case cloudFlaky:
		switch c.rnd.IntN(4) {
		case 0:
			return false, throttled
		case 1:
			return true, failed // accepted, and the answer is lost
		}
	}
	return true, accepted
}
