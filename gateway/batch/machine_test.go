package batch

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// machine is a gateway on a machine whose clocks a test turns.
type machine struct {
	t     *testing.T
	clock *clock.Fake
	store *store
	opts  Options
	log   bytes.Buffer
	b     *Batcher
	port  *Port
	mono  []time.Duration // monotonic clock when sample i was emitted, by its value
	tags  []string        // its tag
}

func boot(t *testing.T, f *clock.Fake, mode ClockMode) *machine {
	m := &machine{t: t, clock: f, store: &store{}}
	m.opts = Options{
		Site: "s", Gateway: "g", CommitInterval: time.Second, ClockMode: mode, Clock: f, Health: noHealth{},
		Log: slog.New(slog.NewTextHandler(&m.log, nil)),
	}
	m.start()
	return m
}

// start starts the gateway on what the spool holds; after a crash, that is.
func (m *machine) start() {
	m.t.Helper()
	m.opts.Timeline = nil
	b, err := New(m.opts, m.store, m.store.state(7))
	must(m.t, err)
	m.b = b
	info := source("s/d/a", "s/d/b")
	info.Tags = append(info.Tags, TagInfo{Name: "s/d/alarm", Urgent: true, Rule: info.Tags[0].Rule})
	m.port, err = b.Open(info)
	must(m.t, err)
}

// take emits a sample of the tag, with the number of all samples as its value.
func (m *machine) take(tag string, v sample.Sample) {
	m.t.Helper()
	v.Tag, v.Value, v.Time = tag, sample.IntValue(int64(len(m.mono))), m.b.o.Timeline.Now().UnixNano()
	m.mono = append(m.mono, m.clock.SinceBoot())
	m.tags = append(m.tags, tag)
	must(m.t, m.port.Emit(m.t.Context(), []sample.Sample{v}, nil))
}

func (m *machine) commit() {
	m.t.Helper()
	must(m.t, m.b.commit(m.t.Context(), sealDue))
}

// run takes a sample of two tags a second, and commits.
func (m *machine) run(d time.Duration) {
	m.t.Helper()
	for range d / time.Second {
		m.clock.Advance(time.Second)
		m.take("s/d/a", sample.Sample{})
		m.take("s/d/b", sample.Sample{})
		m.commit()
	}
}

// seen is a sample with the header of its block.
type seen struct {
	h block.Header
	v sample.Sample
}

// sealed returns the samples of all blocks, by number, and the correction
// records, in the order in which they were stored; each sample and record once.
func (m *machine) sealed() (out []*seen, records []*ledger.Correction) {
	m.t.Helper()
	out = make([]*seen, len(m.mono))
	d, err := block.NewDecoder()
	must(m.t, err)
	last := map[string]int64{}
	seq := map[string]uint64{}
	known := map[string]bool{}
	for _, c := range m.store.commits {
		for _, raw := range c.Blocks {
			b, err := d.Decode(raw.Data)
			must(m.t, err)
			h := b.Header
			if seq[h.Stream]++; h.Seq != seq[h.Stream] {
				m.t.Errorf("block %d of stream %s follows %d", h.Seq, h.Stream, seq[h.Stream]-1)
			}
			if dayOf(h.First) != dayOf(h.Last) {
				m.t.Errorf("block %d of stream %s is from %d to %d", h.Seq, h.Stream, h.First, h.Last)
			}
			for v := range b.All() {
				switch {
				case v.Tag == ledger.ClockTag("s", "g"):
					r, err := ledger.ParseCorrection(&v)
					must(m.t, err)
					if id := fmt.Sprint(v.Producer, v.Seq); !known[id] {
						known[id] = true
						records = append(records, r)
					}
				case v.Value.Kind() == sample.Int64:
					i := v.Value.Int()
					if out[i] != nil {
						m.t.Fatalf("sample %d came twice", i)
					}
					if m.tags[i] != v.Tag {
						m.t.Errorf("sample %d is of %s, want %s", i, v.Tag, m.tags[i])
					}
					if n, ok := last[v.Tag]; ok && n > i && v.SourceTime == 0 { // another day's go to a block of their own
						m.t.Errorf("%s: sample %d came after %d", v.Tag, i, n)
					}
					last[v.Tag] = i
					out[i] = &seen{h, v}
				}
			}
		}
	}
	return out, records
}

// end seals all, and returns what sealed does; every sample must have come.
func (m *machine) end() ([]*seen, []*ledger.Correction) {
	m.t.Helper()
	must(m.t, m.b.commit(m.t.Context(), sealOut))
	out, records := m.sealed()
	for i, s := range out {
		if s == nil {
			m.t.Fatalf("sample %d of %s never came", i, m.tags[i])
		}
		if got := time.Duration(s.v.Time - s.h.Mono); (got - m.mono[i]).Abs() > 2*time.Millisecond {
			m.t.Fatalf("sample %d was taken at %s of the monotonic clock, and says %s", i, m.mono[i], got)
		}
	}
	return out, records
}

func (m *machine) logged(text string) int { return strings.Count(m.log.String(), text) }

var unset = time.Unix(1000, 0) // what a machine without a battery shows

// Steps at random: whatever the clocks do, each sample comes once, in the order
// of its tag, with its reading of the monotonic clock, and with its right time,
// which a record may have to correct, unless its boot ended before that was
// known.
func TestStepsAtRandom(t *testing.T) {
	for trial := range 60 {
		seed := uint64(trial)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { stepsAtRandom(t, seed) })
	}
}

func stepsAtRandom(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	f := clock.NewFake(unset)
	f.SetSync(clock.Unsynchronised)
	m := boot(t, f, ClockRequire)
	right := map[[16]byte]time.Duration{} // of a boot: right time less monotonic clock
	begin := func() { right[f.Boot()] = time.Duration(noon.UnixNano()) - f.SinceBoot() }
	begin()
	elapsed := time.Duration(0)
	var taken []time.Duration // since the test began, by sample
	known := map[[16]byte]bool{}
	advance := func(d time.Duration) { f.Advance(d); elapsed += d }
	for range 400 {
		switch n := r.IntN(100); {
		case n < 60:
			for range r.IntN(4) {
				advance(time.Duration(r.Int64N(int64(3 * time.Second))))
				m.take([]string{"s/d/a", "s/d/b", "s/d/alarm"}[r.IntN(3)], sample.Sample{})
				taken = append(taken, elapsed)
			}
		case n < 85:
			m.commit()
		case n < 88:
			advance(time.Duration(r.Int64N(int64(4 * time.Minute))))
		case n < 93: // the wall clock is set to something wrong
			f.SetSync(clock.Unsynchronised)
			f.Step(time.Duration(r.Int64N(int64(2*decade))) - decade)
		case n < 96: // and to what is right
			f.Set(time.Unix(0, int64(right[f.Boot()]+f.SinceBoot())))
			f.SetSync(clock.Synchronised)
			m.commit()
			known[f.Boot()] = true
		case n < 98:
			must(t, m.b.commit(t.Context(), sealAll)) // a stop
			m.start()
		default:
			m.commit() // what is not committed is lost by a crash, and is another test
			if r.IntN(2) == 0 {
				right[f.Boot()] += f.SinceBoot()
				now := right[f.Boot()]
				right[f.Boot()] -= f.SinceBoot()
				f.Reboot()
				f.SetSync(clock.Unsynchronised)
				right[f.Boot()] = now - f.SinceBoot()
			}
			m.start()
		}
	}
	out, records := m.end()
	for i, s := range out {
		want := noon.Add(taken[i]).Truncate(time.Millisecond)
		got := s.v.Time
		for _, c := range records {
			if at, ok := c.Correct(s.h.Boot, s.h.Mono, s.v.Time); ok {
				got = at
			}
		}
		off := time.Duration(got - want.UnixNano())
		switch {
		case off.Abs() <= 10*time.Millisecond:
		case !known[s.h.Boot] && s.v.Quality == sample.Uncertain:
		case s.h.Clock == block.ClockFree && s.v.Quality == sample.Uncertain && f.Boot() == s.h.Boot:
			// Sealed by the end of the test, after the last synchronisation: nobody
			// can have known. It cannot be, since a boot that knows keeps on knowing.
			t.Fatalf("sample %d runs free after a synchronisation", i)
		default:
			t.Fatalf("sample %d (%s, clock %s) is %s off", i, s.v.Quality, s.h.Clock, off)
		}
	}
}
