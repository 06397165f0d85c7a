package analysis

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

// failing is a Local that reads nothing.
type failing struct{ cancel func() }

func (f failing) Compute(context.Context, Query) (int64, error) {
	if f.cancel != nil {
		f.cancel()
	}
	return 0, errors.New("no magic bytes")
}

// TestBrokenFileIsNamed, by its key and with what brings it back, and only where a
// file is at fault.
func TestBrokenFileIsNamed(t *testing.T) {
	const samples, hourly, catalogue = "samples/site=north/date=2026-11-02/part-00000.parquet", "results/hourly/date=2026-11-02/part-00000.parquet", "catalogue/site=north/part-00000.parquet"
	whole := "PAR1" + "footer" + "\x06\x00\x00\x00" + "PAR1"
	for _, c := range []struct {
		key, data, want string // "": no file is at fault
	}{
		{samples, whole, ""},
		{samples, whole[:len(whole)-3], samples + " of PLACE is no whole Parquet file: archive the week again (`millrace-cloud archive 2026-w45`) while its table is there, or restore the file (no magic bytes)"},
		{samples, "", "archive the week again"},
		{samples, whole[1:], "archive the week again"},
		{samples, "PAR1" + "\x06\x00\x00\x00" + "PAR1", "archive the week again"}, // the footer has no room
		{hourly, whole[:8], "delete it and run the analysis again"},
		{catalogue, whole[:8], "archive a week again"},
	} {
		dir := t.TempDir()
		place, err := objects.Parse(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := place.Put(t.Context(), c.key, []byte(c.data)); err != nil {
			t.Fatal(err)
		}
		res, err := result.Named("hourly")
		if err != nil {
			t.Fatal(err)
		}
		m := &Machine{Place: place, Local: failing{}, Dir: filepath.Join(dir, "work")}
		steps := []Step{{Result: res, Day: day(2), Inputs: []Input{{View: Samples, Site: "north", Key: c.key, Size: int64(len(c.data))}}}}
		err = m.Compute(t.Context(), steps, nil)
		var broken *BrokenError
		if errors.As(err, &broken) != (c.want != "") || !strings.Contains(err.Error(), strings.Replace(c.want, "PLACE", dir, 1)) {
			t.Errorf("%s, %q: %v", c.key, c.data, err)
		}
		// An interruption is none of the file's.
		ctx, cancel := context.WithCancel(t.Context())
		m.Local = failing{cancel}
		if err := m.Compute(ctx, steps, nil); errors.As(err, &broken) {
			t.Errorf("interrupted: %v", err)
		}
	}
	if !wholeParquet(filepath.Join(t.TempDir(), "no")) {
		t.Error("a file that is not there is taken for a broken one")
	}
}
