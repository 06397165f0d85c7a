// Package arrows tests which packages the daemon is made of. The linter holds
// each import arrow in the source; this test holds what they add up to, also
// where no linter runs.
package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string // without those of tests
	CgoFiles   []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,CgoFiles"}, args...)...)
	cmd.Dir = "../.."
	// cgo on: files that need it are listed as such, and not left out.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatalf("go list %v lists nothing", args)
	}
	return pkgs
}

// forbidden says why the daemon must not be made of a package, or "".
func forbidden(p pkg) string {
	if !p.Standard && len(p.CgoFiles) > 0 {
		return "it needs cgo, so the binary would not be static"
	}
	path := p.ImportPath
	if path == "millrace/cloud" || strings.HasPrefix(path, "millrace/cloud/") {
		return "the cloud half has a program of its own"
	}
	if p.Standard || strings.HasPrefix(path, "millrace/") {
		return ""
	}
	for _, word := range []string{"parquet", "duckdb", "redshift", "awcullen", "rogpeppe", "go-fuse", "gofakes3", "service/s3"} {
		if strings.Contains(path, word) {
			return "it belongs to the cloud half or to tests"
		}
	}
	return ""
}

func TestTheDaemonIsMadeOfNothingElse(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t, "-deps", "./cmd/millrace") {
		seen[p.ImportPath] = true
		if why := forbidden(p); why != "" {
			t.Errorf("millrace contains %s: %s", p.ImportPath, why)
		}
	}
	for _, must := range []string{"millrace/gateway", "millrace/spool", "millrace/protocols/modbus", "millrace/uploader/sqs"} {
		if !seen[must] {
			t.Errorf("millrace does not contain %s, so this test looks at the wrong thing", must)
		}
	}
}

// allowed holds, for a package and those below it, what it may import beside
// the standard library.
var allowed = []struct {
	root string
	also []string
}{
	{"millrace/sample/block", []string{"millrace/sample", "github.com/klauspost/compress/zstd"}},
	{"millrace/sample/", []string{"millrace/sample", "millrace/sample/block"}},
	{"millrace/sample", nil},
	{"millrace/spool", []string{"go.etcd.io/bbolt", "go.etcd.io/bbolt/errors", "millrace/internal/backoff", "millrace/internal/clock", "millrace/internal/failpoint"}},
}

// strayImports lists the imports of p that its place does not allow.
func strayImports(p pkg, standard map[string]bool) []string {
	for _, a := range allowed {
		if p.ImportPath != a.root && !strings.HasPrefix(p.ImportPath, strings.TrimSuffix(a.root, "/")+"/") {
			continue
		}
		return slices.DeleteFunc(slices.Clone(p.Imports), func(path string) bool {
			// A test program inside a package may import that package.
			return standard[path] || slices.Contains(a.also, path) || strings.HasPrefix(path, strings.TrimSuffix(a.root, "/"))
		})
	}
	return nil
}

func TestDataAndSpoolStandAlone(t *testing.T) {
	standard := map[string]bool{"C": false}
	for _, p := range list(t, "std") {
		standard[p.ImportPath] = true
	}
	for _, p := range list(t, "./sample/...", "./spool/...") {
		for _, path := range strayImports(p, standard) {
			t.Errorf("%s imports %s", p.ImportPath, path)
		}
	}
}

// The rules find what they are there for.
func TestTheRulesBite(t *testing.T) {
	for _, p := range []pkg{
		{ImportPath: "millrace/cloud/worker"},
		{ImportPath: "github.com/parquet-go/parquet-go"},
		{ImportPath: "github.com/marcboeker/go-duckdb"},
		{ImportPath: "github.com/aws/aws-sdk-go-v2/service/redshiftdata"},
		{ImportPath: "example.com/driver", CgoFiles: []string{"x.go"}},
	} {
		if forbidden(p) == "" {
			t.Errorf("%s is let in", p.ImportPath)
		}
	}
	for _, p := range []pkg{
		{ImportPath: "millrace/sample", Imports: []string{"go.etcd.io/bbolt"}},
		{ImportPath: "millrace/sample/ledger", Imports: []string{"millrace/spool"}},
		{ImportPath: "millrace/sample/block", Imports: []string{"millrace/uploader"}},
		{ImportPath: "millrace/spool", Imports: []string{"millrace/sample"}},
	} {
		if len(strayImports(p, map[string]bool{})) == 0 {
			t.Errorf("%s may import %s", p.ImportPath, p.Imports[0])
		}
	}
}
