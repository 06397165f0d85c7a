//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Built reports whether points can be armed.
const Built = true

// armed is what the environment says, read once. It is the one place that can
// count over all callers, and is not in any other build.
var armed = sync.OnceValue(func() *state {
	s := &state{reached: map[string]int{}, sabotage: os.Getenv("MILLRACE_SABOTAGE")}
	if text := os.Getenv("MILLRACE_FAILPOINT"); text != "" {
		i := strings.LastIndexByte(text, ':')
		n, err := strconv.Atoi(text[i+1:])
		if i < 0 || err != nil {
			panic("MILLRACE_FAILPOINT=" + text + ": not name:number")
		}
		s.name, s.n = text[:i], n
	}
	s.parent = os.Getenv("MILLRACE_FAILPOINT_PARENT") != ""
	if path := os.Getenv("MILLRACE_FAILPOINT_TRACE"); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			panic(err)
		}
		s.trace = f
	}
	return s
})

type state struct {
	name     string
	n        int
	sabotage string
	trace    *os.File
	parent   bool

	mu      sync.Mutex
	reached map[string]int
}

// At marks a point.
func At(name string) {
	s := armed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reached[name]++
	if s.trace != nil {
		if _, err := fmt.Fprintln(s.trace, name); err != nil {
			panic(err)
		}
	}
	if name == s.name && s.reached[name] == s.n {
		if s.parent {
			_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // not one instruction of the caller's more
	}
}

// On reports whether a sabotage is on.
func On(name string) bool { return armed().sabotage == name }
