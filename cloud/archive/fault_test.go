package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/objects"
)

var errCrash = errors.New("crash")

// fault is a place that fails when it is told to, before or after what it does,
// and from then on always: what was to come after a crash does not come.
type fault struct {
	objects.Place
	mu     sync.Mutex
	fail   func(op, key string) bool
	after  bool
	failed bool
}

func (f *fault) do(op, key string, act func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return errCrash
	}
	f.failed = f.fail(op, key)
	if f.failed && !f.after {
		return errCrash
	}
	err := act()
	if f.failed {
		return errCrash
	}
	return err
}

func (f *fault) Put(ctx context.Context, key string, data []byte) error {
	return f.do("put", key, func() error { return f.Place.Put(ctx, key, data) })
}

func (f *fault) PutFile(ctx context.Context, key, path string) error {
	return f.do("file", key, func() error { return f.Place.PutFile(ctx, key, path) })
}

func (f *fault) Delete(ctx context.Context, key string) error {
	return f.do("delete", key, func() error { return f.Place.Delete(ctx, key) })
}

// pages is DynamoDB that answers with few items at once, counts them, and fails
// at a page, if it is told to.
type pages struct {
	API
	mu      sync.Mutex
	n       int // pages so far
	items   int
	failAt  int // 0: never
	onPage  func(n int)
	failing error
}

func (p *pages) Scan(ctx context.Context, in *dynamodb.ScanInput, o ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	if p.onPage != nil {
		p.onPage(p.n)
	}
	if p.failAt > 0 && p.n >= p.failAt {
		return nil, p.failing
	}
	few := *in
	few.Limit = aws.Int32(5)
	out, err := p.API.Scan(ctx, &few, o...)
	if err == nil {
		p.items += len(out.Items)
	}
	return out, err
}

// TestCrashAtEachStep: wherever a run ends, the manifest says nothing that is
// not so, and the next run completes the archive.
func TestCrashAtEachStep(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after %v", after), func(t *testing.T) {
			r := newRig(t)
			r.put("north", "gw1", "s0001", 1, polled(1, time.Hour, 6)...)
			r.put("north", "gw1", "s0001", 2, polled(1, 30*time.Hour, 6)...)
			r.put("south", "gw1", "s0001", 2, polled(1, 50*time.Hour, 6)...)
			crashes := 0
			for round := range 3 { // the first archive, one of more data, one of fewer parts
				l := small
				if round == 1 {
					r.put("north", "gw1", "s0001", 3, polled(1, 2*time.Hour, 100)...)
					r.late("north", "gw1", "s0001", 4, polled(1, 31*time.Hour, 100)...)
					l.groupRows, l.partBytes = 50, 100
				} else if round == 2 {
					r.put("north", "gw1", "s0001", 5, polled(1, 3*time.Hour, 6)...)
				}
				for step := 1; ; step++ {
					n := 0
					f := &fault{Place: r.place, after: after, fail: func(string, string) bool { n++; return n == step }}
					o := r.options()
					o.Place = f
					_, err := runWith(t.Context(), o, l)
					if err == nil {
						break
					}
					if !errors.Is(err, errCrash) {
						t.Fatalf("round %d, step %d: %v", round, step, err)
					}
					crashes++
					r.honest()
				}
				r.check()
				r.provable()
			}
			if crashes < 5 {
				t.Errorf("only %d crashes", crashes)
			}
		})
	}
}

// honest fails where a manifest and its files, if they are whole, hold less than
// they say: retire has to refuse whatever is not.
func (r *rig) honest() {
	r.t.Helper()
	keys := r.list("manifests/")
	if len(keys) == 0 {
		return
	}
	m := r.manifest()
	if err := m.CheckFiles(r.t.Context(), r.place, nil); err != nil {
		return // and is seen
	}
	rows := int64(0)
	for _, d := range m.Days {
		rows += d.Rows
	}
	counted := int64(0)
	for _, f := range m.Files {
		counted += f.Rows
	}
	if rows != counted {
		r.t.Errorf("the manifest says %d rows, and its files have %d", rows, counted)
	}
}

// TestFinishedDaysAreNotDoneAgain: after a crash just before the manifest.
func TestFinishedDaysAreNotDoneAgain(t *testing.T) {
	r := newRig(t)
	r.fill()
	o := r.options()
	o.Place = &fault{Place: r.place, fail: func(_, key string) bool { return strings.HasPrefix(key, "manifests/") }}
	if _, err := runWith(t.Context(), o, small); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	r.noManifest()
	r.dir = t.TempDir() // on another machine
	if report := r.must(); report.Kept != filledDays || report.Days != 0 || report.WrittenFiles != 0 || report.Rows == 0 {
		t.Errorf("%+v", report)
	}
	// A day that was altered meanwhile is.
	key := r.list("samples/")[3]
	if err := r.place.Put(t.Context(), key, []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	if report := r.must(); report.Kept != filledDays-1 || report.Days != 1 {
		t.Errorf("%+v", report)
	}
}

// TestScanGoesOn: where it was interrupted, by a signal or by AWS.
func TestScanGoesOn(t *testing.T) {
	for name, stop := range map[string]func(p *pages, cancel func()){
		"signal": func(p *pages, cancel func()) {
			p.onPage = func(n int) {
				if n == 11 {
					cancel()
				}
			}
		},
		"denied": func(p *pages, _ func()) { p.failAt, p.failing = 11, &types.ResourceNotFoundException{} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fill()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := &pages{API: r.db}
			stop(p, cancel)
			o := r.options()
			o.DB, o.Segments = p, 2
			_, err := runWith(ctx, o, small)
			if err == nil || strings.Contains(err.Error(), "\n") || name == "signal" && !strings.Contains(err.Error(), "interrupted; run it again") {
				t.Fatal(err)
			}
			r.noManifest()
			first := p.items
			p = &pages{API: r.db}
			o.DB, o.Segments = p, 7 // the interrupted run's count is used
			if _, err := runWith(t.Context(), o, small); err != nil {
				t.Fatal(err)
			}
			r.check()
			r.provable()
			if first < 30 || first+p.items > filledItems+5 {
				t.Errorf("%d items were read, then %d, of %d", first, p.items, filledItems)
			}
		})
	}
}

// TestScanBeginsAnew: where the table is another one of the same name, or the
// interrupted run is old.
func TestScanBeginsAnew(t *testing.T) {
	r := newRig(t)
	r.fill()
	o := r.options()
	p := &pages{API: r.db, failAt: 11, failing: &types.ResourceNotFoundException{}}
	o.DB = p
	if _, err := runWith(t.Context(), o, small); err == nil {
		t.Fatal("no error")
	}
	r.drop()
	r.create(table)
	r.want = nil
	r.put("north", "gw1", "s0001", 1, polled(9, time.Hour, 6)...)
	r.must()
}

// TestThrottled: a table that was dialled down is read, more slowly.
func TestThrottled(t *testing.T) {
	r := newRig(t)
	r.fill()
	waits := 0
	o := r.options()
	fails := 0
	o.DB = &pages{API: r.db}
	o.DB.(*pages).onPage = func(int) {}
	o.DB = &throttled{API: o.DB, fails: &fails}
	var mu sync.Mutex
	o.Sleep = func(context.Context, time.Duration) bool { mu.Lock(); waits++; mu.Unlock(); return true }
	if _, err := runWith(t.Context(), o, small); err != nil {
		t.Fatal(err)
	}
	r.check()
	if waits == 0 {
		t.Error("it did not wait")
	}
}

type throttled struct {
	API
	mu    sync.Mutex
	fails *int
}

func (h *throttled) Scan(ctx context.Context, in *dynamodb.ScanInput, o ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	h.mu.Lock()
	*h.fails++
	again := *h.fails%3 != 0
	h.mu.Unlock()
	if again {
		return nil, &types.ProvisionedThroughputExceededException{}
	}
	return h.API.Scan(ctx, in, o...)
}

// TestTwoRunsAtOnce: on two machines they end in the same archive; on one the
// second says that it has to wait.
func TestTwoRunsAtOnce(t *testing.T) {
	r := newRig(t)
	r.fill()
	var both sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		o := r.options()
		o.Dir = t.TempDir()
		both.Go(func() { _, errs[i] = runWith(t.Context(), o, small) })
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	r.check()
	r.provable()

	held, err := openStore(r.dir, table, "", 1, monday)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.run(); err == nil || !strings.Contains(err.Error(), "another run archives this week") {
		t.Errorf("%v", err)
	}
	if err := held.close(); err != nil {
		t.Fatal(err)
	}
	if report := r.must(); !report.Unchanged {
		t.Errorf("%+v", report)
	}
}

// TestAnotherRunWroteAFile: what a run has not written itself it does not claim.
func TestAnotherRunWroteAFile(t *testing.T) {
	r := newRig(t)
	r.fill()
	o := r.options()
	o.Place = &meddler{r.place}
	if _, err := runWith(t.Context(), o, small); err == nil || !strings.Contains(err.Error(), "another run may have written it") {
		t.Errorf("%v", err)
	}
	r.noManifest()
	r.must()
}

// meddler is a place where somebody else writes one of the files.
type meddler struct{ objects.Place }

func (m *meddler) PutFile(ctx context.Context, key, path string) error {
	if strings.Contains(key, "2026-10-01") {
		return m.Put(ctx, key, []byte("of another"))
	}
	return m.Place.PutFile(ctx, key, path)
}
