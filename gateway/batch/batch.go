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
	beatEvery    = 10 * time.Second
)

// Store is what the batcher needs of the spool.
type Store interface {
	Commit(c *spool.Commit) error
	NeedsRotation() bool
	Losses() []spool.Loss
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
	Log            *slog.Logger
	Clock          clock.Clock
	Health         Health
}

// Class decides which tags may share a stream, and when its batches are sealed.
type Class struct {
	ScanRate time.Duration `json:"scan_rate"`
	MaxAge   time.Duration `json:"max_age"`
	MaxBytes int           `json:"max_bytes"` // packed
}

// TagInfo is a configured tag.
type TagInfo struct {
	Name        string // full
	Type        string
	Unit        string
	Description string
	Urgent      bool // sealed within a second
	Rule        pipeline.Rule
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
}

// Batcher owns the open batches. Ports may be used from any goroutine; Run
// must be called once.
type Batcher struct {
	o        Options
	store    Store
	encoder  *block.Encoder
	epoch    uint64
	boot     [16]byte
	lastBoot [16]byte // of the parts that were recovered

	wake chan struct{} // a commit is wanted before the interval ends

	mu        sync.Mutex // guards all below, and every stream's writer
	entries   map[string]*entry
	slots     map[string]slot // tag to stream, as persisted
	streams   []*stream       // by id; 0 is the system's
	openBytes int
	waiting   []func(error)
	newMeta   []spool.KV
	scratch   []*entry
	room      chan struct{} // closed and renewed when rows leave memory
	stalled   error         // why commits fail now
	closed    bool
	ports     []*Port

	known map[string]uint64 // hash of the catalogue record last sent, by tag

	settled uint64 // losses up to this id are in commits already; Run's own
	pack    packer // Run's own
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
}

// New builds a batcher on an opened spool and takes up its unsealed parts.
func New(o Options, store Store, st *spool.State) (*Batcher, error) {
	if o.MaxOpenBytes == 0 {
		o.MaxOpenBytes = 24 << 20
	}
	if o.MaxCommitBytes == 0 {
		o.MaxCommitBytes = 4 << 20
	}
	enc, err := block.NewEncoder()
	if err != nil {
		return nil, fmt.Errorf("block encoder: %w", err)
	}
	b := &Batcher{
		o: o, store: store, encoder: enc, epoch: st.Epoch, boot: bootID(),
		wake:    make(chan struct{}, 1),
		entries: map[string]*entry{}, slots: map[string]slot{}, known: map[string]uint64{}, room: make(chan struct{}),
	}
	if err := b.restore(st); err != nil {
		return nil, err
	}
	// What was recovered is sealed by itself, before this run's samples come:
	// its clock is that of the run before.
	if err := b.commit(context.Background(), true); err != nil {
		return nil, err
	}
	return b, nil
}

// Open registers a source. Its tags are assigned to streams, once and for all.
func (b *Batcher) Open(src SourceInfo) (*Port, error) {
	p := &Port{b: b, info: src}
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
			class.MaxAge = min(class.MaxAge, time.Second)
		}
		b.register(p, t.Name, class, &t.Rule)
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
	e := &entry{state: pipeline.NewState(rule), stream: s, port: p, index: int(at.index)}
	b.entries[name] = e
	p.tags++
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
