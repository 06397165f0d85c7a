package result

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestColumnsStay holds the columns and their order, which files and tables of
// others depend on. A new column goes to the end of its line.
func TestColumnsStay(t *testing.T) {
	want := `hourly: site text, tag text, hour timestamp, samples integer, good integer, uncertain integer, bad integer, minimum double, maximum double, mean double, first double, last double, standard_deviation double
energy: site text, tag text, hour timestamp, unit text, used double, readings integer, rollovers integer, resets integer
availability: site text, tag text, hour timestamp, good_seconds double, bad_seconds double, gap_seconds double, availability double
kpi: site text, device text, day timestamp, availability double, performance double, quality double, oee double
anomaly: site text, tag text, hour timestamp, value double, expected double, spread double, score double
`
	var b strings.Builder
	for _, r := range All() {
		var cols []string
		for _, c := range r.Columns {
			cols = append(cols, c.Name+" "+c.Type.String())
		}
		b.WriteString(r.Name + ": " + strings.Join(cols, ", ") + "\n")
	}
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestKeysAreColumns(t *testing.T) {
	for _, r := range All() {
		if r.Columns[0] != (Column{"site", Text}) || len(r.Key) != 2 {
			t.Errorf("%s: first column %v, key %v", r.Name, r.Columns[0], r.Key)
		}
		if !slices.Contains(r.Columns, Column{r.Key[0], Text}) || !slices.Contains(r.Columns, Column{r.Time(), Timestamp}) {
			t.Errorf("%s: the key %v is not among its columns", r.Name, r.Key)
		}
		if got, err := Named(r.Name); err != nil || got.Name != r.Name {
			t.Errorf("%s: %v, %v", r.Name, got, err)
		}
	}
	if _, err := Named("hurly"); err == nil || !strings.Contains(err.Error(), "hourly, energy, availability, kpi, anomaly") {
		t.Error(err)
	}
}

func TestKey(t *testing.T) {
	day := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	key := Key("hourly", day.Add(23*time.Hour), 0)
	if key != "results/hourly/date=2026-11-28/part-00000.parquet" {
		t.Error(key)
	}
	if name, d, part, ok := ParseKey(key); !ok || name != "hourly" || !d.Equal(day) || part != 0 {
		t.Error(name, d, part, ok)
	}
	for _, bad := range []string{"", "results/state.json", "results/hourly/date=2026-11-28/part-0.parquet", "results/hourly/2026-11-28/part-00000.parquet",
		"samples/site=a/date=2026-11-28/part-00000.parquet", "results/hourly/date=2026-13-28/part-00000.parquet",
		"results/hourly/date=2026-11-28/part-00000.parquet.tmp", "results/a/hourly/date=2026-11-28/part-00000.parquet"} {
		if _, _, _, ok := ParseKey(bad); ok {
			t.Errorf("%q is a key", bad)
		}
	}
}
