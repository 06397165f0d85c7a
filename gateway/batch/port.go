package batch

import (
	"context"
	"fmt"
	"time"

	"millrace/gateway/pipeline"
	"millrace/protocols"
	"millrace/sample"
)

// sampleBytes is what a sample takes in an open batch besides a string, at most.
const sampleBytes = 48

// Port is where one source hands its samples in.
type Port struct {
	b        *Batcher
	info     SourceInfo
	tags     int
	counters Counters
	toldTime bool
	polled   bool // it has emitted without asking for an acknowledgement
	// keeps says that the source is to be refused where there is no room: by its
	// policy, or since some of its tags are in a stream that keeps all it has.
	keeps     bool
	waiting   int   // polled batches that wait
	waitsFrom int64 // since when, ns
	stored    bool  // the spool knows that it waits
}

// Emit implements protocols.Emit.
func (p *Port) Emit(ctx context.Context, batch []sample.Sample, done func(error)) error {
	b := p.b
	b.mu.Lock()
	waits := false
	for {
		if err := b.full(p, done != nil); err == nil {
			break
		} else if done != nil || b.closed {
			p.counters.Refused += uint64(len(batch))
			b.mu.Unlock()
			return &protocols.RefusedError{Reason: err.Error(), RetryAfter: refusedRetry}
		}
		if !waits {
			waits = true
			p.waits()
		} else if b.refusing != nil && p.keeps && !p.stored {
			p.storeWait()
		}
		room := b.room
		b.mu.Unlock()
		if err := p.await(ctx, room); err != nil {
			b.mu.Lock()
			p.waited()
			b.mu.Unlock()
			return fmt.Errorf("source %s: %d samples not taken: %w", p.info.Name, len(batch), err)
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if waits {
		p.waited()
	}

	// All of the batch is looked up before any of it is taken.
	entries := b.scratch[:0]
	size := 0
	for i := range batch {
		e, err := p.resolve(&batch[i])
		if err != nil {
			p.counters.Refused += uint64(len(batch))
			return &protocols.RefusedError{Reason: err.Error()}
		}
		entries = append(entries, e)
		size += sampleBytes + len(batch[i].Value.Str())
	}
	b.scratch = entries
	if most := b.o.MaxEmitBytes; done != nil && most > 0 && size > most {
		p.counters.Refused += uint64(len(batch))
		return &protocols.RefusedError{Reason: fmt.Sprintf("%d samples of %d KiB at once are more than the spool takes in one commit, %d KiB: send fewer at a time, or raise spool.max_size",
			len(batch), size>>10, most>>10)}
	}

	full := false
	for i := range batch {
		if p.take(entries[i], batch[i]) {
			full = true
		}
	}
	if done != nil {
		b.waiting = append(b.waiting, done)
	} else if !p.polled {
		b.polls(p)
	}
	if done != nil || full {
		b.wakeUp()
	}
	return nil
}

// await waits for room. It beats for the source: one that waits for the spool
// is not stuck.
func (p *Port) await(ctx context.Context, room <-chan struct{}) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		p.info.Beat()
		select {
		case <-room:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take runs one sample through its pipeline and into its stream. It reports
// whether the stream's batch has reached its size.
func (p *Port) take(e *entry, s sample.Sample) (full bool) {
	k := &p.b.keep
	s.Time -= s.Time % timeResolution
	if s.SourceTime != 0 && !k.uncertain && farOff(s.SourceTime, s.Time+k.shift) {
		p.distrust(&s)
	}
	// The pipeline's periods run on the timeline, which no step touches.
	overflow := s.Quality.Overflow()
	keep := e.state.Apply(&s)
	p.counters.count(&s, keep)
	at := s.Time
	s.Time += k.shift
	if e.watch != nil {
		e.watch.set(&s, at)
	}
	if overflow {
		p.b.overflowed(e, &s)
	}
	e.last = s.PrimaryTime()
	if !keep {
		return false
	}
	n := p.b.add(e.stream, e.index, &s)
	p.b.openBytes += n
	return e.stream.full()
}

// farOff reports whether a device's time is too far from the gateway's to be
// believed.
func farOff(source, at int64) bool {
	off := source - at
	return off > int64(maxClockOffset) || off < -int64(maxClockOffset)
}

// distrust drops a device's time that is too far off, and says so once.
func (p *Port) distrust(s *sample.Sample) {
	p.counters.BadTime++
	if !p.toldTime {
		p.toldTime = true
		p.b.o.Log.Warn("a device's clock is more than a year off; the gateway's time is used: set the device's clock",
			"source", p.info.Name, "tag", s.Tag, "device_ns", s.SourceTime)
	}
	s.SourceTime = 0
}

// resolve finds or, for a dynamic tag, makes the entry of a sample's tag.
func (p *Port) resolve(s *sample.Sample) (*entry, error) {
	if len(s.Value.Str()) > maxStringBytes {
		return nil, fmt.Errorf("tag %s: string of %d bytes, the most is %d", s.Tag, len(s.Value.Str()), maxStringBytes)
	}
	if e := p.b.entries[s.Tag]; e != nil {
		if e.port != p {
			return nil, fmt.Errorf("tag %s belongs to source %s", s.Tag, e.port.info.Name)
		}
		return e, nil
	}
	if p.tags >= p.info.MaxTags {
		return nil, fmt.Errorf("tag %s is new and source %s has its max_tags of %d already", s.Tag, p.info.Name, p.info.MaxTags)
	}
	if err := sample.CheckTag(s.Tag); err != nil {
		return nil, err
	}
	e := p.b.register(p, s.Tag, p.info.Class, &plain)
	p.b.catalogue(p, &TagInfo{Name: s.Tag})
	return e, nil
}

// plain is the rule of dynamic tags: nothing is scaled or suppressed.
var plain = pipeline.Rule{Scale: 1}

// full says why a batch cannot be taken now. Callers hold b.mu.
func (b *Batcher) full(p *Port, acknowledged bool) error {
	switch {
	case b.closed:
		return errStopping
	case acknowledged && b.stalled != nil:
		return b.stalled
	case p.keeps && b.refusing != nil:
		return b.refusing
	case b.openBytes >= b.o.MaxOpenBytes:
		return fmt.Errorf("%d MiB of samples wait for the spool already", b.openBytes>>20)
	}
	return nil
}

func (b *Batcher) wakeUp() {
	select {
	case b.wake <- struct{}{}:
	default: // one is on its way
	}
}
