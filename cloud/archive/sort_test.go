package archive

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/cloud/lake"
	"millrace/sample"
)

// TestMoreThanMemoryHolds: with runs of 50 rows, of which 3 are merged at once,
// and files of a few row groups.
func TestMoreThanMemoryHolds(t *testing.T) {
	r := newRig(t)
	random := rand.New(rand.NewPCG(1, 2))
	for seq := range 40 {
		// Two gateways carry the same tags, in no order, with the same times.
		var some []sample.Sample
		for range 50 {
			s := sample.Sample{Tag: fmt.Sprintf("north/m%d/r", random.IntN(7)), Time: at(time.Duration(random.IntN(300)) * time.Second), Value: sample.IntValue(int64(random.IntN(5)))}
			switch random.IntN(4) {
			case 0:
				s.SourceTime = at(time.Duration(random.IntN(50)) * time.Second)
			case 1:
				s.Producer, s.Seq = fmt.Sprint("p", random.IntN(3)), random.Uint64()>>random.IntN(64)
			case 2:
				s.Value = sample.StringValue(strings.Repeat("text ", random.IntN(100)))
			}
			some = append(some, s)
		}
		r.put("north", fmt.Sprint("gw", seq%2), "s0001", uint64(seq+1), some...)
	}
	l := small
	l.groupRows, l.partBytes = 200, 100
	report, err := runWith(t.Context(), r.options(), l)
	if err != nil {
		t.Fatal(err)
	}
	r.check()
	r.provable()
	if report.WrittenFiles < 2 || report.Duplicates == 0 || report.Rows+report.Duplicates != report.Samples {
		t.Errorf("%+v", report)
	}
	// In memory alone, in one file: the same rows.
	before := r.read()
	l = small
	l.rows = 1 << 16
	for _, key := range r.list("manifests/") {
		if err := r.place.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range r.list("samples/")[:1] { // as if the parts were no longer whole
		if err := r.place.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if report, err = runWith(t.Context(), r.options(), l); err != nil || report.WrittenFiles != 1 {
		t.Fatal(report, err)
	}
	r.check()
	if !slices.Equal(before, r.read()) {
		t.Error("the rows depend on how they were sorted")
	}
}

// listed is the source of a list.
type listed struct{ rows []lake.Row }

func (l *listed) next() (*lake.Row, error) {
	if len(l.rows) == 0 {
		return nil, io.EOF
	}
	r := l.rows[0]
	l.rows = l.rows[1:]
	return &r, nil
}

func (*listed) close() error { return nil }

// TestSpillComesBack: each field of a row through a run on the disk.
func TestSpillComesBack(t *testing.T) {
	s, err := newSorter(small, t.TempDir(), at(0), at(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t}
	r.expect("gw1", "s0001", every())
	r.expect("", "", every())
	slices.SortFunc(r.want, func(a, b lake.Row) int { return compareRows(&a, &b) })
	name, err := s.write(&listed{rows: r.want})
	if err != nil {
		t.Fatal(err)
	}
	run, err := s.openRun(name, map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.want {
		got, err := run.next()
		if err != nil || *got != r.want[i] {
			t.Fatalf("row %d is %+v, %v, want %+v", i, got, err, r.want[i])
		}
	}
	if _, err := run.next(); !isEnd(err) {
		t.Errorf("after the last: %v", err)
	}
	if err := run.close(); err != nil {
		t.Error(err)
	}
}

func TestDuplicates(t *testing.T) {
	r := newRig(t)
	sourced := func(source time.Duration, v float64, more ...func(*sample.Sample)) sample.Sample {
		s := sample.Sample{Tag: "north/m1/r", Time: at(time.Hour), SourceTime: at(source), Value: sample.FloatValue(v)}
		for _, change := range more {
			change(&s)
		}
		return s
	}
	later := func(s *sample.Sample) { s.Time += 5e9 }
	bad := func(s *sample.Sample) { s.Quality = sample.Bad }
	r.put("north", "gw1", "s0001", 1, sourced(0, 1), sourced(1, 1), sourced(1, 2))
	r.put("north", "gw1", "s0001", 2, sourced(0, 1, later), sourced(1, 1, bad), sourced(1, 2, later))
	var same []sample.Sample // more at one time than are gone through
	for i := range 3 * manyHere {
		same = append(same, sourced(time.Minute, float64(i%(2*manyHere))))
	}
	r.put("north", "gw1", "s0001", 3, same...)
	produced := func(seq uint64, d time.Duration) sample.Sample {
		return sample.Sample{Tag: "north/m2/r", Time: at(d), Producer: "p", Seq: seq, Value: sample.IntValue(int64(seq))}
	}
	r.put("north", "gw1", "s0001", 4, produced(1, time.Hour), produced(2, time.Hour), produced(1, 3*time.Hour))
	r.put("north", "gw2", "s0001", 1, produced(2, 2*time.Hour), produced(3, 2*time.Hour))
	// Two that say the same, and of which nobody knows that they are one.
	twice := sample.Sample{Tag: "north/m3/r", Time: at(time.Hour), Value: sample.IntValue(1)}
	r.put("north", "gw1", "s0001", 5, twice, twice)
	report := r.must()
	if report.Duplicates != 2+manyHere+2 {
		t.Errorf("%d duplicates, want %d", report.Duplicates, 2+manyHere+2)
	}
}

// TestManySent: identities of a producer are remembered up to a bound.
func TestManySent(t *testing.T) {
	d := &duplicates{limit: 100}
	is := func(seq uint64) bool {
		return d.is(&lake.Row{Sample: sample.Sample{Tag: "a/b/c", Producer: "p", Seq: seq}})
	}
	for seq := range uint64(1000) {
		if is(seq) || seq >= 100 && !is(seq-100) {
			t.Fatalf("sequence %d: one is taken for another, or the one 100 before it is forgotten", seq)
		}
	}
	if len(d.now) > 100 || len(d.old) > 100 {
		t.Errorf("%d and %d are remembered", len(d.now), len(d.old))
	}
}
