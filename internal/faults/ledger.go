package faults

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// maxFindings bounds the failures that are spelled out of one check.
const maxFindings = 8

// Key is a sample as its producer knows it: by the producer's own sequence, or
// by the device's time.
type Key struct {
	Tag      string
	Producer string
	Seq      uint64
	Source   int64 // ns; 0 where there is a producer
}

func (k Key) String() string {
	if k.Producer != "" {
		return fmt.Sprintf("%s of %s#%d", k.Tag, k.Producer, k.Seq)
	}
	return fmt.Sprintf("%s at %d", k.Tag, k.Source)
}

func keyOf(s *sample.Sample) Key {
	if s.Producer != "" {
		return Key{Tag: s.Tag, Producer: s.Producer, Seq: s.Seq}
	}
	return Key{Tag: s.Tag, Source: s.SourceTime}
}

// hashOf covers what a consumer reads of a sample: value and quality.
func hashOf(s *sample.Sample) uint64 {
	h := fnv.New64a()
	if n, ok := s.Value.Number(); ok {
		fmt.Fprintf(h, "n%x", n)
	} else {
		fmt.Fprintf(h, "%s:%s", s.Value.Kind(), s.Value.Str())
	}
	fmt.Fprintf(h, "q%x", uint32(s.Quality))
	return h.Sum64()
}

type issued struct {
	hash  uint64
	sent  int // how often the producer sent it
	acked bool
}

// Ledger stands outside the gateway: it has every sample that a producer
// issued, with a hash of its payload, every one that was acknowledged to its
// producer, and all that arrived at the cloud. It is safe for concurrent use.
type Ledger struct {
	// Doubtful says that a Good sample may arrive as Uncertain.
	Doubtful bool

	mu       sync.Mutex
	issued   map[Key]*issued
	acked    int
	sinks    map[string]*arrivals
	dec      *block.Decoder
	findings []string
	n        int // findings in all
}

// arrivals are what one sink's endpoint has accepted.
type arrivals struct {
	blocks  map[string]uint64 // identity to a hash of the bytes
	copies  map[Key]int       // in distinct blocks
	streams map[string]map[uint64]block.Header
	gaps    map[string]*ledger.Gap // by epoch and id
	changed chan struct{}          // closed at the next arrival
}

// NewLedger makes a ledger for the named sinks.
func NewLedger(sinks ...string) (*Ledger, error) {
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	l := &Ledger{issued: map[Key]*issued{}, sinks: map[string]*arrivals{}, dec: dec}
	for _, name := range sinks {
		l.sinks[name] = &arrivals{
			blocks: map[string]uint64{}, copies: map[Key]int{}, streams: map[string]map[uint64]block.Header{},
			gaps: map[string]*ledger.Gap{}, changed: make(chan struct{}),
		}
	}
	return l, nil
}

// Issue notes a sample before its producer sends it, or sends it again.
func (l *Ledger) Issue(s *sample.Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := keyOf(s)
	e := l.issued[k]
	if e == nil {
		e = &issued{hash: hashOf(s)}
		l.issued[k] = e
	}
	e.sent++
}

// Ack notes that the gateway acknowledged a sample to its producer.
func (l *Ledger) Ack(s *sample.Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.issued[keyOf(s)]
	if e == nil {
		l.find("%s was acknowledged and never issued", keyOf(s))
		return
	}
	if !e.acked {
		e.acked = true
		l.acked++
	}
}

// Acked is how many samples were acknowledged so far.
func (l *Ledger) Acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// find notes a failure. Callers hold mu.
func (l *Ledger) find(format string, args ...any) {
	if l.n++; len(l.findings) < maxFindings {
		l.findings = append(l.findings, fmt.Sprintf(format, args...))
	}
}

// system reports whether a tag is one of the gateway's own.
func system(tag string) bool { return strings.Contains(tag, "/$") }

// Arrive notes a block that the endpoint of a sink has accepted. A block that
// arrives twice is one block where its bytes are the same: that is the keying.
func (l *Ledger) Arrive(sink string, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.sinks[sink]
	b, err := l.dec.Decode(data)
	if err != nil {
		l.find("what arrived at %s does not decode: %v", sink, err)
		return
	}
	id := b.Header.Identity()
	sum := fnv.New64a()
	sum.Write(data)
	if before, ok := a.blocks[id]; ok {
		if before != sum.Sum64() {
			l.find("block %s arrived at %s with two different contents", id, sink)
		}
		return
	}
	a.blocks[id] = sum.Sum64()
	stream := fmt.Sprintf("%s/%016x", b.Header.Stream, b.Header.Epoch)
	if a.streams[stream] == nil {
		a.streams[stream] = map[uint64]block.Header{}
	}
	a.streams[stream][b.Header.Seq] = b.Header
	for s := range b.All() {
		l.sampleArrived(a, sink, &s)
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

func (l *Ledger) sampleArrived(a *arrivals, sink string, s *sample.Sample) {
	if system(s.Tag) {
		if strings.HasSuffix(s.Tag, "/"+ledger.GapName) {
			g, err := ledger.ParseGap(s)
			if err != nil {
				l.find("at %s: %v", sink, err)
				return
			}
			a.gaps[fmt.Sprintf("%s#%d", g.Epoch, g.ID)] = g
		}
		return
	}
	k := keyOf(s)
	e := l.issued[k]
	switch {
	case e == nil:
		l.find("%s arrived at %s and was never issued", k, sink)
		return
	case e.hash != hashOf(s) && !l.doubted(e, s):
		l.find("%s arrived at %s with another payload: %s", k, sink, s.Value)
	}
	if a.copies[k]++; a.copies[k] > e.sent {
		l.find("%s arrived at %s in %d blocks and was sent %d times", k, sink, a.copies[k], e.sent)
	}
}

// doubted reports whether a sample is what was issued but for its quality, which
// was Good and has come into doubt.
func (l *Ledger) doubted(e *issued, s *sample.Sample) bool {
	good := *s
	good.Quality = sample.Good
	return l.Doubtful && s.Quality == sample.Uncertain && e.hash == hashOf(&good)
}

// Arrived reports whether a sample has arrived at every sink, and returns a
// channel that is closed at the next arrival at one that lacks it.
func (l *Ledger) Arrived(s *sample.Sample) (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.sinks {
		if a.copies[keyOf(s)] == 0 {
			return false, a.changed
		}
	}
	return true, nil
}

// Loss says which losses a check puts up with.
type Loss int

const (
	// NoLoss means that everything acknowledged arrived, and no gap was declared.
	NoLoss Loss = iota
	// DeclaredLoss means that what is missing is declared by gap records.
	DeclaredLoss
)

// Check holds what was acknowledged against what arrived, once everything that
// the gateway keeps was delivered. also is what it keeps elsewhere, such as dead
// letters: their blocks count as held. The result names what does not hold:
// acknowledged samples that are missing beyond what is declared lost; samples
// that arrived more often than they were sent, with another payload, or without
// having been issued; blocks with two contents; sequences missing in a stream.
func (l *Ledger) Check(may Loss, also ...[]byte) error {
	kept := map[string][][]byte{}
	for name := range l.sinks {
		kept[name] = also
	}
	return l.checkKept(may, kept)
}

// checkKept is Check where each sink has kept other blocks.
func (l *Ledger) checkKept(may Loss, kept map[string][][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.sinks))
	for name := range l.sinks {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		held, seqs := l.contents(kept[name])
		l.checkSink(name, may, held, seqs)
	}
	if l.n == 0 {
		return nil
	}
	text := strings.Join(l.findings, "; ")
	if l.n > len(l.findings) {
		text += fmt.Sprintf("; and %d more", l.n-len(l.findings))
	}
	return errors.New(text)
}

// contents lists the samples of blocks, and their sequences by stream.
func (l *Ledger) contents(blocks [][]byte) (held map[Key]bool, seqs map[string]map[uint64]bool) {
	held, seqs = map[Key]bool{}, map[string]map[uint64]bool{}
	for _, data := range blocks {
		b, err := l.dec.Decode(data)
		if err != nil {
			l.find("a block that is kept does not decode: %v", err)
			continue
		}
		stream := fmt.Sprintf("%s/%016x", b.Header.Stream, b.Header.Epoch)
		if seqs[stream] == nil {
			seqs[stream] = map[uint64]bool{}
		}
		seqs[stream][b.Header.Seq] = true
		for s := range b.All() {
			held[keyOf(&s)] = true
		}
	}
	return held, seqs
}

// losses compares, for a ledger of one sink and one stream of samples, how many
// of those acknowledged are missing and how many gap records declare lost. A
// block that was declared lost while it was being sent, and arrived, counts as
// arrived.
func (l *Ledger) losses(stream string) (missing, declared uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.sinks {
		for k, e := range l.issued {
			if e.acked && a.copies[k] == 0 {
				missing++
			}
		}
		for _, g := range a.gaps {
			switch {
			case g.Stream != stream:
			case g.Count == nil:
				return 0, 0, fmt.Errorf("a gap record of %s has no count", stream)
			default:
				declared += *g.Count
				for seq := g.FromSeq; seq <= g.ToSeq && g.FromSeq > 0; seq++ {
					declared -= uint64(a.streams[stream+"/"+g.Epoch][seq].Count)
				}
			}
		}
	}
	return missing, declared, nil
}

// refused reports whether a gap record says that a full spool kept samples out.
func (l *Ledger) refused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.sinks {
		for _, g := range a.gaps {
			if g.Cause == ledger.Refused {
				return true
			}
		}
	}
	return false
}

// lost reports whether a gap record declares blocks of a stream lost.
func (l *Ledger) lost(stream string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.sinks {
		for _, g := range a.gaps {
			if g.Stream == stream {
				return true
			}
		}
	}
	return false
}

func (l *Ledger) checkSink(name string, may Loss, held map[Key]bool, seqs map[string]map[uint64]bool) {
	a := l.sinks[name]
	var declared uint64
	unknown := false
	for _, g := range a.gaps {
		if len(g.Sinks) > 0 && !slices.Contains(g.Sinks, name) {
			continue
		}
		if g.Count == nil {
			unknown = true
		} else {
			declared += *g.Count
		}
	}
	if may == NoLoss && (declared > 0 || unknown) {
		for _, g := range a.gaps {
			l.find("a loss is declared: stream %q seq %d-%d cause %s", g.Stream, g.FromSeq, g.ToSeq, g.Cause)
		}
	}
	var missing []Key
	for k, e := range l.issued {
		if e.acked && a.copies[k] == 0 && !held[k] {
			missing = append(missing, k)
		}
	}
	if !unknown && uint64(len(missing)) > declared {
		slices.SortFunc(missing, func(x, y Key) int { return strings.Compare(x.String(), y.String()) })
		for _, k := range missing[:min(len(missing), 3)] {
			l.find("%s was acknowledged and did not arrive at %s", k, name)
		}
		l.find("%d samples were acknowledged and did not arrive at %s, %d are declared lost", len(missing), name, declared)
	}
	for stream, blocks := range a.streams {
		l.checkStream(name, stream, blocks, seqs[stream], a.gaps, declared == 0 && !unknown)
	}
}

// checkStream sees that a stream's sequences are there without a hole, but for
// those kept or declared, and that its counts add up where nothing is lost.
func (l *Ledger) checkStream(sink, stream string, blocks map[uint64]block.Header, kept map[uint64]bool, gaps map[string]*ledger.Gap, whole bool) {
	var last, sum uint64
	for seq := range blocks {
		last = max(last, seq)
	}
	name, epoch, _ := strings.Cut(stream, "/")
	for seq := uint64(1); seq <= last; seq++ {
		h, ok := blocks[seq]
		if ok {
			sum += uint64(h.Count)
			if whole && len(kept) == 0 && (h.Produced != sum || h.Lost != 0) {
				l.find("stream %s block %d says %d produced and %d lost; its blocks hold %d", stream, seq, h.Produced, h.Lost, sum)
				return
			}
			continue
		}
		declared := false
		for _, g := range gaps {
			// A loss in an epoch before may be declared in the one after it.
			declared = declared || g.Stream == name && g.FromSeq <= seq && seq <= g.ToSeq || g.Count == nil || g.Stream == "" || g.Epoch != epoch
		}
		if !declared && !kept[seq] {
			l.find("stream %s has blocks up to %d at %s, but none with sequence %d", stream, last, sink, seq)
			return
		}
	}
}
