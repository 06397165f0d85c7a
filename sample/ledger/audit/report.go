package audit

import (
	"fmt"
	"slices"
	"time"

	"millrace/sample/ledger"
)

// Options say how what was collected is judged.
type Options struct {
	Now time.Time
	// Patience is how long a block may be on its way: what is missing beside
	// younger blocks or heartbeats has not arrived yet.
	Patience time.Duration
	// FromFirst starts the account of a stream at the first block seen, and
	// ToLast ends it at the last: for a look at a part of the time.
	FromFirst, ToLast bool
	// Elsewhere says that blocks were delivered to where this audit does not
	// look: a hole is no loss then, a contradiction still is one.
	Elsewhere bool
	// Local says that the gateway's own spool was read: a backlog is here, so
	// nothing waits there.
	Local bool
}

// Verdict is what an audit says of a stream.
type Verdict string

// The verdicts.
const (
	Balanced Verdict = "balanced" // all is here or declared
	Waiting  Verdict = "waiting"  // something has not arrived yet
	Missing  Verdict = "missing"  // something is missing undeclared, or contradicts itself
)

// Kind says what became of sequences that are not here.
type Kind string

// The kinds of holes.
const (
	Declared  Kind = "declared"  // a gap record says so
	Thinned   Kind = "thinned"   // a thinned block stands for them
	NotYet    Kind = "not_yet"   // they are on their way, as far as can be told
	Undefined Kind = "missing"   // nobody says why
	Other     Kind = "elsewhere" // delivered to where this audit does not look
)

// Hole is a range of sequences that are not here.
type Hole struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	Kind Kind   `json:"kind"`
	// Samples is how many they held, by the counts; null where unknown.
	Samples *uint64 `json:"samples"`
	// After and Before are the times of the samples around it; zero at an end.
	After  time.Time      `json:"after,omitzero"`
	Before time.Time      `json:"before,omitzero"`
	Causes []ledger.Cause `json:"causes,omitempty"`
	// Loose is set where the gap record does not name the stream.
	Loose bool `json:"loose,omitempty"`
}

// StreamReport is the account of one stream in one epoch, in samples.
type StreamReport struct {
	Site     string  `json:"site"`
	Gateway  string  `json:"gateway"`
	Stream   string  `json:"stream"`
	Epoch    string  `json:"epoch"`
	Verdict  Verdict `json:"verdict"`
	Blocks   uint64  `json:"blocks"`    // here, each once
	FirstSeq uint64  `json:"first_seq"` // with which the account begins
	LastSeq  uint64  `json:"last_seq"`  // that is known of
	Samples  uint64  `json:"samples"`   // in the blocks that are here
	Produced uint64  `json:"produced"`
	Lost     uint64  `json:"lost"`
	Thinned  uint64  `json:"thinned"`
	// Duplicates are further copies of blocks; of Unchecked it is not known
	// whether their bytes are the same.
	Duplicates uint64 `json:"duplicates"`
	Unchecked  uint64 `json:"unchecked"`
	// Undeclared are samples that are in no block, although no block is missing,
	// and that no gap record declares; they lie behind the sequences in Places.
	Undeclared uint64    `json:"undeclared"`
	Places     []uint64  `json:"places,omitempty"`
	Holes      []Hole    `json:"holes,omitempty"`
	Faults     []string  `json:"faults,omitempty"`
	FaultCount int       `json:"fault_count"`
	Heard      time.Time `json:"heard,omitzero"` // the heartbeat that knows most of the stream

	local bool // copies are usual: in the spool and in a file
}

// GatewayReport is what a gateway says of itself.
type GatewayReport struct {
	Site    string `json:"site"`
	Gateway string `json:"gateway"`
	// Heartbeat is the newest, without its streams; null where there is none.
	Heartbeat *ledger.Heartbeat `json:"heartbeat"`
	// Other counts gap records of losses before the spool, by cause.
	Other map[ledger.Cause]int `json:"other"`
	// Uncounted counts gap records of the spool that could not say how many
	// samples were lost, by cause.
	Uncounted map[ledger.Cause]int `json:"uncounted,omitempty"`
}

// SiteReport compares samples that came without their blocks with what the
// heartbeats say was produced.
type SiteReport struct {
	Site     string `json:"site"`
	Lines    uint64 `json:"lines"`
	InBlocks uint64 `json:"in_blocks"` // samples in blocks that are here
	// Expected is what the newest heartbeats say was produced and neither lost
	// nor thinned; Short is by how much lines and blocks fall below it.
	Expected uint64 `json:"expected"`
	Short    uint64 `json:"short"`
}

// Report is an audit's result.
type Report struct {
	Streams  []StreamReport  `json:"streams"`
	Gateways []GatewayReport `json:"gateways"`
	Sites    []SiteReport    `json:"sites,omitempty"`
	// Unread says what did not read: a block or a part of a file.
	Unread  []string `json:"unread,omitempty"`
	Summary Summary  `json:"summary"`
}

// Summary counts streams and samples.
type Summary struct {
	Streams  int    `json:"streams"`
	Balanced int    `json:"balanced"`
	Waiting  int    `json:"waiting"`
	Missing  int    `json:"missing"`
	Unread   int    `json:"unread"` // blocks, items or files that do not read
	Blocks   uint64 `json:"blocks"`
	Samples  uint64 `json:"samples"`
	Declared uint64 `json:"declared"` // lost, by the streams' own counts
}

// Unreadable adds what did not read, count of it in all, and the first in
// words. It counts as missing.
func (r *Report) Unreadable(what []string, count int) {
	r.Unread = append(r.Unread, what...)
	r.Summary.Unread += count
}

// Complete reports whether nothing is missing undeclared.
func (r *Report) Complete() bool { return r.Summary.Missing+r.Summary.Unread == 0 }

// Report judges what was collected so far. The ledger can take more after it.
func (l *Ledger) Report(o Options) *Report {
	out := &Report{}
	left := map[gatewayKey][]loose{}
	for k, g := range l.gateways {
		for _, x := range g.loose { // what explains one stream does not explain the next
			if x.count != nil {
				n := *x.count
				x.count = &n
			}
			left[k] = append(left[k], x)
		}
	}
	for _, k := range l.keys() {
		j := judge{o: o, key: k, s: l.streams[k], loose: left[k.gatewayKey]}
		if g := l.gateways[k.gatewayKey]; g != nil {
			j.beat = g.newestBeat()
		}
		r := j.report()
		out.Streams = append(out.Streams, r)
		out.Summary.add(&r)
	}
	out.Gateways = l.gatewayReports()
	out.Sites = l.siteReports()
	for _, s := range out.Sites {
		if s.Short > 0 {
			out.Summary.Missing++
		}
	}
	return out
}

func (s *Summary) add(r *StreamReport) {
	s.Streams++
	switch r.Verdict {
	case Balanced:
		s.Balanced++
	case Waiting:
		s.Waiting++
	case Missing:
		s.Missing++
	}
	s.Blocks += r.Blocks
	s.Samples += r.Samples
	s.Declared += r.Lost
}

func (g *gateway) newestBeat() *ledger.Heartbeat {
	var out *ledger.Heartbeat
	for _, b := range g.newest {
		if out == nil || b.At.After(out.At) {
			h := b.Heartbeat
			out = &h
		}
	}
	return out
}

func (l *Ledger) gatewayReports() (out []GatewayReport) {
	for k, g := range l.gateways {
		r := GatewayReport{Site: k.site, Gateway: k.gateway, Heartbeat: g.newestBeat(), Other: g.other, Uncounted: g.uncounted}
		if r.Heartbeat != nil {
			r.Heartbeat.Streams = nil
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b GatewayReport) int {
		if a.Site != b.Site {
			return compare(a.Site, b.Site)
		}
		return compare(a.Gateway, b.Gateway)
	})
	return out
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (l *Ledger) siteReports() (out []SiteReport) {
	for site, lines := range l.lines {
		r := SiteReport{Site: site, Lines: lines}
		for k, s := range l.streams {
			if k.site != site {
				continue
			}
			r.InBlocks += s.samples
			r.Expected += s.beat.Produced - min(s.beat.Produced, s.beat.Lost+s.beat.Thinned)
		}
		if have := r.Lines + r.InBlocks; have < r.Expected {
			r.Short = r.Expected - have
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b SiteReport) int { return compare(a.Site, b.Site) })
	return out
}

// judge makes the account of one stream.
type judge struct {
	o     Options
	key   streamKey
	s     *stream
	loose []loose
	beat  *ledger.Heartbeat // newest of the gateway

	// excess are samples that were produced and are in no block, seen or
	// missing, as far as the counts can tell: parts that were lost before they
	// were sealed, and what thinning took out.
	excess   uint64
	anything bool // a record of unknown count may explain any excess
	// moved are samples of lost thinned blocks beyond what was produced there.
	moved uint64
}

func (j *judge) report() StreamReport {
	k, s := j.key, j.s
	r := StreamReport{
		Site: k.site, Gateway: k.gateway, Stream: k.stream, Epoch: fmt.Sprintf("%016x", k.epoch), Verdict: Balanced,
		Blocks: s.blocks, Samples: s.samples, Duplicates: s.duplicates, Unchecked: s.unchecked,
		Produced: max(s.produced, s.beat.Produced), Lost: max(s.lost, s.beat.Lost), Thinned: max(s.thinned, s.beat.Thinned),
		Faults: slices.Clone(s.faults.list), FaultCount: s.faults.count, Heard: s.beatAt, local: j.o.Local,
	}
	j.excess, j.anything = s.runs.unsealed, s.anyUnsealed
	for _, h := range j.holes(&r) {
		j.account(&r, h)
	}
	r.FirstSeq = 1
	if n := len(s.runs.list); n > 0 {
		r.LastSeq = s.runs.list[n-1].to
		if o := s.runs.list[0].from; j.o.FromFirst {
			r.FirstSeq = o
		}
	}
	r.LastSeq = max(r.LastSeq, s.beat.Seq)
	declared := s.unsealed + r.Thinned + s.thinnedSamples + j.moved
	if j.excess > declared && !j.anything && !j.explained(j.excess-declared) {
		r.Undeclared, r.Places = j.excess-declared, s.runs.places
	}
	for i := range r.Holes {
		if r.Holes[i].Kind == NotYet {
			r.Verdict = Waiting
		}
	}
	if r.FaultCount > 0 || r.Undeclared > 0 || slices.ContainsFunc(r.Holes, func(h Hole) bool { return h.Kind == Undefined }) {
		r.Verdict = Missing
	}
	return r
}

func (s *StreamReport) fault(text string) {
	s.Faults = append(s.Faults, text)
	s.FaultCount++
}

// hole is a range of sequences that are not here, with what the counts around
// it say of it.
type hole struct {
	span
	samples       uint64
	known         bool
	after, before int64 // ns; 0 at an end
}

// holes lists what is missing before, between and behind the runs.
func (j *judge) holes(report *StreamReport) (out []hole) {
	list := j.s.runs.list
	last := run{endKnown: true}
	for i := range list {
		r := &list[i]
		known := last.endKnown && r.baseKnown
		switch {
		case i == 0 && j.o.FromFirst:
		case r.from > last.to+1:
			h := hole{span: span{last.to + 1, r.from - 1}, known: known && r.base >= last.end, after: last.last, before: r.first}
			h.samples = r.base - last.end
			if known && !h.known {
				report.fault(fmt.Sprintf("block %d says that %d samples were produced before it, block %d before it says %d", r.from, r.base, last.to, last.end))
			}
			out = append(out, h)
		case known && i == 0:
			j.excess += r.base // lost before the first block
		}
		last = *r
	}
	if j.o.ToLast {
		return out
	}
	end := j.s.beat.Seq
	if n := len(j.s.gaps); n > 0 {
		end = max(end, j.s.gaps[n-1].to)
	}
	known := last.endKnown && j.s.beat.Seq == end && j.s.beat.Produced >= last.end
	switch {
	case end > last.to:
		out = append(out, hole{span: span{last.to + 1, end}, known: known, samples: j.s.beat.Produced - last.end, after: last.last})
	case known && end == last.to && end > 0:
		j.excess += j.s.beat.Produced - last.end // lost behind the last block
	}
	return out
}
