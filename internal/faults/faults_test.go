package faults

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestMain is the gateway under test where a trial started it as such.
func TestMain(m *testing.M) {
	if IsChild() {
		os.Exit(RunChild())
	}
	os.Exit(m.Run())
}

// withBench gives a test what trials share.
func withBench(t *testing.T) *Bench {
	t.Helper()
	b, err := newBench()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// TestShort runs the short form of every row.
func TestShort(t *testing.T) {
	b := withBench(t)
	for _, r := range Rows() {
		t.Run(r.Name, func(t *testing.T) {
			var out bytes.Buffer
			got, err := b.run(context.Background(), []Row{r}, Options{Form: Short, Seed: rand.Uint64() >> 12, Out: &out})
			t.Log("\n" + out.String())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range got {
				if c.Skipped != "" && !Strict() {
					t.Skip(c.Skipped)
				}
			}
			if err := Err(got, Strict()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("every point is reached", func(t *testing.T) { everyPoint(t, b) })
}

// everyPoint holds the points named in the source against those that the
// scenarios reach.
func everyPoint(t *testing.T, b *Bench) {
	if b.places == nil {
		t.Skip("the points were not looked for")
	}
	direct := regexp.MustCompile(`failpoint\.At\("([^"]+)"\)`)
	hook := regexp.MustCompile(`hooks\.at\("([^"]+)"\)`)
	transaction := regexp.MustCompile(`(?:store|transact)\("([^"]+)"`)
	named := map[string]string{}
	for _, dir := range []string{"spool", "gateway/batch", "uploader"} {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no sources in %s: %v", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range direct.FindAllSubmatch(text, -1) {
				named[string(m[1])] = f
			}
			for _, m := range hook.FindAllSubmatch(text, -1) {
				named["spool: "+string(m[1])] = f
			}
			for _, m := range transaction.FindAllSubmatch(text, -1) {
				for _, suffix := range []string{"", " written", " done"} {
					named["spool: "+string(m[1])+suffix] = f
				}
			}
		}
	}
	var missed []string
	for name, file := range named {
		if filepath.Base(file) == "thin.go" && len(b.places[name]) == 0 {
			// The ledger outside cannot tell which samples of a window are to be
			// kept. The spool's own test of a crash in Replace goes through these.
			t.Logf("not reached by a gateway: %s", name)
			continue
		}
		if strings.HasPrefix(name, "spool: rewrite") && len(b.places[name]) == 0 {
			// Whether a gateway of the scenarios comes to keep part of a segment is
			// left to chance. The spool's own tests come here always.
			t.Logf("not reached by a gateway: %s", name)
			continue
		}
		if len(b.places[name]) == 0 {
			missed = append(missed, name+" ("+filepath.Base(file)+")")
		}
	}
	slices.Sort(missed)
	if len(missed) > 0 {
		t.Errorf("no scenario of the failpoint row reaches %d of %d points: %s", len(missed), len(named), strings.Join(missed, ", "))
	}
	t.Logf("%d points named, %d reached", len(named), len(b.places))
}

// sabotaged runs a row's trials on a gateway whose guarantee is broken on
// purpose, until one fails.
func sabotaged(t *testing.T, name string, most int, run func(ctx context.Context, t *Trial, program string, env string) error) {
	b := withBench(t)
	program, err := b.armedChild()
	if err != nil {
		t.Fatal(err)
	}
	var seed atomic.Uint64
	var noticed atomic.Bool
	var trying sync.WaitGroup
	for range 4 {
		trying.Go(func() {
			r := Row{Run: func(ctx context.Context, t *Trial) (int, error) {
				return 1, run(ctx, t, program, "MILLRACE_SABOTAGE="+name)
			}}
			for !noticed.Load() {
				n := seed.Add(1)
				if n > uint64(most) {
					return
				}
				_, _, err := runTrial(context.Background(), b, &r, Options{}, n, 40, time.Now())
				if err == nil {
					continue
				}
				if !strings.Contains(err.Error(), "acknowledged") && !strings.Contains(err.Error(), "a loss is declared") {
					t.Errorf("it fails for another reason: %v", err)
				}
				t.Logf("seed %d: %v", n, err)
				noticed.Store(true)
			}
		})
	}
	trying.Wait()
	if !noticed.Load() {
		t.Errorf("%d trials against %s, and the battery noticed nothing", most, name)
	}
}

// The power-cut row notices a spool that does not sync.
func TestNoticesNoSync(t *testing.T) {
	for _, n := range []Need{needRoot(), needFUSE()} {
		if why := n.Missing(); why != "" {
			t.Skip(why)
		}
	}
	sabotaged(t, "nosync", 3, func(ctx context.Context, t *Trial, program, env string) error {
		_, err := t.powerCut(ctx, program, env)
		return err
	})
}

// The kill row notices a gateway that acknowledges before it commits.
func TestNoticesEarlyAck(t *testing.T) {
	sabotaged(t, "ack-early", 60, func(ctx context.Context, t *Trial, program, env string) error {
		_, err := t.killRun(ctx, program, 1, env)
		return err
	})
}
