package weektable

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"millrace/sample/block"
)

func TestTableUsesTheISOWeekInUTC(t *testing.T) {
	east := time.FixedZone("east", 14*3600)
	for text, want := range map[string]string{
		"2026-11-23T00:00:00Z": "p-samples-2026-w48",
		"2026-11-22T23:59:59Z": "p-samples-2026-w47",
		"2024-12-30T00:00:00Z": "p-samples-2025-w01", // the ISO year is ahead
		"2027-01-03T23:59:59Z": "p-samples-2026-w53", // and behind
		"2021-01-03T12:00:00Z": "p-samples-2020-w53",
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Table("p", at); got != want {
			t.Errorf("Table(%s) = %s, want %s", text, got, want)
		}
		if got := Table("p", at.In(east)); got != want {
			t.Errorf("Table(%s in another zone) = %s, want %s", text, got, want)
		}
	}
}

func TestParseTableIsTheInverse(t *testing.T) {
	for day := time.Date(1999, 12, 20, 5, 0, 0, 0, time.UTC); day.Year() < 2032; day = day.AddDate(0, 0, 1) {
		name := Table("a-samples-b", day)
		prefix, start, ok := ParseTable(name)
		if !ok || prefix != "a-samples-b" {
			t.Fatalf("ParseTable(%s) = %q, %v", name, prefix, ok)
		}
		if since := day.Sub(start); since < 0 || since >= 7*24*time.Hour || start.Weekday() != time.Monday {
			t.Fatalf("%s is in %s, which starts %s", day, name, start)
		}
	}
	for _, name := range []string{"p-samples-2026-w00", "p-samples-2026-w54", "p-samples-2025-w53", "p-samples-unplaced", "-samples-2026-w01", "p-samples-2026-w1"} {
		if _, _, ok := ParseTable(name); ok {
			t.Errorf("ParseTable(%s) takes it", name)
		}
	}
}

func TestPlace(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	const year = 365 * 24 * time.Hour
	for _, c := range []struct {
		first     time.Time
		retention time.Duration
		want      string
	}{
		{now, year, "p-samples-2026-w48"},
		{now.Add(24 * time.Hour), year, "p-samples-2026-w48"},
		{now.Add(24*time.Hour + 1), year, "p-samples-unplaced"},
		{now.Add(-year), year, "p-samples-2025-w47"},
		{now.Add(-year - 1), year, "p-samples-unplaced"},
		{now.Add(-10 * year), 0, "p-samples-2016-w47"},
		{time.Unix(0, -1), 0, "p-samples-unplaced"},
	} {
		if got := Place("p", c.first.UnixNano(), now, c.retention); got != c.want {
			t.Errorf("Place(%s, %s) = %s, want %s", c.first, c.retention, got, c.want)
		}
	}
}

func TestKeysRoundTripAndSort(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	edges := []int64{math.MinInt64, math.MaxInt64, 0, -1, 1, 999_999_999, 1_000_000_000}
	var firsts []int64
	var sks []string
	for i := range 500 {
		h := block.Header{Site: "plant", Gateway: "gw1", Stream: "s0001", Epoch: r.Uint64(), Seq: r.Uint64(), First: r.Int64() - r.Int64()}
		if i < len(edges) {
			h.First = edges[i]
		}
		crc := r.Uint32()
		pk, sk := Keys(&h, crc)
		k, err := ParseKeys(pk, sk)
		if err != nil {
			t.Fatal(err)
		}
		if want := (Key{h.Site, h.Gateway, h.Stream, h.First, h.Epoch, h.Seq, crc}); k != want {
			t.Fatalf("keys come back as %+v, want %+v", k, want)
		}
		firsts, sks = append(firsts, h.First), append(sks, sk)
	}
	slices.Sort(firsts)
	slices.Sort(sks)
	for i, sk := range sks {
		if want := StartKey(firsts[i]); sk[:len(want)] != want {
			t.Fatalf("sort keys are not in the order of time: place %d has %s, want a start of %s", i, sk, want)
		}
	}
}

func TestParseKeysRefusesOtherForms(t *testing.T) {
	h := block.Header{Site: "a", Gateway: "b", Stream: "c", Epoch: 1, Seq: 2, First: 3}
	pk, sk := Keys(&h, 4)
	for _, bad := range [][2]string{
		{"a#b", sk}, {"a#b#c#d", sk}, {pk, ""}, {pk, sk + "#"}, {pk, sk[1:]}, {pk, sk + "0"},
		{pk, "2026-11-23T11:26:00Z" + sk[len(startLayout):]},
	} {
		if k, err := ParseKeys(bad[0], bad[1]); err == nil {
			t.Errorf("ParseKeys(%q, %q) = %+v, want an error", bad[0], bad[1], k)
		}
	}
}

func TestLateKey(t *testing.T) {
	h := block.Header{Site: "north plant", Gateway: "..", Stream: "s/1", First: time.Date(2026, 9, 28, 11, 26, 0, 5, time.UTC).UnixNano(), Epoch: 0x0123456789abcdef, Seq: 42}
	const want = "late/plant-samples-2026-w40/north%20plant/%../s%2F1/20260928T112600.000000005Z-0123456789abcdef-00000000000000000042-000000ff.block"
	if got := LateKey("plant", &h, 0xff); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
