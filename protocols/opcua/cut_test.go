package opcua

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/sim/opcuasim"
	"millrace/sample"
)

// Values that the client has received are emitted although the connection is
// cut while the spool cannot take them.
func TestACutWhileEmitBlocks(t *testing.T) {
	var sent atomic.Int64
	sim := startSim(t, opcuasim.Options{OnSent: func(v opcuasim.Sent) {
		if n, ok := v.Value.(int32); ok && strings.HasSuffix(v.Node, "s=count") {
			sent.Store(int64(n))
		}
	}})
	id := add(t, sim, "count", int32(0))
	r := run(t, testConfig(sim.URL()), source1(map[string]string{"plant/line/count": id}), nil)
	r.until(t, "first", isValue("plant/line/count", sample.IntValue(0)))
	r.Block()
	for n := int32(1); n <= 20; n++ {
		sim.Set("count", n, time.Now())
		for end := time.Now().Add(3 * time.Second); sent.Load() != int64(n) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(300 * time.Millisecond)
	sim.Stop()
	time.Sleep(300 * time.Millisecond)
	r.Release()
	last := sample.IntValue(sent.Load())
	r.until(t, "the last value before the cut", isValue("plant/line/count", last))
	seen := map[sample.Value]bool{}
	for _, s := range r.Samples() {
		seen[s.Value] = true
	}
	for n := int64(1); n <= sent.Load(); n++ {
		if !seen[sample.IntValue(n)] {
			t.Errorf("value %d went out before the cut and was not emitted", n)
		}
	}
}

// A server that says nothing any more does not hold up a stop.
func TestStopWhileSilent(t *testing.T) {
	t.Parallel()
	sim := startSim(t, opcuasim.Options{})
	id := add(t, sim, "count", int32(0))
	c := testConfig(sim.URL())
	c.Timeout = 10 * time.Second
	r := run(t, c, source1(map[string]string{"plant/line/count": id}), nil)
	r.until(t, "first", isValue("plant/line/count", sample.IntValue(0)))
	sim.Silence(true)
	began := time.Now()
	r.stop()
	if time.Since(began) > 5*time.Second {
		t.Errorf("stop took %s", time.Since(began))
	}
}
