// Package batch turns samples into the records that the spool keeps: it runs
// each sample through its tag's pipeline, appends it to the open batch of the
// tag's stream, makes the open batches durable by one commit per interval, and
// seals each batch into a packed block at its age or size.
//
// Samples wait in memory in the row form of block.PartWriter, a few bytes
// each, so that ten thousand tags fit a small gateway.
package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/gateway/pipeline"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

const (
	// tagsPerStream is the most tags that one stream takes.
	tagsPerStream = 256
	// maxStringBytes bounds one string value, so that every sample fits a
	// block that every sink takes.
	maxStringBytes = 64 << 10
	// maxClockOffset is how far a device's time may be from the gateway's to
	// be believed. A device with a broken clock would otherwise spread its
	// samples over any number of days, each a block of its own.
	maxClockOffset = 366 * 24 * time.Hour
	// timeResolution is that of the gateway's clock in samples, in ns. Finer
	// digits of it are noise of the scheduler, and would cost bytes.
	timeResolution = int64(time.Millisecond)
	// refusedRetry is when a refused producer should try again.
	refusedRetry = 5 * time.Second
	// maxClockHold is how long samples wait for the clock at most.
	maxClockHold = 10 * time.Minute
	beatEvery    = 10 * time.Second
)

// Store is what the batcher needs of the spool.
type Store interface {
	Commit(c *spool.Commit) error
	NeedsRotation() bool
	DueLosses() []spool.Loss
	Admit(need int64) error
	Thinnable(after uint64, maxBytes int) ([]spool.Block, error)
	Replace(r *spool.Replacement) error
}

// Health is told how the commits fare.
type Health interface {
	Beat()
	Up()
	Down(err error)
}

// Options come from the configuration and from the gateway.
type Options struct {
	Site, Gateway  string
	CommitInterval time.Duration
	// MaxOpenBytes bounds the rows that wait in memory; 24 MiB where 0.
	MaxOpenBytes int
	// MaxCommitBytes bounds the blocks of one commit, so that it stays small
	// beside a segment of the spool; 4 MiB where 0.
	MaxCommitBytes int
	// MaxEmitBytes bounds what a producer that waits for an answer hands in at
	// once: a stream's share of it goes into one commit. Without bound where 0.
	MaxEmitBytes int
	Log          *slog.Logger
	// Clock is the machine's. Sources stamp samples by Timeline, which is made of
	// Clock where it is nil.
	Clock    clock.Clock
	Timeline *clock.Timeline
	// ClockMode says what is done until the wall clock is synchronised, and
	// ClockHold how long samples are held at most; 10 minutes where 0.
	ClockMode ClockMode
	ClockHold time.Duration
	// ExpectSync says that a time service runs on this machine.
	ExpectSync bool
	Health     Health
	// Version is the program's, for heartbeats. Backlog says what waits for
	// delivery; nil where nobody knows.
	Version string
	Backlog func() ledger.Backlog
}

// Class decides which tags may share a stream, and when its batches are sealed.
type Class struct {
	ScanRate time.Duration `json:"scan_rate"`
	MaxAge   time.Duration `json:"max_age"`
	MaxBytes int           `json:"max_bytes"` // packed
	// Policy is DropOldest, Refuse or ThinOldest: what becomes of the samples
	// where there is no room.
	Policy spool.Policy `json:"policy,omitempty"`
	// Urgent tags are sealed within a second, and have room of their own.
	Urgent bool `json:"urgent,omitempty"`
}

// TagInfo is a configured tag.
type TagInfo struct {
	Name        string // full
	Type        string
	Unit        string
	Description string
	Urgent      bool // sealed within a second
	Counter     bool // every reading counts: none is thinned out
	// CounterMax is where a counter starts again at 0, in the tag's unit; 0 where
	// it is not known.
	CounterMax float64
	Rule       pipeline.Rule
}

// SourceInfo is a source that will emit.
type SourceInfo struct {
	Name  string
	Class Class
	Tags  []TagInfo
	// MaxTags bounds the source's tags, configured and dynamic ones together.
	MaxTags int
	// Beat is called now and then while the source waits for the spool.
	Beat func()
	// Full is told, with the reason, that nothing is taken of a source whose
	// policy is to refuse, and with nil that it is again. It may be nil.
	Full func(why error)
}

// Batcher owns the open batches. Ports may be used from any goroutine; Run
// must be called once.
type Batcher struct {
	o        Options
	store    Store
	encoder  *block.Encoder
	epoch    uint64
	lastBoot [16]byte // of recovered parts that do not say it

	wake chan struct{} // a commit is wanted before the interval ends

	mu        sync.Mutex // guards all below, and every stream's writer
	entries   map[string]*entry
	slots     map[string]slot // tag to stream, as persisted
	streams   []*stream       // by id; 0 is the system's
	openBytes int
	waiting   []func(error)
	newMeta   []spool.KV
	// newPolicies are those of streams that the spool is to learn.
	newPolicies map[uint32]spool.Policy
	scratch     []*entry
	room        chan struct{} // closed and renewed when rows leave memory
	stalled     error         // why commits fail now
	refusing    error         // why nothing is taken of sources that refuse
	refusals    uint64        // how often that began
	// refusedFrom is since when sources were waiting as the run before ended, by name.
	refusedFrom map[string]int64
	closed      bool
	ports       []*Port
	watched     map[string]*Watched // by tag
	keep        keeper

	known   map[string]uint64 // hash of the catalogue record last sent, by tag
	polled  map[string]bool   // sources that emit without asking for an acknowledgement
	nextGap uint64            // number of the last gap record that the gateway itself made
	gaps    map[ledger.Cause]GapCount
	bursts  map[*entry]*burst // of a server's overflows
	// thinnedOut counts samples since the start.
	thinnedOut uint64

	// What follows belongs to the goroutine that commits.
	starting  bool          // New runs, and must not wait for room
	left      *work         // what New found no room for
	begun     bool          // this run has accounted for the time before it
	lastAlive int64         // when the run before committed last, ns; 0 where there was none
	alive     int64         // monotonic clock when this one stored the time last, ns
	lastBeat  time.Duration // monotonic clock
	// firstCommit is the monotonic clock at the first commit of Run.
	firstCommit time.Duration
	pack        packer
	thinner     thinner
}

type slot struct {
	stream uint32
	index  uint16
}

type entry struct {
	state  pipeline.State
	stream *stream
	port   *Port
	index  int
	// counter says that every reading counts, so that none is thinned out.
	counter bool
	watch   *Watched // nil where nobody asks for the newest value
	last    int64    // primary time of its last sample, ns; 0 before the first
}

// New builds a batcher on an opened spool and takes up its unsealed parts.
func New(o Options, store Store, st *spool.State) (*Batcher, error) {
	if o.MaxOpenBytes == 0 {
		o.MaxOpenBytes = 24 << 20
	}
	if o.MaxCommitBytes == 0 {
		o.MaxCommitBytes = 4 << 20
	}
	if o.ClockHold == 0 {
		o.ClockHold = maxClockHold
	}
	if o.Timeline == nil {
		o.Timeline = clock.NewTimeline(clock.SourceOf(o.Clock))
	}
	enc, err := block.NewEncoder()
	if err != nil {
		return nil, fmt.Errorf("block encoder: %w", err)
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("block decoder: %w", err)
	}
	b := &Batcher{
		o: o, store: store, encoder: enc, epoch: st.Epoch,
		wake:    make(chan struct{}, 1),
		thinner: thinner{dec: dec},
		keep:    keeper{tl: o.Timeline, log: o.Log, mode: o.ClockMode, hold: o.ClockHold, expect: o.ExpectSync},
		entries: map[string]*entry{}, slots: map[string]slot{}, known: map[string]uint64{}, newPolicies: map[uint32]spool.Policy{}, room: make(chan struct{}),
		polled: map[string]bool{}, bursts: map[*entry]*burst{}, refusedFrom: map[string]int64{}, watched: map[string]*Watched{},
	}
	if err := b.restore(st); err != nil {
		return nil, err
	}
	// What was recovered is sealed before this run's samples come, so that no
	// batch is of two boots. Parts of this boot may wait for the clock.
	b.starting = true
	w := b.begins(sealAll)
	err = b.completes(context.Background(), w)
	b.starting = false
	var full *spool.FullError
	if errors.As(err, &full) {
		// Run goes on with it: sinks may make room, and none runs before.
		b.left = w
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	b.keep.before = nil
	return b, nil
}

// Open registers a source, before Run. Its tags are assigned to streams, once and
// for all.
func (b *Batcher) Open(src SourceInfo) (*Port, error) {
	p, err := b.open(src)
	if err == nil && p.keeps {
		b.admit() // before it brings anything
	}
	return p, err
}

func (b *Batcher) open(src SourceInfo) (*Port, error) {
	p := &Port{b: b, info: src, keeps: src.Class.Policy == spool.Refuse}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range src.Tags {
		t := &src.Tags[i]
		if err := sample.CheckTag(t.Name); err != nil {
			return nil, fmt.Errorf("source %s: %w", src.Name, err)
		}
		if other := b.entries[t.Name]; other != nil {
			return nil, fmt.Errorf("source %s: tag %s is already one of source %s", src.Name, t.Name, other.port.info.Name)
		}
		class := src.Class
		if t.Urgent {
			class.MaxAge, class.Urgent = min(class.MaxAge, time.Second), true
		}
		b.register(p, t.Name, class, &t.Rule).counter = t.Counter
		b.catalogue(p, t)
	}
	b.ports = append(b.ports, p)
	return p, nil
}

// register makes the entry of a tag, assigning it to a stream where it has
// none yet. Callers hold b.mu.
func (b *Batcher) register(p *Port, name string, class Class, rule *pipeline.Rule) *entry {
	at, ok := b.slots[name]
	if !ok {
		s := b.streamFor(class)
		at = slot{stream: s.id, index: uint16(len(s.tags))}
		s.tags = append(s.tags, name)
		b.slots[name] = at
		b.newMeta = append(b.newMeta, tagMeta(name, at))
	}
	s := b.streams[at.stream]
	// The shortest age of its tags is the stream's: a tag that became urgent,
	// say, keeps its stream for ever.
	s.class.MaxAge = min(s.class.MaxAge, class.MaxAge)
	b.demand(s, &class)
	if kv, isNew := s.carries(p.info.Name); isNew {
		b.newMeta = append(b.newMeta, kv)
	}
	e := &entry{state: pipeline.NewState(rule), stream: s, port: p, index: int(at.index), watch: b.watched[name]}
	b.entries[name] = e
	p.tags++
	if s.demands.refuse {
		b.keepAll(s)
	}
	return e
}

// streamFor returns the newest stream of a class that has room, or a new one.
func (b *Batcher) streamFor(class Class) *stream {
	for i := len(b.streams) - 1; i > 0; i-- {
		if s := b.streams[i]; s.origin == class && len(s.tags) < tagsPerStream {
			return s
		}
	}
	s := newStream(uint32(len(b.streams)), class)
	b.streams = append(b.streams, s)
	b.newMeta = append(b.newMeta, s.meta())
	return s
}

// errStopping refuses what comes after the last commit.
var errStopping = errors.New("the gateway is stopping")

// Counters of one source since the start, in samples.
type Counters struct {
	Tags       int    `json:"tags"`
	In         uint64 `json:"in"`           // emitted by the source
	Kept       uint64 `json:"kept"`         // let through by the pipeline: produced
	Suppressed uint64 `json:"suppressed"`   // held back by a deadband
	Bad        uint64 `json:"bad"`          // kept, with Bad quality
	OutOfRange uint64 `json:"out_of_range"` // kept, outside the tag's range
	Refused    uint64 `json:"refused"`      // not taken
	BadTime    uint64 `json:"bad_time"`     // the device's time was too far off to be believed
}

func (c *Counters) count(s *sample.Sample, keep bool) {
	c.In++
	if !keep {
		c.Suppressed++
		return
	}
	c.Kept++
	switch {
	case s.Quality.IsBad():
		c.Bad++
	case s.Quality == sample.UncertainEngineeringUnits:
		c.OutOfRange++
	}
}

// Counters returns each source's counters by name.
func (b *Batcher) Counters() map[string]Counters {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]Counters, len(b.ports))
	for _, p := range b.ports {
		c := p.counters
		c.Tags = p.tags
		out[p.info.Name] = c
	}
	return out
}
