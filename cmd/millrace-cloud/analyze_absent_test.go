//go:build !duckdb

package main

import (
	"os"
	"strings"
	"testing"

	"millrace/internal/command"
)

// Without DuckDB in the binary, analyze says where to get one that has it, and
// leaves nothing in its work directory.
func TestAnalyzeWithoutDuckDB(t *testing.T) {
	work := t.TempDir()
	code, stdout, stderr := invokeAll(t, "analyze", "--archive", t.TempDir(), "--work", work)
	if code != command.ExitFailed || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "build one that has it with `make cloud`") {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}
