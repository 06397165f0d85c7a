// Package audit holds block headers, gap records and heartbeats against each
// other and says, for each stream and epoch, that all is there, or what is
// missing and where. docs/accounting.md has the formulas.
//
// It takes its input in any order and more than once. What it keeps grows with
// the number of holes, not of blocks: blocks in a row are one interval. The
// checksums by which a block that comes twice is compared take 4 bytes a block
// and are bounded; beyond the bound the oldest are forgotten, and the report
// says how many blocks were not compared.
package audit

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// Block is what the audit knows of a block.
type Block struct {
	Site     string `json:"site"`
	Gateway  string `json:"gateway"`
	Stream   string `json:"stream"`
	Epoch    uint64 `json:"epoch"`
	Seq      uint64 `json:"seq"`
	Count    int    `json:"count"`    // samples
	First    int64  `json:"first"`    // ns since the Unix epoch
	Last     int64  `json:"last"`     // likewise
	Checksum uint32 `json:"checksum"` // as weektable.Checksum gives it
	// KeysOnly says that what follows is not known.
	KeysOnly bool   `json:"keys_only,omitempty"`
	Produced uint64 `json:"produced"`
	Lost     uint64 `json:"lost"`
	Thinned  uint64 `json:"thinned"`
	// ReplacesFrom and ReplacesTo are the sequences that a thinned block stands
	// for, both included; 0, 0 where it is an ordinary one.
	ReplacesFrom uint64 `json:"replaces_from,omitempty"`
	ReplacesTo   uint64 `json:"replaces_to,omitempty"`
}

// Of is the block with a header, and with bytes of a checksum.
func Of(h *block.Header, checksum uint32) Block {
	return Block{
		Site: h.Site, Gateway: h.Gateway, Stream: h.Stream, Epoch: h.Epoch, Seq: h.Seq, Count: h.Count,
		First: h.First, Last: h.Last, Checksum: checksum, Produced: h.Produced, Lost: h.Lost, Thinned: h.Thinned,
		ReplacesFrom: h.ReplacesFrom, ReplacesTo: h.ReplacesTo,
	}
}

// own is how many samples the block adds to those produced: a thinned block
// repeats some of those that it replaces.
func (b *Block) own() uint64 {
	if b.ReplacesFrom != 0 {
		return 0
	}
	return uint64(b.Count)
}

// Ledger collects. It is not safe for concurrent use.
type Ledger struct {
	streams  map[streamKey]*stream
	gateways map[gatewayKey]*gateway
	sums     checksums
	lines    map[string]uint64 // samples told by AddSample, without their blocks, by site
}

type gatewayKey struct{ site, gateway string }

type streamKey struct {
	gatewayKey
	stream string
	epoch  uint64
}

// stream is what is known of one stream in one epoch.
type stream struct {
	runs runs

	blocks     uint64 // distinct
	samples    uint64 // in them
	duplicates uint64
	unchecked  uint64 // duplicates that could not be compared
	faults     faults

	// Cumulative counts as of the highest sequence seen.
	highest                 uint64
	produced, lost, thinned uint64

	replaced       spans  // sequences that thinned blocks stand for
	thinnedSamples uint64 // in thinned blocks

	gaps gaps // by sequence
	// unsealed are samples that were lost before they were in a block, as gap
	// records say; anyUnsealed that one of these does not know how many.
	unsealed    uint64
	anyUnsealed bool

	beat   ledger.StreamCounts // the highest that a heartbeat knows
	beatAt time.Time
}

// gateway is what is known of one gateway as a whole.
type gateway struct {
	known map[string]*spans // numbers of gap records seen, by epoch and origin
	loose []loose
	other map[ledger.Cause]int // losses that never reached the spool
	// uncounted are losses of the spool whose size is not known.
	uncounted map[ledger.Cause]int

	newest map[uint64]beat // newest heartbeat of each epoch
}

type beat struct {
	order uint64 // rises with each heartbeat of the epoch, whatever the clock does
	ledger.Heartbeat
}

// loose is a loss of blocks whose stream or epoch is not known.
type loose struct {
	stream   string // empty: any
	from, to uint64 // where the stream is known; 0, 0: of samples that were never in a block
	not      uint64 // an epoch that it is not about, where the stream is known
	count    *uint64
	cause    ledger.Cause
	at       time.Time // when it was declared
}

// DefaultChecksumBytes bounds the memory for checksums: 16 million blocks,
// which is thirty years of a stream with one a minute.
const DefaultChecksumBytes = 64 << 20

// New makes an empty ledger. checksumBytes bounds the memory for checksums;
// DefaultChecksumBytes where 0.
func New(checksumBytes int) *Ledger {
	if checksumBytes == 0 {
		checksumBytes = DefaultChecksumBytes
	}
	return &Ledger{
		streams: map[streamKey]*stream{}, gateways: map[gatewayKey]*gateway{}, lines: map[string]uint64{},
		sums: checksums{most: max(1, checksumBytes/pageBytes), pages: map[pageKey]*page{}},
	}
}

func (l *Ledger) stream(k streamKey) *stream {
	s := l.streams[k]
	if s == nil {
		s = &stream{}
		l.streams[k] = s
	}
	return s
}

func (l *Ledger) gateway(k gatewayKey) *gateway {
	g := l.gateways[k]
	if g == nil {
		g = &gateway{known: map[string]*spans{}, other: map[ledger.Cause]int{}, uncounted: map[ledger.Cause]int{}, newest: map[uint64]beat{}}
		l.gateways[k] = g
	}
	return g
}

// AddBlock notes a block.
func (l *Ledger) AddBlock(b Block) {
	k := streamKey{gatewayKey{b.Site, b.Gateway}, b.Stream, b.Epoch}
	s := l.stream(k)
	if b.Seq == 0 {
		s.faults.add("a block has sequence 0; sequences start at 1")
		return
	}
	before, known := l.sums.note(k, b.Seq, b.Checksum)
	if s.runs.has(b.Seq) {
		s.duplicates++
		switch {
		case !known:
			s.unchecked++
		case before != b.Checksum:
			s.faults.add(fmt.Sprintf("block %d came twice with different bytes: CRC-32C %08x and %08x", b.Seq, before, b.Checksum))
		}
		return
	}
	s.blocks++
	s.samples += uint64(b.Count)
	if !b.KeysOnly && b.Seq > s.highest {
		s.highest, s.produced, s.lost, s.thinned = b.Seq, b.Produced, b.Lost, b.Thinned
	}
	if b.ReplacesFrom != 0 {
		s.thinnedSamples += uint64(b.Count)
		if b.ReplacesTo < b.ReplacesFrom || b.ReplacesTo >= b.Seq {
			s.faults.add(fmt.Sprintf("block %d says that it replaces %d to %d", b.Seq, b.ReplacesFrom, b.ReplacesTo))
		} else {
			s.replaced.add(b.ReplacesFrom, b.ReplacesTo)
		}
	}
	if !b.KeysOnly && b.Produced < b.own() {
		s.faults.add(fmt.Sprintf("block %d holds %d samples and says that %d were produced so far", b.Seq, b.Count, b.Produced))
		b.KeysOnly = true
	}
	s.runs.add(&b, &s.faults)
}

// AddHeader notes a block by its header and bytes. Where it is of the system
// stream, the gap records and heartbeats in it are noted too.
func (l *Ledger) AddHeader(h *block.Header, checksum uint32, decode func() (*block.Block, error)) error {
	l.AddBlock(Of(h, checksum))
	if h.Stream != ledger.SystemStream {
		return nil
	}
	b, err := decode()
	if err != nil {
		return fmt.Errorf("block %s: %w", h.Identity(), err)
	}
	for v := range b.All() {
		if _, err := l.addRecord(&v); err != nil {
			return fmt.Errorf("block %s: %w", h.Identity(), err)
		}
	}
	return nil
}

// AddSample notes a sample that came without its block, as in JSON Lines: a
// gap record or heartbeat for what it says, any other by its count alone.
func (l *Ledger) AddSample(v *sample.Sample) error {
	site, _, _ := strings.Cut(v.Tag, "/")
	l.lines[site]++
	_, err := l.addRecord(v)
	return err
}

// addRecord reports whether a sample is a gap record or heartbeat, and notes it.
func (l *Ledger) addRecord(v *sample.Sample) (bool, error) {
	at := strings.LastIndexByte(v.Tag, '/')
	if at < 0 {
		return false, nil
	}
	site, gw, ok := strings.Cut(v.Tag[:at], "/")
	if !ok {
		return false, nil
	}
	switch v.Tag[at+1:] {
	case ledger.GapName:
		g, err := ledger.ParseGap(v)
		if err != nil {
			return true, err
		}
		return true, l.AddGap(site, gw, g)
	case ledger.HeartbeatName:
		h, err := ledger.ParseHeartbeat(v)
		if err != nil {
			return true, err
		}
		return true, l.AddHeartbeat(site, gw, h)
	}
	return false, nil
}

// AddGap notes a gap record of a gateway. An error says that it does not read.
func (l *Ledger) AddGap(site, gw string, g *ledger.Gap) error {
	k := gatewayKey{site, gw}
	of := l.gateway(k)
	id := g.Epoch + "/" + string(g.Origin)
	if of.known[id] == nil {
		of.known[id] = &spans{}
	}
	if of.known[id].has(g.ID) {
		return nil // it came before
	}
	of.known[id].add(g.ID, g.ID)
	if g.Origin != ledger.FromSpool {
		of.other[g.Cause]++
		return nil
	}
	if g.Count == nil {
		of.uncounted[g.Cause]++
	}
	named := g.Epoch
	if g.SeqEpoch != "" {
		named = g.SeqEpoch
	}
	if g.Stream == "" || named == ledger.UnknownEpoch {
		x := loose{stream: g.Stream, from: g.FromSeq, to: g.ToSeq, count: g.Count, cause: g.Cause, at: g.At}
		if g.Stream != "" {
			var err error
			if x.not, err = parseEpoch(g.Epoch); err != nil {
				return fmt.Errorf("gap record %d: %w", g.ID, err)
			}
		}
		of.loose = append(of.loose, x)
		return nil
	}
	epoch, err := parseEpoch(named)
	if err != nil {
		return fmt.Errorf("gap record %d: %w", g.ID, err)
	}
	s := l.stream(streamKey{k, g.Stream, epoch})
	switch {
	case g.FromSeq != 0:
		s.gaps.add(gap{span: span{g.FromSeq, max(g.FromSeq, g.ToSeq)}, known: g.Count != nil, count: value(g.Count), cause: g.Cause})
	case g.Count == nil:
		s.anyUnsealed = true
	default:
		s.unsealed += *g.Count
	}
	return nil
}

// AddLosses notes losses whose gap records no block holds yet. Which gateway
// they are of they do not say, so it is the one whose blocks are here.
func (l *Ledger) AddLosses(list []ledger.Gap) error {
	owner := gatewayKey{}
	for k := range l.streams {
		owner = k.gatewayKey
		if epoch := fmt.Sprintf("%016x", k.epoch); len(list) > 0 && epoch == list[0].Epoch {
			break
		}
	}
	if owner == (gatewayKey{}) {
		return nil // no block is here, so none is missing
	}
	for i := range list {
		if err := l.AddGap(owner.site, owner.gateway, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// AddHeartbeat notes a heartbeat of a gateway. An error says that it does not
// read.
func (l *Ledger) AddHeartbeat(site, gw string, h *ledger.Heartbeat) error {
	epoch, err := parseEpoch(h.Epoch)
	if err != nil {
		return fmt.Errorf("heartbeat of %s: %w", h.At.Format(time.RFC3339), err)
	}
	k := gatewayKey{site, gw}
	of := l.gateway(k)
	order := uint64(0)
	for _, c := range h.Streams {
		if c.Stream == ledger.SystemStream {
			order = c.Seq + 1
		}
		if c.Seq == 0 && c.Produced == 0 {
			continue // nothing of it yet
		}
		s := l.stream(streamKey{k, c.Stream, epoch})
		for _, r := range c.Replaced {
			if r.From > 0 && r.From <= r.To && r.To <= c.Seq {
				s.replaced.add(r.From, r.To)
			}
		}
		if c.Seq > s.beat.Seq || c.Seq == s.beat.Seq && c.Produced >= s.beat.Produced {
			s.beat, s.beatAt = c, h.At
		}
	}
	if order >= of.newest[epoch].order {
		of.newest[epoch] = beat{order, *h}
	}
	return nil
}

func value(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

func parseEpoch(text string) (uint64, error) {
	var n uint64
	if len(text) != 16 {
		return 0, fmt.Errorf("epoch %q: want 16 hexadecimal digits", text)
	}
	if _, err := fmt.Sscanf(text, "%016x", &n); err != nil {
		return 0, fmt.Errorf("epoch %q: want 16 hexadecimal digits", text)
	}
	return n, nil
}

// StreamsOf lists the streams of a gateway that blocks, gap records or
// heartbeats have named so far.
func (l *Ledger) StreamsOf(site, gw string) (out []string) {
	for k := range l.streams {
		if k.gatewayKey == (gatewayKey{site, gw}) && !slices.Contains(out, k.stream) {
			out = append(out, k.stream)
		}
	}
	slices.Sort(out)
	return out
}

// faults are contradictions, the first few of them in words.
type faults struct {
	list  []string
	count int
}

const maxFaults = 20

func (f *faults) add(text string) {
	f.count++
	if len(f.list) < maxFaults {
		f.list = append(f.list, text)
	}
}

// keys lists the streams in the order of the report.
func (l *Ledger) keys() []streamKey {
	out := make([]streamKey, 0, len(l.streams))
	for k := range l.streams {
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := &out[i], &out[j]
		switch {
		case a.site != b.site:
			return a.site < b.site
		case a.gateway != b.gateway:
			return a.gateway < b.gateway
		case a.stream != b.stream:
			return a.stream < b.stream
		}
		return a.epoch < b.epoch
	})
	return out
}
