package demo

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
)

// collector keeps the blocks that one endpoint has accepted, in the bytes that
// it accepted, once per identity.
type collector struct {
	place string // the queue's name, or the prefix of the week tables
	// look, where set, is shown the samples of each block.
	look func([]sample.Sample)

	mu     sync.Mutex
	dec    *block.Decoder
	seen   map[string]string // identity to bytes
	blocks []arrived
	mirror []outcome
	count  int    // samples in blocks
	lost   uint64 // declared by gap records
	wire   int
	faults []string
	audit  *audit.Ledger
}

// arrived is one block's samples. Blocks arrive in any order, since requests
// are tried again and go side by side; readers order them by their sequence.
type arrived struct {
	stream  string
	seq     uint64
	samples []sample.Sample
}

func newCollector(place string) (*collector, error) {
	dec, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &collector{place: place, dec: dec, seen: map[string]string{}, audit: audit.New(0)}, nil
}

// accept takes what an endpoint has stored.
func (c *collector) accept(a awssim.Accepted) {
	if !strings.HasPrefix(a.Place, c.place) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wire += a.WireBytes
	var data []byte
	var err error
	if a.Service == awssim.ServiceSQS {
		data, err = base64.StdEncoding.DecodeString(string(a.Body))
	} else {
		data, err = awssim.ItemBinary(a.Body, "block")
	}
	if err == nil {
		err = c.take(data)
	}
	if err != nil {
		c.faults = append(c.faults, fmt.Sprintf("%s: %v", a.Place, err))
	}
}

// take decodes a block, unless its identity came before: then its bytes must
// be the same.
func (c *collector) take(data []byte) error {
	b, err := c.dec.Decode(data)
	if err != nil {
		return err
	}
	if err := c.audit.AddHeader(&b.Header, weektable.Checksum(data), func() (*block.Block, error) { return b, nil }); err != nil {
		return err
	}
	id := b.Header.Identity()
	if before, ok := c.seen[id]; ok {
		if before != string(data) {
			return fmt.Errorf("block %s came twice with different bytes", id)
		}
		return nil
	}
	c.seen[id] = string(data)
	a := arrived{stream: b.Header.Stream, seq: b.Header.Seq}
	if b.Header.ReplacesFrom > 0 { // it stands in their place
		a.seq = b.Header.ReplacesFrom
	}
	for s := range b.All() {
		switch {
		case strings.HasSuffix(s.Tag, "/"+ledger.GapName):
			g, err := ledger.ParseGap(&s)
			if err != nil {
				return err
			}
			if g.Count != nil {
				c.lost += *g.Count
			}
		case isStatus(&s):
			o, err := parseOutcome(&s)
			if err != nil {
				return err
			}
			c.mirror = append(c.mirror, o)
		case strings.Contains(s.Tag, "/$"): // the gateway's own
		default:
			a.samples = append(a.samples, s)
		}
	}
	c.blocks = append(c.blocks, a)
	c.count += len(a.samples)
	if c.look != nil {
		c.look(a.samples)
	}
	return nil
}

// outcomes lists what arrived of the mirror's outcomes.
func (c *collector) outcomes() []outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mirror)
}

// samples lists what arrived, each stream in the order of its blocks.
func (c *collector) samples() []sample.Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.blocks, func(a, b arrived) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.seq, b.seq))
	})
	out := make([]sample.Sample, 0, c.count)
	for i := range c.blocks {
		out = append(out, c.blocks[i].samples...)
	}
	return out
}

// snapshot returns how many samples and request bytes were accepted so far.
func (c *collector) snapshot() (samples, wire int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, c.wire
}

// account is what `millrace audit` would say of what the endpoint has: nothing
// is on its way any more.
func (c *collector) account() *audit.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.audit.Report(audit.Options{Now: time.Now(), Local: true})
}
