package catalogue

import (
	"errors"
	"strings"
	"testing"

	"millrace/sample"
	"millrace/sample/ledger"
)

// TestNothingIsRefusedForItsKeys: a record whose names make no key of DynamoDB is
// skipped, so that it cannot hold its block for ever.
func TestNothingIsRefusedForItsKeys(t *testing.T) {
	r := newRig(t)
	r.LatestOf = []string{"*"}
	sys := blockOf(t, ledger.SystemStream, 1,
		record(t, noon, ledger.CatalogueEntry{Tag: power, Stream: strings.Repeat("s", 2000), Source: "m"}),
		record(t, noon, ledger.CatalogueEntry{Tag: energy, Stream: "s0001", Source: "m"}))
	err := r.Take(t.Context(), sys)
	var unreadable *UnreadableError
	if !errors.As(err, &unreadable) || unreadable.Count != 1 {
		t.Errorf("a stream's name of 2000 bytes: %v", err)
	}
	if err := r.Take(t.Context(), blockOf(t, "s0001", 2, value("north/", noon, sample.FloatValue(1)), value(power, noon, sample.FloatValue(1)))); err != nil {
		t.Errorf("an odd tag: %v", err)
	}
}
