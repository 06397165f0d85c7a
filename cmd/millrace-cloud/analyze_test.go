//go:build duckdb

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/cloud/analysis/analysistest"
	"millrace/cloud/objects"
	"millrace/internal/command"
)

// TestAnalyze runs the command on an archive in a folder, twice.
func TestAnalyze(t *testing.T) {
	archive, work := t.TempDir(), t.TempDir()
	place, err := objects.Parse(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	plant := analysistest.Plant{First: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Days: 3, Sites: []string{"north"}, Devices: 2, Every: 10 * time.Minute}
	if _, err := plant.Write(context.Background(), place); err != nil {
		t.Fatal(err)
	}
	args := []string{"analyze", "--archive", archive, "--work", work, "--from", "2026-11-02", "--to", "2026-11-02", "--memory", "256MiB", "--threads", "1"}
	code, stdout, stderr := invokeAll(t, args...)
	if code != command.ExitOK || !strings.Contains(stdout, "hourly: 2 days computed, ") || !strings.Contains(stdout, "kpi: 1 days computed, 2 rows; 0 days as they were\n") {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(filepath.Join(archive, "results/kpi/date=2026-11-02/part-00000.parquet")); err != nil {
		t.Error(err)
	}
	code, stdout, stderr = invokeAll(t, append(args, "--result", "kpi", "--result", "anomaly")...)
	if code != command.ExitOK || !strings.Contains(stdout, "kpi: 0 days computed, 0 rows; 1 days as they were\n") {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
	if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}
