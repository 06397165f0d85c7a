package faults

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/internal/clock"
	"millrace/spool"
)

func failpointRow() Row {
	return Row{
		Name: "failpoint", What: "kill at each named point of spool, batch and uploader, the n-th time that it is reached",
		Short: 2, Medium: 30, Full: 7000, Run: runFailpoints,
	}
}

// build makes a program of this module once, with build tags.
func (b *Bench) build(pkg, tags string) (string, error) {
	b.building.Lock()
	defer b.building.Unlock()
	key := pkg + " " + tags
	if path, ok := b.built[key]; ok {
		return path, nil
	}
	path := filepath.Join(b.disk, fmt.Sprintf("built-%d", len(b.built)))
	cmd := exec.Command("go", "build", "-tags", tags, "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	b.built[key] = path
	return path, nil
}

// armedChild is the child with failpoints compiled in.
func (b *Bench) armedChild() (string, error) {
	return b.build("millrace/internal/faults/battery", "failpoints")
}

// act is one run of a program on the spool, which a failpoint may end. It
// reports whether it was.
type act func(ctx context.Context, s *stage, env []string) (killed bool, err error)

// stage is what the acts of one scenario share.
type stage struct {
	t       *Trial
	p       *Plant
	c       *childConfig
	cloud   *cloud
	program string
	rnd     *rand.Rand
}

// scenario is a history that reaches some of the points.
type scenario struct {
	name  string
	sinks []string
	bound int64 // bytes; the usual where 0
	loss  Loss
	acts  []act
}

func scenarios() []scenario {
	return []scenario{
		{name: "busy", acts: []act{busy(cloudFlaky, 350*time.Millisecond), busy(cloudWell, 250*time.Millisecond)}},
		{name: "full", bound: 1 << 20, loss: DeclaredLoss, acts: []act{busy(cloudDown, 700*time.Millisecond)}},
		{name: "poison", loss: DeclaredLoss, acts: []act{poisoned, job("dead"), job("dead")}},
		{name: "corrupt", loss: DeclaredLoss, acts: []act{busy(cloudDown, 350*time.Millisecond), spoilBlocks, spoilSegment, crashProbe, spoilTail, loseTail}},
		{name: "forget", sinks: []string{"cloud", "old"}, acts: []act{busy(cloudWell, 200*time.Millisecond), forget}},
	}
}

// busy loads the gateway for a while and stops it.
func busy(mode cloudMode, lasts time.Duration) act {
	return func(ctx context.Context, s *stage, env []string) (bool, error) {
		s.cloud.become(mode)
		l := load{Producers: 2, Tags: 3, Batch: 4, Window: 4, Payload: 3000, Pause: 4 * time.Millisecond}
		k, err := s.p.start(s.program, s.c, env...)
		if err != nil {
			return false, err
		}
		loading, stop := context.WithCancel(ctx)
		defer stop()
		l.run(loading, k, s.rnd)
		select {
		case <-k.ready:
		case <-k.done:
		}
		select {
		case <-k.done:
		case <-time.After(lasts):
			stop()
			if mode == cloudDown || len(s.c.Sinks) > 1 {
				// An orderly stop would wait for its grace period.
				if len(env) == 0 {
					k.kill()
					return false, nil
				}
				time.Sleep(50 * time.Millisecond)
				select {
				case <-k.done:
				default:
					k.kill()
					return false, nil
				}
			} else {
				s.cloud.become(cloudWell)
				if err := k.stop(ctx); err == nil {
					return false, nil
				} else if !k.killed() {
					return false, err
				}
			}
		}
		if !k.killed() {
			return false, fmt.Errorf("the gateway ended by itself: %s", k.ending())
		}
		return true, nil
	}
}

// poisoned has the cloud refuse every fifth block for good.
func poisoned(ctx context.Context, s *stage, env []string) (bool, error) {
	s.p.Cloud = func(sink string, data []byte) (bool, outcome) {
		h := fnv.New32a()
		h.Write(data)
		if h.Sum32()%3 == 0 {
			return false, refused
		}
		return s.cloud.answer(sink, data)
	}
	return busy(cloudWell, 300*time.Millisecond)(ctx, s, env)
}

// job runs a job on the spool of a gateway that does not run.
func job(name string, args ...string) act {
	return func(ctx context.Context, s *stage, env []string) (bool, error) {
		s.p.Cloud = s.cloud.answer
		c := *s.c
		c.Job, c.Args = name, args
		cmd, logs, err := command(s.program, &c, env)
		if err != nil {
			return false, err
		}
		err = cmd.Run()
		if err != nil && cmd.ProcessState.ExitCode() == -1 {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("job %s: %w: %s", name, err, crashLine(logs.String()))
		}
		return false, nil
	}
}

// forget drops the sink that the configuration no longer names.
func forget(ctx context.Context, s *stage, env []string) (bool, error) {
	s.c.Sinks = []string{"cloud"}
	delete(s.p.Ledger.sinks, "old")
	return job("forget", "old")(ctx, s, env)
}

// spoilBlocks flips bits within the blocks' bytes of the oldest segment.
func spoilBlocks(ctx context.Context, s *stage, env []string) (bool, error) {
	segs, err := segments(s.c.spool())
	if err != nil || len(segs) < 2 {
		return false, err
	}
	data, err := os.ReadFile(segs[0])
	if err != nil {
		return false, err
	}
	// Beyond its first bytes a page in the middle of a large block is data.
	for at := 8 * page; at+page < len(data); at += 3 * page {
		data[at+2000] ^= 0x20
	}
	if err := os.WriteFile(segs[0], data, 0o600); err != nil {
		return false, err
	}
	return busy(cloudWell, 200*time.Millisecond)(ctx, s, env)
}

// spoilSegment overwrites a segment that is not the tail.
func spoilSegment(ctx context.Context, s *stage, env []string) (bool, error) {
	if killed, err := busy(cloudDown, 200*time.Millisecond)(ctx, s, nil); err != nil || killed {
		return killed, err
	}
	segs, err := segments(s.c.spool())
	if err != nil {
		return false, err
	}
	for i, path := range segs[:max(len(segs)-1, 0)] {
		var err error
		switch i % 3 {
		case 0:
			err = os.WriteFile(path, []byte(strings.Repeat("not a segment ", 5000)), 0o600)
		case 1: // nothing is left to salvage, nor to know it by
			err = errors.Join(os.WriteFile(path, nil, 0o600), os.Remove(strings.TrimSuffix(path, ".seg")+".idx"))
		}
		if err != nil {
			return false, err
		}
	}
	return busy(cloudWell, 200*time.Millisecond)(ctx, s, env)
}

// crashProbe spoils an older segment, and has the process that would salvage
// it crash over it.
func crashProbe(ctx context.Context, s *stage, env []string) (bool, error) {
	s.c.CrashProbe = true
	defer func() { s.c.CrashProbe = false }()
	return spoilSegment(ctx, s, env)
}

// spoilTail makes the state of the tail unreadable.
func spoilTail(ctx context.Context, s *stage, env []string) (bool, error) {
	segs, err := segments(s.c.spool())
	if err != nil || len(segs) == 0 {
		return false, err
	}
	f, err := os.OpenFile(segs[len(segs)-1], os.O_WRONLY, 0)
	if err != nil {
		return false, err
	}
	_, err = f.WriteAt([]byte(strings.Repeat("x", page)), page)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, err
	}
	return busy(cloudWell, 150*time.Millisecond)(ctx, s, env)
}

// loseTail removes the newest segment, behind one that says that it was there.
func loseTail(ctx context.Context, s *stage, env []string) (bool, error) {
	if killed, err := busy(cloudDown, 200*time.Millisecond)(ctx, s, nil); err != nil || killed {
		return killed, err
	}
	segs, err := segments(s.c.spool())
	if err != nil || len(segs) < 2 {
		return false, err
	}
	if err := os.Remove(segs[len(segs)-1]); err != nil {
		return false, err
	}
	return busy(cloudWell, 150*time.Millisecond)(ctx, s, env)
}

// deadJob drops the oldest dead letter and puts the others back.
func deadJob(c *childConfig) error {
	sp, _, err := spool.Open(context.Background(), jobOptions(c))
	if err != nil {
		return err
	}
	dead, err := sp.Dead()
	if err != nil {
		return err
	}
	for i, d := range dead {
		if i == 0 {
			err = sp.DropDead(d.ID)
		} else {
			err = sp.RetryDead(d.ID)
		}
		if err != nil {
			return err
		}
	}
	return sp.Close()
}

func forgetJob(c *childConfig) error {
	sp, _, err := spool.Open(context.Background(), jobOptions(c))
	if err != nil {
		return err
	}
	// A run that was killed may have forgotten it already.
	if _, known := sp.Stats().Sinks[c.Args[0]]; known {
		if err := sp.Forget(c.Args[0]); err != nil {
			return err
		}
	}
	return sp.Close()
}

func jobOptions(c *childConfig) spool.Options {
	return spool.Options{Dir: c.spool(), MaxBytes: c.MaxBytes, SegmentBytes: c.SegmentBytes, Sinks: c.Sinks, Clock: clock.System{}, Log: stderrLog(), Probe: c.probe}
}

// play plays a scenario with one act armed, or traced; the rest is as usual.
// Then the fault is over, and everything must be there.
func (s *scenario) play(ctx context.Context, t *Trial, program, dir string, rnd *rand.Rand, env func(act int) []string) (killed bool, err error) {
	sinks := s.sinks
	if sinks == nil {
		sinks = []string{"cloud"}
	}
	p, err := NewPlant(sinks...)
	if err != nil {
		return false, err
	}
	c := smallGateway(dir, rnd)
	c.Sinks = sinks
	if s.bound > 0 {
		c.MaxBytes = s.bound
	}
	st := &stage{t: t, p: p, c: c, cloud: newCloud(rnd), program: program, rnd: rnd}
	p.Cloud = st.cloud.answer
	for i, a := range s.acts {
		k, err := a(ctx, st, env(i))
		if err != nil {
			return killed, fmt.Errorf("%s, act %d: %w", s.name, i, err)
		}
		killed = killed || k
	}
	st.cloud.become(cloudWell)
	p.Cloud = st.cloud.answer
	k, err := p.start(program, c)
	if err != nil {
		return killed, err
	}
	if err := k.settle(ctx); err != nil {
		return killed, fmt.Errorf("%s, at the end: %w", s.name, err)
	}
	dead, err := deadBlocks(c.spool())
	if err != nil {
		return killed, err
	}
	return killed, p.Ledger.Check(s.loss, dead...)
}

// deadBlocks reads the dead letters of a spool that no gateway holds.
func deadBlocks(dir string) (out [][]byte, err error) {
	r, err := spool.OpenReadOnly(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	list, err := r.Dead()
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		b, err := r.PeekDead(d.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, b.Data)
	}
	return out, nil
}

// reached is how often each act of a scenario came to a point.
type reached map[string]map[int]int

// trace plays a scenario and counts.
func (s *scenario) trace(ctx context.Context, t *Trial, program string) (reached, error) {
	dir, err := t.Sub("trace-" + s.name)
	if err != nil {
		return nil, err
	}
	file := func(i int) string { return filepath.Join(dir, fmt.Sprintf("trace-%d", i)) }
	_, err = s.play(ctx, t, program, dir, rand.New(rand.NewPCG(7, 7)), func(i int) []string { return []string{"MILLRACE_FAILPOINT_TRACE=" + file(i)} })
	if err != nil {
		return nil, fmt.Errorf("traced: %w", err)
	}
	out := reached{}
	for i := range s.acts {
		text, err := os.ReadFile(file(i))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			name := strings.TrimSpace(line)
			if out[name] == nil {
				out[name] = map[int]int{}
			}
			out[name][i]++
		}
	}
	return out, errors.Join(err, os.RemoveAll(dir))
}

// place is where a point can be met.
type place struct {
	scenario *scenario
	act      int
	times    int
}

// places traces every scenario.
func (t *Trial) places(ctx context.Context, program string) (map[string][]place, error) {
	if t.Bench.places != nil {
		return t.Bench.places, nil
	}
	out := map[string][]place{}
	all := scenarios()
	traces, errs := make([]reached, len(all)), make([]error, len(all))
	var tracing sync.WaitGroup
	for i := range all {
		tracing.Go(func() { traces[i], errs[i] = all[i].trace(ctx, t, program) })
	}
	tracing.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i := range all {
		for name, acts := range traces[i] {
			for a, n := range acts {
				out[name] = append(out[name], place{&all[i], a, n})
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b place) int { return strings.Compare(a.scenario.name, b.scenario.name)*100 + a.act - b.act })
	}
	t.Bench.places = out
	return out, nil
}

// runFailpoints goes round all points, from one that the seed decides, and
// kills once at each.
func runFailpoints(ctx context.Context, t *Trial) (int, error) {
	program, err := t.armedChild()
	if err != nil {
		return 0, err
	}
	places, err := t.places(ctx, program)
	if err != nil {
		return 0, err
	}
	names := make([]string, 0, len(places))
	for name := range places {
		names = append(names, name)
	}
	slices.Sort(names)
	first := t.Rand.IntN(len(names))
	for i := range min(len(names), t.Left) {
		if t.over(ctx) {
			return i, ctx.Err()
		}
		name := names[(first+i)%len(names)]
		// Some places are met by chance alone: the next one has its turn then.
		killed := false
		for _, at := range t.Rand.Perm(len(places[name])) {
			where := places[name][at]
			n := 1 + t.Rand.IntN(where.times)
			if killed, err = t.killAt(ctx, program, i, name, where, n); err != nil {
				return i + 1, fmt.Errorf("point %q reached up to %d times in act %d of %q: %w", name, n, where.act, where.scenario.name, err)
			}
			if killed {
				break
			}
		}
		if !killed {
			return i + 1, fmt.Errorf("point %q was reached when it was looked for, and is not again", name)
		}
	}
	return min(len(names), t.Left), nil
}

// killAt kills at a point. A run that does not come there as often as the
// traced one did is played again for an earlier time. It reports whether the
// gateway was killed there.
func (t *Trial) killAt(ctx context.Context, program string, i int, name string, where place, n int) (bool, error) {
	for try := 0; ; try++ {
		dir, err := t.Sub(fmt.Sprintf("play-%d-%d", i, try))
		if err != nil {
			return false, err
		}
		killed, err := where.scenario.play(ctx, t, program, dir, rand.New(rand.NewPCG(t.Seed, uint64(i))), func(a int) []string {
			if a == where.act {
				return []string{fmt.Sprintf("MILLRACE_FAILPOINT=%s:%d", name, n)}
			}
			return nil
		})
		if err != nil {
			return killed, err
		}
		if err := os.RemoveAll(dir); err != nil {
			return killed, err
		}
		if killed || try == 3 {
			return killed, nil
		}
		n = (n + 2) / 3
	}
}
