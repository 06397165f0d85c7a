//go:build duckdb

package main

import (
	"strings"
	"testing"

	"millrace/internal/command"
)

// TestDemoBalances runs the whole loop with DuckDB.
func TestDemoBalances(t *testing.T) {
	code, stdout, stderr := invokeAll(t, "demo", "--duration", "10s")
	if code != command.ExitOK || !strings.Contains(stdout, "every stage balances") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
}
