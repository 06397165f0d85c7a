// Package secret holds passwords and tokens so that they cannot reach a log,
// and reads them from where systemd or the operator keeps them.
package secret

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Ref says where a secret is kept. It is written in YAML as one word with its
// kind in front:
//
//	credential:NAME   a systemd credential (LoadCredential=NAME:...)
//	file:/path        the first line of a file
//	env:NAME          an environment variable
//
// A secret that stands in the YAML file itself is refused, since such files
// are copied from site to site and into tickets.
type Ref struct {
	kind, name string
}

// IsZero reports whether no secret was configured.
func (r Ref) IsZero() bool { return r.kind == "" }

// UnmarshalText implements encoding.TextUnmarshaler. Its errors do not repeat
// the text, which may be the secret itself.
func (r *Ref) UnmarshalText(text []byte) error {
	kind, name, ok := strings.Cut(string(text), ":")
	if !ok || name == "" || (kind != "credential" && kind != "file" && kind != "env") {
		return fmt.Errorf("a secret does not stand here itself: write credential:NAME, file:/path or env:NAME")
	}
	if kind == "credential" && name != filepath.Base(name) {
		return fmt.Errorf("a credential's name has no folder in it")
	}
	r.kind, r.name = kind, name
	return nil
}

// String names the place, never the secret.
func (r Ref) String() string {
	if r.IsZero() {
		return ""
	}
	return r.kind + ":" + r.name
}

// LogValue implements slog.LogValuer.
func (r Ref) LogValue() slog.Value { return slog.StringValue(r.String()) }

// Read fetches the secret. White space at its end is cut, since editors add
// line ends. A zero Ref reads as "".
func (r Ref) Read() (string, error) {
	path := r.name
	switch r.kind {
	case "":
		return "", nil
	case "env":
		v, ok := os.LookupEnv(r.name)
		if !ok {
			return "", fmt.Errorf("secret %s: the environment has no variable of that name", r)
		}
		return v, nil
	case "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", fmt.Errorf("secret %s: no credentials directory; add LoadCredential=%s:/path to the unit, or use file:/path", r, r.name)
		}
		path = filepath.Join(dir, r.name)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", r, err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimRight(first, " \t\r"), nil
}
