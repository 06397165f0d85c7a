package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"millrace/sample"
)

// HeartbeatName is the name part of the tag under which a gateway's heartbeats
// are delivered: "site/<gateway>/$heartbeat".
const HeartbeatName = "$heartbeat"

// HeartbeatEvery is how often a running gateway sends one.
const HeartbeatEvery = time.Hour

// HeartbeatTag returns the full tag name of a gateway's heartbeats.
func HeartbeatTag(site, gateway string) string { return site + "/" + gateway + "/" + HeartbeatName }

// Heartbeat says what a gateway has produced so far, so that a reader who lacks
// the newest blocks knows that he does. It travels as the JSON text of a string
// sample of the system stream: at the start, hourly, and at an orderly stop.
type Heartbeat struct {
	At      time.Time     `json:"at"`
	Kind    HeartbeatKind `json:"kind"`
	Epoch   string        `json:"epoch"`   // 16 hexadecimal digits
	Boot    string        `json:"boot"`    // the kernel's boot id, 32 hexadecimal digits
	Version string        `json:"version"` // of millrace
	// Streams are all that the gateway has, by name.
	Streams []StreamCounts `json:"streams"`
	Backlog Backlog        `json:"backlog"`
}

// HeartbeatKind says what made a heartbeat due.
type HeartbeatKind string

// The kinds of heartbeats.
const (
	AtStart HeartbeatKind = "start"
	Hourly  HeartbeatKind = "hourly"
	AtStop  HeartbeatKind = "stop" // what is in it is final until the next start
)

// StreamCounts are a stream's last sequence, and its cumulative counts as the
// header of that block carries them, or later ones. Of the system stream, the
// block with the heartbeat itself is not counted yet.
type StreamCounts struct {
	Stream   string `json:"stream"`
	Seq      uint64 `json:"seq"` // 0: no block yet
	Produced uint64 `json:"produced"`
	Lost     uint64 `json:"lost"`
	Thinned  uint64 `json:"thinned"`
	// Replaced are sequences that never come, since thinned blocks stand for
	// them; the newest ranges where there are many.
	Replaced []Range `json:"replaced,omitempty"`
}

// Range is a range of sequences, both ends included.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Backlog is what the sink that is furthest behind lacked.
type Backlog struct {
	Sink    string `json:"sink,omitempty"`
	Blocks  int    `json:"blocks"`
	Samples int64  `json:"samples"`
	Bytes   int64  `json:"bytes"`
	// Oldest is the time of the first sample of the oldest block that some sink
	// lacked, to the second; zero where none did.
	Oldest      time.Time `json:"oldest,omitzero"`
	DeadLetters int       `json:"dead_letters"`
}

// Sample returns the heartbeat as a sample.
func (h *Heartbeat) Sample(tag string) (sample.Sample, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return sample.Sample{}, fmt.Errorf("encode heartbeat: %w", err)
	}
	return sample.Sample{Tag: tag, Value: sample.StringValue(string(text)), Time: h.At.UnixNano()}, nil
}

// ParseHeartbeat reads a heartbeat back from a delivered sample.
func ParseHeartbeat(s *sample.Sample) (*Heartbeat, error) {
	if s.Value.Kind() != sample.String {
		return nil, fmt.Errorf("heartbeat of %s is a %s, not a string", s.Tag, s.Value.Kind())
	}
	h := new(Heartbeat)
	if err := json.Unmarshal([]byte(s.Value.Str()), h); err != nil {
		return nil, fmt.Errorf("heartbeat of %s: %w", s.Tag, err)
	}
	return h, nil
}
