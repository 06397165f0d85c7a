package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func serve(t *testing.T, path string) *Server {
	t.Helper()
	s, err := Serve(path, "", map[string]Handler{
		"/v1/echo": func(_ context.Context, args url.Values) (any, error) { return args.Get("word"), nil },
		"/v1/fail": func(context.Context, url.Values) (any, error) { return nil, errors.New("block 7 is not there") },
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "c.sock")
	s := serve(t, path)
	var word string
	if err := Call(t.Context(), path, "/v1/echo", url.Values{"word": {"mill"}}, &word); err != nil || word != "mill" {
		t.Errorf("echo: %q, %v", word, err)
	}
	if err := Call(t.Context(), path, "/v1/fail", nil, nil); err == nil || err.Error() != "block 7 is not there" {
		t.Errorf("fail: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := Call(t.Context(), path, "/v1/echo", nil, &word); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestASocketThatIsLeftIsReplacedAndALiveOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil { // as after a kill
		t.Fatal(err)
	}
	s := serve(t, path)
	defer s.Close()
	if _, err := Serve(path, "", nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another millrace answers there") {
		t.Errorf("a second daemon: %v", err)
	}
}

func TestAFileIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Serve(path, "", nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file was replaced by the socket")
	}
	if _, err := Serve(filepath.Join(t.TempDir(), "c.sock"), "no-such-group", nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an unknown group was taken")
	}
}

// What changes something is reached by POST alone, and knows who asks.
func TestChangesAreMadeByPostAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	changes := 0
	s, err := Serve(path, "", map[string]Handler{
		"POST /v1/change": func(ctx context.Context, args url.Values) (any, error) {
			changes++
			p, ok := PeerOf(ctx)
			if !ok || p.PID != os.Getpid() || int(p.UID) != os.Getuid() || int(p.GID) != os.Getgid() {
				t.Errorf("the caller is %+v, %v", p, ok)
			}
			return args.Get("word"), nil
		},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := Call(t.Context(), path, "/v1/change", nil, nil); err == nil || changes != 0 {
		t.Errorf("a change was made by GET: %v", err)
	}
	var word string
	if err := Post(t.Context(), path, "/v1/change", url.Values{"word": {"mill"}}, &word); err != nil || word != "mill" || changes != 1 {
		t.Errorf("post: %q, %v, %d changes", word, err, changes)
	}
}
