package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/sim/modbussim"
	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// rig is a source whose scans the test starts itself.
type rig struct {
	*source
	out    protocolstest.Collector
	health protocolstest.HealthRecorder
	log    bytes.Buffer
}

// newRig opens a source with tags at the addresses, named t0, t1 and so on.
func newRig(t testing.TB, cfg *Config, tags ...protocols.Tag) *rig {
	t.Helper()
	for i := range tags {
		tags[i].Name = fmt.Sprintf("plant/dev/t%d", i)
	}
	r := &rig{}
	s := protocolstest.Settings()
	s.Log = slog.New(slog.NewTextHandler(&r.log, nil))
	conn, err := cfg.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	src, err := conn.OpenSource(&protocols.SourceConfig{Name: "dev", ScanRate: time.Second, Tags: tags}, &r.health)
	if err != nil {
		t.Fatal(err)
	}
	r.source = src.(*source)
	return r
}

// scanAll scans every rate once and returns the samples as "t0=1 t1=Bad…".
func (r *rig) scanAll(t testing.TB) string {
	t.Helper()
	r.out.Reset()
	for _, rate := range r.rates {
		if err := r.scan(context.Background(), rate, r.out.Emit); err != nil {
			t.Fatal(err)
		}
	}
	var parts []string
	for _, s := range r.out.Samples() {
		value := s.Value.String()
		if !s.Quality.IsGood() {
			value = s.Quality.String()
		}
		parts = append(parts, strings.TrimPrefix(s.Tag, "plant/dev/")+"="+value)
	}
	return strings.Join(parts, " ")
}

func addresses(list ...string) []protocols.Tag {
	var tags []protocols.Tag
	for _, a := range list {
		tags = append(tags, protocols.Tag{Address: a})
	}
	return tags
}

func TestOneBadRegisterDoesNotPoisonItsNeighbours(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Exceptions: []modbussim.ExceptionRange{
		{Table: modbussim.Holding, From: 12, To: 12, Code: modbussim.IllegalDataAddress}}})
	var list []string
	want := ""
	for i := range 8 {
		list = append(list, fmt.Sprintf("holding:%d", 10+i))
		value := fmt.Sprint(10 + i)
		if i == 2 {
			value = "BadConfigurationError"
		}
		want += fmt.Sprintf(" t%d=%s", i, value)
	}
	want = want[1:]
	r := newRig(t, testConfig(sim), addresses(list...)...)

	if got := r.scanAll(t); got != want {
		t.Errorf("first scan:\ngot  %s\nwant %s", got, want)
	}
	// 8, 4, 2, 1 bad, and the halves that are good: 2*log2(8)+1.
	if n := sim.Requests(); n != 7 {
		t.Errorf("the first scan took %d requests, want 7", n)
	}
	if got := r.scanAll(t); got != want {
		t.Errorf("second scan: %s", got)
	}
	if n := sim.Requests() - 7; n != 4 {
		t.Errorf("the second scan took %d requests, want 4: the halves are remembered", n)
	}
	changes := r.health.Changes()
	if len(changes) != 1 || changes[0] == nil {
		t.Fatalf("health changes: %v", changes)
	}
	for _, piece := range []string{"partly: 1 of 8 tags", "plant/dev/t2", "exception 2", "address_base"} {
		if !strings.Contains(changes[0].Error(), piece) {
			t.Errorf("message %q lacks %q", changes[0], piece)
		}
	}

	// The register appears: the joined read is tried again once it is time.
	sim.SetFaults(modbussim.Faults{})
	for _, rd := range r.rates[0].reads {
		rd.since = rd.since.Add(-rd.rejoin)
	}
	before := sim.Requests()
	good := strings.Replace(want, "BadConfigurationError", "12", 1)
	if got := r.scanAll(t); got != good {
		t.Errorf("after the repair: %s", got)
	}
	if n := sim.Requests() - before; n != 1 {
		t.Errorf("%d requests after the repair, want 1", n)
	}
	if !r.health.IsUp() {
		t.Error("the source is not up after the repair")
	}
}

func TestRejoiningIsBounded(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Exceptions: []modbussim.ExceptionRange{
		{Table: modbussim.Holding, From: 0, To: 100, Code: modbussim.IllegalDataValue, Joined: 1}}})
	r := newRig(t, testConfig(sim), addresses("holding:1", "holding:2")...)
	rd := r.rates[0].reads[0]
	waits := []time.Duration{}
	for range 9 {
		if got := r.scanAll(t); got != "t0=1 t1=2" {
			t.Fatal(got)
		}
		waits = append(waits, rd.rejoin)
		rd.since = rd.since.Add(-rd.rejoin)
	}
	for i, w := range waits {
		if want := min(rejoinAfter<<i, rejoinMost); w != want {
			t.Errorf("try %d: whole again after %s, want %s", i, w, want)
		}
	}
	if !r.health.IsUp() {
		t.Error("a device that takes single reads only is not down")
	}
}

func TestExceptionsAndTheirQuality(t *testing.T) {
	for code, want := range map[modbussim.Exception]string{
		modbussim.IllegalFunction:    "BadConfigurationError",
		modbussim.IllegalDataAddress: "BadConfigurationError",
		modbussim.IllegalDataValue:   "BadConfigurationError",
		modbussim.DeviceFailure:      "BadDeviceFailure",
		modbussim.DeviceBusy:         "BadDeviceFailure",
		modbussim.TargetNoResponse:   "BadNoCommunication",
	} {
		sim := startSim(t, modbussim.Options{Read: numbered})
		sim.SetFaults(modbussim.Faults{Exceptions: []modbussim.ExceptionRange{{Table: modbussim.Input, To: 65535, Code: code}}})
		r := newRig(t, testConfig(sim), addresses("holding:1", "input:2")...)
		if got := r.scanAll(t); got != "t0=1 t1="+want {
			t.Errorf("exception %d: %s", code, got)
		}
	}
}

func TestSilentSlaveCostsOneTimeoutPerScan(t *testing.T) {
	t.Parallel()
	sim := startSim(t, modbussim.Options{Read: numbered})
	cfg := testConfig(sim)
	cfg.Timeout = 200 * time.Millisecond
	r := newRig(t, cfg, addresses("1/holding:1", "7/holding:2", "7/input:3", "7/coil:4", "8/holding:5")...)
	sim.SetFaults(modbussim.Faults{Silent: map[uint8]bool{7: true}})
	want := "t0=1 t1=BadTimeout t2=BadTimeout t3=BadTimeout t4=5"
	if got := r.scanAll(t); got != want {
		t.Errorf("got %s", got)
	}
	if n := sim.Requests(); n != 3 {
		t.Errorf("%d requests, want one to each slave", n)
	}
	changes := r.health.Changes()
	if len(changes) != 1 || changes[0] == nil || !strings.Contains(changes[0].Error(), "partly: 3 of 5 tags fail") ||
		!strings.Contains(changes[0].Error(), "no answer within") {
		t.Errorf("health changes: %v", changes)
	}
}

func TestOutageIsSaidOnce(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	tags := addresses("holding:1", "input:2")
	tags[1].ScanRate = time.Hour
	r := newRig(t, testConfig(sim), tags...)
	if got := r.scanAll(t); got != "t0=1 t1=2" {
		t.Fatal(got)
	}
	sim.Stop()
	// Only the fast rate is scanned: the slow one is known to be away with it.
	for range 5 {
		if err := r.scan(t.Context(), r.rates[0], r.out.Emit); err != nil {
			t.Fatal(err)
		}
	}
	changes := r.health.Changes()
	if len(changes) != 2 || changes[1] == nil || strings.Contains(changes[1].Error(), "partly") {
		t.Fatalf("health changes: %v", changes)
	}
	if err := sim.Resume(); err != nil {
		t.Fatal(err)
	}
	r.conn.link.nextDial = time.Time{}
	if err := r.scan(t.Context(), r.rates[0], r.out.Emit); err != nil {
		t.Fatal(err)
	}
	if changes := r.health.Changes(); len(changes) != 3 || changes[2] != nil {
		t.Errorf("health changes: %v", changes)
	}
}

// TestRequestOnTheWireIsFinished: the context ends while the device is at
// work; its answer is emitted all the same, and no other request is made.
func TestRequestOnTheWireIsFinished(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	sim := startSim(t, modbussim.Options{Read: func(s uint8, tb modbussim.Table, a uint16, v []uint16) modbussim.Exception {
		cancel()
		time.Sleep(20 * time.Millisecond)
		return numbered(s, tb, a, v)
	}})
	r := newRig(t, testConfig(sim), addresses("holding:1", "input:2")...)
	if err := r.scan(ctx, r.rates[0], r.out.Emit); err != nil {
		t.Fatal(err)
	}
	got := r.out.Samples()
	if len(got) != 1 || got[0].Value != sample.IntValue(1) {
		t.Errorf("got %+v, want the value that was on the wire", got)
	}
	if n := sim.Requests(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestSlowScansAreSkippedAndSaidOnce(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Delay: 25 * time.Millisecond})
	tags := addresses("holding:1")
	tags[0].ScanRate = 10 * time.Millisecond
	r := newRig(t, testConfig(sim), tags...)
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if err := r.Run(ctx, r.out.Emit); err != nil {
		t.Fatal(err)
	}
	if n := len(r.out.Samples()); n < 4 || n > 20 {
		t.Errorf("%d scans in 400 ms at 25 ms each: ticks are queued or lost", n)
	}
	if n := strings.Count(r.log.String(), "takes longer than the scan rate"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log.String())
	}
	if r.rates[0].skipped < 4 {
		t.Errorf("%d skipped ticks are counted", r.rates[0].skipped)
	}
}

func TestTicksAreAlignedAndSpread(t *testing.T) {
	r := &rate{every: time.Second, offset: spread("boiler", time.Second)}
	now := time.Unix(1000, 0)
	first := r.after(now)
	if d := first.Sub(now); d <= 0 || d > time.Second {
		t.Fatalf("the first tick is %s away", d)
	}
	r.tick = first
	for i := 1; i < 5; i++ {
		next := r.after(r.tick.Add(3 * time.Millisecond))
		if d := next.Sub(first); d != time.Duration(i)*time.Second {
			t.Fatalf("tick %d is %s behind the first", i, d)
		}
		r.tick = next
	}
	// A restart at another moment keeps the place in the interval.
	again := &rate{every: r.every, offset: r.offset}
	if d := again.after(now.Add(10*time.Second + 123*time.Millisecond)).Sub(first); d%time.Second != 0 {
		t.Errorf("after a restart the ticks are off by %s", d%time.Second)
	}
	// A clock set back by a millisecond does not repeat the tick; one set back
	// by an hour does not stop the scans.
	if d := r.after(r.tick.Add(-time.Millisecond)).Sub(r.tick); d != time.Second {
		t.Errorf("a slewed clock: next tick after %s", d)
	}
	if d := r.after(r.tick.Add(-time.Hour)).Sub(r.tick.Add(-time.Hour)); d <= 0 || d > time.Second {
		t.Errorf("a clock that was set back: next tick after %s", d)
	}
	if spread("boiler", time.Second) == spread("mill", time.Second) {
		t.Error("two sources share their ticks")
	}
	if a, b := spread("boiler", 10*time.Millisecond), spread("mill", 10*time.Millisecond); a != b {
		t.Errorf("two fast sources wake the machine apart, at %s and %s", a, b)
	}
	slow := &rate{every: time.Hour, offset: spread("boiler", time.Hour), first: true}
	if d := slow.after(now).Sub(now); d > firstScanWithin {
		t.Errorf("at an hourly rate the first scan comes after %s", d)
	}
}

func TestEmitFailures(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	r := newRig(t, testConfig(sim), addresses("holding:1")...)
	refused := &protocols.RefusedError{Reason: "too many tags"}
	for range 3 {
		if err := r.scan(t.Context(), r.rates[0], func(context.Context, []sample.Sample, func(error)) error { return refused }); err != nil {
			t.Fatalf("a refused batch ended the source: %v", err)
		}
	}
	if n := strings.Count(r.log.String(), "too many tags"); n != 1 {
		t.Errorf("a refusal was logged %d times", n)
	}
	broken := errors.New("the spool is unusable")
	err := r.scan(t.Context(), r.rates[0], func(context.Context, []sample.Sample, func(error)) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestTwoSourcesShareALink(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	cfg := testConfig(sim)
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	outs := make([]protocolstest.Collector, 4)
	for i := range outs {
		tag := protocols.Tag{Name: fmt.Sprintf("plant/dev/s%d", i), Address: fmt.Sprintf("%d/holding:%d", i+1, 1000+i)}
		src, err := conn.OpenSource(&protocols.SourceConfig{Name: tag.Name, ScanRate: 5 * time.Millisecond, Tags: []protocols.Tag{tag}}, &protocolstest.HealthRecorder{})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := src.Run(ctx, outs[i].Emit); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range outs {
		if !outs[i].Wait(5*time.Second, func(s []sample.Sample) bool { return len(s) > 20 }) {
			t.Errorf("source %d is starved", i)
		}
	}
	cancel()
	wg.Wait()
	for i := range outs {
		for _, s := range outs[i].Samples() {
			if s.Value != sample.IntValue(int64(1000+i)) {
				t.Fatalf("source %d got %s %s", i, s.Value, s.Quality)
			}
		}
	}
	if n := sim.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// BenchmarkScan reads 20 float32 from a device in this process: the device's
// own work is part of the time.
func BenchmarkScan(b *testing.B) {
	bk := &bank{}
	var list []protocols.Tag
	for i := range 20 {
		bk.setFloat32(2*i, float32(i)*1.37+20)
		list = append(list, protocols.Tag{Address: fmt.Sprintf("holding:%d", 2*i), Type: "float32"})
	}
	sim := startSim(b, modbussim.Options{Read: bk.read})
	r := newRig(b, testConfig(sim), list...)
	discard := func(context.Context, []sample.Sample, func(error)) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if err := r.scan(context.Background(), r.rates[0], discard); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20, "ns/sample")
	if r.status != statusUp {
		b.Fatal("the device was not up")
	}
}
