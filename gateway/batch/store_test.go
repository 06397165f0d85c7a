package batch

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/gateway/pipeline"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/spool"
)

// store keeps what is committed, and fails as it is told.
type store struct {
	mu      sync.Mutex
	commits []spool.Commit
	losses  []spool.Loss
	fail    error
	rotate  bool
	noRoom  error
	accepts func(stream uint32) bool // of which streams there is room for data; all where nil
	next    uint64
	onStore func()
}

func (s *store) Commit(c *spool.Commit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onStore != nil {
		s.onStore()
	}
	if s.fail != nil {
		return s.fail
	}
	for i := range c.Parts {
		if s.accepts != nil && !s.accepts(c.Parts[i].Stream) {
			return &spool.FullError{Err: errors.New("no room")}
		}
	}
	for i := range c.Blocks {
		if s.accepts != nil && !s.accepts(c.Blocks[i].Stream) {
			return &spool.FullError{Err: errors.New("no room")}
		}
	}
	if c.Rotate && len(c.Parts) > 0 {
		return errors.New("a rotation with open parts")
	}
	for i := range c.Blocks {
		s.next++
		c.Blocks[i].Number = s.next
	}
	s.losses = slices.DeleteFunc(slices.Clone(s.losses), func(l spool.Loss) bool { return slices.Contains(c.Settle, l.ID) })
	s.commits = append(s.commits, *c)
	return nil
}

func (s *store) Admit(int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noRoom
}

func (s *store) NeedsRotation() bool                          { return s.rotate }
func (s *store) DueLosses() []spool.Loss                      { return s.losses }
func (s *store) Thinnable(uint64, int) ([]spool.Block, error) { return nil, nil }
func (s *store) Replace(*spool.Replacement) error             { return errors.New("nothing is there to replace") }

// state is what a spool with these commits would say when it is opened again.
func (s *store) state(epoch uint64) *spool.State {
	st := &spool.State{Epoch: epoch, LastSeq: map[uint32]uint64{}}
	meta := map[string][]byte{}
	for _, c := range s.commits {
		for _, b := range c.Blocks {
			st.LastSeq[b.Stream] = b.Seq
			kept := st.Parts[:0]
			for _, p := range st.Parts {
				if p.Stream != b.Stream {
					kept = append(kept, p)
				}
			}
			st.Parts = kept
		}
		st.Parts = append(st.Parts, c.Parts...)
		for _, kv := range c.Meta {
			meta[kv.Key] = kv.Value
		}
	}
	for k, v := range meta {
		st.Meta = append(st.Meta, spool.KV{Key: k, Value: v})
	}
	return st
}

// blocks decodes every block stored.
func (s *store) blocks(t *testing.T) (headers []block.Header, samples []sample.Sample) {
	t.Helper()
	d, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.commits {
		for _, raw := range c.Blocks {
			b, err := d.Decode(raw.Data)
			if err != nil {
				t.Fatal(err)
			}
			headers = append(headers, b.Header)
			for v := range b.All() {
				samples = append(samples, v)
			}
		}
	}
	return headers, samples
}

type noHealth struct{}

func (noHealth) Beat()      {}
func (noHealth) Up()        {}
func (noHealth) Down(error) {}

func open(t *testing.T, s *store, st *spool.State) *Batcher {
	t.Helper()
	b, err := New(Options{Site: "s", Gateway: "g", CommitInterval: time.Second, Log: slog.New(slog.DiscardHandler),
		Clock: clock.System{}, Health: noHealth{}}, s, st)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func source(tags ...string) SourceInfo {
	info := SourceInfo{Name: "src", MaxTags: 1000, Class: Class{ScanRate: time.Second, MaxAge: time.Minute, MaxBytes: 180 << 10}, Beat: func() {}}
	for _, name := range tags {
		info.Tags = append(info.Tags, TagInfo{Name: name, Rule: pipeline.Rule{Scale: 1}})
	}
	return info
}

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func at(tag string, i int, when time.Time) sample.Sample {
	return sample.Sample{Tag: tag, Value: sample.IntValue(int64(i)), Time: when.UnixNano()}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own leaves out the gateway's own samples.
func own(samples []sample.Sample) (out []sample.Sample) {
	for _, s := range samples {
		if s.Tag != ledger.CatalogueTag("s", "g") && s.Tag != ledger.GapTag("s", "g") {
			out = append(out, s)
		}
	}
	return out
}
