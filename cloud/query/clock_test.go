package query

import (
	"testing"
	"time"

	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// TestCorrectedTimes: a gateway without a clock battery ran from 1970 until its
// clock was set, and its samples went up with those times. They stand where they
// belong, once, and not where they were sent; a second record of the same boot
// counts where both are for a sample.
func TestCorrectedTimes(t *testing.T) {
	r := newRig(t, awssim.Options{})
	r.weeks(sunday, monday)
	r.table(weektable.Unplaced(prefix))
	c := r.catalogue()
	r.told(c, "s0001", "plc", "kW", power, flow)

	boot := [16]byte{1, 2, 3}
	wrong := func(after time.Duration) time.Time { return time.Unix(1000, 0).Add(after) } // 1970
	right := sunday.Add(30 * time.Minute)
	free := block.Header{Boot: boot, Mono: wrong(0).Add(-100 * time.Second).UnixNano(), Clock: block.ClockFree}
	doubt := func(tag string, after time.Duration, v float64) sample.Sample {
		s := reading(tag, wrong(after), v)
		s.Quality = sample.Uncertain
		return s
	}
	// Of the device's own time nothing moves; the gateway's is set right.
	own := doubt(flow, time.Minute, 50)
	own.SourceTime = right.Add(time.Minute).UnixNano()
	b := r.pack("s0001", free, doubt(power, 0, 1), doubt(power, time.Minute, 2), doubt(power, 2*time.Minute, 3))
	r.putInto(weektable.Unplaced(prefix), b)
	r.put(r.pack("s0001", free, own))
	// The next block has the right time already: its clock was set.
	set := block.Header{Boot: boot, Mono: right.Add(-100 * time.Second).UnixNano(), Clock: block.ClockSynced}
	r.put(r.pack("s0001", set, reading(power, right.Add(5*time.Minute), 4)))

	mono := int64(100 * time.Second)
	record := func(id uint64, offset time.Time, from, to time.Duration, step time.Duration) sample.Sample {
		k := ledger.Correction{ID: id, Epoch: "0000000000000007", Boot: boot, Cause: ledger.ClockSynchronised, Offset: offset.UnixNano() - mono, From: mono + int64(from), To: mono + int64(to), Step: int64(step)}
		s, err := k.Sample(ledger.ClockTag("north", "gw1"), monday.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := record(1, right.Add(-10*time.Second), 0, 2*time.Minute, right.Add(-10*time.Second).Sub(wrong(0)))
	second := record(2, right, time.Minute, 2*time.Minute, 10*time.Second)
	r.put(r.pack(ledger.SystemStream, block.Header{}, first, second))

	q := Request{Tags: []string{"north/boiler/*"}, From: sunday, To: monday.Add(time.Hour)}
	want := []string{"22:29:50 boiler/power 1", "22:31:00 boiler/flow 50", "22:31:00 boiler/power 2", "22:32:00 boiler/power 3", "22:35:00 boiler/power 4"}
	for name, s := range map[string]Store{"tables": {Tables: r.db, Prefix: prefix, Catalogue: c}, "files": {Dir: r.files()}} {
		a := ask(t, s, q)
		expect(t, a, want...)
		if a.Corrected != 3 || a.Problems != 0 || !a.rows[0].Quality.IsUncertain() || a.rows[1].Time != right.Add(time.Minute).UnixNano() {
			t.Errorf("%s: %+v, %q, %+v", name, a.Report, a.problems, a.rows)
		}
		// A part of the range has its part of them.
		part := q
		part.From, part.To = right.Add(time.Minute), right.Add(2*time.Minute)
		expect(t, ask(t, s, part), want[1], want[2])
		// As they were sent, they are elsewhere.
		raw := q
		raw.Raw = true
		expect(t, ask(t, s, raw), want[1], want[4])
		// Where they were sent, they are not any more.
		old := q
		old.From, old.To = time.Unix(0, 0), time.Unix(86400, 0)
		if a := ask(t, s, old); len(a.rows) != 0 {
			t.Errorf("%s: %q at the time of sending", name, a.times())
		}
		old.Raw = true
		if a := ask(t, s, old); name == "files" && len(a.rows) != 3 {
			t.Errorf("%s: %q as sent", name, a.times())
		}
	}
}

// A record of another gateway, or of a boot that nobody had, moves nothing.
func TestForeignCorrections(t *testing.T) {
	var c corrections
	c.byBoot = map[[16]byte][]correction{}
	k := &ledger.Correction{ID: 1, Boot: [16]byte{1}, Offset: 1e18, From: 0, To: 1e9}
	c.add("north", "gw2", k)
	c.add("north", "gw2", k)
	if n := len(c.byBoot[[16]byte{1}]); n != 1 {
		t.Errorf("a record that comes twice is %d", n)
	}
	h := block.Header{Site: "north", Gateway: "gw1", Boot: [16]byte{1}}
	if at, ok := c.right(&h, 5); ok || at != 5 {
		t.Error("another gateway's record counts")
	}
	h.Gateway = "gw2"
	if at, ok := c.right(&h, 5); !ok || at != 5+1e18 {
		t.Errorf("%d, %v", at, ok)
	}
	if w := c.where("north", "gw1", window{0, 2e18}); w != nil {
		t.Errorf("%v", w)
	}
	var none *corrections
	if at, ok := none.right(&h, 5); ok || at != 5 || none.where("north", "gw2", window{0, 1}) != nil {
		t.Error("no records at all move something")
	}
}
