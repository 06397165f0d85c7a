package pipeline

import (
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
)

func TestWeeks(t *testing.T) {
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 28, 2, 0, 0, 0, time.UTC) // a Saturday of week 48
	put := func(table string, items int, late ...string) {
		t.Helper()
		s := manifest.NewSum()
		for i := range items {
			s.Add("north#gw1#s0001", strings.Repeat("x", i+1), 7, 1)
		}
		if err := manifest.Write(t.Context(), place, manifest.New(table, now, s, []manifest.File{{Key: "a", Bytes: 1, Rows: int64(items), SHA256: strings.Repeat("0", 64)}}, late)); err != nil {
			t.Fatal(err)
		}
	}
	object := func(key string) {
		t.Helper()
		if err := place.Put(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	rows := []tables.Row{
		{Table: "plant-samples-2026-w49"}, {Table: "plant-samples-2026-w48", Items: 3}, {Table: "plant-samples-2026-w47", Items: 3},
		{Table: "plant-samples-2026-w46", Items: 3}, {Table: "plant-samples-2026-w45", Items: 4}, {Table: "plant-samples-2026-w44", Items: 3},
		{Table: "plant-samples-2026-w43", Items: 3}, {Table: "plant-samples-unplaced", Items: 9}, {Table: "plantb-samples-2026-w48"},
	}
	put("plant-samples-2026-w48", 3)
	put("plant-samples-2026-w47", 3)
	put("plant-samples-2026-w46", 3)                                  // as it was
	put("plant-samples-2026-w45", 3)                                  // one more has come
	put("plant-samples-2026-w44", 3, "late/plant-samples-2026-w44/a") // nothing new is late
	object("late/plant-samples-2026-w44/a")
	put("plant-samples-2026-w30", 3, "late/plant-samples-2026-w30/a") // retired, and something new is late
	object("late/plant-samples-2026-w30/a")
	object("late/plant-samples-2026-w30/b")
	put("plant-samples-2026-w31", 3) // retired
	object("late/plant-samples-2026-w29/a")
	object("late/plantb-samples-2026-w28/a")
	got, err := Weeks(t.Context(), rows, place, "plant", 2, now)
	if want := []string{"2026-w29", "2026-w30", "2026-w43", "2026-w45", "2026-w47", "2026-w48"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	got, err = Weeks(t.Context(), rows, place, "plant", 1, now)
	if err != nil || slices.Contains(got, "2026-w47") || !slices.Contains(got, "2026-w48") {
		t.Errorf("%v, %v", got, err)
	}
	object("manifests/plant-samples-2026-w46.json")
	if got, err = Weeks(t.Context(), rows, place, "plant", 2, now); err != nil || !slices.Contains(got, "2026-w46") {
		t.Errorf("half a manifest: %v, %v", got, err)
	}
	// Week 45 ended on Monday, 9 November.
	if got := Retirable(rows, "plant", 2*week, time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)); !slices.Equal(got, []string{"2026-w43", "2026-w44", "2026-w45"}) {
		t.Errorf("%v", got)
	}
	if got := Retirable(rows, "plant", 2*week, time.Date(2026, 11, 23, 23, 59, 0, 0, time.UTC)); !slices.Equal(got, []string{"2026-w43", "2026-w44"}) {
		t.Errorf("%v", got)
	}
}
