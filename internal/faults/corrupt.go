package faults

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/sample/block"
)

// statesPerSpool is how often one spool is damaged.
const statesPerSpool = 500

// startWithin is how soon the gateway must start, whatever it finds.
const startWithin = 5 * time.Second

func corruptRow() Row {
	return Row{
		Name: "corrupt", What: "bit flips, zeroed, swapped, truncated and garbage pages: it starts, salvages, and what is missing is declared",
		Short: 20, Medium: 300, Full: 50_000, Run: runCorrupt,
	}
}

// runCorrupt fills a spool while the cloud is down, and then damages copies of
// it: one or two files, each start a trial.
func runCorrupt(ctx context.Context, t *Trial) (states int, err error) {
	p, err := NewPlant("cloud")
	if err != nil {
		return 0, err
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return 0, err
	}
	h := &history{dec: dec}
	p.OnAck, p.OnArrive = h.acked, h.arrived
	c := t.childConfig()
	s := &stage{t: t, p: p, c: c, cloud: newCloud(t.Rand), program: t.self, rnd: t.Rand}
	p.Cloud = s.cloud.answer
	if _, err := poisoned(ctx, s, nil); err != nil { // dead letters too
		return 0, err
	}
	p.Cloud = s.cloud.answer
	if _, err := busy(cloudDown, time.Duration(100+t.Rand.IntN(400))*time.Millisecond)(ctx, s, nil); err != nil {
		return 0, err
	}
	dead, err := deadBlocks(c.spool())
	if err != nil {
		return 0, err
	}
	for _, data := range dead {
		h.arrived(data) // held by the dead letters, or declared when they are damaged
	}
	config := *c
	config.ChildProbe = true
	v := newVerifier(t.self, config)
	defer func() { _ = v.end() }()
	states = min(statesPerSpool, t.Left)
	slowest := time.Duration(0)
	for i := range states {
		if t.over(ctx) {
			return i, ctx.Err()
		}
		rnd := rand.New(rand.NewPCG(t.Seed, uint64(i)+100))
		dir := filepath.Join(t.Dir, "state")
		if err := copyTree(c.spool(), dir); err != nil {
			return i, err
		}
		what, err := damageSome(rnd, dir)
		if err != nil {
			return i, err
		}
		got, err := v.look(dir)
		if err == nil {
			err = h.hold(p.Ledger, math.MaxInt, got, DeclaredLoss)
			slowest = max(slowest, got.Took)
		}
		if err == nil && t.Form != Short && got.Took > startWithin {
			err = fmt.Errorf("opening took %s", got.Took)
		}
		if err != nil {
			return i + 1, fmt.Errorf("state %d, %s: %w", i, what, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return i, err
		}
	}
	t.Logf("the slowest start took %s", slowest)
	return states, nil
}

// damageSome spoils one or two files of a spool.
func damageSome(rnd *rand.Rand, dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.*"))
	if err != nil {
		return "", err
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.Contains(f, ".corrupt-") })
	slices.Sort(files)
	var done []string
	for range 1 + rnd.IntN(2) {
		file := files[rnd.IntN(len(files))]
		if rnd.IntN(3) == 0 { // the tail more often than its share
			segs, err := segments(dir)
			if err != nil {
				return "", err
			}
			file = segs[len(segs)-1]
		}
		what, err := damage(rnd, file)
		if err != nil {
			return "", err
		}
		done = append(done, what)
	}
	return strings.Join(done, ", "), nil
}

// copyTree copies a directory of files.
func copyTree(from, to string) error {
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range list {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
