package demo

import (
	"strings"
	"testing"

	"millrace/sample"
	"millrace/sample/block"
)

// A block that never came fails the demo, though every value of those that came
// is right.
func TestAnAccountThatDoesNotBalanceFails(t *testing.T) {
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	collect := func(seqs ...uint64) *collector {
		c, err := newCollector("q")
		if err != nil {
			t.Fatal(err)
		}
		for _, stream := range []string{"s0001", "s0002"} {
			for _, seq := range seqs {
				enc.Reset([]string{"demo/m/a"})
				enc.Add(0, &sample.Sample{Tag: "demo/m/a", Time: int64(seq) * 1e9, Value: sample.IntValue(1)})
				data, err := enc.Encode(nil, block.Header{Site: "demo", Gateway: "gw1", Stream: stream, Epoch: 1, Seq: seq, Produced: seq})
				if err != nil {
					t.Fatal(err)
				}
				if err := c.take(data); err != nil {
					t.Fatal(err)
				}
			}
		}
		return c
	}
	r := Result{Produced: 6, Delivered: 6, MirrorBalanced: true}
	r.audit(collect(1, 2, 3).account(), collect(3, 1, 2, 2).account())
	if !r.Balanced || !r.Exact() {
		t.Errorf("all is here, and the audit says %s", r.Audit)
	}
	r = Result{Produced: 6, Delivered: 6, MirrorBalanced: true}
	r.audit(collect(1, 2, 3).account(), collect(1, 3).account())
	if r.Balanced || r.Exact() || len(r.Findings) != 2 || !strings.Contains(r.Findings[0], "MISSING: block 2 (1 sample)") {
		t.Errorf("a block is missing in the tables, and the audit says %s: %q", r.Audit, r.Findings)
	}
	r = Result{Produced: 6, Delivered: 6, MirrorBalanced: true}
	if r.audit(collect().account(), collect().account()); r.Exact() {
		t.Error("nothing at all balances")
	}
}
