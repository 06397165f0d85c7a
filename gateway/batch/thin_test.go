package batch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

// randomRows are samples of a few tags in the order of time: measured values, a
// counter, a state, texts, all with now and then a change of quality.
func randomRows(random *rand.Rand, n int) (rows []thinRow, counters []bool) {
	counters = []bool{false, true, false, false}
	quality := sample.Good
	now := noon.UnixNano()
	for i := range n {
		now += random.Int64N(int64(3 * time.Second))
		if random.IntN(40) == 0 {
			quality = []sample.Quality{sample.Good, sample.Uncertain, sample.Bad}[random.IntN(3)]
		}
		r := thinRow{tag: random.IntN(len(counters))}
		r.s = sample.Sample{Time: now, Quality: quality}
		switch r.tag {
		case 0:
			r.s.Value = sample.FloatValue(math.Round(random.NormFloat64()*10) / 2)
			if random.IntN(50) == 0 {
				r.s.Value = sample.FloatValue(math.NaN())
			}
		case 1:
			r.s.Value = sample.IntValue(int64(i))
		case 2:
			r.s.Value = sample.BoolValue(i/100%2 == 0)
		case 3:
			r.s.Value = sample.StringValue(fmt.Sprint("step ", i/150))
		}
		rows = append(rows, r)
	}
	return rows, counters
}

// checkKept holds what was kept against the original samples, told apart by
// their times.
func checkKept(t *testing.T, rows []thinRow, counters []bool, kept map[int64]bool, window int64) {
	t.Helper()
	type key struct {
		tag int
		in  int64
	}
	groups := map[key][]*sample.Sample{}
	before := map[int]*sample.Sample{}
	want := func(s *sample.Sample, why string) {
		t.Helper()
		if !kept[s.Time] {
			t.Fatalf("%s at %d was thinned out: %v, %v", why, s.Time, s.Value, s.Quality)
		}
	}
	for i := range rows {
		r := &rows[i]
		k := key{r.tag, r.s.Time / window}
		groups[k] = append(groups[k], &r.s)
		if counters[r.tag] {
			want(&r.s, "a counter's reading")
		}
		if r.s.Quality.IsBad() {
			want(&r.s, "a bad sample")
		}
		if p := before[r.tag]; p != nil {
			if p.Quality != r.s.Quality {
				want(&r.s, "a change of quality")
			}
			if k := r.s.Value.Kind(); (k == sample.Bool || k == sample.String) && p.Value != r.s.Value {
				want(&r.s, "a change of state")
			}
		}
		before[r.tag] = &r.s
	}
	for _, g := range groups {
		want(g[0], "the first of a window")
		want(g[len(g)-1], "the last of a window")
		low, high, keptLow, keptHigh := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
		for _, s := range g {
			v, ok := s.Value.Number()
			if !ok || s.Quality.IsBad() || math.IsNaN(v) {
				continue
			}
			low, high = min(low, v), max(high, v)
			if kept[s.Time] {
				keptLow, keptHigh = min(keptLow, v), max(keptHigh, v)
			}
		}
		if low != keptLow || high != keptHigh {
			t.Fatalf("of a window from %v to %v only %v to %v is kept", low, high, keptLow, keptHigh)
		}
	}
}

// What thinning keeps has what it promises of the original samples, also where
// it is thinned again with longer windows.
func TestThinningKeepsWhatItPromises(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		rows, counters := randomRows(random, 1+random.IntN(2000))
		left := slices.Clone(rows)
		window := int64(10 * time.Second)
		for range 5 {
			n := keepRows(left, counters, window)
			left = slices.DeleteFunc(left, func(r thinRow) bool { return !r.keep })
			if n != len(left) {
				t.Fatalf("seed %d: %d rows are kept, %d were counted", seed, len(left), n)
			}
			kept := map[int64]bool{}
			for i := range left {
				kept[left[i].s.Time] = true
			}
			checkKept(t, rows, counters, kept, window)
			window *= 2
		}
		if len(rows) > 1500 && len(left)*5 > len(rows)*4 {
			t.Errorf("seed %d: %d of %d rows are left", seed, len(left), len(rows))
		}
	}
}

// thinSite is a site whose source asks for thinning, with what it issued.
type thinSite struct {
	*site
	random *rand.Rand
	issued map[string]sample.Sample // by tag and time
	last   map[string]sample.Sample
	must   map[string]bool // what must arrive unless it is lost
	every  int             // energy is read with every so many of the others
}

func thinKey(tag string, at int64) string { return fmt.Sprintf("%s@%d", tag, at) }

func (s *thinSite) open() {
	s.t.Helper()
	s.site.start()
	info := source("s/e/level", "s/e/energy", "s/e/open")
	info.Name, info.Class.Policy, info.Class.ScanRate = "e", spool.ThinOldest, 100*time.Millisecond
	info.Tags[1].Counter = true
	var err error
	s.port, err = s.b.Open(info)
	must(s.t, err)
}

// second is a second with its samples and its commit.
func (s *thinSite) second(n int) {
	s.t.Helper()
	s.clock.t = s.clock.t.Add(time.Second)
	var list []sample.Sample
	for i := range n {
		at := s.clock.t.UnixNano() + int64(i)*1e6
		for _, v := range []sample.Sample{
			{Tag: "s/e/level", Value: sample.FloatValue(s.random.NormFloat64()), Time: at},
			{Tag: "s/e/energy", Value: sample.IntValue(int64(len(s.issued))), Time: at},
			{Tag: "s/e/open", Value: sample.BoolValue(s.random.IntN(200) == 0), Time: at},
		} {
			if v.Tag == "s/e/energy" && i%s.every != 0 {
				continue
			}
			if s.random.IntN(500) == 0 {
				v.Quality = sample.Bad
			}
			if p, ok := s.last[v.Tag]; v.Tag == "s/e/energy" || v.Quality.IsBad() || ok && p.Quality != v.Quality || v.Tag == "s/e/open" && ok && p.Value != v.Value {
				s.must[thinKey(v.Tag, v.Time)] = true
			}
			s.issued[thinKey(v.Tag, v.Time)], s.last[v.Tag] = v, v
			list = append(list, v)
		}
	}
	must(s.t, s.port.Emit(s.t.Context(), list, nil))
	turn(s.t, s.b, false)
	must(s.t, s.b.thin())
}

// A cloud that is away lets the backlog be thinned; what arrives in the end is
// what was promised, and the account balances, over restarts and crashes, with
// losses where thinning was not enough, and with what was handed out before.
func TestThinningBalances(t *testing.T) {
	for _, c := range []struct {
		name    string
		seconds int
		lost    bool
	}{{"enough", 45, false}, {"not enough", 400, true}} {
		t.Run(c.name, func(t *testing.T) {
			s := &thinSite{site: newSite(t, 4*spool.MinSegmentBytes), random: rand.New(rand.NewPCG(7, 7)),
				issued: map[string]sample.Sample{}, last: map[string]sample.Sample{}, must: map[string]bool{}, every: 50}
			if c.lost {
				s.every = 1 // all readings of a counter are kept: there is little to thin out
			}
			s.open()
			arrived := map[string]bool{}
			attempted := map[string]bool{}
			for i := range c.seconds {
				s.second(600)
				s.seal()
				switch i {
				case 3: // handed out, and never acknowledged
					blocks, err := s.sp.Read("cloud", 0, 3, 1<<20)
					must(t, err)
					for _, b := range blocks {
						d, err := s.dec.Decode(b.Data)
						must(t, err)
						for v := range d.All() {
							if strings.HasPrefix(v.Tag, "s/e/") {
								attempted[thinKey(v.Tag, v.Time)] = true
							}
						}
					}
				case 20:
					s.crash()
					s.open()
				case 30:
					s.stop()
					s.open()
				}
			}
			thinned := s.b.Thinned()
			s.stop()
			s.open()
			collect := func() {
				for after := s.after; ; {
					blocks, err := s.sp.Read("cloud", after, 20, 1<<30)
					must(t, err)
					if len(blocks) == 0 {
						return
					}
					for i := range blocks {
						after = blocks[i].Number
						d, err := s.dec.Decode(blocks[i].Data)
						must(t, err)
						for v := range d.All() {
							if !strings.HasPrefix(v.Tag, "s/e/") {
								continue
							}
							k := thinKey(v.Tag, v.Time)
							if o, ok := s.issued[k]; !ok || o.Value != v.Value || o.Quality != v.Quality {
								t.Fatalf("%s arrived as %v, %v", k, v.Value, v.Quality)
							}
							if arrived[k] {
								t.Fatalf("%s arrived twice", k)
							}
							arrived[k] = true
						}
					}
				}
			}
			for range 2 {
				collect()
				s.deliver(1 << 20)
				s.second(1)
				s.stop() // with a heartbeat
				s.open()
			}
			collect()
			s.deliver(1 << 20)
			r := s.report()
			var text strings.Builder
			must(t, r.Print(&text))
			if !r.Complete() || r.Summary.Waiting > 0 {
				t.Errorf("the account does not balance:\n%s", text.String())
			}
			lost := uint64(0)
			for _, x := range r.Streams {
				if x.Produced != x.Samples+x.Lost+x.Thinned {
					t.Errorf("produced %d, but here %d, lost %d, thinned %d", x.Produced, x.Samples, x.Lost, x.Thinned)
				}
				if x.Stream == ledger.SystemStream {
					continue
				}
				lost += x.Lost
				if x.Produced != uint64(len(s.issued)) || x.Samples != uint64(len(arrived)) {
					t.Errorf("%d samples were issued and %d arrived: %+v", len(s.issued), len(arrived), x)
				}
			}
			if thinned == 0 || (lost > 0) != c.lost {
				t.Errorf("%d samples were thinned out, %d lost:\n%s", thinned, lost, text.String())
			}
			missing := 0
			for k := range s.must {
				if !arrived[k] {
					missing++
				}
			}
			if !c.lost && missing > 0 || uint64(missing) > lost {
				t.Errorf("%d samples that are to be kept did not arrive, %d are declared lost", missing, lost)
			}
			for k := range attempted {
				if !arrived[k] && !c.lost {
					t.Fatalf("%s was handed out and thinned", k)
				}
			}
			t.Logf("%d issued, %d arrived, %d lost", len(s.issued), len(arrived), lost)
		})
	}
}

// Runs become one block only within a day and a clock, and the header names the
// sequences that it stands for.
func TestAThinnedBlockSaysWhatItReplaces(t *testing.T) {
	s := &thinSite{site: newSite(t, 4*spool.MinSegmentBytes), random: rand.New(rand.NewPCG(8, 8)),
		issued: map[string]sample.Sample{}, last: map[string]sample.Sample{}, must: map[string]bool{}, every: 50}
	s.clock.t = time.Date(2026, 5, 4, 23, 59, 40, 0, time.UTC) // twelve hours on: two days in one backlog
	s.open()
	for range 45 {
		s.second(600)
		s.seal()
	}
	after, found := uint64(0), 0
	for {
		blocks, err := s.sp.Read("cloud", after, 20, 1<<30)
		must(t, err)
		if len(blocks) == 0 {
			break
		}
		for _, b := range blocks {
			after = b.Number
			h, err := block.ReadHeader(b.Data)
			must(t, err)
			if dayOf(h.First) != dayOf(h.Last) {
				t.Errorf("block %d is of two days", h.Seq)
			}
			if h.ReplacesFrom > 0 {
				found++
				if h.Thinned == 0 || h.ReplacesTo >= h.Seq {
					t.Errorf("block %d replaces %d to %d, %d thinned", h.Seq, h.ReplacesFrom, h.ReplacesTo, h.Thinned)
				}
			}
		}
	}
	if found == 0 {
		t.Error("nothing was thinned")
	}
	s.stop()
}
