package mqtt

import (
	"bytes"
	"sync"
	"time"

	"millrace/sample"
)

// maxHeldBytes bounds the payloads that are held, beside their number.
const maxHeldBytes = 64 << 20

const (
	// gatherMost is how long the first message of a batch may wait for others.
	gatherMost = 2 * time.Millisecond
	// busyFor is how long after a batch the next is gathered: a message that
	// comes alone does not wait.
	busyFor = 10 * time.Millisecond
)

// item is one message, or tags that are Bad from now on.
type item struct {
	msg     *message // nil for tags that are Bad
	from    *session // on whose connection it came
	known   bool     // its samples are durable already
	at      int64    // when it came, in ns
	bad     []string
	quality sample.Quality
}

func (it *item) size() int {
	if it.msg == nil {
		return 0
	}
	return len(it.msg.payload) + len(it.msg.topic)
}

// queue holds what arrived until it is durable. Putting never blocks.
type queue struct {
	most  int
	clean bool // the broker forgets what it has not been confirmed

	mu     sync.Mutex
	items  []item
	held   int // messages that were put and not settled
	bytes  int
	closed bool
	// A connection that breaks makes the broker send again what it has no
	// acknowledgement of, under the same packet identifier (3.1.1, 4.4). What
	// is known by these is not stored twice.
	waiting map[uint16]*message // put and not settled
	again   map[uint16]*session // on which it came again while it was waiting
	kept    map[uint16]*message // durable, when its connection was gone
	left    bool                // a message of QoS 1 was not taken, so the broker has it still
	leaving bool                // none of QoS 1 is taken, until the next connection
	busy    bool                // settle is at work
	lost    int                 // messages that were not taken and will not come again

	want    int       // items at which to wake who takes
	peak    int       // most that was held of late: the broker's window is no less
	settled time.Time // when the last batch was

	acks []byte        // of settle, which one goroutine calls
	wake chan struct{} // something was put, or the queue was closed
	idle chan struct{} // all is settled, and a message was left
}

func newQueue(most int, clean bool) *queue {
	return &queue{most: most, clean: clean, want: 1, wake: make(chan struct{}, 1), idle: make(chan struct{}, 1),
		waiting: map[uint16]*message{}, again: map[uint16]*session{}, kept: map[uint16]*message{}}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was not seen yet
	}
}

// put adds an item. A message beyond the bounds is not taken: at QoS 1 the
// broker keeps it unless the session is clean, at QoS 0 it is lost and counted.
func (q *queue) put(it item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if it.msg != nil {
		if it.msg.qos > 0 && q.recognise(&it) {
			return
		}
		size := it.size()
		if q.held >= q.most || q.held > 0 && q.bytes+size > maxHeldBytes || q.leaving && it.msg.qos > 0 {
			if it.msg.qos == 0 || q.clean {
				q.lost++
			}
			// With a clean session too: a message that is not confirmed takes
			// up room at the broker until the next connection.
			q.left = q.left || it.msg.qos > 0
			return
		}
		q.held++
		q.peak = max(q.peak, q.held)
		q.bytes += size
		if it.msg.qos > 0 {
			q.waiting[it.msg.id] = it.msg
		}
	}
	q.items = append(q.items, it)
	if len(q.items) >= q.want {
		signal(q.wake)
	}
}

// recognise looks whether a message that is sent again is here already. One
// that waits needs no second place; one that is durable is marked as known.
// An identifier that was not acknowledged cannot stand for another message.
func (q *queue) recognise(it *item) (waits bool) {
	id := it.msg.id
	kept := q.kept[id]
	delete(q.kept, id)
	if !it.msg.dup {
		return false
	}
	if sameMessage(q.waiting[id], it.msg) {
		q.again[id] = it.from
		return true
	}
	it.known = sameMessage(kept, it.msg)
	return false
}

func sameMessage(a, b *message) bool {
	return a != nil && a.topic == b.topic && a.large == b.large && bytes.Equal(a.payload, b.payload)
}

// forget is called when the broker has begun a new session, in which packet
// identifiers mean other messages.
func (q *queue) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.kept)
}

// take waits for items and returns them all, in the place of spare. It returns
// none once the queue is closed and empty.
//
// A commit costs the same for one message and for many, so under load it
// waits a little for more. It never waits while the broker does: a broker sends
// no more than its window until it has acknowledgements, so half of the most
// that was ever held at once is enough.
func (q *queue) take(spare []item) []item {
	clear(spare[:cap(spare)])
	var late <-chan time.Time
	expired := false
	for {
		q.mu.Lock()
		enough := 1
		if !expired && !q.closed && time.Since(q.settled) < busyFor {
			enough = max(1, q.peak/2)
		}
		if n := len(q.items); n >= enough {
			out := q.items
			q.items = spare[:0]
			q.want = 1
			q.peak -= (q.peak - q.held) / 16
			q.mu.Unlock()
			return out
		} else if q.closed {
			q.mu.Unlock()
			return nil
		} else if n == 0 {
			q.want = 1
		} else {
			q.want = enough
			if late == nil {
				late = time.After(gatherMost)
			}
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-late:
			expired = true
		}
	}
}

// settle acknowledges items that are durable, in their order (3.1.1, 4.6), and
// lets go of them. The acknowledgements of a batch go out in one write: by the
// library each would take a write of its own.
func (q *queue) settle(items []item) {
	q.mu.Lock()
	q.busy = true
	q.mu.Unlock()
	var to *session
	q.acks = q.acks[:0]
	for i := range items {
		if items[i].msg == nil {
			continue
		}
		from := q.settleOne(&items[i])
		if from != to {
			to.acknowledge(q.acks)
			to, q.acks = from, q.acks[:0]
		}
		q.acks = items[i].msg.ack(q.acks)
	}
	to.acknowledge(q.acks)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settled = time.Now()
	q.busy = false
	if q.held == 0 && q.left {
		signal(q.idle)
	}
}

// settleOne lets go of an item. It returns on which connection to acknowledge
// it: where it came, or where it came again.
func (q *queue) settleOne(it *item) *session {
	gone := it.msg.qos > 0 && !it.from.client.IsConnectionOpen()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held--
	q.bytes -= it.size()
	id := it.msg.id
	if it.msg.qos == 0 || q.waiting[id] != it.msg {
		return it.from
	}
	delete(q.waiting, id)
	if again := q.again[id]; again != nil {
		delete(q.again, id)
		return again
	}
	if gone && len(q.kept) < q.most {
		q.kept[id] = it.msg
	}
	return it.from
}

// close makes put take nothing more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	signal(q.wake)
}

// leave makes put take no message that will come again, and reports whether all
// that were taken are acknowledged. Where they are not, idle says when.
func (q *queue) leave() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaving = true
	return q.held == 0 && !q.busy
}

// fresh forgets that messages were left. It is called before a connection is
// opened, on which they come again.
func (q *queue) fresh() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left, q.leaving = false, false
	select {
	case <-q.idle:
	default:
	}
}

// overflow reports whether messages were left, and takes the count of those
// that were lost.
func (q *queue) overflow() (left bool, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	left, lost = q.left, q.lost
	q.lost = 0
	return left, lost
}
