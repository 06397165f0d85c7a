package audit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/sample"
	"millrace/sample/ledger"
)

const epoch = 0xabc

var begin = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

// minute is when block n of the tests begins; one is made each minute.
func minute(n uint64) time.Time { return begin.Add(time.Duration(n) * time.Minute) }

// blocks are n ordinary blocks of ten samples.
func blocks(n uint64) (out []Block) {
	for i := uint64(1); i <= n; i++ {
		out = append(out, Block{
			Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: epoch, Seq: i, Count: 10, Produced: 10 * i,
			First: minute(i).UnixNano(), Last: minute(i).Add(50 * time.Second).UnixNano(), Checksum: uint32(i),
		})
	}
	return out
}

func count(n uint64) *uint64 { return &n }

func gapOfBlocks(id, from, to uint64, n *uint64) *ledger.Gap {
	return &ledger.Gap{ID: id, Epoch: "0000000000000abc", Stream: "s0001", FromSeq: from, ToSeq: to, Count: n, Cause: ledger.Evicted, At: minute(1000)}
}

func beatOf(at time.Time, seq, produced uint64) *ledger.Heartbeat {
	return &ledger.Heartbeat{At: at, Kind: ledger.Hourly, Epoch: "0000000000000abc", Streams: []ledger.StreamCounts{
		{Stream: ledger.SystemStream}, {Stream: "s0001", Seq: seq, Produced: produced},
	}}
}

// late is long after everything.
var late = Options{Now: minute(100_000), Patience: 15 * time.Minute}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// line is the one stream's line, without what every line begins and ends with.
func line(t *testing.T, l *Ledger, o Options) (string, StreamReport) {
	t.Helper()
	r := l.Report(o)
	for _, s := range r.Streams {
		if s.Stream == "s0001" {
			return strings.TrimPrefix(s.Line(), "north/gw1 s0001 0000000000000abc: "), s
		}
	}
	t.Fatal("the stream is not in the report")
	return "", StreamReport{}
}

func TestVerdicts(t *testing.T) {
	without := func(list []Block, seqs ...uint64) []Block {
		return slices.DeleteFunc(list, func(b Block) bool { return slices.Contains(seqs, b.Seq) })
	}
	for name, c := range map[string]struct {
		blocks []Block
		more   func(t *testing.T, l *Ledger)
		o      Options
		want   string
	}{
		"all": {blocks: blocks(900), o: late,
			want: "balanced: 900 blocks here of 1 to 900, 9000 samples; produced 9000, lost 0, thinned 0"},
		"a hole": {blocks: without(blocks(900), 411, 412, 413), o: late,
			want: "MISSING: blocks 411 to 413 (30 samples) missing, undeclared, between 2026-11-23T06:50:50Z and 2026-11-23T06:54:00Z; " +
				"897 blocks here of 1 to 900, 8970 samples; produced 9000, lost 0, thinned 0"},
		"a declared hole": {blocks: without(blocks(900), 411, 412, 413), o: late,
			more: func(t *testing.T, l *Ledger) { must(t, l.AddGap("north", "gw1", gapOfBlocks(1, 411, 413, count(30)))) },
			want: "balanced: blocks 411 to 413 (30 samples) declared lost: evicted; 897 blocks here of 1 to 900, 8970 samples; produced 9000, lost 0, thinned 0"},
		"a hole declared in part": {blocks: without(blocks(900), 411, 412, 413), o: late,
			more: func(t *testing.T, l *Ledger) { must(t, l.AddGap("north", "gw1", gapOfBlocks(1, 411, 412, count(20)))) },
			want: "MISSING: block 413 (10 samples) missing, undeclared, between 2026-11-23T06:50:50Z and 2026-11-23T06:54:00Z; " +
				"blocks 411 to 412 (20 samples) declared lost: evicted; 897 blocks here of 1 to 900, 8970 samples; produced 9000, lost 0, thinned 0"},
		"the first": {blocks: without(blocks(5), 1, 2), o: late,
			want: "MISSING: blocks 1 to 2 (20 samples) missing, undeclared, before 2026-11-23T00:03:00Z; 3 blocks here of 1 to 5, 30 samples; produced 50, lost 0, thinned 0"},
		"a window": {blocks: without(blocks(5), 1, 2), o: Options{Now: late.Now, FromFirst: true},
			want: "balanced: 3 blocks here of 3 to 5, 30 samples; produced 50, lost 0, thinned 0"},
		"a tail that a heartbeat knows": {blocks: blocks(890), o: late,
			more: func(t *testing.T, l *Ledger) { must(t, l.AddHeartbeat("north", "gw1", beatOf(minute(901), 900, 9000))) },
			want: "MISSING: blocks 891 to 900 (100 samples) missing, undeclared, after 2026-11-23T14:50:50Z, known from the heartbeat of 2026-11-23T15:01:00Z; " +
				"890 blocks here of 1 to 900, 8900 samples; produced 9000, lost 0, thinned 0"},
		"a tail on its way": {blocks: blocks(890), o: Options{Now: minute(905), Patience: 15 * time.Minute},
			more: func(t *testing.T, l *Ledger) { must(t, l.AddHeartbeat("north", "gw1", beatOf(minute(901), 900, 9000))) },
			want: "waiting: blocks 891 to 900 (100 samples) not arrived yet, after 2026-11-23T14:50:50Z, known from the heartbeat of 2026-11-23T15:01:00Z; " +
				"890 blocks here of 1 to 900, 8900 samples; produced 9000, lost 0, thinned 0"},
		"a backlog": {blocks: without(blocks(900), 600, 601), o: late,
			more: func(t *testing.T, l *Ledger) {
				h := beatOf(minute(901), 900, 9000)
				h.Backlog = ledger.Backlog{Sink: "cloud", Blocks: 2, Oldest: minute(600)}
				must(t, l.AddHeartbeat("north", "gw1", h))
			},
			want: "waiting: blocks 600 to 601 (20 samples) not arrived yet, between 2026-11-23T09:59:50Z and 2026-11-23T10:02:00Z; " +
				"898 blocks here of 1 to 900, 8980 samples; produced 9000, lost 0, thinned 0"},
		"a hole older than the backlog": {blocks: without(blocks(900), 600), o: late,
			more: func(t *testing.T, l *Ledger) {
				h := beatOf(minute(901), 900, 9000)
				h.Backlog = ledger.Backlog{Sink: "cloud", Blocks: 2, Oldest: minute(700)}
				must(t, l.AddHeartbeat("north", "gw1", h))
			},
			want: "MISSING: block 600 (10 samples) missing, undeclared, between 2026-11-23T09:59:50Z and 2026-11-23T10:01:00Z; " +
				"899 blocks here of 1 to 900, 8990 samples; produced 9000, lost 0, thinned 0"},
		"a stream of which nothing came": {o: late,
			more: func(t *testing.T, l *Ledger) { must(t, l.AddHeartbeat("north", "gw1", beatOf(minute(4), 3, 30))) },
			want: "MISSING: blocks 1 to 3 (30 samples) missing, undeclared, known from the heartbeat of 2026-11-23T00:04:00Z; no block is here; produced 30, lost 0, thinned 0"},
		"a copy": {blocks: append(blocks(3), blocks(2)...), o: late,
			want: "balanced: 3 blocks here of 1 to 3, 30 samples; produced 30, lost 0, thinned 0; 2 further copies"},
		"another block of the same name": {o: late,
			blocks: append(blocks(3), Block{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: epoch, Seq: 2, Count: 10, Produced: 20, Checksum: 99}),
			want:   "MISSING: ERROR: block 2 came twice with different bytes: CRC-32C 00000002 and 00000063; 3 blocks here of 1 to 3, 30 samples; produced 30, lost 0, thinned 0; 1 further copy"},
		"a record that names no stream": {blocks: without(blocks(9), 4), o: late,
			more: func(t *testing.T, l *Ledger) {
				must(t, l.AddGap("north", "gw1", &ledger.Gap{ID: 1, Epoch: "0000000000000abc", Cause: ledger.Corrupt, At: minute(6)}))
			},
			want: "balanced: block 4 (10 samples) declared lost: corrupt, by a record that names no stream; 8 blocks here of 1 to 9, 80 samples; produced 90, lost 0, thinned 0"},
		"a record from before that names no stream": {blocks: without(blocks(9), 4), o: late,
			more: func(t *testing.T, l *Ledger) {
				must(t, l.AddGap("north", "gw1", &ledger.Gap{ID: 1, Epoch: "0000000000000abc", Cause: ledger.Corrupt, At: minute(2)}))
			},
			want: "MISSING: block 4 (10 samples) missing, undeclared, between 2026-11-23T00:03:50Z and 2026-11-23T00:05:00Z; 8 blocks here of 1 to 9, 80 samples; produced 90, lost 0, thinned 0"},
		"down time explains no hole": {blocks: without(blocks(9), 4), o: late,
			more: func(t *testing.T, l *Ledger) {
				must(t, l.AddGap("north", "gw1", &ledger.Gap{ID: 1, Epoch: "0000000000000abc", Origin: ledger.FromGateway, Source: "m", Cause: ledger.GatewayDown, At: minute(6)}))
			},
			want: "MISSING: block 4 (10 samples) missing, undeclared, between 2026-11-23T00:03:50Z and 2026-11-23T00:05:00Z; 8 blocks here of 1 to 9, 80 samples; produced 90, lost 0, thinned 0"},
		"elsewhere": {blocks: without(blocks(9), 1, 2, 3), o: Options{Now: late.Now, Elsewhere: true},
			want: "balanced: blocks 1 to 3 (30 samples) not here: delivered elsewhere; 6 blocks here of 1 to 9, 60 samples; produced 90, lost 0, thinned 0"},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(0)
			for _, b := range c.blocks {
				l.AddBlock(b)
			}
			if c.more != nil {
				c.more(t, l)
			}
			if got, _ := line(t, l, c.o); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Samples that were lost before they were in a block leave no hole in the
// sequences; the counts tell of them.
func TestCountsTellOfWhatWasNeverSealed(t *testing.T) {
	list := blocks(6)
	for i := range list {
		if list[i].Seq > 3 {
			list[i].Produced += 7
			list[i].Lost = 7
		}
	}
	l := New(0)
	for _, b := range list {
		l.AddBlock(b)
	}
	if got, _ := line(t, l, late); !strings.HasPrefix(got, "MISSING: 7 samples in no block and undeclared, first behind block 3;") {
		t.Error(got)
	}
	must(t, l.AddGap("north", "gw1", gapOfBlocks(1, 0, 0, count(7))))
	if got, _ := line(t, l, late); !strings.HasPrefix(got, "balanced: 6 blocks") {
		t.Error(got)
	}
	// The same for those behind the last block, which a heartbeat knows.
	must(t, l.AddHeartbeat("north", "gw1", beatOf(minute(7), 6, 72)))
	if got, _ := line(t, l, late); !strings.HasPrefix(got, "MISSING: 5 samples in no block") {
		t.Error(got)
	}
	must(t, l.AddGap("north", "gw1", gapOfBlocks(2, 0, 0, count(5))))
	if got, _ := line(t, l, late); !strings.HasPrefix(got, "balanced: 6 blocks") {
		t.Error(got)
	}
}

func TestCountsThatContradictEachOther(t *testing.T) {
	list := blocks(6)
	list[4].Produced = 45 // five fewer than there were
	l := New(0)
	for _, b := range list {
		l.AddBlock(b)
	}
	if got, r := line(t, l, late); r.Verdict != Missing || !strings.Contains(got, "ERROR: block 5 says that 35 samples were produced before it, block 4 before it says 40") {
		t.Error(got)
	}
}

func TestALossOfUnknownSizeIsTold(t *testing.T) {
	l := New(0)
	for id := range uint64(3) {
		if err := l.AddGap("plant", "gw1", &ledger.Gap{ID: id + 1, Epoch: "00000000000000aa", Origin: ledger.FromSpool, Cause: ledger.Corrupt}); err != nil {
			t.Fatal(err)
		}
	}
	r := l.Report(Options{})
	if got := r.Gateways[0].Uncounted[ledger.Corrupt]; got != 3 {
		t.Errorf("%d losses of unknown size, want 3", got)
	}
	if line := r.Gateways[0].line(); line != "plant/gw1: 3 declared losses of unknown size (corrupt)" {
		t.Errorf("the line is %q", line)
	}
}

func TestThinnedBlocksStandForOthers(t *testing.T) {
	list := blocks(9)
	// Block 10 stands for 3 to 6: of forty samples eight are kept.
	thin := list[8]
	thin.Seq, thin.Count, thin.Produced, thin.Thinned, thin.ReplacesFrom, thin.ReplacesTo = 10, 8, 90, 32, 3, 6
	next := list[8]
	next.Seq, next.Produced, next.Thinned = 11, 100, 32
	l := New(0)
	for _, b := range append(list, thin, next) {
		if b.Seq < 3 || b.Seq > 6 {
			l.AddBlock(b)
		}
	}
	if got, r := line(t, l, late); r.Verdict != Balanced || !strings.Contains(got, "blocks 3 to 6 (40 samples) thinned;") {
		t.Error(got)
	}
	// A block that says it stands for fewer samples than there were.
	l = New(0)
	thin.Thinned, next.Thinned = 30, 30
	for _, b := range append(list, thin, next) {
		if b.Seq < 3 || b.Seq > 6 {
			l.AddBlock(b)
		}
	}
	if got, r := line(t, l, late); r.Verdict != Missing || r.Undeclared != 2 {
		t.Error(got)
	}
}

// A block of which only the keys are known still counts.
func TestKeysAlone(t *testing.T) {
	l := New(0)
	for _, b := range blocks(9) {
		b.KeysOnly, b.Produced = true, 0
		if b.Seq != 4 {
			l.AddBlock(b)
		}
	}
	if got, _ := line(t, l, late); !strings.HasPrefix(got, "MISSING: block 4 missing, undeclared, between") {
		t.Error(got)
	}
}

func TestRecordsAreReadFromSamples(t *testing.T) {
	l := New(0)
	for _, b := range blocks(8) {
		if b.Seq != 4 {
			l.AddBlock(b)
		}
	}
	v, err := gapOfBlocks(1, 4, 4, count(10)).Sample(ledger.GapTag("north", "gw1"), begin)
	must(t, err)
	for range 3 { // three copies are one
		must(t, l.AddSample(&v))
	}
	h := beatOf(minute(9), 8, 80)
	w, err := h.Sample(ledger.HeartbeatTag("north", "gw1"))
	must(t, err)
	must(t, l.AddSample(&w))
	must(t, l.AddSample(&sample.Sample{Tag: "north/meter/power"}))
	r := l.Report(late)
	if len(r.Streams) != 1 || r.Streams[0].Verdict != Balanced || r.Gateways[0].Heartbeat == nil || r.Sites[0].Lines != 5 {
		t.Errorf("%+v", r)
	}
	v.Value = sample.StringValue("nonsense")
	if l.AddSample(&v) == nil {
		t.Error("a record that does not read is taken")
	}
}

// In lines there are no sequences, but too few of them show.
func TestLinesThatAreTooFew(t *testing.T) {
	l := New(0)
	for i := range 95 {
		must(t, l.AddSample(&sample.Sample{Tag: "north/meter/power", Time: int64(i)}))
	}
	must(t, l.AddHeartbeat("north", "gw1", beatOf(minute(9), 10, 100)))
	o := late
	o.Elsewhere = true
	r := l.Report(o)
	if r.Complete() || r.Sites[0].Short != 5 {
		t.Errorf("%+v", r.Sites)
	}
	for range 5 {
		must(t, l.AddSample(&sample.Sample{Tag: "north/meter/power"}))
	}
	if r := l.Report(o); !r.Complete() {
		t.Errorf("%+v", r.Sites)
	}
}

// TestRandom makes histories with declared and undeclared losses, shuffles and
// repeats what a reader gets, and wants just the undeclared ones named.
func TestRandom(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var (
			arrive         []Block
			gapsOf         []*ledger.Gap
			missing        []span
			produced, lost uint64
		)
		n := uint64(random.IntN(300) + 2)
		tail := n - uint64(random.IntN(3)) // what comes after it has not arrived
		for seq := uint64(1); seq <= n; seq++ {
			if random.IntN(40) == 0 { // a part is lost before it is sealed
				k := uint64(random.IntN(9) + 1)
				produced, lost = produced+k, lost+k
				gapsOf = append(gapsOf, gapOfBlocks(uint64(len(gapsOf)+1), 0, 0, count(k)))
			}
			b := Block{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: epoch, Seq: seq, Count: random.IntN(20) + 1,
				First: minute(seq).UnixNano(), Last: minute(seq).UnixNano(), Checksum: random.Uint32()}
			produced += uint64(b.Count)
			b.Produced, b.Lost = produced, lost
			switch k := random.IntN(30); {
			case k == 0: // evicted and declared
				lost += uint64(b.Count)
				gapsOf = append(gapsOf, gapOfBlocks(uint64(len(gapsOf)+1), seq, seq, count(uint64(b.Count))))
			case k == 1 || seq > tail: // gone without a word
				if m := len(missing); m > 0 && missing[m-1].to+1 == seq {
					missing[m-1].to = seq
				} else {
					missing = append(missing, span{seq, seq})
				}
			default:
				arrive = append(arrive, b)
				for random.IntN(10) == 0 {
					arrive = append(arrive, b)
				}
			}
		}
		random.Shuffle(len(arrive), func(i, j int) { arrive[i], arrive[j] = arrive[j], arrive[i] })
		l := New(0)
		must(t, l.AddHeartbeat("north", "gw1", beatOf(minute(n), n, produced)))
		for i, b := range arrive {
			l.AddBlock(b)
			if i%7 == 0 {
				l.Report(late) // looking changes nothing
			}
		}
		for _, g := range append(gapsOf, gapsOf...) {
			must(t, l.AddGap("north", "gw1", g))
		}
		got, r := line(t, l, late)
		var named []span
		for _, h := range r.Holes {
			if h.Kind == Undefined {
				if m := len(named); m > 0 && named[m-1].to+1 == h.From {
					named[m-1].to = h.To
				} else {
					named = append(named, span{h.From, h.To})
				}
			}
		}
		if !slices.Equal(named, missing) || r.FaultCount > 0 || r.Undeclared > 0 || (r.Verdict == Missing) != (len(missing) > 0) {
			t.Fatalf("seed %d: missing %v, named %v\n%s", seed, missing, named, got)
		}
	}
}

// Memory goes with the holes, not with the blocks.
func TestMemoryIsBounded(t *testing.T) {
	l := New(16 * pageBytes)
	const n = 200_000
	for i := uint64(1); i <= n; i++ {
		l.AddBlock(Block{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: epoch, Seq: i, Count: 1, Produced: i, Checksum: uint32(i)})
	}
	s := l.streams[streamKey{gatewayKey{"north", "gw1"}, "s0001", epoch}]
	if len(s.runs.list) != 1 || len(l.sums.pages) > 16 || cap(l.sums.order) > 1024 {
		t.Errorf("%d runs, %d pages of checksums", len(s.runs.list), len(l.sums.pages))
	}
	// What is forgotten is not compared, and that is said.
	l.AddBlock(Block{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: epoch, Seq: 1, Count: 1, Produced: 1, Checksum: 7})
	if got, r := line(t, l, late); r.Unchecked != 1 || !strings.Contains(got, "1 further copy, 1 of them not compared") {
		t.Error(got)
	}
}

func TestSummary(t *testing.T) {
	l := New(0)
	for _, b := range blocks(5) {
		l.AddBlock(b)
		b.Stream = "s0002"
		if b.Seq != 3 {
			l.AddBlock(b)
		}
	}
	r := l.Report(late)
	if r.Complete() || r.Summary.Line() != "2 streams: 1 balanced, 1 MISSING; 9 blocks, 90 samples here, 0 declared lost" {
		t.Error(r.Summary.Line())
	}
	var b strings.Builder
	must(t, r.Print(&b))
	if n := strings.Count(b.String(), "\n"); n != 3 {
		t.Errorf("%d lines:\n%s", n, b.String())
	}
}

func TestSpans(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 2))
		var s spans
		want := map[uint64]bool{}
		for range 30 {
			from := uint64(random.IntN(100))
			to := from + uint64(random.IntN(5))
			s.add(from, to)
			for n := from; n <= to; n++ {
				want[n] = true
			}
		}
		for n := range uint64(110) {
			if s.has(n) != want[n] {
				t.Fatalf("seed %d: has(%d) is %v: %v", seed, n, s.has(n), s)
			}
		}
		var outside []string
		for _, p := range s.without(span{0, 109}) {
			for n := p.from; n <= p.to; n++ {
				outside = append(outside, fmt.Sprint(n))
				if want[n] {
					t.Fatalf("seed %d: %d is inside", seed, n)
				}
			}
		}
		if len(outside)+len(want) != 110 {
			t.Fatalf("seed %d: %d outside, %d inside", seed, len(outside), len(want))
		}
		for i := 1; i < len(s); i++ {
			if s[i].from <= s[i-1].to+1 {
				t.Fatalf("seed %d: %v touch", seed, s)
			}
		}
	}
}
