package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
)

// clockTick is USER_HZ, the unit of /proc/PID/stat: 100 on every Linux port
// that millrace is built for.
const clockTick = 10 * time.Millisecond

// bench holds the stripped binary that is measured.
type bench struct {
	ctx    context.Context
	d      time.Duration
	dir    string
	binary string
	// backlog is the size of the large backlog, in bytes.
	backlog int64
}

func newBench(ctx context.Context, d time.Duration, backlog int64) (*bench, error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, d: d, backlog: backlog, dir: dir, binary: filepath.Join(dir, "millrace")}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.binary, "./cmd/millrace")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		b.close()
		return nil, fmt.Errorf("build: %w", err)
	}
	return b, nil
}

func (b *bench) close() {
	// It lies in the temporary folder; what cannot be removed goes with it.
	_ = os.RemoveAll(b.dir)
}

func (b *bench) binarySize() ([]figure, error) {
	info, err := os.Stat(b.binary)
	if err != nil {
		return nil, err
	}
	return []figure{{name: "stripped binary", measured: float64(info.Size()) / 1e6, unit: "MB", bar: 30}}, nil
}

// daemon is one running gateway, alone in its process.
type daemon struct {
	cmd    *exec.Cmd
	socket string
	log    string
	exited chan error
}

// setup is what differs between the measurements of a gateway.
type setup struct {
	name    string
	sources string   // in YAML
	spool   string   // the spool's directory; one of the measurement's own where empty
	keys    string   // further keys of the spool, in YAML: "max_size: 12GiB"
	out     string   // the file sink's directory; likewise
	under   []string // a command that the gateway is run by, with its arguments
	quick   bool     // do not wait until the sources are up
	more    string   // further sections, in YAML
}

// start runs a gateway with a file sink.
func (b *bench) start(o setup) (*daemon, error) {
	dir := filepath.Join(b.dir, o.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if o.spool == "" {
		o.spool = filepath.Join(dir, "spool")
	}
	if o.out == "" {
		o.out = filepath.Join(dir, "out")
	}
	d := &daemon{socket: filepath.Join(dir, "c.sock"), log: filepath.Join(dir, "log"), exited: make(chan error, 1)}
	keys := "dir: " + o.spool
	if o.keys != "" {
		keys += ", " + o.keys
	}
	text := fmt.Sprintf("gateway: {site: bench, id: gw1}\nspool: {%s}\ncontrol: {socket: %s}\nsources:\n%ssinks:\n  - {name: out, type: file, dir: %s}\n%s",
		keys, d.socket, o.sources, o.out, o.more)
	config := filepath.Join(dir, "millrace.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	out, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	command := append(o.under, b.binary, "run", "--config", config)
	d.cmd = exec.CommandContext(b.ctx, command[0], command[1:]...)
	d.cmd.Stdout, d.cmd.Stderr = out, out
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.exited <- d.cmd.Wait() }()
	return d, d.waitUp(b.ctx, o.quick)
}

// waitUp waits until the gateway answers and, unless quick is set, every source
// is up.
func (d *daemon) waitUp(ctx context.Context, quick bool) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		st, err := d.status(ctx)
		if err == nil {
			waiting := 0
			for _, c := range st.Components {
				if c.Kind == "source" && c.State != "up" && !quick {
					waiting++
				}
			}
			if waiting == 0 {
				return nil
			}
			err = fmt.Errorf("%d sources are not up", waiting)
		}
		select {
		case <-d.exited:
			return fmt.Errorf("the gateway ended: %s", tail(d.log))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.stop()
			return fmt.Errorf("%w: %s", err, tail(d.log))
		}
	}
}

func (d *daemon) status(ctx context.Context) (st gateway.Status, err error) {
	err = control.Call(ctx, d.socket, "/v1/status", nil, &st)
	return st, err
}

// taken is how many samples the gateway's sources have emitted.
func (d *daemon) taken(ctx context.Context) (n uint64, err error) {
	st, err := d.status(ctx)
	for _, s := range st.Sources {
		n += s.In
	}
	return n, err
}

func (d *daemon) stop() {
	// Where the process has ended already there is nothing to signal.
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(30 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > 2000 {
		text = text[len(text)-2000:]
	}
	return string(text)
}

// cpu is the processor time that the gateway has used: proc(5), fields 14 and
// 15 of /proc/PID/stat.
func (d *daemon) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name in field 2 may hold spaces; counting starts behind it.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", d.cmd.Process.Pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// peakRSS is the largest resident set so far, in MB: VmHWM of /proc/PID/status.
func (d *daemon) peakRSS() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 64)
			return n * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmHWM", d.cmd.Process.Pid)
}

// perSample measures the processor time per sample, in µs, over the bench's
// time, after a warm-up.
func (d *daemon) perSample(ctx context.Context, over time.Duration) (us, rate float64, err error) {
	pause(ctx, 3*time.Second)
	cpu0, err := d.cpu()
	if err != nil {
		return 0, 0, err
	}
	n0, err := d.taken(ctx)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	pause(ctx, over)
	cpu1, err := d.cpu()
	if err != nil {
		return 0, 0, err
	}
	n1, err := d.taken(ctx)
	if err != nil {
		return 0, 0, err
	}
	if n1 == n0 {
		return 0, 0, fmt.Errorf("no sample arrived in %s: %s", over, tail(d.log))
	}
	n := float64(n1 - n0)
	return float64(cpu1-cpu0) / 1e3 / n, n / time.Since(began).Seconds(), ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
