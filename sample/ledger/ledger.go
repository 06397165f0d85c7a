// Package ledger is the accounting that edge and cloud share: the gap record,
// by which every loss is declared, and the heartbeat, by which a reader knows
// what there is to have, in the forms in which they are delivered. The package
// audit below holds blocks, gaps and heartbeats against each other.
package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"millrace/sample"
)

// GapName is the device and name part of the tag under which a gateway's gap
// records are delivered, after the site: "site/<gateway>/$gap".
const GapName = "$gap"

// GapTag returns the full tag name of a gateway's gap records.
func GapTag(site, gateway string) string { return site + "/" + gateway + "/" + GapName }

// SystemStream is the stream that carries the gateway's own records: gaps,
// heartbeats and the catalogue.
const SystemStream = "sys"

// Gap is one declared loss. It travels as the JSON text of a string sample, so
// that every consumer of samples is also a consumer of gaps. Epoch, Origin and
// ID are its identity: a record that comes twice is one.
type Gap struct {
	ID     uint64 `json:"id"`               // unique within Epoch and Origin
	Epoch  string `json:"epoch"`            // 16 hexadecimal digits, of the run that declares it
	Origin Origin `json:"origin,omitempty"` // who saw the loss; the spool where empty
	// Source is the source whose samples are lost, where it is one and known.
	// Sources names them where a lost stream carries several.
	Source  string   `json:"source"`
	Sources []string `json:"sources,omitempty"`
	Tag     string   `json:"tag,omitempty"` // full name, where one tag alone is concerned
	Stream  string   `json:"stream"`        // the stream, where it was seen in the spool
	// SeqEpoch is the epoch in which FromSeq and ToSeq count, where it is an
	// earlier one than Epoch: UnknownEpoch where it cannot be told any more.
	SeqEpoch string   `json:"seq_epoch,omitempty"`
	Sinks    []string `json:"sinks,omitempty"` // that lack it; all where empty
	FromSeq  uint64   `json:"from_seq,omitempty"`
	ToSeq    uint64   `json:"to_seq,omitempty"`
	// From and To are the times of the first and the last sample lost; absent
	// where nothing tells them.
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
	Count *uint64   `json:"count"` // null: unknown
	Cause Cause     `json:"cause"`
	At    time.Time `json:"at"` // when it was declared
}

// Origin says who saw a loss, and so who numbered its record.
type Origin string

// The origins of gap records.
const (
	FromSpool   Origin = "" // the spool: evicted, corrupt, rejected
	FromGateway Origin = "gateway"
)

// UnknownEpoch stands for an epoch that cannot be named any more.
const UnknownEpoch = "unknown"

// Cause says why samples were lost.
type Cause string

// The causes of a gap.
const (
	Evicted     Cause = "evicted"         // the spool's size bound
	Corrupt     Cause = "corrupt"         // a record failed its checksum
	GatewayDown Cause = "gateway_down"    // the gateway was not running, so nothing was polled; count unknown
	Overflow    Cause = "server_overflow" // a server's queue ran over before we read it; count unknown
	Rejected    Cause = "rejected"        // a sink refused the block for good, and an operator dropped it
	Refused     Cause = "refused"         // policy refuse kept polled samples out of a full spool; count unknown
)

// Sample returns the gap as a sample taken at now.
func (g *Gap) Sample(tag string, now time.Time) (sample.Sample, error) {
	text, err := json.Marshal(g)
	if err != nil {
		return sample.Sample{}, fmt.Errorf("encode gap record %d: %w", g.ID, err)
	}
	return sample.Sample{
		Tag: tag, Value: sample.StringValue(string(text)), Time: now.UnixNano(),
		Producer: g.producer(), Seq: g.ID,
	}, nil
}

// producer is the producer of the record as a sample: with Seq it keys it.
func (g *Gap) producer() string {
	if g.Origin == FromSpool {
		return "spool/" + g.Epoch
	}
	return string(g.Origin) + "/" + g.Epoch
}

// ParseGap reads a gap record back from a delivered sample.
func ParseGap(s *sample.Sample) (*Gap, error) {
	if s.Value.Kind() != sample.String {
		return nil, fmt.Errorf("gap record of %s is a %s, not a string", s.Tag, s.Value.Kind())
	}
	g := new(Gap)
	if err := json.Unmarshal([]byte(s.Value.Str()), g); err != nil {
		return nil, fmt.Errorf("gap record of %s: %w", s.Tag, err)
	}
	return g, nil
}

// CatalogueTag returns the full tag name of a gateway's catalogue records.
func CatalogueTag(site, gateway string) string { return site + "/" + gateway + "/$catalogue" }

// CatalogueEntry describes one configured tag. It travels as the JSON text of a
// string sample, at first sight and whenever it changes.
type CatalogueEntry struct {
	Tag         string `json:"tag"`
	Stream      string `json:"stream"`
	Source      string `json:"source"`
	Type        string `json:"type,omitempty"`
	Unit        string `json:"unit,omitempty"`
	Description string `json:"description,omitempty"`
	// Counter says that every reading counts, so that none is thinned out.
	Counter bool `json:"counter,omitempty"`
	// CounterMax is a counter's highest reading before it starts again at 0, in
	// the unit of its samples: 65535 for a uint16. 0: unknown, or it never does.
	CounterMax float64 `json:"counter_max,omitempty"`
}

// ParseCatalogue reads a catalogue record back from a delivered sample.
func ParseCatalogue(s *sample.Sample) (*CatalogueEntry, error) {
	if s.Value.Kind() != sample.String {
		return nil, fmt.Errorf("catalogue record of %s is a %s, not a string", s.Tag, s.Value.Kind())
	}
	e := new(CatalogueEntry)
	if err := json.Unmarshal([]byte(s.Value.Str()), e); err != nil {
		return nil, fmt.Errorf("catalogue record of %s: %w", s.Tag, err)
	}
	return e, nil
}
