package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The outage row runs in fake time, which only a test has: its trials are runs
// of one test of this package, in processes of their own.
const (
	faultsPackage = "millrace/internal/faults"

	outageTest = "TestOutageTrial"
	outageEnv  = "MILLRACE_FAULTS_OUTAGE" // the trial's directory
	seedEnv    = "MILLRACE_FAULTS_SEED"
)

func outageRow() Row {
	return Row{
		Name: "outage", What: "no cloud for 72 h or 30 days, one scan a minute, a small bound: the bound holds, losses are declared exactly, requests and lines are few, everything left arrives in order",
		Short: 1, Medium: 8, Full: 100, Parallel: 2, Run: runOutage,
	}
}

func runOutage(ctx context.Context, t *Trial) (int, error) {
	program, err := t.testProgram(ctx, faultsPackage)
	if err != nil {
		return 1, err
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "^"+outageTest+"$", "-test.v", "-test.timeout", "20m")
	cmd.Dir = t.Dir
	cmd.Env = append(os.Environ(), outageEnv+"="+t.Dir, fmt.Sprintf("%s=%d", seedEnv, t.Seed))
	if t.Form == Short {
		cmd.Args = append(cmd.Args, "-test.short")
	}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	for _, line := range strings.Split(text, "\n") {
		t.Logf("%s", line)
	}
	if err != nil {
		return 1, fmt.Errorf("%w: %s", err, failureOf(text))
	}
	if !strings.Contains(text, "--- PASS: "+outageTest) {
		return 1, fmt.Errorf("%s did not run: %s", outageTest, text)
	}
	return 1, nil
}

// failureOf is the first thing that a test said beside its log.
func failureOf(text string) string {
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, "_test.go:") && !strings.Contains(line, "log:") {
			return strings.TrimSpace(line)
		}
	}
	return text[max(0, len(text)-500):]
}

// testProgram is a package's test program: this one, or one that is built.
func (b *Bench) testProgram(ctx context.Context, of string) (string, error) {
	if of == faultsPackage && strings.HasSuffix(b.self, ".test") {
		return b.self, nil
	}
	b.building.Lock()
	defer b.building.Unlock()
	path := filepath.Join(b.disk, filepath.Base(of)+".test")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", path, of)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.Join(fmt.Errorf("build the test program of %s: %w: %s", of, err, stderr.String()), os.RemoveAll(path))
	}
	return path, nil
}
