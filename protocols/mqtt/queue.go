package mqtt

import (
	"sync"

	paho "github.com/eclipse/paho.mqtt.golang"

	"millrace/sample"
)

// maxHeldBytes bounds the payloads that are held, beside their number.
const maxHeldBytes = 64 << 20

// item is one message, or tags that are Bad from now on.
type item struct {
	msg     paho.Message // nil for tags that are Bad
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
	held   int // messages that were put and not released
	bytes  int
	closed bool
	left   bool // a message of QoS 1 was not taken, so the broker has it still
	lost   int  // messages of QoS 0 that were not taken

	wake chan struct{} // something was put, or the queue was closed
	idle chan struct{} // all is released, and a message was left
}

func newQueue(most int) *queue {
	return &queue{most: most, wake: make(chan struct{}, 1), idle: make(chan struct{}, 1)}
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
	}
	q.items = append(q.items, it)
	signal(q.wake)
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

// release says that items are done with.
func (q *queue) release(items []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range items {
		if items[i].msg != nil {
			q.held--
			q.bytes -= items[i].size()
		}
	}
	if q.held == 0 && q.left {
		signal(q.idle)
	}
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
