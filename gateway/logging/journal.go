package logging

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of a journal record. A datagram holds about 200 KiB by the kernel's
// default, so a record within maxRecord goes in one; where the system allows
// less, it is sent once more with its values cut to shortValue.
const (
	maxValue   = 16 << 10
	shortValue = 512
	maxRecord  = 128 << 10
	maxKey     = 64 // of a field's name, set by journald
	sendLimit  = 2 * time.Second
)

// journalHandler writes records in journald's native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL): MESSAGE is the line as people read it,
// PRIORITY the level, and each attribute a field MILLRACE_<KEY> to filter on.
type journalHandler struct {
	to     *journal
	level  slog.Level
	fields fields
}

// journal is the socket, shared by a handler and those derived from it.
type journal struct {
	stderr io.Writer

	mu   sync.Mutex
	conn *net.UnixConn
	addr *net.UnixAddr
	lost uint64 // records that neither the journal nor stderr took since the last that it did
	all  uint64 // the same since the start
}

func newJournalHandler(socket string, stderr io.Writer, level slog.Level) (*journalHandler, error) {
	if !isSocket(socket) {
		return nil, fmt.Errorf("log format journal: no journal listens on %s; set log.format to auto, text or json", socket)
	}
	// An unconnected socket goes on after a restart of journald.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("log format journal: %w", err)
	}
	return &journalHandler{
		to:    &journal{stderr: stderr, conn: conn, addr: &net.UnixAddr{Name: socket, Net: "unixgram"}},
		level: level,
	}, nil
}

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	list := h.fields.of(&r)
	message := string(appendPairs(appendLine(nil, r.Message), list))
	return h.to.send(priority(r.Level), message, list)
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.fields = h.fields.with(attrs)
	return &c
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.fields = h.fields.in(name)
	return &c
}

// priority is a level as a syslog severity (RFC 5424, 6.2.1).
func priority(l slog.Level) byte {
	switch {
	case l >= slog.LevelError:
		return '3'
	case l >= slog.LevelWarn:
		return '4'
	case l >= slog.LevelInfo:
		return '6'
	}
	return '7'
}

// send hands one record to the journal. While journald is away the line goes
// to standard error; while it does not read, the record is dropped and counted,
// since a log that blocks would stop the gateway.
func (j *journal) send(prio byte, message string, list []field) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lost > 0 {
		note := fmt.Sprintf("%d log records were dropped, because the journal did not take them", j.lost)
		if err := j.write(encode('4', note, nil, maxValue)); err == nil {
			j.lost = 0
		}
	}
	err := j.write(encode(prio, message, list, maxValue))
	if errors.Is(err, syscall.EMSGSIZE) {
		err = j.write(encode(prio, message, list, shortValue))
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		// The prefix is how a stream carries the priority (sd-daemon(3)).
		if _, werr := fmt.Fprintf(j.stderr, "<%c>%s\n", prio, message); werr == nil {
			return nil
		}
	}
	j.lost++
	j.all++
	return err
}

func (j *journal) write(record []byte) error {
	if err := j.conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	_, err := j.conn.WriteToUnix(record, j.addr)
	return err
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.conn.Close()
	if j.all > 0 {
		err = errors.Join(err, fmt.Errorf("%d log records were dropped, because the journal did not take them", j.all))
	}
	return err
}

// encode builds a record with each value cut to limit bytes. Fields that would
// take it past maxRecord are left out; the message has them too, as far as it
// goes.
func encode(prio byte, message string, list []field, limit int) []byte {
	b := make([]byte, 0, 512)
	b = appendField(b, "MESSAGE", message, limit)
	b = appendField(b, "PRIORITY", string(prio), limit)
	b = appendField(b, "SYSLOG_IDENTIFIER", "millrace", limit)
	for _, f := range list {
		if len(b)+min(len(f.value), limit)+2*maxKey > maxRecord {
			break
		}
		b = appendField(b, fieldName(f.key), f.value, limit)
	}
	return b
}

// fieldName makes a key a valid field name: capitals, digits and underscores,
// 64 bytes at most.
func fieldName(key string) string {
	name := "MILLRACE_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), maxKey)]
}

// appendField writes one field: in a line, or with its length in front where
// the value has line ends of its own.
func appendField(b []byte, name, value string, limit int) []byte {
	const mark = " [cut]"
	if len(value) > limit {
		value = strings.ToValidUTF8(value[:limit-len(mark)], "") + mark
	}
	b = append(b, name...)
	if strings.IndexByte(value, '\n') < 0 {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}
