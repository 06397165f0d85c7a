package logging

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/slogtest"
	"time"
)

// journald is a fake of journald: a socket whose records are parsed by the
// protocol's document, not by the code under test.
type journald struct {
	t    *testing.T
	conn *net.UnixConn
}

func startJournald(t *testing.T, path string) *journald {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &journald{t, conn}
}

func (j *journald) next() map[string]string {
	j.t.Helper()
	if err := j.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		j.t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	n, err := j.conn.Read(buf)
	if err != nil {
		j.t.Fatal(err)
	}
	out := map[string]string{}
	for rest := buf[:n]; len(rest) > 0; {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			j.t.Fatalf("the record does not end with its line: %q", rest)
		}
		key, value, inline := bytes.Cut(line, []byte("="))
		rest = after
		if !inline {
			size := binary.LittleEndian.Uint64(rest)
			value, rest = rest[8:8+size], rest[8+size:]
			if rest[0] != '\n' {
				j.t.Fatalf("%s is not closed by a line end", key)
			}
			rest = rest[1:]
		}
		if _, twice := out[string(key)]; twice {
			j.t.Errorf("field %s stands twice", key)
		}
		out[string(key)] = string(value)
	}
	return out
}

func newLog(t *testing.T, o Options) *slog.Logger {
	t.Helper()
	log, end, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Errorf("end: %v", err)
		}
	})
	return log
}

func stderrFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func contents(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// streamOf is the JOURNAL_STREAM that systemd would set for f.
func streamOf(t *testing.T, f *os.File) string {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func TestJournalRecord(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	j := startJournald(t, socket)
	f := stderrFile(t)
	log := newLog(t, Options{
		Stderr: f, JournalSocket: socket, Level: "debug",
		Getenv: func(string) string { return streamOf(t, f) },
	})
	log = log.With("source", "meter 7").WithGroup("poll")
	log.Error("read failed:\x1b[2J\nPRIORITY=0", "error", errors.New("line 1\nline 2"), "took-ms", 1500*time.Millisecond)
	want := map[string]string{
		"MESSAGE":               `read failed:\x1b[2J\nPRIORITY=0 source="meter 7" poll.error="line 1\nline 2" poll.took-ms=1.5s`,
		"PRIORITY":              "3",
		"SYSLOG_IDENTIFIER":     "millrace",
		"MILLRACE_SOURCE":       "meter 7",
		"MILLRACE_POLL_ERROR":   "line 1\nline 2",
		"MILLRACE_POLL_TOOK_MS": "1.5s",
	}
	if got := j.next(); !maps.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for level, want := range map[slog.Level]string{slog.LevelDebug: "7", slog.LevelInfo: "6", slog.LevelWarn: "4"} {
		log.Log(t.Context(), level, "m")
		if got := j.next()["PRIORITY"]; got != want {
			t.Errorf("%s has priority %s", level, got)
		}
	}
	if s := contents(t, f); s != "" {
		t.Errorf("standard error got %q too", s)
	}
}

func TestJournalBoundsARecord(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	j := startJournald(t, socket)
	log := newLog(t, Options{Stderr: stderrFile(t), JournalSocket: socket, Format: FormatJournal})
	huge := strings.Repeat("ü", 1<<15)
	args := []any{strings.Repeat("key", 100), "v"}
	for i := range 100 {
		args = append(args, fmt.Sprintf("k%d", i), huge)
	}
	log.Info(huge, args...)
	got := j.next()
	if m := got["MESSAGE"]; len(m) > maxValue || !strings.HasSuffix(m, "ü [cut]") {
		t.Errorf("the message has %d bytes and ends in %q", len(m), m[max(0, len(m)-10):])
	}
	if _, ok := got["MILLRACE_K0"]; !ok || len(got) > 20 {
		t.Errorf("%d fields, the first there: %t", len(got), ok)
	}
	if _, ok := got["MILLRACE_"+strings.Repeat("KEY", 100)[:maxKey-len("MILLRACE_")]]; !ok {
		t.Error("the long key was not cut to 64 bytes")
	}
}

// Where the kernel allows only small datagrams, the record is sent again, shorter.
func TestJournalTakesOnlySmallRecords(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	j := startJournald(t, socket)
	h, err := newJournalHandler(socket, stderrFile(t), slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	defer h.to.close()
	if err := h.to.conn.SetWriteBuffer(4096); err != nil {
		t.Fatal(err)
	}
	slog.New(h).Info("big", "value", strings.Repeat("x", 100_000))
	if got := j.next()["MILLRACE_VALUE"]; len(got) != shortValue || !strings.HasSuffix(got, "x [cut]") {
		t.Errorf("the value has %d bytes", len(got))
	}
}

// While journald restarts the lines go to standard error with their priority,
// and the journal is found again.
func TestJournalRestarts(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	j := startJournald(t, socket)
	f := stderrFile(t)
	log := newLog(t, Options{Stderr: f, JournalSocket: socket, Format: FormatJournal})
	j.conn.Close()
	log.Warn("in between", "a", 1)
	if got := contents(t, f); got != "<4>in between a=1\n" {
		t.Errorf("standard error got %q", got)
	}
	os.Remove(socket)
	j = startJournald(t, socket)
	log.Info("back")
	if got := j.next()["MESSAGE"]; got != "back" {
		t.Errorf("got %q", got)
	}
}

// A journald that hangs costs records, which are counted, and never the gateway.
func TestJournalHangs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	j := startJournald(t, socket)
	log, end, err := New(Options{Stderr: stderrFile(t), JournalSocket: socket, Format: FormatJournal})
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for range 10_000 {
		start := time.Now()
		log.Info("unread")
		sent++
		if d := time.Since(start); d > 10*time.Second {
			t.Fatalf("a record took %s", d)
		} else if d > sendLimit/2 {
			break
		}
	}
	for range sent - 1 {
		j.next()
	}
	log.Info("after")
	if got := j.next(); got["MESSAGE"] != "1 log records were dropped, because the journal did not take them" || got["PRIORITY"] != "4" {
		t.Errorf("got %q", got)
	}
	if got := j.next()["MESSAGE"]; got != "after" {
		t.Errorf("got %q", got)
	}
	if err := end(); err == nil || !strings.Contains(err.Error(), "1 log records were dropped") {
		t.Errorf("end says %v", err)
	}
}

func TestTextLine(t *testing.T) {
	f := stderrFile(t)
	log := newLog(t, Options{Stderr: f, Format: FormatText, Level: "warn"})
	log.Info("not shown")
	log.With("source", "m7").Warn("a\nb", "empty", "", "quoted", `say "x"`, "err", (*os.PathError)(nil))
	got := contents(t, f)
	stamp, line, _ := strings.Cut(got, " ")
	if _, err := time.Parse(timeLayout, stamp); err != nil {
		t.Errorf("time: %v", err)
	}
	if want := `WARN  a\nb source=m7 empty="" quoted="say \"x\"" err=<nil>` + "\n"; line != want {
		t.Errorf("got  %q\nwant %q", line, want)
	}
}

func TestAutoFormat(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	startJournald(t, socket)
	for name, tt := range map[string]struct {
		stream func(f *os.File) string
		socket string
		want   string
	}{
		"not under systemd":        {func(*os.File) string { return "" }, socket, FormatJSON},
		"the journal":              {func(f *os.File) string { return streamOf(t, f) }, socket, FormatJournal},
		"stderr redirected since":  {func(*os.File) string { return "8:1" }, socket, FormatJSON},
		"nonsense in the variable": {func(*os.File) string { return "8:x" }, socket, FormatJSON},
		"no socket in this root":   {func(f *os.File) string { return streamOf(t, f) }, filepath.Join(dir, "none"), FormatJSON},
	} {
		t.Run(name, func(t *testing.T) {
			f := stderrFile(t)
			got, err := chooseFormat(Options{Stderr: f, Getenv: func(string) string { return tt.stream(f) }, JournalSocket: tt.socket})
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestJSONLine(t *testing.T) {
	f := stderrFile(t)
	newLog(t, Options{Stderr: f, Format: FormatJSON}).Info("m", "took", 90*time.Second)
	var got map[string]any
	if err := json.Unmarshal([]byte(contents(t, f)), &got); err != nil {
		t.Fatal(err)
	}
	if got["took"] != "1m30s" || got["msg"] != "m" || got["level"] != "INFO" {
		t.Errorf("got %v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{Level: "loud"}, `log level "loud" is not known; write debug, info, warn or error`},
		{Options{Format: "xml"}, `log format "xml" is not known; write auto, text, json or journal`},
		{Options{Format: FormatJournal, JournalSocket: "/nonexistent/socket"}, "log format journal: no journal listens on /nonexistent/socket; set log.format to auto, text or json"},
	} {
		if _, _, err := New(tt.o); err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

// The handlers keep slog's contract, by the standard library's own suite.
func TestHandlersKeepSlogsContract(t *testing.T) {
	t.Run("text", func(t *testing.T) {
		var buf bytes.Buffer
		slogtest.Run(t, func(*testing.T) slog.Handler {
			buf.Reset()
			return newTextHandler(&buf, slog.LevelInfo)
		}, func(t *testing.T) map[string]any { return parseText(t, buf.String()) })
	})
	t.Run("journal", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "socket")
		j := startJournald(t, socket)
		slogtest.Run(t, func(t *testing.T) slog.Handler {
			h, err := newJournalHandler(socket, os.Stderr, slog.LevelInfo)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { h.to.close() })
			return h
		}, func(t *testing.T) map[string]any {
			// The time of a journal record is journald's; the level is its
			// priority, and the line's pairs carry the groups.
			line := j.next()["MESSAGE"]
			if strings.HasPrefix(t.Name(), "TestHandlersKeepSlogsContract/journal/zero-time") {
				return parseText(t, "INFO  "+line+"\n")
			}
			return parseText(t, "2026-01-02T15:04:05.000Z INFO  "+line+"\n")
		})
	})
}

// parseText reads a line of one-word values back into nested groups.
func parseText(t *testing.T, line string) map[string]any {
	t.Helper()
	out := map[string]any{}
	words := strings.Fields(line)
	if _, err := time.Parse(timeLayout, words[0]); err == nil {
		out[slog.TimeKey] = words[0]
		words = words[1:]
	}
	out[slog.LevelKey] = words[0]
	var message []string
	for _, w := range words[1:] {
		key, value, ok := strings.Cut(w, "=")
		if !ok {
			message = append(message, w)
			continue
		}
		in := out
		parts := strings.Split(key, ".")
		for _, g := range parts[:len(parts)-1] {
			sub, ok := in[g].(map[string]any)
			if !ok {
				sub = map[string]any{}
				in[g] = sub
			}
			in = sub
		}
		in[parts[len(parts)-1]] = value
	}
	out[slog.MessageKey] = strings.Join(message, " ")
	return out
}
