// Package truth holds what a simulated plant has said on the wire against what
// a gateway has delivered, value by value. Neither side of the comparison uses
// a counter of the gateway.
package truth

import (
	"fmt"
	"sort"
	"sync"
	"time"

	"millrace/sample"
)

// Slack is how long after the last byte of a reply the gateway may look at its
// clock and still be right: scheduling on a busy two-core machine.
const Slack = 1500 * time.Millisecond

// maxFindings bounds the findings that are spelled out.
const maxFindings = 20

// Event is one value that went out on the wire.
type Event struct {
	Value sample.Value
	// From and To are the request window: the request's arrival and the last
	// byte of the reply. They are equal for what was not asked for.
	From, To time.Time
	// Key identifies the event to its producer where the protocol has such a
	// thing: see SourceKey and SeqKey. Empty for a polled register.
	Key string
}

// SourceKey is the key of a sample that carries the device's own time, in ns.
func SourceKey(ns int64) string { return fmt.Sprintf("t%d", ns) }

// SeqKey is the key of a sample that carries its producer's sequence.
func SeqKey(producer string, seq uint64) string { return fmt.Sprintf("%s#%d", producer, seq) }

// Log collects events, and tells the time that they are compared by: the wall
// clock at its start, which is not stepped since. It is safe for concurrent use.
type Log struct {
	start time.Time

	mu   sync.Mutex
	tags map[string][]Event
	keys map[string]map[string]bool
	n    int
}

// NewLog returns an empty log.
func NewLog() *Log {
	return &Log{start: time.Now(), tags: map[string][]Event{}, keys: map[string]map[string]bool{}}
}

// Now returns the log's own time.
func (l *Log) Now() time.Time { return l.at(time.Now()) }

// at takes a reading of the machine's clock into the log's own time. One
// without a monotonic part is taken as it is.
func (l *Log) at(t time.Time) time.Time { return l.start.Add(t.Sub(l.start)) }

// Sent records one event of a tag. An event sent again under the same key, as
// MQTT does after a lost acknowledgement, is one event.
func (l *Log) Sent(tag string, e Event) {
	e.From, e.To = l.at(e.From), l.at(e.To)
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Key != "" {
		seen := l.keys[tag]
		if seen == nil {
			seen = map[string]bool{}
			l.keys[tag] = seen
		}
		if seen[e.Key] {
			return
		}
		seen[e.Key] = true
	}
	l.tags[tag] = append(l.tags[tag], e)
	l.n++
}

// Produced is the number of events so far.
func (l *Log) Produced() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// Result is the outcome of a comparison, in samples.
type Result struct {
	Produced   int // events on the wire
	Delivered  int // of those, found among the delivered samples
	Missing    int // of those, not found
	Duplicates int // delivered samples beyond the first of one event, after keying
	Wrong      int // delivered samples that no event explains
	Bad        int // delivered samples that say that a read failed
	Findings   []string
}

// Compare holds the delivered samples against the log. Samples of a tag must
// be in the order in which they were stored.
func (l *Log) Compare(delivered []sample.Sample) Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	byTag := map[string][]sample.Sample{}
	for _, s := range delivered {
		byTag[s.Tag] = append(byTag[s.Tag], s)
	}
	names := make([]string, 0, len(byTag))
	for tag := range byTag {
		names = append(names, tag)
	}
	for tag := range l.tags {
		if _, ok := byTag[tag]; !ok {
			names = append(names, tag)
		}
	}
	sort.Strings(names)
	r := Result{Produced: l.n}
	for _, tag := range names {
		good := byTag[tag][:0:0]
		for _, s := range byTag[tag] {
			if s.Quality.IsBad() {
				r.Bad++
				if s.Value.Kind() != sample.Null {
					r.wrong(tag, "Bad sample with the value %s", s.Value)
				}
				continue
			}
			good = append(good, s)
		}
		if events := l.tags[tag]; len(events) > 0 && events[0].Key != "" {
			r.keyed(tag, events, good)
		} else {
			r.ordered(tag, events, good)
		}
	}
	return r
}

func (r *Result) find(format string, args ...any) {
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
	}
}

func (r *Result) wrong(tag, format string, args ...any) {
	r.Wrong++
	r.find("wrong: "+tag+": "+format, args...)
}

func (r *Result) missing(tag string, e *Event) {
	r.Missing++
	r.find("missing: %s: %s sent at %s", tag, e.Value, e.To.Format(time.StampMilli))
}

// keyed compares events that carry a key. Two samples with the same key are
// one to every reader, so only their value is looked at.
func (r *Result) keyed(tag string, events []Event, got []sample.Sample) {
	found := make(map[string]bool, len(got))
	want := make(map[string]*Event, len(events))
	for i := range events {
		want[events[i].Key] = &events[i]
	}
	for i := range got {
		s := &got[i]
		key := SourceKey(s.SourceTime)
		if s.Producer != "" {
			key = SeqKey(s.Producer, s.Seq)
		}
		e := want[key]
		switch {
		case e == nil:
			r.wrong(tag, "%s with key %s was never sent", s.Value, key)
		case e.Value != s.Value:
			r.wrong(tag, "%s arrived, %s was sent, key %s", s.Value, e.Value, key)
			found[key] = true
		case found[key]: // keyed away
		case !e.near(s.Time):
			r.wrong(tag, "%s is stamped %s, it was sent at %s", s.Value, stamp(s.Time), e.To.Format(time.StampMilli))
			found[key] = true
		default:
			found[key] = true
			r.Delivered++
		}
	}
	for i := range events {
		if !found[events[i].Key] {
			r.missing(tag, &events[i])
		}
	}
}

func stamp(ns int64) string { return time.Unix(0, ns).Format(time.StampMilli) }

// near reports whether the gateway's time of a sample falls into the window of
// the event; the gateway keeps milliseconds.
func (e *Event) near(ns int64) bool {
	t := time.Unix(0, ns)
	return !t.Before(e.From.Truncate(time.Millisecond)) && !t.After(e.To.Add(Slack))
}

// ordered compares polled values: in order, equal, each within its window.
func (r *Result) ordered(tag string, events []Event, got []sample.Sample) {
	const lookAhead = 64
	i := 0
	for j := range got {
		s := &got[j]
		if i < len(events) && events[i].Value == s.Value && events[i].near(s.Time) {
			i++
			r.Delivered++
			continue
		}
		if i > 0 && events[i-1].Value == s.Value && events[i-1].near(s.Time) {
			r.Duplicates++
			r.find("duplicate: %s: %s stamped %s", tag, s.Value, stamp(s.Time))
			continue
		}
		if k := match(events, i+1, i+lookAhead, s); k > 0 {
			for ; i < k; i++ {
				r.missing(tag, &events[i])
			}
			i++
			r.Delivered++
			continue
		}
		if i < len(events) {
			r.wrong(tag, "%s stamped %s, where %s was sent at %s", s.Value, stamp(s.Time), events[i].Value, events[i].To.Format(time.StampMilli))
			// It stands in the place of the event, unless a later sample is
			// that event.
			if j+1 == len(got) || events[i].Value != got[j+1].Value {
				i++
			}
			continue
		}
		r.wrong(tag, "%s stamped %s was never sent", s.Value, stamp(s.Time))
	}
	for ; i < len(events); i++ {
		r.missing(tag, &events[i])
	}
}

// match returns the first event in from..to that explains s, or 0.
func match(events []Event, from, to int, s *sample.Sample) int {
	for k := from; k < min(to, len(events)); k++ {
		if events[k].Value == s.Value && events[k].near(s.Time) {
			return k
		}
	}
	return 0
}
