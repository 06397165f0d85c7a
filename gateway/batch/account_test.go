package batch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
	"millrace/spool"
)

// site is a gateway's batches on a real spool, and the store that its one sink
// fills.
type site struct {
	t      *testing.T
	dir    string
	max    int64
	clock  *hand
	sp     *spool.Spool
	st     *spool.State
	b      *Batcher
	port   *Port
	log    bytes.Buffer
	after  uint64
	stored *audit.Ledger
	dec    *block.Decoder
	issued int
	came   map[int64]bool // values that arrived
}

func newSite(t *testing.T, bound int64) *site {
	t.Helper()
	dec, err := block.NewDecoder()
	must(t, err)
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "spool"), max: bound, clock: &hand{t: noon}, stored: audit.New(0), dec: dec, came: map[int64]bool{}}
	t.Cleanup(func() {
		if s.sp != nil {
			_ = s.sp.Close()
		}
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	return s
}

// start is the start of a gateway up to its first commit.
func (s *site) start() {
	s.t.Helper()
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	var err error
	s.sp, s.st, err = spool.Open(context.Background(), spool.Options{Dir: s.dir, MaxBytes: s.max, SegmentBytes: spool.MinSegmentBytes, Sinks: []string{"cloud"}, Log: log, Clock: s.clock})
	must(s.t, err)
	s.b, err = New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, Log: log, Clock: s.clock, Health: noHealth{}}, s.sp, s.st)
	must(s.t, err)
	s.port, err = s.b.Open(source("s/d/a", "s/d/b"))
	must(s.t, err)
	s.tick(0)
}

// tick is a second with n samples, and its commit.
func (s *site) tick(n int) {
	s.t.Helper()
	s.clock.t = s.clock.t.Add(time.Second)
	var batch []sample.Sample
	for range n {
		tag := []string{"s/d/a", "s/d/b"}[s.issued%2]
		v := at(tag, s.issued, s.clock.t)
		v.Time += int64(s.issued%1000) * 1e6
		batch = append(batch, v)
		s.issued++
	}
	if n > 0 {
		must(s.t, s.port.Emit(context.Background(), batch, nil))
	}
	turn(s.t, s.b, false)
}

// seal seals what is open.
func (s *site) seal() {
	s.t.Helper()
	must(s.t, s.b.commit(context.Background(), sealOut))
}

// stop ends a run in order, crash as kill -9 does.
func (s *site) stop() {
	s.t.Helper()
	turn(s.t, s.b, true)
	must(s.t, s.sp.Close())
	s.sp = nil
}

func (s *site) crash() {
	s.t.Helper()
	must(s.t, s.sp.Close()) // the commits are durable either way; no batch is sealed
	s.sp = nil
}

// deliver sends up to n blocks to the store.
func (s *site) deliver(n int) {
	s.t.Helper()
	s.send(n, &s.after, func(*spool.Block) bool { return true })
}

// deliverRecords sends the gateway's own records alone, before all else.
func (s *site) deliverRecords() {
	s.t.Helper()
	after := uint64(0)
	s.send(1<<20, &after, func(b *spool.Block) bool { return b.Stream == systemStream })
}

func (s *site) send(n int, after *uint64, wanted func(*spool.Block) bool) {
	s.t.Helper()
	for n > 0 {
		blocks, err := s.sp.Read("cloud", *after, min(n, 20), 1<<30)
		must(s.t, err)
		if len(blocks) == 0 {
			break
		}
		for i := range blocks {
			*after = blocks[i].Number
			if !wanted(&blocks[i]) {
				continue
			}
			data := blocks[i].Data
			h, err := block.ReadHeader(data)
			must(s.t, err)
			must(s.t, s.stored.AddHeader(&h, weektable.Checksum(data), func() (*block.Block, error) { return s.dec.Decode(data) }))
			d, err := s.dec.Decode(data)
			must(s.t, err)
			for v := range d.All() {
				if strings.HasPrefix(v.Tag, "s/d/") {
					s.came[v.Value.Int()] = true
				}
			}
			s.sp.Ack("cloud", blocks[i].Number)
		}
		n -= len(blocks)
	}
	must(s.t, s.sp.Sync())
}

func (s *site) report() *audit.Report {
	return s.stored.Report(audit.Options{Now: s.clock.t.Add(1000 * time.Hour), Patience: time.Minute})
}

// balanced wants the account to balance, and to know how many samples are lost.
func (s *site) balanced(lost int) *audit.Report {
	s.t.Helper()
	r := s.report()
	var text strings.Builder
	must(s.t, r.Print(&text))
	if !r.Complete() || r.Summary.Waiting > 0 {
		s.t.Errorf("the account does not balance:\n%s", text.String())
	}
	produced, declared := uint64(0), uint64(0)
	for _, x := range r.Streams {
		if x.Stream != ledger.SystemStream {
			produced += x.Produced
			declared += x.Lost
		}
		if x.Produced != x.Samples+x.Lost+x.Thinned {
			s.t.Errorf("produced %d, but here %d, lost %d, thinned %d:\n%s", x.Produced, x.Samples, x.Lost, x.Thinned, text.String())
		}
	}
	if missing := s.issued - len(s.came); missing != lost || produced != uint64(s.issued) || declared != uint64(lost) {
		s.t.Errorf("%d samples were issued and %d are not here, want %d; the counts say %d produced and %d lost:\n%s",
			s.issued, missing, lost, produced, declared, text.String())
	}
	return r
}

func TestCountsGoOnOverRestartsAndCrashes(t *testing.T) {
	s := newSite(t, 0)
	random := rand.New(rand.NewPCG(1, 2))
	for run := range 12 {
		s.start()
		for range random.IntN(10) + 1 {
			s.tick(random.IntN(50))
			if random.IntN(3) == 0 {
				s.seal()
			}
			s.deliver(random.IntN(4))
		}
		if run%2 == 0 {
			s.crash()
		} else {
			s.stop()
		}
	}
	s.start()
	s.stop()
	s.start()
	s.deliver(1 << 20)
	r := s.balanced(0)
	if len(r.Gateways) != 1 || r.Gateways[0].Other[ledger.GatewayDown] < 12 {
		t.Errorf("the account of the gateway is %+v", r.Gateways)
	}
}

func TestEvictionsBeforeDeliveryAreDeclared(t *testing.T) {
	s := newSite(t, 4*spool.MinSegmentBytes)
	s.start()
	random := rand.New(rand.NewPCG(3, 4))
	for i := range 60 {
		s.clock.t = s.clock.t.Add(time.Second)
		var batch []sample.Sample
		for range 2000 { // noise, so that it takes room
			v := at("s/d/a", s.issued, s.clock.t)
			v.Time += int64(s.issued%1000) * 1e6
			batch = append(batch, v)
			w := sample.Sample{Tag: "s/d/b", Value: sample.FloatValue(random.NormFloat64()), Time: v.Time}
			batch = append(batch, w)
			s.issued++
		}
		must(t, s.port.Emit(t.Context(), batch, nil))
		turn(t, s.b, false)
		s.seal()
		if i%20 == 10 {
			s.crash()
			s.start()
		}
	}
	s.stop()
	s.start()
	s.deliver(1 << 20)
	// The gap records come now that somebody takes them, and what counts them.
	s.tick(0)
	s.stop()
	s.start()
	s.seal()
	s.deliver(1 << 20)
	r := s.report()
	var text strings.Builder
	must(t, r.Print(&text))
	for _, x := range r.Streams {
		if x.Verdict != audit.Balanced || x.Produced != x.Samples+x.Lost {
			t.Errorf("produced %d, here %d, lost %d:\n%s", x.Produced, x.Samples, x.Lost, text.String())
		}
		if x.Stream != ledger.SystemStream && (x.Lost == 0 || x.Produced != 2*uint64(s.issued)) {
			t.Errorf("of %d samples the counts know %d, and %d are lost:\n%s", 2*s.issued, x.Produced, x.Lost, text.String())
		}
	}
}

// damage changes one byte of the first place in the spool's files where the
// bytes of what stand.
func (s *site) damage(what []byte) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "*.seg"))
	must(s.t, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(s.t, err)
		hit := false
		for from := 0; ; { // stale copies of it too
			at := bytes.Index(data[from:], what)
			if at < 0 {
				break
			}
			data[from+at+len(what)/2] ^= 0x55
			from += at + len(what)
			hit = true
		}
		if hit {
			must(s.t, os.WriteFile(f, data, 0o600))
			return
		}
	}
	s.t.Fatal("what is to be damaged is not in the spool")
}

func TestADamagedPartIsCounted(t *testing.T) {
	s := newSite(t, 0)
	s.start()
	s.tick(10)
	s.seal()
	s.tick(20) // lost
	part := slices.Clone(s.b.streams[1].parts[0].data)
	s.tick(30)
	s.crash()
	s.damage(part)
	s.start()
	s.tick(5)
	s.seal()
	s.deliver(1 << 20)
	s.stop()
	s.start()
	s.deliver(1 << 20)
	s.balanced(20)
}

func TestADamagedBlockIsCounted(t *testing.T) {
	s := newSite(t, 0)
	s.start()
	for i := range 5 {
		s.tick(10 + i)
		s.seal()
	}
	held, _, err := s.sp.Held(0, 100, 1<<30)
	must(t, err)
	var victim []byte
	for i := range held {
		if held[i].Stream == 1 && held[i].Seq == 3 {
			victim = held[i].Data
		}
	}
	s.crash()
	s.damage(victim)
	s.start()
	s.deliver(1 << 20) // finds it
	s.tick(7)
	s.stop()
	s.start()
	s.deliver(1 << 20)
	r := s.balanced(12)
	if line := fmt.Sprint(r.Streams[0].Line()); !strings.Contains(line, "block 3 (12 samples) declared lost: corrupt") {
		t.Error(line)
	}
}

// A spool that lost its state goes on in a new epoch. What the old one lost is
// declared there, and is no loss of the new one.
func TestANewEpochDoesNotCountTheOldOnesLosses(t *testing.T) {
	s := newSite(t, 4*spool.MinSegmentBytes)
	s.start()
	for range 6 {
		s.tick(10)
		s.seal()
	}
	must(t, s.sp.Commit(&spool.Commit{Rotate: true})) // what is stored so far is in a segment of its own
	s.deliver(4)
	s.tick(10)
	s.seal()
	old := s.st.Epoch
	s.crash()
	files, err := filepath.Glob(filepath.Join(s.dir, "*.seg"))
	must(t, err)
	slices.Sort(files)
	must(t, os.Remove(files[len(files)-1])) // the tail, and the state with it
	s.start()
	if s.st.Epoch == old || !s.st.Created {
		t.Fatal("the epoch is the old one")
	}
	s.after = 0
	issued := s.issued
	random := rand.New(rand.NewPCG(5, 6))
	for range 40 { // until the old epoch's blocks are evicted
		s.clock.t = s.clock.t.Add(time.Second)
		var batch []sample.Sample
		for range 4000 {
			s.issued++
			batch = append(batch, sample.Sample{Tag: "s/d/b", Value: sample.FloatValue(random.NormFloat64()), Time: s.clock.t.UnixNano() + int64(s.issued%1000)*1e6})
		}
		must(t, s.port.Emit(t.Context(), batch, nil))
		turn(t, s.b, false)
		s.seal()
		s.deliverRecords()
	}
	s.stop()
	s.start()
	for range 3 {
		s.tick(1) // a block carries the losses that were declared before it
		s.seal()
		s.deliver(1 << 20)
	}
	r := s.report()
	var text strings.Builder
	must(t, r.Print(&text))
	for _, x := range r.Streams {
		now := x.Epoch != fmt.Sprintf("%016x", old)
		switch {
		case x.Verdict != audit.Balanced:
			t.Errorf("%s", text.String())
		case now && x.Produced != x.Samples+x.Lost:
			t.Errorf("produced %d, here %d, lost %d:\n%s", x.Produced, x.Samples, x.Lost, text.String())
		case now && x.Stream != ledger.SystemStream && x.Produced != uint64(s.issued-issued):
			t.Errorf("%d samples were issued in the new epoch, the counts say %d:\n%s", s.issued-issued, x.Produced, text.String())
		}
	}
}

// A large commit is several transactions. The first holds the gap records, the
// counts that go with them and the mark that they are declared, so that a crash
// behind it neither loses nor repeats them.
func TestALossIsDeclaredByOneTransaction(t *testing.T) {
	s := &store{}
	b := open(t, s, &spool.State{Epoch: 9})
	b.o.MaxCommitBytes = 1 // each stream's block is a transaction
	p, err := b.Open(source("s/d/a"))
	must(t, err)
	other := source("s/e/a")
	other.Name, other.Class.ScanRate = "other", time.Minute
	q, err := b.Open(other)
	must(t, err)
	must(t, b.commit(t.Context(), sealDue))
	s.losses = []spool.Loss{{ID: 4, Stream: 1, Count: 7, Cause: spool.CauseCorrupt}}
	must(t, p.Emit(t.Context(), []sample.Sample{at("s/d/a", 1, noon)}, nil))
	must(t, q.Emit(t.Context(), []sample.Sample{at("s/e/a", 1, noon)}, nil))
	b.streams[1].class.MaxBytes, b.streams[2].class.MaxBytes = 1, 1 // both are due; the system stream is not
	before := len(s.commits)
	must(t, b.commit(t.Context(), sealDue))
	commits := s.commits[before:]
	if len(commits) < 2 {
		t.Fatalf("%d transactions, want one for each block", len(commits))
	}
	first := commits[0]
	if len(first.Settle) != 1 || len(first.Parts) != 1 || first.Parts[0].Stream != systemStream {
		t.Errorf("the first transaction settles %v and has %d parts", first.Settle, len(first.Parts))
	}
	for _, c := range commits[1:] {
		if len(c.Settle) != 0 || slices.ContainsFunc(c.Parts, func(p spool.Part) bool { return p.Stream == systemStream }) {
			t.Error("a later transaction declares it again")
		}
	}
	// As after a crash behind the first transaction.
	crashed := &store{commits: s.commits[:before+1]}
	b = open(t, crashed, crashed.state(9))
	if got := b.streams[1]; got.lost != 7 || got.produced < 7 {
		t.Errorf("after the crash %d are lost of %d", got.lost, got.produced)
	}
	gaps, _ := crashed.records(t)
	if len(gaps) != 1 || gaps[0].ID != 4 {
		t.Errorf("after the crash there are %d gap records", len(gaps))
	}
}
