// Package ledger is the accounting that edge and cloud share: the gap record,
// by which every loss is declared, in the form in which it is delivered.
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

// Gap is one declared loss. It travels as the JSON text of a string sample, so
// that every consumer of samples is also a consumer of gaps.
type Gap struct {
	ID      uint64    `json:"id"`     // unique within Epoch
	Epoch   string    `json:"epoch"`  // 16 hexadecimal digits
	Source  string    `json:"source"` // the source, where the loss was seen at one
	Stream  string    `json:"stream"` // the stream, where it was seen in the spool
	Sinks   []string  `json:"sinks,omitempty"`
	FromSeq uint64    `json:"from_seq,omitempty"`
	ToSeq   uint64    `json:"to_seq,omitempty"`
	From    time.Time `json:"from"` // time of the first sample lost
	To      time.Time `json:"to"`
	Count   *uint64   `json:"count"` // null: unknown
	Cause   Cause     `json:"cause"`
}

// Cause says why samples were lost.
type Cause string

// The causes of a gap.
const (
	Evicted     Cause = "evicted"         // the spool's size bound
	Corrupt     Cause = "corrupt"         // a record failed its checksum
	GatewayDown Cause = "gateway_down"    // the gateway was not running
	Overflow    Cause = "server_overflow" // a server's queue ran over before we read it
	Rejected    Cause = "rejected"        // a sink refused the block for good
)

// Sample returns the gap as a sample taken at now.
func (g *Gap) Sample(tag string, now time.Time) (sample.Sample, error) {
	text, err := json.Marshal(g)
	if err != nil {
		return sample.Sample{}, fmt.Errorf("encode gap record %d: %w", g.ID, err)
	}
	return sample.Sample{
		Tag: tag, Value: sample.StringValue(string(text)), Time: now.UnixNano(),
		Producer: "spool/" + g.Epoch, Seq: g.ID,
	}, nil
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
}
