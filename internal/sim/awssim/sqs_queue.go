package awssim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// message is one message of a queue.
type message struct {
	id, body, md5, md5Attrs string
	attrs                   map[string]attributeValue
	group, dedup, seq       string
	sent                    time.Time
	visible                 time.Time // from when on it can be received
	firstReceived           time.Time
	receives                int
	handle                  string // of the last receive
	source                  string // ARN of the queue that gave it up as a dead letter
}

// attributeValue is a message attribute in the wire form.
type attributeValue struct {
	DataType    string
	StringValue *string `json:",omitempty"`
	BinaryValue []byte  `json:",omitempty"`
}

// sentOnce remembers a FIFO queue's deduplication id.
type sentOnce struct {
	at      time.Time
	id, seq string
}

type queue struct {
	name string
	fifo bool

	mu       sync.Mutex
	attrs    map[string]string
	messages []*message // in the order sent
	byHandle map[string]*message
	dedup    map[string]sentOnce
	sequence uint64
	purged   time.Time
	swept    time.Time     // when expire last looked
	changed  chan struct{} // closed when a message is added or becomes visible
}

func (q *queue) attribute(name string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.attrs[name]
}

// attributes returns all, with the counts of messages.
func (q *queue) attributes() map[string]string {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expire(time.Now())
	now := time.Now()
	waiting, flying, delayed := 0, 0, 0
	for _, m := range q.messages {
		switch {
		case !m.visible.After(now):
			waiting++
		case m.receives > 0:
			flying++
		default:
			delayed++
		}
	}
	out := maps.Clone(q.attrs)
	out["ApproximateNumberOfMessages"] = strconv.Itoa(waiting)
	out["ApproximateNumberOfMessagesNotVisible"] = strconv.Itoa(flying)
	out["ApproximateNumberOfMessagesDelayed"] = strconv.Itoa(delayed)
	return out
}

// seconds reads an attribute that holds a time.
func (q *queue) seconds(name string) time.Duration {
	n, _ := strconv.Atoi(q.attrs[name]) // checked when it was set
	return time.Duration(n) * time.Second
}

func (q *queue) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// expire drops what is older than the retention period; it looks once a second.
func (q *queue) expire(now time.Time) {
	if now.Sub(q.swept) < time.Second {
		return
	}
	q.swept = now
	oldest := now.Add(-q.seconds("MessageRetentionPeriod"))
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool {
		if m.sent.Before(oldest) {
			delete(q.byHandle, m.handle)
			return true
		}
		return false
	})
	for k, d := range q.dedup {
		if now.Sub(d.at) >= dedupInterval {
			delete(q.dedup, k)
		}
	}
}

// add stores a message. A FIFO queue that has seen its deduplication id keeps
// the first one and returns that one's id; stored tells them apart.
func (q *queue) add(m *message, delay time.Duration) (stored bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.expire(now)
	if q.fifo {
		if d, seen := q.dedup[m.dedup]; seen && now.Sub(d.at) < dedupInterval {
			m.id, m.seq = d.id, d.seq
			return false
		}
		q.sequence++
		m.seq = fmt.Sprintf("%020d", q.sequence)
		q.dedup[m.dedup] = sentOnce{now, m.id, m.seq}
	}
	if delay < 0 {
		delay = q.seconds("DelaySeconds")
	}
	m.sent, m.visible = now, now.Add(delay)
	q.messages = append(q.messages, m)
	q.notify()
	return true
}

// take receives up to most messages that are visible, removes those that have
// been received limit times (0 is no limit), and says when the next message
// becomes visible, zero where there is none.
func (q *queue) take(most int, visibility time.Duration, limit int) (taken, dead []*message, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.expire(now)
	busy := map[string]bool{} // groups of which a message is in flight or delayed
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool {
		if m.visible.After(now) {
			if next.IsZero() || m.visible.Before(next) {
				next = m.visible
			}
			if q.fifo {
				busy[m.group] = true
			}
			return false
		}
		if len(taken) == most || q.fifo && busy[m.group] {
			return false
		}
		delete(q.byHandle, m.handle)
		if limit > 0 && m.receives >= limit {
			dead = append(dead, m)
			return true
		}
		m.handle = newID()
		q.byHandle[m.handle] = m
		m.receives++
		if m.firstReceived.IsZero() {
			m.firstReceived = now
		}
		m.visible = now.Add(visibility)
		copied := *m
		taken = append(taken, &copied)
		return false
	})
	return taken, dead, next
}

// remove deletes the message of a receipt handle. A handle of an earlier
// receive removes nothing, and is no error.
func (q *queue) remove(handle string) *apiError {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.byHandle[handle]
	if m == nil {
		return checkHandle(handle)
	}
	delete(q.byHandle, handle)
	q.messages = slices.DeleteFunc(q.messages, func(o *message) bool { return o == m })
	q.notify()
	return nil
}

// show changes when the message of a receipt handle can be received again.
func (q *queue) show(handle string, after time.Duration) *apiError {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.byHandle[handle]
	if m == nil {
		if err := checkHandle(handle); err != nil {
			return err
		}
		return invalidParameter("Value %s for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change.", handle)
	}
	now := time.Now()
	if !m.visible.After(now) {
		return &apiError{status: 400, code: "MessageNotInflight", query: "AWS.SimpleQueueService.MessageNotInflight",
			message: "The specified message isn't in flight."}
	}
	m.visible = now.Add(after)
	q.notify()
	return nil
}

// checkHandle tells a handle of ours from other text by its form.
func checkHandle(handle string) *apiError {
	if len(handle) == len("00000000-0000-0000-0000-000000000000") {
		return nil
	}
	return badRequest("ReceiptHandleIsInvalid", "The input receipt handle \""+handle+"\" is not a valid receipt handle.")
}

// deadLetters returns the queue's dead-letter queue and after how many receives
// a message goes there; nil where there is none.
func (q *queues) deadLetters(from *queue) (*queue, int) {
	var p struct {
		Target string      `json:"deadLetterTargetArn"`
		Most   json.Number `json:"maxReceiveCount"`
	}
	if json.Unmarshal([]byte(from.attribute("RedrivePolicy")), &p) != nil {
		return nil, 0
	}
	most, err := p.Most.Int64()
	if err != nil || most < 1 {
		return nil, 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.byName[p.Target[strings.LastIndexByte(p.Target, ':')+1:]], int(most)
}

// bury takes in the dead letters of another queue.
func (q *queue) bury(dead []*message, source string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range dead {
		m.source = source
		m.receives, m.handle, m.visible, m.firstReceived = 0, "", time.Now(), time.Time{}
		q.messages = append(q.messages, m)
	}
	q.notify()
}
