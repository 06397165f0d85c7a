package mqtt

import (
	"io"
	"net"
	"testing"

	"millrace/sample"
)

// TestPingIsAnsweredInTurn has a PINGREQ of the library's on its way: the answer
// to that one says nothing of what was written after it.
func TestPingIsAnsweredInTurn(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	w := newWire(near, 100, func(*message) {})
	go func() { _, _ = io.Copy(io.Discard, far) }()
	ask := []byte{typePing << 4, 0}
	if _, err := w.Write(ask); err != nil {
		t.Fatal(err)
	}
	answer := w.ping()
	pong := func() {
		t.Helper()
		go func() { _, _ = far.Write([]byte{typePong << 4, 0}) }()
		if _, err := io.ReadFull(w, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
	}
	pong()
	select {
	case <-answer:
		t.Error("the answer to the library's PINGREQ was taken for ours")
	default:
	}
	pong()
	select {
	case <-answer:
	default:
		t.Error("the answer is not noticed")
	}
	pong() // one too many does no harm
}

func TestLeavingTakesNothingThatComesAgain(t *testing.T) {
	q := newQueue(10, false)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	from := deadSession()
	from.wire = newWire(near, 100, nil)
	put := func(id uint16, qos byte) {
		q.put(item{msg: &message{topic: "a", id: id, qos: qos}, from: from})
	}
	put(1, 1)
	if q.leave() {
		t.Error("it would leave with a message that is not acknowledged")
	}
	put(2, 1)
	put(0, 0)
	q.put(item{bad: []string{"plant/a"}, quality: sample.BadNotConnected})
	if q.held != 2 || len(q.items) != 3 || !q.left {
		t.Errorf("%d held of %d items, left %v", q.held, len(q.items), q.left)
	}
	q.settle(q.take(nil))
	if !q.leave() {
		t.Error("all is acknowledged, and it does not leave")
	}
	select {
	case <-q.idle:
	default:
		t.Error("nobody is told that all is acknowledged")
	}
	q.fresh()
	put(2, 1)
	if q.held != 1 {
		t.Error("on the next connection the message is not taken")
	}
}
