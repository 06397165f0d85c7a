package faults

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
)

// The row notices sources that stamp by the wall clock, and a reader that knows
// no corrections, which one trial in fifteen has.
func TestTheClockRowNotices(t *testing.T) {
	for name, broken := range map[string]clockBroken{"stamped by the wall clock": clockByWall, "no corrections": clockDeaf} {
		r := clockRow()
		r.Run = func(ctx context.Context, t *Trial) (int, error) { return runClock(ctx, t, broken) }
		failed := false
		for trials := 0; !failed && trials < 400; trials += 10 {
			var out bytes.Buffer
			got, err := Run(context.Background(), []Row{r}, Options{Form: Short, Seed: rand.Uint64() >> 12, Out: &out, Trials: 10})
			if err != nil {
				t.Fatal(err)
			}
			failed = len(got[0].Failures) > 0
		}
		if !failed {
			t.Errorf("%s: no trial failed", name)
		}
	}
}
