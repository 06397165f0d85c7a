package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/sample/ledger"
	"millrace/spool"
)

const (
	// admitBytes is the room that there must be before a commit for what sources
	// that refuse bring until the next. What they bring beyond it still fits: the
	// spool keeps a segment's room above theirs, and no more than that waits in
	// memory.
	admitBytes = 64 << 10

	keyRefused = "refused/"
)

// admit asks the spool whether there is room for what sources whose policy is
// to refuse bring next. Only the goroutine that commits may call it.
func (b *Batcher) admit() {
	b.mu.Lock()
	need, some := int64(admitBytes), false
	for _, p := range b.ports {
		some = some || p.keeps
	}
	for _, s := range b.streams {
		if s.demands.refuse {
			need += int64(len(s.w.Bytes()))
		}
	}
	if b.refusing != nil { // not for every block that leaves
		need += int64(b.o.MaxOpenBytes / 4)
	}
	b.mu.Unlock()
	if !some {
		return
	}
	err := b.store.Admit(need)
	var full *spool.FullError
	if err != nil && !errors.As(err, &full) {
		return // the commit that follows says so
	}
	b.setRefusing(err)
}

// setRefusing begins or ends the refusal of what does not fit, and tells of it.
func (b *Batcher) setRefusing(err error) {
	b.mu.Lock()
	was := b.refusing
	b.refusing = nil
	if err != nil {
		b.refusing = fmt.Errorf("the spool is full, and when_full of this source is refuse: %w", err)
	}
	now := b.refusing
	if (was == nil) == (now == nil) {
		b.mu.Unlock()
		return
	}
	var names []string
	var tell []func(error)
	for _, p := range b.ports {
		if p.keeps {
			names = append(names, p.info.Name)
			if p.info.Full != nil {
				tell = append(tell, p.info.Full)
			}
		}
	}
	if now == nil {
		b.makeWay()
	} else {
		b.refusals++
	}
	b.mu.Unlock()
	for _, full := range tell {
		full(now)
	}
	if now != nil {
		b.o.Log.Warn("the spool is full: nothing more is taken of the sources that refuse, until their samples are delivered; see to the sinks, or raise spool.max_size",
			"sources", names, "error", err)
	} else {
		b.o.Log.Info("the spool has room again; all sources are taken", "sources", names)
	}
}

// Refusals counts how often the spool had no room for sources that refuse, since
// the start.
func (b *Batcher) Refusals() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusals
}

// makeWay lets those go on who wait for room. Callers hold b.mu.
func (b *Batcher) makeWay() {
	close(b.room)
	b.room = make(chan struct{})
}

// keepAll notes that a source has a tag in a stream which keeps all that it has:
// the source is taken or refused as a whole. Callers hold b.mu.
func (b *Batcher) keepAll(s *stream) {
	for _, e := range b.entries {
		if e.stream == s {
			e.port.keeps = true
		}
	}
}

// waits notes that a polled source waits, and from when on it reads nothing.
// The time is stored, so that a crash does not hide it. Callers hold b.mu.
func (p *Port) waits() {
	if p.waiting++; p.waiting > 1 {
		return
	}
	p.waitsFrom = p.b.keep.now()
	if p.b.refusing != nil && p.keeps {
		p.storeWait()
	}
}

func (p *Port) storeWait() {
	p.stored = true
	p.b.newMeta = append(p.b.newMeta, spool.KV{
		Key: keyRefused + p.info.Name, Value: binary.BigEndian.AppendUint64(nil, uint64(p.waitsFrom)),
	})
}

// waited ends a wait. What was not read meanwhile is declared, unless the wait
// was so short that a commit in progress explains it. Callers hold b.mu.
func (p *Port) waited() {
	if p.waiting--; p.waiting > 0 {
		return
	}
	b := p.b
	from, to := p.waitsFrom, max(p.waitsFrom, b.keep.now())
	if !p.stored && to-from < int64(beatEvery) {
		return
	}
	if p.stored {
		p.stored = false
		b.newMeta = append(b.newMeta, spool.KV{Key: keyRefused + p.info.Name})
	}
	b.declare(&ledger.Gap{
		Source: p.info.Name, From: time.Unix(0, floor(from)).UTC(), To: time.Unix(0, floor(to)).UTC(), Cause: ledger.Refused,
	}, b.keep.time())
}

// restoreRefused takes up that a source was waiting when the run before ended.
func (b *Batcher) restoreRefused(kv spool.KV) {
	if len(kv.Value) == 8 {
		b.refusedFrom[strings.TrimPrefix(kv.Key, keyRefused)] = int64(binary.BigEndian.Uint64(kv.Value))
	}
}

// declareRefused declares what sources did not read that were waiting when the
// run before ended, up to its last commit. Callers hold b.mu.
func (b *Batcher) declareRefused(now time.Time) {
	var names []string
	for name := range b.refusedFrom {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		from := b.refusedFrom[name]
		b.newMeta = append(b.newMeta, spool.KV{Key: keyRefused + name})
		b.declare(&ledger.Gap{
			Source: name, From: time.Unix(0, floor(from)).UTC(), To: time.Unix(0, floor(max(from, b.lastAlive))).UTC(), Cause: ledger.Refused,
		}, now)
	}
	clear(b.refusedFrom)
}
