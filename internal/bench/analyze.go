package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// analyze measures `millrace-cloud analyze` of an archive: all results of all its
// days by DuckDB, and once more when nothing is due. DuckDB is linked by cgo, and
// so in a binary of its own.
func (b *bench) analyze(archive string) ([]figure, error) {
	const name = "all results of them"
	cc, err := exec.CommandContext(b.ctx, "go", "env", "CC").Output()
	if err != nil {
		return nil, fmt.Errorf("go env CC: %w", err)
	}
	words := strings.Fields(string(cc))
	if len(words) == 0 {
		return []figure{{name: name, missing: "skipped: no C compiler"}}, nil
	}
	if _, err := exec.LookPath(words[0]); err != nil {
		return []figure{{name: name, missing: "skipped: no C compiler"}}, nil //nolint:nilerr // it is said in the table
	}
	binary := filepath.Join(b.dir, "millrace-cloud-duckdb")
	build := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-tags", "duckdb", "-o", binary, "./cmd/millrace-cloud")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=1"), os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build with DuckDB: %w", err)
	}
	run := func() (took time.Duration, memory float64, err error) {
		cmd := exec.CommandContext(b.ctx, binary, "analyze", "--archive", archive, "--threads", "2", "--work", filepath.Join(b.dir, "analyze-work"))
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, 0, err
		}
		peak := watchPeak(cmd.Process.Pid)
		if err := cmd.Wait(); err != nil {
			return 0, 0, fmt.Errorf("%w: %s", err, text.String())
		}
		return time.Since(began), peak(), nil
	}
	first, memory, err := run()
	if err != nil {
		return nil, err
	}
	again, _, err := run()
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: name, measured: first.Seconds(), unit: "s", bar: 60, note: "analyze by DuckDB, --memory 1GiB, 2 threads"},
		{name: "  resident memory", measured: memory, unit: "MB", note: "peak"},
		{name: "  when nothing is due", measured: again.Seconds(), unit: "s", bar: 1},
	}, nil
}
