package spool

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const childEnv = "MILLRACE_SPOOL_PROBE_CHILD"

// TestProbeChild is the process that the spool starts in the tests below. What
// it does instead of its work is in the environment.
func TestProbeChild(t *testing.T) {
	how, given := os.LookupEnv(childEnv)
	if !given {
		t.Skip("it is started by other tests")
	}
	args := os.Args[slices.Index(os.Args, "--")+1:]
	salvages := args[slices.Index(args, "-salvage")+1] != ""
	switch {
	case how == "hang" && !salvages:
		time.Sleep(time.Hour)
	case how == "crash" && !salvages, how == "crash always":
		_ = *(*int)(nil)
	case how == "full" && salvages:
		_, _ = os.Stdout.WriteString(`{"verdict":"full","why":"no space left on device"}`)
		os.Exit(0)
	case how == "talk" && !salvages:
		_, _ = os.Stdout.WriteString("....{\"verdict\":")
		os.Exit(0)
	}
	os.Exit(ProbeMain(args, os.Stdout))
}

func childThat(how string) func(context.Context, ...string) *exec.Cmd {
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"-test.run=^TestProbeChild$", "--"}, args...)...)
		cmd.Env = append(os.Environ(), childEnv+"="+how)
		return cmd
	}
}

// A child that works, hangs, crashes or talks nonsense about a good spool: all
// is there afterwards, and the state too, since the salvage finds it.
func TestProbeInAChild(t *testing.T) {
	for how, why := range map[string]string{
		"work": "", "hang": "did not get on for", "crash": "crashed: exit status 2 panic:", "talk": "said nothing that reads",
	} {
		t.Run(how, func(t *testing.T) {
			w := prepare(t)
			if err := w.s.Bury("cloud", 1, "x"); err != nil {
				t.Fatal(err)
			}
			w.ack("cloud", 1)
			epoch := w.st.Epoch
			w.close()
			w.o.Probe, w.h.stall = childThat(how), 20*time.Second
			if how == "hang" {
				w.h.stall = 50 * time.Millisecond
			}
			w.open()
			if w.st.Created || w.st.Epoch != epoch || len(w.st.Parts) != 1 || len(w.st.Meta) != 1 {
				t.Errorf("state %+v", w.st)
			}
			equal(t, "dead letters", len(first(w.s.Dead())), 1)
			equal(t, "blocks", w.drain("cloud"), 11)
			w.balance("cloud")
			equal(t, "losses", len(w.s.Losses()), 0)
			salvaged := uint64(4) // three segments and the dead letters
			if why == "" {
				salvaged = 0
			} else if !strings.Contains(w.logs.String(), why) {
				t.Errorf("the log does not say %q", why)
			}
			equal(t, "salvaged", w.s.Stats().Salvaged, salvaged)
			w.o.Probe = nil
			w.reopen()
			equal(t, "salvaged at the next start", w.s.Stats().Salvaged, uint64(0))
		})
	}
}

// Where nothing can be salvaged the spool starts all the same, with a new epoch.
func TestProbeThatAlwaysCrashes(t *testing.T) {
	w := prepare(t)
	w.close()
	w.o.Probe = childThat("crash always")
	w.open()
	if !w.st.Created {
		t.Error("the state is kept")
	}
	if l := w.s.Losses(); len(l) == 0 || !l[0].Unknown {
		t.Errorf("losses %+v", l)
	}
	w.drain("cloud")
	aside, _ := filepath.Glob(filepath.Join(w.o.Dir, "*"+corruptMark+"*"))
	equal(t, "put aside", len(aside), 3)
	lost := 0
	for _, l := range w.s.Losses() {
		if l.Stream == 1 { // the older segments, by their indexes
			lost += int(l.ToSeq-l.FromSeq) + 1
		}
	}
	equal(t, "blocks declared", lost, 8)
	w.o.Probe = nil
}

// Where no child can be started, the file is looked at here.
func TestProbeWithoutAProcess(t *testing.T) {
	w := prepare(t)
	w.close()
	w.o.Probe = func(ctx context.Context, _ ...string) *exec.Cmd {
		return exec.CommandContext(ctx, filepath.Join(t.TempDir(), "nothing"))
	}
	w.open()
	equal(t, "salvaged", w.s.Stats().Salvaged, uint64(0))
	equal(t, "blocks", w.drain("cloud"), 12)
}

// Closing does not wait for a child that hangs, and a reader hears of it.
func TestCloseWhileProbing(t *testing.T) {
	w := prepare(t)
	w.close()
	started := make(chan struct{}, 9)
	w.h.probe = func(j *probeJob) {
		if j.Role == roleSegment {
			started <- struct{}{}
		}
	}
	w.open()
	w.s.o.Probe = childThat("hang")
	read := make(chan error, 1)
	go func() { _, err := w.s.Read("cloud", 0, 1, 1); read <- err }()
	<-started
	w.close()
	if err := <-read; err == nil {
		t.Error("it was read")
	}
	w.o.Probe = nil
}

// The tail is looked at by the start, an older segment when it is read or when
// the one before it is, and a segment that nobody reads never.
func TestProbesLazily(t *testing.T) {
	w := newWorld(t).open()
	for range 6 {
		w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: true})
	}
	w.close()
	probed := make(chan uint64, 99)
	w.h.probe = func(j *probeJob) { probed <- j.ID }
	w.open()
	equal(t, "at the start", <-probed, 7)
	first(w.s.List(99))
	w.s.Stats()
	w.commit(&Commit{Blocks: []Block{w.block(1, 3000)}, Rotate: true})
	w.s.commitMu.Lock()
	err := w.s.evict(w.s.segs[0])
	w.s.commitMu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "by listing, rotating and evicting", len(probed), 0)
	equal(t, "the oldest", numbers(w.read("cloud", 0, 1)), []uint64{2})
	equal(t, "by reading", <-probed, 2)
	equal(t, "ahead of the reader", <-probed, 3)
	w.read("cloud", 0, 1)
	w.close()
	equal(t, "by reading there again", len(probed), 0)
	w.open()
	<-probed // the tail
	if _, err := w.s.Peek(5); err != nil {
		t.Fatal(err)
	}
	equal(t, "by a look at block 5", <-probed, 5)
	w.drain("cloud")
	w.balance("cloud")
}

// manyBlocks fills a tail whose list of blocks takes several pages.
func manyBlocks(t *testing.T) *world {
	w := newWorld(t).open()
	for range 6 {
		c := &Commit{}
		for i := range 30 {
			c.Blocks = append(c.Blocks, w.block(uint32(i%3), 20+i%5*600))
		}
		w.commit(c)
	}
	w.commit(&Commit{Parts: []Part{part(7, 70), part(8, 80)}, Meta: []KV{{"k", []byte("v")}}})
	return w
}

// branchPages lists the pages of a file that lead to others.
func branchPages(t *testing.T, path string) (ids []uint64) {
	t.Helper()
	p, err := openPages(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	newest, _ := p.newest()
	for id := uint64(2); id < newest.high; id++ {
		if r, err := p.read(id); err == nil && r.flags == branchFlag {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		t.Fatal("the file has no branch")
	}
	return ids
}

// Pages that run in circles are found, and everything on them is rescued.
func TestPagesInCircles(t *testing.T) {
	for name, rotate := range map[string]bool{"tail": false, "older": true} {
		t.Run(name, func(t *testing.T) {
			w := manyBlocks(t)
			if rotate {
				w.commit(&Commit{Blocks: []Block{w.block(7, 9), w.block(8, 9)}, Rotate: true})
			}
			w.close()
			data, err := os.ReadFile(w.path(1))
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range branchPages(t, w.path(1)) {
				// Every child is the page itself.
				page := data[int(id)*os.Getpagesize():]
				for i := range int(binary.NativeEndian.Uint16(page[10:])) {
					binary.NativeEndian.PutUint64(page[pageHeadLen+i*branchElemLen+8:], id)
				}
			}
			if err := os.WriteFile(w.path(1), data, 0o600); err != nil {
				t.Fatal(err)
			}
			w.open()
			if w.st.Created {
				t.Error("a new epoch")
			}
			if !rotate {
				equal(t, "parts", len(w.st.Parts), 2)
			}
			equal(t, "blocks", w.drain("cloud"), len(w.committed))
			w.balance("cloud")
			equal(t, "salvaged", w.s.Stats().Salvaged, uint64(1))
		})
	}
}

// A damaged segment for whose rebuilt copy there is no space waits for it.
func TestSalvageWaitsForSpace(t *testing.T) {
	w := prepare(t)
	w.close()
	spoil(t, w.path(1), payload(1, 2, 2000), 1000)
	w.o.Probe, w.h.stall = childThat("full"), 20*time.Second
	tries := 0
	w.h.probe = func(j *probeJob) {
		if j.Salvage != "" {
			tries++
		}
	}
	w.open()
	for range 3 {
		as[*FullError](t, second(w.s.Read("cloud", 0, 9, 1<<20)))
	}
	equal(t, "losses", len(w.s.Losses()), 0)
	w.close()
	// The reserve was given up for it, and it was tried again then.
	equal(t, "tries within a minute", tries, 2)
	w.o.Probe = nil
	w.open()
	equal(t, "blocks", w.drain("cloud"), 11)
	w.balance("cloud")
}

func second[T any](_ T, err error) error { return err }
