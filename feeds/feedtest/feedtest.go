// Package feedtest is the suite that every feed passes. A feed's test starts
// its endpoint, says how to publish there and how to break it, and calls Run.
package feedtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"millrace/feeds"
	"millrace/internal/clock"
	"millrace/sample/result"
	"millrace/uploader"
	"millrace/uploader/sinktest"
)

// patience is how long what has to happen may take.
const patience = 10 * time.Second

// Endpoint is one service of its own with the settings that lead to it. The
// settings ask often, and what is not done comes again within a second.
type Endpoint struct {
	Config feeds.Config
	// Publish puts a message where the feed finds it.
	Publish func(t *testing.T, key, body string)
	// Forgets says that the service keeps what is done: the cursor is what remembers.
	Forgets bool
	// Set switches a fault on or off.
	Set map[sinktest.Fault]func(on bool)
}

var classes = map[sinktest.Fault]uploader.Class{
	sinktest.Down: uploader.Transient, sinktest.Throttled: uploader.Throttled,
	sinktest.Denied: uploader.Hold, sinktest.Expired: uploader.Hold, sinktest.Skewed: uploader.Hold, sinktest.Missing: uploader.Hold,
}

// Open opens a feed on the endpoint.
func Open(t *testing.T, e *Endpoint, cursor string) feeds.Feed {
	t.Helper()
	if faults := e.Config.Validate(); len(faults) > 0 {
		t.Fatalf("the settings are wrong: %+v", faults)
	}
	f, err := e.Config.Open(feeds.Settings{Name: "results", Site: "north", Gateway: "gw1", Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// Receive receives until there are n messages.
func Receive(t *testing.T, f feeds.Feed, n int) []feeds.Message {
	t.Helper()
	return ReceiveWithin(t, f, n, patience)
}

// ReceiveWithin is Receive with another patience.
func ReceiveWithin(t *testing.T, f feeds.Feed, n int, patience time.Duration) []feeds.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out []feeds.Message
	for len(out) < n {
		got, err := f.Receive(ctx)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(out), n, err)
		}
		if len(got) > 10 {
			t.Fatalf("%d messages at once", len(got))
		}
		out = append(out, got...)
	}
	return out
}

// nothing checks that no message comes for a while.
func nothing(t *testing.T, f feeds.Feed, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		got, err := f.Receive(ctx)
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		if len(got) > 0 {
			t.Errorf("%s: %d messages come, %q first", what, len(got), got[0].Body)
			return
		}
	}
}

// Run runs the suite. Each check gets an endpoint of its own.
func Run(t *testing.T, start func(t *testing.T) *Endpoint) {
	t.Run("brings", func(t *testing.T) { brings(t, start(t)) })
	t.Run("again", func(t *testing.T) { again(t, start(t)) })
	t.Run("large", func(t *testing.T) { large(t, start(t)) })
	t.Run("cancel", func(t *testing.T) { cancels(t, start(t)) })
	for fault := range classes {
		t.Run(string(fault), func(t *testing.T) {
			e := start(t)
			if e.Set[fault] == nil {
				t.Fatalf("the endpoint does not know how to be %s", fault)
			}
			fails(t, e, fault)
		})
	}
}

func body(i int) string { return fmt.Sprintf(`{"n":%d,"text":"é\"<"}`, i) }

// brings publishes some and wants each once, with a key and without a change.
func brings(t *testing.T, e *Endpoint) {
	f := Open(t, e, "")
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	const n = 37 // several requests
	for i := range n {
		e.Publish(t, fmt.Sprintf("k%03d", i), body(i))
		want[body(i)] = true
	}
	got := Receive(t, f, n)
	for _, m := range got {
		if !want[string(m.Body)] || m.Key == "" || len(m.Key) > 256 || m.Local {
			t.Errorf("got %q %q", m.Key, m.Body)
		}
		delete(want, string(m.Body))
	}
	if err := f.Done(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	nothing(t, f, "after all are done")
	e.Publish(t, "later", body(n))
	if m := Receive(t, f, 1); string(m[0].Body) != body(n) {
		t.Errorf("got %q", m[0].Body)
	}
}

// again wants what is not done once more after a restart, and nothing else.
func again(t *testing.T, e *Endpoint) {
	f := Open(t, e, "")
	for i := range 6 {
		e.Publish(t, fmt.Sprintf("k%03d", i), body(i))
	}
	got := Receive(t, f, 6)
	var done, left []feeds.Message
	cursor := ""
	for _, m := range got {
		if strings.Contains(string(m.Body), `:0,`) || strings.Contains(string(m.Body), `:1,`) {
			done = append(done, m)
			cursor = max(cursor, m.Cursor)
		} else {
			left = append(left, m)
		}
	}
	if err := f.Done(t.Context(), done); err != nil {
		t.Fatal(err)
	}
	f = Open(t, e, cursor)
	missing := map[string]bool{}
	for _, m := range left {
		missing[string(m.Body)] = true
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(missing) > 0 {
		got, err := f.Receive(ctx)
		if err != nil {
			t.Fatalf("without %v: %v", missing, err)
		}
		for _, m := range got {
			if !missing[string(m.Body)] && !e.Forgets {
				t.Errorf("%s comes again", m.Body)
			}
			delete(missing, string(m.Body))
		}
	}
}

// large wants a body beyond the bound to be cut, and others to come beside it.
func large(t *testing.T, e *Endpoint) {
	f := Open(t, e, "")
	e.Publish(t, "a", strings.Repeat("x", 200<<10))
	e.Publish(t, "b", body(1))
	sizes := map[int]bool{}
	for _, m := range Receive(t, f, 2) {
		sizes[len(m.Body)] = true
	}
	if !sizes[result.MaxBytes+1] || !sizes[len(body(1))] {
		t.Errorf("the bodies have %v bytes", sizes)
	}
}

// cancels wants Receive to hear that its context is done.
func cancels(t *testing.T, e *Endpoint) {
	f := Open(t, e, "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for {
			got, err := f.Receive(ctx)
			if err != nil || len(got) > 0 {
				ended <- err
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond) // it waits by now
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it returns %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not hear that it is to end")
	}
}

// fails wants the fault to be told by its class, on one line, with what to do,
// and everything to come once it is over.
func fails(t *testing.T, e *Endpoint, fault sinktest.Fault) {
	f := Open(t, e, "")
	e.Publish(t, "a", body(1))
	e.Set[fault](true)
	for what, try := range map[string]func() error{
		"Receive": func() error { _, err := f.Receive(t.Context()); return err },
		"Check":   func() error { return f.Check(t.Context()) },
	} {
		err := try()
		if err == nil {
			t.Errorf("%s works", what)
			continue
		}
		if got := uploader.Classify(err); got != classes[fault] {
			t.Errorf("%s: %v is %s, want %s", what, err, got, classes[fault])
		}
		if s := err.Error(); strings.ContainsAny(s, "\r\n") || classes[fault] == uploader.Hold && !strings.Contains(s, "; ") {
			t.Errorf("%s: not one line with a hint: %q", what, s)
		}
	}
	e.Set[fault](false)
	if fault == sinktest.Missing {
		e.Publish(t, "a", body(1)) // it was dropped with what held it
	}
	deadline := time.Now().Add(patience)
	for {
		got, err := f.Receive(t.Context())
		if err == nil && len(got) > 0 {
			if string(got[0].Body) != body(1) {
				t.Errorf("got %q", got[0].Body)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing comes after the fault: %v", err)
		}
	}
}
