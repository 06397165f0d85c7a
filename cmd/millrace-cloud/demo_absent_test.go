//go:build !duckdb

package main

import (
	"strings"
	"testing"

	"millrace/internal/command"
)

// TestDemoWithoutDuckDB holds the one line of a binary that lacks it.
func TestDemoWithoutDuckDB(t *testing.T) {
	code, stdout, stderr := invokeAll(t, "demo")
	if code != command.ExitFailed || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "this binary has no DuckDB, which computes the results: `make demo-cloud` builds one") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
}
