package faults

import (
	"encoding/gob"
	"io"
	"sync"
	"time"

	"millrace/sample"
)

// kind says what a message between parent and child is.
type kind uint8

const (
	msgProduce kind = iota + 1 // parent: samples of a batch
	msgAcked                   // child: a batch is durable, or was refused
	msgBlocks                  // child: blocks for a sink
	msgOutcome                 // parent: what became of them, block by block
	msgReady                   // child: the gateway runs
	msgStatus                  // parent asks, child answers
)

// message is what goes over the socket, in both directions.
type message struct {
	Kind    kind
	ID      uint64 // of the batch, or of the request
	Samples []wireSample
	// Polled samples are not acknowledged.
	Polled   bool
	Sink     string
	Blocks   [][]byte
	Outcomes []outcome
	Text     string // an error, or a status as JSON
}

// wireSample is a sample as a producer sends it.
type wireSample struct {
	Tag, Producer string
	Seq           uint64
	Source        int64 // ns
	Number        float64
	Str           string // the value, where it is not empty
}

func (w *wireSample) sample(now time.Time) sample.Sample {
	v := sample.FloatValue(w.Number)
	if w.Str != "" {
		v = sample.StringValue(w.Str)
	}
	return sample.Sample{Tag: w.Tag, Value: v, Time: now.UnixNano(), SourceTime: w.Source, Producer: w.Producer, Seq: w.Seq}
}

// outcome is what the endpoint says of one block.
type outcome uint8

const (
	accepted  outcome = iota
	failed            // a fault of the server's
	throttled         // too many requests
	held              // an operator has to mend it
	refused           // this block will never be taken
)

// link is one end of the socket.
type link struct {
	conn io.ReadWriteCloser
	dec  *gob.Decoder

	mu  sync.Mutex
	enc *gob.Encoder
}

func newLink(conn io.ReadWriteCloser) *link {
	return &link{conn: conn, dec: gob.NewDecoder(conn), enc: gob.NewEncoder(conn)}
}

func (l *link) send(m *message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.enc.Encode(m)
}

func (l *link) receive() (*message, error) {
	m := new(message)
	err := l.dec.Decode(m)
	return m, err
}
