package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/command"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == probeName { // a child of the gateway under test
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	testscript.Main(m, map[string]func(){
		"millrace": func() { command.Main(run) },
	})
}

// TestScripts drives the command line as a user does.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PORT", strconv.Itoa(freePort(t)))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"expand": expand, "waitup": waitUp, "post": post, "deadspool": deadSpool, "blackhole": blackhole, "waitclosed": waitClosed,
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// expand replaces $NAME in files.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// waitup waits until the daemon on a socket has all its sources up.
func waitUp(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		var st gateway.Status
		err := control.Call(context.Background(), ts.MkAbs(args[0]), "/v1/status", nil, &st)
		if err == nil && strings.Contains(st.Line, "1/1 sources up") {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon did not come up: %v %s", err, st.Line)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// post posts a file to a URL and checks the status and what the answer holds.
func post(ts *testscript.TestScript, _ bool, args []string) {
	resp, err := http.Post(args[0], "application/json", strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if strconv.Itoa(resp.StatusCode) != args[2] || !strings.Contains(string(answer), args[3]) {
		ts.Fatalf("answer %s: %s; want %s and %q", resp.Status, answer, args[2], args[3])
	}
}
