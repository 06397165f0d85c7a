package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/sample"
)

// steady is a clock that stands.
type steady struct{}

func (steady) Now() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 123, time.UTC) }

func options(dir string) Options {
	return Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Clock: steady{}}
}

func mustOpen(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // most tests close it before
	return l
}

func outcome(i int) *Record {
	return &Record{Kind: "outcome", Target: fmt.Sprint("sp", i%3), ID: fmt.Sprint("r", i), Version: uint64(i), Outcome: "written",
		Old: ValueOf(sample.FloatValue(1)), New: ValueOf(sample.IntValue(math.MaxInt64))}
}

// add appends n records one by one.
func add(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(outcome(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func replayed(t *testing.T, l *Log) (out []Record) {
	t.Helper()
	if err := l.Replay(func(r *Record) error { out = append(out, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func whole(t *testing.T, dir string, heads ...Head) *Report {
	t.Helper()
	rep, err := Verify(dir, heads, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Whole() {
		t.Fatalf("the log is not whole: %q", rep.Faults)
	}
	return rep
}

func TestWhatWasAppendedIsReplayed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	l := mustOpen(t, options(dir))
	values := []sample.Value{sample.FloatValue(0.1), sample.FloatValue(math.Inf(-1)), sample.IntValue(math.MinInt64), sample.BoolValue(true), sample.StringValue("a\n\"<é")}
	var want []*Record
	for i, v := range values {
		r := outcome(i)
		r.New, r.Detail, r.Who, r.State = ValueOf(v), "line\nbreak", "root (uid 0)", json.RawMessage(`{"v":1}`)
		want = append(want, r)
	}
	if err := l.Append(want...); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(outcome(9)); err != nil {
		t.Fatal(err)
	}
	n, hash := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(outcome(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed log says %v", err)
	}
	l = mustOpen(t, options(dir))
	got := replayed(t, l)
	if got[0].Kind != KindCheckpoint || len(got) != len(want)+2 {
		t.Fatalf("%+v", got)
	}
	for i, r := range want {
		g := got[i+1]
		if *g.New != *r.New || g.Detail != r.Detail || string(g.State) != string(r.State) || g.N != uint64(i+2) || g.First != 2 || g.Last != 6 || !g.At.Equal(steady{}.Now()) {
			t.Errorf("got %+v, want %+v", g, *r)
		}
	}
	if n2, h2 := l.Head(); n2 != n || h2 != hash || got[len(got)-1].Hash != hash {
		t.Errorf("the head is %d %s, it was %d %s", n2, h2, n, hash)
	}
	whole(t, dir, Head{n, hash}, Head{3, got[2].Hash})
}

func TestOnlyOneAppends(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, options(dir))
	if _, err := Open(options(dir)); err == nil || !strings.Contains(err.Error(), "in use by another") {
		t.Errorf("a second one says %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, options(dir))
}

func TestManyAppendAtOnce(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, options(dir))
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			for range 10 {
				if err := l.Append(outcome(i), outcome(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if rep := whole(t, dir); rep.Records != 401 {
		t.Errorf("%d records", rep.Records)
	}
}

func TestANewFileStartsWithTheState(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.MaxFileBytes, o.Keep = 2000, 3
	l := mustOpen(t, o)
	count := 0
	l.Checkpoint(func() (json.RawMessage, error) { return json.Marshal(count) })
	for i := range 100 {
		if err := l.Append(outcome(i)); err != nil {
			t.Fatal(err)
		}
		count++
	}
	numbers, err := list(dir)
	if err != nil || len(numbers) != 3 || numbers[0] < 5 {
		t.Fatalf("files %v, %v", numbers, err)
	}
	rep := whole(t, dir)
	if rep.First == 1 || rep.Files != 3 {
		t.Errorf("%+v", rep)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, o)
	got := replayed(t, l)
	var state int
	if err := json.Unmarshal(got[0].State, &state); err != nil {
		t.Fatal(err)
	}
	if state+len(got)-1 != 100 {
		t.Errorf("the checkpoint says %d, and %d records follow", state, len(got)-1)
	}
	// The folder would follow on nothing if a file before went missing.
	if err := os.Remove(filepath.Join(dir, fileName(numbers[1]))); err != nil {
		t.Fatal(err)
	}
	rep, err = Verify(dir, nil, nil)
	if err != nil || rep.Whole() || !strings.Contains(rep.Faults[0], fileName(numbers[1])) {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestAnIncompleteEndIsCutOff leaves the last append in every shape that a
// crash can: it counts as a whole or not at all.
func TestAnIncompleteEndIsCutOff(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, options(dir))
	add(t, l, 3)
	path := filepath.Join(dir, fileName(1))
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(outcome(10), outcome(11), outcome(12)); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	last := after[len(before):]
	zero := func(from, to int) []byte {
		b := bytes.Clone(last)
		clear(b[from:to])
		return b
	}
	ends := [][]byte{zero(0, len(last)), zero(0, len(last)/3), zero(len(last)/3, len(last)/2), zero(len(last)-10, len(last)), []byte("{"), []byte("\n"), bytes.Repeat([]byte("x\n"), 100)}
	for cut := 1; cut < len(last); cut += 7 {
		ends = append(ends, last[:cut])
	}
	for i, end := range ends {
		if err := os.WriteFile(path, append(bytes.Clone(before), end...), 0o600); err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, options(dir))
		got := replayed(t, l)
		if len(got) != 5 || got[3].ID != "r2" || got[4].Kind != KindRecovered || !strings.Contains(got[4].Detail, fmt.Sprint(len(end))) {
			t.Fatalf("end %d: %+v", i, got)
		}
		if err := l.Append(outcome(20)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		whole(t, dir)
	}
}

// TestDamageIsNotMended changes what was durable: the log does not open, says
// where, and leaves the files alone.
func TestDamageIsNotMended(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.MaxFileBytes = 4000
	l := mustOpen(t, o)
	l.Checkpoint(func() (json.RawMessage, error) { return json.RawMessage("1"), nil })
	add(t, l, 20)
	if err := l.Append(outcome(1), outcome(2)); err != nil {
		t.Fatal(err)
	}
	add(t, l, 2)
	n, hash := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	numbers, err := list(dir)
	if err != nil || len(numbers) < 2 {
		t.Fatal(numbers, err)
	}
	newest := fileName(numbers[len(numbers)-1])
	prior := fileName(numbers[len(numbers)-2])
	split := func(b []byte) [][]byte { return bytes.SplitAfter(b, []byte("\n")) }
	for what, c := range map[string]struct {
		file   string
		change func([]byte) []byte
		says   string
	}{
		"a flipped bit":             {newest, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, newest + " line "},
		"a missing line":            {newest, func(b []byte) []byte { l := split(b); return bytes.Join(slices.Delete(l, 2, 3), nil) }, newest + " line 3"},
		"exchanged lines":           {newest, func(b []byte) []byte { l := split(b); l[1], l[2] = l[2], l[1]; return bytes.Join(l, nil) }, newest + " line 2"},
		"no checkpoint":             {newest, func(b []byte) []byte { return bytes.Join(split(b)[1:], nil) }, "checkpoint"},
		"nothing":                   {newest, func([]byte) []byte { return nil }, "no record"},
		"zeros":                     {newest, func(b []byte) []byte { clear(b); return b }, newest},
		"the end of the one before": {prior, func(b []byte) []byte { l := split(b); return bytes.Join(l[:len(l)-2], nil) }, prior},
	} {
		path := filepath.Join(dir, c.file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := c.change(bytes.Clone(good))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(o)
		if err == nil {
			_ = l.Close()
			t.Errorf("%s: it opens", what)
			continue
		}
		if s := err.Error(); !strings.Contains(s, c.says) || !strings.Contains(s, "millrace mirror audit verify") || strings.Contains(s, "\n") {
			t.Errorf("%s: %s", what, s)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("%s: the file was changed", what)
		}
		rep, err := Verify(dir, []Head{{n, hash}}, nil)
		if err != nil || rep.Whole() {
			t.Errorf("%s: verify says %+v, %v", what, rep, err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		whole(t, dir, Head{n, hash})
	}
}

// TestAHeadThatWasNotedElsewhere finds what no chain can: a log that was cut
// off or made anew.
func TestAHeadThatWasNotedElsewhere(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, options(dir))
	add(t, l, 5)
	n, hash := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		head Head
		says string
	}{
		{Head{n, hash}, ""},
		{Head{n + 1, hash}, "its end was cut off"},
		{Head{n - 1, hash}, "another hash"},
	} {
		rep, err := Verify(dir, []Head{c.head}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.says == "" && !rep.Whole() || c.says != "" && (rep.Whole() || !strings.Contains(rep.Faults[0], c.says)) {
			t.Errorf("%+v: %q", c.head, rep.Faults)
		}
	}
	if h, err := ParseHead(fmt.Sprintf("%d:%s", n, hash)); err != nil || h != (Head{n, hash}) {
		t.Errorf("%+v, %v", h, err)
	}
	for _, bad := range []string{"", "1", "0:" + hash, "x:" + hash, "1:" + hash[1:], "1:" + strings.ToUpper(hash[:63]) + "G"} {
		if _, err := ParseHead(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestVerifyKnowsAnEndThatIsTorn as a start does: bad lines with the rest of
// the same append behind them are no damage.
func TestVerifyKnowsAnEndThatIsTorn(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, options(dir))
	add(t, l, 3)
	if err := l.Append(outcome(7), outcome(8), outcome(9)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fileName(1))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	clear(lines[5][:40]) // the second of the three
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if rep := whole(t, dir); rep.Unfinished == 0 {
		t.Errorf("%+v", rep)
	}
	lines[6] = nil
	clear(lines[3][:40]) // one before, which was durable
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if rep, err := Verify(dir, nil, nil); err != nil || rep.Whole() {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestShow(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.MaxFileBytes = 3000
	l := mustOpen(t, o)
	l.Checkpoint(func() (json.RawMessage, error) { return json.RawMessage("1"), nil })
	add(t, l, 30)
	if err := l.Append(&Record{Kind: "outcome", Target: "sp1", ID: "x", Outcome: "refused", Reason: "above_max", At: steady{}.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    Filter
		want int
		last string
	}{
		{Filter{}, 31, "x"}, {Filter{Last: 3}, 3, "x"}, {Filter{Last: 300}, 31, "x"}, {Filter{Target: "sp1"}, 11, "x"}, {Filter{Target: "sp0", Last: 2}, 2, "r27"},
		{Filter{Outcome: "refused"}, 1, "x"}, {Filter{Reason: "above_max"}, 1, "x"}, {Filter{ID: "r7"}, 1, "r7"}, {Filter{Since: steady{}.Now().Add(time.Minute)}, 1, "x"}, {Filter{ID: "none"}, 0, ""},
	} {
		n, last := 0, ""
		if err := Show(dir, c.f, func(r *Record) error { n++; last = r.ID; return nil }); err != nil {
			t.Fatal(err)
		}
		if n != c.want || last != c.last {
			t.Errorf("%+v: %d records, the last is %q", c.f, n, last)
		}
	}
}

// TestARecordIsBounded: one that is too large is refused, and nothing is
// written of those beside it.
func TestARecordIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, options(dir))
	if err := l.Append(outcome(1), &Record{Kind: "outcome", Detail: strings.Repeat("x", maxLine)}); err == nil {
		t.Fatal("it is taken")
	}
	add(t, l, 1)
	if rep := whole(t, dir); rep.Records != 2 {
		t.Errorf("%+v", rep)
	}
}

func FuzzDamagedFiles(f *testing.F) {
	dir := f.TempDir()
	l, err := Open(options(dir))
	if err != nil {
		f.Fatal(err)
	}
	for i := range 4 {
		if err := l.Append(outcome(i), outcome(i)); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, fileName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName(1)), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(dir, nil, nil); err != nil {
			t.Fatal(err)
		}
		l, err := Open(options(dir))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is not one line", err)
			}
			return
		}
		if err := errors.Join(l.Append(outcome(1)), l.Close()); err != nil {
			t.Fatal(err)
		}
		whole(t, dir)
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, err := Open(options(b.TempDir()))
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			for b.Loop() {
				records := make([]*Record, n)
				for i := range records {
					records[i] = outcome(i)
				}
				if err := l.Append(records...); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
