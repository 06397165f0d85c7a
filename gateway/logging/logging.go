// Package logging sets up the daemon's log: to the journal in its own protocol
// where systemd started it, as text on a terminal, as JSON elsewhere.
package logging

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// The formats. Auto takes the journal where standard error is connected to it,
// else text where standard error is a terminal, else JSON.
const (
	FormatAuto    = "auto"
	FormatText    = "text"
	FormatJSON    = "json"
	FormatJournal = "journal"
)

// journalSocket is where journald listens (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const journalSocket = "/run/systemd/journal/socket"

// Options say where the log goes. The zero Options log at level info to
// standard error.
type Options struct {
	Level  string   // debug, info, warn or error; info where empty
	Format string   // auto, text, json or journal; auto where empty
	Stderr *os.File // os.Stderr where nil
	// Getenv is os.Getenv where nil; JOURNAL_STREAM is read with it.
	Getenv func(string) string
	// JournalSocket is journald's path where empty.
	JournalSocket string
}

// New returns the log and a function that ends it. That function says how many
// records the journal did not take, if any. An unknown level or format, and a
// journal that was asked for by name but is not there, are errors.
func New(o Options) (*slog.Logger, func() error, error) {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.JournalSocket == "" {
		o.JournalSocket = journalSocket
	}
	level, err := ParseLevel(o.Level)
	if err != nil {
		return nil, nil, err
	}
	format, err := chooseFormat(o)
	if err != nil {
		return nil, nil, err
	}
	end := func() error { return nil }
	switch format {
	case FormatText:
		return slog.New(newTextHandler(o.Stderr, level)), end, nil
	case FormatJournal:
		h, err := newJournalHandler(o.JournalSocket, o.Stderr, level)
		if err != nil {
			return nil, nil, err
		}
		return slog.New(h), h.to.close, nil
	}
	return slog.New(slog.NewJSONHandler(o.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: readable})), end, nil
}

// ParseLevel reads a level's name; "" is info.
func ParseLevel(name string) (slog.Level, error) {
	switch name {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is not known; write debug, info, warn or error", name)
}

func chooseFormat(o Options) (string, error) {
	switch o.Format {
	case FormatText, FormatJSON, FormatJournal:
		return o.Format, nil
	case "", FormatAuto:
	default:
		return "", fmt.Errorf("log format %q is not known; write auto, text, json or journal", o.Format)
	}
	switch {
	case isJournal(o.Stderr, o.Getenv("JOURNAL_STREAM")) && isSocket(o.JournalSocket):
		return FormatJournal, nil
	case term.IsTerminal(int(o.Stderr.Fd())):
		return FormatText, nil
	}
	return FormatJSON, nil
}

// isJournal reports whether f is the stream that JOURNAL_STREAM ("device:inode",
// decimal) names. The variable alone proves nothing: a child whose standard
// error was redirected inherits it (systemd.exec(5)).
func isJournal(f *os.File, stream string) bool {
	dev, ino, ok := strings.Cut(stream, ":")
	if !ok {
		return false
	}
	wantDev, err1 := strconv.ParseUint(dev, 10, 64)
	wantIno, err2 := strconv.ParseUint(ino, 10, 64)
	info, err := f.Stat()
	if err1 != nil || err2 != nil || err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Dev == wantDev && st.Ino == wantIno
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeSocket != 0
}

// readable writes durations in JSON as "1.5s": a bare number of nanoseconds
// carries no unit.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
