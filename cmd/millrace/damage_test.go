package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/command"
	"millrace/spool"
)

// upFor runs the gateway until it is asked to stop, and returns its exit code.
func upFor(t *testing.T, config, socket string, until func(gateway.Status) bool) (code int, errs string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, text bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"run", "--config", config}, &out, &text) }()
	deadline := time.After(30 * time.Second)
	for {
		var st gateway.Status
		if err := control.Call(ctx, socket, "/v1/status", nil, &st); err == nil && until(st) {
			break
		}
		select {
		case code := <-ended:
			return code, text.String()
		case <-deadline:
			t.Fatalf("it did not get there: %+v", st)
		case <-time.After(20 * time.Millisecond):
		}
	}
	stop()
	return <-ended, text.String()
}

// TestStartOnADamagedSpool spoils the newest segment of a spool that holds what
// nobody took yet: the gateway starts, by a child that is this binary, goes on in
// the same epoch, and delivers the blocks that read.
func TestStartOnADamagedSpool(t *testing.T) {
	config, socket := faulty(t)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	// Not all sinks can deliver, and nobody waits for that here.
	if err := os.WriteFile(config, append(text, "shutdown: {grace: 100ms, deadline: 1s}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	waiting := func(st gateway.Status) bool { return st.Spool.Sinks["absent"].PendingBlocks > 5 }
	if code, errs := upFor(t, config, socket, waiting); code != command.ExitOK {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	dir := filepath.Join(filepath.Dir(config), "spool")
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatalf("segments: %v, %v", files, err)
	}
	before, err := spool.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	epoch := before.Stats().Epoch
	list, err := before.List(3)
	if err != nil {
		t.Fatal(err)
	}
	spoilt, err := before.Peek(list[2].Number)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := bytes.Index(data, spoilt.Data); at >= 0; at = bytes.Index(data, spoilt.Data) {
		data[at+len(spoilt.Data)/2] ^= 1
	}
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	var st gateway.Status
	code, errs := upFor(t, config, socket, func(now gateway.Status) bool {
		st = now
		return now.Sinks["disk"].Samples > 3
	})
	if code != command.ExitOK {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	if st.Spool.Epoch != epoch || st.Spool.Salvaged != 1 || st.Spool.CorruptFiles != 1 || st.Spool.Corrupt != 1 {
		t.Errorf("epoch %s after %s, spool %+v", st.Spool.Epoch, epoch, st.Spool)
	}
}

// TestProbeFileByHand says what the hidden command is for.
func TestProbeFileByHand(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{probeName}, &out, &errs); code != command.ExitUsage || !strings.Contains(errs.String(), "is started by `millrace run`") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
	path := filepath.Join(t.TempDir(), "0000000001.seg")
	if err := os.WriteFile(path, make([]byte, 9000), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), []string{probeName, "-role", "tail", path}, &out, &errs); code != command.ExitOK || !strings.Contains(out.String(), `"verdict":"corrupt"`) {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
}

// TestSpoolFolderIsAFile sees one line, code 1 and an untouched file.
func TestSpoolFolderIsAFile(t *testing.T) {
	config, _ := faulty(t)
	dir := filepath.Join(filepath.Dir(config), "spool")
	if err := os.WriteFile(dir, []byte("not a spool"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"run", "--config", config}, &out, &errs); code != command.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	want := "millrace run: spool " + dir + ": it is a file, not a directory: move the file away, or name another directory in spool.dir\n"
	if errs.String() != want {
		t.Errorf("it says\n%swant\n%s", errs.String(), want)
	}
	if text, err := os.ReadFile(dir); err != nil || string(text) != "not a spool" {
		t.Errorf("the file is %q, %v", text, err)
	}
}
