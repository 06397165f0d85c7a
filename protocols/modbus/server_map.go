package modbus

import (
	"fmt"
	"sync"
	"time"

	mb "github.com/goburrow/modbus"

	"millrace/internal/clock"
	"millrace/protocols"
	"millrace/sample"
)

// condition says whether a value can be read from the server. Its number is
// what the status register holds.
type condition uint16

const (
	conditionGood      condition = iota
	conditionUncertain           // it is read, with its quality in doubt
	conditionUnwritten           // there was none yet
	conditionExpired             // its validity is over
	conditionMarked              // the mirror says that it must not be used
	conditionBad                 // its quality is Bad
	conditionUnsuited            // its registers do not hold it
)

// readable reports whether the value is given to clients.
func (c condition) readable() bool { return c <= conditionUncertain }

// item is what the server shows at one point.
type item struct {
	point
	name string
	// show fills in what stands there, as long as the point. Where the condition
	// is not readable it need not. It is called with the map locked.
	show func(m moment, w words) condition
	// statusOf is the item whose condition stands here, where it is a status.
	statusOf *item
}

// moment is when a request is answered. Each has a number of its own.
type moment struct {
	number uint64
	mono   time.Time // the clock that is never stepped
	wall   time.Time
}

// spot is one register or bit.
type spot struct {
	slave  uint8
	table  table
	offset uint16
}

// registerMap is all that the server shows. A request is answered under its
// lock, so that what comes in one answer stood there at one time.
type registerMap struct {
	mu     sync.Mutex
	items  map[spot]*item
	number uint64 // of the last moment
	unsaid []said // for the log
}

// said is a line for the log, written once the lock is free.
type said struct {
	problem error // nil where it is over
	name    string
}

func newRegisterMap() *registerMap { return &registerMap{items: map[spot]*item{}} }

func (p *point) spot(i int) spot { return spot{p.slave, p.table, p.offset + uint16(i)} }

// put adds items, all or none. The map is locked, or of nobody else.
func (m *registerMap) put(items []*item) error {
	taken := map[spot]*item{}
	for _, it := range items {
		for i := range it.size {
			at := it.spot(i)
			other := m.items[at]
			if other == nil {
				other = taken[at]
			}
			if other != nil {
				return fmt.Errorf("%s lies on %s, which is %s", it.address, other.address, other.name)
			}
			taken[at] = it
		}
	}
	for at, it := range taken {
		m.items[at] = it
	}
	return nil
}

// remove takes items away again. The map is locked.
func (m *registerMap) remove(items []*item) {
	for _, it := range items {
		for i := range it.size {
			if m.items[it.spot(i)] == it {
				delete(m.items, it.spot(i))
			}
		}
	}
}

// now returns a new moment. The map is locked.
func (m *registerMap) now(c clock.Clock) moment {
	m.number++
	return moment{number: m.number, mono: c.Now(), wall: clock.WallOf(c)}
}

// read appends to out what stands at count registers or bits: registers as on
// the wire, bits packed from the lowest on (V1.1b3, 6.1). It returns exception
// 2 where one is not there, or a value is cut in half, and exception 4 where a
// value cannot be given.
func (m *registerMap) read(c clock.Clock, first spot, count int, out []byte) ([]byte, byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := int(first.offset) + count
	var items [specCoils]*item
	n := 0
	for at := first; int(at.offset) < end; n++ {
		it := m.items[at]
		if it == nil || it.offset != at.offset || it.end() > end {
			return out, mb.ExceptionCodeIllegalDataAddress
		}
		items[n] = it
		if it.end() > 65535 {
			n++
			break // the next offset would be 0
		}
		at.offset += uint16(it.size)
	}
	now := m.now(c)
	bits := first.table.isBits()
	start := len(out)
	if bits {
		out = append(out, make([]byte, (count+7)/8)...)
	}
	var room [8]byte
	for i, it := range items[:n] {
		w := words(room[:1])
		if !bits {
			w = room[:2*it.size]
		}
		clear(w)
		if !it.show(now, w).readable() {
			return out[:start], mb.ExceptionCodeServerDeviceFailure
		}
		switch {
		case !bits:
			out = append(out, w...)
		case w[0] != 0:
			out[start+i/8] |= 1 << (i % 8)
		}
	}
	return out, 0
}

// drain returns what is to be logged.
func (m *registerMap) drain() []said {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := m.unsaid
	m.unsaid = nil
	return list
}

// number16 shows a uint16, which can always be read.
func number16(p *point, n func(moment) uint16) func(moment, words) condition {
	o := p.order
	return func(m moment, w words) condition {
		o.put(w, uint64(n(m)))
		return conditionGood
	}
}

// showStatus makes it the status of the item that it belongs to.
func (it *item) showStatus() {
	of := it.statusOf
	it.show = number16(&it.point, func(m moment) uint16 {
		var room [8]byte
		return uint16(of.show(m, room[:max(1, 2*of.size)]))
	})
}

// liveTag is a tag of a source that the server shows. It is asked for once for
// each request.
type liveTag struct {
	name   string
	latest func(string) (protocols.Reading, bool)
	asked  uint64 // number of the moment
	last   protocols.Reading
	known  bool
}

func (t *liveTag) reading(m moment) (protocols.Reading, bool) {
	if t.asked != m.number {
		t.asked = m.number
		t.last, t.known = t.latest(t.name)
	}
	return t.last, t.known
}

// showLive makes it show t. A value that the registers do not hold is told to
// the log once.
func (m *registerMap) showLive(it *item, t *liveTag) {
	l := layout{}
	l.points[roleValue] = it.point
	refused := false
	it.show = func(now moment, w words) condition {
		r, ok := t.reading(now)
		switch {
		case !ok:
			return conditionUnwritten
		case r.Quality.IsBad():
			return conditionBad
		}
		is, err := l.encodeValue(r.Value)
		if refused != (err != nil) {
			refused = err != nil
			if err != nil {
				err = fmt.Errorf("show %s at %s as %s: %w", r.Value, it.address, it.typ, err)
			}
			m.unsaid = append(m.unsaid, said{problem: err, name: it.name})
		}
		if err != nil {
			return conditionUnsuited
		}
		copy(w, is)
		return doubt(r.Quality)
	}
}

func doubt(q sample.Quality) condition {
	if q.IsUncertain() {
		return conditionUncertain
	}
	return conditionGood
}
