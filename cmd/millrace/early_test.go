package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A gateway that is told to stop while it starts has not failed.
func TestStoppedWhileStarting(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf("gateway: {site: plant, id: gw1}\nspool: {dir: %q}\ncontrol: {socket: %q}\nsources: [{name: in, type: http, connection: {listen: \"127.0.0.1:0\"}}]\nsinks: [{name: out, type: file, dir: %q}]\n",
		filepath.Join(dir, "spool"), filepath.Join(dir, "c.sock"), filepath.Join(dir, "out"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // on nothing, and on what that left
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var out, errs bytes.Buffer
		if code := run(ctx, []string{"run", "--config", config}, &out, &errs); code != 0 {
			t.Errorf("it ended with code %d: %s", code, errs.String())
		}
	}
}
