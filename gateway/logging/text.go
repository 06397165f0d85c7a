package logging

import (
	"context"
	"io"
	"log/slog"
	"sync"
)

// timeLayout is local time with its zone, to the millisecond.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// textHandler writes lines for people: time level message key=value.
type textHandler struct {
	out    *lockedWriter
	level  slog.Level
	fields fields
}

// lockedWriter is shared by a handler and those derived from it.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(line)
	return err
}

func newTextHandler(w io.Writer, level slog.Level) *textHandler {
	return &textHandler{out: &lockedWriter{w: w}, level: level}
}

// Enabled implements slog.Handler.
func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	b := make([]byte, 0, 256)
	if !r.Time.IsZero() {
		b = r.Time.AppendFormat(b, timeLayout)
		b = append(b, ' ')
	}
	b = append(b, r.Level.String()...)
	for range max(0, len("ERROR")-len(r.Level.String())) {
		b = append(b, ' ')
	}
	b = append(b, ' ')
	b = appendLine(b, r.Message)
	b = appendPairs(b, h.fields.of(&r))
	return h.out.write(append(b, '\n'))
}

// WithAttrs implements slog.Handler.
func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.fields = h.fields.with(attrs)
	return &c
}

// WithGroup implements slog.Handler.
func (h *textHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.fields = h.fields.in(name)
	return &c
}
