package audit

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheReadmesPythonChecksTheChain runs what the README gives to those who
// check a log without millrace.
func TestTheReadmesPythonChecksTheChain(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := strings.Cut(string(text), "```python\n")
	code, _, end := strings.Cut(code, "```")
	if !ok || !end {
		t.Fatal("the README has no Python")
	}
	dir := t.TempDir()
	o := options(dir)
	o.MaxFileBytes = 1500
	l := mustOpen(t, o)
	l.Checkpoint(func() (json.RawMessage, error) { return json.RawMessage(`{"a":[1,"<"]}`), nil })
	add(t, l, 12)
	if err := l.Append(&Record{Kind: "arm", Who: "Müller \"x\" </script>\u2028"}); err != nil {
		t.Fatal(err)
	}
	n, hash := l.Head()
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(paths) < 2 {
		t.Fatal(paths, err)
	}
	check := func() string {
		out, _ := exec.Command(python, append([]string{"-c", code}, paths...)...).CombinedOutput() // what it prints says how it went
		return strings.TrimSpace(string(out))
	}
	if got, want := check(), fmt.Sprint(n, " ", hash); got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	whole, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(paths[0], []byte(strings.Replace(string(whole), "written", "refused", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := check(); !strings.Contains(got, "the hash is not that of the line") {
		t.Errorf("of a changed line it says %q", got)
	}
}
