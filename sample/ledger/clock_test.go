package ledger

import (
	"math"
	"testing"
	"time"

	"millrace/sample"
)

func TestCorrection(t *testing.T) {
	want := &Correction{
		ID: 3, Epoch: "0000000000000007", Boot: [16]byte{1, 2}, Cause: ClockSynchronised,
		Offset: 1_777_777_777_123_456_789, From: 10e9, To: 20e9, Step: -5,
	}
	v, err := want.Sample(ClockTag("s", "g"), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if v.Tag != "s/g/$clock" || v.Producer != "clock/0000000000000007/01020000000000000000000000000000" || v.Seq != 3 {
		t.Errorf("%+v", v)
	}
	got, err := ParseCorrection(&v)
	if err != nil || *got != *want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for text, bad := range map[string]sample.Value{
		"no string": sample.IntValue(1), "no JSON": sample.StringValue("{"), "no boot": sample.StringValue(`{"boot":"12"}`),
	} {
		if _, err := ParseCorrection(&sample.Sample{Value: bad}); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

func TestCorrect(t *testing.T) {
	boot := [16]byte{9}
	c := &Correction{Boot: boot, Offset: 1000e9, From: 10e9, To: 20e9}
	const mono = int64(-500e9) // what was added before
	for _, x := range []struct {
		boot [16]byte
		m    int64 // monotonic clock
		ok   bool
	}{
		{boot, 10e9, true}, {boot, 20e9, true}, {boot, 15e9 + 1, true}, {boot, 9e9, false}, {boot, 21e9, false},
		{boot, 10e9 - 1e6, true}, {[16]byte{8}, 15e9, false}, {[16]byte{}, 15e9, false},
	} {
		got, ok := c.Correct(x.boot, mono, x.m+mono)
		want := x.m + c.Offset
		if !x.ok {
			want = x.m + mono
		}
		if ok != x.ok || got != want {
			t.Errorf("at %d: %d, %v; want %d, %v", x.m, got, ok, want, x.ok)
		}
	}
	far := &Correction{Boot: boot, Offset: math.MaxInt64, From: 0, To: math.MaxInt64}
	if _, ok := far.Correct(boot, 0, 1); ok {
		t.Error("corrected beyond int64")
	}
}
