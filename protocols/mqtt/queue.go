package mqtt

import (
	"bytes"
	"sync"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/sample"
)

// maxHeldBytes bounds the payloads that are held, beside their number.
const maxHeldBytes = 64 << 20

// item is one message, or tags that are Bad from now on.
type item struct {
	msg     paho.Message // nil for tags that are Bad
	from    paho.Client  // on whose connection it came
	known   bool         // its samples are durable already
	at      int64        // when it came, in ns
	bad     []string
	quality sample.Quality
}

func (it *item) size() int {
	if it.msg == nil {
		return 0
	}
	return len(it.msg.Payload()) + len(it.msg.Topic())
}

// queue holds what arrived until it is durable. Putting never blocks.
type queue struct {
	most int

	mu     sync.Mutex
	items  []item
	held   int // messages that were put and not settled
	bytes  int
	closed bool
	// A connection that breaks makes the broker send again what it has no
	// acknowledgement of, under the same packet identifier (3.1.1, 4.4). What
	// is known by these is not stored twice.
	waiting map[uint16]paho.Message // put and not settled
	again   map[uint16]paho.Message // came again while it was waiting
	kept    map[uint16]paho.Message // durable, when its connection was gone
	left    bool                    // a message of QoS 1 was not taken, so the broker has it still
	lost    int                     // messages of QoS 0 that were not taken

	wake chan struct{} // something was put, or the queue was closed
	idle chan struct{} // all is settled, and a message was left
}

func newQueue(most int) *queue {
	return &queue{most: most, wake: make(chan struct{}, 1), idle: make(chan struct{}, 1),
		waiting: map[uint16]paho.Message{}, again: map[uint16]paho.Message{}, kept: map[uint16]paho.Message{}}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was not seen yet
	}
}

// put adds an item. A message beyond the bounds is not taken: at QoS 1 the
// broker keeps it, at QoS 0 it is lost and counted.
func (q *queue) put(it item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if it.msg != nil {
		if it.msg.Qos() > 0 && q.recognise(&it) {
			return
		}
		size := it.size()
		if q.held >= q.most || q.held > 0 && q.bytes+size > maxHeldBytes {
			if it.msg.Qos() == 0 {
				q.lost++
			} else {
				q.left = true
			}
			return
		}
		q.held++
		q.bytes += size
		if it.msg.Qos() > 0 {
			q.waiting[it.msg.MessageID()] = it.msg
		}
	}
	q.items = append(q.items, it)
	signal(q.wake)
}

// recognise looks whether a message that is sent again is here already. One
// that waits needs no second place; one that is durable is marked as known.
// An identifier that was not acknowledged cannot stand for another message.
func (q *queue) recognise(it *item) (waits bool) {
	id := it.msg.MessageID()
	kept := q.kept[id]
	delete(q.kept, id)
	if !it.msg.Duplicate() {
		return false
	}
	if sameMessage(q.waiting[id], it.msg) {
		q.again[id] = it.msg
		return true
	}
	it.known = sameMessage(kept, it.msg)
	return false
}

func sameMessage(a, b paho.Message) bool {
	return a != nil && a.Topic() == b.Topic() && bytes.Equal(a.Payload(), b.Payload())
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
func (q *queue) take(spare []item) []item {
	for {
		q.mu.Lock()
		if len(q.items) > 0 {
			out := q.items
			clear(spare[:cap(spare)])
			q.items = spare[:0]
			q.mu.Unlock()
			return out
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil
		}
		<-q.wake
	}
}

// settle acknowledges items that are durable, in their order (3.1.1, 4.6), and
// lets go of them.
func (q *queue) settle(items []item) {
	for i := range items {
		if items[i].msg != nil {
			q.settleOne(&items[i]).Ack() // does nothing at QoS 0
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held == 0 && q.left {
		signal(q.idle)
	}
}

// settleOne returns the message by which to acknowledge an item: itself, or
// the one by which it came again.
func (q *queue) settleOne(it *item) paho.Message {
	gone := it.msg.Qos() > 0 && !it.from.IsConnectionOpen()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held--
	q.bytes -= it.size()
	id := it.msg.MessageID()
	if it.msg.Qos() == 0 || q.waiting[id] != it.msg {
		return it.msg
	}
	delete(q.waiting, id)
	if again := q.again[id]; again != nil {
		delete(q.again, id)
		return again
	}
	if gone && len(q.kept) < q.most {
		q.kept[id] = it.msg
	}
	return it.msg
}

// close makes put take nothing more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	signal(q.wake)
}

// fresh forgets that messages were left, at a new connection.
func (q *queue) fresh() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left = false
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
