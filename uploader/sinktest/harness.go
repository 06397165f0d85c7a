// Package sinktest is the suite that every sink passes. A sink's test starts
// its endpoint, says how to read back what that holds and how to break it, and
// calls Run.
package sinktest

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/uploader"
)

// Fault is one way in which an endpoint fails.
type Fault string

// The faults that the suite knows, with the class that Send and Check must
// report while the fault is on.
const (
	Down       Fault = "down"        // transient
	Slow       Fault = "slow"        // answers take longer than any deadline of the suite: transient
	Throttled  Fault = "throttled"   // throttled
	Partial    Fault = "partial"     // about half of the entries of a request fail, for Send
	AnswerLost Fault = "answer lost" // the endpoint stores, and the answer is lost, for Send
	Denied     Fault = "denied"      // hold
	Expired    Fault = "expired"     // hold
	Skewed     Fault = "skewed"      // hold
	Missing    Fault = "missing"     // the queue, table or directory is not there: hold
)

var classes = map[Fault]uploader.Class{
	Down: uploader.Transient, Throttled: uploader.Throttled,
	Denied: uploader.Hold, Expired: uploader.Hold, Skewed: uploader.Hold, Missing: uploader.Hold,
}

// Endpoint is one endpoint of its own with the settings that lead to it.
type Endpoint struct {
	Config   uploader.Config
	Settings uploader.Settings // what is empty is filled in
	// Stored returns what the endpoint holds: the key under which a consumer
	// knows a block → the block's bytes (after undoing base64 and the like).
	// Each block that was stored several times under one key is there once.
	Stored func(t *testing.T) map[string][]byte
	// Key is the key that the block must be stored under.
	Key func(b *uploader.Block) string
	// Bytes is what must be stored of the block; nil is its Data.
	Bytes func(b *uploader.Block) []byte
	// Set switches a fault on or off. Each fault that it knows is tried.
	Set map[Fault]func(on bool)
}

// Harness describes a sink to the suite.
type Harness struct {
	Kind  uploader.Kind
	Start func(t *testing.T) *Endpoint
	// Block makes the n-th block; nil is Opaque, for sinks that do not look in.
	Block func(n uint64) uploader.Block
	// TooLarge makes a block that the sink must refuse for good; nil where
	// there is no such size.
	TooLarge func(n uint64) uploader.Block
}

// Opaque returns a block of about 3 KiB whose bytes follow from n, but are no
// packed samples.
func Opaque(n uint64) uploader.Block { return OpaqueOf(n, 3000) }

// OpaqueOf returns a block of that many bytes, at least 16.
func OpaqueOf(n uint64, size int) uploader.Block {
	data := make([]byte, size)
	r := rand.New(rand.NewPCG(n, 1))
	for i := 16; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(data[i:], r.Uint64())
	}
	binary.LittleEndian.PutUint64(data, n)
	first := time.Now().Add(-time.Hour).Truncate(time.Hour).UnixNano() + int64(n)*int64(time.Millisecond)
	return uploader.Block{Number: n, Data: data, Header: block.Header{
		Site: "plant", Gateway: "gw1", Stream: "s0001", Epoch: 0x0123456789abcdef, Seq: n,
		Count: 100, First: first, Last: first + int64(time.Second), Produced: 100 * n,
	}}
}

// Packed returns a real block of 20 samples, all of one tag: PackedTag(n). Every
// fourth is what thinning left of the two before it.
func Packed(n uint64) uploader.Block {
	enc, err := block.NewEncoder()
	if err != nil {
		panic("BUG: no encoder: " + err.Error())
	}
	out := Opaque(n)
	enc.Reset([]string{PackedTag(n)})
	for i := range int64(20) {
		enc.Add(0, &sample.Sample{Tag: PackedTag(n), Value: sample.FloatValue(float64(n) + float64(i)/8), Time: out.Header.First + i*int64(time.Second)})
	}
	h := out.Header
	if n > 0 && n%4 == 0 {
		h.Thinned, h.ReplacesFrom, h.ReplacesTo = 20*n/4, n-2, n-1
	}
	out.Data, err = enc.Encode(nil, h)
	if err == nil {
		out.Header, err = block.ReadHeader(out.Data)
	}
	if err != nil {
		panic("BUG: a block does not encode: " + err.Error())
	}
	return out
}

// PackedTag is the tag of Packed(n).
func PackedTag(n uint64) string { return fmt.Sprintf("plant/meter/b%04d", n) }

// Log returns a logger that writes nothing.
func Log() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// open starts an endpoint and opens the sink on it.
func (h Harness) open(t *testing.T) (*Endpoint, uploader.Sink) {
	t.Helper()
	e := h.Start(t)
	s := e.Settings
	if s.Name == "" {
		s.Name = "sink"
	}
	if s.Site == "" {
		s.Site, s.Gateway = "plant", "gw1"
	}
	if s.StateDir == "" {
		s.StateDir = t.TempDir()
	}
	if s.Log == nil {
		s.Log = Log()
	}
	if s.Clock == nil {
		s.Clock = clock.System{}
	}
	if faults := e.Config.Validate(); len(faults) > 0 {
		t.Fatalf("the harness's settings are not valid: %+v", faults)
	}
	sink, err := e.Config.Open(s)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e, sink
}

func (h Harness) blocks(from, to uint64) []uploader.Block {
	one := h.Block
	if one == nil {
		one = Opaque
	}
	var out []uploader.Block
	for n := from; n <= to; n++ {
		out = append(out, one(n))
	}
	return out
}
