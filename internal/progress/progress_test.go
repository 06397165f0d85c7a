package progress

import (
	"strings"
	"sync"
	"testing"
	"time"
)

type hand struct{ t time.Time }

func (h *hand) Now() time.Time { return h.t }

func TestOneLineAMinute(t *testing.T) {
	var b strings.Builder
	clock := &hand{time.Unix(0, 0)}
	m := New(&b, "audit", 180<<20, clock)
	for range 150 {
		clock.t = clock.t.Add(time.Second)
		m.Add(1 << 20)
	}
	m.Done()
	want := "audit: 33 % of 180MiB read, 1MiB/s, 2m0s left\naudit: 67 % of 180MiB read, 1MiB/s, 1m0s left\n"
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
}

func TestInPlace(t *testing.T) {
	var b strings.Builder
	clock := &hand{time.Unix(0, 0)}
	m := New(&b, "audit", 0, clock)
	m.inPlace = true
	for range 4 {
		clock.t = clock.t.Add(250 * time.Millisecond)
		m.Add(1 << 20)
	}
	m.Done()
	if want := "\r\x1b[Kaudit: 2MiB read, 4MiB/s\r\x1b[Kaudit: 4MiB read, 4MiB/s\r\x1b[K"; b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
}

func TestPhases(t *testing.T) {
	var b strings.Builder
	clock := &hand{time.Unix(0, 0)}
	m := New(&b, "archive", 0, clock)
	clock.t = clock.t.Add(time.Minute)
	m.Add(60 << 20)
	m.Phase("written", "samples", 400_000)
	clock.t = clock.t.Add(time.Minute)
	var adding sync.WaitGroup
	for range 100 {
		adding.Go(func() { m.Add(1000) })
	}
	adding.Wait()
	clock.t = clock.t.Add(time.Minute)
	m.Add(0)
	m.Done()
	want := "archive: 60MiB read, 1MiB/s\narchive: 0 % of 400000 samples written, 16.7/s, 6h39m0s left\narchive: 25 % of 400000 samples written, 833/s, 6m0s left\n"
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
}
