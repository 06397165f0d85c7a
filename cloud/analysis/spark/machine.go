package spark

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Machine runs jobs by PySpark on this machine. The archive is a folder then.
type Machine struct {
	Python string // an interpreter that has pyspark
	Master string // as in local[2]
}

// Run implements Runner.
func (m *Machine) Run(ctx context.Context, j Job) error {
	if strings.Contains(j.Place, "://") {
		return fmt.Errorf("%s is no folder: Spark on this machine takes an archive in a folder only", j.Place)
	}
	where, err := filepath.Abs(j.Place)
	if err != nil {
		return err
	}
	j.Place = "file://" + where
	args := append([]string{filepath.Join(where, filepath.FromSlash(j.Script)), "--master", m.Master}, j.Args()...)
	cmd := exec.CommandContext(ctx, m.Python, args...)
	// The interpreter's own process ends, and the JVM with it.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	out := tail{max: 4 << 10}
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("run Spark on this machine: %w; give an interpreter that has pyspark with --python", err)
	case err != nil:
		return fmt.Errorf("run Spark on this machine: %w: %s", err, out.line())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	max  int
	data []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - t.max; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// line is the last line that says something.
func (t *tail) line() string {
	lines := bytes.Split(bytes.TrimSpace(t.data), []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		if l := bytes.TrimSpace(lines[i]); len(l) > 0 {
			return string(l)
		}
	}
	return "it printed nothing"
}
