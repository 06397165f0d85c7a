package analysis

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"millrace/cloud/lake"
	"millrace/cloud/objects"
)

// maxCatalogue bounds a catalogue file that is read.
const maxCatalogue = 256 << 20

// digests are hashes of what the results read of a catalogue file, by result. A
// catalogue changes with every tag that is new; a file's own hash would make the
// energy of all years due for a new thermometer.
func digests(ctx context.Context, place objects.Place, key string) (map[string]string, error) {
	data, err := objects.Read(ctx, place, key, maxCatalogue)
	if err != nil {
		return nil, err
	}
	var entries []lake.Entry
	err = lake.ReadCatalogue(bytes.NewReader(data), int64(len(data)), func(e *lake.Entry) error {
		entries = append(entries, *e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return digestsOf(entries), nil
}

func digestsOf(entries []lake.Entry) map[string]string {
	// As energy.sql orders them: the newest of a tag comes first.
	slices.SortFunc(entries, func(a, b lake.Entry) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), b.Since.Compare(a.Since), cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Stream, b.Stream))
	})
	var energy, availability, anomaly []string
	for i, e := range entries {
		if e.Counter && (i == 0 || entries[i-1].Tag != e.Tag) {
			energy = append(energy, fmt.Sprintf("%q %q %v", e.Tag, e.Unit, e.CounterMax))
		}
		if e.Counter {
			anomaly = append(anomaly, e.Tag)
		}
		availability = append(availability, fmt.Sprintf("%q %q %q %q", e.Gateway, e.Tag, e.Stream, e.Source))
	}
	out := map[string]string{}
	for name, list := range map[string][]string{"energy": energy, "availability": availability, "anomaly": anomaly} {
		slices.Sort(list)
		sum := sha256.Sum256(fmt.Appendf(nil, "%q", slices.Compact(list)))
		out[name] = hex.EncodeToString(sum[:])
	}
	return out
}
