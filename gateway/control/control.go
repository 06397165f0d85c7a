// Package control is the daemon's local socket: status and the spool's
// commands, which need the running daemon because bbolt locks its files. It
// speaks HTTP over a Unix socket that only root and one group may open.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// maxReply bounds what a client reads.
	maxReply = 64 << 20
	// readTimeout bounds a question, and changeTimeout a change, which may be a
	// transaction for each of thousands of dead letters on a slow disk.
	readTimeout   = 30 * time.Second
	changeTimeout = 10 * time.Minute
)

// Handler answers one path. What it returns is sent as JSON.
type Handler func(ctx context.Context, args url.Values) (any, error)

// Server serves the socket.
type Server struct {
	http *http.Server
	path string
	done chan struct{}
}

// Serve listens on a Unix socket at path, readable and writable by the owner
// and by group (where it is not empty), and by nobody else. The handlers' keys
// are paths, which are read by GET; one that changes something has its method
// before it: "POST /v1/spool/forget".
func Serve(path, group string, handlers map[string]Handler, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("folder of the local socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The socket is made in a folder of its own and moved once its mode is
	// set, so that it is never open to others in between.
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".control-")
	if err != nil {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("local socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(protect(made, group), os.Rename(made, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("local socket %s: %w", path, err), l.Close())
	}
	mux := http.NewServeMux()
	for pattern, h := range handlers {
		if !strings.Contains(pattern, " ") {
			pattern = http.MethodGet + " " + pattern
		}
		mux.HandleFunc(pattern, answer(h))
	}
	s := &Server{
		path: path, done: make(chan struct{}),
		http: &http.Server{Handler: mux, ConnContext: withPeer, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)},
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the local socket is not served any more", "error", err)
		}
	}()
	return s, nil
}

// Close stops serving and removes the socket.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return errors.Join(err, os.Remove(s.path))
}

// removeStale removes a socket that nobody answers, left by a daemon that was
// killed. One that answers is another daemon's.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("local socket: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("local socket %s: there is something else at that path; move it or set control.socket", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("local socket %s: another millrace answers there; give each its own control.socket", path)
	}
	return os.Remove(path)
}

func protect(path, group string) error {
	if group == "" {
		return os.Chmod(path, 0o600)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("control.group: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("control.group %s: id %q: %w", group, g.Gid, err)
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// reply is what travels: a result or an error.
type reply struct {
	Error  string `json:"error,omitempty"`
	Result any    `json:"result,omitempty"`
}

func answer(h Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var out reply
		result, err := h(r.Context(), r.URL.Query())
		if err != nil {
			out.Error = err.Error()
			w.WriteHeader(http.StatusUnprocessableEntity)
		} else {
			out.Result = result
		}
		// The client is gone where this fails, and it knows.
		_ = json.NewEncoder(w).Encode(out)
	}
}

// ErrNotRunning says that no daemon answers on the socket.
var ErrNotRunning = errors.New("no running millrace answers")

// Call asks the daemon on the socket and decodes its result.
func Call(ctx context.Context, socket, path string, args url.Values, result any) error {
	return do(ctx, http.MethodGet, socket, path, args, result)
}

// Post has the daemon on the socket change something and decodes its result.
func Post(ctx context.Context, socket, path string, args url.Values, result any) error {
	return do(ctx, http.MethodPost, socket, path, args, result)
}

func do(ctx context.Context, method, socket, path string, args url.Values, result any) error {
	timeout := readTimeout
	if method != http.MethodGet {
		timeout = changeTimeout
	}
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://millrace"+path+"?"+args.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("local socket %s: permission denied; run it as root or as a member of the socket's group", socket)
	}
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("%w on %s: %w", ErrNotRunning, socket, op.Err)
		}
		return fmt.Errorf("local socket %s: %w", socket, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("local socket %s: %w", socket, err)
	}
	out := reply{Result: result}
	if err := json.Unmarshal(body, &out); err != nil {
		return fmt.Errorf("local socket %s: %s: %w", socket, resp.Status, err)
	}
	if out.Error != "" {
		return errors.New(out.Error)
	}
	return nil
}
