package truth

import (
	"testing"
	"time"

	"millrace/sample"
)

const tag = "site/dev/a"

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// polled makes n events a second apart and the samples that deliver them.
func polled(n int) (*Log, []sample.Sample) {
	l := NewLog()
	var got []sample.Sample
	for i := range n {
		at := start.Add(time.Duration(i) * time.Second)
		l.Sent(tag, Event{Value: sample.IntValue(int64(1000 + i)), From: at, To: at.Add(2 * time.Millisecond)})
		got = append(got, sample.Sample{Tag: tag, Value: sample.IntValue(int64(1000 + i)), Time: at.Add(3 * time.Millisecond).UnixNano()})
	}
	return l, got
}

func check(t *testing.T, r Result, delivered, missing, duplicates, wrong, bad int) {
	t.Helper()
	if r.Delivered != delivered || r.Missing != missing || r.Duplicates != duplicates || r.Wrong != wrong || r.Bad != bad {
		t.Errorf("delivered %d missing %d duplicates %d wrong %d bad %d; want %d %d %d %d %d\n%q",
			r.Delivered, r.Missing, r.Duplicates, r.Wrong, r.Bad, delivered, missing, duplicates, wrong, bad, r.Findings)
	}
}

func TestPolled(t *testing.T) {
	t.Run("exact", func(t *testing.T) {
		l, got := polled(10)
		check(t, l.Compare(got), 10, 0, 0, 0, 0)
	})
	t.Run("dropped", func(t *testing.T) {
		l, got := polled(10)
		check(t, l.Compare(append(got[:4:4], got[5:]...)), 9, 1, 0, 0, 0)
	})
	t.Run("doubled", func(t *testing.T) {
		l, got := polled(10)
		check(t, l.Compare(append(got[:5:5], got[4:]...)), 10, 0, 1, 0, 0)
	})
	t.Run("swapped", func(t *testing.T) {
		l, got := polled(10)
		got[4].Value, got[5].Value = got[5].Value, got[4].Value
		if r := l.Compare(got); r.Wrong == 0 {
			t.Errorf("a swap passed: %+v", r)
		}
	})
	t.Run("delayed", func(t *testing.T) {
		l, got := polled(10)
		got[9].Time += int64(5 * time.Second)
		check(t, l.Compare(got), 9, 0, 0, 1, 0)
	})
	t.Run("invented", func(t *testing.T) {
		l, got := polled(10)
		check(t, l.Compare(append(got, sample.Sample{Tag: "site/dev/b", Value: sample.IntValue(1)})), 10, 0, 0, 1, 0)
	})
	t.Run("bad", func(t *testing.T) {
		l, got := polled(10)
		bad := sample.Sample{Tag: tag, Quality: sample.BadTimeout, Time: start.UnixNano()}
		check(t, l.Compare(append([]sample.Sample{bad}, got...)), 10, 0, 0, 0, 1)
		bad.Value = sample.IntValue(0)
		check(t, l.Compare(append([]sample.Sample{bad}, got...)), 10, 0, 0, 1, 1)
	})
	t.Run("nothing", func(t *testing.T) {
		l, _ := polled(10)
		check(t, l.Compare(nil), 0, 10, 0, 0, 0)
	})
}

func TestKeyed(t *testing.T) {
	l := NewLog()
	var got []sample.Sample
	for i := range 5 {
		at := start.Add(time.Duration(i) * time.Second)
		e := Event{Value: sample.FloatValue(float64(i)), From: at, To: at, Key: SourceKey(at.UnixNano())}
		l.Sent(tag, e)
		l.Sent(tag, e) // sent again
		got = append(got, sample.Sample{Tag: tag, Value: e.Value, Time: at.UnixNano(), SourceTime: at.UnixNano()})
	}
	check(t, l.Compare(got), 5, 0, 0, 0, 0)
	check(t, l.Compare(append(got, got[2])), 5, 0, 0, 0, 0)
	check(t, l.Compare(got[1:]), 4, 1, 0, 0, 0)
	got[3].Value = sample.FloatValue(99)
	check(t, l.Compare(got), 4, 0, 0, 1, 0)
}
