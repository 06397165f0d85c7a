package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"millrace/gateway"
)

// Backlogs that are drained.
const (
	smallBacklog = 10e6
	// drainTime bounds how long one is drained; memory has its peak long before.
	drainTime = 30 * time.Second
	// catchUpBytes is a backlog in blocks of the plant.
	catchUpBytes = 128 << 20
)

// drained is what a gateway did with a backlog.
type drained struct {
	up        time.Duration // from the start of the process to the first answer
	anonymous float64       // peaks, MB
	resident  float64
	samples   float64 // delivered a second
	bytes     float64 // likewise
	cpu       float64 // ns for each sample delivered, the start included
}

// drain runs the gateway on a backlog, with 200 tags polled beside it, until
// that is delivered or drainTime is over.
func (b *bench) drain(name, spoolDir string, bytes int64) (out drained, err error) {
	servers, err := slaves(2)
	if err != nil {
		return out, err
	}
	defer closeAll(servers)
	var sources strings.Builder
	for i, s := range servers {
		sources.WriteString(meterConfig(fmt.Sprintf("m%02d", i), s.URL(), "1s", 100))
	}
	if err := evictCache(spoolDir); err != nil {
		return out, err
	}
	began := time.Now()
	d, err := b.start(setup{name: name, sources: sources.String(), spool: spoolDir, keys: fmt.Sprintf("max_size: %dB", 4*bytes+1<<30), quick: true})
	if err != nil {
		return out, err
	}
	defer d.stop()
	out.up = time.Since(began)
	var last gateway.Status
	var to time.Time
	for {
		anonymous, resident, err := d.memory()
		if err != nil {
			return out, err
		}
		out.anonymous, out.resident = max(out.anonymous, anonymous), max(out.resident, resident)
		if last, err = d.status(b.ctx); err != nil {
			return out, err
		}
		to = time.Now()
		// The gateway's own first blocks come behind the backlog.
		if last.Spool.Sinks["out"].PendingBytes < 1<<20 || to.Sub(began) > drainTime {
			break
		}
		pause(b.ctx, 50*time.Millisecond)
		if err := b.ctx.Err(); err != nil {
			return out, err
		}
	}
	cpu, err := d.cpu()
	if err != nil {
		return out, err
	}
	out.cpu = float64(cpu.Nanoseconds()) / float64(max(last.Sinks["out"].Samples, 1))
	// What came before the first answer counts, and so does the start.
	seconds := to.Sub(began).Seconds()
	out.samples = float64(last.Sinks["out"].Samples) / seconds
	out.bytes = float64(last.Sinks["out"].Bytes) / seconds
	return out, nil
}

// memory reads RssAnon and VmRSS of /proc/PID/status, in MB.
func (d *daemon) memory() (anonymous, resident float64, err error) {
	path := fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		var into *float64
		switch name {
		case "RssAnon":
			into = &anonymous
		case "VmRSS":
			into = &resident
		default:
			continue
		}
		kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", path, err)
		}
		*into = kb * 1024 / 1e6
	}
	return anonymous, resident, nil
}

// backlogs measures start, memory and speed with a small and a large backlog.
func (b *bench) backlogs() ([]figure, error) {
	large, err := largeBlocks()
	if err != nil {
		return nil, err
	}
	size := b.backlog
	free, err := freeBytes(b.dir)
	if err != nil {
		return nil, err
	}
	note := ""
	// What is delivered takes the same room again.
	if most := free / 3; size > most {
		note = fmt.Sprintf("; %.3g GB would need more room than %s has", float64(size)/1e9, b.dir)
		size = most
	}
	var out []figure
	for _, bytes := range []int64{smallBacklog, size} {
		name := fmt.Sprintf("backlog%d", bytes)
		dir := filepath.Join(b.dir, name+"-spool")
		blocks, _, err := backlog(b.ctx, dir, bytes, large)
		if err != nil {
			return nil, err
		}
		got, err := b.drain(name, dir, bytes)
		if err != nil {
			return nil, err
		}
		title := fmt.Sprintf("%.3g GB of backlog, ", float64(bytes)/1e9)
		out = append(out,
			figure{name: title + "start", measured: got.up.Seconds(), unit: "s", bar: 5, note: fmt.Sprintf("to the first answer, files not in the page cache; %d blocks%s", blocks, note)},
			figure{name: "  anonymous memory while draining", measured: got.anonymous, unit: "MB", bar: 40, note: "peak; 200 samples/s beside it"},
			figure{name: "  resident memory while draining", measured: got.resident, unit: "MB", bar: 100, note: "peak"},
			figure{name: "  delivered to files", measured: got.bytes / 1e6, unit: "MB/s"},
		)
		if err := b.remove(name); err != nil {
			return nil, err
		}
	}
	catchUp, err := b.catchUp()
	return append(out, catchUp...), err
}

// catchUp measures how fast a spool of ordinary blocks is delivered.
func (b *bench) catchUp() ([]figure, error) {
	blocks, err := plantBlocks()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "catchup-spool")
	n, samples, err := backlog(b.ctx, dir, catchUpBytes, blocks)
	if err != nil {
		return nil, err
	}
	got, err := b.drain("catchup", dir, catchUpBytes)
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: "catch-up to files", measured: got.samples, unit: "samples/s", bar: 1e6, atLeast: true,
			note: fmt.Sprintf("%d blocks of %d samples, undecoded", n, samples/n)},
		{name: "  CPU", measured: got.cpu, unit: "ns/sample", note: "of the whole gateway; to decode them would take several times as much"},
		{name: "  anonymous memory", measured: got.anonymous, unit: "MB", bar: 40, note: "peak"},
	}, b.remove("catchup")
}

// remove deletes what a drained backlog took.
func (b *bench) remove(name string) error {
	if err := os.RemoveAll(filepath.Join(b.dir, name)); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(b.dir, name+"-spool"))
}
