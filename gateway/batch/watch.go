package batch

import (
	"sync"
	"time"

	"millrace/protocols"
	"millrace/sample"
)

// Watched holds the newest value of one tag, as it is after scaling and the
// range check. It is safe for concurrent use.
type Watched struct {
	b *Batcher

	mu      sync.Mutex
	known   bool
	at      int64 // on the timeline, ns
	reading protocols.Reading
}

// Watch returns what holds the newest value of a tag from now on. The tag need
// not be there yet, since a dynamic one comes with its first sample. Samples
// that a deadband holds back count too: they are what the device says.
func (b *Batcher) Watch(tag string) *Watched {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.watched[tag]
	if w == nil {
		w = &Watched{b: b}
		b.watched[tag] = w
	}
	if e := b.entries[tag]; e != nil {
		e.watch = w
	}
	return w
}

// Newest returns the newest reading, and false before the first. One that is
// older than maxAge, where that is not 0, is Bad; its value and time are left
// as they were. Ages are told by the monotonic clock, so no step of the wall
// clock makes an old value new.
func (w *Watched) Newest(maxAge time.Duration) (protocols.Reading, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.reading
	if w.known && maxAge > 0 && w.b.keep.tl.Now().UnixNano()-w.at > int64(maxAge) {
		r.Quality = sample.BadNoCommunication
	}
	return r, w.known
}

// set takes a sample that came at a time on the timeline; s.Time is right
// already, as far as it is known.
func (w *Watched) set(s *sample.Sample, at int64) {
	r := protocols.Reading{Value: s.Value, Quality: s.Quality, Time: time.Unix(0, s.Time)}
	if s.SourceTime != 0 {
		r.SourceTime = time.Unix(0, s.SourceTime)
	}
	w.mu.Lock()
	w.known, w.at, w.reading = true, at, r
	w.mu.Unlock()
}
