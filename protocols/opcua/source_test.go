package opcua

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/sim/opcuasim"
	"millrace/protocols"
	"millrace/sample"
)

// After a cut of a second the values flow again, with one Bad per tag between.
func TestAOneSecondCut(t *testing.T) {
	t.Parallel()
	sim := startSim(t, opcuasim.Options{})
	src := source1(map[string]string{"plant/a": add(t, sim, "a", int32(1)), "plant/b": add(t, sim, "b", int32(2))})
	r := run(t, testConfig(sim.URL()), src, nil)
	r.until(t, "the first value", isValue("plant/a", sample.IntValue(1)))
	r.until(t, "the first value", isValue("plant/b", sample.IntValue(2)))
	r.Reset()
	sim.Stop()
	time.Sleep(time.Second) // the cut itself
	sim.Set("a", int32(11), time.Now())
	if err := sim.Resume(); err != nil {
		t.Fatal(err)
	}
	r.until(t, "the value after the cut", isValue("plant/a", sample.IntValue(11)))
	r.until(t, "the other value after the cut", isValue("plant/b", sample.IntValue(2)))
	sim.Set("a", int32(12), time.Now())
	r.until(t, "a change after the cut", isValue("plant/a", sample.IntValue(12)))
	bad := map[string]int{}
	for _, s := range r.Samples() {
		if s.Quality.IsBad() {
			bad[s.Tag]++
			if s.Quality != sample.BadNotConnected {
				t.Errorf("%s is %s", s.Tag, s.Quality)
			}
		}
	}
	if bad["plant/a"] != 1 || bad["plant/b"] != 1 {
		t.Errorf("Bad samples per tag: %v, want one each", bad)
	}
	if c := r.Health.Changes(); len(c) != 3 || c[0] != nil || c[1] == nil || c[2] != nil {
		t.Errorf("health %v, want up, down, up", c)
	}
}

// A server that keeps the connection and says nothing any more is left.
func TestSilence(t *testing.T) {
	t.Parallel()
	sim := startSim(t, opcuasim.Options{})
	src := source1(map[string]string{"plant/a": add(t, sim, "a", int32(1))})
	cfg := testConfig(sim.URL())
	cfg.Timeout = 500 * time.Millisecond
	r := run(t, cfg, src, func(c *connection) { c.silence = 300 * time.Millisecond })
	r.until(t, "the first value", isValue("plant/a", sample.IntValue(1)))
	r.Reset()
	sim.Silence(true)
	r.until(t, "Bad in the silence", func(s sample.Sample) bool { return s.Quality == sample.BadNotConnected })
	changes := r.Health.Changes()
	if last := changes[len(changes)-1]; last == nil || !strings.Contains(last.Error(), errSilent.Error()) {
		t.Errorf("health %v, want the silence", changes)
	}
	sim.Set("a", int32(2), time.Now())
	sim.Silence(false)
	r.until(t, "the value after the silence", isValue("plant/a", sample.IntValue(2)))
}

// The first message of a subscription comes whatever happens, OPC 10000-4,
// 5.13.1.1. Where it does not, the library never asked for it, as now and
// then on a busy machine: a fresh connection is made, although the server
// answers.
func TestASubscriptionThatNeverSpeaks(t *testing.T) {
	t.Parallel()
	sim := startSim(t, opcuasim.Options{})
	src := source1(map[string]string{"plant/a": add(t, sim, "a", int32(1))})
	sim.Forget(true)
	r := run(t, testConfig(sim.URL()), src, func(c *connection) { c.silence = 300 * time.Millisecond })
	r.until(t, "Bad in the silence", func(s sample.Sample) bool { return s.Quality == sample.BadNotConnected })
	changes := r.Health.Changes()
	if last := changes[len(changes)-1]; last == nil || !strings.Contains(last.Error(), errSilent.Error()) {
		t.Errorf("health %v, want the silence", changes)
	}
	sim.Forget(false)
	r.until(t, "the value after the silence", isValue("plant/a", sample.IntValue(1)))
}

// Values that do not change are no silence.
func TestQuietValuesAreNoSilence(t *testing.T) {
	sim := startSim(t, opcuasim.Options{})
	src := source1(map[string]string{"plant/a": add(t, sim, "a", int32(1))})
	r := run(t, testConfig(sim.URL()), src, func(c *connection) { c.silence = 100 * time.Millisecond })
	r.until(t, "the first value", isValue("plant/a", sample.IntValue(1)))
	time.Sleep(time.Second) // ten times the silence
	if c := r.Health.Changes(); len(c) != 1 || c[0] != nil {
		t.Errorf("health %v, want up alone", c)
	}
}

// One wrong node is Bad and is named; the others flow. This server takes the
// item and denies the node with its first value.
func TestAWrongNodeAmongOthers(t *testing.T) {
	sim := startSim(t, opcuasim.Options{})
	good := add(t, sim, "a", int32(1))
	wrong := strings.Replace(good, "s=a", "s=nowhere", 1)
	lost := "nsu=urn:nowhere;s=x"
	r := run(t, testConfig(sim.URL()), source1(map[string]string{"plant/a": good, "plant/wrong": wrong, "plant/lost": lost}), nil)
	r.until(t, "the good one", isValue("plant/a", sample.IntValue(1)))
	for _, tag := range []string{"plant/wrong", "plant/lost"} {
		r.until(t, tag, func(s sample.Sample) bool { return s.Tag == tag && s.Quality == sample.BadNodeIDUnknown })
	}
	sim.Set("a", int32(2), time.Now())
	r.until(t, "its next value", isValue("plant/a", sample.IntValue(2)))
	seen := map[string]int{}
	for _, s := range r.Samples() {
		if s.Quality.IsBad() {
			seen[s.Tag]++
		}
	}
	if seen["plant/wrong"] != 1 || seen["plant/lost"] != 1 || len(seen) != 2 {
		t.Errorf("Bad samples: %v, want one for each wrong one", seen)
	}
	if c := r.Health.Changes(); len(c) != 1 || c[0] == nil || !strings.HasPrefix(c[0].Error(), "partly: ") || !strings.Contains(c[0].Error(), "no namespace urn:nowhere") {
		t.Errorf("health %v", c)
	}
}

// Every value that went out before Run was told to stop is emitted.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sent []opcuasim.Sent
	sim := startSim(t, opcuasim.Options{OnSent: func(s opcuasim.Sent) {
		if strings.Contains(s.Node, "s=") { // and not the server's clock
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, s)
		}
	}})
	const nodes = 20
	addresses := map[string]string{}
	for i := range nodes {
		name := fmt.Sprintf("n%02d", i)
		id := add(t, sim, name, int64(0))
		addresses[id] = id
	}
	for range 5 {
		mu.Lock()
		sent = nil
		mu.Unlock()
		src := source1(addresses)
		src.ScanRate = 5 * time.Millisecond
		r := run(t, testConfig(sim.URL()), src, nil)
		r.until(t, "the first value", func(s sample.Sample) bool { return !s.Quality.IsBad() })
		quit := make(chan struct{})
		var load sync.WaitGroup
		load.Go(func() {
			for n := int64(1); ; n++ {
				for i := range nodes {
					select {
					case <-quit:
						return
					default:
						sim.Set(fmt.Sprintf("n%02d", i), n, time.Now())
					}
				}
				time.Sleep(time.Millisecond) // the rate of the load
			}
		})
		time.Sleep(300 * time.Millisecond) // under load
		mu.Lock()
		before := append([]opcuasim.Sent(nil), sent...)
		mu.Unlock()
		r.stop()
		close(quit)
		load.Wait()
		got := map[string][]int64{}
		for _, s := range r.Samples() {
			if !s.Quality.IsBad() {
				got[s.Tag] = append(got[s.Tag], s.Value.Int())
			}
		}
		want := map[string][]int64{}
		for _, s := range before {
			want[s.Node] = append(want[s.Node], s.Value.(int64))
		}
		if len(before) < 5*nodes {
			t.Fatalf("only %d values before the stop", len(before))
		}
		for tag, values := range want {
			for i, v := range values {
				if i >= len(got[tag]) || got[tag][i] != v {
					t.Fatalf("%s: value %d of %d that were sent is not emitted in its place; emitted %d", tag, i, len(values), len(got[tag]))
				}
			}
		}
	}
}

func TestOddValuesAreSaidOnce(t *testing.T) {
	sim := startSim(t, opcuasim.Options{})
	id := add(t, sim, "a", []int32{1, 2})
	r := run(t, testConfig(sim.URL()), source1(map[string]string{"plant/a": id}), nil)
	isBad := func(s sample.Sample) bool { return s.Quality == sample.BadTypeMismatch }
	r.until(t, "the array", isBad)
	r.Reset()
	sim.Set("a", []int32{3}, time.Now())
	r.until(t, "the second array", isBad)
	if lines := r.log.all(); len(lines) != 1 || !strings.Contains(lines[0], id) || !strings.Contains(lines[0], "[]int32") {
		t.Errorf("log %q", lines)
	}
}

func TestOverflowIsCountedAndSaidOnce(t *testing.T) {
	l := new(logs)
	conn := open(t, testConfig("opc.tcp://plc"), l)
	h := &running{}
	src, err := conn.OpenSource(&protocols.SourceConfig{Tags: []protocols.Tag{{Name: "plant/a", Address: "ns=2;s=A"}}}, &h.Health)
	if err != nil {
		t.Fatal(err)
	}
	s := src.(*source)
	for range 3 {
		s.take(s.items[0], overflown(7), time.Now())
	}
	if len(s.batch) != 3 || s.batch[2].Value != sample.IntValue(7) || s.overflow != 3 {
		t.Errorf("batch %v, overflow %d", s.batch, s.overflow)
	}
	if lines := l.all(); len(lines) != 1 || !strings.Contains(lines[0], "queue_size") {
		t.Errorf("log %q", lines)
	}
}

// The mark of a server that dropped values reaches the gateway, which declares
// them lost by it.
func TestOverflowComesOverTheWire(t *testing.T) {
	sim := startSim(t, opcuasim.Options{})
	id := add(t, sim, "a", int32(1))
	r := run(t, testConfig(sim.URL()), source1(map[string]string{"plant/a": id}), nil)
	r.until(t, "the first value", func(s sample.Sample) bool { return s.Value == sample.IntValue(1) && !s.Quality.Overflow() })
	sim.SetOverflown("a", int32(7), time.Now())
	r.until(t, "the marked value", func(s sample.Sample) bool {
		return s.Value == sample.IntValue(7) && s.Quality.Overflow() && s.Quality.IsGood()
	})
	sim.Set("a", int32(8), time.Now())
	r.until(t, "the value after it", func(s sample.Sample) bool { return s.Value == sample.IntValue(8) && !s.Quality.Overflow() })
}

func TestCheck(t *testing.T) {
	sim := startSim(t, opcuasim.Options{})
	good, array := add(t, sim, "a", int32(1)), add(t, sim, "array", []int32{1})
	conn := open(t, testConfig(sim.URL()), new(logs))
	errs := conn.Check(t.Context(), &protocols.SourceConfig{Tags: []protocols.Tag{
		{Name: "plant/a", Address: good, Type: "int32"}, {Name: "plant/typed", Address: good, Type: "double"},
		{Name: "plant/array", Address: array}, {Name: "plant/none", Address: good + "x"}, {Name: "plant/lost", Address: "nsu=urn:x;s=a"},
	}})
	want := []string{"tag plant/typed: node " + good + " is a", "tag plant/array: node " + array, "tag plant/none: node " + good + "x: ", "tag plant/lost: the server has no namespace urn:x"}
	if len(errs) != len(want) {
		t.Fatalf("got %v", errs)
	}
	for i, err := range errs {
		if !strings.HasPrefix(err.Error(), want[i]) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s…", err, want[i])
		}
	}
	sim.Stop()
	if errs := conn.Check(t.Context(), source1(map[string]string{"plant/a": good})); len(errs) != 1 || !strings.Contains(errs[0].Error(), sim.URL()) {
		t.Errorf("without a server: %v", errs)
	}
}

// A publish may carry several samplings of a tag.
func TestSamplingIsTheScanRateWhateverThePublishingIntervalIs(t *testing.T) {
	cfg := testConfig("opc.tcp://plc")
	src := &protocols.SourceConfig{ScanRate: 100 * time.Millisecond, Tags: []protocols.Tag{
		{Name: "plant/a", Address: "i=1"}, {Name: "plant/b", Address: "i=2", ScanRate: 20 * time.Millisecond},
	}}
	for _, c := range []struct{ set, want time.Duration }{{0, 100 * time.Millisecond}, {time.Second, time.Second}} {
		cfg.PublishingInterval = c.set
		opened, err := open(t, cfg, new(logs)).OpenSource(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := opened.(*source)
		if s.interval != c.want || s.items[0].sampling != 100*time.Millisecond || s.items[1].sampling != 20*time.Millisecond {
			t.Errorf("publishing %s, sampling %s and %s", s.interval, s.items[0].sampling, s.items[1].sampling)
		}
		if r := s.request(s.items[1].address.id, 2, s.items[1].sampling).RequestedParameters; r.SamplingInterval != 20 || r.QueueSize != 10 || !r.DiscardOldest {
			t.Errorf("asked for %+v", r)
		}
	}
}
