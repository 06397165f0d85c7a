package demo

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"millrace/internal/sim/plant"
	"millrace/protocols"
	"millrace/sample"
)

// short is a demo that still has both outages.
const short = minDuration + time.Second

func TestExact(t *testing.T) {
	r, err := Run(t.Context(), Options{Duration: short, Out: io.Discard, Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if !r.Exact() || r.Pending != 0 || r.Delivered != r.Produced {
		t.Errorf("the ledger is not exact: %q", r.Findings)
	}
	if r.Bad == 0 {
		t.Error("the stopped device left no Bad sample")
	}
	if !r.Balanced || r.Audit == "" {
		t.Errorf("the audit says %s", r.Audit)
	}
	if !r.MirrorBalanced || r.Mirrored == 0 || r.Refused != 1 || r.Sent != r.Mirrored+r.Refused+r.Superseded+r.Unverified {
		t.Errorf("%d results were sent, %d mirrored, %d refused, %d superseded, %d unverified", r.Sent, r.Mirrored, r.Refused, r.Superseded, r.Unverified)
	}
	if r.Produced < 1000 {
		t.Errorf("%d samples are no demo", r.Produced)
	}
}

// tamper breaks one value of the meters on its way into the pipeline, some
// seconds after the start.
type tamper struct {
	change func(batch []sample.Sample, later func(sample.Sample)) []sample.Sample

	mu    sync.Mutex
	begin time.Time
	done  bool
	held  []sample.Sample
}

func (x *tamper) wrap(source string, emit protocols.Emit) protocols.Emit {
	if source != plant.SourceModbus {
		return emit
	}
	return func(ctx context.Context, batch []sample.Sample, done func(error)) error {
		x.mu.Lock()
		out := append([]sample.Sample(nil), batch...)
		if x.begin.IsZero() {
			x.begin = time.Now()
		}
		if !x.done && time.Since(x.begin) > time.Second && len(batch) > 12 && !batch[0].Quality.IsBad() {
			x.done = true
			out = x.change(out, func(s sample.Sample) { x.held = append(x.held, s) })
		} else if len(x.held) > 0 {
			out, x.held = append(out, x.held...), nil
		}
		x.mu.Unlock()
		return emit(ctx, out, done)
	}
}

// TestTheLedgerNotices breaks one value of thousands, in each way that a
// gateway could, and wants the ledger to say so.
func TestTheLedgerNotices(t *testing.T) {
	for name, change := range map[string]func([]sample.Sample, func(sample.Sample)) []sample.Sample{
		"swap": func(b []sample.Sample, _ func(sample.Sample)) []sample.Sample {
			b[0].Value, b[10].Value = b[10].Value, b[0].Value // both are float32 registers
			return b
		},
		"delay": func(b []sample.Sample, _ func(sample.Sample)) []sample.Sample {
			b[0].Time += int64(10 * time.Second)
			return b
		},
		"late": func(b []sample.Sample, later func(sample.Sample)) []sample.Sample {
			late := b[0]
			late.Time += int64(4 * time.Second) // stamped when it went on, not when it was read
			later(late)
			return b[1:]
		},
		"drop": func(b []sample.Sample, _ func(sample.Sample)) []sample.Sample { return b[1:] },
		"double": func(b []sample.Sample, _ func(sample.Sample)) []sample.Sample {
			return append(b, b[0])
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &tamper{change: change}
			r, err := Run(t.Context(), Options{Duration: minDuration, Out: io.Discard, Quiet: true, WrapEmit: x.wrap})
			if err != nil {
				t.Fatal(err)
			}
			if !x.done {
				t.Fatal("nothing was changed")
			}
			t.Logf("%+v", *r)
			if r.Exact() {
				t.Errorf("the ledger did not notice")
			}
			if got := r.Lost + r.Wrong + r.Duplicates; got > 10 {
				t.Errorf("one changed value counts as %d", got)
			}
		})
	}
}

func TestTooShort(t *testing.T) {
	if _, err := Run(t.Context(), Options{Duration: time.Second, Out: io.Discard}); err == nil {
		t.Error("a demo of a second has no room for its outages")
	}
}
