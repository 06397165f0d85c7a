package analysis

import (
	"context"
	"fmt"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
)

// Computed returns what has been computed of a result, by the key of its file,
// as the state beside the results has it. A day without rows has no file, and its
// File no hash. A file that was made and whose state was not yet written is not
// told apart from the one before; it is made again.
func Computed(ctx context.Context, place objects.Place, name string) (map[string]File, error) {
	prefix := result.Prefix + "state/" + name + "/"
	st := &state{place: place, months: map[string]*month{}}
	err := place.List(ctx, prefix, func(key string, _ int64) error {
		of, err := time.Parse("2006-01", strings.TrimSuffix(strings.TrimPrefix(key, prefix), ".json"))
		if err != nil {
			return nil // not a state of ours
		}
		_, err = st.month(ctx, name, of)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what is computed of %s: %w", name, err)
	}
	out := map[string]File{}
	for _, m := range st.months {
		for date, d := range m.Days {
			if day, err := time.Parse(time.DateOnly, date); err == nil {
				out[result.Key(name, day, 0)] = File{Rows: d.Rows, Bytes: d.Bytes, SHA256: d.SHA256}
			}
		}
	}
	return out, nil
}
