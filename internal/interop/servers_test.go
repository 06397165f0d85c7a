//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// patience is how long a server may take to start, and a value to arrive.
const patience = 60 * time.Second

// installed returns where the script put a server; without it the test is
// skipped, and the script says so at its end.
func installed(t *testing.T, server string) string {
	t.Helper()
	path := os.Getenv("MILLRACE_INTEROP_" + server)
	if path == "" {
		t.Skipf("%s is not installed; run make interop", strings.ToLower(server))
	}
	return path
}

// script returns the path of a file in servers/.
func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("servers", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// freePort returns a port of the loopback interface that is free now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// server is one running server.
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *output
	gone chan struct{}
}

// output keeps what a server prints, for the log of a test that fails.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs a command, with line as the first line of its input, until the
// test ends or stop is called, and waits until it listens on port.
func start(t *testing.T, port int, line []byte, env []string, name string, args ...string) *server {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), env...)
	s := &server{t: t, cmd: cmd, out: new(output), gone: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.out, s.out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // it is killed, mostly
		close(s.gone)
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			text := s.out.String()
			t.Logf("%s printed:\n%s", filepath.Base(name), text[max(0, len(text)-8000):])
		}
	})
	if line != nil {
		if _, err := stdin.Write(append(line, '\n')); err != nil {
			t.Fatalf("%s does not read its input: %v", name, err)
		}
	}
	s.waitFor(port)
	return s
}

func (s *server) waitFor(port int) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case <-s.gone:
			s.t.Fatalf("%s ended while it was to start", s.cmd.Path)
		default:
		}
		if c, err := net.DialTimeout("tcp", address(port), time.Second); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("%s does not listen on port %d", s.cmd.Path, port)
}

// stop ends the server: with SIGTERM, and after five seconds with SIGKILL.
func (s *server) stop() {
	select {
	case <-s.gone:
		return
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.gone:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.gone
	}
}

// kill ends the server at once.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.gone
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// python starts one of the scripts in servers/ on a free port, with input as
// the JSON of its first line.
func python(t *testing.T, name string, input any, args ...string) (*server, int) {
	t.Helper()
	port := freePort(t)
	return pythonAt(t, name, input, port, args...), port
}

func pythonAt(t *testing.T, name string, input any, port int, args ...string) *server {
	t.Helper()
	interpreter := installed(t, "PYTHON")
	line, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-u", script(t, name), strconv.Itoa(port)}, args...)
	return start(t, port, line, nil, interpreter, args...)
}

// running is a source that runs until the test ends.
type running struct {
	*protocolstest.Collector
	Health *protocolstest.HealthRecorder
	Conn   protocols.Connection
	stop   func()
}

// run checks a configuration as the gateway does, opens it and runs its source.
func run(t *testing.T, cfg protocols.Config, src *protocols.SourceConfig) *running {
	t.Helper()
	for _, f := range cfg.Validate(src) {
		t.Errorf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	if t.Failed() {
		t.FailNow()
	}
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Collector: new(protocolstest.Collector), Health: new(protocolstest.HealthRecorder), Conn: conn}
	source, err := conn.OpenSource(src, r.Health)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- source.Run(ctx, r.Emit) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the source ended with: %v", err)
			}
		case <-time.After(patience):
			t.Error("the source did not end")
		}
		if err := conn.Close(); err != nil {
			t.Errorf("close the connection: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// expect waits until every tag of want has arrived as Good, and checks that
// no sample so far, of any tag in want, was Good with another value.
func (r *running) expect(t *testing.T, want map[string]sample.Value) {
	t.Helper()
	good := func(list []sample.Sample) map[string]bool {
		seen := map[string]bool{}
		for i := range list {
			if list[i].Quality.IsGood() {
				seen[list[i].Tag] = true
			}
		}
		return seen
	}
	all := r.Wait(patience, func(list []sample.Sample) bool { return len(good(list)) >= len(want) })
	last := map[string]sample.Sample{}
	for _, s := range r.Samples() {
		last[s.Tag] = s
		if v, ok := want[s.Tag]; ok && s.Quality.IsGood() && s.Value != v {
			t.Errorf("%s is %s (%s), want %s (%s)", s.Tag, s.Value, s.Value.Kind(), v, v.Kind())
		}
	}
	if all {
		return
	}
	for tag := range want {
		if s, ok := last[tag]; !ok {
			t.Errorf("%s never arrived", tag)
		} else if !s.Quality.IsGood() {
			t.Errorf("%s is %s", tag, s.Quality)
		}
	}
	for _, err := range r.Health.Changes() {
		t.Logf("health: %v", err)
	}
}

// ready waits until cond holds.
func ready(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// write puts a file into the test's folder and returns its path.
func write(t *testing.T, name, format string, args ...any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
	return path
}

// otherAddresses lists this machine's IPv4 addresses beside the loopback's.
func otherAddresses(t *testing.T) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			out = append(out, n.IP.String())
		}
	}
	return out
}
