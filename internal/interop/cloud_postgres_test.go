//go:build interop

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgres starts a PostgreSQL with an empty database and returns its URL. It
// refuses to run as root, so it is somebody else's there.
func postgres(t *testing.T) string {
	t.Helper()
	bin, port := installed(t, "POSTGRES"), freePort(t)
	dir, err := os.MkdirTemp("", "millrace-postgres-") // t.TempDir is for its owner only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var as []string
	if os.Getuid() == 0 {
		owner := "postgres"
		if _, err := user.Lookup(owner); err != nil {
			owner = "nobody"
		}
		if out, err := exec.Command("chown", owner, dir).CombinedOutput(); err != nil {
			t.Fatalf("chown %s: %v, %s", dir, err, out)
		}
		as = []string{"setpriv", "--reuid", owner, "--clear-groups"}
	}
	// Unpacked beside its libraries, it finds them here.
	libraries, err := filepath.Glob(filepath.Join(bin, "../../../*-linux-gnu*"))
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"LC_ALL=C", "TZ=Europe/Berlin", "LD_LIBRARY_PATH=" + strings.Join(libraries, ":")}
	data := filepath.Join(dir, "data")
	run := func(args ...string) (string, []string) {
		// It has to be able to read the folder that it is started in.
		args = append([]string{"-c", `cd "$0" && exec "$@"`, dir}, append(as, args...)...)
		return "/bin/sh", args
	}
	name, args := run(filepath.Join(bin, "initdb"), "--pgdata", data, "--username", "loader", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	name, args = run(filepath.Join(bin, "postgres"), "-D", data, "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-F", "-c", "unix_socket_directories=")
	start(t, port, nil, env, name, args...)
	url := "postgres://loader@" + address(port) + "/postgres?sslmode=disable"
	// It listens before it lets anybody in.
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			conn.Close(t.Context())
			return url
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
