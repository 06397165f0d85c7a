package main

import (
	"net"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// blackhole listens where nobody ever answers, and names the address $HOLE.
func blackhole(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv("HOLE", l.Addr().String())
}

// waitClosed waits until nobody listens at an address any more.
func waitClosed(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", args[0], time.Second)
		if err != nil {
			return
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			ts.Fatalf("%s is still listened at", args[0])
		}
		time.Sleep(10 * time.Millisecond)
	}
}
