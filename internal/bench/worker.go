package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// worker measures `millrace-cloud worker` by the benchmarks that stand beside its
// code: what it moves on one core and with two of it, its memory, and what the
// items cost in write units.
func (b *bench) worker() ([]figure, error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "TestWriteUnits", "-v", "-bench", ".", "-benchtime", "3000x", "./cloud/worker")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the benchmarks of cloud/worker: %w\n%s", err, out)
	}
	m := readMetrics(out)
	one, two := m["BenchmarkSlowEndpoint/one_worker Msamples/s"], m["BenchmarkSlowEndpoint/two_workers Msamples/s"]
	core, memory, units := m["BenchmarkOneCore Msamples/s"], m["BenchmarkMemory MiB"], m["units 200 tags at 1 s in 60 s blocks"]
	if min(one, two, core, memory, units) <= 0 {
		return nil, errors.New("the benchmarks of cloud/worker do not print what is looked for: see internal/bench/worker.go")
	}
	return []figure{
		{name: "one core, endpoint included", measured: core, unit: "million samples/s", bar: 5, atLeast: true, note: "blocks of 12,000 samples"},
		{name: "two workers to one, 50 ms an answer", measured: two / one, bar: 1.8, atLeast: true, note: fmt.Sprintf("%.3g and %.3g million samples/s", one, two)},
		{name: "memory", measured: memory * 1.048576, unit: "MB", bar: 100, note: "peak, blocks of 180 KiB, concurrency 16, endpoint included"},
		{name: "write units, 200 tags at 1 s", measured: units, unit: "a million samples", bar: 600, note: "blocks of 60 s"},
		{name: "  50 meters of 10 tags at 10 s", measured: m["units 50 meters of 10 tags at 10 s in 60 s blocks of shared streams"], unit: "a million samples", note: "docs/cost.md"},
	}, nil
}

// readMetrics reads what `go test -v -bench` prints: of a benchmark each metric as
// "BenchmarkName unit", and of the log lines of TestWriteUnits the units a million
// samples as "units what".
func readMetrics(out []byte) map[string]float64 {
	m := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasPrefix(f[0], "Benchmark") {
			name := f[0]
			if at := strings.LastIndexByte(name, '-'); at > 0 { // the number of cores
				name = name[:at]
			}
			for i := 2; i+1 < len(f); i += 2 {
				if n, err := strconv.ParseFloat(f[i], 64); err == nil {
					m[name+" "+f[i+1]] = n
				}
			}
			continue
		}
		// As in "    bench_test.go:59: 200 tags at 1 s: 4 units a block, 333 units a million samples".
		parts := strings.SplitN(line, ": ", 3)
		before, _, found := strings.Cut(line, " units a million samples")
		if len(parts) < 3 || !found {
			continue
		}
		if n, err := strconv.ParseFloat(before[strings.LastIndexByte(before, ' ')+1:], 64); err == nil {
			m["units "+parts[1]] = n
		}
	}
	return m
}
