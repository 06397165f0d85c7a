package analysis

import (
	"context"
	"testing"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

func TestComputed(t *testing.T) {
	p, err := objects.Parse(t.TempDir(), nil)
	must(t, err)
	st := &state{place: p, months: map[string]*month{}}
	first, second := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	must(t, st.set(context.Background(), "hourly", first, made{Inputs: "a", Rows: 24, Bytes: 900, SHA256: "cc"}))
	must(t, st.set(context.Background(), "hourly", second, made{Inputs: "b"}))
	must(t, st.set(context.Background(), "kpi", second, made{Inputs: "b", Rows: 1}))
	must(t, p.Put(context.Background(), "results/state/hourly/readme.txt", []byte("{")))
	got, err := Computed(context.Background(), p, "hourly")
	must(t, err)
	if len(got) != 2 || got[result.Key("hourly", first, 0)] != (File{Rows: 24, Bytes: 900, SHA256: "cc"}) || got[result.Key("hourly", second, 0)] != (File{}) {
		t.Errorf("%+v", got)
	}
}
